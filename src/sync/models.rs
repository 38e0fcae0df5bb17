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
            let pool = CreditPool::new(4);
            let takers: Vec<_> = [3, 2, 4]
                .into_iter()
                .map(|bytes| {
                    let pool = Arc::clone(&pool);
                    thread::spawn(move || {
                        let mut credit = block_on(pool.take(bytes));
                        assert_eq!(credit.bytes(), bytes);
                        credit.shrink(1);
                    })
                })
                .collect();
            // One who gives up, granted or not.
            let mut fickle = Box::pin(pool.take(4));
            let waker = std::task::Waker::noop();
            if let Poll::Ready(credit) = fickle.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
                drop(credit);
            }
            drop(fickle);
            drop(pool.try_take(1));
            for taker in takers {
                taker.join().expect("a taker that was served");
            }
            assert_eq!(pool.available(), 4);
        },
        SCHEDULES,
    );
}

#[test]
fn memory_comes_back_and_whoever_waits_for_it_is_served() {
    shuttle::check_random(
        || {
            let budget = budget::MemoryBudget::new(8);
            let takers: Vec<_> = [(2, 4), (8, 8), (3, 5)]
                .into_iter()
                .map(|(least, wanted)| {
                    let budget = budget.clone();
                    thread::spawn(move || {
                        let mut credit = block_on(budget.reserve(least, wanted));
                        assert!((least..=wanted).contains(&credit.bytes()));
                        assert!(budget.used() <= 8);
                        // In parts, each of which comes back on its own.
                        let part = credit.split(1).wrap(Vec::new());
                        drop(credit);
                        drop(part);
                    })
                })
                .collect();
            // One who gives up.
            let waker = std::task::Waker::noop();
            let mut fickle = Box::pin(budget.reserve(8, 8));
            drop(fickle.as_mut().poll(&mut std::task::Context::from_waker(waker)));
            drop(fickle);
            for taker in takers {
                taker.join().expect("a taker that was served");
            }
            assert_eq!((budget.used(), budget.waiting()), (0, 0));
        },
        SCHEDULES,
    );
}

#[test]
fn what_partitions_hold_adds_up_and_one_at_a_time_overdraws() {
    shuttle::check_random(
        || {
            let budget = budget::MemoryBudget::new(64);
            let account = budget.account();
            let seen = budget.returns();
            let holders: Vec<_> = (0..2)
                .map(|_| {
                    let ledger = Arc::clone(account.ledger());
                    let budget = budget.clone();
                    thread::spawn(move || {
                        let mut holding = ledger.hold();
                        holding.add(8);
                        let overdraws = holding.overdraw();
                        budget.press();
                        assert!(ledger.held() >= 8 && ledger.held() <= 16);
                        drop(holding);
                        overdraws
                    })
                })
                .collect();
            // Both signals come, whenever one began to wait.
            assert!(block_on(budget.pressed(0)) >= 1);
            block_on(budget.returned(seen));
            let overdrew = holders.into_iter().map(|holder| holder.join().expect("it only counts"));
            assert!(overdrew.filter(|overdrew| *overdrew).count() >= 1);
            assert_eq!((account.ledger().held(), budget.room().common, budget.waiting()), (0, 32, 0));
            assert!(account.ledger().hold().overdraw(), "whoever overdrew is gone");
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
