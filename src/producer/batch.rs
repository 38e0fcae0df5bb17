//! A closed batch on its way, and the cell through which those who wait for it learn its fate.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::time::Instant;

use super::compress::Codec;
use super::record::{Destination, Header, RecordBytes};
use super::{Outcome, Record};
use crate::sync::{Completion, Credit};
use crate::types::TopicName;
use crate::wire::compression::{Compression, Decompressor};
use crate::wire::records::{AppendError, BatchMeta, BatchWriter, HEADER_LEN, RecordRange, decode_records};
use crate::{Error, ErrorKind};

/// Longest batch that is decoded to restore a record or to split it.
const DECODE_MAX: usize = 1 << 30;

/// What the receipts of a batch share.
#[derive(Debug)]
pub(super) struct BatchCell {
    pub(super) completion: Completion<Fate>,
    pub(super) topic: TopicName,
    pub(super) partition: i32,
}

/// The fate of a range of records.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    /// Written: `first` is the index of the record at `base_offset`, which is -1 where it is not known.
    Written { first: u32, base_offset: i64, log_append_time: i64 },
    /// Not acknowledged.
    Failed(Arc<Failed>),
}

/// Records that failed, kept so that they can be returned.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) outcome: Outcome,
    kept: Arc<Kept>,
}

/// A batch whose records may be returned.
#[derive(Debug)]
struct Kept {
    first: u32,
    meta: BatchMeta,
    compression: Compression,
    body: Bytes,
    /// Decoded for the first record that is wanted, since most often all are, and all share it.
    decoded: OnceLock<Option<(Bytes, Vec<RecordRange>)>>,
}

/// A batch that receives no more records.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) cell: Arc<BatchCell>,
    /// Number in order of closing; parts of a split batch have the same.
    pub(super) id: u64,
    /// Index, in the cell, of the first record.
    pub(super) first: u32,
    pub(super) meta: BatchMeta,
    pub(super) compression: Compression,
    /// The records as they go over the wire.
    pub(super) body: Bytes,
    /// Memory that is given back once the batch is gone.
    pub(super) credit: Option<Credit>,
    pub(super) created: Instant,
    /// Sequence of the first record, from its first drain on.
    pub(super) sequence: Option<i32>,
    /// Times that it was sent and failed for a reason of its own.
    pub(super) attempts: u32,
    /// It was sent, and it is not known whether it was written.
    pub(super) maybe_written: bool,
    /// One of the attempts of which that is not known named the topic, not its id.
    pub(super) named: bool,
    /// The topic was made anew while it was on the way, and its name may have led to either.
    pub(super) astray: bool,
    /// The broker said that sequences are missing before it, which does not tell whether it was written as long as one
    /// behind it may have been: a broker that was restarted remembers the last batch alone.
    pub(super) doubted: bool,
    /// It was sent again because it was damaged on the way.
    pub(super) damaged: bool,
    /// Why it was not acknowledged yet.
    pub(super) last_error: Option<Error>,
    /// Everybody knows its fate.
    pub(super) settled: bool,
}

impl Batch {
    pub(super) fn new(
        cell: Arc<BatchCell>,
        meta: BatchMeta,
        compression: Compression,
        body: Bytes,
        credit: Option<Credit>,
        created: Instant,
    ) -> Self {
        Self {
            cell,
            id: 0,
            first: 0,
            meta,
            compression,
            body,
            credit,
            created,
            sequence: None,
            attempts: 0,
            maybe_written: false,
            named: false,
            astray: false,
            doubted: false,
            damaged: false,
            last_error: None,
            settled: false,
        }
    }

    /// Place in the order of the partition.
    pub(super) fn order(&self) -> (u64, u32) {
        (self.id, self.first)
    }

    pub(super) fn count(&self) -> u32 {
        self.meta.record_count.max(0) as u32
    }

    /// Bytes on the wire.
    pub(super) fn wire_len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    /// What is known of it if nothing more becomes known.
    pub(super) fn outcome(&self) -> Outcome {
        if self.maybe_written { Outcome::Unknown } else { Outcome::NotWritten }
    }

    /// Tells everybody that it was written.
    pub(super) fn written(&mut self, base_offset: i64, log_append_time: i64) {
        if !std::mem::replace(&mut self.settled, true) {
            let fate = Fate::Written { first: self.first, base_offset, log_append_time };
            self.cell.completion.complete(self.first..self.first + self.count(), fate);
        }
    }

    /// Tells everybody that it failed.
    pub(super) fn failed(&mut self, error: Error, outcome: Outcome) {
        if !std::mem::replace(&mut self.settled, true) {
            let fate = failure(&self.keep(), error, outcome);
            self.cell.completion.complete(self.first..self.first + self.count(), fate);
        }
    }

