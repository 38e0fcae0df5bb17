//! How partitions and applications end: what counts as done, what still begins, how long it takes, and what is said. On
//! simulated time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carafe::ErrorCode;
use carafe::app::{Routes, Throttle};
use carafe::broker::{Action, Cluster, Matcher};
use carafe::prelude::*;
use carafe::types::Offset;
use carafe::wire::ApiKey;
use protocol_tests::sim::{World, run_seed};
use tokio::time::{Instant, sleep};

use crate::play::{Diary, GROUP, MINUTE, Play, SECOND, TOPIC};

const TENTH: Duration = Duration::from_millis(100);

/// How a partition ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Revocation,
    Loss,
}

/// Highest offset that was handled, by partition.
type Handled = Arc<Mutex<BTreeMap<i32, i64>>>;

fn handled(by: &Handled, partition: i32) -> i64 {
    by.lock().expect("no panic").get(&partition).copied().unwrap_or(0)
}

/// A member that reads and does nothing.
fn idle(routes: &mut Routes) {
    routes.topic(TOPIC).batch_handler(async |_: Batch<Raw>, ctx: Context| {
        ctx.pause(Duration::MAX);
        Ok(())
    });
}

/// Runs an application over two partitions of 200 records until `end`; returns how much of each was handled and committed.
fn ended_early(end: End, define: impl FnOnce(&mut Routes, Handled) + Send + 'static) -> Vec<(i64, i64)> {
    let result = Arc::new(Mutex::new(Vec::new()));
    let copy = result.clone();
    run_seed(1, async move |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 2)).await;
        play.write(TOPIC, 0, 200).await;
        play.write(TOPIC, 1, 200).await;
        let by = Handled::default();
        let (first, first_result) = play.run("first", |app| app, |routes| define(routes, by.clone())).await;
        sleep(8 * SECOND).await;
        let mut second = None;
        match end {
            End::Stop => {}
            End::Revocation => second = Some(play.run("second", |app| app, idle).await),
            End::Loss => {
                let forget = Action::Error(ErrorCode::UNKNOWN_MEMBER_ID);
                play.control().intercept(Matcher::api(ApiKey::HEARTBEAT).times(1), forget);
            }
        }
        if end != End::Stop {
            sleep(10 * SECOND).await;
            let lost = play.diary.count("rebalance.partitions_lost") > 0;
            assert_eq!(lost, end == End::Loss, "{:?}", play.diary);
        }
        let begun = Instant::now();
        first.stop();
        first_result.await.expect("it ends").expect("in order");
        assert!(begun.elapsed() < 2 * SECOND, "a stop does not wait for the rest of the batch");
        *copy.lock().expect("no panic") =
            (0..2).map(|p| (handled(&by, p), play.committed(p).unwrap_or(0))).collect();
        if let Some((second, second_result)) = second {
            second.stop();
            second_result.await.expect("it ends").expect("in order");
        }
    });
    Arc::try_unwrap(result).expect("the run is over").into_inner().expect("no panic")
}

/// Handles a batch until the partition goes away, as the documentation advises.
fn until_the_end(routes: &mut Routes, by: Handled, marks: bool, manual: bool) {
    let route = routes.topic(TOPIC).batch_handler(move |batch: Batch<Raw>, ctx: Context| {
        let by = by.clone();
        async move {
            for message in &batch {
                if ctx.is_ending() {
                    return Ok(());
                }
                sleep(TENTH).await;
                let next = message.offset().0 + 1;
                by.lock().expect("no panic").insert(ctx.partition().partition.0, next);
                if marks && ctx.mark_as_consumed(message).is_err() {
                    return Ok(());
                }
            }
            Ok(())
        }
    });
    if manual {
        route.manual_offset_management();
    }
}

#[test]
fn an_early_return_of_an_automatic_handler_marks_nothing() {
    for end in [End::Stop, End::Revocation, End::Loss] {
        for (handled, committed) in ended_early(end, |routes, by| until_the_end(routes, by, false, false)) {
            assert!(handled > 0 && committed == 0, "{end:?}: {handled} handled, {committed} committed");
        }
    }
}

#[test]
fn marks_before_an_early_return_are_what_is_committed() {
    for manual in [false, true] {
        for end in [End::Stop, End::Revocation, End::Loss] {
            let ended = ended_early(end, move |routes, by| until_the_end(routes, by, true, manual));
            for (handled, committed) in ended {
                let exact = end != End::Loss;
                assert!(committed <= handled, "{end:?} {manual}: {handled} handled, {committed} committed");
                assert!(!exact || committed == handled, "{end:?} {manual}: {handled}, {committed}");
            }
        }
    }
}

