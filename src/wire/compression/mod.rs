//! Compression of record batches: one interface over the codecs, contexts and buffers reused, output capped while it is
//! produced.
//!
//! A codec whose feature is off is a typed error that names the feature.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

#[cfg(any(feature = "zstd", feature = "zstd-c"))]
pub use zstd::ZstdLibrary;

use crate::settings::Words;
use crate::{Error, Result};

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(test)]
mod tests;
#[cfg(any(feature = "zstd", feature = "zstd-c"))]
mod zstd;

/// The codec of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not compressed.
    #[default]
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Snappy in Xerial's framing.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// What there is to know of a codec without running it.
struct Row {
    codec: Compression,
    name: &'static str,
    /// Levels that Kafka has (KIP-390), from fast to small.
    levels: Option<(i32, i32)>,
    available: bool,
}

const fn row(codec: Compression, name: &'static str, levels: Option<(i32, i32)>, available: bool) -> Row {
    Row { codec, name, levels, available }
}

/// In the order of ids.
const CODECS: [Row; 5] = [
    row(Compression::None, "none", None, true),
    row(Compression::Gzip, "gzip", Some((1, 9)), cfg!(feature = "gzip")),
    row(Compression::Snappy, "snappy", None, cfg!(feature = "snappy")),
    row(Compression::Lz4, "lz4", Some((1, 17)), cfg!(feature = "lz4")),
    row(Compression::Zstd, "zstd", Some((-131_072, 22)), cfg!(any(feature = "zstd", feature = "zstd-c"))),
];

impl Compression {
    /// Every codec, in the order of ids.
    pub const ALL: [Self; CODECS.len()] = {
        let mut all = [Self::None; CODECS.len()];
        let mut at = 0;
        while at < all.len() {
            all[at] = CODECS[at].codec;
            at += 1;
        }
        all
    };

    /// The id in a batch's attributes.
    pub fn id(self) -> i8 {
        // The order of the variants is that of the rows.
        self as i8
    }

    /// The codec with `id`.
    pub fn from_id(id: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.id() == id)
    }

    /// Kafka's name, as in `compression.type`.
    pub fn name(self) -> &'static str {
        self.word()
    }

    /// Levels that Kafka has for the codec (KIP-390), from fast to small; `None` for codecs without. Those of LZ4 are taken
    /// and change nothing: its encoder here has one level. Kafka's defaults are 6 for gzip, 9 for LZ4 and 3 for zstd.
    pub fn levels(self) -> Option<RangeInclusive<i32>> {
        CODECS[self as usize].levels.map(|(fast, small)| fast..=small)
    }

    /// True if the codec is part of this build; the features are named as the codecs.
    pub fn is_available(self) -> bool {
        CODECS[self as usize].available
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Words for Compression {
    const SETTING: &'static str = "compression.type";
    const WORDS: &'static [(&'static str, Self)] = &{
        let mut words = [("", Self::None); CODECS.len()];
        let mut at = 0;
        while at < words.len() {
            words[at] = (CODECS[at].name, CODECS[at].codec);
            at += 1;
        }
        words
    };
}

impl FromStr for Compression {
    type Err = Error;

    /// Takes Kafka's names.
    ///
    /// # Errors
    ///
    /// `Config` for any other name, with those that there are.
    fn from_str(name: &str) -> Result<Self> {
        <Self as Words>::parse(name)
    }
}

/// Why bytes could not be compressed or decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompressionError {
    /// The codec's feature is off in this build.
    Unsupported(Compression),
    /// The codec has no such level; see [`Compression::levels`].
    Level(Compression, i32),
    /// The output exceeds the cap of so many bytes.
    TooLarge(usize),
    /// The input is not what the codec writes.
    Corrupt(&'static str),
}

impl CompressionError {
    /// True if the codec is not part of this build.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported(_))
    }

    /// What to try.
    pub(crate) fn advice(&self) -> Option<String> {
        match self {
            Self::Unsupported(codec) => Some(format!("build carafe with the feature `{codec}`")),
            Self::TooLarge(_) => {
                Some("raise the cap of decompressed batches if the data is trusted".to_owned())
            }
            Self::Level(..) | Self::Corrupt(_) => None,
        }
    }
}

impl fmt::Display for CompressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(codec) => write!(f, "this build lacks the feature `{codec}`"),
            Self::Level(codec, level) => match codec.levels() {
                Some(levels) => {
                    write!(f, "{codec} has no level {level}: {} to {}", levels.start(), levels.end())
                }
                None => write!(f, "{codec} has no levels"),
            },
            Self::TooLarge(cap) => write!(f, "decompresses to more than {cap} bytes"),
            Self::Corrupt(what) => write!(f, "corrupt compressed data: {what}"),
        }
    }
}

