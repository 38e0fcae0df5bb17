//! Zstandard frames: one frame written, any number read, skippable ones stepped over.
//!
//! The codec is structured-zstd or the C library, as [`ZstdLibrary`] says.

#[cfg(feature = "zstd-c")]
mod c;
#[cfg(feature = "zstd")]
mod pure;

use super::{CompressionError, make_room};

/// Which library does the work of zstd. Both may be in one build (features `zstd` and `zstd-c`), and each reads what the other
/// writes. Where both are, the default is C: whoever names `zstd-c` wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ZstdLibrary {
    /// structured-zstd, in pure Rust; feature `zstd`.
    #[cfg(feature = "zstd")]
    Rust,
    /// libzstd; feature `zstd-c`.
    #[cfg(feature = "zstd-c")]
    C,
}

impl ZstdLibrary {
    /// Those of this build, the default last.
    pub const ALL: &[Self] = &[
        #[cfg(feature = "zstd")]
        Self::Rust,
        #[cfg(feature = "zstd-c")]
        Self::C,
    ];
}

impl Default for ZstdLibrary {
    fn default() -> Self {
        Self::ALL[Self::ALL.len() - 1]
    }
}

#[derive(Debug)]
pub(super) enum Encoder {
    #[cfg(feature = "zstd")]
    Rust(pure::Encoder),
    #[cfg(feature = "zstd-c")]
    C(c::Encoder),
}

impl Encoder {
    pub(super) fn of(library: ZstdLibrary) -> Self {
        match library {
            #[cfg(feature = "zstd")]
            ZstdLibrary::Rust => Self::Rust(pure::Encoder),
            #[cfg(feature = "zstd-c")]
            ZstdLibrary::C => Self::C(c::Encoder::default()),
        }
    }

    /// Appends `input` as one frame.
    pub(super) fn compress(
        &mut self,
        level: Option<i32>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let level = level.unwrap_or(LEVEL);
        match self {
            #[cfg(feature = "zstd")]
            Self::Rust(encoder) => encoder.compress(level, input, out),
            #[cfg(feature = "zstd-c")]
            Self::C(encoder) => encoder.compress(level, input, out),
        }
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::of(ZstdLibrary::default())
    }
}

/// Kafka's default.
const LEVEL: i32 = 3;

/// No block holds more.
const BLOCK_MAX: usize = 128 << 10;

/// A declared size is believed up to this many times the input; beyond that the output shows.
const DECLARED_MAX: usize = 64;

/// First guess of output for each byte of input, where no size is declared. Java's writer declares none.
const GUESS: usize = 16;

const CORRUPT: CompressionError = CompressionError::Corrupt("invalid Zstandard frame");

#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "few are made, and used again; a box would be one more hop per batch"
)]
pub(super) enum Decoder {
    #[cfg(feature = "zstd")]
    Rust(pure::Decoder),
    #[cfg(feature = "zstd-c")]
    C(c::Decoder),
}

impl Default for Decoder {
    fn default() -> Self {
        Self::of(ZstdLibrary::default())
    }
}

impl Decoder {
    pub(super) fn of(library: ZstdLibrary) -> Self {
        match library {
            #[cfg(feature = "zstd")]
            ZstdLibrary::Rust => Self::Rust(pure::Decoder::default()),
            #[cfg(feature = "zstd-c")]
            ZstdLibrary::C => Self::C(c::Decoder::default()),
        }
    }

    /// Bytes written to `target`, or `None` if they do not fit.
    fn attempt(&mut self, input: &[u8], target: &mut [u8]) -> Result<Option<usize>, CompressionError> {
        match self {
            #[cfg(feature = "zstd")]
            Self::Rust(decoder) => decoder.attempt(input, target),
            #[cfg(feature = "zstd-c")]
            Self::C(decoder) => decoder.attempt(input, target),
        }
    }

