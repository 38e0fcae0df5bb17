//! Runs a scenario on the simulated runtime, one seed at a time or many, and on the real one.
//!
//! A scenario is an async function of a [`World`]. It builds what it needs on `world.runtime()` (an embedded cluster,
//! clients, applications), draws its faults from `world.dice()`, checks, and panics if a check fails:
//!
//! ```
//! use protocol_tests::sim::{World, run_seeds};
//!
//! async fn workload(world: World) {
//!     let mut dice = world.dice();
//!     let listener = world.runtime().listen("localhost", 0).await.expect("a free port");
//!     tokio::time::sleep(std::time::Duration::from_secs(dice.u64(..3600))).await; // costs nothing
//!     if let Some(network) = world.network() {
//!         network.cut(&carafe::runtime::sim::Links::of(listener.local_addr()));
//!     }
//! }
//!
//! run_seeds(20, workload); // as a #[test]
//! ```
//!
//! A failing seed prints the command that replays it. By environment:
//!
//! - `CARAFE_TEST_SEED=n` runs this seed alone; with `RUST_LOG` set, its log is printed in virtual time.
//! - `CARAFE_TEST_SEEDS=n` runs so many seeds instead of the test's number.
//! - `CARAFE_TEST_FIRST_SEED=n` starts there instead of at 0.
//!
//! Every twentieth seed runs a second time in a process of its own, and both must have seen the same network events at
//! the same virtual times.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::env;
use std::net::IpAddr;
use std::panic::{self, AssertUnwindSafe};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use carafe::runtime::sim::{SimNetwork, SimRuntime};
use carafe::runtime::{RealRuntime, Runtime};
use tokio::time::Instant;

/// Virtual time after which a scenario counts as hung.
const VIRTUAL_LIMIT: Duration = Duration::from_secs(3600);

/// Real time after which a seed that still runs is named.
const PATIENCE: Duration = Duration::from_secs(60);

/// One seed in so many runs twice.
const TWICE: u64 = 20;

thread_local! {
    /// Start of the run in this thread, on its paused clock; for the log alone.
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// What a scenario runs in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct World {
    seed: u64,
    runtime: Arc<dyn Runtime>,
    sim: Option<Arc<SimRuntime>>,
    expected_panics: Arc<Mutex<Vec<String>>>,
}

