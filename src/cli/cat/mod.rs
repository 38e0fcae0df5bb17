//! `carafe cat`: produces, consumes and lists with kcat's flags, and with kcat's output on the same cluster.
//!
//! * `arguments`: the command line; `properties`: `-X` and configuration files.
//! * `produce` (`split`), `consume` (`group`), `list`, `query`: the modes.
//! * `format` (`escape`), `json`: what a record looks like; `output`: standard output.

mod arguments;
mod consume;
mod escape;
mod format;
mod group;
mod json;
mod list;
mod output;
mod produce;
mod properties;
mod query;
mod split;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use tokio::time::{Instant, timeout};

use crate::admin::Admin;
use crate::client::{Client, ConditionEvent, ConditionKind, ConditionStage};
use crate::runtime::BoxFuture;
use crate::{Error, ErrorKind, Result, deadline};
use arguments::{Mode, Options, Request};
use output::Output;
use properties::{Properties, Settings};

/// Produce, consume and list with kcat's flags; `carafe cat -h` shows them
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Cat {
    /// kcat's flags, and the files or topics of -P and -G
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    arguments: Vec<OsString>,
}

/// Why the command ends early.
enum Failure {
    /// The command line or a setting is wrong; nothing was done.
    Usage(String),
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(Error::new(ErrorKind::Io, "standard output cannot be written").with_source(error))
    }
}

/// A mode at work.
struct Job {
    options: Options,
    settings: Settings,
    client: Client,
    /// Waits until the program is told to end, as often as it is asked to.
    interrupt: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Cat {
    /// It tells what is wrong with the cluster itself, and ends for some of it.
    pub(super) const LOG: &'static str = "warn,carafe::cluster=error";

    pub(super) async fn run(self) -> Result<ExitCode> {
        match self.start().await {
            Ok(code) => Ok(code),
            Err(Failure::Failed(error)) => Err(error),
            Err(Failure::Usage(problem)) => {
                eprintln!("carafe cat: {problem}\n\n{USAGE}\nTry 'carafe cat -h'.");
                Ok(ExitCode::from(2))
            }
        }
    }

    async fn start(self) -> Result<ExitCode, Failure> {
        let options = match arguments::parse(self.arguments).map_err(Failure::Usage)? {
            Request::Run(options) => *options,
            Request::Help => {
                super::say(format_args!("{USAGE}\n{HELP}"));
                return Ok(ExitCode::SUCCESS);
            }
            Request::Version => {
                let version = env!("CARGO_PKG_VERSION");
                super::say(format_args!("carafe {version}, with the flags and the output of kcat 1.7.1"));
                return Ok(ExitCode::SUCCESS);
            }
        };
        let mode = options
            .mode
            .unwrap_or_else(|| if std::io::stdin().is_terminal() { Mode::Consume } else { Mode::Produce });
        options.check(mode).map_err(Failure::Usage)?;
        let settings = settings(&options)?;
        let client =
            Client::builder().config(settings.client.clone()).build().await.map_err(wrong_setting)?;
        let interrupt = Box::new(|| Box::pin(crate::runtime::termination()) as BoxFuture<'static, ()>);
        let job = Job { options, settings, client, interrupt };
        match mode {
            Mode::Produce => produce::run(job).await,
            Mode::Consume => consume::run(job).await,
            Mode::Group => group::run(job).await,
            Mode::List => list(&job).await,
            Mode::Query => query::run(&job).await,
        }
    }
}

/// A setting that is refused is a wrong command line.
fn wrong_setting(error: Error) -> Failure {
    if error.kind() == ErrorKind::Config {
        Failure::Usage(crate::error::Chain(&error).to_string())
    } else {
        Failure::Failed(error)
    }
}

/// The settings of the configuration files, then those of the command line.
fn settings(options: &Options) -> Result<Settings, Failure> {
    let mut properties = Properties::default();
    let (files, required) = if options.search_config {
        properties::default_files(|name| std::env::var_os(name))
    } else {
        (options.config_files.iter().map(Into::into).collect(), true)
    };
    for file in files {
        let name = properties::show(file.as_os_str());
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if required => return Err(Failure::Usage(format!("{name} cannot be read: {error}"))),
            Err(_) => continue,
        };
        let read = properties::parse_file(&text);
        for (property, value) in read.map_err(|problem| Failure::Usage(format!("{name}: {problem}")))? {
            properties.set(&property, &value);
        }
        if options.search_config {
            break;
        }
    }
    for (property, value) in &options.properties {
        properties.set(property, value);
    }
    if let Some(brokers) = &options.brokers {
        properties.set("bootstrap.servers", brokers);
    }
    if properties.get("bootstrap.servers").is_none() {
        return Err(Failure::Usage("-b BROKERS is missing".to_owned()));
    }
    properties.settings().map_err(wrong_setting)
}

impl Job {
    /// Operations with kcat's limit for metadata.
    fn admin(&self) -> Admin {
        self.client.admin().with_timeout(self.options.patience)
    }

