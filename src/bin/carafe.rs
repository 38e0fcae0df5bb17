//! The `carafe` program.

use std::process::ExitCode;

/// In pure Rust, and as fast as glibc's where musl's is not: `benches/README.md`.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    carafe::cli::main(std::env::args_os())
}
