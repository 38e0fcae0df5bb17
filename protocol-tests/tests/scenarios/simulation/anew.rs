//! An application reads a topic that is deleted and recreated again and again, with fewer or more partitions, at once or
//! after a while, while it is busy, pauses, or is stopped; another topic stays. What must hold: of each topic that was, what
//! was handled begins at its start and leaves nothing out; nothing is handled twice unless its partition was lost or a stop
//! said that it was not clean; the last topic is handled whole; the commits of the other topic go on; producers come to an
//! end, and the application learns of what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carafe::app::{Event, ServerHandle};
use carafe::broker::{Cluster, Control};
use carafe::client::Client;
use carafe::prelude::*;
use carafe::producer::Producer;
use protocol_tests::sim::{World, run_seeds};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

const ANEW: &str = "anew";
const STEADY: &str = "steady";
const GROUP: &str = "group";
const STOP: Duration = Duration::from_secs(25);
/// Automatic commits run every 5 s; twice that, and a little for the handlers.
const COMMITTED_WITHIN: Duration = Duration::from_secs(12);
const DRAIN: Duration = Duration::from_secs(120);

/// By partition and offset, the numbers that one topic of the name held when it was deleted.
type Life = BTreeMap<(i32, i64), u64>;

#[derive(Default)]
struct Diary {
    /// Numbers of the topic that comes and goes, in the order in which they were handled.
    handled: Vec<u64>,
    /// How many of them had been handled when a partition was lost, or a stop was not clean: repeats have a cause.
    causes: Vec<usize>,
    steady: BTreeSet<(i32, i64)>,
    recreated: u64,
}

type Shared = Arc<Mutex<Diary>>;

fn open(diary: &Shared) -> std::sync::MutexGuard<'_, Diary> {
    diary.lock().expect("nobody panics in it")
}

/// What is in the topic now.
fn life(control: &Control) -> Life {
    let partitions = control.topics().get(ANEW).copied().unwrap_or(0);
    let records = (0..partitions).flat_map(|index| {
        let log = control.log(ANEW, index);
        log.into_iter().map(move |record| ((index, record.offset.0), number(record.value.as_deref())))
    });
    records.collect()
}

fn number(value: Option<&[u8]>) -> u64 {
    std::str::from_utf8(value.expect("a value")).expect("text").parse().expect("a number")
}

/// Writes numbers to both topics until it is told to end; sends are never waited for longer than a delivery may take.
async fn produce(
    producer: Producer,
    numbers: Arc<AtomicU64>,
    mut ended: oneshot::Receiver<()>,
    mut dice: fastrand::Rng,
) {
    let mut receipts = Vec::new();
    while ended.try_recv().is_err() {
        for topic in [ANEW, STEADY] {
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            let mut record = Record::to(topic).value(number.to_string());
            if dice.bool() {
                record = record.key(format!("key-{}", dice.u8(..20)));
            }
            if let Ok(receipt) = producer.enqueue(record).await {
                receipts.push(receipt);
            }
        }
        sleep(Duration::from_millis(dice.u64(..200))).await;
    }
    for receipt in receipts {
        // Delivered or not: it has to say so.
        let _ = timeout(Duration::from_secs(125), receipt).await.expect("every receipt resolves");
    }
}

struct Running {
    handle: ServerHandle,
    result: oneshot::Receiver<carafe::Result<()>>,
}

async fn start(world: &World, servers: &str, diary: &Shared) -> Running {
    let builder = Client::builder().bootstrap_servers(servers).runtime(world.host([10, 0, 0, 10]));
    let client = builder.build().await.expect("right settings");
    let (noted, runtime) = (diary.clone(), world.runtime());
    let app = App::new(GROUP).client(client).concurrency(3).shutdown_timeout(STOP).listener(
        move |event: &Event<'_>| {
            let mut diary = open(&noted);
            match event {
                Event::Lost { .. } => {
                    let handled = diary.handled.len();
                    diary.causes.push(handled);
                }
                Event::TopicRecreated { .. } => diary.recreated += 1,
                _ => {}
            }
        },
    );
    let app = app.routes(|routes| {
        for topic in [ANEW, STEADY] {
            let (diary, runtime) = (diary.clone(), runtime.clone());
            routes.topic(topic).handler(move |message: Message<Raw>, ctx: Context| {
                let (diary, runtime) = (diary.clone(), runtime.clone());
                async move {
                    let draw = runtime.random();
                    if draw % 8 == 0 {
                        sleep(Duration::from_millis(draw / 8 % 1000)).await;
                    }
                    if ctx.partition().topic.as_str() == STEADY {
                        open(&diary).steady.insert((message.partition().0, message.offset().0));
                        return Ok(());
                    }
                    open(&diary).handled.push(number(message.value()));
                    if draw % 64 == 1 {
                        ctx.pause(Duration::from_millis(draw / 64 % 10_000));
                    }
                    Ok(())
                }
            });
        }
    });
    let server = app.build().await.expect("right settings");
    let handle = server.handle();
    let (send, result) = oneshot::channel();
    let run = async move {
        let _ = send.send(server.run().await);
    };
    drop(world.runtime().spawn("application", Box::pin(run)));
    Running { handle, result }
}

/// Stops it, in time whatever happens.
async fn stop(running: Running, diary: &Shared) {
    running.handle.stop();
    let result = timeout(STOP + Duration::from_secs(1), running.result).await;
    let result = result.expect("a stop ends by its deadline").expect("the application does not panic");
    if result.is_err() {
        let mut diary = open(diary);
        let handled = diary.handled.len();
        diary.causes.push(handled);
    }
}

