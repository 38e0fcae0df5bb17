//! What a consumer hands out: batches of one partition over one shared buffer. Nothing here copies records; the memory
//! goes back to the budget with the last reference.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::mark::Mark;
use super::message::OwnedRecord;
use crate::sync::budget::{Credit, Holding, MemoryBudget};
use crate::types::{LeaderEpoch, Offset, Partition, TopicName, TopicPartition};
use crate::wire::records::{RecordRange, RecordRef, TimestampType};

/// Records of one partition in the order of their offsets, as fetched.
///
/// A batch is a selection over shared, immutable buffers: cloning and [`select`](Self::select)ing copy no record.
/// Iterating borrows; [`messages`](Self::messages) gives owned handles, each of which keeps the buffer of the whole
/// batch (and its share of the client's memory budget) alive until it is dropped or [detached](OwnedRecord::detach).
#[derive(Clone)]
pub struct RecordBatch {
    held: Arc<Held>,
    selection: Selection,
}

#[derive(Clone)]
enum Selection {
    All,
    Indexes(Arc<[u32]>),
}

/// What all selections of one batch share.
pub(crate) struct Held {
    pub(crate) topic_partition: TopicPartition,
    /// Keys, values and headers, uncompressed.
    pub(crate) data: Bytes,
    pub(crate) positions: Vec<RecordRange>,
    /// What neighbours of `positions` have in common, in order; never empty unless `positions` is.
    pub(crate) spans: Vec<Span>,
    /// Where reading goes on after this batch; beyond the last record where the tail was compacted or filtered.
    pub(crate) next_offset: i64,
    pub(crate) high_watermark: i64,
    pub(crate) last_stable_offset: i64,
    pub(crate) log_start_offset: i64,
    /// The assignment of the partition under which it was fetched.
    pub(crate) assignment: u64,
    /// For `positions`; the buffer has its own.
    pub(crate) _credit: Option<Credit>,
    /// What the partition holds with it.
    pub(crate) _holding: Option<Holding>,
}

/// Records that were written in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// From this index on.
    pub(crate) first: u32,
    pub(crate) leader_epoch: i32,
    pub(crate) timestamp_type: TimestampType,
}

impl Span {
    /// True if records of both were written in the same way.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        (self.leader_epoch, self.timestamp_type) == (other.leader_epoch, other.timestamp_type)
    }
}

impl Held {
    pub(crate) fn record(&self, index: usize) -> Option<RecordRef<'_>> {
        self.positions.get(index).map(|position| position.get(&self.data))
    }

    pub(crate) fn span(&self, index: usize) -> Option<&Span> {
        let after = self.spans.partition_point(|span| span.first as usize <= index);
        self.spans.get(after.checked_sub(1)?)
    }

    pub(crate) fn leader_epoch(&self, index: usize) -> LeaderEpoch {
        self.span(index).map_or(LeaderEpoch::UNKNOWN, |span| LeaderEpoch(span.leader_epoch))
    }

    pub(crate) fn timestamp_type(&self, index: usize) -> TimestampType {
        self.span(index).map_or_else(TimestampType::default, |span| span.timestamp_type)
    }
}

impl RecordBatch {
    pub(crate) fn new(held: Held) -> Self {
        Self { held: Arc::new(held), selection: Selection::All }
    }

