//! Lets faults loose on a running Apache Kafka cluster under a workload of carafe, and checks what became of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    protocol_tests::trial::main()
}
