//! Holds a mark back until everything that the handler produced before it is acknowledged.

use std::collections::VecDeque;

use crate::{Error, Result};

/// A delivery that is under way.
pub(crate) trait Delivering {
    /// True once the cluster has acknowledged it.
    fn is_acknowledged(&self) -> bool;
}

/// What one run of a handler produced and marked, in order.
///
/// Invariant: `settled <= produced`; every waiting mark has `settled < barrier <= produced`, barriers ascend.
#[derive(Debug)]
pub(crate) struct Produced<D> {
    deliveries: VecDeque<D>,
    /// Deliveries begun and deliveries acknowledged, counted from the start of the run.
    produced: u64,
    settled: u64,
    /// Marks that wait for the first `barrier` deliveries.
    waiting: VecDeque<(u64, i64)>,
    /// The highest mark that waits for nothing.
    marked: Option<i64>,
    /// The oldest delivery is with [`next_delivery`](Self::next_delivery)'s caller, or has failed: those behind it do
    /// not count.
    blocked: bool,
    failure: Option<Error>,
}

impl<D> Default for Produced<D> {
    fn default() -> Self {
        Self {
            deliveries: VecDeque::new(),
            produced: 0,
            settled: 0,
            waiting: VecDeque::new(),
            marked: None,
            blocked: false,
            failure: None,
        }
    }
}

impl<D: Delivering> Produced<D> {
    /// The handler produced a record.
    pub(crate) fn add(&mut self, delivery: D) {
        self.deliveries.push_back(delivery);
        self.produced += 1;
    }

    /// The handler marked everything up to `offset`.
    pub(crate) fn mark(&mut self, offset: i64) {
        self.settle();
        match self.waiting.back_mut() {
            _ if self.settled == self.produced => self.marked = self.marked.max(Some(offset)),
            Some((barrier, waiting)) if *barrier == self.produced => *waiting = (*waiting).max(offset),
            _ => self.waiting.push_back((self.produced, offset)),
        }
    }

    /// The highest mark of which everything produced before it is acknowledged.
    pub(crate) fn marked(&mut self) -> Option<i64> {
        self.settle();
        self.marked
    }

    /// The next delivery that somebody has to wait for; its result goes to [`delivered`](Self::delivered).
    pub(crate) fn next_delivery(&mut self) -> Option<D> {
        let next = if self.blocked { None } else { self.deliveries.pop_front() };
        self.blocked |= next.is_some();
        next
    }

    /// The delivery that [`next_delivery`](Self::next_delivery) returned is not waited for any more.
    pub(crate) fn put_back(&mut self, delivery: D) {
        self.deliveries.push_front(delivery);
        self.blocked = false;
    }

    /// Result of the delivery that [`next_delivery`](Self::next_delivery) returned.
    pub(crate) fn delivered(&mut self, result: Result<()>) {
        match result {
            Ok(()) => {
                self.settled += 1;
                self.blocked = false;
            }
            Err(error) => self.failure = Some(error),
        }
        while let Some((_, offset)) = self.waiting.pop_front_if(|(barrier, _)| *barrier <= self.settled) {
            self.marked = self.marked.max(Some(offset));
        }
    }

    /// The first failed delivery, if there is one.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// The first failed delivery: marks behind it never count.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn settle(&mut self) {
        // A failed delivery stays where it is: the end of the run finds it.
        while !self.blocked && self.deliveries.pop_front_if(|delivery| delivery.is_acknowledged()).is_some() {
            self.delivered(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::ErrorKind;

    #[derive(Clone, Default)]
    struct Fake(Rc<Cell<Option<bool>>>);

    impl Delivering for Fake {
        fn is_acknowledged(&self) -> bool {
            self.0.get() == Some(true)
        }
    }

    #[test]
    fn a_mark_waits_for_what_was_produced_before_it_and_for_nothing_else() {
        let (first, second) = (Fake::default(), Fake::default());
        let mut produced = Produced::default();
        produced.mark(1);
        assert_eq!(produced.marked(), Some(1));
        produced.add(first.clone());
        produced.mark(2);
        produced.mark(3);
        produced.add(second.clone());
        produced.mark(4);
        assert_eq!(produced.marked(), Some(1));
        first.0.set(Some(true));
        assert_eq!(produced.marked(), Some(3));
        second.0.set(Some(true));
        assert_eq!(produced.marked(), Some(4));
    }

    #[test]
    fn a_failed_delivery_stops_all_marks_behind_it() {
        let (first, second) = (Fake::default(), Fake::default());
        let mut produced = Produced::default();
        produced.add(first.clone());
        produced.mark(1);
        produced.add(second.clone());
        produced.mark(2);
        second.0.set(Some(true));
        first.0.set(Some(false));
        assert_eq!(produced.marked(), None);
        produced.mark(3);
        assert_eq!(produced.marked(), None);
        // Somebody waits for the first delivery: the second does not take its place.
        assert!(produced.next_delivery().is_some());
        assert_eq!(produced.marked(), None);
        produced.delivered(Err(Error::new(ErrorKind::Timeout, "delivery")));
        assert!(produced.next_delivery().is_none());
        assert_eq!(produced.marked(), None);
        assert!(produced.take_failure().is_some());
    }
}
