//! The C libraries: zlib, libzstd, liblz4 and Google's Snappy.

use std::io::{Read, Write};
use std::mem::MaybeUninit;

use carafe::wire::compression::Compression;
use libz_sys as z;
use lz4::{BlockMode, BlockSize, ContentChecksum};

/// Levels at which the library of `codec` is run.
pub(crate) fn levels(codec: Compression) -> Vec<i32> {
    match codec {
        Compression::Gzip => vec![0, 1, 6, 9],
        Compression::Lz4 => vec![0, 3, 9, 12],
        Compression::Zstd => vec![-50, -5, -1, 1, 2, 3, 4, 5, 6, 7, 9, 12, 15, 19, 22],
        _ => vec![0],
    }
}

/// `input` in the forms that the library of `codec` can write at `level`, with their names.
pub(crate) fn compress(codec: Compression, level: i32, input: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    match codec {
        Compression::Gzip => vec![
            ("default strategy", deflate(level, z::Z_DEFAULT_STRATEGY, false, input)),
            ("filtered, header fields, flushes", deflate(level, z::Z_FILTERED, true, input)),
            ("Huffman codes alone", deflate(level, z::Z_HUFFMAN_ONLY, false, input)),
            ("runs alone, flushes", deflate(level, z::Z_RLE, true, input)),
            ("fixed codes", deflate(level, z::Z_FIXED, false, input)),
        ],
        Compression::Snappy => vec![
            ("one block", snappy_block(input)),
            ("stream of one block", xerial(input, usize::MAX)),
            ("stream of 1 KiB blocks", xerial(input, 1 << 10)),
        ],
        Compression::Lz4 => {
            let level = level as u32;
            vec![
                ("Kafka's form", lz4_frame(level, BlockMode::Independent, BlockSize::Max64KB, false, input)),
                (
                    "checksums and size",
                    lz4_frame(level, BlockMode::Independent, BlockSize::Max1MB, true, input),
                ),
                ("linked blocks", lz4_frame(level, BlockMode::Linked, BlockSize::Max64KB, false, input)),
                ("linked 4 MiB", lz4_frame(level, BlockMode::Linked, BlockSize::Max4MB, true, input)),
            ]
        }
        Compression::Zstd => {
            let mut forms =
                vec![("at once", zstd::bulk::compress(input, level).expect("libzstd compresses"))];
            // Without a size the encoder makes room for the largest: hundreds of megabytes at the highest levels.
            if level <= 9 {
                forms.push(("streamed", zstd_stream(level, false, None, input)));
                forms.push(("streamed, checksum, flushes", zstd_stream(level, true, None, input)));
            }
            if level == 3 {
                forms.push(("streamed, window of 128 MiB", zstd_stream(level, false, Some(27), input)));
            }
            forms
        }
        _ => Vec::new(),
    }
}

/// What the library of `codec` reads out of `input`.
pub(crate) fn decompress(codec: Compression, input: &[u8]) -> Result<Vec<u8>, String> {
    match codec {
        Compression::Gzip => inflate(input),
        Compression::Snappy => unframed(input),
        Compression::Lz4 => {
            let mut out = Vec::new();
            let mut decoder = lz4::Decoder::new(input).map_err(|error| error.to_string())?;
            decoder.read_to_end(&mut out).map_err(|error| error.to_string())?;
            decoder.finish().1.map(|()| out).map_err(|error| error.to_string())
        }
        Compression::Zstd => zstd::stream::decode_all(input).map_err(|error| error.to_string()),
        _ => Ok(input.to_vec()),
    }
}

fn zstd_stream(level: i32, checksum: bool, window: Option<u32>, input: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), level).expect("a context");
    encoder.include_checksum(checksum).expect("a parameter");
    if let Some(window) = window {
        encoder.window_log(window).expect("a parameter");
        encoder.long_distance_matching(true).expect("a parameter");
    }
    for part in input.chunks(input.len() / 3 + 1) {
        encoder.write_all(part).expect("libzstd compresses");
        if checksum {
            encoder.flush().expect("libzstd flushes");
        }
    }
    encoder.finish().expect("libzstd compresses")
}

fn lz4_frame(level: u32, mode: BlockMode, size: BlockSize, full: bool, input: &[u8]) -> Vec<u8> {
    let mut builder = lz4::EncoderBuilder::new();
    builder.level(level).block_mode(mode).block_size(size);
    if full {
        builder.checksum(ContentChecksum::ChecksumEnabled).content_size(input.len() as u64);
        builder.block_checksum(lz4::liblz4::BlockChecksum::BlockChecksumEnabled);
    } else {
        builder.checksum(ContentChecksum::NoChecksum);
    }
    let mut encoder = builder.build(Vec::new()).expect("a context");
    encoder.write_all(input).expect("liblz4 compresses");
    let (out, result) = encoder.finish();
    result.expect("liblz4 compresses");
    out
}

fn snappy_block(input: &[u8]) -> Vec<u8> {
    // SAFETY: the buffer has the length that the library asks for.
    unsafe {
        let mut len = snappy_src::snappy_max_compressed_length(input.len());
        let mut out = vec![0u8; len];
        let status = snappy_src::snappy_compress(
            input.as_ptr().cast(),
            input.len(),
            out.as_mut_ptr().cast(),
            &mut len,
        );
        assert_eq!(status, snappy_src::snappy_status_SNAPPY_OK);
        out.truncate(len);
        out
    }
}