    pub(super) fn decompress(
        &mut self,
        input: &[u8],
        cap: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let size = size(input)?;
        if size.declared && size.most > cap {
            return Err(CompressionError::TooLarge(cap));
        }
        // Frames are decoded straight into the output, which so serves as their window, whatever window they declare. One
        // that does not fit is decoded again with four times the room: repeating costs less than a window and a copy cost
        // every other frame.
        let start = out.len();
        let limit = start.saturating_add(cap);
        let trust = if size.declared { DECLARED_MAX } else { GUESS };
        let most = size.most.min(cap);
        let mut room = most.min(input.len().saturating_mul(trust).max(4 << 10));
        loop {
            make_room(out, start, room, limit);
            out.resize(start + room, 0);
            match self.attempt(input, &mut out[start..])? {
                Some(written) => {
                    out.truncate(start + written);
                    return Ok(());
                }
                None if room < most => room = room.saturating_mul(4).min(most),
                None if most < size.most => return Err(CompressionError::TooLarge(cap)),
                None => return Err(CORRUPT),
            }
            out.truncate(start);
        }
    }
}

/// What frames say of their content.
struct Size {
    /// They cannot hold more bytes.
    most: usize,
    /// Every frame declares its size: they must not hold less either.
    declared: bool,
}

/// Walks the headers of frames and blocks. What they claim is bounded by the blocks that are there.
fn size(mut input: &[u8]) -> Result<Size, CompressionError> {
    let mut size = Size { most: 0, declared: true };
    if input.is_empty() {
        return Err(CORRUPT);
    }
    while !input.is_empty() {
        let magic = u32::from_le_bytes(take(&mut input)?);
        if magic & 0xffff_fff0 == 0x184d_2a50 {
            let len = u32::from_le_bytes(take(&mut input)?);
            skip(&mut input, len as usize)?;
        } else if magic == 0xfd2f_b528 {
            let declared = frame_header(&mut input)?;
            let (blocks, checksum) = (blocks(&mut input)?, declared.checksum);
            skip(&mut input, if checksum { 4 } else { 0 })?;
            let most = match declared.content {
                Some(content) => usize::try_from(content).ok().filter(|content| *content <= blocks),
                None => Some(blocks),
            };
            let most = most.ok_or(CompressionError::Corrupt("Zstandard frame declares a wrong size"))?;
            size.most = size.most.saturating_add(most);
            size.declared &= declared.content.is_some();
        } else {
            return Err(CompressionError::Corrupt("no Zstandard frame"));
        }
    }
    Ok(size)
}

struct Header {
    content: Option<u64>,
    checksum: bool,
}

fn frame_header(input: &mut &[u8]) -> Result<Header, CompressionError> {
    let [descriptor] = take(input)?;
    let single_segment = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    skip(input, usize::from(!single_segment) + dictionary)?;
    let content = match descriptor >> 6 {
        0 if single_segment => Some(u64::from(u8::from_le_bytes(take(input)?))),
        0 => None,
        1 => Some(u64::from(u16::from_le_bytes(take(input)?)) + 256),
        2 => Some(u64::from(u32::from_le_bytes(take(input)?))),
        _ => Some(u64::from_le_bytes(take(input)?)),
    };
    Ok(Header { content, checksum: descriptor & 0x04 != 0 })
}

/// Steps over the blocks of a frame; the most that they can hold.
fn blocks(input: &mut &[u8]) -> Result<usize, CompressionError> {
    let mut most = 0usize;
    loop {
        let [a, b, c] = take(input)?;
        let header = u32::from_le_bytes([a, b, c, 0]);
        let size = (header >> 3) as usize;
        let (stored, content) = match header >> 1 & 3 {
            0 => (size, size),
            1 => (1, size), // one byte, repeated
            2 => (size, BLOCK_MAX),
            _ => return Err(CORRUPT),
        };
        skip(input, stored)?;
        most = most.saturating_add(content);
        if header & 1 != 0 {
            return Ok(most);
        }
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], CompressionError> {
    let (bytes, rest) = input.split_first_chunk().ok_or(CUT_SHORT)?;
    *input = rest;
    Ok(*bytes)
}

fn skip(input: &mut &[u8], count: usize) -> Result<(), CompressionError> {
    *input = input.get(count..).ok_or(CUT_SHORT)?;
    Ok(())
}

const CUT_SHORT: CompressionError = CompressionError::Corrupt("Zstandard frame is cut short");
