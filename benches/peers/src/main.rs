//! Runs the same workloads on carafe, on librdkafka and on franz-go, each in a process of its own, in the order
//! A-B-C-C-B-A, and prints costs and ratios. See `benches/README.md`.

mod counting;
mod measure;
mod ours;
mod theirs;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use carafe::admin::NewTopic;
use carafe::client::Client;

/// Whatever went wrong.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub const TOPIC_PARTITIONS: i32 = 12;
/// Of the topic that records are spread over.
pub const SPREAD_PARTITIONS: i32 = 10_000;
/// Least records sent before a measured window of a producer.
const WARM_UP: u64 = 1_000;
const TOPIC: &str = "peers";
const SPREAD_TOPIC: &str = "peers-spread";

const USAGE: &str = "\
Usage: peers [WORKLOAD…] [--records N] [--blocks N] [--runtime multi|task|current] [--linger MS]
             [--bootstrap-servers LIST] [--franz-go]

Workloads: fire spread awaited single drain group handle start (default: all but handle)
  fire      produce, fire and count            carafe enqueue      / BaseProducer
  spread    as fire, over 10,000 partitions in no order, as keys would have it
  awaited   produce, up to --window acks owed  carafe receipts     / FutureProducer
  single    one awaited record at a time       carafe send         / FutureProducer, linger.ms=0
  drain     consume assigned partitions        PartitionReader     / BaseConsumer
  group     consume in a group                 GroupConsumer       / BaseConsumer
  handle    a routed application, by `peers run` alone: nothing to compare it with
  start     three nodes to the first ack       embedded cluster    / mock cluster
--franz-go adds a third side to fire, spread, awaited, single (linger 0) and drain; it needs Go.

--records N            records per run (default 2000000; single: a hundredth; group and drain: plus as many to warm up)
--blocks N             blocks of every side once, and once more in reverse order (default 2)
--window N             of awaited (default 100000)
--runtime FLAVOUR      multi: tokio's multi-thread runtime with one worker per core, the workload in its block_on
                       task: the same, the workload in a task of its own; current: current-thread runtime (default multi)
--linger MS            of producers, except in single (default: each client's own)
--bootstrap-servers L  a Kafka cluster; by default `peers sink`, the embedded broker in a process of its own
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    Fire,
    Spread,
    Awaited,
    Single,
    Drain,
    Group,
    Handle,
    Start,
}

const CARAFE: Side = Side { name: "carafe", program: None };

const WORKLOADS: [(&str, Workload); 8] = [
    ("fire", Workload::Fire),
    ("spread", Workload::Spread),
    ("awaited", Workload::Awaited),
    ("single", Workload::Single),
    ("drain", Workload::Drain),
    ("group", Workload::Group),
    ("handle", Workload::Handle),
    ("start", Workload::Start),
];

impl Workload {
    fn parse(name: &str) -> Option<Self> {
        WORKLOADS.iter().find(|(known, _)| *known == name).map(|(_, workload)| *workload)
    }

    fn name(self) -> &'static str {
        WORKLOADS.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    fn is_in_go(self) -> bool {
        !matches!(self, Self::Group | Self::Handle | Self::Start)
    }

    fn consumes(self) -> bool {
        matches!(self, Self::Drain | Self::Group | Self::Handle)
    }

    fn partitions(self) -> i32 {
        if self == Self::Spread { SPREAD_PARTITIONS } else { TOPIC_PARTITIONS }
    }
}

/// One run of one side.
#[derive(Clone, Debug)]
pub struct Job {
    pub workload: Workload,
    pub servers: String,
    pub topic: String,
    pub records: u64,
    /// Records to consume before the measured window.
    pub warm: u64,
    pub window: usize,
    /// Of producers; each client's own if none.
    pub linger_ms: Option<u64>,
    runtime: String,
}

impl Job {
    /// Records sent before the measured window of a producer, so that most partitions have had one.
    pub fn warm_up(&self) -> u64 {
        WARM_UP.max(self.workload.partitions() as u64)
    }

    /// Where record `index` goes, if the workload says so.
    pub fn partition(&self, index: u64) -> Option<i32> {
        let drawn = index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        (self.workload == Workload::Spread).then_some((drawn % SPREAD_PARTITIONS as u64) as i32)
    }
}

#[derive(Debug)]
struct Outcome {
    records: f64,
    cpu: f64,
    wall: f64,
    allocations: f64,
    peak_kib: f64,
    p50: f64,
    p99: f64,
}

