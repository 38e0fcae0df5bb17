//! One workload under faults drawn from a seed, checked against the broker's log and the handlers' diary.
//!
//! A producer writes numbered records in bursts, to topics that are as new as the cluster; an application with up to three
//! members, which come and go, handles them: some fail at first, some always (dead letters), each success produces an
//! output through the context. Meanwhile connections break, requests and answers are lost or late, leaders and coordinators
//! move, nodes die and return. Then everything heals, and the rest has to be handled within a deadline. What must hold is
//! in [`check`].
//!
//! `protocol_tests::sim` says how to replay a seed, or to run more of them.

mod anew;
mod check;
mod faults;
mod member;
mod reader;
mod stops;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carafe::broker::Cluster;
use carafe::client::Client;
use carafe::producer::{Outcome, ProducerConfig, Record};
use carafe::runtime::watch;
use protocol_tests::sim::{World, run_real, run_seed, run_seeds};

use tokio::time::{Instant, sleep, timeout};

use check::Checker;
use member::Member;

const INPUT: &str = "input";
const OUTPUT: &str = "output";
const DEAD: &str = "dead";
const GROUP: &str = "group";
const OUTPUT_PARTITIONS: i32 = 2;

/// Time for what is left once everything is healed: beyond session timeout, delivery timeout and back-offs together.
const DRAIN: Duration = Duration::from_secs(600);

/// A bug planted into the handlers, which the checker must catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Everything is marked before it is handled.
    MarksEarly,
    /// Outputs bypass the context, so nothing waits for them.
    OutputAside,
    /// Outputs are sent twice.
    OutputTwice,
}

/// What a seed decides before anything runs.
#[derive(Clone, Debug)]
struct Plan {
    flaw: Flaw,
    nodes: u16,
    partitions: i32,
    members: u8,
    records: u64,
    keys: u64,
    lanes: bool,
    manual: bool,
    /// How long nodes take to learn of the topics and to lead them.
    propagation: Duration,
    /// Small batches: a burst then makes several for a partition at once.
    batch_size: usize,
    linger: Duration,
    /// Few requests on the way make closed batches wait beside open ones.
    max_in_flight: usize,
    /// Without it, retries may write a record again, and out of order.
    idempotent: bool,
}

impl Plan {
    fn draw(dice: &mut fastrand::Rng, flaw: Flaw) -> Self {
        let manual = flaw == Flaw::MarksEarly || dice.u8(..4) == 0;
        Self {
            flaw,
            nodes: dice.u16(1..=3),
            partitions: dice.i32(1..=4),
            members: dice.u8(1..=3),
            records: dice.u64(50..200),
            keys: dice.u64(1..12),
            lanes: !manual && dice.bool(),
            manual,
            propagation: Duration::from_millis(dice.u64(..1000)),
            batch_size: [1024, 4096, 1_000_000][dice.usize(..3)],
            linger: Duration::from_millis(dice.u64(..20)),
            max_in_flight: [1, 2, 5, 5][dice.usize(..4)],
            idempotent: dice.u8(..6) > 0,
        }
    }
}

/// What the handlers did, in the order in which they did it.
#[derive(Debug, Default)]
struct Diary {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    /// Partition, offset and number of the output of every success.
    handled: Vec<(i32, i64, u64)>,
    outputs: u64,
}

