//! The modes against the embedded cluster, over the simulated network.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, duplex};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::arguments::{Request, parse};
use super::*;
use crate::broker::{Action, Cluster, Matcher, Operation, Resource};
use crate::consumer::StartOffset;
use crate::runtime::Runtime;
use crate::runtime::sim::SimRuntime;
use crate::types::{Offset, TopicPartition};
use crate::wire::ApiKey;

struct Bench {
    runtime: Arc<dyn Runtime>,
    broker: Cluster,
    /// One permit for each signal that was not seen yet.
    signals: Arc<Semaphore>,
}

impl Bench {
    async fn new(topics: &[&str]) -> Self {
        let runtime: Arc<dyn Runtime> = SimRuntime::new(5);
        let mut builder = Cluster::builder().runtime(Arc::clone(&runtime));
        for topic in topics {
            builder = builder.topic(*topic, 1);
        }
        Self { broker: builder.start().await.unwrap(), runtime, signals: Arc::new(Semaphore::new(0)) }
    }

    async fn job(&self, line: &str) -> Job {
        let mut options = match parse(line.split_whitespace().map(OsString::from)) {
            Ok(Request::Run(options)) => *options,
            other => panic!("{line}: {other:?}"),
        };
        options.brokers = Some(self.broker.bootstrap_servers());
        options.search_config = false;
        let Ok(settings) = settings(&options) else { panic!("{line}: settings") };
        let client = Client::builder().config(settings.client.clone());
        let client = client.runtime(Arc::clone(&self.runtime)).build().await.unwrap();
        let signals = Arc::clone(&self.signals);
        let interrupt = move || {
            let signals = Arc::clone(&signals);
            Box::pin(async move { signals.acquire().await.unwrap().forget() }) as BoxFuture<'static, ()>
        };
        Job { options, settings, client, interrupt: Box::new(interrupt) }
    }

    fn signal(&self) {
        self.signals.add_permits(1);
    }

    async fn produce(&self, line: &str, input: &[u8]) {
        let job = self.job(line).await;
        if let Err(failure) = produce::produce(&job, input).await {
            panic!("{line}: {}", problem(failure));
        }
    }

    /// Keys and values of a partition.
    fn log(&self, topic: &str) -> Vec<(Option<String>, Option<String>)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let log = self.broker.log(topic, 0);
        log.iter()
            .map(|record| (record.key.as_deref().map(text), record.value.as_deref().map(text)))
            .collect()
    }

    /// Reads until the command ends by itself, and returns why.
    async fn ends(&self, line: &str) -> String {
        let job = self.job(line).await;
        let run = async {
            match job.options.mode {
                Some(Mode::Group) => group::run(job).await,
                _ => consume::run(job).await,
            }
        };
        match timeout(Duration::from_secs(60), run).await {
            Ok(Err(failure)) => problem(failure),
            Ok(Ok(code)) => panic!("{line} ends with {code:?}"),
            Err(_) => panic!("{line} does not end"),
        }
    }
}

fn problem(failure: Failure) -> String {
    match failure {
        Failure::Usage(problem) => problem,
        Failure::Failed(error) => crate::error::Chain(&error).to_string(),
    }
}

#[tokio::test(start_paused = true)]
async fn messages_are_sent_however_they_are_read() {
    let bench = Bench::new(&["t"]).await;
    let job = bench.job("-P -t t -K:: -k fixed -D ;; -c 4").await;
    for size in [1, 2, 5, 100] {
        let (mut input, reading) = duplex(size);
        let feed = async move {
            // Nobody reads the end.
            let _ = input.write_all(b"a::1;;b::2;;;;;3;;::x::y;;not;;these").await;
        };
        let (result, ()) = tokio::join!(produce::produce(&job, reading), feed);
        assert!(matches!(result, Ok(code) if code == ExitCode::SUCCESS));
    }
    let pair = |key: &str, value: &str| (Some(key.to_owned()), Some(value.to_owned()));
    let once = [pair("a", "1"), pair("b", "2"), pair("fixed", ";3"), pair("", "x::y")];
    assert_eq!(bench.log("t"), [&once[..]; 4].concat());
}

