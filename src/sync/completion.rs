//! Results of a numbered set of things, such as the records of a batch, that become known in ranges.

use std::ops::Range;
use std::task::{Context, Poll, Waker};

use super::{Mutex, lock};

/// One entry for everything in the normal case, a few in others. Whoever waits for an index brings its own waker; whoever
/// does not costs nothing.
#[derive(Debug)]
pub(crate) struct Completion<R> {
    state: Mutex<State<R>>,
}

#[derive(Debug)]
struct State<R> {
    first: Option<(Range<u32>, R)>,
    more: Vec<(Range<u32>, R)>,
    wakers: Vec<Waker>,
    /// Changes whenever `wakers` is emptied.
    generation: u32,
}

/// Where a waiter left its waker; one per waiter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Registration(Option<(u32, u32)>);

impl<R> Default for Completion<R> {
    fn default() -> Self {
        Self { state: Mutex::new(State { first: None, more: Vec::new(), wakers: Vec::new(), generation: 0 }) }
    }
}

impl<R: Clone> Completion<R> {
    /// Makes the result of `range` known and wakes those who wait. An index keeps its first result.
    pub(crate) fn complete(&self, range: Range<u32>, result: R) {
        let mut state = lock(&self.state);
        if state.first.is_none() {
            state.first = Some((range, result));
        } else {
            state.more.push((range, result));
        }
        state.generation = state.generation.wrapping_add(1);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        for waker in wakers {
            waker.wake();
        }
    }

    /// The result of `index`, if it is known.
    pub(crate) fn get(&self, index: u32) -> Option<R> {
        lock(&self.state).find(index).map(|(_, result)| result.clone())
    }

    /// The result of `index`, or a promise to wake the task once it may be known.
    pub(crate) fn poll(
        &self,
        index: u32,
        registration: &mut Registration,
        context: &mut Context<'_>,
    ) -> Poll<R> {
        self.poll_range(index, registration, context).map(|(result, _)| result)
    }

    /// As [`poll`](Self::poll), and up to which index, not included, the result is the same.
    pub(crate) fn poll_range(
        &self,
        index: u32,
        registration: &mut Registration,
        context: &mut Context<'_>,
    ) -> Poll<(R, u32)> {
        let mut state = lock(&self.state);
        if let Some((range, result)) = state.find(index) {
            // What lies in between may have had a result before.
            let others = state.first.iter().chain(&state.more).map(|(other, _)| other.start);
            let end = others.filter(|start| *start > index).fold(range.end, u32::min);
            return Poll::Ready((result.clone(), end));
        }
        let waker = context.waker();
        if let Some((generation, slot)) = registration.0
            && generation == state.generation
            && state.wakers.get(slot as usize).is_some_and(|known| known.will_wake(waker))
        {
            return Poll::Pending;
        }
        // A task that waits for many indexes one after the other, or for all at once, needs one waker.
        if !state.wakers.last().is_some_and(|last| last.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        registration.0 = Some((state.generation, (state.wakers.len() - 1) as u32));
        Poll::Pending
    }
}

impl<R> State<R> {
    fn find(&self, index: u32) -> Option<&(Range<u32>, R)> {
        self.first.iter().chain(&self.more).find(|(range, _)| range.contains(&index))
    }
}

#[cfg(all(test, not(carafe_shuttle)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn ranges_become_known_one_after_the_other() {
        let completion = Completion::default();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let (mut zero, mut five) = (Registration::default(), Registration::default());
        for _ in 0..3 {
            assert!(completion.poll(0, &mut zero, &mut context).is_pending());
            assert!(completion.poll(5, &mut five, &mut context).is_pending());
        }
        assert_eq!(lock(&completion.state).wakers.len(), 1, "one task, one waker");
        completion.complete(0..3, 'a');
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(completion.poll(0, &mut zero, &mut context), Poll::Ready('a'));
        assert!(completion.poll(5, &mut five, &mut context).is_pending());
        completion.complete(0..10, 'b');
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert_eq!(completion.poll(5, &mut five, &mut context), Poll::Ready('b'));
        assert_eq!(completion.get(2), Some('a'), "the first result stays");
        let mut two = Registration::default();
        assert_eq!(completion.poll_range(2, &mut two, &mut context), Poll::Ready(('a', 3)));
        completion.complete(20..22, 'c');
        completion.complete(18..30, 'd');
        assert_eq!(completion.poll_range(18, &mut two, &mut context), Poll::Ready(('d', 20)));
        assert_eq!(completion.poll_range(21, &mut two, &mut context), Poll::Ready(('c', 22)));
        assert_eq!(completion.poll_range(22, &mut two, &mut context), Poll::Ready(('d', 30)));
        assert_eq!(completion.poll_range(3, &mut two, &mut context), Poll::Ready(('b', 10)));
        assert_eq!(completion.get(10), None);
    }
}
