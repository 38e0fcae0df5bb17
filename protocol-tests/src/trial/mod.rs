//! The program `trial`: a producer and two members of a group live on a cluster of the program `kafka` while topics are
//! deleted and recreated, nodes freeze, quotas come and go and one topic is forbidden. At the end nothing may be lost,
//! repeated or skipped without a cause, commits must have kept up and every stop must have ended in its time.
//!
//! | Module | What it does |
//! |---|---|
//! | `faults` | what is done to the cluster, and when |
//! | `workload` | the producer and the members |
//! | `diary` | what they saw |
//! | `verdict` | what must hold |
//!
//! The cluster needs an authorizer for the forbidden topic:
//!
//! ```text
//! kafka start 4.3.1 3 --name trial --authorizer
//! trial --cluster trial --minutes 30
//! ```

#![allow(clippy::print_stdout, reason = "a program that says what happens")]

mod diary;
mod faults;
mod verdict;
mod workload;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::time::{Instant, sleep, sleep_until};

use crate::kafka;
use diary::Diary;
use workload::Workload;

/// Longer than any fault lasts, and than what heals after it takes.
const QUIET: Duration = Duration::from_secs(60);

/// Lets faults loose on a running cluster of `kafka` under a workload, and checks that nothing is lost or silent.
#[derive(Debug, Parser)]
#[command(name = "trial")]
struct Args {
    /// Cluster of `kafka start`
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// How long
    #[arg(long, value_name = "MINUTES", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// Records per second
    #[arg(long, value_name = "NUMBER", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Seed of what happens when
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Freeze no nodes
    #[arg(long)]
    no_freeze: bool,
}

/// Runs the program with the arguments of the process; exit code 0 if all holds, 1 if not or if the cluster cannot be
/// used, 2 on wrong usage.
pub fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: start a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&args)) {
        Ok(faults) if faults.is_empty() => {
            println!("all holds");
            ExitCode::SUCCESS
        }
        Ok(faults) => {
            for fault in &faults {
                println!("FAULT {fault}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let nodes = kafka::running_nodes(&args.cluster)?;
    let diary = Arc::new(Diary::new());
    let workload = Workload::start(&nodes, args.rate, Arc::clone(&diary)).await?;
    faults::forbid(&nodes, workload::FORBIDDEN).await?;
    workload.start_members().await?;
    let end = Instant::now() + Duration::from_secs(60 * args.minutes);
    let mut dice = fastrand::Rng::with_seed(args.seed);
    let mut actors = vec![
        tokio::spawn(faults::recreate_topics(workload.client(), Arc::clone(&diary), dice.fork(), end)),
        tokio::spawn(faults::quotas(nodes.clone(), Arc::clone(&diary), dice.fork(), end)),
        tokio::spawn(workload.replace_members(dice.fork(), end)),
    ];
    if !args.no_freeze {
        actors.push(tokio::spawn(faults::freeze(nodes, Arc::clone(&diary), dice.fork(), end)));
    }
    sleep_until(end).await;
    for actor in actors {
        actor.await?;
    }
    println!("{}: faults are over", diary.clock());
    workload.stop_producing().await;
    sleep(QUIET).await;
    workload.stop_members().await;
    verdict::check(&workload, &diary).await
}
