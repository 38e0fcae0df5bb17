//! All lanes of a producer as the sender reaches them, and the jobs that compress large bodies for them.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::time::Instant;

use super::batch::Batch;
use super::gauge::{Gauge, Pace};
use super::lane::{Lane, Left, Take, Work};
use super::sender::Lanes;
use super::shared::{Command, Shared};
use crate::types::NodeId;

/// The lanes, and those who compress for them.
pub(super) struct LaneSet {
    shared: Arc<Shared>,
    pub(super) lanes: Vec<Arc<Lane>>,
    /// What waits for the brokers that lead them.
    gauges: BTreeMap<NodeId, Arc<Gauge>>,
    /// Bodies being compressed where blocking is allowed.
    jobs: usize,
    jobs_max: usize,
    /// Lanes with bodies to compress.
    waiting: VecDeque<usize>,
}

impl LaneSet {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let jobs_max = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            shared,
            lanes: Vec::new(),
            gauges: BTreeMap::new(),
            jobs: 0,
            jobs_max,
            waiting: VecDeque::new(),
        }
    }

    /// A job that compresses is over.
    pub(super) fn job_done(&mut self) {
        self.jobs = self.jobs.saturating_sub(1);
        self.start_jobs();
    }

    fn start_jobs(&mut self) {
        while self.jobs < self.jobs_max
            && let Some(id) = self.waiting.front().copied()
        {
            let Some(work) = self.lanes[id].work(usize::MAX) else {
                self.waiting.pop_front();
                continue;
            };
            self.jobs += 1;
            let (lane, shared) = (Arc::clone(&self.lanes[id]), Arc::clone(&self.shared));
            let mut job = Job { lane, shared, work: Some(work) };
            self.shared.cluster.runtime().run_blocking("carafe-compress", Box::new(move || job.run()));
        }
    }
}

/// A body that is compressed where blocking is allowed. The driver hears of it once it is done, and as well if the runtime
/// drops it unrun: then the body stays plain.
struct Job {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    work: Option<Work>,
}

impl Job {
    fn run(&mut self) {
        if let Some(work) = self.work.take() {
            self.lane.run(work, &self.shared.codec);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.lane.give_back(work);
        }
        // The driver may have ended already.
        let _ = self.shared.mailbox.send(Command::Compressed(self.lane.id));
    }
}

impl Lanes for LaneSet {
    fn collect(&mut self, partition: usize, take: Take, into: &mut Vec<Batch>) -> Left {
        let Some(lane) = self.lanes.get(partition) else { return Left::default() };
        let codec = &self.shared.codec;
        let mut left = lane.collect(codec, take, into);
        if left.closed > 0 && lane.compress_inline(codec) {
            left = lane.collect(codec, Take::Ready, into);
        }
        if left.closed > 0 {
            self.waiting.push_back(partition);
            self.start_jobs();
        }
        left
    }

    fn attach(&mut self, partition: usize, leader: Option<NodeId>) {
        let Some(lane) = self.lanes.get(partition) else { return };
        lane.led.store(leader.is_some(), Ordering::Relaxed);
        if let Some(leader) = leader {
            lane.attach(self.gauges.entry(leader).or_default());
        }
    }

    fn waiting_bytes(&self, node: NodeId) -> usize {
        self.gauges.get(&node).map_or(0, |gauge| gauge.bytes.load(Ordering::Relaxed))
    }

    fn set_pace(&mut self, node: NodeId, pace: Pace) {
        self.gauges.entry(node).or_default().set_pace(pace);
    }

    fn queued(&mut self, partition: usize, change: i32) {
        if let Some(lane) = self.lanes.get(partition) {
            lane.queued.fetch_add(change, Ordering::Relaxed);
        }
    }

    fn recycle(&mut self, body: Bytes) {
        self.shared.stock.recycle(body);
    }

    fn shrink(&mut self, now: Instant, partition: usize, bytes: usize) {
        if let Some(lane) = self.lanes.get(partition) {
            lane.shrink(now, bytes);
        }
    }
}
