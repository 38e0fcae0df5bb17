//! Every codec of this build: round trips, caps, damaged input.

use proptest::prelude::*;

use super::*;

fn codecs() -> impl Iterator<Item = Compression> {
    Compression::ALL.into_iter().filter(|codec| codec.is_available())
}

fn compress(codec: Compression, input: &[u8]) -> Vec<u8> {
    let mut out = b"before".to_vec();
    Compressor::new().compress(codec, None, input, &mut out).unwrap();
    out.split_off(6)
}

fn decompress(codec: Compression, input: &[u8], cap: usize) -> Result<Vec<u8>, CompressionError> {
    let mut out = b"before".to_vec();
    let result = Decompressor::new().decompress(codec, input, cap, &mut out);
    let rest = out.split_off(6);
    assert_eq!(out, b"before");
    assert!(result.is_ok() || rest.is_empty());
    result.map(|()| rest)
}

/// Half text, half noise, `len` bytes.
fn sample(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    (0..len)
        .map(|at| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if at / 1000 % 2 == 0 { b"order,cart,login;"[at % 17] } else { (state >> 24) as u8 }
        })
        .collect()
}

#[test]
fn ids_and_names_are_kafkas() {
    for (id, name) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
        let codec: Compression = name.parse().unwrap();
        assert_eq!((codec.id(), codec.name()), (id as i8, name));
        assert_eq!(Compression::from_id(id as i8), Some(codec));
    }
    assert_eq!(Compression::from_id(5), None);
    assert_eq!(Compression::from_id(-1), None);
    assert!("lzma".parse::<Compression>().is_err());
}

#[test]
fn contexts_may_move_to_a_blocking_pool() {
    fn movable<T: Send + 'static>() {}
    movable::<Compressor>();
    movable::<Decompressor>();
}

#[test]
fn a_codec_that_is_off_names_its_feature() {
    for codec in Compression::ALL.into_iter().filter(|codec| !codec.is_available()) {
        let error = Compressor::new().compress(codec, None, b"x", &mut Vec::new()).unwrap_err();
        assert_eq!(error, CompressionError::Unsupported(codec));
        assert_eq!(decompress(codec, b"x", 10), Err(error));
        assert_eq!(error.hint().unwrap(), format!("build carafe with the feature `{codec}`"));
    }
}

#[test]
fn everything_comes_back_with_contexts_used_again() {
    let mut compressor = Compressor::new();
    let mut decompressor = Decompressor::new();
    for codec in codecs() {
        for len in [0, 1, 100, 32 << 10, (64 << 10) + 1, 300_000] {
            for level in [None, Some(1), Some(9), Some(-5)] {
                let input = sample(len);
                let mut compressed = Vec::new();
                compressor.compress(codec, level, &input, &mut compressed).unwrap();
                let mut output = Vec::new();
                decompressor.decompress(codec, &compressed, len, &mut output).unwrap();
                assert!(output == input, "{codec} {len} {level:?}");
            }
        }
    }
}

#[test]
fn the_cap_is_exact() {
    for codec in codecs() {
        let compressed = compress(codec, &sample(100_000));
        assert!(decompress(codec, &compressed, 100_000).is_ok(), "{codec}");
        assert_eq!(
            decompress(codec, &compressed, 99_999),
            Err(CompressionError::TooLarge(99_999)),
            "{codec}"
        );
        assert_eq!(decompress(codec, &compressed, 0), Err(CompressionError::TooLarge(0)), "{codec}");
    }
}

#[test]
fn bombs_stop_at_the_cap() {
    const CAP: usize = 1_300_000;
    for codec in codecs() {
        let bomb = compress(codec, &vec![0; 64 << 20]);
        let mut out = Vec::new();
        let result = Decompressor::new().decompress(codec, &bomb, CAP, &mut out);
        assert_eq!(result, Err(CompressionError::TooLarge(CAP)), "{codec}");
        assert!(out.capacity() <= CAP + CAP / 10, "{codec} took {} bytes", out.capacity());
    }
}

