use bytes::Bytes;

use crate::decoder::Batches;
use crate::input::Input;
use crate::limits::within;

/// Most bytes that a batch may inflate to.
const CAP: usize = 64 << 10;

/// Record batches in format 2, and in formats 0 and 1, which may be read or refused.
///
/// Input: whether lengths and checksums are made right first (1 byte, odd), where the blob is cut (2 bytes), the blob.
pub fn records(decoder: &mut impl Batches, input: &[u8]) {
    let mut input = Input::new(input);
    let sealed = input.u8() & 1 == 1;
    let cut = usize::from(input.u16());
    let mut blob = input.rest().to_vec();
    if sealed {
        seal(&mut blob);
    }
    let blob = Bytes::from(blob);
    let (batches, refusal) = within(blob.len(), || decoder.batches(&blob, CAP));

    // Cut short anywhere, what is left reads as before.
    let front = blob.slice(..cut.min(blob.len()));
    let (first, refused) = decoder.batches(&front, CAP);
    assert!(batches.starts_with(&first), "{first:?} of {batches:?}");
    assert!(refused.is_none() || refused == refusal, "{refused:?} instead of {refusal:?}");
}

/// Makes the checksums of the batches in `blob` right, and the length of the last one if it goes beyond the end, so that
/// what lies behind them is reached.
pub fn seal(blob: &mut [u8]) {
    const HEADER: usize = 61;
    let mut rest = blob;
    while rest.len() >= HEADER {
        let mut len = i32::from_be_bytes([rest[8], rest[9], rest[10], rest[11]]);
        if len < 49 || len as usize > rest.len() - 12 {
            len = (rest.len() - 12) as i32;
            rest[8..12].copy_from_slice(&len.to_be_bytes());
        }
        let (batch, after) = rest.split_at_mut(12 + len as usize);
        let checksum = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&checksum.to_be_bytes());
        rest = after;
    }
}
