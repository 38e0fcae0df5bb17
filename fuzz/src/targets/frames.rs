use bytes::Bytes;

use crate::decoder::Frames;
use crate::input::Input;
use crate::limits::within;

/// A stream of frames in any chunks, and the headers of the frames.
///
/// Input: whether they are requests (1 byte, odd), the longest frame (2 bytes), how many chunk sizes follow (1 byte), the
/// sizes less one (1 byte each, used in turn), the stream.
pub fn frames(decoder: &mut impl Frames, input: &[u8]) {
    let mut input = Input::new(input);
    let requests = input.u8() & 1 == 1;
    let max = usize::from(input.u16());
    let sizes = input.u8();
    let sizes: Vec<usize> = input.take(sizes.into()).iter().map(|size| usize::from(*size) + 1).collect();
    let stream = input.rest();

    let (expected, intact) = split(stream, if requests { 8 } else { 4 }, max);
    let whole: Vec<&[u8]> = vec![stream];
    let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
    for chunks in [whole, chunked(stream, &sizes), bytewise] {
        let (frames, refusal) = within(stream.len(), || decoder.frames(requests, max, &chunks));
        assert_eq!(frames, expected);
        assert_eq!(refusal.is_none(), intact, "{refusal:?}");
    }
    for frame in expected {
        if requests {
            request_header(decoder, &Bytes::copy_from_slice(frame));
        } else {
            response_header(decoder, &Bytes::copy_from_slice(frame));
        }
    }
}

/// What the protocol says: the frames, and whether the stream ends without one that is too long or too short.
fn split(mut stream: &[u8], min: usize, max: usize) -> (Vec<&[u8]>, bool) {
    let mut frames = Vec::new();
    while let Some((prefix, rest)) = stream.split_first_chunk() {
        let len = match usize::try_from(i32::from_be_bytes(*prefix)) {
            Ok(len) if (min..=max).contains(&len) => len,
            _ => return (frames, false),
        };
        let Some((frame, rest)) = rest.split_at_checked(len) else { break };
        frames.push(frame);
        stream = rest;
    }
    (frames, true)
}

fn chunked<'a>(mut stream: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for size in sizes.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let (chunk, rest) = stream.split_at((*size).min(stream.len()));
        chunks.push(chunk);
        stream = rest;
    }
    chunks.push(stream);
    chunks
}

fn request_header(decoder: &mut impl Frames, frame: &Bytes) {
    let Ok((key, version, correlation_id, body)) = within(frame.len(), || decoder.request_header(frame))
    else {
        return;
    };
    let head = [&key.to_be_bytes()[..], &version.to_be_bytes(), &correlation_id.to_be_bytes()].concat();
    assert!(frame.starts_with(&head) && (8..=frame.len()).contains(&body));
}

/// The frame says neither key nor version, so its first bytes choose.
fn response_header(decoder: &mut impl Frames, frame: &Bytes) {
    let (key, version) = (i16::from(frame[0]), i16::from(frame[1] % 20));
    let header = within(frame.len(), || decoder.response_header(frame, key, version));
    if let Ok((correlation_id, body)) = header {
        assert!(frame.starts_with(&correlation_id.to_be_bytes()) && (4..=frame.len()).contains(&body));
    }
}
