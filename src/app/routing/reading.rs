//! Where partitions are read from.

use crate::consumer::{ConsumerConfig, FirstStart, OutOfRange, Truncation};

/// The policies of reading that were set: by a group's route or by the application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) first_start: Option<FirstStart>,
    pub(crate) out_of_range: Option<OutOfRange>,
    pub(crate) truncation: Option<Truncation>,
}

impl Reading {
    /// These, and where there is none, `others`.
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            first_start: self.first_start.or(others.first_start),
            out_of_range: self.out_of_range.or(others.out_of_range),
            truncation: self.truncation.or(others.truncation),
        }
    }

    /// The settings of a consumer that reads so. An application goes on at the first offset that there still is: nobody is
    /// there to seek in its place.
    pub(crate) fn apply(self, config: ConsumerConfig) -> ConsumerConfig {
        config
            .first_start(self.first_start.unwrap_or_default())
            .out_of_range(self.out_of_range.unwrap_or(OutOfRange::Earliest))
            .truncation(self.truncation.unwrap_or_default())
    }
}
