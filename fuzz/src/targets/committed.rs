use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::decoder::Committed;
use crate::input::Input;
use crate::limits::within;
use crate::targets::seal;

/// What a consumer of committed records sees of a log with transactions.
///
/// Input: how the log is read (1 byte), then either a script of producers, which is read under the aborted transactions
/// that it really has, in any order and with others among them; or a list of aborted transactions and any blob.
pub fn committed(decoder: &mut impl Committed, input: &[u8]) {
    let mut input = Input::new(input);
    let mode = input.u8();
    if mode >= 128 {
        let aborted: Vec<(i64, i64)> = (0..input.below(16)).map(|_| (input.i64(), input.i64())).collect();
        let mut blob = input.rest().to_vec();
        seal(&mut blob);
        let _ = within(blob.len() + 16 * aborted.len(), || decoder.visible(&blob.into(), &aborted));
        return;
    }
    let mut strays: Vec<(i64, i64)> =
        (0..mode & 7).map(|_| (input.below(PRODUCERS).into_id(), input.u8().into())).collect();
    let log = Log::written(&mut input);
    let blob = Bytes::from(log.bytes);
    let read = |decoder: &mut _, aborted: &[(i64, i64)]| {
        let (visible, refusal) =
            within(blob.len() + 16 * aborted.len(), || Committed::visible(decoder, &blob, aborted));
        assert_eq!(refusal, None);
        visible
    };

    let mut aborted = log.aborted;
    if mode & 8 != 0 {
        aborted.reverse();
    }
    if mode & 16 != 0 {
        aborted.extend_from_within(..);
    }
    if strays.is_empty() && mode & 16 == 0 {
        assert_eq!(read(decoder, &aborted), log.visible);
    } else {
        // A list that says too much may hide more; never does it show what was aborted.
        strays.append(&mut aborted);
        let visible: BTreeSet<i64> = read(decoder, &strays).into_iter().collect();
        let expected: BTreeSet<i64> = log.visible.into_iter().collect();
        assert!(visible.is_subset(&expected), "{visible:?} of {expected:?}");
    }
}

const PRODUCERS: usize = 4;

trait IntoId {
    fn into_id(self) -> i64;
}

impl IntoId for usize {
    fn into_id(self) -> i64 {
        self as i64 + 100
    }
}

/// A partition that producers write to at the same time, and what is true of it.
#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    end: i64,
    /// Open transactions: first offset, offsets of records.
    open: BTreeMap<i64, (i64, Vec<i64>)>,
    visible: Vec<i64>,
    /// By the offset of their markers, as brokers list them.
    aborted: Vec<(i64, i64)>,
}

impl Log {
    fn written(input: &mut Input<'_>) -> Self {
        let mut log = Self::default();
        while !input.is_empty() && log.end < 2000 {
            let step = input.u8();
            let producer = (usize::from(step >> 4) % PRODUCERS).into_id();
            match step & 15 {
                0..=5 => log.records(Some(producer), input.below(5) as i64 + 1),
                6..=8 => log.records(None, input.below(5) as i64 + 1),
                9..=11 => log.end_of(producer, true),
                12..=14 => log.end_of(producer, false),
                _ => log.end += i64::from(input.u8()), // compacted away
            }
        }
        for producer in 0..PRODUCERS {
            log.end_of(producer.into_id(), input.u8() & 1 == 1);
        }
        log.visible.sort_unstable();
        log
    }

    fn records(&mut self, producer: Option<i64>, count: i64) {
        let offsets = self.end..self.end + count;
        match producer {
            Some(producer) => self.open.entry(producer).or_insert((self.end, Vec::new())).1.extend(offsets),
            None => self.visible.extend(offsets),
        }
        let attributes = if producer.is_some() { 0x10 } else { 0 };
        self.batch(
            attributes,
            producer,
            (0..count).flat_map(|delta| record(delta as u8, None)).collect(),
            count,
        );
    }

    /// A marker; without a transaction it changes nothing.
    fn end_of(&mut self, producer: i64, abort: bool) {
        match self.open.remove(&producer) {
            Some((first, _)) if abort => self.aborted.push((producer, first)),
            Some((_, offsets)) => self.visible.extend(offsets),
            None => {}
        }
        let key = [0, 0, 0, u8::from(!abort)];
        self.batch(0x30, Some(producer), record(0, Some(key)), 1);
    }

    fn batch(&mut self, attributes: i16, producer: Option<i64>, records: Vec<u8>, count: i64) {
        let start = self.bytes.len();
        let mut put = |bytes: &[u8]| self.bytes.extend_from_slice(bytes);
        put(&self.end.to_be_bytes());
        put(&(49 + records.len() as i32).to_be_bytes());
        put(&[0, 0, 0, 0, 2, 0, 0, 0, 0]); // epoch, format, checksum
        put(&attributes.to_be_bytes());
        put(&(count as i32 - 1).to_be_bytes());
        put(&[0; 16]); // timestamps
        put(&producer.unwrap_or(-1).to_be_bytes());
        put(&[0; 6]); // epoch, sequence
        put(&(count as i32).to_be_bytes());
        put(&records);
        seal(&mut self.bytes[start..]);
        self.end += count;
    }
}

/// A record with a key or none, its numbers small enough for one byte.
fn record(delta: u8, key: Option<[u8; 4]>) -> Vec<u8> {
    let mut body = vec![0, 0, delta * 2];
    match key {
        Some(key) => {
            body.push(8);
            body.extend(key);
        }
        None => body.push(1),
    }
    body.extend([1, 0]); // null value, no headers
    body.insert(0, body.len() as u8 * 2);
    body
}
