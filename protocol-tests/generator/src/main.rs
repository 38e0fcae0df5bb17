//! Generates the Kafka messages from their JSON definitions.
fn main() {}
