//! What of a recording is kept.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use bytes::Bytes;
use carafe::wire::frame::{decode_request_header, decode_response_header};
use carafe::wire::messages::{FetchResponse, MetadataResponse, ProduceRequest};
use carafe::wire::{ApiKey, Decode, DecodeError, Uuid};

use super::recorder::Frame;

/// Frames above this are kept only where a message has no smaller one.
const FRAME_BYTES: usize = 3000;
/// Record batches above this are not kept.
const BATCHES_BYTES: usize = 40_000;
/// Most answers to keep of one topic.
const ANSWERS: usize = 3;
/// Topics whose record batches are kept have names that start so.
const TOPICS: &str = "golden.";

/// At most `keep` frames of every message and version, of different lengths first.
pub(super) fn frames(frames: &[Frame], keep: usize) -> Vec<String> {
    let mut kinds: BTreeMap<(ApiKey, bool, i16), Vec<&Frame>> = BTreeMap::new();
    for frame in frames {
        kinds.entry((frame.key, !frame.is_request, frame.version)).or_default().push(frame);
    }
    let mut lines = Vec::new();
    for ((key, is_response, version), mut frames) in kinds {
        // Stable: of those of one length the first comes first.
        frames.sort_by_key(|frame| frame.bytes.len());
        let small = frames.iter().filter(|frame| frame.bytes.len() <= FRAME_BYTES).count().max(1);
        frames.truncate(small);
        let mut lengths: Vec<Vec<&Frame>> = Vec::new();
        for frame in frames {
            match lengths.last_mut() {
                Some(same) if same[0].bytes.len() == frame.bytes.len() => {
                    if same.iter().all(|other| said(other) != said(frame)) {
                        same.push(frame);
                    }
                }
                _ => lengths.push(vec![frame]),
            }
        }
        let name = format!("{key}{}", if is_response { "Response" } else { "Request" });
        for frame in spread(&lengths, keep) {
            lines.push(format!("{name} {version} {}", hex(&frame.bytes)));
        }
    }
    lines
}

/// The frame without its correlation id.
fn said(frame: &Frame) -> (&[u8], &[u8]) {
    let id = if frame.is_request { 4 } else { 0 };
    (&frame.bytes[..id], &frame.bytes[id + 4..])
}

/// `keep` of all frames: the shortest, the longest and those between first, then others of the same lengths.
fn spread<'a>(lengths: &[Vec<&'a Frame>], keep: usize) -> Vec<&'a Frame> {
    if lengths.len() >= keep {
        let last = lengths.len() - 1;
        return (0..keep).map(|index| lengths[last * index / (keep - 1).max(1)][0]).collect();
    }
    let deepest = lengths.iter().map(Vec::len).max().unwrap_or(0);
    let mut order = (0..deepest).flat_map(|depth| lengths.iter().filter_map(move |same| same.get(depth)));
    order.by_ref().take(keep).copied().collect()
}

/// The record batches of every Produce request, by topic.
pub(super) fn produced(frames: &[Frame]) -> Result<Vec<String>, String> {
    let names = topic_names(frames)?;
    let mut lines = Vec::new();
    for frame in frames.iter().filter(|frame| frame.key == ApiKey::PRODUCE && frame.is_request) {
        let request = request::<ProduceRequest>(frame)?;
        for topic in request.topic_data {
            let name = names.get(&topic.topic_id).cloned().unwrap_or_else(|| topic.name.to_string());
            for records in topic.partition_data.into_iter().filter_map(|partition| partition.records) {
                lines.extend(line(&name, &records));
            }
        }
    }
    lines.sort();
    lines.dedup();
    Ok(lines)
}

/// The record batches of Fetch answers, by topic, the longest first.
pub(super) fn fetched(frames: &[Frame]) -> Result<Vec<String>, String> {
    let names = topic_names(frames)?;
    let mut topics: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for frame in frames.iter().filter(|frame| frame.key == ApiKey::FETCH && !frame.is_request) {
        let response = response::<FetchResponse>(frame)?;
        for topic in response.responses {
            let name = names.get(&topic.topic_id).cloned().unwrap_or_else(|| topic.topic.to_string());
            for records in topic.partitions.into_iter().filter_map(|partition| partition.records) {
                topics.entry(name.clone()).or_default().extend(line(&name, &records));
            }
        }
    }
    Ok(topics
        .into_values()
        .flat_map(|mut lines| {
            lines.sort_by_key(|line| std::cmp::Reverse(line.len()));
            lines.dedup();
            lines.truncate(ANSWERS);
            lines
        })
        .collect())
}

fn line(topic: &str, records: &Bytes) -> Option<String> {
    let name = topic.strip_prefix(TOPICS)?;
    (1..=BATCHES_BYTES).contains(&records.len()).then(|| format!("{name} {}", hex(records)))
}

/// The names of topics that newer versions call by their ids.
fn topic_names(frames: &[Frame]) -> Result<HashMap<Uuid, String>, String> {
    let mut names = HashMap::new();
    for frame in frames.iter().filter(|frame| frame.key == ApiKey::METADATA && !frame.is_request) {
        for topic in response::<MetadataResponse>(frame)?.topics {
            if let Some(name) = topic.name.filter(|_| topic.topic_id != Uuid::ZERO) {
                names.insert(topic.topic_id, name.to_string());
            }
        }
    }
    Ok(names)
}

fn request<T: Decode>(frame: &Frame) -> Result<T, String> {
    let read = || {
        let (_, mut r) = decode_request_header(frame.bytes.clone())?;
        T::decode(&mut r, frame.version)
    };
    read().map_err(|error: DecodeError| error.to_string())
}

fn response<T: Decode>(frame: &Frame) -> Result<T, String> {
    let read = || {
        let (_, mut r) = decode_response_header(frame.bytes.clone(), frame.key, frame.version)?;
        T::decode(&mut r, frame.version)
    };
    read().map_err(|error: DecodeError| error.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(is_request: bool, correlation_id: u8, body: &[u8]) -> Frame {
        let header: &[u8] = if is_request { &[0, 3, 0, 1] } else { &[] };
        let bytes = [header, &[0, 0, 0, correlation_id], body].concat().into();
        Frame { key: ApiKey::METADATA, version: 1, is_request, bytes }
    }

    #[test]
    fn a_message_is_kept_once_and_different_lengths_come_first() {
        let frames = [
            frame(false, 1, &[0; 9]),
            frame(true, 1, &[1]),
            frame(true, 2, &[1]),
            frame(true, 3, &[2]),
            frame(true, 4, &[3, 3]),
            frame(true, 5, &[4, 4, 4]),
            frame(true, 6, &[5; FRAME_BYTES]),
        ];
        let kept = |keep| super::frames(&frames, keep);
        let request = "MetadataRequest 1 0003000100000";
        let response = format!("MetadataResponse 1 00000001{}", "00".repeat(9));
        assert_eq!(kept(2), [format!("{request}00101"), format!("{request}005040404"), response.clone()]);
        let all = ["00101", "0040303", "005040404", "00302"].map(|rest| format!("{request}{rest}"));
        assert_eq!(kept(9)[..4], all);
        assert_eq!(kept(9)[4..], [response]);
    }
}