    /// Tells everybody that the records at `indexes` failed for reasons of their own, and the others because of them.
    pub(super) fn refused(&mut self, reasons: &[(u32, Error)], others: Error) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let kept = self.keep();
        let completion = &self.cell.completion;
        let mut next = self.first;
        let mut reasons: Vec<_> = reasons.iter().collect();
        reasons.sort_by_key(|(index, _)| *index);
        for (index, error) in reasons {
            let at = self.first.saturating_add(*index);
            if at < next || *index >= self.count() {
                continue; // named twice, or not ours
            }
            if at > next {
                completion.complete(next..at, failure(&kept, others.clone(), Outcome::NotWritten));
            }
            let own = error.clone().with_retriable(false);
            completion.complete(at..at + 1, failure(&kept, own, Outcome::NotWritten));
            next = at + 1;
        }
        let end = self.first + self.count();
        if next < end {
            completion.complete(next..end, failure(&kept, others, Outcome::NotWritten));
        }
    }

    fn keep(&self) -> Arc<Kept> {
        Arc::new(Kept {
            first: self.first,
            meta: self.meta,
            compression: self.compression,
            body: self.body.clone(),
            decoded: OnceLock::new(),
        })
    }

    /// Two batches with the records of this one, the first with at least half of the bytes if it can be. Sequences stay
    /// with their records. `None` for a single record, or if the body cannot be read.
    pub(super) fn split(&mut self, codec: &Codec) -> Option<[Self; 2]> {
        if self.count() < 2 {
            return None;
        }
        let (data, records) = decode(&self.meta, self.compression, &self.body)?;
        let mut writers = [BatchWriter::new(), BatchWriter::new()];
        let mut side = 0;
        for (index, record) in records.iter().enumerate() {
            // Never all of them in the first.
            let last = index + 1 == records.len();
            if side == 0 && index > 0 && (last || writers[0].body_len() >= data.len() / 2) {
                side = 1;
            }
            match writers[side].append_record(&record.get(&data)) {
                Ok(_) => {}
                Err(AppendError::Full | AppendError::TimestampSpan) => return None,
            }
        }
        let half = self.credit.as_mut().map(|credit| credit.split(credit.bytes() / 2));
        let mut credit = [half, self.credit.take()].into_iter();
        let mut first = self.first;
        let mut sequence = self.sequence;
        self.settled = true;
        Some(writers.map(|writer| {
            let (plain, meta) = writer.finish();
            let (compression, body) = codec.compress(plain);
            let part = Self {
                cell: Arc::clone(&self.cell),
                id: self.id,
                first,
                meta,
                compression,
                body,
                credit: credit.next().flatten(),
                created: self.created,
                sequence,
                attempts: self.attempts,
                maybe_written: self.maybe_written,
                named: self.named,
                astray: self.astray,
                doubted: false,
                damaged: self.damaged,
                last_error: self.last_error.clone(),
                settled: false,
            };
            first += part.count();
            sequence = sequence.map(|sequence| add_sequence(sequence, part.count()));
            part
        }))
    }
}

impl Drop for Batch {
    /// Nobody waits for ever, whatever happens to the sender.
    fn drop(&mut self) {
        if !self.settled {
            let error = Error::new(ErrorKind::State, "the producer ended before the record was acknowledged");
            self.failed(error, self.outcome());
        }
    }
}

fn failure(kept: &Arc<Kept>, error: Error, outcome: Outcome) -> Fate {
    Fate::Failed(Arc::new(Failed { error, outcome, kept: Arc::clone(kept) }))
}

/// The sequence `count` records on: after 2³¹-1 comes 0.
pub(super) fn add_sequence(sequence: i32, count: u32) -> i32 {
    ((i64::from(sequence) + i64::from(count)) & 0x7fff_ffff) as i32
}

impl Failed {
    /// The record with `index` in the cell.
    pub(super) fn record(&self, cell: &BatchCell, index: u32) -> Option<Record<'static>> {
        let kept = &*self.kept;
        let decoded = kept.decoded.get_or_init(|| decode(&kept.meta, kept.compression, &kept.body));
        let (data, records) = decoded.as_ref()?;
        let record = records.get(index.checked_sub(kept.first)? as usize)?.get(data);
        let own = |bytes: &[u8]| RecordBytes::Shared(data.slice_ref(bytes));
        Some(Record {
            destination: Destination::Shared(cell.topic.clone()),
            key: record.key.map(own),
            value: record.value.map(own),
            headers: record
                .headers
                .iter()
                .map(|header| Header { key: own(header.key), value: header.value.map(own) })
                .collect(),
            timestamp: Some(record.timestamp),
            partition: Some(cell.partition),
        })
    }
}