    fn deadline(&self) -> Instant {
        deadline::after(Instant::now(), self.options.patience)
    }

    /// Tells what goes on, unless told to be quiet.
    fn tell(&self, news: std::fmt::Arguments<'_>) {
        if !self.options.quiet {
            eprintln!("% {news}");
        }
    }

    /// Tells what is wrong and lasts, until it is something that kcat ends for: a topic is missing, or a permission, or no
    /// broker answers any more. With `-E` it only tells.
    async fn trouble(&self) -> Error {
        let mut events = self.client.condition_events();
        loop {
            let ended = match timeout(self.settings.request_timeout, events.next()).await {
                Ok(None) => std::future::pending().await,
                // Not everybody who says nothing has gone; but somebody must be there.
                Err(_) => self.probe().await,
                Ok(Some(ConditionEvent { stage: ConditionStage::Ended, .. })) => continue,
                Ok(Some(ConditionEvent { condition, .. })) => match condition.kind {
                    ConditionKind::NoSuchTopic | ConditionKind::NotAuthorized => Err(condition.error),
                    _ => {
                        self.tell(format_args!("{}", crate::error::Chain(&condition.error)));
                        match condition.kind {
                            ConditionKind::Unreachable => self.probe().await,
                            _ => continue,
                        }
                    }
                },
            };
            match ended {
                Err(error) if !self.options.keep_going => return error,
                Err(error) => self.tell(format_args!("{}", crate::error::Chain(&error))),
                Ok(()) => {}
            }
        }
    }

    /// Fails if no broker answers any more.
    async fn probe(&self) -> Result<()> {
        self.admin().describe_cluster().await.map(|_| ())
    }
}

async fn list(job: &Job) -> Result<ExitCode, Failure> {
    let topic = job.options.topic.as_deref();
    let listing = job.admin().metadata_listing(topic).await?;
    let mut output = Output::new(false);
    if job.options.json {
        json::listing(&listing, topic, output.buffer());
    } else {
        let mut text = String::new();
        list::text(&listing, topic, &mut text);
        output.buffer().extend_from_slice(text.as_bytes());
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

const USAGE: &str = "\
Usage: carafe cat -P -b BROKERS -t TOPIC [FLAGS] [FILE]...
       carafe cat -C -b BROKERS -t TOPIC [FLAGS]
       carafe cat -G GROUP -b BROKERS [FLAGS] TOPIC...
       carafe cat -L -b BROKERS [-t TOPIC] [-J]
       carafe cat -Q -b BROKERS -t TOPIC:PARTITION:TIMESTAMP...";

const HELP: &str = r"
Without -P, -C, -G, -L or -Q it produces what is piped in, and consumes otherwise.

  -b HOST[:PORT],...  brokers to begin with
  -t TOPIC            topic
  -p PARTITION        partition; -1 for any
  -D DELIMITER        ends a message; \n, \t and \xNN are replaced [\n]
  -K DELIMITER        stands between key and message
  -c COUNT            stop after so many messages
  -m SECONDS          wait so long for metadata [5]
  -X NAME=VALUE       property by its name in librdkafka or Java
  -F FILE             read properties from a file; -F none from none
                      [$KCAT_CONFIG or ~/.config/kcat.conf]
  -q                  tell nothing but errors
  -E                  go on after errors that may pass
  -d CONTEXTS         ignored; RUST_LOG says what is logged
  -h, -V              this help, the version

Producing (-P), from standard input or from files, each one message:
  -l                  the messages are the lines of the file
  -k KEY              key of messages that have none
  -H NAME[=VALUE]     header; may be repeated
  -z CODEC            none, gzip, snappy, lz4 or zstd
  -Z                  empty keys and messages behind -K are null
  -T                  write what is produced to standard output

Consuming (-C, -G):
  -o OFFSET           beginning, end, stored, an offset, -N for the last N,
                      s@MS to begin and e@MS to end at a timestamp
  -e                  stop at the end
  -f FORMAT           %s message, %S its length, %R as four bytes, %k key, %K its
                      length, %t topic, %p partition, %o offset, %T timestamp,
                      %h headers, %% a percent sign; \n \r \t \xNN
  -J                  print JSON
  -Z                  print NULL for empty and null keys and messages
  -u                  write every message at once

Looking up offsets (-Q): timestamps in milliseconds; -1 for the end, -2 for the beginning";
