//! gzip (RFC 1952) around flate2's raw deflate: one member written, any number read.

use flate2::{Compress, Crc, Decompress, FlushCompress, FlushDecompress, Status};

use super::{CompressionError, make_room};

/// No name, no time, unknown system: the same input gives the same bytes.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// Kafka's default, and zlib's.
const LEVEL: u32 = 6;

const CUT_SHORT: CompressionError = CompressionError::Corrupt("gzip data is cut short");

#[derive(Debug, Default)]
pub(super) struct Encoder {
    context: Option<(u32, Compress)>,
}

impl Encoder {
    /// Appends `input` as one member.
    pub(super) fn compress(
        &mut self,
        level: Option<i32>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let level = level.and_then(|level| u32::try_from(level).ok()).unwrap_or(LEVEL);
        let context = match &mut self.context {
            Some((at, context)) if *at == level => {
                context.reset();
                context
            }
            other => &mut other.insert((level, Compress::new(flate2::Compression::new(level), false))).1,
        };
        out.extend_from_slice(&HEADER);
        out.reserve(input.len() / 2 + 64);
        loop {
            let read = context.total_in() as usize;
            let status = context
                .compress_vec(input.get(read..).unwrap_or_default(), out, FlushCompress::Finish)
                .map_err(|_| CompressionError::Corrupt("the gzip encoder failed"))?;
            match status {
                Status::StreamEnd => break,
                Status::Ok | Status::BufError => out.reserve(out.len().max(1024)),
            }
        }
        let mut crc = Crc::new();
        crc.update(input);
        out.extend_from_slice(&crc.sum().to_le_bytes());
        out.extend_from_slice(&(input.len() as u32).to_le_bytes());
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(super) struct Decoder {
    context: Option<Decompress>,
}

impl Decoder {
    pub(super) fn decompress(
        &mut self,
        mut input: &[u8],
        cap: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let limit = out.len().saturating_add(cap);
        if input.is_empty() {
            return Err(CUT_SHORT);
        }
        while !input.is_empty() {
            input = self.member(input, cap, limit, out)?;
        }
        Ok(())
    }

    /// One member; returns what follows it.
    fn member<'a>(
        &mut self,
        input: &'a [u8],
        cap: usize,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<&'a [u8], CompressionError> {
        let start = out.len();
        let data = after_header(input)?;
        let context = self.context.get_or_insert_with(|| Decompress::new(false));
        context.reset(false);
        let first = data.len().saturating_mul(4).min(limit - start).min(16 << 20);
        make_room(out, start, first, limit);
        loop {
            // One byte beyond the limit, so that output that ends at the limit differs from output that goes on.
            make_room(out, start, 1, limit.saturating_add(1));
            let (read, written) = (context.total_in(), out.len());
            let unread = data.get(read as usize..).unwrap_or_default();
            let status = context
                .decompress_vec(unread, out, FlushDecompress::None)
                .map_err(|_| CompressionError::Corrupt("invalid deflate data"))?;
            if out.len() > limit {
                return Err(CompressionError::TooLarge(cap));
            }
            match status {
                Status::StreamEnd => break,
                // Room there was, so what is missing is input.
                _ if context.total_in() == read && out.len() == written => return Err(CUT_SHORT),
                Status::Ok | Status::BufError => {}
            }
        }
        let trailer = data.get(context.total_in() as usize..).unwrap_or_default();
        let (trailer, rest) = trailer.split_first_chunk::<8>().ok_or(CUT_SHORT)?;
        let [a, b, c, d, size @ ..] = *trailer;
        let mut crc = Crc::new();
        crc.update(&out[start..]);
        if crc.sum() != u32::from_le_bytes([a, b, c, d])
            || (out.len() - start) as u32 != u32::from_le_bytes(size)
        {
            return Err(CompressionError::Corrupt("gzip checksum or size differs from its content"));
        }
        Ok(rest)
    }
}

/// The deflate data behind a member's header.
fn after_header(input: &[u8]) -> Result<&[u8], CompressionError> {
    let (header, mut rest) = input.split_first_chunk::<10>().ok_or(CUT_SHORT)?;
    if header[..3] != HEADER[..3] {
        return Err(CompressionError::Corrupt("no gzip member"));
    }
    let flags = header[3];
    if flags & 0x04 != 0 {
        let (len, extra) = rest.split_first_chunk::<2>().ok_or(CUT_SHORT)?;
        rest = extra.get(usize::from(u16::from_le_bytes(*len))..).ok_or(CUT_SHORT)?;
    }
    for text in [0x08, 0x10] {
        if flags & text != 0 {
            let end = rest.iter().position(|&byte| byte == 0).ok_or(CUT_SHORT)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & 0x02 != 0 {
        rest = rest.get(2..).ok_or(CUT_SHORT)?;
    }
    Ok(rest)
}
