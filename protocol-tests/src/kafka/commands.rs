//! What the commands do.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use carafe::wire::{ApiKey, VersionRange};

use super::args::{Args, Command, Jvm, NodeOf, Start};
use super::java::{self, Java};
use super::probe::Probe;
use super::store::{self, Cluster, ClusterState, NodeState, Store, ZOOKEEPER};
use super::version::Version;
use super::{Failure, artifacts, properties};

/// Ports below those that systems hand out by themselves.
const PORTS: Range<u16> = 19_092..32_000;
/// How often other ports are tried when another program takes one between choice and use.
const ATTEMPTS: u32 = 3;
/// A graceful stop that takes longer has lost its quorum.
const GRACE: Duration = Duration::from_secs(20);
const KILL: Duration = Duration::from_secs(10);
const LOG_TAIL: usize = 25;

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let store = Store::open(args.dir)?;
    match args.command {
        Command::Start(start) => self::start(&store, &start),
        Command::Stop { name, all, keep } => stop(&store, name.as_deref(), all, keep),
        Command::Kill { node, graceful } => kill(&store, &node, graceful),
        Command::Restart { node, timeout } => restart(&store, &node, Duration::from_secs(timeout)),
        Command::List => list(&store),
        Command::Versions { name } => versions(&store, name.as_deref()),
        Command::Prepare { version } => prepare(&store, version),
    }
}

fn print(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| Failure::io("write to stdout", error))
}

fn start(store: &Store, args: &Start) -> Result<(), Failure> {
    let name = args.name.clone().unwrap_or_else(|| format!("kafka-{}", args.version));
    let ports = ports_needed(args);
    if let Some(port) = args.port
        && u32::from(port) + u32::from(ports) > 65_536
    {
        return Err(Failure::Usage(format!("{} nodes need {ports} ports from {port} on", args.nodes)));
    }
    let _lock = store.lock(Some(&name))?;
    if store.cluster(&name)?.is_some_and(|cluster| cluster.is_running()) {
        return Err(Failure::Usage(format!(
            "the cluster {name} is running; stop it, or choose another --name"
        )));
    }
    let launcher = Launcher::new(store, args.version)?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    for attempt in 1.. {
        let cluster = new_cluster(store, &name, args)?;
        match launcher.start_cluster(&cluster, None, deadline) {
            Ok(()) => {
                let sasl = cluster.state.sasl_bootstrap_servers();
                let sasl = sasl.map(|servers| format!("\nsasl.bootstrap.servers={servers}"));
                let servers = cluster.state.bootstrap_servers();
                return print(&format!("bootstrap.servers={servers}{}", sasl.unwrap_or_default()));
            }
            Err(failure) => {
                let port_taken = cluster.state.nodes.iter().any(|node| {
                    fs::read_to_string(cluster.log_file(node.id))
                        .is_ok_and(|log| log.contains("Address already in use"))
                });
                cluster.stop(true)?;
                if !port_taken || args.port.is_some() || attempt >= ATTEMPTS {
                    return Err(failure);
                }
                eprintln!("a port was taken, trying others");
            }
        }
    }
    Ok(())
}

