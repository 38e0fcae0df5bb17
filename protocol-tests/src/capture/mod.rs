//! The program `capture`: stands between clients and a broker while a command runs, passes every byte on unchanged, and
//! writes what was said as golden bytes.
//!
//! | Module | What it does |
//! |---|---|
//! | `recorder` | connections, and the frames that go over them |
//! | `corpus` | what of them is kept, and the files it is written to |

mod corpus;
mod recorder;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Passes connections on to a broker while COMMAND runs, and writes the frames and record batches that went by.
///
/// Clients stay on the recorder only if the broker advertises its address: for a cluster of `kafka`, start one node with
/// --property advertised.listeners=PLAINTEXT://LISTEN.
#[derive(Debug, Parser)]
#[command(name = "capture")]
struct Args {
    /// Address of the broker
    #[arg(long, value_name = "ADDRESS")]
    upstream: SocketAddr,
    /// Address where clients are awaited
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Who sends the requests and who answers: the first line of every file
    #[arg(long, value_name = "TEXT")]
    about: String,
    /// File for frames, without their length prefixes
    #[arg(long, value_name = "FILE")]
    frames: Option<PathBuf>,
    /// File for the record batches of Produce requests to topics named `golden.…`
    #[arg(long, value_name = "FILE")]
    produced: Option<PathBuf>,
    /// File for the record batches of Fetch answers from topics named `golden.…`
    #[arg(long, value_name = "FILE")]
    fetched: Option<PathBuf>,
    /// Most frames to keep of one message and version
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    keep: u16,
    /// The command, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the program with the arguments of the process; exit code 0 on success, 1 if the command or the recording failed,
/// in which case no file is written, 2 on wrong usage.
pub fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let frames = recorder::record(args.listen, args.upstream, &args.command)?;
    let files = [
        (&args.frames, corpus::frames(&frames, args.keep.into())),
        (&args.produced, corpus::produced(&frames)?),
        (&args.fetched, corpus::fetched(&frames)?),
    ];
    for (path, lines) in files {
        if let Some(path) = path {
            let text = format!("# {}\n{}\n", args.about, lines.join("\n"));
            std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
            eprintln!("{}: {} vectors", path.display(), lines.len());
        }
    }
    Ok(())
}