    /// Bytes of data and of positions.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.held.data.len(), self.held.positions.len() * size_of::<RecordRange>())
    }

    /// One batch of `first` and `rest`, which follow one another in a partition, copied into a buffer of its own: that
    /// takes less memory than the buffers of many small answers. The latest answer says how the partition stands.
    /// Together they have less than 4 GiB; `credit` covers the sum of their sizes.
    pub(crate) fn join(
        first: Self,
        rest: Vec<Self>,
        budget: &MemoryBudget,
        mut credit: Credit,
        mut holding: Holding,
    ) -> Self {
        let parts = || std::iter::once(&first).chain(&rest);
        let (bytes, ranges) =
            parts().map(Self::size).fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1));
        let mut data = budget.buffer(bytes);
        let mut positions = Vec::with_capacity(ranges / size_of::<RecordRange>());
        let mut spans: Vec<Span> = Vec::new();
        for Self { held, .. } in parts() {
            let (base, index) = (data.len() as u32, positions.len() as u32);
            data.extend_from_slice(&held.data);
            positions.extend(held.positions.iter().map(|position| position.shifted(base)));
            for span in &held.spans {
                if !spans.last().is_some_and(|last| last.is_like(span)) {
                    spans.push(Span { first: index + span.first, ..*span });
                }
            }
        }
        let capacity = data.capacity();
        let own = credit.split(ranges);
        holding.add(capacity + ranges);
        let Self { held: last, .. } = rest.last().unwrap_or(&first);
        Self::new(Held {
            topic_partition: last.topic_partition.clone(),
            data: credit.split(capacity).wrap(data),
            positions,
            spans,
            next_offset: last.next_offset,
            high_watermark: last.high_watermark,
            last_stable_offset: last.last_stable_offset,
            log_start_offset: last.log_start_offset,
            assignment: last.assignment,
            _credit: Some(own),
            _holding: Some(holding),
        })
    }

    /// The topic.
    pub fn topic(&self) -> &TopicName {
        &self.held.topic_partition.topic
    }

    /// The partition.
    pub fn partition(&self) -> Partition {
        self.held.topic_partition.partition
    }

    /// Topic and partition.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.held.topic_partition
    }

    /// Number of selected records. Consumers never hand out a batch without records; a selection may be empty.
    pub fn len(&self) -> usize {
        match &self.selection {
            Selection::All => self.held.positions.len(),
            Selection::Indexes(indexes) => indexes.len(),
        }
    }

    /// True if nothing is selected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The selected records, borrowed.
    pub fn iter(&self) -> Records<'_> {
        let indexes = match &self.selection {
            Selection::All => Indexes::All(self.held.positions.iter()),
            Selection::Indexes(indexes) => Indexes::Some(&self.held.positions, indexes.iter()),
        };
        Records { data: &self.held.data, indexes }
    }

    /// Record number `index` of the selection, borrowed.
    pub fn get(&self, index: usize) -> Option<RecordRef<'_>> {
        self.held.record(self.position(index)?)
    }

    /// Record number `index` of the selection as an owned message.
    pub fn message(&self, index: usize) -> Option<OwnedRecord> {
        let position = self.position(index)?;
        Some(OwnedRecord::new(Arc::clone(&self.held), position as u32))
    }

    /// Who set the timestamp of record number `index` of the selection.
    pub fn timestamp_type(&self, index: usize) -> Option<TimestampType> {
        Some(self.held.timestamp_type(self.position(index)?))
    }

    /// The selected records as owned messages; each costs one reference.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = OwnedRecord> + '_ {
        (0..self.len()).map(|index| {
            let position = self.position(index).unwrap_or_default();
            OwnedRecord::new(Arc::clone(&self.held), position as u32)
        })
    }

    /// The records with these indexes of *this selection*, in the given order; nothing is copied. Indexes that do not
    /// exist are left out.
    #[must_use]
    pub fn select(&self, indexes: impl IntoIterator<Item = usize>) -> Self {
        let chosen: Arc<[u32]> = indexes
            .into_iter()
            .filter_map(|index| self.position(index))
            .map(|position| position as u32)
            .collect();
        Self { held: Arc::clone(&self.held), selection: Selection::Indexes(chosen) }
    }

    /// Offset of the first selected record.
    pub fn first_offset(&self) -> Option<Offset> {
        self.get(0).map(|record| record.offset)
    }

    /// Offset of the last selected record.
    pub fn last_offset(&self) -> Option<Offset> {
        self.get(self.len().checked_sub(1)?).map(|record| record.offset)
    }

    /// Where reading goes on after the whole batch, whatever is selected. Not always the last offset plus one:
    /// transaction markers, aborted and compacted records are stepped over.
    pub fn next_offset(&self) -> Offset {
        Offset(self.held.next_offset)
    }

    /// End of the partition as the broker knew it when it answered: the next offset to be written and replicated.
    pub fn high_watermark(&self) -> Offset {
        Offset(self.held.high_watermark)
    }

    /// Up to which every transaction was decided when the broker answered; the end for readers of committed records.
    pub fn last_stable_offset(&self) -> Offset {
        Offset(self.held.last_stable_offset)
    }

    /// First offset that the partition still had when the broker answered; -1 if the broker is too old to say.
    pub fn log_start_offset(&self) -> Offset {
        Offset(self.held.log_start_offset)
    }

    /// Offsets between the end of this batch and the high watermark when the broker answered.
    pub fn lag(&self) -> u64 {
        u64::try_from(self.held.high_watermark.saturating_sub(self.held.next_offset)).unwrap_or(0)
    }

    /// Bytes of the shared buffer that the batch keeps alive.
    pub fn held_bytes(&self) -> usize {
        self.held.data.len()
    }

    /// Which assignment of the partition the batch belongs to. Grows with every assignment; a mark of an older one is
    /// refused.
    pub fn assignment(&self) -> u64 {
        self.held.assignment
    }

    /// A mark that everything up to the end of this batch is done; to be stored or committed. The selection does not
    /// matter.
    pub fn mark(&self) -> Mark {
        let last = self.held.positions.len().saturating_sub(1);
        Mark::new(self.held.topic_partition.clone(), Offset(self.held.next_offset))
            .leader_epoch(self.held.leader_epoch(last))
            .of_assignment(self.held.assignment)
    }

    /// A mark that everything below `offset` is done; to be stored or committed.
    pub fn mark_up_to(&self, offset: Offset) -> Mark {
        let done = self.held.positions.partition_point(|position| position.offset < offset.0);
        let epoch = done.checked_sub(1).map_or(LeaderEpoch::UNKNOWN, |last| self.held.leader_epoch(last));
        Mark::new(self.held.topic_partition.clone(), offset)
            .leader_epoch(epoch)
            .of_assignment(self.held.assignment)
    }

    fn position(&self, index: usize) -> Option<usize> {
        match &self.selection {
            Selection::All => (index < self.held.positions.len()).then_some(index),
            Selection::Indexes(indexes) => indexes.get(index).map(|position| *position as usize),
        }
    }
}

