//! One partition's part of a fetch answer becomes a [`RecordBatch`]: checksums, decompression, and nothing of what the
//! application must not see: aborted transactions, control records, records below the position.

use bytes::Bytes;

use crate::consumer::batch::{Held, RecordBatch, Span};
use crate::consumer::config::Isolation;
use crate::sync::budget::{BUFFER_STEP, Credit, Holding, MemoryBudget};
use crate::types::TopicPartition;
use crate::wire::compression::{CompressionError, Decompressor};
use crate::wire::fetch::PartitionData;
use crate::wire::records::{
    AbortedFilter, BatchError, BatchFault, BatchIter, RawBatch, RecordRange, decode_records,
};
use crate::{Error, ErrorKind};

/// Decompressing one part stops after this many bytes; the rest is fetched again. One batch may be larger.
const INFLATED_SOFT_MAX: usize = 8 << 20;
/// Compressed parts up to this many bytes are read at once, larger ones where blocking is allowed.
const INLINE_MAX: usize = 64 << 10;

/// What decides how a part is read.
#[derive(Clone, Debug)]
pub(crate) struct DecodeConfig {
    pub(crate) check_crcs: bool,
    pub(crate) isolation: Isolation,
    pub(crate) batch_decompressed_max: usize,
}

/// Where a part belongs.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) partition: TopicPartition,
    pub(crate) assignment: u64,
    /// Records below are left out.
    pub(crate) position: i64,
    pub(crate) last_epoch: i32,
    /// To be charged with what the batch takes.
    pub(crate) holding: Holding,
}

/// What a part held.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// `None` without records for the application.
    pub(crate) batch: Option<RecordBatch>,
    /// Where to fetch next.
    pub(crate) next_offset: i64,
    /// Epoch of the record in front of that.
    pub(crate) last_epoch: i32,
    /// The batch at `next_offset` cannot be read.
    pub(crate) fault: Option<Error>,
    /// Nothing but the beginning of a batch was there.
    pub(crate) cut: bool,
    /// The batch at `next_offset` is larger than what the partition may take now.
    pub(crate) starved: bool,
}

/// Reads a part. `blob` are the records of `part` in the buffer that the batch is to keep; `credit` covers what is
/// allocated here, as far as it goes.
pub(crate) fn decode(
    place: Place,
    part: PartitionData<()>,
    blob: Bytes,
    config: &DecodeConfig,
    budget: &MemoryBudget,
    credit: &mut Credit,
    decompressor: &mut Decompressor,
) -> Decoded {
    let Place { partition, assignment, position, last_epoch, holding } = place;
    let mut reading = Reading {
        config,
        allowance: holding.ledger().allowance(),
        holding,
        positions: Vec::new(),
        spans: Vec::new(),
        next_offset: position,
        last_epoch,
        inflated: None,
        decompressor,
    };
    let mut aborted = AbortedFilter::new(match config.isolation {
        Isolation::ReadCommitted => part.aborted_transactions.unwrap_or_default(),
        Isolation::ReadUncommitted => Vec::new(),
    });
    let mut batches = BatchIter::new(blob.clone()).check_crc(config.check_crcs);
    // Inflated records and records in the blob cannot share one vector of positions: one batch decides for all.
    let compressed = blob_is_compressed(&blob);
    if compressed {
        let capacity = blob.len().saturating_mul(4).min(INFLATED_SOFT_MAX).min(reading.allowance);
        reading.inflated = Some(budget.buffer(capacity));
    }
    let End { seen, starved, fault } = reading.all(&mut batches, &blob, &mut aborted);
    let fault = fault.map(|error| corrupt(&partition, reading.next_offset, error));
    let cut = !seen && batches.tail().is_some();
    let Reading { positions, spans, next_offset, last_epoch, inflated, mut holding, .. } = reading;
    let batch = (!positions.is_empty()).then(|| {
        let (data, capacity) = match inflated {
            Some(mut inflated) => {
                if inflated.capacity() - inflated.len() > inflated.len() / 4 {
                    // What was reserved while it grew counts as held.
                    inflated.shrink_to(inflated.len().next_multiple_of(BUFFER_STEP));
                }
                let capacity = inflated.capacity();
                (credit.split(capacity).wrap(inflated), capacity)
            }
            None => {
                let len = blob.len();
                (blob, len)
            }
        };
        let ranges = positions.capacity() * size_of::<RecordRange>();
        let own = credit.split(ranges);
        holding.add(capacity + ranges);
        RecordBatch::new(Held {
            topic_partition: partition,
            data,
            positions,
            spans,
            next_offset,
            high_watermark: part.high_watermark,
            last_stable_offset: part.last_stable_offset,
            log_start_offset: part.log_start_offset,
            assignment,
            _credit: Some(own),
            _holding: Some(holding),
        })
    });
    Decoded { batch, next_offset, last_epoch, fault, cut, starved }
}

/// True for a part that would hold up other tasks while it is decompressed.
pub(crate) fn is_heavy(blob: &Bytes) -> bool {
    blob.len() > INLINE_MAX && blob_is_compressed(blob)
}

/// True if any batch that can be made out has a codec.
fn blob_is_compressed(blob: &Bytes) -> bool {
    BatchIter::new(blob.clone()).check_crc(false).flatten().any(|raw| raw.header.attributes.codec_id() != 0)
}

