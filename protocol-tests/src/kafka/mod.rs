//! The program `kafka`: clusters of Apache Kafka on loopback, from the artifacts on Maven Central and a Java runtime.
//!
//! | Module | What it does |
//! |---|---|
//! | `args` | command line |
//! | `version` | Kafka versions and what differs between them |
//! | `artifacts` | class path of a version, resolved with Maven |
//! | `java` | runtime, its flags, one process |
//! | `properties` | properties of a node |
//! | `probe` | whether a node answers and what it offers, in raw protocol bytes |
//! | `store` | directories, state and pid files |
//! | `commands` | start, stop, kill, restart, list, versions, prepare |

mod args;
mod artifacts;
mod commands;
mod java;
mod probe;
mod properties;
mod store;
mod version;

use std::process::ExitCode;

use clap::Parser;

/// Why a command did not do what it was asked.
#[derive(Debug)]
enum Failure {
    /// The command line asks for something that cannot be: exit code 2, nothing was done.
    Usage(String),
    /// It was tried and failed: exit code 1.
    Failed(String),
}

impl Failure {
    fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// A failed file or process operation, with what was attempted.
    fn io(attempt: impl std::fmt::Display, error: std::io::Error) -> Self {
        Self::Failed(format!("{attempt}: {error}"))
    }
}

/// A node of a running cluster, for programs that live on it.
#[derive(Clone, Debug)]
pub(crate) struct RunningNode {
    pub(crate) port: u16,
    pid: u32,
}

/// The nodes of a cluster of the usual directory that run.
pub(crate) fn running_nodes(name: &str) -> Result<Vec<RunningNode>, String> {
    let nodes = || {
        let cluster = store::Store::open(None)?.select(Some(name))?;
        let nodes = cluster.state.nodes.iter();
        Ok(nodes
            .filter_map(|node| Some(RunningNode { port: node.port, pid: cluster.pid(node.id)? }))
            .collect())
    };
    match nodes() {
        Ok(nodes) if Vec::is_empty(&nodes) => Err(format!("no node of {name} is running")),
        Ok(nodes) => Ok(nodes),
        Err(Failure::Usage(message) | Failure::Failed(message)) => Err(message),
    }
}

/// Stops a node's process for a while; its connections stay open and nobody answers.
pub(crate) async fn freeze(node: &RunningNode, time: std::time::Duration) -> std::io::Result<()> {
    java::signal(node.pid, "STOP")?;
    tokio::time::sleep(time).await;
    java::signal(node.pid, "CONT")
}

/// Runs the program with the arguments of the process; exit code 0 on success, 1 on failure, 2 on wrong usage.
pub fn main() -> ExitCode {
    let args = args::Args::parse();
    match commands::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("error: {message}\n\nFor more information, try '--help'.");
            ExitCode::from(2)
        }
        Err(Failure::Failed(message)) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
