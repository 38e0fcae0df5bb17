//! Our codecs against the C libraries and Kafka's own Java classes, in both directions.
//!
//! `CARAFE_TEST_SEEDS` is the number of seeds that inputs are drawn from, 1 without it.

mod c;
mod inputs;

use carafe::wire::compression::{Compression, CompressionError, Compressor, Decompressor};
use fastrand::Rng;
use oracles::Java;

use inputs::{Input, inputs};

/// Beyond this, small levels alone: the slow ones would take minutes.
const SLOW_MAX: usize = 131_073;

fn codecs() -> impl Iterator<Item = Compression> {
    Compression::ALL.into_iter().filter(|codec| *codec != Compression::None)
}

fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("CARAFE_TEST_SEEDS").map_or(1, |seeds| seeds.parse().expect("a number"))
}

/// The levels that ours is run at with an input of `len` bytes.
fn levels(codec: Compression, len: usize) -> Vec<Option<i32>> {
    let all: &[i32] = match codec {
        Compression::Gzip => &[1, 2, 3, 4, 5, 6, 7, 8, 9],
        Compression::Zstd => &[-131_072, -50, -5, -1, 1, 2, 3, 4, 5, 6, 7, 9, 12, 15, 19, 22],
        _ => &[],
    };
    let fast = all.iter().filter(|level| len <= SLOW_MAX || **level <= 3);
    std::iter::once(None).chain(fast.map(|level| Some(*level))).collect()
}

/// Ours, with contexts that were used before.
#[derive(Default)]
struct Ours {
    compressor: Compressor,
    decompressor: Decompressor,
}

impl Ours {
    fn compress(&mut self, codec: Compression, level: Option<i32>, input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.compressor.compress(codec, level, input, &mut out).expect("ours compresses");
        out
    }

    fn decompress(
        &mut self,
        codec: Compression,
        input: &[u8],
        cap: usize,
    ) -> Result<Vec<u8>, CompressionError> {
        let mut out = Vec::new();
        self.decompressor.decompress(codec, input, cap, &mut out).map(|()| out)
    }
}

/// Every frame that ours writes, over all codecs, inputs and levels.
fn ours(mut check: impl FnMut(Compression, &Input, &[u8]) -> Result<Vec<u8>, String>) {
    let (mut ours, mut count) = (Ours::default(), 0);
    for codec in codecs() {
        for input in seeds().flat_map(|seed| inputs(seed, usize::MAX)) {
            for level in levels(codec, input.bytes.len()) {
                let packed = ours.compress(codec, level, &input.bytes);
                let read = check(codec, &input, &packed);
                let right = read.as_ref().is_ok_and(|read| *read == input.bytes);
                assert!(right, "{codec} at {level:?}, {input}: {:?}", read.map(|read| read.len()));
                count += 1;
            }
        }
    }
    println!("{count} frames");
}

#[test]
fn c_reads_what_ours_writes() {
    ours(|codec, _, packed| c::decompress(codec, packed));
}

#[test]
fn java_reads_what_ours_writes() {
    let mut java = Java::start("Codecs");
    ours(|codec, _, packed| java.ask(&format!("read {codec}"), 0, packed));
}

#[test]
fn ours_reads_what_c_writes() {
    let (mut ours, mut count) = (Ours::default(), 0);
    for codec in codecs() {
        for input in seeds().flat_map(|seed| inputs(seed, usize::MAX)) {
            for level in c::levels(codec) {
                if input.bytes.len() > SLOW_MAX && level > 6 {
                    continue;
                }
                for (form, packed) in c::compress(codec, level, &input.bytes) {
                    let read = ours.decompress(codec, &packed, input.bytes.len());
                    let right = read.as_ref().is_ok_and(|read| *read == input.bytes);
                    assert!(right, "{codec}, {form} at {level}, {input}: {:?}", read.map(|read| read.len()));
                    if let Some(cap) = input.bytes.len().checked_sub(1) {
                        let refused = ours.decompress(codec, &packed, cap);
                        assert_eq!(refused, Err(CompressionError::TooLarge(cap)), "{codec}, {form}, {input}");
                    }
                    count += 1;
                }
            }
        }
    }
    println!("{count} frames");
}

