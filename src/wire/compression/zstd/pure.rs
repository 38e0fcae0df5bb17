//! structured-zstd.

use std::panic::{AssertUnwindSafe, catch_unwind};

use structured_zstd::decoding::errors::{
    DecodeBlockContentError, DecodeBufferError, DecompressBlockError, ExecuteSequencesError,
    FrameDecoderError,
};
use structured_zstd::decoding::{ContentChecksum, FrameDecoder};
use structured_zstd::encoding::{CompressionLevel, FrameCompressor};

use super::{CORRUPT, CompressionError};

/// The encoder's context cannot move between threads, as a [`Compressor`](crate::wire::compression::Compressor) must: it
/// lives for one call. That costs a third of the time at 1 KiB, and nothing that shows from 16 KiB on.
#[derive(Debug, Default)]
pub(in crate::wire::compression) struct Encoder;

impl Encoder {
    /// Appends `input` as one frame.
    pub(super) fn compress(
        &mut self,
        level: i32,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let level = CompressionLevel::from_level(level);
        let mut context: FrameCompressor = FrameCompressor::new(level);
        if out.is_empty() {
            context.compress_independent_frame_into(input, out); // replaces what is in its buffer
        } else {
            out.extend_from_slice(&context.compress_independent_frame(input));
        }
        Ok(())
    }
}

#[derive(Default)]
pub(in crate::wire::compression) struct Decoder {
    context: Option<FrameDecoder>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

impl Decoder {
    /// Bytes written to `target`, or `None` if they do not fit.
    pub(super) fn attempt(
        &mut self,
        input: &[u8],
        target: &mut [u8],
    ) -> Result<Option<usize>, CompressionError> {
        let context = self.context.get_or_insert_with(|| {
            let mut context = FrameDecoder::new();
            context.set_content_checksum(ContentChecksum::Verify);
            context
        });
        // The crate promises no panics on damaged input; should one come nevertheless, it costs the batch alone.
        let result = catch_unwind(AssertUnwindSafe(|| context.decode_all(input, target)));
        match result {
            Ok(Ok(written)) => Ok(Some(written)),
            Ok(Err(error)) if is_full(&error) => Ok(None),
            Ok(Err(_)) => Err(CORRUPT),
            Err(_) => {
                self.context = None;
                Err(CompressionError::Corrupt("the Zstandard decoder failed"))
            }
        }
    }
}

/// True if the output ended where a block wanted to go on. The crate tells so in more ways than one; a damaged block may
/// cause some of them too, so that the largest output that the frames can have is the last attempt.
fn is_full(error: &FrameDecoderError) -> bool {
    use DecodeBlockContentError::DecompressBlockError as Content;
    use DecompressBlockError::ExecuteSequencesError as Sequences;
    matches!(
        error,
        FrameDecoderError::TargetTooSmall
            | FrameDecoderError::FailedToReadBlockBody(Content(Sequences(
                ExecuteSequencesError::OutputBufferOverflow { .. }
                    | ExecuteSequencesError::DecodebufferError(
                        DecodeBufferError::OutputBufferOverflow { .. }
                    )
            )))
    )
}
