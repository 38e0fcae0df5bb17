//! Starts, stops, kills and restarts Apache Kafka clusters on this machine, without containers.

use std::process::ExitCode;

fn main() -> ExitCode {
    protocol_tests::kafka::main()
}