/// Chooses ports and writes the state of a new cluster, in place of what an earlier one left.
fn new_cluster(store: &Store, name: &str, args: &Start) -> Result<Cluster, Failure> {
    let _ports = store.lock(None)?;
    let left = store.root.join("clusters").join(name);
    if left.exists() {
        fs::remove_dir_all(&left).map_err(|error| Failure::io(format!("clean {}", left.display()), error))?;
    }
    let base = match args.port {
        Some(base) => {
            if let Some(port) = (base..).take(usize::from(ports_needed(args))).find(|port| !is_free(*port)) {
                return Err(Failure::failed(format!("port {port} is taken; choose another --port")));
            }
            base
        }
        None => free_ports(store, ports_needed(args))?,
    };
    store.create(ClusterState {
        name: name.to_owned(),
        version: args.version.to_string(),
        cluster_id: cluster_id(),
        jvm: args.jvm,
        properties: match args.authorizer {
            true => properties::authorizer().chain(args.properties.iter().cloned()).collect(),
            false => args.properties.clone(),
        },
        nodes: (0..args.nodes)
            .map(|index| NodeState {
                id: index + 1,
                port: base + index,
                controller_port: base + args.nodes + index,
                sasl_port: args.sasl.then_some(base + 2 * args.nodes + index),
            })
            .collect(),
    })
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Two for each node, and one more where clients log in.
fn ports_needed(args: &Start) -> u16 {
    args.nodes * (2 + u16::from(args.sasl))
}

/// The first of so many free adjacent ports that no known cluster needs for a restart.
fn free_ports(store: &Store, needed: u16) -> Result<u16, Failure> {
    let clusters = store.clusters()?;
    let reserved = |port: u16| {
        let mut nodes = clusters.iter().flat_map(|cluster| &cluster.state.nodes);
        nodes.any(|node| [Some(node.port), Some(node.controller_port), node.sasl_port].contains(&Some(port)))
    };
    let span = PORTS.end - PORTS.start - needed;
    // Somewhere else each time: clusters of other directories choose too.
    let mut base = PORTS.start + (random() % u64::from(span)) as u16;
    for _ in 0..1000 {
        if base + needed > PORTS.end {
            base = PORTS.start;
        }
        match (base..base + needed).rev().find(|port| reserved(*port) || !is_free(*port)) {
            None => return Ok(base),
            Some(port) => base = port + 1,
        }
    }
    Err(Failure::failed("found no free ports; give --port"))
}

fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// 16 random bytes in the URL's base 64 without padding, not starting with the sign of an option.
fn cluster_id() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    loop {
        let mut bits = (u128::from(random()) << 64) | u128::from(random());
        let mut id = String::new();
        for digit in 0..22 {
            // 128 bits are 21 digits of six bits and one of two, which stand at its upper end.
            let index = if digit == 21 { bits & 0x30 } else { bits & 0x3f };
            id.push(char::from(ALPHABET[index as usize]));
            bits = bits.rotate_right(6);
        }
        if !id.starts_with('-') {
            return id;
        }
    }
}

fn stop(store: &Store, name: Option<&str>, all: bool, keep: bool) -> Result<(), Failure> {
    let clusters = if all { store.clusters()? } else { vec![store.select(name)?] };
    for cluster in clusters {
        let _lock = store.lock(Some(&cluster.state.name))?;
        cluster.stop(keep)?;
        print(&format!("stopped {}", cluster.state.name))?;
    }
    Ok(())
}

/// The cluster with that node, locked.
fn locked_node(store: &Store, node: &NodeOf) -> Result<(Cluster, fs::File), Failure> {
    let cluster = store.select(node.name.as_deref())?;
    let name = &cluster.state.name;
    if !cluster.state.nodes.iter().any(|known| known.id == node.node) {
        let nodes = cluster.state.nodes.len();
        return Err(Failure::Usage(format!("{name} has no node {}, its nodes are 1 to {nodes}", node.node)));
    }
    let lock = store.lock(Some(name))?;
    Ok((cluster, lock))
}

fn kill(store: &Store, node: &NodeOf, graceful: bool) -> Result<(), Failure> {
    let (cluster, _lock) = locked_node(store, node)?;
    let (signal, limit) = if graceful { ("TERM", GRACE) } else { ("KILL", KILL) };
    if !cluster.end(node.node, signal, limit)? {
        return Err(Failure::failed(format!("node {} of {} is not running", node.node, cluster.state.name)));
    }
    print(&format!("node {} of {} is down", node.node, cluster.state.name))
}