impl World {
    /// The seed of this run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The runtime, simulated or real. Simulated, it is the host 127.0.0.1.
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        self.runtime.clone()
    }

    /// A runtime whose connections come from `address`, so that faults can tell hosts apart. On real sockets it is the
    /// same runtime.
    pub fn host(&self, address: impl Into<IpAddr>) -> Arc<dyn Runtime> {
        match &self.sim {
            Some(sim) => sim.host(address.into()),
            None => self.runtime.clone(),
        }
    }

    /// The simulated runtime; `None` on real sockets.
    pub fn sim(&self) -> Option<Arc<SimRuntime>> {
        self.sim.clone()
    }

    /// The simulated network, to break; `None` on real sockets.
    pub fn network(&self) -> Option<SimNetwork> {
        self.sim.as_ref().map(|sim| sim.network())
    }

    /// Dice for the scenario's own draws: workload and faults. The same sequence at each call for a seed, and apart from
    /// the dice of the runtime, so that a draw more in the library does not change the faults.
    pub fn dice(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed ^ 0x5EED_FA17)
    }

    /// Tasks may panic with a message that contains `text`; any other panic of a task fails the run.
    pub fn expect_panics(&self, text: &str) {
        self.expected_panics.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    fn check_panics(&self, panics: &[(&'static str, String)]) {
        let expected = self.expected_panics.lock().unwrap_or_else(PoisonError::into_inner);
        let is_expected = |message: &str| expected.iter().any(|text| message.contains(text));
        let unexpected: Vec<_> = panics.iter().filter(|(_, message)| !is_expected(message)).collect();
        assert!(unexpected.is_empty(), "tasks panicked: {unexpected:?}");
    }
}

/// Runs `scenario` with `seed` on a paused clock in this thread and returns the hash of its trace. A failed check, a
/// panic of any task and an hour of virtual time without an end print how to replay the seed, and panic.
pub fn run_seed(seed: u64, scenario: impl AsyncFnOnce(World)) -> u64 {
    let test = Test::current();
    run_watched(&test, seed, scenario).unwrap_or_else(|message| panic!("{}", test.describe(seed, &message)))
}

/// Runs `scenario` with `count` seeds from 0 on all cores, or with those that the environment names; see the
/// [module](self). Panics at the end if a seed failed, with the command that replays it.
pub fn run_seeds(count: u64, scenario: impl AsyncFn(World) + Sync) {
    let test = Test::current();
    if let Some(seed) = variable("CARAFE_TEST_SEED") {
        log_in_virtual_time();
        let hash = run_seed(seed, &scenario);
        // The parent process of a second run reads this line.
        eprintln!("\n{}", trace_line(seed, hash));
        return;
    }
    let first = variable("CARAFE_TEST_FIRST_SEED").unwrap_or(0);
    let end = first.saturating_add(variable("CARAFE_TEST_SEEDS").unwrap_or(count));
    let next = AtomicU64::new(first);
    let failures = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let result = run_watched(&test, seed, &scenario).and_then(|hash| {
                        if seed.is_multiple_of(TWICE) {
                            test.run_again(seed, hash, &scenario)
                        } else {
                            Ok(())
                        }
                    });
                    if let Err(message) = result {
                        failures.lock().unwrap_or_else(PoisonError::into_inner).insert(seed, message);
                        // A few failures say enough.
                        if failures.lock().unwrap_or_else(PoisonError::into_inner).len() >= 5 {
                            next.store(end, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let report: Vec<_> = failures.iter().map(|(seed, message)| test.describe(*seed, message)).collect();
    assert!(report.is_empty(), "{} seeds failed\n{}", report.len(), report.join("\n"));
}

/// Runs `scenario` once on a multi-thread tokio runtime with real time and sockets. Panics if a check fails or a task
/// panics.
pub fn run_real(seed: u64, scenario: impl AsyncFnOnce(World)) {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a tokio runtime");
    let panics = Arc::new(Mutex::new(Vec::new()));
    let seen = panics.clone();
    let hook: carafe::runtime::PanicHook = Arc::new(move |name, message| {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push((name, message.to_owned()));
    });
    let runtime = RealRuntime::with_panic_hook(tokio.handle().clone(), hook).expect("a runtime");
    let world = World { seed, runtime, sim: None, expected_panics: Arc::default() };
    tokio.block_on(scenario(world.clone()));
    tokio.shutdown_timeout(Duration::from_secs(5));
    world.check_panics(&panics.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Runs one seed, names it if it takes long, and returns its hash or why it failed.
fn run_watched(test: &Test, seed: u64, scenario: impl AsyncFnOnce(World)) -> Result<u64, String> {
    thread::scope(|scope| {
        let (done, watch) = mpsc::channel::<()>();
        scope.spawn(move || {
            // A loop that never waits stops virtual time, so only real time can tell.
            if watch.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                eprintln!("still running after {PATIENCE:?}: {}", test.replay(seed));
            }
        });
        let result = panic::catch_unwind(AssertUnwindSafe(|| simulate(seed, scenario)));
        drop(done);
        result.map_err(|payload| panic_message(&*payload).to_owned())
    })
}

fn simulate(seed: u64, scenario: impl AsyncFnOnce(World)) -> u64 {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    tokio.expect("a tokio runtime").block_on(async {
        START.set(Some(Instant::now()));
        let sim = SimRuntime::new(seed);
        let world =
            World { seed, runtime: sim.clone(), sim: Some(sim.clone()), expected_panics: Arc::default() };
        let ended = tokio::time::timeout(VIRTUAL_LIMIT, scenario(world.clone())).await;
        assert!(ended.is_ok(), "the scenario did not end within {VIRTUAL_LIMIT:?} of virtual time");
        world.check_panics(&sim.panics());
        // Before tokio drops the tasks that are left: that happens outside of virtual time.
        sim.trace_hash()
    })
}

/// The test that runs, as the command line names it.
struct Test {
    name: Option<String>,
}

impl Test {
    /// Test harnesses name the thread of a test after it, unless they run one at a time.
    fn current() -> Self {
        Self { name: thread::current().name().filter(|name| *name != "main").map(str::to_owned) }
    }

    fn describe(&self, seed: u64, message: &str) -> String {
        format!("seed {seed} failed: {message}\nreplay: {}", self.replay(seed))
    }

    fn replay(&self, seed: u64) -> String {
        let program = env::current_exe().ok();
        let program = program.as_ref().and_then(|path| path.file_stem()).and_then(|stem| stem.to_str());
        // Cargo appends a hash to the name of the binary.
        let program = program.and_then(|name| name.rsplit_once('-')).map_or("", |(name, _)| name);
        let target =
            if program == "protocol_tests" { "--lib".to_owned() } else { format!("--test {program}") };
        let name = self.name.as_deref().unwrap_or("NAME_OF_THE_TEST");
        format!(
            "RUST_LOG=carafe=debug CARAFE_TEST_SEED={seed} cargo test -p protocol-tests {target} {name} -- --exact --nocapture"
        )
    }

    /// Runs `seed` once more, in another process where that is possible, and compares the traces.
    fn run_again(&self, seed: u64, hash: u64, scenario: impl AsyncFnOnce(World)) -> Result<(), String> {
        let second = match (&self.name, env::current_exe()) {
            (Some(name), Ok(program)) => {
                let output = Command::new(program)
                    .args([name, "--exact", "--nocapture"])
                    .env("CARAFE_TEST_SEED", seed.to_string())
                    .env_remove("RUST_LOG")
                    .output()
                    .map_err(|error| format!("the second process did not start: {error}"))?;
                let log = String::from_utf8_lossy(&output.stderr).into_owned();
                let prefix = trace_prefix(seed);
                let found = log.lines().find_map(|line| line.strip_prefix(&prefix));
                found
                    .and_then(|hash| u64::from_str_radix(hash, 16).ok())
                    .ok_or_else(|| format!("it passed here and failed in a second process:\n{log}"))?
            }
            _ => run_watched(self, seed, scenario)?,
        };
        if second == hash {
            Ok(())
        } else {
            Err(format!(
                "two runs differ: trace {hash:016x} and {second:016x}. Something asks the machine behind the runtime's \
                 back (a hash map that is iterated, `select!` without `biased`, a thread, a real clock); compare the \
                 logs of two replays with RUST_LOG=carafe=trace"
            ))
        }
    }
}

fn trace_prefix(seed: u64) -> String {
    format!("trace of seed {seed}: ")
}

fn trace_line(seed: u64, hash: u64) -> String {
    format!("{}{hash:016x}", trace_prefix(seed))
}

fn variable(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(message) = payload.downcast_ref::<&'static str>() {
        message
    } else if let Some(message) = payload.downcast_ref::<String>() {
        message
    } else {
        "(panic without a text)"
    }
}

/// Prints the log that `RUST_LOG` asks for, with the virtual time since the start of the run.
fn log_in_virtual_time() {
    struct Virtual;

    impl tracing_subscriber::fmt::time::FormatTime for Virtual {
        fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
            let elapsed = START.get().map_or(Duration::ZERO, |start| start.elapsed());
            write!(writer, "{:>12.6}", elapsed.as_secs_f64())
        }
    }

    if env::var_os("RUST_LOG").is_some() {
        // Fails if the test installed one of its own, which is as good.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_ansi(false)
            .with_timer(Virtual)
            .with_writer(std::io::stderr)
            .try_init();
    }
}

#[cfg(test)]
mod tests {
    use carafe::admin::NewTopic;
    use carafe::broker::Cluster;
    use carafe::client::Client;
    use carafe::runtime::sim::{Direction, Links};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn echo(world: World) {
        let listener = world.host([10, 0, 0, 1]).listen("0.0.0.0", 0).await.expect("a free port");
        let mut dice = world.dice();
        let server = listener.local_addr();
        let _server = world.runtime().spawn(
            "server",
            Box::pin(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut buffer = [0; 64];
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        let _ = stream.write_all(&buffer[..length]).await;
                    }
                }
            }),
        );
        for _ in 0..10 {
            let mut stream = world.runtime().connect(server).await.expect("a connection");
            let question = vec![7; dice.usize(1..1000)];
            let mut answer = vec![0; question.len()];
            let (mut read, mut write) = tokio::io::split(&mut stream);
            let (sent, got) = tokio::join!(write.write_all(&question), read.read_exact(&mut answer));
            sent.expect("sent");
            got.expect("answered");
            assert_eq!(question, answer);
        }
    }

    #[test]
    fn seeds_pass_and_repeat() {
        run_seeds(40, echo);
    }

    /// Two clients create and describe topics of an embedded cluster while connections break.
    async fn topics(world: World) {
        let cluster = Cluster::builder().nodes(3).runtime(world.runtime()).start().await.expect("a cluster");
        let network = world.network().expect("a simulation");
        let mut tasks = Vec::new();
        for host in 1..=2_u8 {
            let runtime = world.host([10, 0, 0, host]);
            let servers = cluster.bootstrap_servers();
            let client = Client::builder().bootstrap_servers(servers).runtime(runtime.clone());
            let client = client.build().await.expect("right settings");
            tasks.push(runtime.spawn(
                "client",
                Box::pin(async move {
                    for round in 0..10 {
                        let name = format!("topic-{host}-{round}");
                        // Exists already if the answer to the first attempt was lost.
                        let _ = client.admin().create_topics([NewTopic::new(name.as_str())]).await;
                        let topics = client.admin().list_topics().await.expect("brokers can be reached");
                        assert!(
                            topics.iter().any(|topic| &*topic.name == name.as_str()),
                            "{name} was created"
                        );
                    }
                }),
            ));
        }
        let mut dice = world.dice();
        for _ in 0..20 {
            let links = Links::of(IpAddr::from([10, 0, 0, dice.u8(1..=2)]));
            match dice.u8(..3) {
                0 => drop(network.cut(&links)),
                1 => drop(network.cut_after(&links, Direction::ToClient, dice.u64(..200))),
                _ => {
                    let fault = network.partition(links, Direction::Both);
                    tokio::time::sleep(Duration::from_millis(dice.u64(..500))).await;
                    network.heal(fault);
                }
            }
            tokio::time::sleep(Duration::from_millis(dice.u64(..50))).await;
        }
        for task in tasks {
            task.join().await.expect("it passed");
        }
        cluster.shutdown();
    }

    #[test]
    fn clients_and_cluster_repeat() {
        run_seeds(40, topics);
    }

    #[test]
    fn the_same_scenario_runs_on_real_sockets() {
        run_real(1, async |world: World| {
            assert!(world.network().is_none());
            // The simulated hosts do not exist here.
            let listener = world.runtime().listen("127.0.0.1", 0).await.expect("a free port");
            world.runtime().connect(listener.local_addr()).await.expect("a connection");
        });
    }

    fn failure(scenario: impl AsyncFnOnce(World)) -> String {
        let error = panic::catch_unwind(AssertUnwindSafe(|| run_seed(17, scenario))).expect_err("a failure");
        panic_message(&*error).to_owned()
    }

    #[test]
    fn failures_say_how_to_replay_them() {
        let check = failure(async |world: World| assert_eq!(world.seed(), 18, "the check"));
        assert!(check.contains("the check"), "{check}");
        assert!(check.contains("CARAFE_TEST_SEED=17 cargo test -p protocol-tests --lib "), "{check}");
        let task = failure(async |world: World| {
            let task = world.runtime().spawn("bad", Box::pin(async { panic!("unheard") }));
            let _ = task.join().await;
        });
        assert!(task.contains("unheard"), "{task}");
        let hung = failure(async |_| std::future::pending().await);
        assert!(hung.contains("virtual time"), "{hung}");
        run_seed(17, async |world: World| {
            world.expect_panics("on purpose");
            let task = world.runtime().spawn("bad", Box::pin(async { panic!("on purpose, by the handler") }));
            let _ = task.join().await;
        });
    }

    #[test]
    fn runs_that_differ_are_caught() {
        let calls = AtomicU64::new(0);
        let test = Test { name: None };
        let scenario = async |world: World| {
            let extra = calls.fetch_add(1, Ordering::Relaxed);
            for _ in 0..extra {
                let _ = world.runtime().connect(([10, 0, 0, 1], 1).into()).await;
            }
        };
        let hash = run_watched(&test, 3, scenario).expect("it passes");
        let message = test.run_again(3, hash, scenario).expect_err("they differ");
        assert!(message.contains("two runs differ"), "{message}");
    }
}
