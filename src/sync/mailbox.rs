//! Letters from any thread to the one task that reads them.

use std::task::{Context, Poll, Waker};

use super::{Mutex, lock};

/// A queue with one reader. The reader is woken for the first letter in an empty box, not for those behind it, and not for
/// those that are [left](Mailbox::leave) while it is going to look anyway.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    letters: Vec<T>,
    reader: Option<Waker>,
    /// Number of the reader's latest look.
    look: u64,
    closed: bool,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { letters: Vec::new(), reader: None, look: 0, closed: false }) }
    }
}

impl<T> Mailbox<T> {
    /// Sends `letter`, or returns it if nobody will read it.
    pub(crate) fn send(&self, letter: T) -> Result<(), T> {
        // Looks are counted from 1.
        self.leave(letter, 0)
    }

    /// As [`send`](Self::send), but does not wake a reader whose latest look was number `look`: in it, the reader said that
    /// another one will come soon, whatever happens.
    pub(crate) fn leave(&self, letter: T, look: u64) -> Result<(), T> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(letter);
        }
        state.letters.push(letter);
        let reader = if state.look == look { None } else { state.reader.take() };
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(())
    }

    /// Moves all letters to `into`, which is empty, or asks to be woken for the next one. `look` is a number that rises
    /// with every call.
    pub(crate) fn poll_receive(&self, look: u64, into: &mut Vec<T>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        debug_assert!(look > state.look, "numbers rise");
        state.look = look;
        if state.letters.is_empty() {
            match &mut state.reader {
                Some(reader) => reader.clone_from(context.waker()),
                reader @ None => *reader = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        // Both vectors keep their room.
        std::mem::swap(&mut state.letters, into);
        Poll::Ready(())
    }

    /// Refuses letters from now on and returns those that were not read.
    pub(crate) fn close(&self) -> Vec<T> {
        let mut state = lock(&self.state);
        state.closed = true;
        std::mem::take(&mut state.letters)
    }
}

#[cfg(all(test, not(carafe_shuttle)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn letters_arrive_in_order_until_the_box_is_closed() {
        let mailbox = Mailbox::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut letters = Vec::new();
        assert!(mailbox.poll_receive(1, &mut letters, &mut context).is_pending());
        assert_eq!((mailbox.send(1), mailbox.send(2)), (Ok(()), Ok(())));
        assert!(mailbox.poll_receive(2, &mut letters, &mut context).is_ready());
        assert_eq!(letters, [1, 2]);
        assert_eq!(mailbox.send(3), Ok(()));
        assert_eq!(mailbox.close(), [3]);
        assert_eq!(mailbox.send(4), Err(4));
    }

    #[test]
    fn a_letter_that_is_left_wakes_only_who_looked_again_since() {
        let mailbox = Mailbox::default();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut letters = Vec::new();
        assert!(mailbox.poll_receive(1, &mut letters, &mut context).is_pending());
        mailbox.leave('a', 1).expect("the box is open");
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "it will look anyway");
        mailbox.send('b').expect("the box is open");
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(mailbox.poll_receive(2, &mut letters, &mut context).is_ready());
        assert_eq!(std::mem::take(&mut letters), ['a', 'b']);
        assert!(mailbox.poll_receive(3, &mut letters, &mut context).is_pending());
        mailbox.leave('c', 2).expect("the box is open");
        assert_eq!(woken.0.load(Ordering::Relaxed), 2, "that was said before the latest look");
    }
}
