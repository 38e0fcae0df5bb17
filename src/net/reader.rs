//! Splits received bytes into frames. Small frames share one buffer; a large one gets a buffer of exactly its size that
//! the socket is read into directly.

use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};

use crate::ErrorKind;
use crate::error::Phase;

use super::failure::Failure;

/// Size of the shared buffer.
const BUFFER_BYTES: usize = 64 * 1024;
/// Below this much room the shared buffer is renewed before the next read.
const ROOM_BYTES_MIN: usize = 8 * 1024;
/// Frames above this size get a buffer of their own.
const LARGE_BYTES: usize = 32 * 1024;
/// A frame's length is a claim: no more than this is reserved before bytes prove it.
const TRUSTED_BYTES: usize = 16 * 1024 * 1024;

/// Buffer between socket and machine.
#[derive(Debug)]
pub(super) struct FrameBuffer {
    shared: BytesMut,
    /// The large frame that is being read, without its length prefix, and its length.
    large: Option<(BytesMut, usize)>,
    frame_bytes_max: usize,
}

impl FrameBuffer {
    pub(super) fn new(frame_bytes_max: usize) -> Self {
        Self { shared: BytesMut::new(), large: None, frame_bytes_max }
    }

    /// Changes the largest accepted frame.
    pub(super) fn set_frame_bytes_max(&mut self, max: usize) {
        self.frame_bytes_max = max;
    }

    /// True if a frame has begun and is not complete.
    pub(super) fn is_mid_frame(&self) -> bool {
        self.large.is_some() || !self.shared.is_empty()
    }

    /// Where the next bytes go; never zero long as long as [`next_frame`](Self::next_frame) was called until `None`.
    pub(super) fn space(&mut self) -> Limit<&mut BytesMut> {
        match &mut self.large {
            Some((buffer, length)) => {
                let missing = *length - buffer.len();
                if buffer.capacity() == buffer.len() {
                    buffer.reserve(missing.min(buffer.len().max(TRUSTED_BYTES)));
                }
                buffer.limit(missing)
            }
            None => {
                if self.shared.capacity() - self.shared.len() < ROOM_BYTES_MIN {
                    self.shared.reserve(BUFFER_BYTES);
                }
                let room = self.shared.capacity() - self.shared.len();
                (&mut self.shared).limit(room)
            }
        }
    }

    /// The next complete frame without its length prefix.
    pub(super) fn next_frame(&mut self) -> Result<Option<Bytes>, Failure> {
        if let Some((buffer, length)) = &mut self.large {
            if buffer.len() < *length {
                return Ok(None);
            }
            let frame = std::mem::take(buffer).freeze();
            self.large = None;
            return Ok(Some(frame));
        }
        let Some(&prefix) = self.shared.first_chunk::<4>() else { return Ok(None) };
        let length = self.check_length(prefix)?;
        if self.shared.len() >= 4 + length {
            let mut frame = self.shared.split_to(4 + length);
            let _ = frame.split_to(4);
            return Ok(Some(frame.freeze()));
        }
        if length > LARGE_BYTES {
            let mut buffer = BytesMut::with_capacity(length.min(TRUSTED_BYTES));
            buffer.put_slice(&self.shared[4..]);
            self.shared.clear();
            self.large = Some((buffer, length));
        }
        Ok(None)
    }

    fn check_length(&self, prefix: [u8; 4]) -> Result<usize, Failure> {
        let length = i32::from_be_bytes(prefix);
        let invalid = |message: String| Failure::new(ErrorKind::Protocol, Phase::Request, message);
        if &prefix == b"HTTP" {
            return Err(invalid("the peer answered with HTTP".into())
                .hint("this is the port of a web server; use the port of a Kafka listener"));
        }
        // TLS record: alert (0x15) or handshake (0x16), version 3.x.
        if matches!(prefix[0], 0x15 | 0x16) && prefix[1] == 0x03 && prefix[2] <= 0x04 {
            return Err(invalid("the peer answered with a TLS record".into())
                .hint("the listener expects TLS; use a plaintext listener or configure TLS"));
        }
        match usize::try_from(length) {
            Ok(length) if length < 4 => Err(invalid(format!("the peer sent a frame of {length} bytes"))),
            Ok(length) if length > self.frame_bytes_max => Err(invalid(format!(
                "the peer announced a frame of {length} bytes, more than the limit of {} bytes",
                self.frame_bytes_max
            ))
            .hint("raise receive.message.max.bytes if the broker's messages are that large")),
            Ok(length) => Ok(length),
            Err(_) => Err(invalid(format!("the peer sent a negative frame length ({length})"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces of `step` bytes, as a socket would.
    fn feed(buffer: &mut FrameBuffer, mut bytes: &[u8], step: usize) -> Result<Vec<Bytes>, Failure> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let mut space = buffer.space();
            let n = step.min(bytes.len()).min(space.remaining_mut());
            assert!(n > 0, "no room to read into");
            space.put_slice(&bytes[..n]);
            bytes = &bytes[n..];
            while let Some(frame) = buffer.next_frame()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn splits_frames_however_the_bytes_arrive() {
        let small: Vec<u8> = (0..100u8).collect();
        let large: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        let mut stream = Vec::new();
        for body in [&small, &large, &small, &small, &large] {
            stream.extend(framed(body));
        }
        for step in [1, 3, 1000, 65_536, usize::MAX] {
            let mut buffer = FrameBuffer::new(1 << 20);
            let frames = feed(&mut buffer, &stream, step).unwrap();
            let lengths: Vec<_> = frames.iter().map(Bytes::len).collect();
            assert_eq!(lengths, [100, 200_000, 100, 100, 200_000], "step {step}");
            assert_eq!(frames[4], large);
            assert!(!buffer.is_mid_frame());
        }
    }

    #[test]
    fn refuses_lengths_that_lie_and_names_other_protocols() {
        for (bytes, expected) in [
            (&b"HTTP/1.1 400 Bad Request"[..], "HTTP"),
            (&[0x15, 3, 3, 0, 2, 2, 70][..], "TLS"),
            (&[0xff, 0xff, 0xff, 0xff][..], "negative"),
            (&[0, 0, 0, 3, 1, 2, 3][..], "3 bytes"),
            (&[0, 16, 0, 1][..], "1048577 bytes"),
        ] {
            let failure = feed(&mut FrameBuffer::new(1 << 20), bytes, usize::MAX).unwrap_err();
            assert!(failure.message.contains(expected), "{failure:?}");
            assert_eq!(failure.kind, ErrorKind::Protocol);
        }
        assert!(feed(&mut FrameBuffer::new(1 << 20), &[0, 16, 0, 0], usize::MAX).unwrap().is_empty());
    }

    #[test]
    fn a_claimed_length_reserves_no_more_than_is_trusted() {
        let mut buffer = FrameBuffer::new(1 << 30);
        feed(&mut buffer, &[0x3f, 0xff, 0xff, 0xff, 1, 2, 3], usize::MAX).unwrap();
        let (reserved, length) = buffer.large.as_ref().map(|(b, n)| (b.capacity(), *n)).unwrap();
        assert_eq!(length, 0x3fff_ffff);
        assert!(reserved <= TRUSTED_BYTES, "{reserved}");
    }
}
