//! Properties of one node, made for tests: broker and controller at once; before 3.3 a broker beside ZooKeeper.

use std::fmt::Write as _;
use std::path::Path;

use super::args::Jvm;
use super::store::ClusterState;
use super::version::Version;

/// Kafka's defaults suit machines that run for years; these make groups, failures and time-outs fast. Minimums come
/// with their values. Versions that do not know a name only warn.
const TUNED: &[(&str, &str)] = &[
    ("group.initial.rebalance.delay.ms", "0"),
    ("group.min.session.timeout.ms", "100"),
    ("group.consumer.assignment.interval.ms", "0"),
    ("group.consumer.min.heartbeat.interval.ms", "100"),
    ("group.consumer.heartbeat.interval.ms", "300"),
    ("group.consumer.min.session.timeout.ms", "1000"),
    ("group.consumer.session.timeout.ms", "6000"),
    ("group.share.assignment.interval.ms", "0"),
    ("group.share.min.heartbeat.interval.ms", "100"),
    ("group.share.heartbeat.interval.ms", "300"),
    ("group.share.min.session.timeout.ms", "1000"),
    ("group.share.session.timeout.ms", "6000"),
    ("group.share.min.record.lock.duration.ms", "1000"),
    ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "500"),
    ("log.initial.task.delay.ms", "100"),
    ("replica.lag.time.max.ms", "5000"),
    // A killed node is noticed, and may come back, after 3 s instead of 9.
    ("broker.session.timeout.ms", "3000"),
    ("broker.heartbeat.interval.ms", "500"),
    ("controller.quorum.election.timeout.ms", "500"),
    ("controller.quorum.fetch.timeout.ms", "1000"),
    ("controller.quorum.election.backoff.max.ms", "200"),
];

/// Small pools; the cleaner's buffer alone is 128 MiB of heap by default.
const SMALL: &[(&str, &str)] = &[
    ("num.io.threads", "2"),
    ("num.network.threads", "1"),
    ("num.replica.fetchers", "1"),
    ("background.threads", "2"),
    ("group.coordinator.threads", "1"),
    ("share.coordinator.threads", "1"),
    ("log.cleaner.dedupe.buffer.size", "2000000"),
];

/// A listener where `alice` logs in with `alice-secret`, or with a token that nobody signed.
const SASL: &[(&str, &str)] = &[
    ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"),
    (
        "listener.name.sasl.plain.sasl.jaas.config",
        "org.apache.kafka.common.security.plain.PlainLoginModule required user_alice=\"alice-secret\";",
    ),
    (
        "listener.name.sasl.scram-sha-256.sasl.jaas.config",
        "org.apache.kafka.common.security.scram.ScramLoginModule required;",
    ),
    (
        "listener.name.sasl.scram-sha-512.sasl.jaas.config",
        "org.apache.kafka.common.security.scram.ScramLoginModule required;",
    ),
    (
        "listener.name.sasl.oauthbearer.sasl.jaas.config",
        "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
         unsecuredLoginStringClaim_sub=\"alice\";",
    ),
    // Sessions that have to be renewed, by a client that cannot wait long.
    ("listener.name.sasl.plain.connections.max.reauth.ms", "2000"),
];

/// What gives `alice` her password for SCRAM, when storage is formatted (Kafka 3.5).
pub(super) fn scram_users() -> impl Iterator<Item = String> {
    ["SCRAM-SHA-256", "SCRAM-SHA-512"].into_iter().flat_map(|mechanism| {
        ["--add-scram".to_owned(), format!("{mechanism}=[name=alice,password=alice-secret]")]
    })
}

