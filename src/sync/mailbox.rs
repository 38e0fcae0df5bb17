//! Letters from any thread to the one task that reads them.

use std::task::{Context, Poll, Waker};

use super::{Mutex, lock};

/// A queue with one reader. The reader is woken for the first letter in an empty box, not for those behind it.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    letters: Vec<T>,
    reader: Option<Waker>,
    closed: bool,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { letters: Vec::new(), reader: None, closed: false }) }
    }
}

impl<T> Mailbox<T> {
    /// Sends `letter`, or returns it if nobody will read it.
    pub(crate) fn send(&self, letter: T) -> Result<(), T> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(letter);
        }
        state.letters.push(letter);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(())
    }

    /// Moves all letters to `into`, which is empty, or asks to be woken for the next one.
    pub(crate) fn poll_receive(&self, into: &mut Vec<T>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
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
    use super::*;

    #[test]
    fn letters_arrive_in_order_until_the_box_is_closed() {
        let mailbox = Mailbox::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut letters = Vec::new();
        assert!(mailbox.poll_receive(&mut letters, &mut context).is_pending());
        assert_eq!((mailbox.send(1), mailbox.send(2)), (Ok(()), Ok(())));
        assert!(mailbox.poll_receive(&mut letters, &mut context).is_ready());
        assert_eq!(letters, [1, 2]);
        assert_eq!(mailbox.send(3), Ok(()));
        assert_eq!(mailbox.close(), [3]);
        assert_eq!(mailbox.send(4), Err(4));
    }
}
