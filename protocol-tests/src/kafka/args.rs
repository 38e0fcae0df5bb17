//! Command line of the program.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use super::version::Version;

/// Clusters of Apache Kafka on loopback, from the artifacts on Maven Central. Needs `java` (17 or newer) and `mvn`.
#[derive(Debug, Parser)]
#[command(name = "kafka", arg_required_else_help = false)]
pub(super) struct Args {
    /// Directory of artifacts, cluster state and logs [default: $CARAFE_TEST_KAFKA_DIR, else `kafka` in the target
    /// directory of this program]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start a cluster, print `bootstrap.servers=…` once every node knows all others, leave it running
    Start(Start),
    /// Stop a cluster at once and delete its data
    Stop {
        /// Cluster; may be left out when there is one
        #[arg(value_parser = name)]
        name: Option<String>,
        /// Stop every cluster
        #[arg(long, conflicts_with = "name")]
        all: bool,
        /// Keep data and logs
        #[arg(long)]
        keep: bool,
    },
    /// Kill a node without a chance to say goodbye (SIGKILL)
    Kill {
        #[command(flatten)]
        node: NodeOf,
        /// Let the node hand over its leaders first (SIGTERM), wait for its end
        #[arg(long)]
        graceful: bool,
    },
    /// Start a node again, after a graceful stop if it still runs, and wait until every node knows it
    Restart {
        #[command(flatten)]
        node: NodeOf,
        /// Seconds to wait for the node
        #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
        timeout: u64,
    },
    /// List clusters and their nodes
    #[command(visible_alias = "status")]
    List,
    /// Print which versions of each API the first node offers; exit code 1 if carafe believes otherwise of its release
    Versions {
        /// Cluster; may be left out when there is one
        #[arg(value_parser = name)]
        name: Option<String>,
    },
    /// Resolve the artifacts of a version and dump a class archive that makes its starts cheaper
    Prepare {
        /// Kafka version, such as 4.3.1
        version: Version,
    },
}

#[derive(Debug, Parser)]
pub(super) struct Start {
    /// Kafka version, such as 4.3.1
    pub(super) version: Version,
    /// Number of nodes, each broker and controller; before Kafka 3.3 there is a ZooKeeper beside them
    #[arg(value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(super) nodes: u16,
    /// First port: node i listens for clients on PORT + i - 1, for controllers on the ports after those [default: free
    /// ports]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65_508))]
    pub(super) port: Option<u16>,
    /// Name of the cluster [default: kafka-VERSION]
    #[arg(long, value_parser = name)]
    pub(super) name: Option<String>,
    /// Runtime settings: `small` starts fast in little memory, `default` is for measurements
    #[arg(long, value_enum, default_value_t = Jvm::Small)]
    pub(super) jvm: Jvm,
    /// Property of every node; goes before the program's own (repeatable)
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = property)]
    pub(super) properties: Vec<(String, String)>,
    /// With an authorizer (KRaft): everybody may do what no rule forbids
    #[arg(long)]
    pub(super) authorizer: bool,
    /// With one more listener on each node, which wants SASL, on the ports after those of controllers; its address is printed
    /// behind the others (KRaft)
    #[arg(long)]
    pub(super) sasl: bool,
    /// Seconds to wait for the cluster
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) timeout: u64,
}

#[derive(Debug, clap::Args)]
pub(super) struct NodeOf {
    /// Number of the node, from 1
    #[arg(value_name = "NODE")]
    pub(super) node: u16,
    /// Cluster; may be left out when there is one
    #[arg(long, value_parser = name)]
    pub(super) name: Option<String>,
}

/// How the brokers' runtime is tuned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Jvm {
    /// Simple compiler and collector, small pools.
    Small,
    /// Kafka's own pools, 1 GiB heap.
    Default,
}

/// A cluster's name is a directory's name.
fn name(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if text.is_empty() || text.len() > 64 || text.starts_with(['.', '-']) || !plain {
        return Err("1 to 64 of a-z, A-Z, 0-9, '.', '_', '-', starting with neither '.' nor '-'".into());
    }
    Ok(text.to_owned())
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() && !text.contains(['\n', '\r']) => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("expected KEY=VALUE on one line".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Args, ErrorKind> {
        Args::try_parse_from(line.split_whitespace()).map_err(|error| error.kind())
    }

    fn start(line: &str) -> Start {
        match parse(line).unwrap().command {
            Command::Start(start) => start,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn start_with_defaults() {
        let start = start("kafka start 4.3.1 3");
        assert_eq!(start.version.to_string(), "4.3.1");
        assert_eq!((start.nodes, start.port, start.name, start.timeout), (3, None, None, 120));
        assert_eq!(start.jvm, Jvm::Small);
        assert!(start.properties.is_empty());
    }

    #[test]
    fn start_with_everything() {
        let line = "kafka start 3.9.2 1 --port 19092 --dir /tmp/x --name a.b-c_1 --jvm default --timeout 9 \
                    --property a=b=c --property d=";
        assert_eq!(parse(line).unwrap().dir, Some(PathBuf::from("/tmp/x")));
        let start = start(line);
        assert_eq!((start.nodes, start.port, start.timeout), (1, Some(19092), 9));
        assert_eq!((start.name.as_deref(), start.jvm), (Some("a.b-c_1"), Jvm::Default));
        assert_eq!(start.properties, [("a".into(), "b=c".into()), ("d".into(), String::new())]);
    }

    #[test]
    fn wrong_usage() {
        for line in [
            "kafka start 4.3.1",
            "kafka start 4.3 1",
            "kafka start 2.0.1 1",
            "kafka start 4.3.1 0",
            "kafka start 4.3.1 10",
            "kafka start 4.3.1 three",
            "kafka start 4.3.1 1 --port 0",
            "kafka start 4.3.1 1 --port 65536",
            "kafka start 4.3.1 1 --name ../x",
            "kafka start 4.3.1 1 --name .",
            "kafka start 4.3.1 1 --property novalue",
            "kafka start 4.3.1 1 --jvm tiny",
            "kafka stop a --all",
            "kafka stop a b",
            "kafka kill",
            "kafka kill one",
            "kafka restart",
            "kafka begin",
            "kafka",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert_eq!(parse("kafka --help").unwrap_err(), ErrorKind::DisplayHelp);
    }

    #[test]
    fn nodes_and_names() {
        let Command::Kill { node, graceful } = parse("kafka kill 2 --name a --graceful").unwrap().command
        else {
            panic!("not kill");
        };
        assert_eq!((node.node, node.name.as_deref(), graceful), (2, Some("a"), true));
        let Command::Restart { node, timeout } = parse("kafka restart 1").unwrap().command else {
            panic!("not restart");
        };
        assert_eq!((node.node, node.name, timeout), (1, None, 120));
        assert!(matches!(parse("kafka status").unwrap().command, Command::List));
        assert!(matches!(
            parse("kafka stop").unwrap().command,
            Command::Stop { name: None, all: false, keep: false }
        ));
    }
}
