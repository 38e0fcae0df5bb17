//! Models of the cells, whose interleavings shuttle explores.

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;

use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;

use super::*;

const SCHEDULES: usize = 2_000;

#[test]
fn a_completion_wakes_every_waiter() {
    shuttle::check_random(
        || {
            let completion = Arc::new(Completion::default());
            let waiters: Vec<_> = (0..3u32)
                .map(|index| {
                    let completion = Arc::clone(&completion);
                    thread::spawn(move || {
                        let mut registration = Registration::default();
                        let result = block_on(std::future::poll_fn(|context| {
                            completion.poll(index, &mut registration, context)
                        }));
                        assert_eq!(result, if index < 1 { 'a' } else { 'b' });
                    })
                })
                .collect();
            completion.complete(0..1, 'a');
            completion.complete(1..3, 'b');
            for waiter in waiters {
                waiter.join().expect("a waiter that was woken");
            }
        },
        SCHEDULES,
    );
}

#[test]
fn credit_is_conserved_and_nobody_starves() {
    shuttle::check_random(
        || {
            let credit = Credit::new(4);
            let takers: Vec<_> = [3, 2, 4]
                .into_iter()
                .map(|bytes| {
                    let credit = Arc::clone(&credit);
                    thread::spawn(move || {
                        let mut held = block_on(credit.take(bytes));
                        assert_eq!(held.bytes(), bytes);
                        held.shrink(1);
                    })
                })
                .collect();
            // One who gives up, granted or not.
            let mut fickle = Box::pin(credit.take(4));
            let waker = std::task::Waker::noop();
            if let Poll::Ready(held) = fickle.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
                drop(held);
            }
            drop(fickle);
            drop(credit.try_take(1));
            for taker in takers {
                taker.join().expect("a taker that was served");
            }
            assert_eq!(credit.available(), 4);
        },
        SCHEDULES,
    );
}

#[test]
fn no_letter_is_left_unread() {
    shuttle::check_random(
        || {
            let mailbox = Arc::new(Mailbox::default());
            // The look after which the reader said that it will look again.
            let said = Arc::new(AtomicU64::new(0));
            let senders: Vec<_> = (0..3)
                .map(|sender| {
                    let (mailbox, said) = (Arc::clone(&mailbox), Arc::clone(&said));
                    thread::spawn(move || {
                        for letter in 0..2 {
                            let look = said.load(Ordering::Relaxed);
                            mailbox.leave((sender, letter), look).expect("the box is open");
                        }
                    })
                })
                .collect();
            let mut read = Vec::new();
            let (mut look, mut promises) = (0, 2);
            while read.len() < 6 {
                let mut letters = Vec::new();
                block_on(std::future::poll_fn(|context| {
                    look += 1;
                    let received = mailbox.poll_receive(look, &mut letters, context);
                    if received.is_pending() && promises > 0 {
                        promises -= 1;
                        said.store(look, Ordering::Relaxed);
                        context.waker().wake_by_ref();
                    }
                    received
                }));
                read.append(&mut letters);
            }
            for sender in 0..3 {
                let order: Vec<_> =
                    read.iter().filter(|(from, _)| *from == sender).map(|(_, n)| *n).collect();
                assert_eq!(order, [0, 1]);
            }
            for sender in senders {
                sender.join().expect("sending does not fail");
            }
        },
        SCHEDULES,
    );
}
