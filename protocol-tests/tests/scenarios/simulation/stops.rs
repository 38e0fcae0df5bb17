//! An application with a topic whose handler always fails, one whose handler is slow, and little memory is stopped at any
//! moment, with brokers, without them, or with brokers that hang. What must hold: the healthy topic goes on beside the
//! failing one; a stop ends by its deadline; `Ok` means that everything handled is committed, and anything else is an error;
//! what was committed is not handled again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carafe::broker::{Action, Cluster, Control, Matcher, Operation, Resource};
use carafe::client::Client;
use carafe::consumer::MemoryBudget;
use carafe::prelude::*;
use carafe::producer::ProducerConfig;
use carafe::runtime::sim::{Direction, Links};
use carafe::wire::ApiKey;
use protocol_tests::sim::{World, run_seeds};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

const HEALTHY: &str = "healthy";
const FAILING: &str = "failing";
const GROUP: &str = "group";
const PARTITIONS: i32 = 3;
/// Time in which the healthy topic has to be handled though others hold memory.
const HANDLED_WITHIN: Duration = Duration::from_secs(60);

/// Next offset by partition: as handled ever, and by the run that goes on.
#[derive(Default)]
struct Handled {
    ever: BTreeMap<i32, i64>,
    now: BTreeMap<i32, i64>,
}

type Diary = Arc<Mutex<Handled>>;

struct Plan {
    nodes: u16,
    records: u64,
    budget: usize,
    /// The slowest handlers take so long.
    slow: Duration,
    shutdown: Duration,
    batches: bool,
    /// Batch handlers mark each record; otherwise they just return early when they are told to end.
    marks: bool,
}

impl Plan {
    fn draw(dice: &mut fastrand::Rng) -> Self {
        Self {
            nodes: dice.u16(1..=3),
            records: dice.u64(100..300),
            budget: [1 << 20, 4 << 20][dice.usize(..2)],
            slow: Duration::from_millis([10, 1000, 20_000][dice.usize(..3)]),
            shutdown: Duration::from_secs([0, 2, 10, 25][dice.usize(..4)]),
            batches: dice.bool(),
            marks: dice.bool(),
        }
    }
}

async fn client(world: &World, servers: &str, host: u8, budget: usize) -> Client {
    let builder = Client::builder().bootstrap_servers(servers).memory_budget(MemoryBudget::new(budget));
    builder.runtime(world.host([10, 0, 0, host])).build().await.expect("right settings")
}

async fn fill(client: Client, records: u64) {
    // Small batches: the memory holds some of each partition.
    let producer =
        client.producer().config(ProducerConfig::new().batch_size(50_000)).build().expect("right settings");
    for number in 0..records {
        let partition = (number % PARTITIONS as u64) as i32;
        let healthy = Record::to(HEALTHY).partition(partition).value(number.to_string());
        let failing = Record::to(FAILING).partition(partition).value(vec![b'x'; 20_000]);
        for record in [healthy, failing] {
            drop(producer.enqueue(record).await.expect("room"));
        }
    }
    producer.close(Duration::from_secs(60)).await.expect("written");
}

/// Handles a record of the healthy topic; it must be the next of its partition.
async fn handle(diary: &Diary, control: &Control, message: &carafe::consumer::OwnedRecord, pause: Duration) {
    sleep(pause).await;
    let (partition, offset) = (message.partition().0, message.offset().0);
    let committed = control.committed(GROUP).get(&(HEALTHY.to_owned(), partition)).copied().unwrap_or(0);
    assert!(offset >= committed, "{HEALTHY}[{partition}]: {offset} is handled, {committed} is committed");
    let mut diary = diary.lock().expect("nobody panics in it");
    let next = diary.ever.entry(partition).or_default();
    assert!(offset <= *next, "{HEALTHY}[{partition}]: {next} to {offset} were skipped");
    *next = (*next).max(offset + 1);
    let next = diary.now.entry(partition).or_default();
    *next = (*next).max(offset + 1);
}

async fn server(
    world: &World,
    client: Client,
    plan: &Plan,
    diary: &Diary,
    control: &Control,
) -> carafe::app::Server {
    let (slow, marks, runtime) = (plan.slow, plan.marks, world.runtime());
    let pause = move || match runtime.random() {
        draw if draw % 50 == 0 => slow,
        draw => Duration::from_millis(draw % 5),
    };
    let app =
        App::new(GROUP).client(client).concurrency(4).shutdown_timeout(plan.shutdown).routes(|routes| {
            let failing = routes.topic(FAILING);
            failing.retry(Retry::fixed(Duration::from_millis(500)));
            failing.handler(|_: Message<Raw>, _: Context| async { Err("it always fails".into()) });
            let (diary, control) = (diary.clone(), control.clone());
            let healthy = routes.topic(HEALTHY);
            if plan.batches {
                healthy.batch_handler(move |batch: Batch<Raw>, ctx: Context| {
                    let (diary, control, pause) = (diary.clone(), control.clone(), pause.clone());
                    async move {
                        for message in batch.messages() {
                            handle(&diary, &control, &message, pause()).await;
                            if marks {
                                ctx.mark_as_consumed(message.offset())?;
                            }
                            if ctx.is_ending() {
                                break;
                            }
                        }
                        Ok(())
                    }
                });
            } else {
                healthy.handler(move |message: Message<Raw>, _: Context| {
                    let (diary, control, pause) = (diary.clone(), control.clone(), pause());
                    async move {
                        handle(&diary, &control, &message, pause).await;
                        Ok(())
                    }
                });
            }
        });
    app.build().await.expect("right settings")
}