#[tokio::test(start_paused = true)]
async fn the_first_signal_ends_the_reading_and_the_second_one_all() {
    let bench = Bench::new(&["t"]).await;
    let held = bench.broker.control().intercept(Matcher::api(ApiKey::PRODUCE), Action::Hold);
    for last in ["the broker", "a signal"] {
        let job = bench.job("-P -t t").await;
        let (mut input, reading) = duplex(1024);
        let story = async {
            input.write_all(b"one\ntwo\nhal").await.unwrap();
            sleep(Duration::from_secs(1)).await;
            bench.signal();
            sleep(Duration::from_secs(2)).await;
            match last {
                "the broker" => held.remove(),
                _ => bench.signal(),
            }
        };
        let started = Instant::now();
        let (result, ()) = tokio::join!(produce::produce(&job, reading), story);
        assert!(started.elapsed() < Duration::from_secs(4), "{last} ends it");
        match (last, result) {
            ("the broker", Ok(code)) => assert_eq!(code, ExitCode::SUCCESS),
            ("a signal", Err(failure)) => assert!(problem(failure).contains("twice")),
            (last, _) => panic!("{last}"),
        }
        bench.broker.control().intercept(Matcher::api(ApiKey::PRODUCE), Action::Hold);
    }
    assert_eq!(bench.log("t").len(), 2, "what was read before the first signal");
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_ends_leaving_a_group() {
    let bench = Bench::new(&["t"]).await;
    let job = bench.job("-G g -q -m 50 t").await;
    let story = async {
        sleep(Duration::from_secs(5)).await;
        bench.broker.control().freeze_node(0);
        bench.signal();
        sleep(Duration::from_secs(1)).await;
        bench.signal();
    };
    let started = Instant::now();
    let (result, ()) = tokio::join!(group::run(job), story);
    assert!(started.elapsed() < Duration::from_secs(7));
    assert!(result.is_err_and(|failure| problem(failure).contains("twice")));
}

#[tokio::test(start_paused = true)]
async fn the_tail_is_what_is_left_of_it() {
    let bench = Bench::new(&["t"]).await;
    bench.produce("-P -t t", b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n").await;
    bench.broker.control().delete_records("t", 0, 7);
    let partition = TopicPartition::new("t", 0);
    for (flag, first) in [("-o -2", 8), ("-o -3", 7), ("-o -5", 7), ("-o -500", 7)] {
        let job = bench.job(&format!("-C -t t {flag}")).await;
        let Ok(starts) = consume::starts(&job, [&partition].into_iter()).await else { panic!("{flag}") };
        assert!(
            matches!(&starts[..], [(_, StartOffset::At(Offset(at)))] if *at == first),
            "{flag}: {starts:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_at_the_start_ends_it_at_once() {
    let bench = Bench::new(&["t", "secret"]).await;
    bench.broker.control().deny(Resource::Topic("secret".into()), Operation::Describe);
    let started = Instant::now();
    for line in
        ["-C -q -t missing", "-G g -q missing", "-G g -q t missing", "-C -q -t secret", "-G g -q t secret"]
    {
        let problem = bench.ends(line).await;
        let expected =
            if line.contains("secret") { "TOPIC_AUTHORIZATION_FAILED" } else { "UNKNOWN_TOPIC_OR_PARTITION" };
        assert!(problem.contains(expected), "{line}: {problem}");
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn what_goes_missing_on_the_way_ends_it_within_seconds() {
    for line in ["-C -q -t t", "-G g -q t"] {
        for trouble in ["topic", "rights", "broker"] {
            let bench = Bench::new(&["t"]).await;
            let control = bench.broker.control();
            let story = async {
                sleep(Duration::from_secs(10)).await;
                match trouble {
                    "topic" => assert!(control.delete_topic("t")),
                    "rights" => control.deny(Resource::Topic("t".into()), Operation::Read),
                    _ => control.kill_node(0),
                }
                Instant::now()
            };
            let ended = async { (bench.ends(line).await, Instant::now()) };
            let ((problem, ended), began) = tokio::join!(ended, story);
            assert!(
                ended - began < Duration::from_secs(20),
                "{line}, {trouble}: {:?}, {problem}",
                ended - began
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn producing_ends_where_nobody_takes_it() {
    let bench = Bench::new(&["t", "secret"]).await;
    let control = bench.broker.control();
    control.deny(Resource::Topic("secret".into()), Operation::Write);
    let job = bench.job("-P -q -t secret").await;
    let started = Instant::now();
    let refused = produce::produce(&job, &b"one\n"[..]).await;
    assert!(refused.is_err() || refused.is_ok_and(|code| code == ExitCode::FAILURE));
    assert!(started.elapsed() < Duration::from_secs(5));

    let job = bench.job("-P -q -t t").await;
    let (mut input, reading) = duplex(1024);
    let story = async {
        input.write_all(b"one\n").await.unwrap();
        sleep(Duration::from_secs(1)).await;
        control.kill_node(0);
        input.write_all(b"two\n").await.unwrap();
        Instant::now()
    };
    let ended = async { (produce::produce(&job, reading).await, Instant::now()) };
    let ((result, ended), began) = tokio::join!(ended, story);
    assert!(result.is_err() && ended - began < Duration::from_secs(20), "{:?}", ended - began);
    assert_eq!(bench.log("t").len(), 1);
}
