//! Encodes and decodes the same data with carafe, kafka-protocol and rskafka and prints costs and ratios. See
//! `benches/README.md`.

mod bodies;
mod codecs;
#[path = "../../peers/src/counting.rs"]
mod counting;
mod instructions;
mod measure;
mod records;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
Usage: wire [instructions] [NAME…] [--blocks N] [--millis N]

Runs the cases whose name contains one of NAME (default: all), and fails if one allocates more than it may.

instructions   count instructions with callgrind instead of time and allocations
--blocks N     blocks of A-B-…-B-A (default 7)
--millis N     CPU time of one of the runs in a block (default 20)
--list         print the names
";

/// The same work, done by several sides. The first side is carafe's.
pub struct Case {
    pub name: String,
    /// What costs are printed for.
    pub unit: &'static str,
    /// Units in one call of a side.
    pub units: u64,
    /// What carafe must reach.
    pub goal: Goal,
    /// Makes the sides and checks that they do the same.
    pub sides: Box<dyn Fn() -> Vec<Side>>,
}

pub struct Side {
    pub name: String,
    pub run: Box<dyn FnMut()>,
}

impl Side {
    pub fn new(name: impl Into<String>, run: impl FnMut() + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

/// What carafe must reach.
#[derive(Clone, Copy, Default)]
pub struct Goal {
    /// Most of the time that the side `kafka-protocol` takes.
    pub time: Option<f64>,
    /// Most allocations.
    pub allocations: Option<Allocations>,
}

#[derive(Clone, Copy)]
pub enum Allocations {
    /// Per unit.
    Each(f64),
    /// Of those of the side `kafka-protocol`.
    Share(f64),
}

fn cases() -> Vec<Case> {
    [records::cases(), bodies::cases(), codecs::cases()].into_iter().flatten().collect()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("run") => instructions::child(&arguments[1..]),
        _ => drive(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wire: {error}");
            ExitCode::FAILURE
        }
    }
}

fn drive(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let (mut names, mut blocks, mut sample) = (Vec::new(), 7, Duration::from_millis(20));
    let (mut count, mut list) = (false, false);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "instructions" => count = true,
            "--list" => list = true,
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(());
            }
            option if option.starts_with('-') => {
                let value = arguments
                    .next()
                    .ok_or_else(|| format!("{option} is unknown or lacks a value\n{USAGE}"))?;
                match option {
                    "--blocks" => blocks = value.parse::<usize>()?.max(1),
                    "--millis" => sample = Duration::from_millis(value.parse()?),
                    _ => return Err(format!("{option} is unknown\n{USAGE}").into()),
                }
            }
            name => names.push(name),
        }
    }
    let cases: Vec<Case> = cases()
        .into_iter()
        .filter(|case| names.is_empty() || names.iter().any(|name| case.name.contains(name)))
        .collect();
    if list {
        cases.iter().for_each(|case| println!("{}", case.name));
        Ok(())
    } else if count {
        instructions::compare(&cases)
    } else {
        measure::compare(&cases, blocks, sample)
    }
}
