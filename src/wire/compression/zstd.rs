//! Zstandard frames through structured-zstd: one frame written, any number read, skippable ones stepped over.

use std::panic::{AssertUnwindSafe, catch_unwind};

use structured_zstd::decoding::FrameDecoder;
use structured_zstd::decoding::errors::FrameDecoderError;
use structured_zstd::encoding::{CompressionLevel, FrameCompressor};

use super::{CompressionError, make_room};

/// Kafka's default.
const LEVEL: i32 = 3;

/// Levels that Kafka takes and this encoder has.
const LEVELS: std::ops::RangeInclusive<i32> = -131_072..=22;

/// The densest block, one byte repeated, takes four bytes and gives this many.
const BLOCK_MAX: usize = 128 << 10;

/// A declared size is believed up to this many times the input; beyond that the output shows.
const DECLARED_MAX: usize = 64;

/// Appends `input` as one frame; `level` from -131,072 (fast) to 22 (small), Kafka's 3 without one or with another.
///
/// The encoder's context cannot move between threads, as a [`Compressor`](super::Compressor) must: it lives for one call.
pub(super) fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) {
    let level = level.filter(|level| LEVELS.contains(level)).unwrap_or(LEVEL);
    let mut encoder: FrameCompressor = FrameCompressor::new(CompressionLevel::from_level(level));
    if out.is_empty() {
        encoder.compress_independent_frame_into(input, out); // replaces what is in its buffer
    } else {
        out.extend_from_slice(&encoder.compress_independent_frame(input));
    }
}

#[derive(Default)]
pub(super) struct Decoder {
    context: Option<FrameDecoder>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

impl Decoder {
    pub(super) fn decompress(
        &mut self,
        input: &[u8],
        cap: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let start = out.len();
        let limit = start.saturating_add(cap);
        if input.is_empty() {
            return Err(CompressionError::Corrupt("no Zstandard frame"));
        }
        // Frames are decoded straight into the output, which so serves as their window. One that does not fit is decoded
        // again with four times the room: repeating costs less than a window and a copy cost every other frame.
        let most = (input.len() / 4 + 1).saturating_mul(BLOCK_MAX);
        let likely = declared_size(input).filter(|size| *size <= input.len().saturating_mul(DECLARED_MAX));
        let mut room = likely.unwrap_or(input.len().saturating_mul(8)).max(4 << 10).min(cap);
        loop {
            make_room(out, start, room, limit);
            out.resize(start + room, 0);
            match self.attempt(input, &mut out[start..])? {
                Some(written) => {
                    out.truncate(start + written);
                    return Ok(());
                }
                None if room == cap => return Err(CompressionError::TooLarge(cap)),
                None if room >= most => {
                    return Err(CompressionError::Corrupt("Zstandard frame declares a wrong size"));
                }
                None => room = room.saturating_mul(4).min(most).min(cap),
            }
            out.truncate(start);
        }
    }

    /// Bytes written, or `None` if they do not fit.
    fn attempt(&mut self, input: &[u8], target: &mut [u8]) -> Result<Option<usize>, CompressionError> {
        let context = self.context.get_or_insert_with(FrameDecoder::new);
        // The crate promises no panics on damaged input; should one come nevertheless, it costs the batch alone.
        let result = catch_unwind(AssertUnwindSafe(|| context.decode_all(input, target)));
        match result {
            Ok(Ok(written)) => Ok(Some(written)),
            Ok(Err(FrameDecoderError::TargetTooSmall)) => Ok(None),
            Ok(Err(_)) => Err(CompressionError::Corrupt("invalid Zstandard frame")),
            Err(_) => {
                self.context = None;
                Err(CompressionError::Corrupt("the Zstandard decoder failed"))
            }
        }
    }
}

/// Content size in the header of the first frame.
fn declared_size(input: &[u8]) -> Option<usize> {
    let (magic, rest) = input.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*magic) != 0xfd2f_b528 {
        return None;
    }
    let (&descriptor, rest) = rest.split_first()?;
    let single_segment = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = rest.get(dictionary + usize::from(!single_segment)..)?;
    let size = match descriptor >> 6 {
        0 if single_segment => u64::from(*size.first()?),
        0 => return None,
        1 => u64::from(u16::from_le_bytes(*size.first_chunk()?)) + 256,
        2 => u64::from(u32::from_le_bytes(*size.first_chunk()?)),
        _ => u64::from_le_bytes(*size.first_chunk()?),
    };
    usize::try_from(size).ok()
}
