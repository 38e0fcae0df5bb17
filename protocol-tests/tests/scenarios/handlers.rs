//! Handlers that do not behave: they never return, return late, panic wherever they can. On simulated time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carafe::app::Routes;
use carafe::broker::{Action, Matcher};
use carafe::prelude::*;
use carafe::wire::ApiKey;
use protocol_tests::sim::{World, run_seed};
use tokio::time::sleep;

use crate::play::{Diary, GROUP, MINUTE, Play, SECOND, TOPIC};

/// A handler that does nothing.
fn quiet(routes: &mut Routes) {
    routes.topic(TOPIC).handler(async |_: Message<Raw>, _| Ok(()));
}

/// Tells when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_handler_that_never_returns_is_reported_fails_liveness_and_keeps_its_membership() {
    run_seed(1, async |world: World| {
        let play = Play::begin(world, 2).await;
        let dropped = Arc::new(AtomicBool::new(false));
        let (diary, guard) = (play.diary.clone(), dropped.clone());
        let (handle, result) = play
            .run(
                "app",
                |app| app.concurrency(2),
                |routes| {
                    routes.topic(TOPIC).stuck_after(MINUTE).handler(move |message: Message<Raw>, _| {
                        let (diary, guard) = (diary.clone(), guard.clone());
                        async move {
                            if message.partition().0 == 0 {
                                let _guard = Dropped(guard);
                                std::future::pending::<()>().await;
                            }
                            diary.write("handled");
                            Ok(())
                        }
                    });
                },
            )
            .await;
        sleep(MINUTE - SECOND).await;
        assert!(handle.is_live() && play.diary.count("consumer.stuck") == 0);
        sleep(10 * MINUTE).await;
        assert_eq!(play.diary.count("consumer.stuck"), 1, "told once");
        assert!(!handle.is_live());
        assert_eq!(play.control().group(GROUP).expect("a group").members.len(), 1);
        // The other partition is not held up.
        let producer = play.client("producer").await.producer().build().expect("right settings");
        producer.send(Record::to(TOPIC).partition(1).value("x")).await.expect("written");
        sleep(10 * SECOND).await;
        assert_eq!((play.diary.count("handled"), play.committed(1)), (2, Some(2)));

        handle.stop();
        assert!(!dropped.load(Ordering::Relaxed), "a stop waits");
        let error = result.await.expect("it ends").expect_err("a handler had to be dropped");
        assert!(error.is_timeout() && error.to_string().contains("t[0]"), "{error}");
        assert!(dropped.load(Ordering::Relaxed), "a forced stop drops the future");
        assert!(handle.is_live());
        assert_eq!(play.committed(0), None);
        assert_eq!(play.control().group(GROUP).expect("a group").members.len(), 0, "the group was left");
    });
}

#[test]
fn output_that_is_on_its_way_does_not_fail_liveness() {
    run_seed(1, async |world: World| {
        let play = Play::begin(world, 1).await;
        let held = play.control().intercept(Matcher::api(ApiKey::PRODUCE), Action::Hold);
        let (handle, result) = play
            .run(
                "app",
                |app| app,
                |routes| {
                    let route = routes.topic(TOPIC).stuck_after(2 * SECOND);
                    route.handler(|_: Message<Raw>, ctx: Context| async move {
                        sleep(5 * SECOND).await;
                        ctx.producer().enqueue(Record::to("out").value("x")).await?;
                        Ok(())
                    });
                },
            )
            .await;
        sleep(4 * SECOND).await;
        assert!(!handle.is_live());
        sleep(10 * SECOND).await;
        assert_eq!((held.hits(), play.diary.count("consumer.consumed")), (1, 0));
        assert!(handle.is_live(), "the handler has returned");
        held.remove();
        sleep(SECOND).await;
        assert_eq!((play.diary.count("consumer.stuck"), play.diary.count("consumer.consumed")), (1, 1));
        handle.stop();
        result.await.expect("it ends").expect("in order");
        assert_eq!(play.committed(0), Some(1));
    });
}

/// One member handles two partitions slowly, another comes: a revocation waits for the handler, but not for ever.
fn slow_handler_of_a_revoked_partition(takes: Duration) -> Vec<String> {
    let entries = Arc::new(Mutex::new(Vec::new()));
    let copy = entries.clone();
    run_seed(2, async move |world: World| {
        let play = Play::begin(world, 2).await;
        let diary = play.diary.clone();
        let (first, first_result) = play
            .run(
                "first",
                |app| app.revoke_timeout(10 * SECOND),
                |routes| {
                    routes.topic(TOPIC).manual_offset_management().handler(
                        move |message: Message<Raw>, ctx: Context| {
                            let diary = diary.clone();
                            async move {
                                ctx.ended().await;
                                sleep(takes).await;
                                let mark = ctx.mark_as_consumed(&message);
                                diary.write(match mark {
                                    Ok(()) => "first: marked",
                                    Err(error) if ctx.is_lost() && error.kind() == ErrorKind::State => {
                                        "first: refused"
                                    }
                                    Err(_) => "first: another error",
                                });
                                Ok(())
                            }
                        },
                    );
                },
            )
            .await;
        sleep(5 * SECOND).await;
        let diary = play.diary.clone();
        let (second, second_result) = play
            .run(
                "second",
                |app| app,
                |routes| {
                    routes.topic(TOPIC).handler(move |_: Message<Raw>, _| {
                        let diary = diary.clone();
                        async move {
                            diary.write("second: handled");
                            Ok(())
                        }
                    });
                },
            )
            .await;
        sleep(MINUTE).await;
        *copy.lock().expect("no panic") = play.diary.read();
        second.stop();
        second_result.await.expect("it ends").expect("in order");
        first.stop();
        let _ = first_result.await.expect("it ends");
    });
    Arc::try_unwrap(entries).expect("the run is over").into_inner().expect("no panic")
}

