//! Directories, state and pid files of the clusters below one root.
//!
//! ```text
//! artifacts/VERSION/jars/          class path
//! artifacts/VERSION/*.jsa          class archives, one per Java version
//! clusters/NAME/cluster.json       what was started
//! clusters/NAME/node-N/            server.properties, server.log, pid, data/; node 0 is ZooKeeper, before Kafka 3.3
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Failure;
use super::args::Jvm;
use super::java;
use super::version::Version;

/// ZooKeeper, among the nodes of a cluster.
pub(super) const ZOOKEEPER: u16 = 0;

/// What a cluster was started with.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ClusterState {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) cluster_id: String,
    pub(super) jvm: Jvm,
    pub(super) properties: Vec<(String, String)>,
    pub(super) nodes: Vec<NodeState>,
}

/// One node: broker and controller.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NodeState {
    pub(super) id: u16,
    pub(super) port: u16,
    pub(super) controller_port: u16,
    /// Port of the listener with SASL, in clusters that have one.
    #[serde(default)]
    pub(super) sasl_port: Option<u16>,
}

impl ClusterState {
    pub(super) fn bootstrap_servers(&self) -> String {
        let addresses: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        addresses.join(",")
    }

    /// Where clients log in, if they can.
    pub(super) fn sasl_bootstrap_servers(&self) -> Option<String> {
        let addresses: Option<Vec<_>> =
            self.nodes.iter().map(|node| Some(format!("127.0.0.1:{}", node.sasl_port?))).collect();
        Some(addresses?.join(","))
    }

    /// Where ZooKeeper listens, in clusters that need one: nodes have no controllers of their own then.
    pub(super) fn zookeeper_port(&self) -> Option<u16> {
        let version: Version = self.version.parse().ok()?;
        self.nodes.first().filter(|_| version.needs_zookeeper()).map(|node| node.controller_port)
    }
}

/// The root directory.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) root: PathBuf,
}

/// A cluster below the root.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) dir: PathBuf,
    pub(super) state: ClusterState,
}

