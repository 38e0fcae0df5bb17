//! Snappy in the framing of Xerial's snappy-java, which Java writes and expects; a plain block is read as well.

use super::{CompressionError, make_room};

/// Magic of the framing, then its version and the oldest version that can read it.
const HEADER: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
const MAGIC_LEN: usize = 8;

/// Input of one block, as Java cuts it.
const BLOCK: usize = 32 << 10;

/// The densest element, a copy in three bytes, gives 64.
const EXPANSION_MAX: usize = 22;

#[derive(Default)]
pub(super) struct Encoder {
    context: Option<snap::raw::Encoder>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
        let context = self.context.get_or_insert_with(snap::raw::Encoder::new);
        out.extend_from_slice(&HEADER);
        for chunk in input.chunks(BLOCK) {
            let size_at = out.len();
            let start = size_at + 4;
            out.resize(start + snap::raw::max_compress_len(chunk.len()), 0);
            let written = context
                .compress(chunk, &mut out[start..])
                .map_err(|_| CompressionError::Corrupt("the Snappy encoder failed"))?;
            out.truncate(start + written);
            out[size_at..start].copy_from_slice(&(written as u32).to_be_bytes());
        }
        Ok(())
    }
}

pub(super) fn decompress(mut input: &[u8], cap: usize, out: &mut Vec<u8>) -> Result<(), CompressionError> {
    let begin = out.len();
    if !input.starts_with(&HEADER[..MAGIC_LEN]) {
        return block(input, cap, begin, out);
    }
    while !input.is_empty() {
        // Streams may follow each other, each with its header.
        if input.starts_with(&HEADER[..MAGIC_LEN]) {
            input =
                input.get(HEADER.len()..).ok_or(CompressionError::Corrupt("Snappy header is cut short"))?;
            continue;
        }
        let cut_short = CompressionError::Corrupt("Snappy block is cut short");
        let (size, rest) = input.split_first_chunk::<4>().ok_or(cut_short)?;
        let (data, rest) = rest.split_at_checked(u32::from_be_bytes(*size) as usize).ok_or(cut_short)?;
        block(data, cap, begin, out)?;
        input = rest;
    }
    Ok(())
}

/// Appends the content of a plain block to `out`, where the whole output began at `begin`.
fn block(data: &[u8], cap: usize, begin: usize, out: &mut Vec<u8>) -> Result<(), CompressionError> {
    let corrupt = CompressionError::Corrupt("invalid Snappy block");
    let len = snap::raw::decompress_len(data).map_err(|_| corrupt)?;
    let limit = begin.saturating_add(cap);
    if len > limit - out.len() {
        return Err(CompressionError::TooLarge(cap));
    }
    if len > data.len().saturating_mul(EXPANSION_MAX) {
        return Err(corrupt);
    }
    let start = out.len();
    make_room(out, begin, len, limit);
    out.resize(start + len, 0);
    match snap::raw::Decoder::new().decompress(data, &mut out[start..]) {
        Ok(written) if written == len => Ok(()),
        _ => Err(corrupt),
    }
}