/// That the commits of the other topic follow what was handled of it.
#[derive(Default)]
struct Commits {
    /// By partition, a handled offset and since when it has not been committed.
    waiting: BTreeMap<i32, (i64, Instant)>,
}

impl Commits {
    fn look(&mut self, control: &Control, diary: &Shared) {
        let committed = control.committed(GROUP);
        let mut highest: BTreeMap<i32, i64> = BTreeMap::new();
        for (partition, offset) in &open(diary).steady {
            let highest = highest.entry(*partition).or_default();
            *highest = (*highest).max(*offset + 1);
        }
        for (partition, handled) in highest {
            let done = committed.get(&(STEADY.to_owned(), partition)).copied().unwrap_or(0);
            let (offset, since) = *self.waiting.entry(partition).or_insert((handled, Instant::now()));
            if done >= offset {
                self.waiting.insert(partition, (handled, Instant::now()));
            } else {
                let waited = since.elapsed();
                assert!(
                    waited < COMMITTED_WITHIN,
                    "{STEADY}[{partition}]: {offset} was not committed for {waited:?}"
                );
            }
        }
    }
}

async fn workload(world: World) {
    let mut dice = world.dice();
    let cluster = Cluster::builder()
        .nodes(dice.u16(1..=3))
        .auto_create_topics(false)
        .topic_propagation(Duration::from_millis([0, 0, 1000][dice.usize(..3)]))
        .topic(ANEW, dice.i32(1..=4))
        .topic(STEADY, 2)
        .runtime(world.runtime())
        .start()
        .await
        .expect("a cluster");
    let (control, servers) = (cluster.control(), cluster.bootstrap_servers());
    let (diary, numbers) = (Shared::default(), Arc::new(AtomicU64::new(0)));
    let builder = Client::builder().bootstrap_servers(servers.as_str()).runtime(world.host([10, 0, 0, 1]));
    let producer = builder.build().await.expect("right settings").producer().build().expect("right settings");
    let (end_producing, ended) = oneshot::channel();
    let producing = produce(producer, numbers, ended, dice.fork());
    let producing = world.runtime().spawn("producer", Box::pin(producing));

    let mut running = Some(start(&world, &servers, &diary).await);
    let mut commits = Commits::default();
    let mut lives: Vec<Life> = Vec::new();
    for _ in 0..dice.u8(1..4) {
        let until = Instant::now() + Duration::from_millis(dice.u64(..20_000));
        while Instant::now() < until {
            sleep(Duration::from_millis(250)).await;
            commits.look(&control, &diary);
        }
        if dice.u8(..3) == 0
            && let Some(running) = running.take()
        {
            stop(running, &diary).await;
        }
        // No await between the look and the end of the topic.
        lives.push(life(&control));
        let partitions = dice.i32(1..=4);
        if dice.bool() {
            control.recreate_topic(ANEW, partitions, &[]).expect("created");
        } else {
            control.delete_topic(ANEW);
            sleep(Duration::from_millis(dice.u64(..10_000))).await;
            control.create_topic(ANEW, partitions, &[]).expect("created");
        }
        if running.is_none() {
            sleep(Duration::from_millis(dice.u64(..5000))).await;
            running = Some(start(&world, &servers, &diary).await);
            commits = Commits::default();
        }
    }
    // The producer learns of the last topic, and fills it.
    sleep(Duration::from_secs(20)).await;
    let _ = end_producing.send(());
    timeout(DRAIN + Duration::from_secs(10), producing.join()).await.expect("in time").expect("no panic");
    lives.push(life(&control));
    let last = lives.last().expect("pushed");
    assert!(!last.is_empty(), "the producer does not find the new topic");
    let deadline = Instant::now() + DRAIN;
    loop {
        let handled: BTreeSet<u64> = open(&diary).handled.iter().copied().collect();
        let left: Vec<_> = last.iter().filter(|(_, number)| !handled.contains(number)).collect();
        if left.is_empty() {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "of the last topic {} of {} were skipped: {left:?}",
            left.len(),
            last.len()
        );
        sleep(Duration::from_millis(250)).await;
        commits.look(&control, &diary);
    }
    if let Some(running) = running {
        stop(running, &diary).await;
    }
    check(&open(&diary), &lives);
    cluster.shutdown();
}

fn check(diary: &Diary, lives: &[Life]) {
    let mut places: BTreeMap<u64, usize> = BTreeMap::new();
    for number in lives.iter().flat_map(BTreeMap::values) {
        *places.entry(*number).or_default() += 1;
    }
    let mut seen: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (at, number) in diary.handled.iter().enumerate() {
        seen.entry(*number).or_default().push(at);
    }
    for (number, runs) in &seen {
        let uncaused = runs
            .windows(2)
            .filter(|pair| !diary.causes.iter().any(|cause| (pair[0]..=pair[1]).contains(cause)));
        let repeats = uncaused.count();
        // A record that a producer sent again may be in two topics.
        assert!(
            repeats < places.get(number).copied().unwrap_or(1).max(1),
            "{number} was handled again without a cause"
        );
    }
    for (life, records) in lives.iter().enumerate() {
        let mut partitions: BTreeMap<i32, Vec<bool>> = BTreeMap::new();
        for ((partition, _), number) in records {
            partitions.entry(*partition).or_default().push(seen.contains_key(number));
        }
        for (partition, handled) in partitions {
            let first_gap = handled.iter().position(|handled| !handled).unwrap_or(handled.len());
            assert!(
                !handled[first_gap..].contains(&true),
                "topic {life} of {}: {ANEW}[{partition}] was skipped at {first_gap}",
                lives.len()
            );
        }
    }
}

#[test]
fn a_topic_made_anew_is_read_from_its_start() {
    run_seeds(24, workload);
}