#[test]
fn a_handler_of_single_messages_stops_between_them() {
    for end in [End::Stop, End::Revocation, End::Loss] {
        let ended = ended_early(end, |routes, by| {
            routes.topic(TOPIC).handler(move |message: Message<Raw>, ctx: Context| {
                let by = by.clone();
                async move {
                    sleep(TENTH).await;
                    let next = message.offset().0 + 1;
                    by.lock().expect("no panic").insert(ctx.partition().partition.0, next);
                    Ok(())
                }
            });
        });
        for (handled, committed) in ended {
            assert!(
                handled < 200 && committed <= handled,
                "{end:?}: {handled} handled, {committed} committed"
            );
            assert!(end == End::Loss || committed == handled, "{end:?}: {handled}, {committed}");
        }
    }
}

/// Whoever never asks whether it ends has not returned early.
#[test]
fn a_batch_that_was_finished_during_a_stop_is_committed() {
    run_seed(2, async |world: World| {
        let play = Play::begin(world, 1).await;
        let define = |routes: &mut Routes| {
            routes.topic(TOPIC).batch_handler(async |_: Batch<Raw>, _| {
                sleep(10 * SECOND).await;
                Ok(())
            });
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(5 * SECOND).await;
        handle.stop();
        result.await.expect("it ends").expect("in order");
        assert_eq!(play.committed(0), Some(1));
    });
}

/// Marks three messages and never returns.
fn marks_and_hangs(routes: &mut Routes) {
    routes.topic(TOPIC).batch_handler(async |batch: Batch<Raw>, ctx: Context| {
        ctx.ended().await;
        for message in batch.iter().take(3) {
            ctx.mark_as_consumed(message)?;
        }
        std::future::pending().await
    });
}

#[test]
fn marks_made_before_handlers_are_dropped_are_committed() {
    run_seed(3, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 1)).await;
        play.write(TOPIC, 0, 10).await;
        let (handle, result) =
            play.run("app", |app| app.shutdown_timeout(20 * SECOND), marks_and_hangs).await;
        sleep(5 * SECOND).await;
        let begun = Instant::now();
        handle.stop();
        let error = result.await.expect("it ends").expect_err("a handler hangs");
        assert!(error.is_timeout() && error.to_string().contains("the handler of t[0]"), "{error}");
        assert!(begun.elapsed() <= 20 * SECOND, "{:?}", begun.elapsed());
        assert_eq!(play.committed(0), Some(3));
        assert_eq!(play.control().group(GROUP).expect("a group").members.len(), 0);
    });
}

#[test]
fn marks_made_before_a_revocation_is_given_up_are_committed() {
    run_seed(4, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 2)).await;
        play.write(TOPIC, 0, 10).await;
        play.write(TOPIC, 1, 10).await;
        let (first, first_result) =
            play.run("first", |app| app.revoke_timeout(10 * SECOND), marks_and_hangs).await;
        sleep(5 * SECOND).await;
        let (second, second_result) = play.run("second", |app| app, idle).await;
        sleep(MINUTE).await;
        assert_eq!(play.diary.count("rebalance.partitions_lost"), 1);
        let committed: Vec<_> = (0..2).filter_map(|partition| play.committed(partition)).collect();
        assert_eq!(committed, [3], "of the partition that went away");
        second.stop();
        second_result.await.expect("it ends").expect("in order");
        first.stop_now();
        first_result.await.expect("it ends").expect_err("a handler hangs");
    });
}