impl Store {
    /// The given directory, else that of the environment, else one beside this program's build, else a temporary one.
    pub(super) fn open(dir: Option<PathBuf>) -> Result<Self, Failure> {
        let root = dir
            .or_else(|| {
                std::env::var_os("CARAFE_TEST_KAFKA_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from)
            })
            .or_else(|| std::env::current_exe().ok().as_deref().and_then(beside_build))
            .unwrap_or_else(|| std::env::temp_dir().join("carafe-kafka"));
        let clusters = root.join("clusters");
        fs::create_dir_all(&clusters)
            .map_err(|error| Failure::io(format!("create {}", clusters.display()), error))?;
        let root =
            root.canonicalize().map_err(|error| Failure::io(format!("open {}", root.display()), error))?;
        Ok(Self { root })
    }

    fn clusters_dir(&self) -> PathBuf {
        self.root.join("clusters")
    }

    /// Keeps other processes of this program from changing the cluster `name` (or, without one, from choosing ports)
    /// until the file is dropped.
    pub(super) fn lock(&self, name: Option<&str>) -> Result<File, Failure> {
        let path = self.clusters_dir().join(format!(".{}.lock", name.unwrap_or("")));
        let attempt = |error| Failure::io(format!("lock {}", path.display()), error);
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(attempt)?;
        file.lock().map_err(attempt)?;
        Ok(file)
    }

    /// A cluster that was started and not stopped, if there is one of that name.
    pub(super) fn cluster(&self, name: &str) -> Result<Option<Cluster>, Failure> {
        let dir = self.clusters_dir().join(name);
        let path = dir.join("cluster.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io(format!("read {}", path.display()), error)),
        };
        let state = serde_json::from_str(&text)
            .map_err(|error| Failure::failed(format!("read {}: {error}", path.display())))?;
        Ok(Some(Cluster { dir, state }))
    }

    /// All clusters that were started and not stopped, by name.
    pub(super) fn clusters(&self) -> Result<Vec<Cluster>, Failure> {
        let dir = self.clusters_dir();
        let attempt = |error| Failure::io(format!("read {}", dir.display()), error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).map_err(attempt)? {
            names.extend(entry.map_err(attempt)?.file_name().into_string().ok());
        }
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        let mut clusters = Vec::new();
        for name in names {
            clusters.extend(self.cluster(&name)?);
        }
        Ok(clusters)
    }

    /// The cluster of that name, or the only one.
    pub(super) fn select(&self, name: Option<&str>) -> Result<Cluster, Failure> {
        if let Some(name) = name {
            return self.cluster(name)?.ok_or_else(|| Failure::Usage(format!("there is no cluster {name}")));
        }
        let mut clusters = self.clusters()?;
        if clusters.len() > 1 {
            let names: Vec<_> = clusters.iter().map(|cluster| cluster.state.name.as_str()).collect();
            return Err(Failure::Usage(format!(
                "there are several clusters, name one: {}",
                names.join(", ")
            )));
        }
        clusters.pop().ok_or_else(|| Failure::Usage("there is no cluster; see 'kafka start'".into()))
    }

    /// Writes a new cluster's state in a directory that must not hold one.
    pub(super) fn create(&self, state: ClusterState) -> Result<Cluster, Failure> {
        let cluster = Cluster { dir: self.clusters_dir().join(&state.name), state };
        for id in cluster.processes() {
            let dir = cluster.node_dir(id);
            fs::create_dir_all(&dir)
                .map_err(|error| Failure::io(format!("create {}", dir.display()), error))?;
        }
        let text = serde_json::to_string_pretty(&cluster.state)
            .map_err(|error| Failure::failed(format!("write state: {error}")))?;
        write(&cluster.dir.join("cluster.json"), &text)?;
        Ok(cluster)
    }
}

impl Cluster {
    /// All nodes, and ZooKeeper where there is one.
    fn processes(&self) -> impl Iterator<Item = u16> {
        let zookeeper = self.state.zookeeper_port().map(|_| ZOOKEEPER);
        self.state.nodes.iter().map(|node| node.id).chain(zookeeper)
    }

    pub(super) fn node_dir(&self, id: u16) -> PathBuf {
        self.dir.join(format!("node-{id}"))
    }

    pub(super) fn properties_file(&self, id: u16) -> PathBuf {
        self.node_dir(id).join("server.properties")
    }

    pub(super) fn log_file(&self, id: u16) -> PathBuf {
        self.node_dir(id).join("server.log")
    }

    fn pid_file(&self, id: u16) -> PathBuf {
        self.node_dir(id).join("pid")
    }

    pub(super) fn write_pid(&self, id: u16, pid: u32) -> Result<(), Failure> {
        write(&self.pid_file(id), &format!("{pid}\n"))
    }

    /// The process of a node, when it lives.
    pub(super) fn pid(&self, id: u16) -> Option<u32> {
        let pid = fs::read_to_string(self.pid_file(id)).ok()?.trim().parse().ok()?;
        java::is_alive(pid, &self.marker(id)).then_some(pid)
    }

    /// A part of the command line that no other process has.
    fn marker(&self, id: u16) -> String {
        self.properties_file(id).display().to_string()
    }

    pub(super) fn is_running(&self) -> bool {
        self.processes().any(|id| self.pid(id).is_some())
    }

    /// Ends a node with a signal and waits; whether it ran, or an error when it did not end within `limit`.
    pub(super) fn end(&self, id: u16, signal: &str, limit: Duration) -> Result<bool, Failure> {
        let Some(pid) = self.pid(id) else { return Ok(false) };
        if let Err(error) = java::signal(pid, signal)
            && self.pid(id).is_some()
        {
            return Err(Failure::io(format!("end node {id} of {}", self.state.name), error));
        }
        if !java::wait_for_end(pid, &self.marker(id), limit) {
            let seconds = limit.as_secs();
            return Err(Failure::failed(format!(
                "node {id} (process {pid}) did not end within {seconds} s of {signal}"
            )));
        }
        let _ = fs::remove_file(self.pid_file(id));
        Ok(true)
    }