fn decode(meta: &BatchMeta, compression: Compression, body: &Bytes) -> Option<(Bytes, Vec<RecordRange>)> {
    let data = if compression == Compression::None {
        body.clone()
    } else {
        let mut data = Vec::new();
        Decompressor::new().decompress(compression, body, DECODE_MAX, &mut data).ok()?;
        Bytes::from(data)
    };
    let mut records = Vec::new();
    decode_records(&meta.header(Compression::None), &data, 0..data.len(), 0, &mut records).ok()?;
    Some((data, records))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(values: &[&str], compression: Compression) -> Batch {
        let mut writer = BatchWriter::new();
        for (index, value) in values.iter().enumerate() {
            let headers = [(&b"h"[..], Some(&b"v"[..]))];
            let timestamp = 1000 + index as i64;
            let size = writer
                .measure(timestamp, Some(b"key"), Some(value.as_bytes()), headers.into_iter())
                .expect("it fits");
            writer.append(size, timestamp, Some(b"key"), Some(value.as_bytes()), headers.into_iter());
        }
        let (body, meta) = writer.finish();
        let cell = BatchCell { completion: Completion::default(), topic: "t".into(), partition: 3 };
        let (compression, body) = Codec::new(compression, None).compress(body);
        Batch::new(Arc::new(cell), meta, compression, body, None, Instant::now())
    }

    #[test]
    fn sequences_wrap_from_the_largest_to_zero() {
        assert_eq!(add_sequence(0, 5), 5);
        assert_eq!(add_sequence(i32::MAX, 1), 0);
        assert_eq!(add_sequence(i32::MAX - 1, 5), 3);
    }

    #[test]
    fn a_split_keeps_records_order_and_sequences() {
        for compression in [Compression::None, Compression::Lz4] {
            if !compression.is_available() {
                continue;
            }
            let value = "x".repeat(100);
            let mut whole = batch(&[value.as_str(); 5], compression);
            whole.sequence = Some(i32::MAX - 1);
            let cell = Arc::clone(&whole.cell);
            let [mut one, mut two] = whole.split(&Codec::new(compression, None)).expect("five records");
            drop(whole);
            assert_eq!((one.first, one.count(), two.first, two.count()), (0, 3, 3, 2));
            assert_eq!((one.sequence, two.sequence), (Some(i32::MAX - 1), Some(1)));
            assert!(cell.completion.get(0).is_none(), "the parts decide");
            one.written(40, -1);
            two.failed(Error::new(ErrorKind::Broker, "no"), Outcome::NotWritten);
            let Some(Fate::Written { first: 0, base_offset: 40, .. }) = cell.completion.get(2) else {
                panic!("the first part was written")
            };
            let Some(Fate::Failed(failed)) = cell.completion.get(4) else { panic!("the second part failed") };
            let record = failed.record(&cell, 4).expect("it can be restored");
            assert_eq!(record.value_bytes(), Some(value.as_bytes()));
            assert_eq!(record.timestamp_millis(), Some(1004.into()));
            assert_eq!((record.topic_name(), record.chosen_partition()), ("t", Some(3.into())));
            assert_eq!(record.headers().len(), 1);
        }
    }

    #[test]
    fn a_small_record_before_a_large_one_is_split_between_them() {
        let large = "x".repeat(1000);
        let plain = Codec::new(Compression::None, None);
        let mut whole = batch(&["a", &large], Compression::None);
        let [one, two] = whole.split(&plain).expect("two records");
        assert_eq!((one.count(), two.count()), (1, 1));
        assert!(batch(&["a"], Compression::None).split(&plain).is_none());
    }

    #[test]
    fn refused_records_and_their_neighbours_get_reasons_of_their_own() {
        let mut whole = batch(&["a", "b", "c", "d"], Compression::None);
        let cell = Arc::clone(&whole.cell);
        let bad = |text| Error::new(ErrorKind::Payload, text);
        whole.refused(&[(2, bad("two")), (9, bad("none")), (2, bad("again"))], bad("others"));
        for (index, expected) in [(0, "others"), (1, "others"), (2, "two"), (3, "others")] {
            let Some(Fate::Failed(failed)) = cell.completion.get(index) else { panic!("all failed") };
            assert_eq!(failed.error.to_string(), expected, "{index}");
            assert!(failed.record(&cell, index).is_some());
        }
    }

    #[test]
    fn records_that_come_back_share_what_was_decoded() {
        if !Compression::Lz4.is_available() {
            return;
        }
        let value = "x".repeat(1000);
        let mut whole = batch(&[&value, &value], Compression::Lz4);
        let cell = Arc::clone(&whole.cell);
        let bad = [(1, Error::new(ErrorKind::Payload, "bad"))];
        whole.refused(&bad, Error::new(ErrorKind::Broker, "others"));
        let address = |index| {
            let Some(Fate::Failed(failed)) = cell.completion.get(index) else { panic!("all failed") };
            let record = failed.record(&cell, index).expect("it can be restored");
            (record.value_bytes().expect("it has a value").as_ptr().addr(), record)
        };
        let ((one, _first), (two, _second), (again, _third)) = (address(0), address(1), address(0));
        assert_eq!(one, again, "decoded once");
        assert!((1000..1100).contains(&(two - one)), "one behind the other");
    }

    #[test]
    fn a_dropped_batch_tells_its_waiters() {
        let mut lost = batch(&["a"], Compression::None);
        lost.maybe_written = true;
        let cell = Arc::clone(&lost.cell);
        drop(lost);
        let Some(Fate::Failed(failed)) = cell.completion.get(0) else { panic!("it failed") };
        assert_eq!(failed.outcome, Outcome::Unknown);
    }
}