impl Diary {
    fn open(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Numbers that always fail.
fn is_poison(number: u64) -> bool {
    number % 31 == 7
}

/// Numbers that fail at the first attempt.
fn is_shaky(number: u64) -> bool {
    number % 13 == 5
}

/// What the producer learnt of a record: its fate, and where it is if it was written.
type Fates = BTreeMap<u64, (Outcome, Option<(i32, i64)>)>;

/// Writes the numbers in order, and waits for all of them.
async fn produce(client: Client, plan: Plan, mut dice: fastrand::Rng) -> Fates {
    let config = ProducerConfig::new().linger(plan.linger).batch_size(plan.batch_size);
    let config = config.max_in_flight(plan.max_in_flight).enable_idempotence(plan.idempotent);
    let producer = client.producer().config(config).build().expect("settings");
    let mut receipts = Vec::new();
    let mut fates = Fates::new();
    let mut burst = dice.u64(..60);
    for number in 0..plan.records {
        let record = Record::to(INPUT).key(format!("key-{}", number % plan.keys)).value(number.to_string());
        let record = record.header("padding", vec![0; dice.usize(..500)]);
        match producer.enqueue(record).await {
            Ok(receipt) => receipts.push((number, receipt)),
            Err(error) => drop(fates.insert(number, (error.outcome(), None))),
        }
        if burst > 0 {
            burst -= 1;
            continue;
        }
        sleep(Duration::from_millis(dice.u64(..2000))).await;
        burst = if dice.bool() { 0 } else { dice.u64(..60) };
    }
    for (number, receipt) in receipts {
        let fate = match receipt.await {
            Ok(delivery) => {
                let place = delivery.offset.map(|offset| (delivery.partition.0, offset.0));
                (Outcome::Written, place)
            }
            Err(error) => (error.outcome(), None),
        };
        fates.insert(number, fate);
    }
    producer.close(Duration::from_secs(60)).await.expect("nothing is left to send");
    fates
}

async fn workload(world: World, flaw: Flaw, faults_for: Duration) {
    let mut dice = world.dice();
    let plan = Plan::draw(&mut dice, flaw);
    let cluster = Cluster::builder()
        .nodes(plan.nodes)
        .topic_propagation(plan.propagation)
        .topic(INPUT, plan.partitions)
        .topic(OUTPUT, OUTPUT_PARTITIONS)
        .topic(DEAD, 1)
        .runtime(world.runtime())
        .start()
        .await
        .expect("a cluster");
    let servers = cluster.bootstrap_servers();
    let client = async |host: u8, id: String| {
        let builder = Client::builder().bootstrap_servers(servers.as_str()).client_id(id);
        builder.runtime(world.host([10, 0, 0, host])).build().await.expect("right settings")
    };

    let diary = Arc::new(Diary::default());
    let (stage, stages) = watch::channel(member::Stage::Faults);
    let mut members = Vec::new();
    for index in 0..plan.members {
        let member = Member {
            index,
            world: world.clone(),
            servers: servers.clone(),
            plan: plan.clone(),
            diary: diary.clone(),
            stages: stages.clone(),
        };
        let dice = dice.fork();
        members.push(world.runtime().spawn("member", Box::pin(member.live(dice))));
    }
    let (fates_to, fates) = tokio::sync::oneshot::channel();
    let producing = produce(client(1, "producer".to_owned()).await, plan.clone(), dice.fork());
    let _producer = world.runtime().spawn(
        "producer",
        Box::pin(async move {
            let _ = fates_to.send(producing.await);
        }),
    );

    let mut checker = Checker::new(cluster.control(), diary, plan.clone());
    let mut broken =
        Box::pin(faults::break_things(&world, cluster.control(), &plan, dice.fork(), faults_for));
    loop {
        tokio::select! {
            biased; // the faults end by themselves
            () = &mut broken => break,
            () = sleep(Duration::from_millis(20)) => checker.look(),
        }
    }
    faults::heal(&world, &cluster.control(), plan.nodes).await;
    stage.send_replace(member::Stage::Calm);

    let deadline = Instant::now() + DRAIN;
    let mut fates = Box::pin(fates);
    let fates = loop {
        tokio::select! {
            biased; // the look is short
            fates = &mut fates => break fates.expect("the producer did not panic"),
            () = sleep(Duration::from_millis(20)) => checker.look(),
        }
        assert!(Instant::now() < deadline, "the producer does not come to an end: {plan:?}");
    };
    while let Some(left) = checker.left() {
        assert!(Instant::now() < deadline, "not everything was handled: {left}; {plan:?}");
        sleep(Duration::from_millis(20)).await;
        checker.look();
    }
    stage.send_replace(member::Stage::Done);
    for task in members {
        let ended = timeout(Duration::from_secs(120), task.join()).await;
        ended.expect("members stop in time").expect("they did not panic");
    }
    checker.look();
    checker.finish(&fates);
    cluster.shutdown();
}

#[test]
fn nothing_is_lost_doubled_or_out_of_order() {
    run_seeds(200, async |world: World| {
        let time = Duration::from_secs(world.dice().u64(10..60));
        workload(world, Flaw::None, time).await;
    });
}

/// For `.ci/run`: the same on real sockets and all cores, for so many seconds.
#[test]
fn the_same_holds_on_real_sockets() {
    let Ok(seconds) = std::env::var("CARAFE_TEST_REAL_SECONDS") else { return };
    let seconds = seconds.parse().expect("CARAFE_TEST_REAL_SECONDS is a number");
    let seed = fastrand::u64(..);
    run_real(seed, async |world: World| workload(world, Flaw::None, Duration::from_secs(seconds)).await);
}

/// A checker that catches nothing proves nothing.
fn is_caught(flaw: Flaw, by: &str) {
    let mut caught = Vec::new();
    for seed in 0..30 {
        let run =
            || run_seed(seed, async |world: World| workload(world, flaw, Duration::from_secs(30)).await);
        if let Err(panic) = std::panic::catch_unwind(run) {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            if text.contains(by) {
                return;
            }
            caught.push(text);
        }
    }
    panic!("{flaw:?} was not caught by the right check: {caught:?}");
}

#[test]
fn marks_before_handling_are_caught() {
    is_caught(Flaw::MarksEarly, "passes an unhandled record");
}

#[test]
fn outputs_that_nobody_waits_for_are_caught() {
    is_caught(Flaw::OutputAside, "passes an unacknowledged output");
}

#[test]
fn outputs_that_are_sent_twice_are_caught() {
    is_caught(Flaw::OutputTwice, "was written twice");
}