#[test]
fn nothing_begins_after_a_stop_or_a_loss_however_many_wait_for_a_worker() {
    for lost in [false, true] {
        run_seed(5, async move |world: World| {
            let play = Play::begin(world, 6).await;
            let (over, diary) = (Arc::new(AtomicBool::new(false)), play.diary.clone());
            let (ended, entries) = (over.clone(), diary.clone());
            let define = move |routes: &mut Routes| {
                routes.topic(TOPIC).batch_handler(move |_: Batch<Raw>, ctx: Context| {
                    if ended.load(Ordering::Relaxed) && !ctx.is_retrying() {
                        entries.write("late");
                    }
                    async {
                        sleep(20 * SECOND).await;
                        Ok(())
                    }
                });
            };
            let (handle, result) = play.run("app", |app| app.concurrency(1), define).await;
            sleep(6 * SECOND).await;
            if lost {
                let forget = Action::Error(ErrorCode::UNKNOWN_MEMBER_ID);
                play.control().intercept(Matcher::api(ApiKey::HEARTBEAT), forget);
                play.control().intercept(Matcher::api(ApiKey::JOIN_GROUP), Action::Hold);
                sleep(4 * SECOND).await;
                assert_eq!(diary.count("rebalance.partitions_lost"), 1);
            }
            over.store(true, Ordering::Relaxed);
            if lost {
                sleep(MINUTE).await;
            }
            handle.stop();
            let _ = result.await.expect("it ends");
            assert_eq!(diary.count("late"), 0);
            assert_eq!(diary.count("consumer.consume"), 1, "only what begins is told: {:?}", diary.read());
        });
    }
}

#[test]
fn idle_partitions_are_given_back_while_all_workers_are_busy() {
    run_seed(6, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 2).topic("busy", 1)).await;
        play.write(TOPIC, 0, 1).await;
        play.write(TOPIC, 1, 1).await;
        let define = |routes: &mut Routes| {
            routes.topic(TOPIC).handler(async |_: Message<Raw>, _| Ok(()));
            routes.group("another", |group| {
                group.topic("busy").handler(async |_: Message<Raw>, _| std::future::pending().await);
            });
        };
        let set = |app: App| app.concurrency(1).revoke_timeout(Duration::MAX);
        let (first, first_result) = play.run("first", set, define).await;
        sleep(5 * SECOND).await;
        play.write("busy", 0, 1).await;
        sleep(5 * SECOND).await;
        let (second, second_result) = play.run("second", |app| app, idle).await;
        sleep(20 * SECOND).await;
        assert_eq!(play.diary.count("rebalance.partitions_lost"), 0);
        assert_eq!(play.control().group(GROUP).expect("a group").members.len(), 2);
        let assigned = play.diary.count("rebalance.partitions_assigned");
        assert!(assigned >= 3, "the second member has its partition: {:?}", play.diary);
        second.stop();
        second_result.await.expect("it ends").expect("in order");
        first.stop_now();
        let _ = first_result.await.expect("it ends");
    });
}

#[test]
fn a_lost_partition_stays_lost_and_a_stop_does_not_wait_for_it() {
    run_seed(7, async |world: World| {
        let play = Play::begin(world, 1).await;
        let entries = play.diary.clone();
        let define = move |routes: &mut Routes| {
            routes.topic(TOPIC).batch_handler(move |_: Batch<Raw>, ctx: Context| {
                let diary = entries.clone();
                async move {
                    while !ctx.is_lost() {
                        sleep(TENTH).await;
                    }
                    loop {
                        sleep(TENTH).await;
                        if !ctx.is_lost() || ctx.mark_as_consumed(Offset(0)).is_ok() {
                            diary.write("not lost");
                        }
                    }
                }
            });
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(5 * SECOND).await;
        let forget = Action::Error(ErrorCode::UNKNOWN_MEMBER_ID);
        play.control().intercept(Matcher::api(ApiKey::HEARTBEAT).times(1), forget);
        sleep(5 * SECOND).await;
        let begun = Instant::now();
        handle.stop();
        result.await.expect("it ends").expect("in order");
        assert!(begun.elapsed() < SECOND);
        assert_eq!((play.diary.count("not lost"), play.committed(0)), (0, None));
    });
}

#[test]
fn a_context_that_outlives_its_run_neither_produces_nor_marks() {
    run_seed(8, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 1).topic("out", 1)).await;
        play.write(TOPIC, 0, 1).await;
        let kept = Arc::new(Mutex::new(None));
        let keep = kept.clone();
        let define = move |routes: &mut Routes| {
            routes.topic(TOPIC).batch_handler(move |_: Batch<Raw>, ctx: Context| {
                *keep.lock().expect("no panic") = Some(ctx);
                async { Ok(()) }
            });
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(5 * SECOND).await;
        let context: Context = kept.lock().expect("no panic").take().expect("it ran");
        let late = || Record::to("out").value("late");
        let enqueued = context.producer().enqueue(late()).await.expect_err("the run is over");
        assert_eq!(enqueued.kind(), ErrorKind::State);
        assert!(context.producer().send(late()).await.is_err());
        assert!(context.mark_as_consumed(Offset(0)).is_err());
        handle.stop();
        result.await.expect("it ends").expect("in order");
        assert!(play.control().log("out", 0).is_empty());
    });
}