#[test]
fn cut_short_is_an_error() {
    for codec in codecs().filter(|codec| *codec != Compression::None) {
        let compressed = compress(codec, &sample(3000));
        for cut in 0..compressed.len() {
            // A Xerial stream may end behind its header or any block.
            if codec == Compression::Snappy && (cut == 16 || cut == compressed.len()) {
                continue;
            }
            assert!(decompress(codec, &compressed[..cut], 1 << 20).is_err(), "{codec} {cut}");
        }
    }
}

#[test]
fn flipped_bits_never_panic() {
    for codec in codecs() {
        let compressed = compress(codec, &sample(1500));
        for bit in 0..compressed.len() * 8 {
            let mut changed = compressed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(output) = decompress(codec, &changed, 1 << 20) {
                assert!(output.len() <= 1 << 20);
            }
        }
    }
}

#[cfg(feature = "lz4")]
mod lz4 {
    use super::*;

    const LZ4: Compression = Compression::Lz4;

    #[test]
    fn frames_are_those_of_java() {
        let compressed = compress(LZ4, b"hello");
        assert_eq!(compressed[..7], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
        assert_eq!(compressed[7..11], 0x8000_0005u32.to_le_bytes(), "stored, as it does not shrink");
        assert_eq!(compressed[16..], [0; 4]);
    }

    #[test]
    fn the_checksum_of_old_writers_is_tolerated() {
        let mut compressed = compress(LZ4, &sample(100));
        compressed[6] = 0x1a;
        assert_eq!(decompress(LZ4, &compressed, 100), Ok(sample(100)));
    }

    #[test]
    fn frames_may_follow_each_other_and_be_skipped() {
        let mut input = vec![0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        input.extend(compress(LZ4, b"one,"));
        input.extend(compress(LZ4, b"two"));
        assert_eq!(decompress(LZ4, &input, 100), Ok(b"one,two".to_vec()));
    }

    #[test]
    fn checksums_and_sizes_inside_are_stepped_over() {
        // independent blocks, block checksums, content size and checksum, blocks of 4 MiB
        let mut input = vec![0x04, 0x22, 0x4d, 0x18, 0x7c, 0x70];
        input.extend(5u64.to_le_bytes());
        input.push(0);
        input.extend(0x8000_0005u32.to_le_bytes());
        input.extend(b"hello");
        input.extend([1, 2, 3, 4]);
        input.extend([0; 4]);
        input.extend([5, 6, 7, 8]);
        assert_eq!(decompress(LZ4, &input, 100), Ok(b"hello".to_vec()));
        assert_eq!(decompress(LZ4, &input, 4), Err(CompressionError::TooLarge(4)));
        input[6] = 6;
        assert!(matches!(decompress(LZ4, &input, 100), Err(CompressionError::Corrupt(_))));
    }

    #[test]
    fn linked_blocks_see_what_was_written_before() {
        // "hello" stored, then a copy of five bytes from five back and the literal "!"
        let mut input = vec![0x04, 0x22, 0x4d, 0x18, 0x40, 0x40, 0];
        input.extend(0x8000_0005u32.to_le_bytes());
        input.extend(b"hello");
        let block = [0x01, 5, 0, 0x50, b'!', b'!', b'!', b'!', b'!'];
        input.extend((block.len() as u32).to_le_bytes());
        input.extend(block);
        input.extend([0; 4]);
        assert_eq!(decompress(LZ4, &input, 100), Ok(b"hellohello!!!!!".to_vec()));
        input[4] = 0x60;
        assert!(decompress(LZ4, &input, 100).is_err(), "independent blocks see nothing");
    }
}

#[cfg(feature = "snappy")]
mod snappy {
    use super::*;

    const SNAPPY: Compression = Compression::Snappy;

    #[test]
    fn framing_is_xerials() {
        let compressed = compress(SNAPPY, &sample(40_000));
        assert_eq!(compressed[..16], *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
        let first =
            u32::from_be_bytes([compressed[16], compressed[17], compressed[18], compressed[19]]) as usize;
        assert_eq!(snap::raw::decompress_len(&compressed[20..20 + first]), Ok(32 << 10));
    }

    #[test]
    fn plain_blocks_and_streams_in_a_row_are_read() {
        let plain = snap::raw::Encoder::new().compress_vec(b"plain").unwrap();
        assert_eq!(decompress(SNAPPY, &plain, 5), Ok(b"plain".to_vec()));
        let mut two = compress(SNAPPY, b"one,");
        two.extend(compress(SNAPPY, b"two"));
        assert_eq!(decompress(SNAPPY, &two, 100), Ok(b"one,two".to_vec()));
    }

    #[test]
    fn a_claim_of_four_gigabytes_takes_no_memory() {
        let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        assert_eq!(decompress(SNAPPY, &claim, 1 << 20), Err(CompressionError::TooLarge(1 << 20)));
        let mut out = Vec::new();
        let result = Decompressor::new().decompress(SNAPPY, &claim, usize::MAX, &mut out);
        assert!(matches!(result, Err(CompressionError::Corrupt(_))));
        assert_eq!(out.capacity(), 0);
    }
}

#[cfg(feature = "gzip")]
mod gzip {
    use super::*;

    const GZIP: Compression = Compression::Gzip;

    #[test]
    fn members_may_follow_each_other_and_carry_names() {
        let mut input = compress(GZIP, b"one,");
        let two = compress(GZIP, b"two");
        // extra field, name, comment and header checksum
        input.extend([0x1f, 0x8b, 8, 0x1e, 0, 0, 0, 0, 0, 0, 2, 0, 9, 9]);
        input.extend(b"name\0comment\0\x01\x02");
        input.extend(&two[10..]);
        assert_eq!(decompress(GZIP, &input, 100), Ok(b"one,two".to_vec()));
        let at = input.len() - 6;
        input[at] ^= 1;
        assert!(decompress(GZIP, &input, 100).is_err(), "checksum");
    }
}

#[cfg(feature = "zstd")]
mod zstd {
    use structured_zstd::encoding::{CompressionLevel, FrameCompressor};

    use super::*;

    const ZSTD: Compression = Compression::Zstd;

    #[test]
    fn frames_without_content_size_are_read() {
        for len in [0, 1, 5000, 400_000] {
            let mut encoder: FrameCompressor = FrameCompressor::new(CompressionLevel::Default);
            encoder.set_content_size_flag(false);
            let compressed = encoder.compress_independent_frame(&sample(len));
            assert_eq!(decompress(ZSTD, &compressed, len), Ok(sample(len)), "{len}");
            let zeros = encoder.compress_independent_frame(&vec![0; len]);
            assert_eq!(decompress(ZSTD, &zeros, len), Ok(vec![0; len]), "{len}");
        }
    }

    #[test]
    fn frames_may_follow_each_other_and_be_skipped() {
        let mut input = vec![0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        input.extend(compress(ZSTD, b"one,"));
        input.extend(compress(ZSTD, &sample(50_000)));
        assert_eq!(decompress(ZSTD, &input, 50_004), Ok([b"one,".to_vec(), sample(50_000)].concat()));
        assert_eq!(decompress(ZSTD, &input, 50_003), Err(CompressionError::TooLarge(50_003)));
    }

    #[test]
    fn a_declared_size_takes_no_memory() {
        // one segment of 2^40 bytes, then a last block that repeats one byte four times
        let mut input = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
        input.extend((1u64 << 40).to_le_bytes());
        input.extend([0x23, 0, 0, b'x']);
        let mut out = Vec::new();
        let result = Decompressor::new().decompress(ZSTD, &input, 64 << 20, &mut out);
        assert!(matches!(result, Err(CompressionError::Corrupt(_))));
        assert!(out.capacity() <= 1 << 20);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_round_trip(input in prop::collection::vec(0u8..4, 0..5000), id in 0i8..5) {
        let codec = Compression::from_id(id).filter(|codec| codec.is_available()).unwrap_or_default();
        prop_assert_eq!(decompress(codec, &compress(codec, &input), input.len()), Ok(input));
    }

    #[test]
    fn any_garbage_is_an_error_or_output(input in prop::collection::vec(any::<u8>(), 0..500), id in 0i8..5, frame: bool) {
        let codec = Compression::from_id(id).filter(|codec| codec.is_available()).unwrap_or_default();
        let mut start = if frame { compress(codec, &[]) } else { Vec::new() };
        start.truncate(10);
        start.extend(input);
        let _ = decompress(codec, &start, 1 << 16);
    }
}
