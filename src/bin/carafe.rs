//! The `carafe` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    carafe::cli::main(std::env::args_os())
}