/// Panics wherever it can, as it is dropped.
struct Fragile;

impl Drop for Fragile {
    fn drop(&mut self) {
        panic!("fragile");
    }
}

impl Consumer for Fragile {
    type Payload = Raw;

    async fn consume(&mut self, _: &Batch<Raw>, _: &mut Context) -> HandlerResult {
        Ok(())
    }
}

#[test]
fn a_consumer_that_panics_as_it_is_dropped_ends_nothing_else() {
    run_seed(9, async |world: World| {
        let play = Play::begin(world, 2).await;
        let define = |routes: &mut Routes| {
            routes.topic(TOPIC).consumer(|| Fragile);
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(5 * SECOND).await;
        handle.stop();
        result.await.expect("it ends").expect("in order");
        assert_eq!((play.committed(0), play.committed(1)), (Some(1), Some(1)));
        assert_eq!(play.control().group(GROUP).expect("a group").members.len(), 0, "the group was left");
        let told = "error.occurred: the consumer panicked as it was dropped: fragile";
        assert_eq!(play.diary.count(told), 2, "{:?}", play.diary);
    });
}

/// A stop takes no longer than its timeout, whoever does not answer, and says who that was.
#[test]
fn a_stop_has_one_deadline_and_says_what_was_not_done() {
    for timeout in [Duration::ZERO, SECOND, 25 * SECOND] {
        run_seed(10, async move |world: World| {
            let play = Play::on(world, Cluster::builder().topic(TOPIC, 2).topic("out", 1)).await;
            play.write(TOPIC, 0, 1).await;
            play.write(TOPIC, 1, 1).await;
            let define = |routes: &mut Routes| {
                routes.topic(TOPIC).batch_handler(|batch: Batch<Raw>, ctx: Context| async move {
                    // One returns and has its output on the way, the other hangs.
                    if batch.partition().0 == 0 {
                        ctx.producer().send(Record::to("out").value("x")).await?;
                        sleep(2 * SECOND).await;
                        ctx.producer().enqueue(Record::to("out").value("x")).await?;
                        return Ok(());
                    }
                    std::future::pending().await
                });
            };
            let (handle, result) = play.run("app", |app| app.shutdown_timeout(timeout), define).await;
            sleep(SECOND).await;
            play.control().kill_node(0);
            sleep(5 * SECOND).await;
            let begun = Instant::now();
            handle.stop();
            let error = result.await.expect("it ends").expect_err("nobody answers");
            assert!(begun.elapsed() <= timeout + 2 * TENTH, "{timeout:?}: {:?}", begun.elapsed());
            let text = error.to_string();
            assert!(error.is_timeout(), "{error:?}");
            for part in ["the handler of t[1]", "the handler of t[0] produced"] {
                assert!(text.contains(part), "{part:?} is missing in: {text}");
            }
            assert!(!text.contains("the handler of t[0] did not return"), "{text}");
            assert!(text.contains("no connection") && !text.contains("0ns"), "{text}");
        });
    }
}

/// A thread that a handler blocks can be neither dropped nor ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_blocks_is_said_to_run_on() {
    let cluster = Cluster::builder().topic(TOPIC, 1).start().await.expect("a cluster");
    let client = Client::builder().bootstrap_servers(cluster.bootstrap_servers());
    let client = client.build().await.expect("right settings");
    let producer = client.producer().build().expect("right settings");
    producer.send(Record::to(TOPIC).value("x")).await.expect("written");
    let (begun, begins) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let app = App::new(GROUP).client(client).shutdown_timeout(Duration::ZERO).routes(|routes| {
        routes.topic(TOPIC).blocking_handler(move |_: &Batch<Raw>, _: &Context| {
            begun.send(()).expect("the test waits");
            let _ = released.lock().expect("no panic").recv();
            Ok(())
        });
    });
    let server = app.build().await.expect("right settings");
    let handle = server.handle();
    let running = tokio::spawn(server.run());
    tokio::task::spawn_blocking(move || begins.recv()).await.expect("no panic").expect("it begins");
    handle.stop();
    let error = running.await.expect("no panic").expect_err("it blocks").to_string();
    assert!(error.contains("the handler of t[0] blocks a thread and still runs"), "{error}");
    assert!(!error.contains("dropped"), "{error}");
    drop(release);
}

