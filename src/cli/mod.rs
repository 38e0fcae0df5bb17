//! The `carafe` program: one file per command.

mod broker;
mod cat;
mod decode;
mod demo;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Apache Kafka without librdkafka: demo, embedded cluster and tools in one program.
#[derive(Debug, Parser)]
#[command(name = "carafe", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// A type for each command: its documentation and fields are what the command line shows, `LOG` is what it logs unless
/// `RUST_LOG` says otherwise, and `run` does it.
macro_rules! commands {
    ($($file:ident::$Command:ident),* $(,)?) => {
        #[derive(Debug, Subcommand)]
        enum Command {
            $($Command($file::$Command),)*
        }

        impl Command {
            fn log(&self) -> &'static str {
                match self {
                    $(Self::$Command(_) => $file::$Command::LOG,)*
                }
            }

            async fn run(self) -> crate::Result<ExitCode> {
                match self {
                    $(Self::$Command(command) => command.run().await,)*
                }
            }
        }
    };
}

commands!(demo::Demo, broker::Broker, cat::Cat, decode::Decode);

/// Runs the program with these arguments, the first of which is its name.
///
/// Exit codes: 0 success, 1 the command failed (the reason is on standard error), 2 the command line is wrong and nothing
/// was done.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors to clap, with exit code 0 and standard output.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    log_to_stderr(arguments.command.log());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("carafe: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(arguments.command.run());
    // Blocking handlers that never return must not keep the program alive.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("carafe: {}", crate::error::Chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// What the command line asks for is wrong, as its settings were found when they were put together.
fn refuse(error: &crate::Error) -> ExitCode {
    eprintln!("carafe: {}\n\nFor more information, try '--help'.", crate::error::Chain(error));
    ExitCode::from(2)
}

/// Logs to standard error what `RUST_LOG` asks for, or `default`.
fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let no_colours = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let logger = logger(filter, std::io::stderr().is_terminal() && !no_colours, std::io::stderr);
    // A second call within one process (tests) finds the logger in place.
    let _ = tracing::subscriber::set_global_default(logger);
}

/// Colours are for terminals, and for those who want them (<https://no-color.org>).
fn logger<W>(filter: impl Into<EnvFilter>, colours: bool, to: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(to).finish()
}

/// A line on standard output; a reader that went away is none of our business.
fn say(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_nobody_looks_at_has_no_colours() {
        for colours in [false, true] {
            let log = Log::default();
            let to = log.clone();
            tracing::subscriber::with_default(logger("warn", colours, move || to.clone()), || {
                tracing::warn!(topic = "t", "gone");
            });
            let log = log.0.lock().unwrap();
            assert_eq!(log.contains(&0x1b), colours, "{}", log.escape_ascii());
        }
    }

    fn exit_code(line: &str) -> String {
        format!("{:?}", main(line.split(' ').map(Into::into)))
    }

    #[test]
    fn a_wrong_command_line_ends_with_exit_code_2() {
        let wrong = format!("{:?}", std::process::ExitCode::from(2));
        for line in [
            "carafe",
            "carafe frobnicate",
            "carafe broker --nodes 0",
            "carafe broker --listen nowhere",
            "carafe broker --listen 127.0.0.1:65535 --nodes 2",
            "carafe broker --topic orders:0",
            "carafe broker --listen 127.0.0.1:0 --topic no/slash:1",
            "carafe broker --default-partitions 0",
            "carafe broker --first-node-id=-1",
            "carafe broker --retention-bytes much",
            "carafe broker --discard --replay",
            "carafe decode --api Heartbeat",
            "carafe decode --api Heartbeat --version 99",
            "carafe decode /nowhere/to/be/found",
            "carafe demo --orders 0",
            "carafe demo --bootstrap-servers localhost:port",
            "carafe demo --bootstrap-servers localhost:9092 --nodes",
        ] {
            assert_eq!(exit_code(line), wrong, "{line}");
        }
    }
}