impl std::error::Error for CompressionError {}

/// Compresses bodies. Keeps what the codecs need between calls; one per thread of work.
#[derive(Debug, Default)]
pub struct Compressor {
    #[cfg(feature = "gzip")]
    gzip: gzip::Encoder,
    #[cfg(feature = "snappy")]
    snappy: snappy::Encoder,
    #[cfg(feature = "lz4")]
    lz4: lz4::Encoder,
    #[cfg(any(feature = "zstd", feature = "zstd-c"))]
    zstd: zstd::Encoder,
}

impl Compressor {
    /// A compressor without any context yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes this library for zstd.
    #[cfg(any(feature = "zstd", feature = "zstd-c"))]
    #[must_use]
    pub fn with_zstd(mut self, library: ZstdLibrary) -> Self {
        self.zstd = zstd::Encoder::of(library);
        self
    }

    /// Appends `input`, compressed with `codec` at `level` (`None`: Kafka's default), to `out`. None, Snappy and LZ4 have
    /// one level here.
    ///
    /// # Errors
    ///
    /// The codec's feature is off, or it has no such level.
    pub fn compress(
        &mut self,
        codec: Compression,
        level: Option<i32>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        if let Some(level) = level
            && codec.levels().is_some_and(|levels| !levels.contains(&level))
        {
            return Err(CompressionError::Level(codec, level));
        }
        match codec {
            Compression::None => out.extend_from_slice(input),
            #[cfg(feature = "gzip")]
            Compression::Gzip => self.gzip.compress(level, input, out)?,
            #[cfg(feature = "snappy")]
            Compression::Snappy => self.snappy.compress(input, out)?,
            #[cfg(feature = "lz4")]
            Compression::Lz4 => self.lz4.compress(input, out)?,
            #[cfg(any(feature = "zstd", feature = "zstd-c"))]
            Compression::Zstd => self.zstd.compress(level, input, out)?,
            #[allow(unreachable_patterns)]
            codec => return Err(CompressionError::Unsupported(codec)),
        }
        Ok(())
    }
}

/// Decompresses bodies. Keeps what the codecs need between calls; one per thread of work.
#[derive(Debug, Default)]
pub struct Decompressor {
    #[cfg(feature = "gzip")]
    gzip: gzip::Decoder,
    #[cfg(any(feature = "zstd", feature = "zstd-c"))]
    zstd: zstd::Decoder,
}

impl Decompressor {
    /// A decompressor without any context yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes this library for zstd.
    #[cfg(any(feature = "zstd", feature = "zstd-c"))]
    #[must_use]
    pub fn with_zstd(mut self, library: ZstdLibrary) -> Self {
        self.zstd = zstd::Decoder::of(library);
        self
    }

    /// Appends `input`, decompressed, to `out`: at most `cap` bytes, checked while they are produced. Memory is taken as
    /// output appears, never by a size that the input declares. After an error `out` is as long as before.
    ///
    /// # Errors
    ///
    /// The codec's feature is off, the input is corrupt, or the output would exceed `cap`.
    pub fn decompress(
        &mut self,
        codec: Compression,
        input: &[u8],
        cap: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let before = out.len();
        let result = match codec {
            Compression::None if input.len() > cap => Err(CompressionError::TooLarge(cap)),
            Compression::None => {
                out.extend_from_slice(input);
                Ok(())
            }
            #[cfg(feature = "gzip")]
            Compression::Gzip => self.gzip.decompress(input, cap, out),
            #[cfg(feature = "snappy")]
            Compression::Snappy => snappy::decompress(input, cap, out),
            #[cfg(feature = "lz4")]
            Compression::Lz4 => lz4::decompress(input, cap, out),
            #[cfg(any(feature = "zstd", feature = "zstd-c"))]
            Compression::Zstd => self.zstd.decompress(input, cap, out),
            #[allow(unreachable_patterns)]
            codec => Err(CompressionError::Unsupported(codec)),
        };
        if result.is_err() {
            out.truncate(before);
        }
        result
    }
}

/// Makes room for `need` more bytes of output, where the stream began at `start`: twice what there is at least, so that
/// growing costs little, but never beyond `limit` unless `need` is.
#[cfg(any(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd", feature = "zstd-c"))]
fn make_room(out: &mut Vec<u8>, start: usize, need: usize, limit: usize) {
    if out.capacity() - out.len() < need {
        let left = limit.saturating_sub(out.len());
        out.reserve_exact((out.len() - start).clamp(4 << 10, 16 << 20).min(left).max(need));
    }
}