/// Something that makes a stop hard.
async fn trouble(world: &World, control: &Control, nodes: i32, dice: &mut fastrand::Rng) {
    match dice.u8(..7) {
        0 => (0..nodes).for_each(|node| control.kill_node(node)),
        1 => (0..nodes).for_each(|node| control.freeze_node(node)),
        2 => {
            if let Some(network) = world.network() {
                let links = Links::of(std::net::IpAddr::from([10, 0, 0, 10]));
                let _ = network.partition(links, Direction::Both);
            }
        }
        3 => {
            let apis = [ApiKey::OFFSET_COMMIT, ApiKey::LEAVE_GROUP, ApiKey::HEARTBEAT, ApiKey::METADATA];
            control.intercept(Matcher::api(apis[dice.usize(..4)]), Action::Hold);
        }
        4 => control.deny(Resource::Topic(HEALTHY.to_owned()), Operation::Read),
        5 => control.freeze_node(dice.i32(0..nodes)),
        _ => {}
    }
    sleep(Duration::from_millis([0, 100, 15_000][dice.usize(..3)])).await;
}

async fn heal(world: &World, control: &Control, nodes: i32) {
    control.clear();
    control.allow(&Resource::Topic(HEALTHY.to_owned()));
    if let Some(network) = world.network() {
        network.heal_all();
    }
    for node in 0..nodes {
        control.thaw_node(node);
        control.restart_node(node).await.expect("its port is free");
    }
}

async fn workload(world: World) {
    let mut dice = world.dice();
    let plan = Plan::draw(&mut dice);
    let builder = Cluster::builder().nodes(plan.nodes).topic(HEALTHY, PARTITIONS).topic(FAILING, PARTITIONS);
    let cluster = builder.runtime(world.runtime()).start().await.expect("a cluster");
    let (control, servers) = (cluster.control(), cluster.bootstrap_servers());
    let nodes = i32::from(plan.nodes);
    fill(client(&world, &servers, 1, 64 << 20).await, plan.records).await;
    let diary = Diary::default();
    for _ in 0..dice.u8(1..4) {
        let server =
            server(&world, client(&world, &servers, 10, plan.budget).await, &plan, &diary, &control).await;
        let handle = server.handle();
        let (send, result) = oneshot::channel();
        let run = async move {
            let _ = send.send(server.run().await);
        };
        drop(world.runtime().spawn("application", Box::pin(run)));
        let life = [1000, 10_000][dice.usize(..2)];
        sleep(Duration::from_millis(dice.u64(..life))).await;
        trouble(&world, &control, nodes, &mut dice).await;
        let asked = Instant::now();
        handle.stop();
        let limit = plan.shutdown + Duration::from_secs(1);
        let result = timeout(limit, result).await;
        let result =
            result.unwrap_or_else(|_| panic!("a stop of {:?} took more than {limit:?}", plan.shutdown));
        let result = result.expect("the application does not panic");
        let (handled, ever) = {
            let mut diary = diary.lock().expect("open");
            (std::mem::take(&mut diary.now), diary.ever.clone())
        };
        let committed = control.committed(GROUP);
        for (partition, next) in ever {
            let committed = committed.get(&(HEALTHY.to_owned(), partition)).copied().unwrap_or(0);
            assert!(
                committed <= next,
                "of {HEALTHY}[{partition}] {committed} is committed, and only {next} handled"
            );
        }
        // Who returns early without marks has what was handled of the last batch handled again.
        let exact = !plan.batches || plan.marks;
        for (partition, next) in handled {
            let committed = committed.get(&(HEALTHY.to_owned(), partition)).copied().unwrap_or(0);
            assert!(
                result.is_err() || !exact || committed == next,
                "a stop was Ok after {:?}, and of {HEALTHY}[{partition}] {committed} is committed, {next} handled",
                asked.elapsed()
            );
        }
        heal(&world, &control, nodes).await;
        // A member that could not leave is out when its session ends.
        sleep(Duration::from_secs(dice.u64(..60))).await;
    }
    let plan = Plan { shutdown: Duration::from_secs(25), slow: Duration::from_millis(10), ..plan };
    let server =
        server(&world, client(&world, &servers, 10, plan.budget).await, &plan, &diary, &control).await;
    let handle = server.handle();
    let run = world.runtime().spawn("application", Box::pin(async move { drop(server.run().await) }));
    let deadline = Instant::now() + HANDLED_WITHIN;
    let wanted =
        |partition: i32| control.partition(HEALTHY, partition).map_or(0, |state| state.high_watermark);
    loop {
        let handled = diary.lock().expect("open").ever.clone();
        if (0..PARTITIONS).all(|partition| handled.get(&partition).copied().unwrap_or(0) >= wanted(partition))
        {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the healthy topic stands still beside the failing one: {handled:?}"
        );
        sleep(Duration::from_millis(100)).await;
    }
    handle.stop();
    timeout(Duration::from_secs(26), run.join())
        .await
        .expect("a stop ends by its deadline")
        .expect("no panic");
    cluster.shutdown();
}

#[test]
fn a_stop_ends_in_time_and_says_the_truth() {
    run_seeds(40, workload);
}
