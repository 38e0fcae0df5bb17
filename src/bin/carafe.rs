//! The `carafe` program.
fn main() {}
