//! What an application is told while it runs takes effect and costs nothing: neither records nor their order. On simulated
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carafe::app::{CommandError, Routes, ServerHandle, Throttle, TopicRoute};
use carafe::broker::{Action, Cluster, Matcher};
use carafe::prelude::*;
use carafe::types::{Offset, TopicPartition};
use carafe::wire::ApiKey;
use protocol_tests::sim::{World, run_seed, run_seeds};
use tokio::sync::oneshot::Receiver;
use tokio::time::{Instant, sleep};

use crate::play::{Diary, GROUP, MINUTE, Play, SECOND, TOPIC};

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

fn writes(diary: &Diary, routes: &mut Routes, topic: &str, name: &str) {
    let (diary, name) = (diary.clone(), name.to_owned());
    routes.topic(topic.to_owned()).handler(move |message: Message<Raw>, _: Context| {
        diary.write(format!("{name} {}", message.offset().0));
        async { Ok(()) }
    });
}

/// Does nothing of its first batch but to pause, and takes its time over it.
struct Half {
    diary: Diary,
    first: Arc<AtomicBool>,
    at: bool,
}

impl Consumer for Half {
    type Payload = Raw;

    async fn consume(&mut self, batch: &Batch<Raw>, ctx: &mut Context) -> HandlerResult {
        if self.first.swap(false, Ordering::Relaxed) {
            self.diary.write("paused");
            match self.at {
                true => ctx.pause_at(batch.first_offset().expect("records"), 10 * MINUTE),
                false => ctx.pause(10 * MINUTE),
            }
            sleep(10 * SECOND).await;
            return Ok(());
        }
        self.diary.write(format!("handled {}", batch.len()));
        Ok(())
    }
}

#[test]
fn a_pause_that_is_ended_before_its_handler_returns_loses_nothing() {
    for at in [false, true] {
        run_seed(1, async move |world: World| {
            let play = Play::on(world, Cluster::builder().topic(TOPIC, 1)).await;
            play.write(TOPIC, 0, 3).await;
            let (diary, first) = (play.diary.clone(), Arc::new(AtomicBool::new(true)));
            let define = |routes: &mut Routes| {
                routes.topic(TOPIC).consumer(move || Half { diary: diary.clone(), first: first.clone(), at });
            };
            let (handle, result) = play.run("app", |app| app, define).await;
            while play.diary.count("paused") == 0 {
                sleep(SECOND).await;
            }
            handle.resume(GROUP, &tp(0)).await.expect("it is assigned");
            sleep(MINUTE).await;
            let handled = play.diary.count("handled 3");
            assert_eq!((handled, play.committed(0)), (1, Some(3)));
            handle.stop();
            result.await.expect("it ends").expect("in order");
        });
    }
}

