//! What a reader of committed records sees: the client's rules of KIP-98.

use std::collections::BTreeSet;

use super::{BatchError, ControlRecord, RawBatch};
use crate::wire::compression::Decompressor;
use crate::wire::fetch::AbortedTransaction;

/// Most bytes of a marker.
const MARKER_BYTES_MAX: usize = 1 << 16;

/// Tells the batches that a reader of committed records must not see, along the records of one partition in a fetch
/// answer.
///
/// ```
/// use carafe::wire::fetch::PartitionData;
/// use carafe::wire::records::{AbortedFilter, BatchError, BatchIter, RawBatch};
///
/// /// The batches to hand to the application.
/// fn committed(part: PartitionData) -> Result<Vec<RawBatch>, BatchError> {
///     let mut filter = AbortedFilter::new(part.aborted_transactions.unwrap_or_default());
///     let mut batches = Vec::new();
///     for batch in BatchIter::new(part.records) {
///         let batch = batch?;
///         if !filter.hides(&batch)? {
///             batches.push(batch);
///         }
///     }
///     Ok(batches)
/// }
/// # assert!(committed(PartitionData::default())?.is_empty());
/// # Ok::<(), BatchError>(())
/// ```
#[derive(Debug)]
pub struct AbortedFilter {
    /// By first offset, latest first.
    begin: Vec<AbortedTransaction>,
    /// Those whose transaction of the moment was aborted.
    producers: BTreeSet<i64>,
}

impl AbortedFilter {
    /// A filter for the aborted transactions of the answer, in any order; an empty list hides control batches alone, as
    /// readers of uncommitted records need it.
    pub fn new(mut aborted: Vec<AbortedTransaction>) -> Self {
        // Not every broker sorts the list.
        aborted.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
        Self { begin: aborted, producers: BTreeSet::new() }
    }

    /// True for a batch of an aborted transaction and for a control batch. Takes the batches in the order of the log,
    /// every one of them.
    ///
    /// # Errors
    ///
    /// The marker of an aborted transaction cannot be read.
    pub fn hides(&mut self, batch: &RawBatch) -> Result<bool, BatchError> {
        let header = &batch.header;
        while let Some(begun) = self.begin.pop_if(|begin| begin.first_offset <= header.last_offset()) {
            self.producers.insert(begun.producer_id);
        }
        let aborted = self.producers.contains(&header.producer_id);
        if header.attributes.is_control() {
            if aborted && is_abort(batch)? {
                self.producers.remove(&header.producer_id);
            }
            return Ok(true);
        }
        Ok(aborted && header.attributes.is_transactional())
    }
}

fn is_abort(batch: &RawBatch) -> Result<bool, BatchError> {
    let mut positions = Vec::new();
    let data = batch.decode(&mut Decompressor::new(), MARKER_BYTES_MAX, i64::MIN, &mut positions)?;
    let marker = positions.first().map(|position| ControlRecord::parse(&position.get(&data)));
    Ok(matches!(marker, Some(ControlRecord::Abort { .. })))
}
