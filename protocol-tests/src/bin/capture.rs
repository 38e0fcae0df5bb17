//! Records what a client and a broker say to each other.

use std::process::ExitCode;

fn main() -> ExitCode {
    protocol_tests::capture::main()
}