/// Properties of node `id` of `cluster` with its log in `log_dir`, in order, each name once; the cluster's own settings win.
pub(super) fn node(cluster: &ClusterState, id: u16, log_dir: &Path) -> Vec<(String, String)> {
    let replicas = cluster.nodes.len().min(3);
    let minimum = if replicas == 3 { 2 } else { 1 };
    let (mut port, mut controller_port) = (0, 0);
    let mut voters = Vec::new();
    for node in &cluster.nodes {
        voters.push(format!("{}@127.0.0.1:{}", node.id, node.controller_port));
        if node.id == id {
            (port, controller_port) = (node.port, node.controller_port);
        }
    }

    let mut list = Properties(Vec::new());
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{port}");
    let mut protocols = String::from("PLAINTEXT:PLAINTEXT");
    match cluster.zookeeper_port() {
        Some(port) => {
            list.set("broker.id", id);
            list.set("zookeeper.connect", format!("127.0.0.1:{port}"));
            // A killed node may come back as soon as its session is over.
            list.set("zookeeper.session.timeout.ms", "3000");
        }
        None => {
            list.set("process.roles", "broker,controller");
            list.set("node.id", id);
            list.set("controller.quorum.voters", voters.join(","));
            list.set("controller.listener.names", "CONTROLLER");
            listeners.push_str(&format!(",CONTROLLER://127.0.0.1:{controller_port}"));
            protocols.push_str(",CONTROLLER:PLAINTEXT");
        }
    }
    let mut advertised = format!("PLAINTEXT://127.0.0.1:{port}");
    let sasl = cluster.nodes.iter().find(|node| node.id == id).and_then(|node| node.sasl_port);
    if let Some(port) = sasl {
        let listener = format!(",SASL://127.0.0.1:{port}");
        listeners.push_str(&listener);
        advertised.push_str(&listener);
        protocols.push_str(",SASL:SASL_PLAINTEXT");
        for (key, value) in SASL {
            list.set(key, value);
        }
    }
    list.set("listeners", listeners);
    list.set("advertised.listeners", advertised);
    list.set("listener.security.protocol.map", protocols);
    list.set("inter.broker.listener.name", "PLAINTEXT");
    list.set("log.dirs", log_dir.display());
    list.set("auto.create.topics.enable", "true");
    list.set("default.replication.factor", replicas);
    list.set("min.insync.replicas", minimum);
    for topic in ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic"] {
        // The offsets topic has no minimum of its own: it follows min.insync.replicas.
        if topic != "offsets.topic" {
            list.set(&format!("{topic}.min.isr"), minimum);
        }
        list.set(&format!("{topic}.replication.factor"), replicas);
        list.set(&format!("{topic}.num.partitions"), cluster.nodes.len());
    }
    let small: &[_] = if cluster.jvm == Jvm::Small { SMALL } else { &[] };
    for (key, value) in TUNED.iter().chain(small) {
        list.set(key, value);
    }
    for (key, value) in &cluster.properties {
        list.set(key, value);
    }
    list.0
}

/// An authorizer that allows what no rule forbids. Controllers vote before there are rules, so they are super users, and
/// have a name of their own for it; clients and brokers have none.
pub(super) fn authorizer() -> impl Iterator<Item = (String, String)> {
    [
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("allow.everyone.if.no.acl.found", "true"),
        ("super.users", "User:controller"),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:SASL_PLAINTEXT"),
        ("sasl.mechanism.controller.protocol", "PLAIN"),
        ("listener.name.controller.sasl.enabled.mechanisms", "PLAIN"),
        (
            "listener.name.controller.plain.sasl.jaas.config",
            "org.apache.kafka.common.security.plain.PlainLoginModule required \
             username=controller password=loopback user_controller=loopback;",
        ),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
}

/// Properties of the cluster's ZooKeeper with its data in `data_dir`.
pub(super) fn zookeeper(port: u16, data_dir: &Path) -> Vec<(String, String)> {
    let mut list = Properties(Vec::new());
    list.set("dataDir", data_dir.display());
    list.set("clientPort", port);
    list.set("clientPortAddress", "127.0.0.1");
    list.set("maxClientCnxns", 0);
    list.set("admin.enableServer", false);
    // Sessions may be as short as two ticks.
    list.set("tickTime", 1000);
    list.0
}

struct Properties(Vec<(String, String)>);

impl Properties {
    fn set(&mut self, key: &str, value: impl ToString) {
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => *known = value.to_string(),
            None => self.0.push((key.to_owned(), value.to_string())),
        }
    }
}

/// The text of a properties file.
pub(super) fn render(properties: &[(String, String)]) -> String {
    let mut text = String::new();
    for (key, value) in properties {
        let _ = writeln!(text, "{key}={}", value.replace('\\', "\\\\"));
    }
    text
}