impl<'a> IntoIterator for &'a RecordBatch {
    type Item = RecordRef<'a>;
    type IntoIter = Records<'a>;

    fn into_iter(self) -> Records<'a> {
        self.iter()
    }
}

impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBatch")
            .field("partition", &self.held.topic_partition)
            .field("first", &self.first_offset())
            .field("last", &self.last_offset())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// Iterator over the records of a [`RecordBatch`].
#[derive(Clone)]
pub struct Records<'a> {
    data: &'a [u8],
    indexes: Indexes<'a>,
}

#[derive(Clone)]
enum Indexes<'a> {
    All(std::slice::Iter<'a, RecordRange>),
    Some(&'a [RecordRange], std::slice::Iter<'a, u32>),
}

impl<'a> Iterator for Records<'a> {
    type Item = RecordRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        let position = match &mut self.indexes {
            Indexes::All(positions) => positions.next()?,
            Indexes::Some(positions, indexes) => positions.get(*indexes.next()? as usize)?,
        };
        Some(position.get(self.data))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match &self.indexes {
            Indexes::All(positions) => positions.len(),
            Indexes::Some(_, indexes) => indexes.len(),
        };
        (left, Some(left))
    }
}

impl ExactSizeIterator for Records<'_> {}

impl fmt::Debug for Records<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("left", &self.len()).finish_non_exhaustive()
    }
}

/// Key and value of a record in a test.
#[cfg(test)]
pub(crate) type KeyValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

#[cfg(test)]
impl RecordBatch {
    /// The same batch of another assignment.
    pub(crate) fn with_assignment(mut self, assignment: u64) -> Self {
        if let Some(held) = Arc::get_mut(&mut self.held) {
            held.assignment = assignment;
        }
        self
    }