struct Reading<'a> {
    config: &'a DecodeConfig,
    /// Bytes that the batch may take, unless it is the first.
    allowance: usize,
    holding: Holding,
    positions: Vec<RecordRange>,
    spans: Vec<Span>,
    next_offset: i64,
    last_epoch: i32,
    /// Uncompressed records of all batches, if any of them is compressed.
    inflated: Option<Vec<u8>>,
    decompressor: &'a mut Decompressor,
}

/// Where reading came to its end.
struct End {
    /// There was a batch.
    seen: bool,
    /// There was no room for the first one.
    starved: bool,
    /// Why the next one cannot be read.
    fault: Option<BatchError>,
}

impl Reading<'_> {
    /// Reads batches as long as there is room for them.
    fn all(&mut self, batches: &mut BatchIter, blob: &Bytes, aborted: &mut AbortedFilter) -> End {
        let from = self.next_offset;
        let mut end = End { seen: false, starved: false, fault: None };
        for raw in batches {
            end.seen = true;
            match raw.and_then(|raw| self.batch(&raw, blob, aborted)) {
                Ok(true) => {}
                Ok(false) => {
                    end.starved = self.next_offset == from;
                    break;
                }
                Err(error) => {
                    end.fault = Some(error);
                    break;
                }
            }
            if self.is_full() {
                break;
            }
        }
        end
    }

    /// What is there is enough: the rest is fetched again.
    fn is_full(&self) -> bool {
        self.inflated.as_ref().is_some_and(|inflated| {
            let ranges = self.positions.len() * size_of::<RecordRange>();
            inflated.len() >= INFLATED_SOFT_MAX || inflated.len() + ranges >= self.allowance
        })
    }

    /// False if there is no room for it.
    fn batch(
        &mut self,
        raw: &RawBatch,
        blob: &Bytes,
        aborted: &mut AbortedFilter,
    ) -> Result<bool, BatchError> {
        let header = &raw.header;
        let end = header.next_offset();
        if !aborted.hides(raw)? && end > self.next_offset && !self.records(raw, blob)? {
            return Ok(false);
        }
        // The end survives compaction of the last records; a batch below the position changes nothing.
        if end > self.next_offset {
            self.next_offset = end;
            self.last_epoch = header.partition_leader_epoch;
        }
        Ok(true)
    }

    /// Decompresses a batch behind those before it. False if there is no room for it.
    fn inflate(&mut self, raw: &RawBatch) -> Result<bool, BatchError> {
        let max = self.config.batch_decompressed_max;
        let Some(inflated) = &mut self.inflated else { return Ok(true) };
        let start = inflated.len();
        let room = max.min(self.allowance.saturating_sub(start));
        match raw.decompress(self.decompressor, room, inflated) {
            Ok(()) => return Ok(true),
            Err(error) if room == max || !is_too_large(&error) => return Err(error),
            Err(_) => inflated.truncate(start),
        }
        let alone = self.positions.is_empty() && self.holding.ledger().held() == 0;
        if !alone || !self.holding.overdraw() {
            return Ok(false);
        }
        raw.decompress(self.decompressor, max, inflated)?;
        Ok(true)
    }

    /// False if there is no room for them.
    fn records(&mut self, raw: &RawBatch, blob: &Bytes) -> Result<bool, BatchError> {
        let start = self.inflated.as_ref().map_or(0, Vec::len);
        if !self.inflate(raw)? {
            return Ok(false);
        }
        let before = self.positions.len();
        let from = self.next_offset;
        match &mut self.inflated {
            None => {
                raw.compression()?;
                decode_records(&raw.header, blob, raw.body_range(), from, &mut self.positions)?;
            }
            Some(inflated) => {
                let range = start..inflated.len();
                decode_records(&raw.header, inflated, range, from, &mut self.positions)?;
            }
        }
        let leader_epoch = raw.header.partition_leader_epoch;
        let timestamp_type = raw.header.attributes.timestamp_type();
        let span = Span { first: before as u32, leader_epoch, timestamp_type };
        if self.positions.len() > before && !self.spans.last().is_some_and(|last| last.is_like(&span)) {
            self.spans.push(span);
        }
        Ok(true)
    }
}

fn is_too_large(error: &BatchError) -> bool {
    matches!(&error.fault, BatchFault::Compression { error: CompressionError::TooLarge(_), .. })
}

fn corrupt(partition: &TopicPartition, offset: i64, error: BatchError) -> Error {
    let hint = error_hint(&error);
    Error::new(ErrorKind::CorruptRecord, format!("{partition} cannot be read at offset {offset}"))
        .with_retriable(false)
        .with_advice(hint)
        .with_source(error)
}

fn error_hint(error: &BatchError) -> String {
    match &error.fault {
        BatchFault::Compression { error, .. } if let Some(hint) = error.advice() => {
            format!("{hint}, or seek past the batch")
        }
        BatchFault::OldMagic(_) => {
            "the record is in a format that brokers stopped writing with Kafka 0.11; seek past it".to_owned()
        }
        _ => "the log or the network damaged it; seek past the batch to go on without it".to_owned(),
    }
}

#[cfg(test)]
mod tests;
