//! What failed in a partition since something last succeeded there.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::types::Uuid;
use crate::{Error, ErrorKind};

/// How many errors are kept.
const KEPT: usize = 100;

/// The errors of the handlers of one partition since its records last succeeded, were skipped or went to the dead letter topic:
/// all are counted, the latest 100 are kept. In memory only: the next owner of the partition begins with none. Cheap to clone.
/// Karafka's `errors_tracker`.
#[derive(Clone, Debug, Default)]
pub struct ErrorHistory(Option<Arc<Errors>>);

#[derive(Clone, Debug)]
struct Errors {
    /// Never empty.
    kept: VecDeque<Error>,
    counts: Vec<(ErrorKind, u64)>,
    trace_id: Uuid,
}

impl ErrorHistory {
    /// Adds an error, which events and dead letters know by this id.
    pub(crate) fn push(&mut self, error: Error, trace_id: Uuid) {
        let none = || Arc::new(Errors { kept: VecDeque::new(), counts: Vec::new(), trace_id });
        let errors = Arc::make_mut(self.0.get_or_insert_with(none));
        match errors.counts.iter_mut().find(|(kind, _)| *kind == error.kind()) {
            Some((_, count)) => *count += 1,
            None => errors.counts.push((error.kind(), 1)),
        }
        errors.trace_id = trace_id;
        if errors.kept.len() == KEPT {
            errors.kept.pop_front();
        }
        errors.kept.push_back(error);
    }

    /// The latest error; `None` if nothing failed.
    pub fn last(&self) -> Option<&Error> {
        self.iter().next_back()
    }

    /// The latest 100 errors, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Error> {
        self.0.iter().flat_map(|errors| &errors.kept)
    }

    /// True if nothing failed.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many errors there were, those that are not kept included.
    pub fn total(&self) -> u64 {
        self.counts().map(|(_, count)| count).sum()
    }

    /// How many of them were of this kind.
    pub fn count(&self, kind: ErrorKind) -> u64 {
        self.counts().find(|(known, _)| *known == kind).map_or(0, |(_, count)| count)
    }

    /// The id of the latest error, which its event and its dead letter carry as well; `None` if nothing failed.
    pub fn trace_id(&self) -> Option<Uuid> {
        self.0.as_ref().map(|errors| errors.trace_id)
    }

    fn counts(&self) -> impl Iterator<Item = (ErrorKind, u64)> {
        self.0.iter().flat_map(|errors| errors.counts.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_latest_kept() {
        let mut history = ErrorHistory::default();
        assert!(history.is_empty() && history.last().is_none() && history.trace_id().is_none());
        for number in 0..150_u8 {
            let kind = if number % 3 == 0 { ErrorKind::Payload } else { ErrorKind::Handler };
            history.push(Error::new(kind, number.to_string()), Uuid([number; 16]));
        }
        assert_eq!((history.total(), history.iter().count()), (150, KEPT));
        assert_eq!((history.count(ErrorKind::Payload), history.count(ErrorKind::Io)), (50, 0));
        assert_eq!(history.iter().next().map(ToString::to_string).as_deref(), Some("50"));
        assert_eq!(history.last().map(ToString::to_string).as_deref(), Some("149"));
        assert_eq!(history.trace_id(), Some(Uuid([149; 16])));
    }
}
