//! One partition: its leader and epoch, the in-sync set, one log per replica, the high watermark, and who waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::log::{Log, Producers};

/// Wakes one waiting request.
pub(crate) type Wake = Arc<Notify>;

/// No node leads.
pub(crate) const NO_LEADER: i32 = -1;

/// A partition of the cluster's machine.
#[derive(Debug)]
pub(crate) struct Partition {
    /// Node id, or [`NO_LEADER`].
    pub(crate) leader: i32,
    pub(crate) leader_epoch: i32,
    /// Assigned nodes, preferred leader first.
    pub(crate) replicas: Vec<i32>,
    /// In-sync nodes, always a subset of `replicas`, never empty.
    pub(crate) isr: Vec<i32>,
    /// One log per replica, also of dead nodes.
    pub(crate) logs: BTreeMap<i32, Log>,
    /// `high_watermark <=` end of every in-sync log.
    pub(crate) high_watermark: i64,
    pub(crate) producers: Producers,
    waiters: Waiters,
}

impl Partition {
    pub(crate) fn new(replicas: Vec<i32>, isr: Vec<i32>) -> Self {
        let logs = replicas.iter().map(|node| (*node, Log::default())).collect();
        let mut partition = Self {
            leader: isr.first().copied().unwrap_or(NO_LEADER),
            leader_epoch: 0,
            isr,
            replicas,
            logs,
            high_watermark: 0,
            producers: Producers::default(),
            waiters: Waiters::default(),
        };
        if let Some(log) = partition.logs.get_mut(&partition.leader) {
            log.start_epoch(0, 0);
        }
        partition
    }

    /// The leader's log.
    pub(crate) fn leader_log(&self) -> Option<&Log> {
        self.logs.get(&self.leader)
    }

    /// First offset that the leader can serve.
    pub(crate) fn log_start(&self) -> i64 {
        self.leader_log().map_or(0, Log::start)
    }

    /// Moves the high watermark to the smallest end of the in-sync logs and wakes who waited for it.
    pub(crate) fn advance_high_watermark(&mut self) {
        let smallest = self.isr.iter().filter_map(|node| self.logs.get(node)).map(Log::end).min();
        if let Some(end) = smallest.filter(|end| *end > self.high_watermark) {
            self.high_watermark = end;
            self.producers.advance(self.log_start(), end);
            self.waiters.reached(end);
        }
    }

    /// Makes `node` the leader in a new epoch. An election from outside the in-sync set loses what it lacks. In-sync
    /// followers cut off at once what the new leader does not have, so that nothing of an old epoch counts as committed.
    /// Returns how the logs of other nodes shrank.
    pub(crate) fn elect(&mut self, node: i32, now: Instant) -> Vec<(i32, isize)> {
        let mut shrunk = Vec::new();
        let old_end = self.leader_log().map(Log::end);
        self.leader = node;
        self.leader_epoch += 1;
        if !self.isr.contains(&node) && node != NO_LEADER {
            self.isr = vec![node];
        }
        if let Some(log) = self.logs.get_mut(&node) {
            log.start_epoch(self.leader_epoch, log.end());
            self.high_watermark = self.high_watermark.min(log.end());
            if old_end.is_none_or(|end| end != log.end()) {
                self.producers = Producers::rebuild(log, now);
            }
        }
        if let Some(leader) = self.logs.remove(&node) {
            for follower in self.isr.iter().filter(|follower| **follower != node) {
                if let Some(log) = self.logs.get_mut(follower) {
                    let common = log.common_end(&leader);
                    shrunk.push((*follower, -(log.truncate(common) as isize)));
                }
            }
            self.logs.insert(node, leader);
        }
        self.waiters.all();
        shrunk
    }

    /// Lets the replica on `node` follow: cut off what the leader does not have, copy up to `limit`, rejoin the in-sync
    /// set once it has all that is committed. Returns how many bytes its log grew by.
    pub(crate) fn follow(&mut self, node: i32, limit: i64) -> isize {
        if node == self.leader {
            return 0;
        }
        let Some(mut log) = self.logs.remove(&node) else { return 0 };
        let mut grown = 0;
        if let Some(leader) = self.logs.get(&self.leader) {
            let before = log.bytes() as isize;
            if log.last_epoch() != leader.last_epoch() || log.end() > leader.end() {
                let common = log.common_end(leader);
                log.truncate(common);
            }
            log.catch_up(leader, limit);
            log.advance_start(leader.start());
            grown = log.bytes() as isize - before;
            if log.end() >= self.high_watermark && !self.isr.contains(&node) {
                self.isr.push(node);
            }
        }
        self.logs.insert(node, log);
        self.advance_high_watermark();
        grown
    }

    /// Takes `node` out of the in-sync set unless it is the last one.
    pub(crate) fn shrink(&mut self, node: i32) {
        if self.isr.len() > 1 && node != self.leader {
            self.isr.retain(|member| *member != node);
            self.advance_high_watermark();
        }
    }

    /// Wakes `wake` when the high watermark reaches `offset` or leadership changes.
    pub(crate) fn wait_for(&mut self, offset: i64, wake: &Wake) {
        self.waiters.add(offset, wake);
    }

    /// Wakes everyone, such as when the partition is deleted.
    pub(crate) fn wake_all(&mut self) {
        self.waiters.all();
    }

    /// Notes `records` more records of which nothing is kept.
    pub(crate) fn count_only(&mut self, records: i64) {
        for log in self.logs.values_mut() {
            log.skip(records);
        }
        self.advance_high_watermark();
    }
}

/// Requests that wait for a high watermark. One whose request is over is dropped when the list grows.
#[derive(Debug, Default)]
struct Waiters {
    waiting: Vec<(i64, Wake)>,
    prune_at: usize,
}

impl Waiters {
    fn add(&mut self, offset: i64, wake: &Wake) {
        if self.waiting.len() >= self.prune_at {
            // The request holds the other reference.
            self.waiting.retain(|(_, wake)| Arc::strong_count(wake) > 1);
            self.prune_at = (self.waiting.len() * 2).max(16);
        }
        // A request that looks again keeps its place.
        if !self.waiting.iter().any(|(at, known)| *at == offset && Arc::ptr_eq(known, wake)) {
            self.waiting.push((offset, wake.clone()));
        }
    }

    fn reached(&mut self, high_watermark: i64) {
        self.waiting.retain(|(offset, wake)| {
            let reached = *offset <= high_watermark;
            if reached {
                wake.notify_one();
            }
            !reached
        });
    }

    fn all(&mut self) {
        for (_, wake) in self.waiting.drain(..) {
            wake.notify_one();
        }
    }
}
