//! The codecs over bodies of records. kafka-protocol and rskafka call flate2, snap and the C libraries.

use std::hint::black_box;

use carafe::wire::compression::{Compression, Compressor, Decompressor};

use crate::{Case, Goal, Side};

/// Codecs and levels.
const CODECS: [(Compression, &[Option<i32>]); 4] = [
    (Compression::Gzip, &[Some(1), Some(6), Some(9)]),
    (Compression::Snappy, &[None]),
    (Compression::Lz4, &[None]),
    (Compression::Zstd, &[Some(1), Some(3), Some(9)]),
];

/// Events of an application as JSON, about 230 bytes each.
fn events(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let kinds = ["order-created", "order-paid", "cart-changed", "login"];
    let mut out = Vec::with_capacity(len + 512);
    while out.len() < len {
        let event = format!(
            "{{\"id\":\"{:016x}{:016x}\",\"kind\":\"{}\",\"customer\":{},\"session\":\"{:016x}\",\"sku\":\"SKU-{:05}\",\
             \"price\":{}.{:02},\"currency\":\"EUR\",\"country\":\"{}\",\"at\":\"2026-11-21T10:{:02}:{:02}Z\"}}",
            random(),
            random(),
            kinds[random() as usize % kinds.len()],
            random() % 100_000,
            random(),
            random() % 20_000,
            random() % 500,
            random() % 100,
            ["DE", "FR", "PL", "US"][random() as usize % 4],
            random() % 60,
            random() % 60,
        );
        out.extend_from_slice(event.as_bytes());
    }
    out.truncate(len);
    out
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (size, len) in [("16 KiB", 16 << 10), ("1 MiB", 1 << 20)] {
        for (codec, levels) in CODECS {
            for level in levels {
                let named = level.map_or(String::new(), |level| format!(" -{level}"));
                let case = |what: &str, sides| Case {
                    name: format!("{codec}{named}, {size}, {what}"),
                    unit: "KiB",
                    units: len as u64 >> 10,
                    goal: Goal::default(),
                    sides,
                };
                cases.push(case("compress", Box::new(move || compress(codec, *level, &events(len)))));
                cases.push(case("decompress", Box::new(move || decompress(codec, *level, &events(len)))));
            }
        }
    }
    cases
}

fn compressed(codec: Compression, level: Option<i32>, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Compressor::new().compress(codec, level, body, &mut out).expect("the codec is there");
    out
}

fn name(side: &str, body: &[u8], compressed: &[u8]) -> String {
    format!("{side}, to {:.0} %", 100.0 * compressed.len() as f64 / body.len() as f64)
}

fn compress(codec: Compression, level: Option<i32>, body: &[u8]) -> Vec<Side> {
    let (mut with, mut out) = (Compressor::new(), Vec::new());
    let name = name("carafe", body, &compressed(codec, level, body));
    let ours = body.to_vec();
    let mut sides = vec![Side::new(name, move || {
        out.clear();
        with.compress(codec, level, &ours, &mut out).expect("the codec is there");
        black_box(&out);
    })];
    sides.extend(c::compress(codec, level, body));
    sides
}

fn decompress(codec: Compression, level: Option<i32>, body: &[u8]) -> Vec<Side> {
    let (mut with, mut out) = (Decompressor::new(), Vec::new());
    let input = compressed(codec, level, body);
    let sides_of_c = c::decompress(codec, &input, body.len());
    let mut sides = vec![Side::new("carafe", move || {
        out.clear();
        with.decompress(codec, &input, usize::MAX, &mut out).expect("what was compressed");
        black_box(&out);
    })];
    sides.extend(sides_of_c);
    sides
}

/// lz4 and zstd by their C libraries, with contexts and buffers reused where they can be. Not gzip: flate2 has one
/// implementation per build.
#[cfg(feature = "c")]
mod c {
    use std::io::{Read, Write};

    use super::*;

    pub fn compress(codec: Compression, level: Option<i32>, body: &[u8]) -> Option<Side> {
        let body = body.to_vec();
        match codec {
            Compression::Lz4 => {
                let lz4 = |body: &[u8], out: Vec<u8>| {
                    let mut encoder = lz4::EncoderBuilder::new()
                        .block_mode(lz4::BlockMode::Independent)
                        .block_size(lz4::BlockSize::Max64KB)
                        .build(out)
                        .expect("a context");
                    encoder.write_all(body).expect("a vector takes everything");
                    let (out, done) = encoder.finish();
                    done.expect("a vector takes everything");
                    out
                };
                let name = name("C", &body, &lz4(&body, Vec::new()));
                let mut out = Vec::new();
                Some(Side::new(name, move || {
                    out.clear();
                    out = lz4(&body, std::mem::take(&mut out));
                    black_box(&out);
                }))
            }
            Compression::Zstd => {
                let mut with = zstd::bulk::Compressor::new(level.unwrap_or(3)).expect("a context");
                let mut out = vec![0; zstd::zstd_safe::compress_bound(body.len())];
                let len = with.compress_to_buffer(&body, &mut out[..]).expect("the buffer is large enough");
                Some(Side::new(name("C", &body, &out[..len]), move || {
                    let len =
                        with.compress_to_buffer(&body, &mut out[..]).expect("the buffer is large enough");
                    black_box(&out[..len]);
                }))
            }
            _ => None,
        }
    }

    pub fn decompress(codec: Compression, input: &[u8], len: usize) -> Option<Side> {
        let input = input.to_vec();
        match codec {
            Compression::Lz4 => {
                let mut out = Vec::with_capacity(len);
                Some(Side::new("C", move || {
                    out.clear();
                    let mut decoder = lz4::Decoder::new(&input[..]).expect("a context");
                    decoder.read_to_end(&mut out).expect("what was compressed");
                    black_box(&out);
                }))
            }
            Compression::Zstd => {
                let mut with = zstd::bulk::Decompressor::new().expect("a context");
                let mut out = vec![0; len];
                Some(Side::new("C", move || {
                    let len = with.decompress_to_buffer(&input, &mut out[..]).expect("what was compressed");
                    black_box(&out[..len]);
                }))
            }
            _ => None,
        }
    }
}

#[cfg(not(feature = "c"))]
mod c {
    use super::*;

    pub fn compress(_: Compression, _: Option<i32>, _: &[u8]) -> Option<Side> {
        None
    }

    pub fn decompress(_: Compression, _: &[u8], _: usize) -> Option<Side> {
        None
    }
}
