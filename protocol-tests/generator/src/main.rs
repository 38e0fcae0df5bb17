//! Generates `src/wire/messages` from the message definitions of Apache Kafka. `README.md` beside this crate says where
//! they come from.

mod emit;
mod model;
mod names;
mod output;
mod schema;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: generator DIRECTORY [--check]

DIRECTORY holds Kafka's message definitions (*.json), see protocol-tests/generator/README.md.
--check   compare with the committed files instead of writing them; exit code 1 if they differ";

fn main() -> ExitCode {
    let mut check = false;
    let mut dir = None;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--check" => check = true,
            _ if argument.starts_with('-') || dir.is_some() => return usage(),
            _ => dir = Some(PathBuf::from(argument)),
        }
    }
    let Some(dir) = dir else { return usage() };
    match run(&dir, check) {
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

fn run(dir: &Path, check: bool) -> Result<bool, String> {
    let files = output::files(&schema::read_all(dir)?)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if check { output::differences(&root, &files) } else { output::write(&root, &files).map(|()| true) }
}