impl Outcome {
    fn cpu_per_million(&self) -> f64 {
        self.cpu * 1e6 / self.records
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("sink") => sink(arguments.get(1).map_or("", String::as_str)),
        Some("run") => child(&arguments[1..]),
        _ => drive(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runtime(flavour: &str) -> std::io::Result<tokio::runtime::Runtime> {
    match flavour {
        "current" => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
    }
}

/// The same as `carafe broker --discard` or `--replay`: serves until its standard input ends.
fn sink(mode: &str) -> Result<(), Failure> {
    runtime("current")?.block_on(async {
        let builder = carafe::broker::Cluster::builder()
            .topic(TOPIC, TOPIC_PARTITIONS)
            .topic(SPREAD_TOPIC, SPREAD_PARTITIONS)
            .listen("127.0.0.1:0");
        let builder = if mode == "replay" { builder.replay() } else { builder.discard() };
        let cluster = builder.start().await?;
        println!("{}", cluster.bootstrap_servers());
        std::future::pending().await
    })
}

/// `run SIDE WORKLOAD SERVERS TOPIC RECORDS WARM WINDOW LINGER RUNTIME COUNT`; LINGER is in milliseconds, or `-`.
fn child(arguments: &[String]) -> Result<(), Failure> {
    let [side, workload, servers, topic, records, warm, window, linger, flavour, count] = arguments else {
        return Err("run takes ten arguments".into());
    };
    let job = Job {
        workload: Workload::parse(workload).ok_or("unknown workload")?,
        servers: servers.clone(),
        topic: topic.clone(),
        records: records.parse()?,
        warm: warm.parse()?,
        window: window.parse()?,
        linger_ms: if linger == "-" { None } else { Some(linger.parse()?) },
        runtime: flavour.clone(),
    };
    if count == "true" {
        counting::enable();
    }
    let runtime = runtime(flavour)?;
    let carafe = side == CARAFE.name;
    let work = async move { if carafe { ours::run(&job).await } else { theirs::run(&job).await } };
    let done = match flavour.as_str() {
        "task" => runtime.block_on(runtime.spawn(work))?,
        _ => runtime.block_on(work),
    };
    runtime.shutdown_background();
    done
}

/// A client to be measured.
#[derive(Clone, Debug)]
struct Side {
    name: &'static str,
    /// The program that runs it, if that is another one than this.
    program: Option<PathBuf>,
}

/// Builds the program in `go`.
fn franz_go() -> Result<Side, Failure> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let program = here.join("target").join("peers-go");
    let built =
        Command::new("go").arg("build").arg("-o").arg(&program).current_dir(here.join("go")).status()?;
    if !built.success() {
        return Err("go build failed".into());
    }
    Ok(Side { name: "franz-go", program: Some(program) })
}

/// Runs one side in a process of its own.
fn measure(job: &Job, side: &Side, count: bool, settings: &mut String) -> Result<Outcome, Failure> {
    let mut command = match &side.program {
        Some(program) => Command::new(program),
        None => {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["run", side.name]);
            command
        }
    };
    command.args([job.workload.name(), &job.servers, &job.topic]).args([
        job.records.to_string(),
        job.warm.to_string(),
        job.window.to_string(),
        job.linger_ms.map_or("-".to_owned(), |linger| linger.to_string()),
    ]);
    if side.program.is_none() {
        command.args([job.runtime.as_str(), if count { "true" } else { "false" }]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{} {} failed", side.name, job.workload.name()).into());
    }
    let text = String::from_utf8(output.stdout)?;
    if let Some(line) = text.lines().find_map(|line| line.strip_prefix("settings ")) {
        *settings = line.to_owned();
    }
    let line = text.lines().find_map(|line| line.strip_prefix("result ")).ok_or("no result")?;
    let numbers: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [records, cpu, wall, allocations, peak_kib, p50, p99] = numbers[..] else {
        return Err("a result has seven numbers".into());
    };
    Ok(Outcome { records, cpu, wall, allocations, peak_kib, p50, p99 })
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

struct Sink(Child);

impl Drop for Sink {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_sink(mode: &str) -> Result<(Sink, String), Failure> {
    let mut process = Command::new(std::env::current_exe()?)
        .args(["sink", mode])
        .stdout(Stdio::piped())
        .spawn()
        .map(Sink)?;
    let stdout = process.0.stdout.take().ok_or("no output")?;
    let mut address = String::new();
    BufReader::new(stdout).read_line(&mut address)?;
    Ok((process, address.trim().to_owned()))
}

fn create_topic(servers: &str, name: &str, partitions: i32) -> Result<(), Failure> {
    runtime("current")?.block_on(async {
        let client = Client::builder().bootstrap_servers(servers).build().await?;
        client.admin().create_topics([NewTopic::new(name).partitions(partitions)]).await?;
        client.close();
        Ok(())
    })
}

fn drive(arguments: &[String]) -> Result<(), Failure> {
    let (mut workloads, mut servers) = (Vec::new(), None);
    let (mut records, mut blocks, mut window) = (2_000_000_u64, 2, 100_000);
    let (mut flavour, mut linger_ms) = ("multi".to_owned(), None);
    let mut sides = vec![CARAFE, Side { name: "rdkafka", program: None }];
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        if let Some(workload) = Workload::parse(name) {
            workloads.push(workload);
            continue;
        }
        if matches!(name.as_str(), "--help" | "-h") {
            print!("{USAGE}");
            return Ok(());
        }
        if name == "--franz-go" {
            sides.push(franz_go()?);
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{name} is unknown or lacks a value\n{USAGE}"))?;
        match name.as_str() {
            "--records" => records = value.parse()?,
            "--blocks" => blocks = value.parse()?,
            "--window" => window = value.parse()?,
            "--linger" => linger_ms = Some(value.parse()?),
            "--runtime" => flavour.clone_from(value),
            "--bootstrap-servers" => servers = Some(value.clone()),
            _ => return Err(format!("{name} is unknown\n{USAGE}").into()),
        }
    }
    if workloads.is_empty() {
        let all = WORKLOADS.iter().map(|(_, workload)| *workload);
        workloads = all.filter(|workload| *workload != Workload::Handle).collect();
    }
    let target = servers.as_deref().unwrap_or("embedded broker, discarding or replaying");
    println!(
        "{records} records of 100 bytes, {blocks} blocks of each side twice, \
         tokio {flavour}, against {target}\n"
    );
    println!("| Workload | Side | CPU-s/M | records/s | allocations/record | peak MiB | p50 µs | p99 µs |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut notes = String::new();
    for workload in workloads {
        let job = Job {
            workload,
            servers: String::new(),
            topic: TOPIC.to_owned(),
            records,
            warm: 0,
            window,
            linger_ms,
            runtime: flavour.clone(),
        };
        let sides: Vec<_> =
            sides.iter().filter(|side| side.program.is_none() || workload.is_in_go()).cloned().collect();
        notes += &compare(job, servers.as_deref(), blocks, &sides)?;
    }
    print!("\n{notes}");
    Ok(())
}

fn compare(mut job: Job, servers: Option<&str>, blocks: usize, sides: &[Side]) -> Result<String, Failure> {
    let workload = job.workload;
    match workload {
        Workload::Single => job.records = (job.records / 100).max(1),
        Workload::Start => job.records = 1,
        _ => {}
    }
    let mut settings = vec![String::new(); sides.len()];
    let _sink = match servers {
        Some(servers) => {
            job.servers = servers.to_owned();
            let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
            job.topic = format!("{TOPIC}-{}-{run}", workload.name());
            if workload != Workload::Start {
                create_topic(servers, &job.topic, workload.partitions())?;
            }
            if workload.consumes() {
                let fill = Job { workload: Workload::Fire, ..job.clone() };
                measure(&fill, &CARAFE, false, &mut settings[0])?;
            }
            None
        }
        None => {
            let (sink, address) = start_sink(if workload.consumes() { "replay" } else { "discard" })?;
            job.servers = address;
            if workload == Workload::Spread {
                job.topic = SPREAD_TOPIC.to_owned();
            }
            job.warm = if workload.consumes() { job.records } else { 0 };
            Some(sink)
        }
    };
    let mut outcomes: Vec<Vec<Outcome>> = sides.iter().map(|_| Vec::new()).collect();
    for _ in 0..blocks {
        for at in (0..sides.len()).chain((0..sides.len()).rev()) {
            let outcome = measure(&job, &sides[at], false, &mut settings[at])?;
            outcomes[at].push(outcome);
        }
    }
    for ((side, outcomes), settings) in sides.iter().zip(&outcomes).zip(&mut settings) {
        let name = side.name;
        let counted = measure(&job, side, true, settings)?;
        let of = |value: fn(&Outcome) -> f64| median(outcomes.iter().map(value));
        if side.program.is_none() {
            *settings = format!("{name}: {settings}, tokio {}", job.runtime);
        }
        println!(
            "| {} | {name} | {:.3} | {:.0} | {:.4} | {:.0} | {:.0} | {:.0} |",
            workload.name(),
            of(Outcome::cpu_per_million),
            of(|outcome| outcome.records / outcome.wall),
            counted.allocations / counted.records,
            of(|outcome| outcome.peak_kib / 1024.0),
            of(|outcome| outcome.p50),
            of(|outcome| outcome.p99),
        );
    }
    let (what, cost): (_, fn(&Outcome) -> f64) = match workload {
        Workload::Single | Workload::Start => ("p50", |outcome| outcome.p50),
        _ => ("CPU", Outcome::cpu_per_million),
    };
    for (side, theirs) in sides.iter().zip(&outcomes).skip(1) {
        let ratios: Vec<_> =
            outcomes[0].iter().zip(theirs).map(|(ours, theirs)| cost(ours) / cost(theirs)).collect();
        let (least, most) =
            ratios.iter().fold((f64::MAX, f64::MIN), |(least, most), r| (least.min(*r), most.max(*r)));
        println!(
            "| {} | **{what}, carafe ÷ {}** | **{:.3}** ({least:.3} to {most:.3}) | | | | | |",
            workload.name(),
            side.name,
            median(ratios)
        );
    }
    Ok(format!("- {}: {}\n", workload.name(), settings.join("; ")))
}