#[test]
fn ours_reads_what_java_writes() {
    let mut java = Java::start("Codecs");
    let (mut ours, mut count) = (Ours::default(), 0);
    let forms = [
        (Compression::Gzip, "gzip", &[-1, 1, 9][..]),
        (Compression::Snappy, "snappy", &[0]),
        (Compression::Snappy, "snappy raw", &[0]),
        (Compression::Lz4, "lz4", &[1, 9, 17]),
        (Compression::Lz4, "lz4 old", &[9]),
        (Compression::Lz4, "lz4 full", &[0, 1, 2, 3]),
        (Compression::Zstd, "zstd", &[-5, 1, 3, 19]),
        (Compression::Zstd, "zstd at once", &[3]),
        (Compression::Zstd, "zstd checksum", &[1, 3]),
    ];
    for (codec, form, levels) in forms {
        for input in seeds().flat_map(|seed| inputs(seed, usize::MAX)) {
            for level in levels {
                let packed = java.ask(form, *level, &input.bytes).expect("Java compresses");
                let read = ours.decompress(codec, &packed, input.bytes.len());
                let right = read.as_ref().is_ok_and(|read| *read == input.bytes);
                assert!(right, "{form} at {level}, {input}: {:?}", read.map(|read| read.len()));
                count += 1;
            }
        }
    }
    println!("{count} frames");
}

/// Frames of one codec behind each other: ours, each form of C's, skippable ones where the codec has them.
#[test]
fn frames_in_a_row_are_one_content() {
    let mut ours = Ours::default();
    for codec in codecs() {
        let mut content = Vec::new();
        let mut packed = Vec::new();
        for input in inputs(7, 40_000).filter(|input| !input.bytes.is_empty()) {
            let forms = c::compress(codec, 3, &input.bytes);
            // A plain block of Snappy has no end.
            for (_, frame) in forms.into_iter().skip(usize::from(codec == Compression::Snappy)) {
                content.extend_from_slice(&input.bytes);
                packed.extend_from_slice(&frame);
            }
            content.extend_from_slice(&input.bytes);
            packed.extend_from_slice(&ours.compress(codec, None, &input.bytes));
            if matches!(codec, Compression::Lz4 | Compression::Zstd) {
                packed.extend_from_slice(&[0x5f, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 0xff, 0xff]);
            }
        }
        assert!(ours.decompress(codec, &packed, content.len()) == Ok(content), "{codec}");
    }
}

/// Damaged frames may be refused by one and read by the other, but never read as different bytes.
#[test]
fn damaged_frames_are_never_read_as_other_bytes_than_c_reads() {
    let (mut ours, mut both, mut count) = (Ours::default(), 0, 0);
    for seed in seeds() {
        let mut dice = Rng::with_seed(seed);
        for codec in codecs() {
            for input in inputs(seed, 5_000).filter(|input| !input.bytes.is_empty()) {
                for (form, frame) in c::compress(codec, 3, &input.bytes) {
                    for _ in 0..10 {
                        let mut frame = frame.clone();
                        let at = dice.usize(..frame.len());
                        match dice.u8(..3) {
                            0 => frame[at] ^= 1 << dice.u8(..8),
                            1 => frame[at] = dice.u8(..),
                            _ => frame.truncate(at),
                        }
                        count += 1;
                        let (a, b) = (ours.decompress(codec, &frame, 16 << 20), c::decompress(codec, &frame));
                        if let (Ok(a), Ok(b)) = (a, b) {
                            both += 1;
                            assert!(a == b, "{codec}, {form}, {input}: {} and {} bytes", a.len(), b.len());
                        }
                    }
                }
            }
        }
    }
    println!("{count} frames, {both} read by both");
}