/// Name and text of the logging configuration, and the flag that names it: everything goes to stdout.
pub(super) fn logging(version: Version, dir: &Path) -> (&'static str, &'static str, String) {
    if version.logs_with_log4j2() {
        let name = "log4j2.yaml";
        let text = "Configuration:\n  Appenders:\n    Console:\n      name: STDOUT\n      PatternLayout:\n        \
                    pattern: \"[%d] %p %m (%c)%n\"\n  Loggers:\n    Root:\n      level: INFO\n      AppenderRef:\n        \
                    - ref: STDOUT\n";
        (name, text, format!("-Dlog4j2.configurationFile={}", dir.join(name).display()))
    } else {
        let name = "log4j.properties";
        let text = "log4j.rootLogger=INFO, stdout\nlog4j.appender.stdout=org.apache.log4j.ConsoleAppender\n\
                    log4j.appender.stdout.layout=org.apache.log4j.PatternLayout\n\
                    log4j.appender.stdout.layout.ConversionPattern=[%d] %p %m (%c)%n\n";
        (name, text, format!("-Dlog4j.configuration=file:{}", dir.join(name).display()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::NodeState;
    use super::*;

    fn cluster(nodes: u16) -> ClusterState {
        ClusterState {
            name: "test".into(),
            version: "4.3.1".into(),
            cluster_id: "AAAA".into(),
            jvm: Jvm::Small,
            properties: Vec::new(),
            nodes: (1..=nodes)
                .map(|id| NodeState { id, port: 9000 + id, controller_port: 9100 + id, sasl_port: None })
                .collect(),
        }
    }

    fn value<'a>(properties: &'a [(String, String)], key: &str) -> &'a str {
        let mut found = properties.iter().filter(|(known, _)| known == key);
        let value = &found.next().unwrap_or_else(|| panic!("no {key}")).1;
        assert!(found.next().is_none(), "{key} twice");
        value
    }

    #[test]
    fn one_node() {
        let properties = node(&cluster(1), 1, Path::new("/x/data"));
        assert_eq!(value(&properties, "process.roles"), "broker,controller");
        assert_eq!(value(&properties, "node.id"), "1");
        assert_eq!(value(&properties, "controller.quorum.voters"), "1@127.0.0.1:9101");
        assert_eq!(value(&properties, "listeners"), "PLAINTEXT://127.0.0.1:9001,CONTROLLER://127.0.0.1:9101");
        assert_eq!(value(&properties, "advertised.listeners"), "PLAINTEXT://127.0.0.1:9001");
        assert_eq!(value(&properties, "log.dirs"), "/x/data");
        assert_eq!(value(&properties, "group.initial.rebalance.delay.ms"), "0");
        assert_eq!(value(&properties, "auto.create.topics.enable"), "true");
        for topic in ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic"] {
            assert_eq!(value(&properties, &format!("{topic}.replication.factor")), "1");
        }
        assert_eq!(value(&properties, "transaction.state.log.min.isr"), "1");
        assert_eq!(value(&properties, "min.insync.replicas"), "1");
    }

    #[test]
    fn brokers_beside_zookeeper() {
        let cluster = ClusterState { version: "2.8.2".into(), ..cluster(2) };
        let properties = node(&cluster, 2, Path::new("/x"));
        assert_eq!(value(&properties, "broker.id"), "2");
        assert_eq!(value(&properties, "zookeeper.connect"), "127.0.0.1:9101");
        assert_eq!(value(&properties, "listeners"), "PLAINTEXT://127.0.0.1:9002");
        assert!(!properties.iter().any(|(key, _)| key.contains("controller.quorum.voters")));
        assert_eq!(value(&zookeeper(9101, Path::new("/y")), "clientPort"), "9101");
    }

    #[test]
    fn listeners_where_clients_log_in() {
        let mut cluster = cluster(1);
        cluster.nodes[0].sasl_port = Some(9201);
        let properties = node(&cluster, 1, Path::new("/x"));
        assert!(value(&properties, "listeners").ends_with(",SASL://127.0.0.1:9201"));
        assert_eq!(
            value(&properties, "advertised.listeners"),
            "PLAINTEXT://127.0.0.1:9001,SASL://127.0.0.1:9201"
        );
        assert_eq!(cluster.sasl_bootstrap_servers().as_deref(), Some("127.0.0.1:9201"));
        assert_eq!(scram_users().count(), 4);
    }

    #[test]
    fn replicas_end_at_three() {
        for (nodes, replicas, minimum) in [(1, "1", "1"), (2, "2", "1"), (3, "3", "2"), (5, "3", "2")] {
            let properties = node(&cluster(nodes), nodes, Path::new("/x"));
            assert_eq!(value(&properties, "default.replication.factor"), replicas);
            assert_eq!(value(&properties, "offsets.topic.replication.factor"), replicas);
            assert_eq!(value(&properties, "min.insync.replicas"), minimum);
            assert_eq!(value(&properties, "share.coordinator.state.topic.min.isr"), minimum);
            assert_eq!(value(&properties, "controller.quorum.voters").split(',').count(), usize::from(nodes));
            assert_eq!(value(&properties, "node.id"), nodes.to_string());
        }
    }

    #[test]
    fn own_properties_win() {
        let mut cluster = cluster(1);
        cluster.properties = vec![("min.insync.replicas".into(), "7".into()), ("x.y".into(), "a\\b".into())];
        let properties = node(&cluster, 1, Path::new("/x"));
        assert_eq!(value(&properties, "min.insync.replicas"), "7");
        assert!(render(&properties).ends_with("x.y=a\\\\b\n"));
    }

    #[test]
    fn measurements_keep_the_pools_of_kafka() {
        let mut cluster = cluster(1);
        cluster.jvm = Jvm::Default;
        assert!(!node(&cluster, 1, Path::new("/x")).iter().any(|(key, _)| key == "num.io.threads"));
    }

    #[test]
    fn minimums_are_below_their_values() {
        let properties = node(&cluster(1), 1, Path::new("/x"));
        let number = |key: &str| value(&properties, key).parse::<u64>().unwrap();
        for group in ["consumer", "share"] {
            for what in ["heartbeat.interval.ms", "session.timeout.ms"] {
                assert!(
                    number(&format!("group.{group}.min.{what}")) <= number(&format!("group.{group}.{what}"))
                );
            }
        }
    }
}
