//! Splits a stream of bytes into frames.

use std::error::Error as StdError;
use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::{Error, ErrorKind};

/// Largest frame unless told otherwise: 100 MiB.
pub const FRAME_BYTES_MAX: usize = 100 * 1024 * 1024;

/// Size of the buffer that small frames share.
const SHARED_BYTES: usize = 64 * 1024;
/// Below this much room it is renewed before the next read.
const ROOM_BYTES_MIN: usize = 8 * 1024;
/// Frames above this size get a buffer of their own, as large as the frame: what is kept of it keeps nothing else.
pub(crate) const LARGE_BYTES: usize = 32 * 1024;
/// The length of a frame is a claim: room is made for this many times the bytes that came, at most.
const GROWTH: usize = 16;

/// Why a stream of bytes is no stream of frames. The connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The length of a frame is negative.
    Negative(i32),
    /// The frame is too short for its header.
    TooShort {
        /// Bytes announced.
        len: usize,
        /// Fewest that are valid.
        min: usize,
    },
    /// The frame is above the cap.
    TooLong {
        /// Bytes announced.
        len: usize,
        /// The cap.
        max: usize,
    },
    /// The peer speaks HTTP.
    Http,
    /// The peer sent a TLS alert: it expects TLS.
    TlsAlert,
    /// The peer began a TLS handshake, but TLS is off here.
    TlsHandshake,
}

impl FrameError {
    /// What to try.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Http => "the address belongs to an HTTP server; give the address of a Kafka listener",
            Self::TlsAlert => "the listener expects TLS: set security.protocol=SSL, or SASL_SSL",
            Self::TlsHandshake => "the listener is plaintext: set security.protocol=PLAINTEXT at the client",
            Self::TooLong { .. } => {
                "the peer may not be Kafka or may speak TLS; if it is, raise the cap (receive.message.max.bytes)"
            }
            Self::Negative(_) | Self::TooShort { .. } => "the peer may not be Kafka; check the address",
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Negative(len) => write!(f, "frame length {len} is negative"),
            Self::TooShort { len, min } => write!(f, "frame of {len} bytes, at least {min} are needed"),
            Self::TooLong { len, max } => write!(f, "frame of {len} bytes is above the cap of {max}"),
            Self::Http => f.write_str("the peer speaks HTTP"),
            Self::TlsAlert => f.write_str("the peer sent a TLS alert"),
            Self::TlsHandshake => f.write_str("the peer began a TLS handshake"),
        }
    }
}

impl StdError for FrameError {}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        Self::new(ErrorKind::Protocol, "received bytes that are no Kafka frame")
            .with_advice(error.advice())
            .with_source(error)
    }
}

/// Collects bytes and gives out whole frames. A length is judged before room is made for its frame, and room grows
/// with the bytes that come. Small frames share a buffer; one above 32 KiB is read into its own.
#[derive(Debug)]
pub struct FrameReader {
    shared: BytesMut,
    /// The large frame that is coming in, without its length prefix, and its length.
    large: Option<(BytesMut, usize)>,
    min: usize,
    max: usize,
    /// No frame has been given out yet.
    first: bool,
}

impl FrameReader {
    /// A reader of responses: frames of 4 to `max` bytes, the length prefix not counted.
    pub fn responses(max: usize) -> Self {
        Self { shared: BytesMut::new(), large: None, min: 4, max, first: true }
    }

    /// A reader of requests: frames of 8 to `max` bytes, the length prefix not counted.
    pub fn requests(max: usize) -> Self {
        Self { min: 8, ..Self::responses(max) }
    }

    /// Changes the cap, in bytes without the length prefix; it holds from the next frame on.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Where received bytes are to be appended; has room for some.
    pub fn buffer(&mut self) -> &mut BytesMut {
        match &mut self.large {
            Some((frame, len)) => {
                if frame.len() == frame.capacity() {
                    *frame = large(frame, *len);
                }
                frame
            }
            None => {
                if self.shared.capacity() - self.shared.len() < ROOM_BYTES_MIN {
                    self.shared.reserve(SHARED_BYTES);
                }
                &mut self.shared
            }
        }
    }

    /// True if a frame has begun that is not complete.
    pub fn is_mid_frame(&self) -> bool {
        self.large.is_some() || !self.shared.is_empty()
    }

    /// The next whole frame without its length prefix; `None` until more bytes are there. After an error the stream
    /// has lost its frames for good.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        if let Some((mut frame, len)) = self.large.take() {
            if frame.len() < len {
                self.large = Some((frame, len));
                return Ok(None);
            }
            self.first = false;
            if frame.len() > len {
                self.shared = frame.split_off(len);
            }
            return Ok(Some(frame.freeze()));
        }
        let Some(&prefix) = self.shared.first_chunk::<4>() else { return Ok(None) };
        let announced = i32::from_be_bytes(prefix);
        let len = usize::try_from(announced).map_err(|_| FrameError::Negative(announced))?;
        if self.first || len > self.max {
            recognise(prefix).map_or(Ok(()), Err)?;
        }
        if len > self.max {
            return Err(FrameError::TooLong { len, max: self.max });
        }
        if len < self.min {
            return Err(FrameError::TooShort { len, min: self.min });
        }
        if self.shared.len() - 4 >= len {
            self.first = false;
            let mut frame = self.shared.split_to(4 + len);
            return Ok(Some(frame.split_off(4).freeze()));
        }
        if len > LARGE_BYTES {
            self.large = Some((large(&self.shared[4..], len), len));
            self.shared.clear();
        }
        Ok(None)
    }
}

