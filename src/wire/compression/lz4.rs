//! LZ4 frames around the block codec of `lz4_flex`.
//!
//! The frame is made here: written as Java reads it (independent blocks of 64 KiB, no checksums but that of the header),
//! read in every form, with every checksum checked.

use lz4_flex::block::{self, CompressTable};
use twox_hash::XxHash32;

use super::{CompressionError, make_room};

const MAGIC: [u8; 4] = 0x184D_2204u32.to_le_bytes();

/// Version 1, independent blocks; blocks of 64 KiB; the checksum of these two bytes.
const DESCRIPTOR: [u8; 3] = [0x60, 0x40, 0x82];

/// Block size that Java writes.
const BLOCK: usize = 64 << 10;

/// A block that is stored, not compressed, has this bit in its size.
const STORED: u32 = 1 << 31;

/// How far back a linked block may refer.
const WINDOW: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Encoder {
    table: Option<CompressTable>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
        let table = self.table.get_or_insert_with(CompressTable::large);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&DESCRIPTOR);
        for chunk in input.chunks(BLOCK) {
            let size_at = out.len();
            let start = size_at + 4;
            out.resize(start + block::get_maximum_output_size(chunk.len()), 0);
            let written = block::compress_into_with_table(chunk, &mut out[start..], table)
                .map_err(|_| CompressionError::Corrupt("the encoder ran out of room"))?;
            let size = if written < chunk.len() {
                out.truncate(start + written);
                written as u32
            } else {
                out.truncate(start);
                out.extend_from_slice(chunk);
                chunk.len() as u32 | STORED
            };
            out[size_at..start].copy_from_slice(&size.to_le_bytes());
        }
        out.extend_from_slice(&[0; 4]);
        Ok(())
    }
}

/// Decompresses one frame or several, one after the other; skippable frames are stepped over.
pub(super) fn decompress(mut input: &[u8], cap: usize, out: &mut Vec<u8>) -> Result<(), CompressionError> {
    let limit = out.len().saturating_add(cap);
    if input.is_empty() {
        return Err(CompressionError::Corrupt("no LZ4 frame"));
    }
    while !input.is_empty() {
        let magic = u32::from_le_bytes(take(&mut input)?);
        if magic & 0xffff_fff0 == 0x184D_2A50 {
            let size = u32::from_le_bytes(take(&mut input)?);
            skip(&mut input, size as usize)?;
        } else if magic == u32::from_le_bytes(MAGIC) {
            frame(&mut input, cap, limit, out)?;
        } else {
            return Err(CompressionError::Corrupt("no LZ4 frame"));
        }
    }
    Ok(())
}

/// One frame, its magic already read.
fn frame(input: &mut &[u8], cap: usize, limit: usize, out: &mut Vec<u8>) -> Result<(), CompressionError> {
    let start = out.len();
    let header = *input;
    let [flags, sizes] = take(input)?;
    if flags >> 6 != 1 {
        return Err(CompressionError::Corrupt("unknown version of the LZ4 frame"));
    }
    let block_max = match sizes >> 4 & 7 {
        size @ 4..=7 => 1usize << (8 + 2 * size),
        _ => return Err(CompressionError::Corrupt("unknown block size of the LZ4 frame")),
    };
    let independent = flags & 0x20 != 0;
    let block_checksum = flags & 0x10 != 0;
    let content_size = flags & 0x08 != 0;
    let content_checksum = flags & 0x04 != 0;
    if flags & 0x01 != 0 {
        return Err(CompressionError::Corrupt("LZ4 frame with a dictionary"));
    }
    let declared = if content_size { Some(u64::from_le_bytes(take(input)?)) } else { None };
    let descriptor = &header[..header.len() - input.len()];
    let [checksum] = take(input)?;
    if checksum != header_checksum(descriptor) && checksum != old_header_checksum(descriptor) {
        return Err(CompressionError::Corrupt("LZ4 header does not match its checksum"));
    }
    if declared.is_some_and(|size| size > (limit - start) as u64) {
        return Err(CompressionError::TooLarge(cap));
    }
    loop {
        let size = u32::from_le_bytes(take(input)?);
        if size == 0 {
            break;
        }
        let stored = size & STORED != 0;
        let size = (size & !STORED) as usize;
        // The encoder stores what does not shrink, so no block is larger than its content may be.
        if size > block_max {
            return Err(CompressionError::Corrupt("LZ4 block larger than its frame allows"));
        }
        let Some((data, rest)) = input.split_at_checked(size) else {
            return Err(CompressionError::Corrupt("LZ4 frame ends inside a block"));
        };
        *input = rest;
        if block_checksum && u32::from_le_bytes(take(input)?) != XxHash32::oneshot(0, data) {
            return Err(CompressionError::Corrupt("LZ4 block does not match its checksum"));
        }
        if stored {
            if data.len() > limit - out.len() {
                return Err(CompressionError::TooLarge(cap));
            }
            make_room(out, start, data.len(), limit);
            out.extend_from_slice(data);
        } else {
            inflate(&Block { data, max: block_max, frame: start, independent }, limit, cap, out)?;
        }
    }
    if content_checksum && u32::from_le_bytes(take(input)?) != XxHash32::oneshot(0, &out[start..]) {
        return Err(CompressionError::Corrupt("LZ4 content does not match its checksum"));
    }
    if declared.is_some_and(|size| size != (out.len() - start) as u64) {
        return Err(CompressionError::Corrupt("LZ4 content has another size than declared"));
    }
    Ok(())
}

/// The checksum behind the fields of a header.
fn header_checksum(descriptor: &[u8]) -> u8 {
    (XxHash32::oneshot(0, descriptor) >> 8) as u8
}

/// What clients from before Kafka 0.10 wrote instead: their checksum covers the magic too (KIP-57).
fn old_header_checksum(descriptor: &[u8]) -> u8 {
    header_checksum(&[&MAGIC, descriptor].concat())
}

/// A compressed block.
struct Block<'a> {
    data: &'a [u8],
    /// Most bytes it may hold.
    max: usize,
    /// Where the output of its frame begins.
    frame: usize,
    /// False if it may refer to what the frame has written before.
    independent: bool,
}

/// Appends the content of `block` to `out`.
fn inflate(block: &Block<'_>, limit: usize, cap: usize, out: &mut Vec<u8>) -> Result<(), CompressionError> {
    let start = out.len();
    // A byte of LZ4 gives at most 255 bytes: no more room than that is needed, whatever the block size.
    let most = block.max.min(block.data.len().saturating_mul(255));
    let room = most.min(limit - start);
    make_room(out, block.frame, room, limit);
    out.resize(start + room, 0);
    let (before, target) = out.split_at_mut(start);
    let result = if block.independent {
        block::decompress_into(block.data, target)
    } else {
        let from = block.frame.max(start.saturating_sub(WINDOW));
        block::decompress_into_with_dict(block.data, target, &before[from..])
    };
    match result {
        Ok(written) => {
            out.truncate(start + written);
            Ok(())
        }
        Err(block::DecompressError::OutputTooSmall { .. }) if room < most => {
            Err(CompressionError::TooLarge(cap))
        }
        Err(_) => Err(CompressionError::Corrupt("invalid LZ4 block")),
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], CompressionError> {
    let (bytes, rest) =
        input.split_first_chunk().ok_or(CompressionError::Corrupt("LZ4 frame is cut short"))?;
    *input = rest;
    Ok(*bytes)
}

fn skip(input: &mut &[u8], count: usize) -> Result<(), CompressionError> {
    *input = input.get(count..).ok_or(CompressionError::Corrupt("LZ4 frame is cut short"))?;
    Ok(())
}