/// Nobody was ever there: there is no membership to end.
#[test]
fn who_never_joined_has_nothing_to_leave() {
    run_seed(13, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 1)).await;
        play.control().kill_node(0);
        for wait in [SECOND, MINUTE] {
            let (handle, result) = play.run("app", |app| app, idle).await;
            sleep(wait).await;
            let begun = Instant::now();
            handle.stop();
            result.await.expect("it ends").expect("in order");
            assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        }
    });
}

/// What the handlers that returned have produced is not acknowledged: none of them is to blame.
#[test]
fn a_stop_without_brokers_names_them_and_no_handler() {
    run_seed(14, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 1).topic("out", 1)).await;
        play.write(TOPIC, 0, 1).await;
        let define = |routes: &mut Routes| {
            routes.topic(TOPIC).handler(async |_: Message<Raw>, ctx: Context| {
                ctx.producer().send(Record::to("out").value("x")).await?;
                sleep(10 * SECOND).await;
                ctx.producer().enqueue(Record::to("out").value("x")).await?;
                Ok(())
            });
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(5 * SECOND).await;
        play.control().kill_node(0);
        sleep(10 * SECOND).await;
        handle.stop();
        let error = result.await.expect("it ends").expect_err("nobody answers");
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let text: String = causes.map(|error| format!("{error}; ")).collect();
        for part in ["what the handler of t[0] produced was not acknowledged", "no connection"] {
            assert!(text.contains(part), "{part:?} is missing in: {text}");
        }
        for part in ["is_ending", "did not return", "0ns"] {
            assert!(!text.contains(part), "{part:?} in: {text}");
        }
    });
}

#[test]
fn an_application_can_be_ended_at_once_while_it_stops() {
    run_seed(11, async |world: World| {
        let play = Play::begin(world, 1).await;
        let define = |routes: &mut Routes| {
            routes.topic(TOPIC).handler(async |_: Message<Raw>, _| std::future::pending().await);
        };
        let (handle, result) = play.run("app", |app| app.shutdown_timeout(Duration::MAX), define).await;
        sleep(5 * SECOND).await;
        handle.stop();
        sleep(5 * MINUTE).await;
        let begun = Instant::now();
        handle.stop_now();
        let error = result.await.expect("it ends").expect_err("a handler was dropped");
        assert!(error.is_timeout() && error.to_string().contains("t[0]"), "{error}");
        assert!(
            !error.to_string().contains("shutdown_timeout"),
            "who cuts it short wants no more time: {error}"
        );
        assert!(begun.elapsed() < SECOND);
    });
}

/// Every duration of an application means what it says, from nothing to for ever.
#[test]
fn durations_may_be_nothing_or_for_ever() {
    for time in [Duration::ZERO, Duration::from_nanos(1), SECOND, Duration::MAX] {
        run_seed(12, async move |world: World| {
            let play = Play::begin(world, 2).await;
            let define = move |routes: &mut Routes| {
                let route = routes.topic(TOPIC).stuck_after(time).retry(Retry::exponential(time, time));
                route.throttle(Throttle::new(1, time.max(Duration::from_millis(1))));
                route.handler(move |message: Message<Raw>, ctx: Context| async move {
                    if message.partition().0 == 0 {
                        ctx.pause(time);
                        return Ok(());
                    }
                    if ctx.is_retrying() { Ok(()) } else { Err("once".into()) }
                });
            };
            let set = move |app: App| app.shutdown_timeout(time).revoke_timeout(time);
            let (handle, result) = play.run("app", set, define).await;
            sleep(5 * SECOND).await;
            let (second, second_result) = play.run("second", |app| app, idle).await;
            sleep(10 * SECOND).await;
            second.stop();
            second_result.await.expect("it ends").expect("in order");
            sleep(10 * SECOND).await;
            handle.stop();
            let outcome = result.await.expect("it ends without a panic");
            assert!(outcome.is_ok() || time < SECOND, "{time:?}: {outcome:?}");
            assert!(play.committed(0) == Some(1) || time < SECOND, "{time:?}: {:?}", play.diary);
        });
    }
}

