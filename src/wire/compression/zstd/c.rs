//! libzstd, for those who have a C compiler anyway.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound};

use super::{CORRUPT, CompressionError};

const FAILED: CompressionError = CompressionError::Corrupt("the Zstandard encoder failed");

/// `ZSTD_error_dstSize_tooSmall`; libzstd returns errors as negative sizes and keeps their numbers.
const TARGET_TOO_SMALL: usize = 70usize.wrapping_neg();

#[derive(Default)]
pub(in crate::wire::compression) struct Encoder {
    context: Option<CCtx<'static>>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    /// Appends `input` as one frame.
    pub(super) fn compress(
        &mut self,
        level: i32,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let context = match &mut self.context {
            Some(context) => context,
            none => none.insert(CCtx::try_create().ok_or(FAILED)?),
        };
        let level = CParameter::CompressionLevel(level);
        context.set_parameter(level).map_err(|_| FAILED)?;
        let start = out.len();
        out.resize(start + compress_bound(input.len()), 0);
        let written = context.compress2(&mut out[start..], input).map_err(|_| FAILED)?;
        out.truncate(start + written);
        Ok(())
    }
}

#[derive(Default)]
pub(in crate::wire::compression) struct Decoder {
    context: Option<DCtx<'static>>,
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
        let context = match &mut self.context {
            Some(context) => context,
            none => none
                .insert(DCtx::try_create().ok_or(CompressionError::Corrupt("the Zstandard decoder failed"))?),
        };
        match context.decompress(target, input) {
            Ok(written) => Ok(Some(written)),
            Err(TARGET_TOO_SMALL) => Ok(None),
            Err(_) => Err(CORRUPT),
        }
    }
}