#[test]
fn a_revocation_waits_for_a_handler_whose_marks_count() {
    let diary = slow_handler_of_a_revoked_partition(5 * SECOND);
    assert!(diary.iter().any(|entry| entry == "first: marked"), "{diary:?}");
    assert!(!diary.iter().any(|entry| entry == "second: handled"), "{diary:?}");
    assert!(!diary.iter().any(|entry| entry == "rebalance.partitions_lost"), "{diary:?}");
}

#[test]
fn a_handler_that_outlasts_its_revocation_loses_the_partition_and_its_marks() {
    let diary = slow_handler_of_a_revoked_partition(20 * SECOND);
    let at = |entry: &str| diary.iter().position(|written| written == entry);
    let (lost, handled) = (at("rebalance.partitions_lost"), at("second: handled"));
    assert!(lost.is_some() && lost < handled, "{diary:?}");
    assert!(at("first: refused").is_some(), "{diary:?}");
    assert!(at("first: marked").is_none(), "{diary:?}");
}

/// Writes down every call, and marks in the last one.
struct Calls {
    diary: Diary,
    last: Option<(i32, carafe::types::Offset)>,
}

impl Consumer for Calls {
    type Payload = Raw;

    async fn consume(&mut self, batch: &Batch<Raw>, ctx: &mut Context) -> HandlerResult {
        let partition = ctx.partition().partition.0;
        self.diary.write(format!("consume {partition}"));
        self.last = batch.iter().last().map(|message| (partition, message.offset()));
        Ok(())
    }

    async fn revoked(&mut self, ctx: &mut Context) -> HandlerResult {
        Ok(self.end("revoked", ctx)?)
    }

    async fn shutdown(&mut self, ctx: &mut Context) -> HandlerResult {
        self.end("shutdown", ctx)?;
        panic!("on purpose")
    }
}

impl Calls {
    fn end(&mut self, what: &str, ctx: &Context) -> carafe::Result<()> {
        let (partition, offset) = self.last.take().expect("it handled something");
        self.diary.write(format!("{what} {partition}"));
        ctx.mark_as_consumed(offset)
    }
}

/// Each instance gets one last call, whose marks count, whatever becomes of it.
#[test]
fn consumers_are_told_of_revocation_and_shutdown() {
    run_seed(3, async |world: World| {
        let play = Play::begin(world, 2).await;
        let diary = play.diary.clone();
        let calls = move || Calls { diary: diary.clone(), last: None };
        let (first, first_result) = play
            .run(
                "first",
                |app| app,
                |routes| {
                    routes.topic(TOPIC).manual_offset_management().consumer(calls);
                },
            )
            .await;
        sleep(10 * SECOND).await;
        assert_eq!((play.committed(0), play.committed(1)), (None, None));

        let (second, second_result) = play.run("second", |app| app, quiet).await;
        sleep(MINUTE).await;
        let revoked: Vec<i32> = (0..2).filter(|p| play.diary.count(&format!("revoked {p}")) == 1).collect();
        assert_eq!(revoked.len(), 1, "{:?}", play.diary);
        let (gone, kept) = (revoked[0], 1 - revoked[0]);
        assert_eq!((play.committed(gone), play.committed(kept)), (Some(1), None));

        first.stop();
        first_result.await.expect("it ends").expect("a panic in the last call ends nothing else");
        assert_eq!(play.committed(kept), Some(1), "{:?}", play.diary);
        assert_eq!(play.diary.count(&format!("shutdown {kept}")), 1);
        assert_eq!(play.diary.count(&format!("shutdown {gone}")), 0);
        assert_eq!(play.diary.count("error.occurred: the handler panicked: on purpose"), 1);
        for partition in 0..2 {
            assert_eq!(play.diary.count(&format!("consume {partition}")), 1, "{:?}", play.diary);
        }
        second.stop();
        second_result.await.expect("it ends").expect("in order");
    });
}

#[test]
fn a_starved_runtime_is_reported() {
    run_seed(5, async |world: World| {
        let play = Play::begin(world, 1).await;

        let (handle, result) = play.run("app", |app| app, quiet).await;
        sleep(MINUTE).await;
        assert_eq!(play.diary.count("runtime.starved"), 0);
        // As if a handler had blocked the only thread.
        tokio::time::advance(5 * SECOND).await;
        sleep(MINUTE).await;
        assert_eq!(play.diary.count("runtime.starved"), 1);
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

/// What makes consumers may panic as they may.
#[test]
fn a_consumer_that_cannot_be_made_is_made_again() {
    run_seed(4, async |world: World| {
        let play = Play::begin(world, 1).await;
        let (diary, failed) = (play.diary.clone(), Arc::new(AtomicBool::new(false)));
        let make = move || {
            assert!(failed.swap(true, Ordering::Relaxed), "not yet");
            Calls { diary: diary.clone(), last: None }
        };
        let (handle, result) = play
            .run(
                "app",
                |app| app,
                |routes| {
                    routes.topic(TOPIC).consumer(make);
                },
            )
            .await;
        sleep(MINUTE).await;
        assert_eq!(play.diary.count("error.occurred: the handler panicked: not yet"), 1);
        assert_eq!((play.diary.count("consume 0"), play.committed(0)), (1, Some(1)));
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}
