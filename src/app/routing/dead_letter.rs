//! What happens to a record that keeps failing.

use crate::app::processing::coordinator::{DeadLetterPolicy, Marks};
use crate::types::TopicName;

/// Sends a record to another topic once its retries are used up, waits for the acknowledgement, and goes on behind it.
///
/// The dead letter carries the key, value and headers of the record and the headers `source_topic`,
/// `source_partition`, `source_offset`, `source_consumer_group` and `source_attempts`. Records of one partition go to
/// one partition of the dead letter topic, in order. The topic must exist or be created by the broker on first use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub(crate) topic: TopicName,
    pub(crate) max_retries: u32,
    independent: bool,
    mark_after_dispatch: Option<bool>,
}

impl DeadLetter {
    /// Dead letters go to `topic`.
    pub fn to(topic: impl Into<TopicName>) -> Self {
        Self { topic: topic.into(), max_retries: 3, independent: true, mark_after_dispatch: None }
    }

    /// Retries before the dispatch; default 3. 0 dispatches after the first failure.
    #[must_use]
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = retries;
        self
    }

    /// Whether each record has retries of its own (default) or those of its batch add up, as Karafka counts unless its
    /// `independent` is set. A record is told from the next by the handler's marks.
    #[must_use]
    pub fn independent(mut self, independent: bool) -> Self {
        self.independent = independent;
        self
    }

    /// Whether the dispatched record counts as consumed. Default: yes with automatic marks, no with manual ones.
    #[must_use]
    pub fn mark_after_dispatch(mut self, mark: bool) -> Self {
        self.mark_after_dispatch = Some(mark);
        self
    }

    pub(super) fn policy(&self, marks: Marks) -> DeadLetterPolicy {
        DeadLetterPolicy {
            max_retries: self.max_retries,
            independent: self.independent,
            mark_after_dispatch: self.mark_after_dispatch.unwrap_or(marks == Marks::Automatic),
            atomic: false,
        }
    }
}