fn restart(store: &Store, node: &NodeOf, timeout: Duration) -> Result<(), Failure> {
    let (cluster, _lock) = locked_node(store, node)?;
    let version = cluster.state.version.parse().map_err(Failure::Failed)?;
    let launcher = Launcher::new(store, version)?;
    if cluster.end(node.node, "TERM", GRACE).is_err() {
        cluster.end(node.node, "KILL", KILL)?;
    }
    launcher.start_node_again(&cluster, node.node, Instant::now() + timeout)?;
    print(&format!("node {} of {} is up", node.node, cluster.state.name))
}

fn list(store: &Store) -> Result<(), Failure> {
    for cluster in store.clusters()? {
        let state = &cluster.state;
        print(&format!(
            "{} (Apache Kafka {}) bootstrap.servers={}",
            state.name,
            state.version,
            state.bootstrap_servers()
        ))?;
        for node in &state.nodes {
            let process = match cluster.pid(node.id) {
                Some(pid) => format!("process {pid}"),
                None => "down".to_owned(),
            };
            let log = cluster.log_file(node.id);
            print(&format!("  node {} 127.0.0.1:{} {process}, log {}", node.id, node.port, log.display()))?;
        }
    }
    Ok(())
}

/// One line per API that the first node offers, held against the table of releases.
fn versions(store: &Store, name: Option<&str>) -> Result<(), Failure> {
    let cluster = store.select(name)?;
    let Some(node) = cluster.state.nodes.first() else { return Ok(()) };
    let offered = Probe::connect(node.port).and_then(|mut probe| probe.versions());
    let offered =
        offered.map_err(|error| Failure::io(format!("ask the node on port {}", node.port), error))?;
    let version: Version = cluster.state.version.parse().map_err(Failure::Failed)?;
    let mut wrong = Vec::new();
    for (key, min, max) in offered {
        let (key, theirs) = (ApiKey(key), VersionRange::new(min, max));
        print(&format!("{} {theirs} {key}", key.0))?;
        match key.offered_by(&version.release()) {
            Some(believed) if believed == theirs => {}
            Some(believed) => wrong.push(format!("{key} is {theirs}, not {believed}")),
            None => wrong.push(format!("{key} is {theirs}, not absent")),
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(format!("src/wire/releases.rs is wrong: {}", wrong.join("; ")))),
    }
}

/// Dumps the classes that one node has loaded when it ends.
fn prepare(store: &Store, version: Version) -> Result<(), Failure> {
    let name = format!("prepare-{version}");
    let _lock = store.lock(Some(&name))?;
    let launcher = Launcher::new(store, version)?;
    if launcher.archive.is_file() {
        return print(&format!("{} exists", launcher.archive.display()));
    }
    let args = Start {
        version,
        nodes: 1,
        port: None,
        name: Some(name.clone()),
        jvm: Jvm::Small,
        properties: Vec::new(),
        authorizer: false,
        sasl: false,
        timeout: 120,
    };
    if let Some(left) = store.cluster(&name)? {
        left.stop(false)?;
    }
    let cluster = new_cluster(store, &name, &args)?;
    let dumped = cluster.dir.join("classes.jsa");
    let started =
        launcher.start_cluster(&cluster, Some(&dumped), Instant::now() + Duration::from_secs(args.timeout));
    let ended = started.and_then(|()| cluster.end(1, "TERM", Duration::from_secs(60)));
    let moved = ended.and_then(|_| {
        fs::rename(&dumped, &launcher.archive)
            .map_err(|error| Failure::io(format!("write {}", launcher.archive.display()), error))
    });
    cluster.stop(moved.is_err())?;
    moved?;
    print(&format!("dumped {}", launcher.archive.display()))
}

/// Starts nodes of one version.
struct Launcher {
    java: Java,
    version: Version,
    jars: PathBuf,
    /// Class archive of this version and Java runtime; used when it is there.
    archive: PathBuf,
}

