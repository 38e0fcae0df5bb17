//! Messages and recorded frames.

use bytes::{BufMut, Bytes};
use carafe::wire::ApiKey;
use carafe::wire::frame::{
    FRAME_BYTES_MAX, FrameReader, decode_request_header, decode_response_header, request_header,
    response_header,
};
use carafe::wire::readable::{self, Detail};
use protocol_tests::golden::{self, Message};
use serde_json::Value;

use super::{Difference, judge, ok};
use crate::messages::codecs;
use crate::readable::assert_same_json;

const DIFFERENT: &[Difference] = &[
    (
        "librdkafka.txt",
        "AlterUserScramCredentialsRequest 0",
        2,
        "librdkafka ends it with an empty section of tagged fields too many, which Kafka ignores",
    ),
    (
        "sasl.txt",
        "MetadataRequest 13",
        1,
        "librdkafka gives the number of topics in four bytes instead of one: Kafka reads all topics, the fields after it \
         as false, and ignores three bytes",
    ),
];

/// Length of the frame's length prefix.
const PREFIX: usize = 4;

#[test]
fn messages_of_kafka_are_written_as_they_were_read() {
    let messages = golden::messages();
    for message in &messages {
        let (name, version) = (&message.name, message.version);
        let (again, left) = ok(&message.origin, codecs::carafe(name, version, message.bytes.clone()));
        assert_eq!((&again[..], left), (&message.bytes[..], 0), "{}: {name} {version}", message.origin);
    }
    assert!(messages.len() >= 2900, "{} messages", messages.len());
}

#[test]
fn recorded_frames_are_written_as_they_were_read() {
    let frames = golden::frames();
    let different: Vec<_> = frames
        .iter()
        .filter(|frame| again(frame) != frame.bytes)
        .map(|frame| (frame.origin.clone(), format!("{} {}", frame.name, frame.version)))
        .collect();
    judge(DIFFERENT, &different);
    assert!(frames.len() >= 1000, "{} frames", frames.len());
}

#[test]
fn recorded_frames_say_what_kafka_reads() {
    let mut hidden = 0;
    for frame in golden::frames() {
        let read = match api(&frame) {
            (_, true) => readable::Frame::request(frame.bytes.clone()),
            (key, false) => readable::Frame::response(frame.bytes.clone(), key, frame.version),
        };
        let read = ok(&frame.origin, read);
        let json: Value = ok(&frame.origin, serde_json::from_str(&frame.json));
        for (part, message) in [("header", read.header()), ("body", read.body())] {
            let ours = message.json(Detail::Kafka).to_string();
            hidden += assert_same_json(&ours, &json[part].to_string(), &frame.origin);
        }
    }
    assert!(hidden >= 40, "{hidden} secrets, most of them in sasl.txt");
}

#[test]
fn frames_come_out_whole_however_they_come_in() {
    for requests in [true, false] {
        let reader = || match requests {
            true => FrameReader::requests(FRAME_BYTES_MAX),
            false => FrameReader::responses(FRAME_BYTES_MAX),
        };
        let (mut slow, mut quick) = (reader(), reader());
        let frames: Vec<_> = golden::frames().into_iter().filter(|frame| api(frame).1 == requests).collect();
        for frame in &frames {
            let length = (frame.bytes.len() as u32).to_be_bytes();
            for &byte in length.iter().chain(&frame.bytes) {
                assert_eq!(slow.next_frame(), Ok(None), "{}", frame.origin);
                slow.buffer().put_u8(byte);
            }
            assert_eq!(slow.next_frame(), Ok(Some(frame.bytes.clone())), "{}", frame.origin);
            quick.buffer().extend_from_slice(&length);
            quick.buffer().extend_from_slice(&frame.bytes);
        }
        for frame in &frames {
            assert_eq!(quick.next_frame(), Ok(Some(frame.bytes.clone())), "{}", frame.origin);
        }
        assert!(!slow.is_mid_frame() && !quick.is_mid_frame());
    }
}

/// The API of a frame, and whether it is a request.
fn api(frame: &Message) -> (ApiKey, bool) {
    let (name, is_request) = match frame.name.strip_suffix("Request") {
        Some(name) => (name, true),
        None => (frame.name.trim_end_matches("Response"), false),
    };
    let key = ApiKey::all().map(|(key, _)| key).find(|key| key.name() == Some(name));
    (key.unwrap_or_else(|| panic!("{}: unknown API {name}", frame.origin)), is_request)
}

/// Header and body, read and written.
fn again(frame: &Message) -> Bytes {
    let (key, is_request) = api(frame);
    let (header, body) = if is_request {
        let (head, body) = ok(&frame.origin, decode_request_header(frame.bytes.clone()));
        assert_eq!((head.key, head.version), (key, frame.version), "{}", frame.origin);
        (request_header(key, head.version, head.correlation_id, head.client_id.as_deref(), 0), body.rest())
    } else {
        let (correlation_id, body) =
            ok(&frame.origin, decode_response_header(frame.bytes.clone(), key, frame.version));
        (response_header(key, frame.version, correlation_id, 0), body.rest())
    };
    let (body, _) = ok(&frame.origin, codecs::carafe(&frame.name, frame.version, body));
    [&header[PREFIX..], &body[..]].concat().into()
}