/// A buffer for a frame of `len` bytes that begins with `begun`.
fn large(begun: &[u8], len: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(len.min(begun.len().max(LARGE_BYTES) * GROWTH));
    frame.extend_from_slice(begun);
    frame
}

/// Other protocols, by the first four bytes of a stream.
fn recognise(prefix: [u8; 4]) -> Option<FrameError> {
    match &prefix {
        b"HTTP" | b"GET " | b"POST" | b"PUT " | b"HEAD" | b"DELE" | b"OPTI" | b"PRI " => {
            Some(FrameError::Http)
        }
        [0x15, 3, 0..=4, _] => Some(FrameError::TlsAlert),
        [0x16, 3, 0..=4, _] => Some(FrameError::TlsHandshake),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(bytes: &[u8]) -> Result<Option<Bytes>, FrameError> {
        let mut reader = FrameReader::responses(16);
        reader.buffer().extend_from_slice(bytes);
        reader.next_frame()
    }

    #[test]
    fn frames_come_whole_however_the_bytes_come() {
        let stream = [&[0, 0, 0, 4, 1, 2, 3, 4][..], &[0, 0, 0, 5, 5, 6, 7, 8, 9]].concat();
        for step in 1..stream.len() {
            let mut reader = FrameReader::responses(5);
            let mut frames = Vec::new();
            for part in stream.chunks(step) {
                reader.buffer().extend_from_slice(part);
                while let Some(frame) = reader.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [&[1, 2, 3, 4][..], &[5, 6, 7, 8, 9]]);
            assert!(!reader.is_mid_frame());
        }
    }

    #[test]
    fn large_frames_lie_in_buffers_of_their_own() {
        let large = FRAME_BYTES_MAX.min(3 << 20);
        let lens = [100, large, 50, LARGE_BYTES, LARGE_BYTES + 1, 8];
        let body = |len: usize| (0..len).map(|at| at as u8);
        let stream: Vec<u8> =
            lens.iter().flat_map(|len| (*len as u32).to_be_bytes().into_iter().chain(body(*len))).collect();
        for step in [1000, 64 * 1024, usize::MAX] {
            let mut reader = FrameReader::requests(large);
            let (mut rest, mut frames) = (&stream[..], Vec::new());
            while !rest.is_empty() {
                let buffer = reader.buffer();
                // As a socket does, which fills what room there is.
                let part =
                    rest.split_off(..step.min(rest.len()).min(buffer.capacity() - buffer.len())).unwrap();
                assert!(!part.is_empty());
                buffer.extend_from_slice(part);
                while let Some(frame) = reader.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames.iter().map(Bytes::len).collect::<Vec<_>>(), lens);
            assert!(frames.iter().zip(lens).all(|(frame, len)| frame.iter().copied().eq(body(len))));
            assert!(!reader.is_mid_frame());
            let own = frames.swap_remove(1).try_into_mut().map(|frame| frame.capacity());
            assert_eq!(own.ok(), Some(large), "step {step}");
        }
    }

    #[test]
    fn a_claim_makes_room_for_no_more_than_a_few_times_what_came() {
        let mut reader = FrameReader::responses(usize::MAX);
        let mut came = 0;
        reader.buffer().extend_from_slice(&i32::MAX.to_be_bytes());
        for part in [3, 100_000, 600_000, 1 << 20] {
            came += part;
            reader.buffer().extend_from_slice(&vec![1; part]);
            assert_eq!(reader.next_frame(), Ok(None));
            assert!(reader.buffer().capacity() <= came.max(LARGE_BYTES) * GROWTH);
        }
    }

    #[test]
    fn lengths_are_judged_before_room_is_made() {
        assert_eq!(after(&[0, 0, 0]), Ok(None));
        assert_eq!(after(&[0, 0, 0, 15]), Ok(None));
        assert_eq!(after(&[0, 0, 0, 16]), Ok(None));
        assert_eq!(after(&[0, 0, 0, 17]), Err(FrameError::TooLong { len: 17, max: 16 }));
        assert_eq!(after(&[0, 0, 0, 3]), Err(FrameError::TooShort { len: 3, min: 4 }));
        assert_eq!(after(&[255; 4]), Err(FrameError::Negative(-1)));
        let mut reader = FrameReader::requests(16);
        reader.buffer().extend_from_slice(&[0, 0, 0, 7]);
        assert_eq!(reader.next_frame(), Err(FrameError::TooShort { len: 7, min: 8 }));
        reader.set_max(6);
        assert_eq!(reader.next_frame(), Err(FrameError::TooLong { len: 7, max: 6 }));
    }

    #[test]
    fn other_protocols_are_named() {
        assert_eq!(after(b"HTTP/1.1 400"), Err(FrameError::Http));
        assert_eq!(after(&[0x15, 3, 3, 0, 2, 2, 70]), Err(FrameError::TlsAlert));
        assert_eq!(after(&[0x16, 3, 1, 2, 0]), Err(FrameError::TlsHandshake));
        let mut reader = FrameReader::responses(usize::MAX);
        reader.buffer().extend_from_slice(&[0x15, 3, 1, 0, 2]);
        assert_eq!(reader.next_frame(), Err(FrameError::TlsAlert), "even below the cap, as first bytes");
        let error = Error::from(FrameError::TlsAlert);
        assert!(error.advice().is_some_and(|advice| advice.contains("TLS")));
    }
}