impl Launcher {
    fn new(store: &Store, version: Version) -> Result<Self, Failure> {
        let java = Java::find()?;
        let jars = artifacts::resolve(&store.root, version)?;
        let archive = jars.with_file_name(format!("classes-{}.jsa", java.version));
        Ok(Self { java, version, jars, archive })
    }

    /// Writes, formats and starts all nodes, and waits until they know each other. With `dump`, the processes write
    /// their class archive there when they end.
    fn start_cluster(
        &self,
        cluster: &Cluster,
        dump: Option<&Path>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let (file, text, flag) = properties::logging(self.version, &cluster.dir);
        store::write(&cluster.dir.join(file), text)?;
        for node in &cluster.state.nodes {
            let properties =
                properties::node(&cluster.state, node.id, &cluster.node_dir(node.id).join("data"));
            store::write(&cluster.properties_file(node.id), &properties::render(&properties))?;
        }
        match cluster.state.zookeeper_port() {
            Some(port) => self.start_zookeeper(cluster, port, flag, deadline)?,
            None => self.format(cluster, flag)?,
        }
        let mut children = Vec::new();
        for node in &cluster.state.nodes {
            children.push((node.id, self.spawn(cluster, node.id, dump)?));
        }
        self.wait(cluster, &mut children, deadline)
    }