#[test]
fn a_topic_that_is_dropped_and_added_again_has_its_new_handler() {
    run_seed(1, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 1).topic("u", 1)).await;
        let diary = play.diary.clone();
        let define = |routes: &mut Routes| {
            writes(&diary, routes, TOPIC, "old");
            writes(&diary, routes, "u", "u");
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        play.write(TOPIC, 0, 1).await;
        sleep(MINUTE).await;
        let (dropped, added) = tokio::join!(
            handle.drop_topic(GROUP, TOPIC),
            handle.add_routes(|routes| writes(&play.diary, routes, TOPIC, "new")),
        );
        assert!(dropped.is_ok() && added.is_ok());
        sleep(MINUTE).await;
        play.write(TOPIC, 0, 1).await;
        sleep(MINUTE).await;
        let counts = ["old 0", "old 1", "new 1"].map(|entry| play.diary.count(entry));
        assert_eq!(counts, [1, 0, 1]);
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

#[test]
fn what_is_told_of_a_group_that_is_being_left_is_refused() {
    run_seed(1, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 1).topic("u", 1)).await;
        play.write(TOPIC, 0, 1).await;
        play.write("u", 0, 1).await;
        let (diary, other) = (play.diary.clone(), play.diary.clone());
        let define = move |routes: &mut Routes| {
            writes(&diary, routes, TOPIC, "first");
            routes.group("second", |group| {
                group.topic(TOPIC).handler(move |_: Message<Raw>, _: Context| {
                    other.write("second");
                    sleep_ok(10 * SECOND)
                });
            });
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        while play.diary.count("second") == 0 {
            sleep(SECOND).await;
        }
        let leaving = handle.clone();
        let (done_to, done) = tokio::sync::oneshot::channel();
        let leave = async move {
            let _ = done_to.send(leaving.drop_group("second").await.is_ok());
        };
        play.world.runtime().spawn("leave", Box::pin(leave));
        sleep(SECOND).await;
        let diary = play.diary.clone();
        let added = handle
            .add_routes(|routes| {
                routes.group("second", |group| {
                    group.topic("u").handler(move |_: Message<Raw>, _: Context| {
                        diary.write("u");
                        async { Ok(()) }
                    });
                });
            })
            .await;
        let restarted = handle.restart("second").await;
        assert!(done.await.expect("it is answered"));
        sleep(MINUTE).await;
        let refused = [added, restarted].map(|told| matches!(told, Err(CommandError::Stopping)));
        assert_eq!((refused, handle.groups().len(), play.diary.count("u")), ([true, true], 1, 0));
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

async fn sleep_ok(time: Duration) -> HandlerResult {
    sleep(time).await;
    Ok(())
}

#[test]
fn a_group_that_is_added_to_a_quiet_application_is_quiet() {
    run_seed(1, async |world: World| {
        let play = Play::begin(world, 1).await;
        let diary = play.diary.clone();
        let define = |routes: &mut Routes| writes(&diary, routes, TOPIC, "first");
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(MINUTE).await;
        handle.quiet().await.expect("it runs");
        let diary = play.diary.clone();
        let another = |routes: &mut Routes| {
            routes.group("second", |group| {
                group.topic(TOPIC).handler(move |_: Message<Raw>, _: Context| {
                    diary.write("second");
                    async { Ok(()) }
                });
            });
        };
        handle.add_routes(another).await.expect("added");
        sleep(MINUTE).await;
        assert_eq!(play.diary.count("second"), 0, "quiet");
        handle.unquiet().await.expect("it runs");
        sleep(MINUTE).await;
        assert_eq!(play.diary.count("second"), 1);
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

/// What the program says while one partition has the only worker and the other one waits for it.
async fn waits_for_a_worker(
    world: World,
    say: impl AsyncFnOnce(&carafe::app::ServerHandle, &TopicPartition),
) {
    let play = Play::begin(world, 2).await;
    let diary = play.diary.clone();
    let define = |routes: &mut Routes| {
        routes.topic(TOPIC).handler(move |message: Message<Raw>, ctx: Context| {
            diary.write(format!("begin {} {}", ctx.partition().partition.0, message.offset().0));
            sleep_ok(30 * SECOND)
        });
    };
    let (handle, result) = play.run("app", |app| app.concurrency(1), define).await;
    let first = loop {
        sleep(SECOND).await;
        if handle.snapshot().await.workers.waiting == 1 {
            break play.diary.count("begin 0 0");
        }
    };
    let waiting = i32::try_from(first).expect("small");
    say(&handle, &tp(waiting)).await;
    sleep(MINUTE).await;
    let begun = play.diary.count(&format!("begin {waiting} 0"));
    assert_eq!(begun, 0, "what waited for a worker did not begin");
    handle.stop();
    result.await.expect("it ends").expect("in order");
}

#[test]
fn what_waits_for_a_worker_does_not_begin_in_a_pause() {
    run_seed(1, async |world: World| {
        waits_for_a_worker(world, async |handle, waiting| {
            handle.pause(GROUP, waiting, 10 * MINUTE).await.expect("assigned");
        })
        .await;
    });
}

#[test]
fn what_waits_for_a_worker_does_not_begin_in_quiet() {
    run_seed(1, async |world: World| {
        waits_for_a_worker(world, async |handle, _| handle.quiet().await.expect("it runs")).await;
    });
}

#[test]
fn what_waits_for_a_worker_does_not_begin_before_a_seek() {
    run_seed(1, async |world: World| {
        waits_for_a_worker(world, async |handle, waiting| {
            handle.seek(GROUP, waiting, Offset(1)).await.expect("assigned");
        })
        .await;
    });
}

#[test]
fn a_snapshot_during_a_stop_is_answered_at_once() {
    run_seed(1, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 1)).await;
        let diary = play.diary.clone();
        let define = |routes: &mut Routes| writes(&diary, routes, TOPIC, "first");
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(MINUTE).await;
        play.control().intercept(Matcher::api(ApiKey::LEAVE_GROUP), Action::Hold);
        handle.stop();
        let begun = Instant::now();
        handle.snapshot().await;
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        let _ = result.await.expect("it ends");
    });
}

#[test]
fn trouble_of_a_topic_that_is_dropped_is_over() {
    run_seed(1, async |world: World| {
        let play = Play::on(world, Cluster::builder().auto_create_topics(false).topic(TOPIC, 1)).await;
        play.write(TOPIC, 0, 1).await;
        let diary = play.diary.clone();
        let define = |routes: &mut Routes| {
            writes(&diary, routes, TOPIC, "first");
            writes(&diary, routes, "missing", "missing");
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(MINUTE).await;
        assert!(!handle.is_live());
        handle.drop_topic(GROUP, "missing").await.expect("dropped");
        sleep(10 * MINUTE).await;
        assert!(handle.is_live(), "{:?}", play.diary);
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

#[test]
fn a_group_without_topics_is_restarted_and_goes_on_when_it_has_one() {
    run_seed(1, async |world: World| {
        let play = Play::begin(world, 1).await;
        let diary = play.diary.clone();
        let define = |routes: &mut Routes| writes(&diary, routes, TOPIC, "first");
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(MINUTE).await;
        handle.drop_topic(GROUP, TOPIC).await.expect("dropped");
        sleep(MINUTE).await;
        handle.restart(GROUP).await.expect("restarted");
        sleep(MINUTE).await;
        play.write(TOPIC, 0, 1).await;
        handle.add_routes(|routes| writes(&play.diary, routes, TOPIC, "again")).await.expect("added");
        sleep(MINUTE).await;
        assert_eq!((play.diary.count("first 0"), play.diary.count("again 1")), (1, 1), "{:?}", play.diary);
        assert!(handle.is_live());
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

/// What was not handed out is not exempt from expiring.
#[test]
fn what_did_not_begin_expires() {
    run_seed(1, async |world: World| {
        let play = Play::begin(world, 2).await;
        let diary = play.diary.clone();
        let define = |routes: &mut Routes| {
            routes.topic(TOPIC).expire_after(5 * MINUTE).handler(move |_: Message<Raw>, ctx: Context| {
                diary.write(format!("begin {}", ctx.partition().partition.0));
                sleep_ok(30 * SECOND)
            });
        };
        let (handle, result) = play.run("app", |app| app.concurrency(1), define).await;
        while handle.snapshot().await.workers.waiting == 0 {
            sleep(SECOND).await;
        }
        let waiting = i32::from(play.diary.count("begin 0") == 1);
        handle.pause(GROUP, &tp(waiting), 10 * MINUTE).await.expect("it is assigned");
        sleep(20 * MINUTE).await;
        assert_eq!(play.diary.count(&format!("begin {waiting}")), 0);
        assert_eq!(play.diary.count("filtering.skipped"), 1);
        handle.stop();
        result.await.expect("it ends").expect("in order");
        assert_eq!((play.committed(0), play.committed(1)), (Some(1), Some(1)));
    });
}

/// A retry waits for a worker as its partition is paused: it is still to come, and the runs before it count.
#[test]
fn a_retry_that_does_not_begin_forgets_no_attempts() {
    run_seed(1, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 2).topic("dead", 1)).await;
        play.write(TOPIC, 0, 1).await;
        let diary = play.diary.clone();
        let define = |routes: &mut Routes| {
            let letters = DeadLetter::to("dead").max_retries(3);
            let route = routes.topic(TOPIC).retry(Retry::fixed(10 * SECOND)).dead_letter_queue(letters);
            route.handler(move |_: Message<Raw>, ctx: Context| {
                let diary = diary.clone();
                async move {
                    if ctx.partition().partition.0 == 1 {
                        return sleep_ok(MINUTE).await;
                    }
                    diary.write(format!("attempt {}", ctx.attempt()));
                    Err("on purpose".into())
                }
            });
        };
        let (handle, result) = play.run("app", |app| app.concurrency(1), define).await;
        while play.diary.count("attempt 2") == 0 {
            sleep(SECOND).await;
        }
        play.write(TOPIC, 1, 1).await;
        sleep(20 * SECOND).await;
        assert_eq!(handle.snapshot().await.workers.waiting, 1);
        handle.pause(GROUP, &tp(0), 2 * MINUTE).await.expect("it is assigned");
        sleep(5 * MINUTE).await;
        let attempts = [1, 2, 3, 4, 5].map(|attempt| play.diary.count(&format!("attempt {attempt}")));
        assert_eq!((attempts, play.control().log("dead", 0).len()), ([1, 1, 1, 1, 0], 1));
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

const MILLI: Duration = Duration::from_millis(1);
/// In several lanes.
const SPLIT: &str = "split";
const PARTITIONS: [(&str, i32); 2] = [(TOPIC, 3), (SPLIT, 2)];
const RECORDS: usize = 60;

/// What was handled with success, by partition, in order.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<BTreeMap<TopicPartition, Vec<i64>>>>);

/// Two members that consume what is written for them.
struct Troupe {
    play: Play,
    producer: Producer,
    handles: Vec<ServerHandle>,
    results: Vec<Receiver<carafe::Result<()>>>,
}

impl Troupe {
    /// `define` gives a member its routes, with a seed for each topic.
    async fn begin(world: World, dice: &mut fastrand::Rng, define: impl Fn(&mut Routes, (u64, u64))) -> Self {
        world.expect_panics("on purpose");
        let builder =
            PARTITIONS.iter().fold(Cluster::builder(), |builder, (name, count)| builder.topic(*name, *count));
        let play = Play::on(world, builder).await;
        let (mut handles, mut results) = (Vec::new(), Vec::new());
        for id in ["one", "two"] {
            let seeds = (dice.u64(..), dice.u64(..));
            let routes = |routes: &mut Routes| define(routes, seeds);
            let (handle, result) = play.run(id, |app| app.concurrency(3), routes).await;
            handles.push(handle);
            results.push(result);
        }
        let producer = play.client("producer").await.producer().build().expect("right settings");
        Self { play, producer, handles, results }
    }

    /// Writes a record to each partition.
    async fn write(&self, number: usize) {
        for (topic, count) in PARTITIONS {
            for partition in 0..count {
                let key = (number % 5).to_string();
                let record = Record::to(topic).partition(partition).key(&key).value("x");
                drop(self.producer.enqueue(record).await.expect("enqueued"));
            }
        }
    }

    /// Nothing holds up anything any more.
    async fn heal(&self) {
        for handle in &self.handles {
            handle.unquiet().await.expect("it runs");
            for (topic, count) in PARTITIONS {
                for partition in 0..count {
                    let _ = handle.resume(GROUP, &TopicPartition::new(topic, partition)).await;
                }
            }
        }
    }

    fn committed(&self, topic: &str, partition: i32) -> Option<i64> {
        self.play.control().committed(GROUP).get(&(topic.to_owned(), partition)).copied()
    }
}

/// A handler that takes its time, fails now and then, and asks for pauses.
fn handles(route: &mut TopicRoute, log: &Log, seed: u64) {
    let (log, dice) = (log.clone(), Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))));
    route.retry(Retry::fixed(300 * MILLI)).handler(move |message: Message<Raw>, ctx: Context| {
        let log = log.clone();
        let (time, act) = {
            let mut dice = dice.lock().expect("no panic");
            (dice.u32(0..200), dice.u32(0..40))
        };
        async move {
            sleep(time * MILLI).await;
            match act {
                0 => return Err("now and then".into()),
                1 => panic!("on purpose"),
                2 => ctx.pause(3 * SECOND),
                3 => ctx.resume(),
                4 => drop(ctx.mark_and_commit(&message).await),
                _ => {}
            }
            let mut log = log.0.lock().expect("no panic");
            log.entry(ctx.partition().clone()).or_default().push(message.offset().0);
            Ok(())
        }
    });
}

fn add(routes: &mut Routes, topic: &'static str, log: &Log, seed: u64) {
    let route = routes.topic(topic).periodic(700 * MILLI).eofed(true).max_messages(7);
    if topic == SPLIT {
        route.virtual_partitions(by_key());
    } else {
        route.throttle(Throttle::new(20, SECOND));
    }
    handles(route, log, seed);
}

/// One thing that a program may say; whether it comes to something does not matter.
async fn say(handle: &ServerHandle, dice: &mut fastrand::Rng, log: &Log) {
    let (topic, count) = PARTITIONS[dice.usize(0..2)];
    let partition = TopicPartition::new(topic, dice.i32(0..count));
    match dice.u32(0..12) {
        0 | 1 => drop(handle.pause(GROUP, &partition, dice.u32(0..5000) * MILLI).await),
        2 | 3 => drop(handle.resume(GROUP, &partition).await),
        4 => drop(handle.quiet().await),
        5 | 6 => drop(handle.unquiet().await),
        7 => handle.scale(dice.usize(1..6)),
        8 => drop(handle.restart(GROUP).await),
        9 => drop(handle.commit(GROUP, &partition).await),
        10 => {
            let seed = dice.u64(..);
            let (dropped, added) = tokio::join!(
                handle.drop_topic(GROUP, topic),
                handle.add_routes(|routes| add(routes, topic, log, seed)),
            );
            drop((dropped, added));
        }
        _ => drop(handle.snapshot().await),
    }
}

async fn told(world: World) {
    let mut dice = world.dice();
    let log = Log::default();
    let mut troupe = Troupe::begin(world, &mut dice, |routes, seeds| {
        add(routes, TOPIC, &log, seeds.0);
        add(routes, SPLIT, &log, seeds.1);
    })
    .await;
    for number in 0..RECORDS {
        troupe.write(number).await;
        sleep(dice.u32(0..400) * MILLI).await;
        let (one, two) = (troupe.handles[dice.usize(0..2)].clone(), troupe.handles[dice.usize(0..2)].clone());
        let mut other = fastrand::Rng::with_seed(dice.u64(..));
        match dice.u32(0..3) {
            0 => {}
            1 => say(&one, &mut dice, &log).await,
            _ => drop(tokio::join!(say(&one, &mut dice, &log), say(&two, &mut other, &log))),
        }
    }
    troupe.heal().await;
    sleep(5 * MINUTE).await;
    for (handle, result) in troupe.handles.iter().zip(&mut troupe.results) {
        handle.stop();
        result.await.expect("it ends").expect("in order");
    }
    let log = log.0.lock().expect("no panic").clone();
    for (topic, count) in PARTITIONS {
        for number in 0..count {
            let partition = TopicPartition::new(topic, number);
            let mut handled = log.get(&partition).cloned().unwrap_or_default();
            if topic == SPLIT {
                // What lanes have marked beyond what others have not is handled again by the next owner of the partition.
                let mut seen = BTreeSet::new();
                handled.retain(|offset| seen.insert(*offset));
                for key in 0..5 {
                    let of_key = handled.iter().filter(|offset| *offset % 5 == key);
                    assert!(of_key.is_sorted(), "{partition} in order: {handled:?}");
                }
                handled.sort_unstable();
            }
            assert!(handled.iter().copied().eq(0..RECORDS as i64), "{partition} once: {handled:?}");
            assert_eq!(troupe.committed(topic, number), Some(RECORDS as i64), "{partition}");
        }
    }
}

#[test]
fn whatever_it_is_told_everything_is_handled_once_and_in_order() {
    run_seeds(20, told);
}

/// A handler of batches that marks some, fails, pauses with what it has not done, and seeks back.
fn batches(route: &mut TopicRoute, log: &Log, seed: u64) {
    let (log, dice) = (log.clone(), Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))));
    route.retry(Retry::fixed(300 * MILLI)).batch_handler(move |batch: Batch<Raw>, ctx: Context| {
        let (log, dice) = (log.clone(), dice.clone());
        async move {
            let draw = |range: std::ops::Range<usize>| dice.lock().expect("no panic").usize(range);
            let offsets: Vec<i64> = batch.messages().map(|message| message.offset().0).collect();
            let done = |upto: usize| {
                let mut log = log.0.lock().expect("no panic");
                log.entry(ctx.partition().clone()).or_default().extend(&offsets[..upto]);
            };
            sleep(draw(0..300) as u32 * MILLI).await;
            let part = draw(0..offsets.len());
            match draw(0..14) {
                0 => return Err("now and then".into()),
                1 => {
                    done(part + 1);
                    let _ = ctx.mark_as_consumed(Offset(offsets[part]));
                    return Err("after a part".into());
                }
                2 => {
                    ctx.pause(draw(0..3000) as u32 * MILLI);
                    sleep(draw(0..300) as u32 * MILLI).await;
                    return Ok(());
                }
                3 => {
                    ctx.pause_at(Offset(offsets[part]), draw(0..3000) as u32 * MILLI);
                    done(part);
                    sleep(draw(0..300) as u32 * MILLI).await;
                    return Ok(());
                }
                4 => {
                    // Other lanes may not have done what comes before.
                    let back =
                        if ctx.partition().topic.as_str() == SPLIT { i64::MAX } else { draw(0..4) as i64 };
                    ctx.seek(Offset(offsets[part].saturating_sub(back)));
                    done(part);
                    return Ok(());
                }
                5 => panic!("on purpose"),
                6 => {
                    done(part + 1);
                    let _ = ctx.mark_as_consumed(Offset(offsets[part]));
                    ctx.pause(draw(0..3000) as u32 * MILLI);
                    return Ok(());
                }
                _ => {}
            }
            done(offsets.len());
            Ok(())
        }
    });
}

async fn told_batches(world: World) {
    let mut dice = world.dice();
    let log = Log::default();
    let mut troupe = Troupe::begin(world, &mut dice, |routes, seeds| {
        batches(routes.topic(TOPIC).periodic(700 * MILLI).eofed(true).max_messages(7), &log, seeds.0);
        let split = routes.topic(SPLIT).virtual_partitions(by_key());
        batches(split, &log, seeds.1);
    })
    .await;
    for number in 0..RECORDS {
        troupe.write(number).await;
        sleep(dice.u32(0..400) * MILLI).await;
        let handle = troupe.handles[dice.usize(0..2)].clone();
        let (topic, count) = PARTITIONS[dice.usize(0..2)];
        let partition = TopicPartition::new(topic, dice.i32(0..count));
        match dice.u32(0..14) {
            0 | 1 => drop(handle.pause(GROUP, &partition, dice.u32(0..5000) * MILLI).await),
            2..5 => drop(handle.resume(GROUP, &partition).await),
            5 => drop(handle.quiet().await),
            6 | 7 => drop(handle.unquiet().await),
            8 => handle.scale(dice.usize(1..6)),
            9 => drop(handle.restart(GROUP).await),
            10 => drop(handle.commit(GROUP, &partition).await),
            11 => drop(handle.seek(GROUP, &partition, Offset(0)).await),
            _ => {}
        }
    }
    troupe.heal().await;
    sleep(20 * MINUTE).await;
    for (handle, result) in troupe.handles.iter().zip(&mut troupe.results) {
        assert!(handle.is_live());
        handle.stop();
        result.await.expect("it ends").expect("in order");
    }
    let log = log.0.lock().expect("no panic").clone();
    for (topic, count) in PARTITIONS {
        for number in 0..count {
            let partition = TopicPartition::new(topic, number);
            let handled: BTreeSet<i64> =
                log.get(&partition).cloned().unwrap_or_default().into_iter().collect();
            assert!(handled.iter().copied().eq(0..RECORDS as i64), "{partition}: {handled:?}");
            assert_eq!(troupe.committed(topic, number), Some(RECORDS as i64), "{partition}");
        }
    }
}

#[test]
fn whatever_it_is_told_no_record_goes_unhandled() {
    run_seeds(20, told_batches);
}
