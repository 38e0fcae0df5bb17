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
        assert_eq!(error.advice().unwrap(), format!("build carafe with the feature `{codec}`"));
    }
}

#[test]
fn a_level_that_a_codec_lacks_is_refused_with_its_range() {
    for codec in codecs() {
        let compress = |level| Compressor::new().compress(codec, Some(level), b"x", &mut Vec::new());
        let Some(levels) = codec.levels() else {
            assert_eq!(compress(3), Ok(()), "{codec} has one level");
            continue;
        };
        for level in [levels.start() - 1, levels.end() + 1] {
            let error = compress(level).unwrap_err();
            assert_eq!(error, CompressionError::Level(codec, level));
            let text = format!("{codec} has no level {level}: {} to {}", levels.start(), levels.end());
            assert_eq!(error.to_string(), text);
        }
    }
}

#[test]
fn everything_comes_back_with_contexts_used_again() {
    let mut compressor = Compressor::new();
    let mut decompressor = Decompressor::new();
    for codec in codecs() {
        for len in [0, 1, 100, 32 << 10, (64 << 10) + 1, 300_000] {
            let levels = codec.levels().into_iter().flat_map(|levels| [*levels.start(), *levels.end()]);
            for level in levels.filter(|_| len < 100_000).map(Some).chain([None]) {
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
    use twox_hash::XxHash32;

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
    fn a_header_has_its_checksum_or_that_of_old_writers() {
        for checksum in 0..=u8::MAX {
            let mut compressed = compress(LZ4, &sample(100));
            compressed[6] = checksum;
            let right = matches!(checksum, 0x82 | 0x1a);
            assert_eq!(decompress(LZ4, &compressed, 100).is_ok(), right, "{checksum:x}");
        }
    }

    #[test]
    fn frames_may_follow_each_other_and_be_skipped() {
        let mut input = vec![0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        input.extend(compress(LZ4, b"one,"));
        input.extend(compress(LZ4, b"two"));
        assert_eq!(decompress(LZ4, &input, 100), Ok(b"one,two".to_vec()));
    }

    /// A frame with `flags`, blocks of at most 4 MiB, and `rest` behind its header.
    fn frame(flags: u8, content_size: Option<u64>, rest: &[&[u8]]) -> Vec<u8> {
        let mut frame = vec![0x04, 0x22, 0x4d, 0x18, flags, 0x70];
        frame.extend(content_size.into_iter().flat_map(u64::to_le_bytes));
        frame.push((XxHash32::oneshot(0, &frame[4..]) >> 8) as u8);
        frame.extend(rest.concat());
        frame
    }

    const STORED_HELLO: &[u8] = b"\x05\0\0\x80hello";
    const END: &[u8] = &[0; 4];

    #[test]
    fn checksums_and_sizes_inside_are_checked() {
        let hello = XxHash32::oneshot(0, b"hello").to_le_bytes();
        let input = frame(0x7c, Some(5), &[STORED_HELLO, &hello, END, &hello]);
        assert_eq!(decompress(LZ4, &input, 100), Ok(b"hello".to_vec()));
        assert_eq!(decompress(LZ4, &input, 4), Err(CompressionError::TooLarge(4)));
        for (wrong, what) in [(24, "block"), (28 + 4, "content")] {
            let mut input = input.clone();
            input[wrong] ^= 1;
            let error = decompress(LZ4, &input, 100).unwrap_err().to_string();
            assert!(error.ends_with(&format!("LZ4 {what} does not match its checksum")), "{error}");
        }
        let input = frame(0x68, Some(6), &[STORED_HELLO, END]);
        assert!(matches!(decompress(LZ4, &input, 100), Err(CompressionError::Corrupt(_))));
        let input = frame(0x68, Some(u64::MAX), &[STORED_HELLO, END]);
        assert_eq!(decompress(LZ4, &input, 100), Err(CompressionError::TooLarge(100)));
    }

    #[test]
    fn linked_blocks_see_what_was_written_before() {
        // a copy of five bytes from five back and a literal
        let block = [9, 0, 0, 0, 0x01, 5, 0, 0x50, b'!', b'!', b'!', b'!', b'!'];
        let input = frame(0x40, None, &[STORED_HELLO, &block, END]);
        assert_eq!(decompress(LZ4, &input, 100), Ok(b"hellohello!!!!!".to_vec()));
        let input = frame(0x60, None, &[STORED_HELLO, &block, END]);
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

#[cfg(any(feature = "zstd", feature = "zstd-c"))]
mod zstd {
    use super::*;

    const ZSTD: Compression = Compression::Zstd;
    const MAGIC: [u8; 4] = 0xfd2f_b528u32.to_le_bytes();

    /// A frame without content size that declares a window of 128 MiB, as encoders at the highest level do.
    fn frame(checksum: bool, blocks: &[&[u8]]) -> Vec<u8> {
        let mut frame = [&MAGIC[..], &[if checksum { 0x04 } else { 0 }, 17 << 3]].concat();
        frame.extend(blocks.concat());
        frame
    }

    /// A block of `size` times the byte `x`; type 1.
    fn repeated(size: u32, last: bool) -> [u8; 4] {
        let [a, b, c, _] = (size << 3 | 2 | u32::from(last)).to_le_bytes();
        [a, b, c, b'x']
    }

    #[test]
    fn frames_without_content_size_are_read_whatever_their_window() {
        let raw = [&[5 << 3, 0, 0][..], b"hello"].concat();
        let input = frame(false, &[&raw, &repeated(100_000, true)]);
        let content = [&b"hello"[..], &[b'x'; 100_000]].concat();
        let mut out = Vec::new();
        assert_eq!(Decompressor::new().decompress(ZSTD, &input, 1 << 30, &mut out), Ok(()));
        assert!(out == content);
        assert!(out.capacity() < 128 << 10, "{} bytes", out.capacity());
        assert_eq!(decompress(ZSTD, &input, 100_004), Err(CompressionError::TooLarge(100_004)));
    }

    /// Streamed by libzstd at level 1, as Java does: neither content size nor checksum, sequences to the end.
    const STREAMED: &[u8] = include_bytes!("streamed.zst");

    #[test]
    fn output_that_ends_inside_a_block_is_too_small_and_not_corrupt() {
        let content = decompress(ZSTD, STREAMED, 1 << 20).unwrap();
        for cap in 0..content.len() {
            assert_eq!(decompress(ZSTD, STREAMED, cap), Err(CompressionError::TooLarge(cap)));
        }
        assert_eq!(decompress(ZSTD, STREAMED, content.len()), Ok(content));
    }

    #[test]
    fn each_library_reads_what_each_writes_and_is_chosen_as_the_program_runs() {
        assert_eq!(ZstdLibrary::ALL.last(), Some(&ZstdLibrary::default()));
        let mut frames = Vec::new();
        for &writer in ZstdLibrary::ALL {
            let mut frame = Vec::new();
            let mut with = Compressor::new().with_zstd(writer);
            with.compress(ZSTD, Some(3), &sample(50_000), &mut frame).unwrap();
            for &reader in ZstdLibrary::ALL {
                let mut out = Vec::new();
                let mut with = Decompressor::new().with_zstd(reader);
                assert_eq!(
                    with.decompress(ZSTD, &frame, 50_000, &mut out),
                    Ok(()),
                    "{reader:?} of {writer:?}"
                );
                assert!(out == sample(50_000));
            }
            assert!(!frames.contains(&frame), "two encoders, two ways to say it");
            frames.push(frame);
        }
        assert_eq!(frames.len(), usize::from(cfg!(feature = "zstd")) + usize::from(cfg!(feature = "zstd-c")));
    }

    #[test]
    fn content_that_differs_from_its_checksum_is_refused() {
        // the low half of XXH64 of nothing is 0x51d8e999
        let mut input = frame(true, &[&[1, 0, 0], &0x51d8_e999u32.to_le_bytes()]);
        assert_eq!(decompress(ZSTD, &input, 10), Ok(Vec::new()));
        input[9] ^= 1;
        assert!(matches!(decompress(ZSTD, &input, 10), Err(CompressionError::Corrupt(_))));
    }

    #[test]
    fn frames_may_follow_each_other_and_be_skipped() {
        let mut input = vec![0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        input.extend(compress(ZSTD, b"one,"));
        input.extend(compress(ZSTD, &sample(50_000)));
        assert_eq!(decompress(ZSTD, &input, 50_004), Ok([b"one,".to_vec(), sample(50_000)].concat()));
        assert_eq!(decompress(ZSTD, &input, 50_003), Err(CompressionError::TooLarge(50_003)));
        input.push(0);
        assert!(matches!(decompress(ZSTD, &input, 50_004), Err(CompressionError::Corrupt(_))));
    }

    #[test]
    fn declared_sizes_are_held_against_blocks_and_cap_before_memory_is_taken() {
        for (declared, cap, error) in [
            (1 << 63, usize::MAX, CompressionError::Corrupt("Zstandard frame declares a wrong size")),
            (100_001, usize::MAX, CompressionError::Corrupt("Zstandard frame declares a wrong size")),
            (100_000, 99_999, CompressionError::TooLarge(99_999)),
        ] {
            let input = [&MAGIC[..], &[0xe0], &u64::to_le_bytes(declared), &repeated(100_000, true)].concat();
            let mut out = Vec::new();
            assert_eq!(Decompressor::new().decompress(ZSTD, &input, cap, &mut out), Err(error));
            assert_eq!(out.capacity(), 0);
        }
        let input = [&MAGIC[..], &[0xe0], &99_999u64.to_le_bytes(), &repeated(100_000, true)].concat();
        assert!(matches!(decompress(ZSTD, &input, 1 << 20), Err(CompressionError::Corrupt(_))), "too small");
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