    /// Starts ZooKeeper and waits for its port.
    fn start_zookeeper(
        &self,
        cluster: &Cluster,
        port: u16,
        logging: String,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let dir = cluster.node_dir(ZOOKEEPER);
        let file = cluster.properties_file(ZOOKEEPER);
        store::write(&file, &properties::render(&properties::zookeeper(port, &dir.join("data"))))?;
        let mut flags = java::short_flags();
        flags.push(logging);
        let class = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
        let mut command = self.java.command(&self.jars, &dir, &flags, class);
        let mut child = java::spawn_detached(command.arg(file), &cluster.log_file(ZOOKEEPER))?;
        cluster.write_pid(ZOOKEEPER, child.id())?;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = child.try_wait().map_err(|error| Failure::io("watch ZooKeeper", error))?.is_some();
            if ended || Instant::now() >= deadline {
                let text = log_tail(&cluster.log_file(ZOOKEEPER));
                return Err(Failure::failed(format!("ZooKeeper on port {port} does not listen:\n{text}")));
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn format(&self, cluster: &Cluster, logging: String) -> Result<(), Failure> {
        let mut formats = Vec::new();
        let mut flags = java::short_flags();
        flags.push(logging);
        for node in &cluster.state.nodes {
            let child = self
                .java
                .command(&self.jars, &cluster.node_dir(node.id), &flags, "kafka.tools.StorageTool")
                .args(["format", "-t", &cluster.state.cluster_id, "-c"])
                .arg(cluster.properties_file(node.id))
                .args(node.sasl_port.map(|_| properties::scram_users()).into_iter().flatten())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(|error| Failure::io("run the storage tool", error))?;
            formats.push((node.id, child));
        }
        let mut result = Ok(());
        for (id, child) in formats {
            let output =
                child.wait_with_output().map_err(|error| Failure::io("run the storage tool", error))?;
            if !output.status.success() && result.is_ok() {
                let out = String::from_utf8_lossy(&output.stdout);
                let err = String::from_utf8_lossy(&output.stderr);
                let text = tail(&format!("{out}{err}"));
                result =
                    Err(Failure::failed(format!("formatting node {id} failed ({}):\n{text}", output.status)));
            }
        }
        result
    }

    fn spawn(&self, cluster: &Cluster, id: u16, dump: Option<&Path>) -> Result<Child, Failure> {
        let mut flags = java::broker_flags(cluster.state.jvm);
        match dump {
            Some(dump) => flags.push(format!("-XX:ArchiveClassesAtExit={}", dump.display())),
            None if self.archive.is_file() => {
                flags.push(format!("-XX:SharedArchiveFile={}", self.archive.display()));
            }
            None => {}
        }
        flags.push(properties::logging(self.version, &cluster.dir).2);
        let mut command = self.java.command(&self.jars, &cluster.node_dir(id), &flags, "kafka.Kafka");
        command.arg(cluster.properties_file(id));
        let child = java::spawn_detached(&mut command, &cluster.log_file(id))?;
        cluster.write_pid(id, child.id())?;
        Ok(child)
    }

    fn start_node_again(&self, cluster: &Cluster, id: u16, deadline: Instant) -> Result<(), Failure> {
        let child = self.spawn(cluster, id, None)?;
        self.wait(cluster, &mut [(id, child)], deadline)
    }

    /// Waits until every live node lists exactly the live nodes, and groups have a coordinator.
    fn wait(
        &self,
        cluster: &Cluster,
        children: &mut [(u16, Child)],
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut ids = Vec::new();
        let mut waiting = Vec::new();
        for node in &cluster.state.nodes {
            if cluster.pid(node.id).is_some() || children.iter().any(|(id, _)| *id == node.id) {
                ids.push(i32::from(node.id));
                waiting.push(node);
            }
        }
        while let Some(node) = waiting.last() {
            for (id, child) in &mut *children {
                let status =
                    child.try_wait().map_err(|error| Failure::io(format!("watch node {id}"), error))?;
                if let Some(status) = status {
                    let text = log_tail(&cluster.log_file(*id));
                    return Err(Failure::failed(format!("node {id} ended ({status}):\n{text}")));
                }
            }
            let lack = match ready(node, &ids, waiting.len() == 1) {
                Ok(None) => {
                    waiting.pop();
                    continue;
                }
                Ok(Some(lack)) => lack,
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                let text = log_tail(&cluster.log_file(node.id));
                let (id, port) = (node.id, node.port);
                return Err(Failure::failed(format!(
                    "node {id} on port {port} is not ready ({lack}):\n{text}"
                )));
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// What the node still lacks.
fn ready(node: &NodeState, ids: &[i32], last: bool) -> io::Result<Option<String>> {
    let mut probe = Probe::connect(node.port)?;
    let known = probe.brokers()?;
    if known != ids {
        return Ok(Some(format!("it knows the nodes {known:?} of {ids:?}")));
    }
    if last && !probe.coordinator_ready()? {
        return Ok(Some("groups have no coordinator".into()));
    }
    Ok(None)
}

/// The end of a node's log, and before it the first line that names a cause.
fn log_tail(path: &Path) -> String {
    match fs::read(path) {
        Ok(bytes) => format!("{}\n(whole log: {})", tail(&String::from_utf8_lossy(&bytes)), path.display()),
        Err(error) => format!("read {}: {error}", path.display()),
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let start = lines.len().saturating_sub(LOG_TAIL);
    let cause = lines[..start]
        .iter()
        .find(|line| line.contains("Exiting Kafka due to fatal exception") || line.contains("Exception: "));
    let mut shown = Vec::new();
    if let Some(cause) = cause {
        shown.extend([*cause, "…"]);
    }
    shown.extend(&lines[start..]);
    shown.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids() {
        for _ in 0..200 {
            let id = cluster_id();
            assert_eq!(id.len(), 22);
            assert!(!id.starts_with('-'));
            assert!(id.ends_with(['A', 'Q', 'g', 'w']), "{id}");
        }
        assert_ne!(cluster_id(), cluster_id());
    }

    #[test]
    fn tail_shows_the_cause() {
        let mut text = String::from("first\nERROR Exiting Kafka due to fatal exception (kafka.Kafka$)\n");
        for line in 0..100 {
            text.push_str(&format!("line {line}\n"));
        }
        let tail = tail(&text);
        assert!(tail.starts_with("ERROR Exiting"));
        assert!(tail.ends_with("line 99"));
        assert_eq!(tail.lines().count(), LOG_TAIL + 2);
        assert_eq!(super::tail("one\ntwo"), "one\ntwo");
    }

    #[test]
    fn a_bound_port_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