/// Manual marks are manual whatever was set first.
#[test]
fn manual_offset_management_does_not_depend_on_the_order_of_calls() {
    for first in [false, true] {
        run_seed(13, async move |world: World| {
            let play = Play::begin(world, 1).await;
            let count = Arc::new(AtomicI64::new(0));
            let counted = count.clone();
            let define = move |routes: &mut Routes| {
                let route = routes.topic(TOPIC);
                if first {
                    route.manual_offset_management();
                }
                route.handler(move |_: Message<Raw>, _| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    async { Ok(()) }
                });
                if !first {
                    route.manual_offset_management();
                }
            };
            let (handle, result) = play.run("app", |app| app, define).await;
            sleep(5 * SECOND).await;
            handle.stop();
            result.await.expect("it ends").expect("in order");
            assert_eq!((count.load(Ordering::Relaxed), play.committed(0)), (1, None));
        });
    }
}

/// A route whose records all fail and go to `dead`.
fn poison(routes: &mut Routes, dead: &'static str) {
    let route = routes.topic(TOPIC).retry(Retry::fixed(SECOND));
    route.dead_letter_queue(DeadLetter::to(dead).max_retries(0));
    route.handler(async |_: Message<Raw>, _| Err("poison".into()));
}

fn told(diary: &Diary, what: &str) -> usize {
    diary.read().iter().filter(|entry| entry.contains(what)).count()
}

#[test]
fn a_dead_letter_topic_that_does_not_exist_is_told_and_holds_up_no_stop() {
    run_seed(14, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 1).auto_create_topics(false)).await;
        play.write(TOPIC, 0, 3).await;
        let (handle, result) = play.run("app", |app| app, |routes| poison(routes, "dead")).await;
        sleep(15 * SECOND).await;
        assert!(told(&play.diary, "dead") > 0 && !handle.is_live(), "{:?}", play.diary);
        let begun = Instant::now();
        handle.stop();
        result.await.expect("it ends").expect("in order");
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        assert_eq!(play.committed(0), None);

        // It heals when the topic is there.
        let (handle, result) = play.run("app", |app| app, |routes| poison(routes, "dead")).await;
        sleep(10 * SECOND).await;
        play.control().create_topic("dead", 1, &[]).expect("created");
        sleep(MINUTE).await;
        assert!(handle.is_live());
        assert_eq!((play.control().log("dead", 0).len(), play.committed(0)), (3, Some(3)));
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

#[test]
fn a_dead_letter_that_is_refused_for_good_is_told_again_and_again() {
    run_seed(15, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 1)).await;
        play.control().create_topic("dead", 1, &[("max.message.bytes", "60")]).expect("created");
        play.write(TOPIC, 0, 1).await;
        let (handle, result) = play.run("app", |app| app, |routes| poison(routes, "dead")).await;
        sleep(10 * SECOND).await;
        let before = told(&play.diary, "MESSAGE_TOO_LARGE");
        assert!(before > 0 && !handle.is_live(), "{:?}", play.diary);
        sleep(2 * MINUTE).await;
        assert!(told(&play.diary, "MESSAGE_TOO_LARGE") > before, "{:?}", play.diary);
        handle.stop();
        result.await.expect("it ends").expect("in order");
        assert_eq!(play.committed(0), None);
    });
}

#[test]
fn a_dead_letter_of_a_dead_letter_says_once_where_it_comes_from() {
    run_seed(16, async |world: World| {
        let builder = Cluster::builder().topic(TOPIC, 1).topic("dead", 1).topic("deader", 1);
        let play = Play::on(world, builder).await;
        play.write(TOPIC, 0, 1).await;
        let define = |routes: &mut Routes| {
            poison(routes, "dead");
            let route = routes.topic("dead").retry(Retry::fixed(SECOND));
            route.dead_letter_queue(DeadLetter::to("deader").max_retries(0));
            route.handler(async |_: Message<Raw>, _| Err("poison".into()));
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(10 * SECOND).await;
        handle.stop();
        result.await.expect("it ends").expect("in order");
        let reader = play.client("reader").await.partition_reader();
        let reader = reader.topic("deader", carafe::consumer::StartOffset::Earliest).build().await;
        let batch = reader.expect("a reader").next().await.expect("a batch");
        let letter = batch.get(0).expect("a letter");
        let mut names: Vec<_> =
            letter.headers.iter().map(|header| String::from_utf8_lossy(header.key).into_owned()).collect();
        names.sort();
        let source =
            ["attempts", "consumer_group", "error", "error_kind", "offset", "partition", "topic", "trace_id"];
        assert_eq!(names, source.map(|name| format!("source_{name}")));
        let from = letter.headers.iter().find(|header| header.key == b"source_topic");
        assert_eq!(from.and_then(|header| header.value), Some(&b"dead"[..]));
    });
}
