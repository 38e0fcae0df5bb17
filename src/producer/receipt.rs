//! Promises of acknowledgements.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::batch::{BatchCell, Fate};
use super::lane::Run;
use super::{Outcome, ProduceError};
use crate::sync::Registration;
use crate::types::{Offset, Partition, Timestamp, TopicName};

/// Where a record was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: Partition,
    /// The record's offset. `None` where it is not known: with [`Acks::None`](super::Acks::None), or when the broker
    /// recognised a retry of a batch whose offset it has forgotten.
    pub offset: Option<Offset>,
    /// The record's timestamp: the broker's where the topic uses log append time, else the producer's.
    pub timestamp: Timestamp,
}

/// The acknowledgement of one record, to be awaited. Dropping it changes nothing about the record; awaiting costs no
/// channel and no allocation of its own. Cancel-safe.
#[derive(Debug)]
#[must_use = "await the receipt to learn whether the record was written, or drop it on purpose"]
pub struct Receipt {
    cell: Arc<BatchCell>,
    index: u32,
    timestamp: i64,
    registration: Registration,
}

impl Receipt {
    pub(super) fn new(cell: Arc<BatchCell>, index: u32, timestamp: i64) -> Self {
        Self { cell, index, timestamp, registration: Registration::default() }
    }

    /// The record's topic.
    pub fn topic(&self) -> &TopicName {
        &self.cell.topic
    }

    /// The record's partition.
    pub fn partition(&self) -> Partition {
        Partition(self.cell.partition)
    }

    /// What is known by now; `None` while the record is on its way.
    pub fn outcome(&self) -> Option<Outcome> {
        self.cell.completion.get(self.index).map(|fate| match fate {
            Fate::Written { .. } => Outcome::Written,
            Fate::Failed(failed) => failed.outcome,
        })
    }

    fn result(&self, fate: &Fate) -> Result<Delivery, ProduceError> {
        match fate {
            Fate::Written { first, base_offset, log_append_time } => Ok(Delivery {
                topic: self.cell.topic.clone(),
                partition: self.partition(),
                offset: (*base_offset >= 0).then(|| Offset(base_offset + i64::from(self.index - first))),
                timestamp: Timestamp(if *log_append_time >= 0 { *log_append_time } else { self.timestamp }),
            }),
            Fate::Failed(failed) => Err(ProduceError::new(failed.error.clone(), failed.outcome)
                .with_record(failed.record(&self.cell, self.index))),
        }
    }
}

impl Future for Receipt {
    type Output = Result<Delivery, ProduceError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.cell.completion.poll(this.index, &mut this.registration, context).map(|fate| this.result(&fate))
    }
}

/// Entries at the end that are searched for one to continue.
const SEARCHED: usize = 16;

/// The acknowledgements of many records, in a few ranges. Dropping it changes nothing about the records.
#[derive(Debug, Default)]
#[must_use = "wait for the receipts to learn whether the records were written, or drop them on purpose"]
pub struct Receipts {
    ranges: Vec<Range>,
    count: usize,
}

#[derive(Debug)]
struct Range {
    cell: Arc<BatchCell>,
    next: u32,
    end: u32,
    registration: Registration,
}

impl Receipts {
    pub(super) fn push(&mut self, run: Run) {
        let Run { cell, index, count, .. } = run;
        self.count += count as usize;
        for range in self.ranges.iter_mut().rev().take(SEARCHED) {
            if range.end == index && Arc::ptr_eq(&range.cell, &cell) {
                range.end += count;
                return;
            }
        }
        let registration = Registration::default();
        self.ranges.push(Range { cell, next: index, end: index + count, registration });
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Waits until the fate of every record is known, and returns the failed ones.
    ///
    /// Cancel-safe in that the records go their way, but the receipts are gone.
    pub async fn wait(self) -> Vec<ProduceError> {
        let mut failed = Vec::new();
        for mut range in self.ranges {
            while range.next < range.end {
                let (fate, end) = std::future::poll_fn(|context| {
                    range.cell.completion.poll_range(range.next, &mut range.registration, context)
                })
                .await;
                let end = end.min(range.end);
                if let Fate::Failed(failure) = &fate {
                    failed.extend((range.next..end).map(|index| {
                        let error = ProduceError::new(failure.error.clone(), failure.outcome);
                        error.with_record(failure.record(&range.cell, index))
                    }));
                }
                range.next = end;
            }
        }
        failed
    }
}
