//! Generates `src/wire/messages` and `src/wire/releases.rs` from the message definitions of Apache Kafka. `README.md`
//! beside this crate says where they come from.

mod emit;
mod model;
mod names;
mod output;
mod releases;
mod schema;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: generator DIRECTORY [--check]
       generator --releases DIRECTORY [--check]

DIRECTORY holds Kafka's message definitions (*.json), see protocol-tests/generator/README.md; with --releases those of
many versions, each as VERSION/common/message.
--check   compare with the committed files instead of writing them; exit code 1 if they differ";

fn main() -> ExitCode {
    let (mut check, mut releases) = (false, false);
    let mut dir = None;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--check" => check = true,
            "--releases" => releases = true,
            _ if argument.starts_with('-') || dir.is_some() => return usage(),
            _ => dir = Some(PathBuf::from(argument)),
        }
    }
    let Some(dir) = dir else { return usage() };
    match run(&dir, releases, check) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("generator: {error}");
            ExitCode::from(1)
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn run(dir: &Path, releases: bool, check: bool) -> Result<bool, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let files = if releases { releases::files(dir)? } else { output::files(&schema::read_all(dir)?)? };
    if check { output::differences(&root, &files) } else { output::write(&root, &files).map(|()| true) }
}