    /// A batch of `records` (key, value) from `first_offset` on, for tests of the layers above.
    pub(crate) fn for_test(partition: TopicPartition, first_offset: i64, records: &[KeyValue<'_>]) -> Self {
        use crate::wire::compression::Compression;
        use crate::wire::records::{BatchWriter, decode_records};

        let mut writer = BatchWriter::with_capacity(64);
        for (key, value) in records {
            let none = std::iter::empty;
            let size = writer.measure(1000, *key, *value, none()).unwrap();
            writer.append(size, 1000, *key, *value, none());
        }
        let (body, meta) = writer.finish();
        let mut header = meta.header(Compression::None);
        header.base_offset = first_offset;
        let data = Bytes::from(body.to_vec());
        let mut positions = Vec::new();
        decode_records(&header, &data, 0..data.len(), i64::MIN, &mut positions).unwrap();
        let next_offset = first_offset + records.len() as i64;
        Self::new(Held {
            topic_partition: partition,
            data,
            positions,
            spans: vec![Span { first: 0, leader_epoch: 1, timestamp_type: TimestampType::CreateTime }],
            next_offset,
            high_watermark: next_offset,
            last_stable_offset: next_offset,
            log_start_offset: 0,
            assignment: 1,
            _credit: None,
            _holding: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> RecordBatch {
        let values: Vec<Vec<u8>> = (0..5u8).map(|i| vec![i; 3]).collect();
        let records: Vec<KeyValue<'_>> = values.iter().map(|v| (Some(&b"k"[..]), Some(&v[..]))).collect();
        RecordBatch::for_test(TopicPartition::new("t", 3), 100, &records)
    }

    #[test]
    fn selections_share_and_compose() {
        let batch = batch();
        assert_eq!(
            (batch.len(), batch.first_offset(), batch.last_offset()),
            (5, Some(Offset(100)), Some(Offset(104)))
        );
        assert_eq!((batch.next_offset(), batch.lag()), (Offset(105), 0));
        let odd = batch.select([1, 3, 9]);
        assert_eq!(odd.iter().map(|r| r.offset.0).collect::<Vec<_>>(), [101, 103]);
        let last = odd.select([1]);
        assert_eq!(last.iter().map(|r| r.value.unwrap()[0]).collect::<Vec<_>>(), [3]);
        assert_eq!(last.mark().offset(), Offset(105));
        assert!(odd.select([]).is_empty() && odd.select([]).first_offset().is_none());
    }

    #[test]
    fn messages_are_owned_and_can_be_detached() {
        let batch = batch();
        let messages: Vec<OwnedRecord> = batch.messages().collect();
        drop(batch);
        assert_eq!(messages[2].offset(), Offset(102));
        assert_eq!((messages[2].key(), messages[2].value()), (Some(&b"k"[..]), Some(&[2u8; 3][..])));
        let detached = messages[4].detach();
        drop(messages);
        assert_eq!(
            (detached.offset(), detached.value(), detached.key()),
            (Offset(104), Some(&[4u8; 3][..]), Some(&b"k"[..]))
        );
        assert_eq!(detached.mark().offset(), Offset(105));
        assert_eq!(detached.headers().len(), 0);
    }

    #[test]
    fn several_become_one_in_a_buffer_of_its_own() {
        let partition = || TopicPartition::new("t", 3);
        let none = RecordBatch::for_test(partition(), 90, &[(None, None)]);
        let mut other = RecordBatch::for_test(partition(), 105, &[(None, Some(b"v")), (Some(b""), None)]);
        let held = Arc::get_mut(&mut other.held).unwrap();
        held.spans.push(Span { first: 1, leader_epoch: 2, timestamp_type: TimestampType::CreateTime });
        held.high_watermark = 200;
        let budget = MemoryBudget::new(1 << 20);
        let account = budget.account();
        let rest = vec![batch(), other];
        let join = || {
            let credit = budget.at_once(10_000).unwrap();
            RecordBatch::join(none.clone(), rest.clone(), &budget, credit, account.ledger().hold())
        };
        let joined = join();
        let plain = |batch: &RecordBatch| -> Vec<_> {
            let plain = |m: OwnedRecord| {
                let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                (m.offset().0, owned(m.key()), owned(m.value()), m.headers().len(), m.leader_epoch())
            };
            batch.messages().map(plain).collect()
        };
        let mut expected = plain(&none);
        rest.iter().for_each(|part| expected.extend(plain(part)));
        assert_eq!(plain(&joined), expected);
        assert_eq!(plain(&joined).last().unwrap().4, LeaderEpoch(2));
        let detached: Vec<_> =
            joined.messages().map(|message| message.detach().value().map(<[u8]>::to_vec)).collect();
        assert_eq!(detached, expected.iter().map(|record| record.2.clone()).collect::<Vec<_>>());
        assert_eq!((joined.next_offset(), joined.lag(), joined.held.spans.len()), (Offset(107), 93, 2));
        assert_eq!(joined.mark_up_to(Offset(105)).offset(), Offset(105));
        assert_eq!(budget.used(), account.ledger().held());
        drop(joined);
        assert_eq!((budget.used(), account.ledger().held()), (0, 0));
    }
}