    /// Kills every node; with `keep` its data and logs stay, but it is no longer a cluster of the store.
    pub(super) fn stop(&self, keep: bool) -> Result<(), Failure> {
        // All signals first: a node that outlives its quorum would only log errors.
        for id in self.processes() {
            if let Some(pid) = self.pid(id) {
                // One that has ended by itself is as good as killed; the next loop notices any other reason.
                let _ = java::signal(pid, "KILL");
            }
        }
        for id in self.processes() {
            self.end(id, "KILL", Duration::from_secs(10))?;
        }
        let result = if keep {
            fs::rename(self.dir.join("cluster.json"), self.dir.join("stopped.json"))
        } else {
            fs::remove_dir_all(&self.dir)
        };
        result.map_err(|error| Failure::io(format!("clean {}", self.dir.display()), error))
    }
}

/// Writes a file whole.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| Failure::io(format!("write {}", path.display()), error))
}

/// `target/kafka` of `target/debug/kafka` or `target/x/release/deps/kafka`.
fn beside_build(program: &Path) -> Option<PathBuf> {
    let target = program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file())?;
    Some(target.join("kafka"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("carafe-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn state(name: &str) -> ClusterState {
        ClusterState {
            name: name.into(),
            version: "4.3.1".into(),
            cluster_id: "x".into(),
            jvm: Jvm::Small,
            properties: vec![("a".into(), "b".into())],
            nodes: vec![
                NodeState { id: 1, port: 9092, controller_port: 9094, sasl_port: None },
                NodeState { id: 2, port: 9093, controller_port: 9095, sasl_port: None },
            ],
        }
    }

    #[test]
    fn clusters_come_and_go() {
        let scratch = Scratch::new("store");
        let store = Store::open(Some(scratch.0.clone())).unwrap();
        assert!(matches!(store.select(None), Err(Failure::Usage(_))));

        store.create(state("b")).unwrap();
        let only = store.select(None).unwrap();
        assert_eq!(only.state.bootstrap_servers(), "127.0.0.1:9092,127.0.0.1:9093");
        assert_eq!(only.state.properties, [("a".into(), "b".into())]);
        assert!(!only.is_running());

        store.create(state("a")).unwrap();
        match store.select(None) {
            Err(Failure::Usage(message)) => assert!(message.ends_with("a, b"), "{message}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.select(Some("a")).unwrap().state.name, "a");
        assert!(matches!(store.select(Some("c")), Err(Failure::Usage(_))));

        store.select(Some("a")).unwrap().stop(true).unwrap();
        assert!(store.cluster("a").unwrap().is_none());
        assert!(store.root.join("clusters/a/stopped.json").is_file());
        store.select(Some("b")).unwrap().stop(false).unwrap();
        assert!(!store.root.join("clusters/b").exists());
    }

    #[test]
    fn a_pid_of_another_program_is_no_node() {
        let scratch = Scratch::new("pid");
        let store = Store::open(Some(scratch.0.clone())).unwrap();
        let cluster = store.create(state("x")).unwrap();
        assert_eq!(cluster.pid(1), None);
        cluster.write_pid(1, std::process::id()).unwrap();
        assert_eq!(cluster.pid(1), None);
        assert!(!cluster.end(1, "KILL", Duration::ZERO).unwrap());
    }

    #[test]
    fn root_lies_in_the_target_directory() {
        let scratch = Scratch::new("target");
        fs::write(scratch.0.join("CACHEDIR.TAG"), "").unwrap();
        assert_eq!(beside_build(&scratch.0.join("debug/kafka")), Some(scratch.0.join("kafka")));
        assert_eq!(beside_build(Path::new("/nowhere/bin/kafka")), None);
    }
}