fn snappy_unblock(input: &[u8]) -> Result<Vec<u8>, String> {
    let refused = |status| Err(format!("Snappy status {status}"));
    // SAFETY: the buffer has the length that the library says.
    unsafe {
        let mut len = 0;
        let status = snappy_src::snappy_uncompressed_length(input.as_ptr().cast(), input.len(), &mut len);
        if status != snappy_src::snappy_status_SNAPPY_OK || len > 64 << 20 {
            return refused(status);
        }
        let mut out = vec![0u8; len];
        let status = snappy_src::snappy_uncompress(
            input.as_ptr().cast(),
            input.len(),
            out.as_mut_ptr().cast(),
            &mut len,
        );
        if status != snappy_src::snappy_status_SNAPPY_OK {
            return refused(status);
        }
        out.truncate(len);
        Ok(out)
    }
}

const XERIAL: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

fn xerial(input: &[u8], block: usize) -> Vec<u8> {
    let mut out = XERIAL.to_vec();
    for chunk in input.chunks(block) {
        let packed = snappy_block(chunk);
        out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        out.extend_from_slice(&packed);
    }
    out
}

fn unframed(input: &[u8]) -> Result<Vec<u8>, String> {
    let Some(mut blocks) = input.strip_prefix(XERIAL) else { return snappy_unblock(input) };
    let mut out = Vec::new();
    while let Some((len, rest)) = blocks.split_first_chunk::<4>() {
        let (block, rest) =
            rest.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or("a block is cut short")?;
        out.extend(snappy_unblock(block)?);
        blocks = rest;
    }
    if blocks.is_empty() { Ok(out) } else { Err("a length is cut short".to_owned()) }
}

/// Window of 32 KiB, in gzip's wrapping.
const GZIP: i32 = 15 + 16;
const STREAM_SIZE: i32 = size_of::<z::z_stream>() as i32;

fn stream() -> z::z_stream {
    // SAFETY: zlib takes a zeroed stream: no input, and null for the functions that allocate means its own. The
    // bindings type those as never null, so they are set too.
    unsafe {
        let mut stream = MaybeUninit::<z::z_stream>::zeroed();
        (&raw mut (*stream.as_mut_ptr()).zalloc).write(allocate);
        (&raw mut (*stream.as_mut_ptr()).zfree).write(free);
        stream.assume_init()
    }
}

extern "C" fn allocate(_: z::voidpf, items: z::uInt, size: z::uInt) -> z::voidpf {
    // SAFETY: plain allocation.
    unsafe { z_calloc(items as usize, size as usize) }
}

extern "C" fn free(_: z::voidpf, address: z::voidpf) {
    // SAFETY: `address` comes from `allocate`.
    unsafe { z_free(address) }
}

unsafe extern "C" {
    #[link_name = "calloc"]
    fn z_calloc(items: usize, size: usize) -> z::voidpf;
    #[link_name = "free"]
    fn z_free(address: z::voidpf);
}

/// With `full` there are all header fields, and the input is flushed in between.
fn deflate(level: i32, strategy: i32, full: bool, input: &[u8]) -> Vec<u8> {
    let (mut name, mut comment, mut extra) = (*b"name\0", *b"comment\0", *b"extra");
    // SAFETY: buffers outlive the calls, and lengths are theirs.
    unsafe {
        let mut header: z::gz_header = std::mem::zeroed();
        header.extra = extra.as_mut_ptr();
        header.extra_len = extra.len() as u32;
        header.name = name.as_mut_ptr();
        header.comment = comment.as_mut_ptr();
        header.hcrc = 1;
        let mut stream = stream();
        let version = z::zlibVersion();
        let status =
            z::deflateInit2_(&mut stream, level, z::Z_DEFLATED, GZIP, 8, strategy, version, STREAM_SIZE);
        assert_eq!(status, z::Z_OK);
        if full {
            assert_eq!(z::deflateSetHeader(&mut stream, &mut header), z::Z_OK);
        }
        let mut out = vec![0u8; input.len() + input.len() / 8 + 4096];
        stream.next_out = out.as_mut_ptr();
        stream.avail_out = out.len() as u32;
        let middle = if full { input.len() / 2 } else { 0 };
        for (part, flush) in [(&input[..middle], z::Z_SYNC_FLUSH), (&input[middle..], z::Z_FINISH)] {
            if part.is_empty() && flush != z::Z_FINISH {
                continue;
            }
            stream.next_in = part.as_ptr().cast_mut();
            stream.avail_in = part.len() as u32;
            let status = z::deflate(&mut stream, flush);
            assert_eq!(status, if flush == z::Z_FINISH { z::Z_STREAM_END } else { z::Z_OK });
        }
        out.truncate(stream.total_out as usize);
        z::deflateEnd(&mut stream);
        out
    }
}

/// All members.
fn inflate(input: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = input;
    // SAFETY: buffers outlive the calls, and lengths are theirs.
    unsafe {
        let mut stream = stream();
        let status = z::inflateInit2_(&mut stream, GZIP, z::zlibVersion(), STREAM_SIZE);
        assert_eq!(status, z::Z_OK);
        let result = loop {
            let mut room = [0u8; 1 << 16];
            stream.next_in = rest.as_ptr().cast_mut();
            stream.avail_in = rest.len() as u32;
            stream.next_out = room.as_mut_ptr();
            stream.avail_out = room.len() as u32;
            let status = z::inflate(&mut stream, z::Z_NO_FLUSH);
            out.extend_from_slice(&room[..room.len() - stream.avail_out as usize]);
            rest = &rest[rest.len() - stream.avail_in as usize..];
            match status {
                z::Z_STREAM_END if rest.is_empty() => break Ok(()),
                z::Z_STREAM_END => {
                    z::inflateReset(&mut stream);
                }
                z::Z_OK => {}
                status => break Err(format!("zlib status {status}")),
            }
        };
        z::inflateEnd(&mut stream);
        result.map(|()| out)
    }
}
