//! Bytes that may be used at the same time, handed out first come, first served.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{Mutex, lock};

/// A number of bytes, of which every [`Credit`] is a share. What is held and what is available always add up to the total.
#[derive(Debug)]
pub(crate) struct CreditPool {
    total: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    available: usize,
    next_ticket: u64,
    /// In order of arrival; those at the front may be granted and not yet have noticed.
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    bytes: usize,
    granted: bool,
    waker: Waker,
}

impl CreditPool {
    pub(crate) fn new(total: usize) -> Arc<Self> {
        let state = State { available: total, next_ticket: 0, waiters: VecDeque::new() };
        Arc::new(Self { total, state: Mutex::new(state) })
    }

    /// All bytes there are.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Bytes that nobody holds.
    pub(crate) fn available(&self) -> usize {
        lock(&self.state).available
    }

    /// Takes `bytes` if they are there and nobody waits for credit.
    pub(crate) fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Credit> {
        let mut state = lock(&self.state);
        let waiting = state.waiters.iter().any(|waiter| !waiter.granted);
        if waiting || bytes > state.available {
            return None;
        }
        state.available -= bytes;
        drop(state);
        Some(Credit { pool: Arc::clone(self), bytes })
    }

    /// Waits for `bytes`, at most the total. Dropping the future gives up its place and what it was granted.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Take {
        Take { pool: Arc::clone(self), bytes: bytes.min(self.total), ticket: None }
    }

    fn give(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.available += bytes;
        debug_assert!(state.available <= self.total, "nothing is given back that was not taken");
        let woken = state.grant();
        drop(state);
        wake(woken);
    }
}

impl State {
    /// Serves waiters in order while there is enough for the next one.
    fn grant(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        for waiter in self.waiters.iter_mut().filter(|waiter| !waiter.granted) {
            if waiter.bytes > self.available {
                break;
            }
            self.available -= waiter.bytes;
            waiter.granted = true;
            woken.push(waiter.waker.clone());
        }
        woken
    }
}

fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

/// A share of a [`CreditPool`], given back on drop.
#[derive(Debug)]
pub(crate) struct Credit {
    pool: Arc<CreditPool>,
    bytes: usize,
}

impl Credit {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds another share of the same pool.
    pub(crate) fn merge(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.pool, &other.pool), "shares of one pool");
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Takes `bytes` of it, or all there are, into a share of their own.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { pool: Arc::clone(&self.pool), bytes }
    }

    /// Gives back what exceeds `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let excess = self.bytes.saturating_sub(bytes);
        if excess > 0 {
            self.bytes -= excess;
            self.pool.give(excess);
        }
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.pool.give(self.bytes);
        }
    }
}

/// Future of [`CreditPool::take`].
#[derive(Debug)]
pub(crate) struct Take {
    pool: Arc<CreditPool>,
    bytes: usize,
    ticket: Option<u64>,
}

impl Future for Take {
    type Output = Credit;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Credit> {
        let this = &mut *self;
        let mut state = lock(&this.pool.state);
        let granted = match this.ticket {
            Some(ticket) => {
                let Some(position) = state.waiters.iter().position(|waiter| waiter.ticket == ticket) else {
                    drop(state);
                    return Poll::Pending; // polled after completion
                };
                let waiter = &mut state.waiters[position];
                if waiter.granted {
                    state.waiters.remove(position);
                    true
                } else {
                    waiter.waker.clone_from(context.waker());
                    false
                }
            }
            None if state.waiters.is_empty() && this.bytes <= state.available => {
                state.available -= this.bytes;
                true
            }
            None => {
                let ticket = state.next_ticket;
                state.next_ticket += 1;
                let waker = context.waker().clone();
                state.waiters.push_back(Waiter { ticket, bytes: this.bytes, granted: false, waker });
                this.ticket = Some(ticket);
                // Those in front may all have been granted already.
                let woken = state.grant();
                drop(state);
                wake(woken);
                return Poll::Pending;
            }
        };
        drop(state);
        if !granted {
            return Poll::Pending;
        }
        this.ticket = None;
        Poll::Ready(Credit { pool: Arc::clone(&this.pool), bytes: std::mem::take(&mut this.bytes) })
    }
}

impl Drop for Take {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = lock(&self.pool.state);
        if let Some(position) = state.waiters.iter().position(|waiter| waiter.ticket == ticket) {
            if let Some(waiter) = state.waiters.remove(position)
                && waiter.granted
            {
                state.available += waiter.bytes;
            }
            // Those behind a large wish may be served now.
            let woken = state.grant();
            drop(state);
            wake(woken);
        }
    }
}

#[cfg(all(test, not(carafe_shuttle)))]
mod tests {
    use std::pin::pin;

    use super::*;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn serves_in_order_and_gets_everything_back() {
        let pool = CreditPool::new(10);
        let first = pool.try_take(8).expect("there are ten");
        let mut large = pin!(pool.take(9));
        let mut small = pin!(pool.take(1));
        assert!(poll(large.as_mut()).is_pending());
        assert!(poll(small.as_mut()).is_pending(), "nobody overtakes");
        assert!(pool.try_take(1).is_none(), "not even who does not wait");
        drop(first);
        let Poll::Ready(large) = poll(large.as_mut()) else { panic!("there is enough") };
        let Poll::Ready(small) = poll(small.as_mut()) else { panic!("there is enough") };
        assert_eq!((large.bytes(), small.bytes(), pool.available()), (9, 1, 0));
        drop((large, small));
        assert_eq!(pool.available(), 10);
    }

    #[test]
    fn a_cancelled_wish_makes_room() {
        let pool = CreditPool::new(10);
        let held = pool.try_take(5).expect("there are ten");
        let mut large = Box::pin(pool.take(10));
        let mut small = pin!(pool.take(5));
        assert!(poll(large.as_mut()).is_pending());
        assert!(poll(small.as_mut()).is_pending());
        drop(large);
        assert!(poll(small.as_mut()).is_ready());
        drop(held);
        let mut granted = Box::pin(pool.take(10));
        assert!(poll(granted.as_mut()).is_ready());
        assert_eq!(pool.available(), 10);
    }

    #[test]
    fn shares_merge_shrink_and_split() {
        let pool = CreditPool::new(10);
        let mut held = pool.try_take(4).expect("there are ten");
        held.merge(pool.try_take(4).expect("there are six"));
        assert_eq!((held.bytes(), pool.available()), (8, 2));
        held.shrink(3);
        assert_eq!((held.bytes(), pool.available()), (3, 7));
        let part = held.split(2);
        assert_eq!((held.bytes(), part.bytes(), pool.available()), (1, 2, 7));
        drop((held, part));
        assert_eq!(pool.available(), 10);
    }
}
