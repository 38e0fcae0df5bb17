//! What handles and driver share, and what handles tell the driver.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::ProducerConfig;
use super::compress::Codec;
use super::lane::Lane;
use super::sender::Unfinished;
use super::stock::Stock;
use super::topic::Topic;
use super::transaction::{Desk, Order};
use crate::cluster::{Cluster, Duty};
use crate::sync::{Mailbox, Mutex, lock};
use crate::types::TopicName;

/// What appenders and handles tell the driver.
#[derive(Debug)]
pub(super) enum Command {
    /// A lane turned non-empty, or has closed batches.
    Lane(usize),
    /// A request is full.
    Nudge,
    /// Someone waits for memory.
    Pressure,
    /// A body was compressed.
    Compressed(usize),
    /// New lanes, in order of their numbers.
    Lanes(Vec<Arc<Lane>>),
    /// Send everything and tell when it is settled, or at the deadline what is not.
    Flush { deadline: Instant, done: Done },
    /// Send everything, end at the deadline at the latest, and tell what was given up.
    Close { deadline: Instant, done: Done },
    /// About transactions.
    Transaction(Order),
    /// No handle is left.
    Orphaned,
}

/// Where somebody waits to hear that all is settled, or what is not.
pub(super) type Done = oneshot::Sender<std::result::Result<(), Unfinished>>;

/// What handles and driver share.
pub(super) struct Shared {
    pub(super) id: u64,
    pub(super) config: ProducerConfig,
    pub(super) codec: Arc<Codec>,
    pub(super) cluster: Cluster,
    pub(super) stock: Stock,
    pub(super) mailbox: Mailbox<Command>,
    topics: RwLock<Topics>,
    random: Mutex<fastrand::Rng>,
    /// Of a transactional producer.
    pub(super) desk: Option<Desk>,
    pub(super) closed: AtomicBool,
    /// What the driver gave up when it ended and nobody waited to hear of it.
    pub(super) ended: Mutex<Option<Unfinished>>,
    /// Time that a broker gets for an answer.
    pub(super) request_timeout: Duration,
    /// Whose connections the requests go over.
    pub(super) duty: Duty,
    /// Enqueuers that wait for memory.
    pub(super) starving: AtomicUsize,
    pub(super) acked: AtomicU64,
    pub(super) failed: AtomicU64,
}

#[derive(Default)]
pub(super) struct Topics {
    pub(super) by_name: BTreeMap<TopicName, Topic>,
    next_lane: usize,
}

impl Shared {
    pub(super) fn new(cluster: Cluster, config: ProducerConfig) -> Self {
        let random = cluster.runtime().dice();
        let id = cluster.next_id();
        let of_client = cluster.config().connection.request_timeout;
        let request_timeout = config.patience(of_client);
        Self {
            id,
            codec: Arc::new(Codec::new(config.compression, config.level())),
            stock: Stock::new(config.buffer_memory),
            mailbox: Mailbox::default(),
            topics: RwLock::default(),
            random: Mutex::new(random),
            desk: config.transactional().map(|id| Desk::new(id.into())),
            closed: AtomicBool::new(false),
            ended: Mutex::default(),
            request_timeout,
            duty: if request_timeout < of_client { Duty::HastyProduce(id) } else { Duty::Produce },
            starving: AtomicUsize::new(0),
            acked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            config,
            cluster,
        }
    }

    /// The driver has ended and given this up, and nobody was there to hear of it.
    pub(super) fn end(&self, lost: Option<Unfinished>) {
        if lost.is_some() {
            *lock(&self.ended) = lost;
        }
    }

    /// A random number.
    pub(super) fn draw(&self) -> u64 {
        lock(&self.random).u64(..)
    }

    /// The topics that are known.
    pub(super) fn topics(&self) -> RwLockReadGuard<'_, Topics> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// All lanes that were ever made.
    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        let topics = self.topics();
        topics.by_name.values().flat_map(|topic| topic.0.lanes.iter().cloned()).collect()
    }

    /// Takes on topic `name` with as many partitions as it has by now, more or fewer than before. `None` if nothing is known
    /// of it. Appenders and the driver call this, each time with what is known at that moment, so the latest word counts.
    pub(super) fn learn(&self, name: &TopicName) -> Option<Topic> {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let metadata = self.cluster.metadata();
        let count = metadata.topic(name).map_or(0, |topic| topic.partition_count());
        if count == 0 {
            return None;
        }
        Some(self.resize(&mut topics, name, count))
    }

    fn resize(&self, topics: &mut Topics, name: &TopicName, count: usize) -> Topic {
        let Topics { by_name, next_lane } = topics;
        let known = by_name.get(name).map_or(0, |topic| topic.0.lanes.made());
        let lanes: Vec<_> = (known..count)
            .map(|partition| {
                let id = *next_lane;
                *next_lane += 1;
                Lane::new(id, name.clone(), partition as i32, self.config.batch_size)
            })
            .collect();
        if !lanes.is_empty() {
            // The driver hears of lanes in the order of their numbers, and before any of their records.
            if self.mailbox.send(Command::Lanes(lanes.clone())).is_err() {
                // It has ended: nobody would ever send them.
                lanes.iter().for_each(|lane| lane.shut());
            }
        }
        match by_name.get(name) {
            Some(topic) => {
                topic.0.lanes.resize(count, lanes);
                topic.clone()
            }
            None => {
                let random = self.draw();
                let topic = Topic::new(name.clone(), self.id, random, lanes);
                by_name.insert(name.clone(), topic.clone());
                topic
            }
        }
    }
}
