//! Machine: the fetch loop of one broker: what is asked of it, in which version, with how much credit, and how long it is
//! left alone after a failure. One request at a time. What is to be read is in `positions`, what codes mean in `verdict`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::decode::is_heavy;
use super::offsets::isolation_level;
use super::session::{Session, Want};
use super::verdict::{Refusal, is_final};
use crate::backoff::Backoff;
use crate::consumer::config::ConsumerConfig;
use crate::consumer::positions::{Plan, Planned};
use crate::types::{Partition, TopicName, TopicPartition};
use crate::wire::fetch::{self, CurrentLeader, NodeEndpoint, PartitionData, Request, Response};
use crate::wire::frame::LARGE_BYTES;
use crate::wire::{Str, Uuid};
use crate::{Error, ErrorKind};

/// The last version that names topics.
const NAMED_VERSION_MAX: i16 = 12;
/// From this version on a broker detects truncation by itself.
const DIVERGING_VERSION: i16 = 12;
/// Least credit worth a request.
const CREDIT_MIN: usize = 64 << 10;
/// While credit is waited for, prefetched data of paused partitions is asked back every so often.
const CREDIT_PATIENCE: Duration = Duration::from_millis(10);
/// A part that fills at least this share (1/n) of the answer's allocation keeps it instead of being copied.
const KEEP_SHARE: usize = 2;

/// What is to be done, in this order.
#[derive(Debug)]
pub(super) enum Output {
    /// Ask the positions what to fetch, for [`Fetcher::handle_plan`].
    Plan,
    /// Take credit for an answer, less than `wanted` if need be, for [`Fetcher::handle_credit`].
    Reserve { least: usize, wanted: usize, patience: Duration },
    /// Have a connection by then, for [`Fetcher::handle_connected`].
    Connect(Instant),
    /// The broker does not detect truncation: these positions have to be checked before they are read from.
    Check(Vec<Planned>),
    /// Send this and wait for the answer, for [`Fetcher::handle_response`].
    Send { request: Request, version: i16, deadline: Instant },
    /// Read a part for the positions.
    Read(Box<Part>),
    /// A partition is not to be read now. The broker may have named the leader.
    Refused { planned: Planned, refusal: Refusal, leader: Option<(CurrentLeader, Arc<[NodeEndpoint]>)> },
    /// An answer is done with; `news` if it had any.
    Answered { news: bool },
    /// The leaders of this topic may have changed.
    Doubt(TopicName),
    /// The broker answers again.
    Well,
    /// A fetch failed and is tried again. `tell`: the application has not been told.
    Failed { error: Error, tell: bool },
    /// There is no use in going on.
    End(Error),
}

/// A part of an answer.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) planned: Planned,
    pub(super) data: PartitionData,
    /// Most bytes of the answer that was asked for.
    pub(super) asked: usize,
    /// The part is nearly all of an answer with a buffer of so many bytes of its own: it may keep that.
    pub(super) keeps: Option<usize>,
}

/// What it has to know.
#[derive(Clone, Debug)]
pub(super) struct FetcherConfig {
    pub(super) consumer: Arc<ConsumerConfig>,
    pub(super) backoff: Backoff,
    pub(super) request_timeout: Duration,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Fetcher {
    config: FetcherConfig,
    session: Session,
    step: Step,
    outputs: VecDeque<Output>,
    /// What is being asked, or was asked last while answers bring nothing and nothing changes.
    standing: Option<Standing>,
    /// Something changed since the latest plan was asked for.
    changed: bool,
    /// Bytes of credit for the next answer, 0 for none.
    credit: usize,
    deadline: Option<Instant>,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Another round may begin.
    Next,
    /// Outputs are being carried out.
    Busy,
    /// Nothing to fetch: until a change, this time, or (`starving`) memory that comes back.
    Idle {
        until: Option<Instant>,
        starving: bool,
    },
    /// After a failure.
    Paused(Instant),
    Over,
}

/// What a broker is asked, request after request.
#[derive(Debug)]
struct Standing {
    planned: BTreeMap<TopicPartition, Planned>,
    settled: bool,
    /// The version that the connection offers, and the one that it was asked with before.
    sent: Option<(i16, i16)>,
}

impl Fetcher {
    pub(super) fn new(config: FetcherConfig) -> Self {
        Self {
            config,
            session: Session::default(),
            step: Step::Next,
            outputs: VecDeque::new(),
            standing: None,
            changed: false,
            credit: 0,
            deadline: None,
            failures: 0,
        }
    }

    /// What is to be done next; `None` while there is something to wait for.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if self.step != Step::Next {
            return None;
        }
        self.step = Step::Busy;
        // As long as answers bring nothing and nothing changes, the same is asked again without a look at anything.
        if self.standing.as_ref().is_some_and(|standing| standing.settled) && !self.changed {
            return Some(self.reserve());
        }
        Some(self.plan())
    }

    fn plan(&mut self) -> Output {
        self.standing = None;
        self.changed = false;
        Output::Plan
    }

    fn reserve(&self) -> Output {
        let wanted = self.config.consumer.max_bytes;
        Output::Reserve { least: CREDIT_MIN, wanted, patience: CREDIT_PATIENCE }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.step {
            Step::Idle { until, .. } => until,
            Step::Paused(until) => Some(until),
            _ => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.next_deadline().is_some_and(|at| at <= now) {
            self.step = Step::Next;
        }
    }

    /// True if memory that comes back is worth a look.
    pub(super) fn is_starving(&self) -> bool {
        matches!(self.step, Step::Idle { starving: true, .. })
    }

    /// Memory came back.
    pub(super) fn handle_memory(&mut self) {
        if self.is_starving() {
            self.step = Step::Next;
        }
    }

    /// Something changed that concerns fetching. A pause after a failure is kept: a leader that moves away ends all of this.
    pub(super) fn handle_change(&mut self) {
        self.changed = true;
        if matches!(self.step, Step::Idle { .. }) {
            self.step = Step::Next;
        }
    }

    pub(super) fn handle_plan(&mut self, now: Instant, plan: Plan) {
        let credit = std::mem::take(&mut self.credit);
        match plan {
            Plan::Fetch { planned, settled } => {
                let planned =
                    planned.into_iter().map(|planned| (planned.partition.clone(), planned)).collect();
                self.standing = Some(Standing { planned, settled, sent: None });
                match credit {
                    0 => self.outputs.push_back(self.reserve()),
                    credit => self.connect(now, credit),
                }
            }
            Plan::Wait(until) => self.step = Step::Idle { until, starving: false },
            Plan::Starve(until) => self.step = Step::Idle { until: Some(until), starving: true },
        }
    }

    /// There is credit for so many bytes.
    pub(super) fn handle_credit(&mut self, now: Instant, credit: usize) {
        if self.changed {
            // Much may have changed while it was waited for.
            self.credit = credit;
            let output = self.plan();
            return self.outputs.push_back(output);
        }
        self.connect(now, credit);
    }

    fn connect(&mut self, now: Instant, credit: usize) {
        self.credit = credit;
        let deadline = now + self.config.request_timeout + self.config.consumer.max_wait;
        self.deadline = Some(deadline);
        self.outputs.push_back(Output::Connect(deadline));
    }

    /// There is a connection, to a broker that speaks Fetch up to version `offered`.
    pub(super) fn handle_connected(&mut self, offered: i16) {
        let (Some(standing), Some(deadline)) = (&mut self.standing, self.deadline) else {
            return self.begin_again();
        };
        let limits = limits(&self.config.consumer, self.credit);
        let before = standing.sent.filter(|(before, _)| *before == offered).map(|(_, version)| version);
        if let Some((version, request)) = before.zip(self.session.again(limits.clone())) {
            return self.outputs.push_back(Output::Send { request, version, deadline });
        }
        let mut version = offered;
        if standing.planned.values().any(|planned| planned.topic_id == Uuid::default()) {
            version = version.min(NAMED_VERSION_MAX);
        }
        if version < DIVERGING_VERSION {
            let unchecked: Vec<Planned> =
                standing.planned.values().filter(|planned| planned.unchecked).cloned().collect();
            if !unchecked.is_empty() {
                standing.planned.retain(|_, planned| !planned.unchecked);
                self.outputs.push_back(Output::Check(unchecked));
            }
        }
        if standing.planned.is_empty() {
            self.standing = None;
            return self.answered(false);
        }
        let wants: Vec<Want> = standing.planned.values().map(|planned| want(planned, self.credit)).collect();
        let request = self.session.build(limits, &wants, version);
        standing.sent = Some((offered, version));
        self.outputs.push_back(Output::Send { request, version, deadline });
    }

    /// The request was answered, in a frame of `frame_len` bytes.
    ///
    /// # Errors
    ///
    /// What the broker refused the whole request for, where a new session does not help.
    pub(super) fn handle_response(&mut self, response: Response, frame_len: usize) -> Result<(), Error> {
        let Some(standing) = self.standing.take() else {
            self.begin_again();
            return Ok(());
        };
        let code = response.error_code;
        if !code.is_ok() {
            if code.needs_metadata() {
                self.doubt(&standing);
            }
            if !self.session.refuse(code) {
                return Err(Error::from_code(code, "fetching failed"));
            }
        }
        self.well();
        let news = !response.topics.is_empty();
        if code.is_ok() && news {
            self.take_parts(&standing, response, frame_len);
        } else if code.is_ok() {
            self.session.accept(response.session_id, std::iter::empty());
            // Only what was settled is asked again; the rest is planned anew.
            self.standing = Some(standing);
        }
        self.answered(code.is_ok() && news);
        Ok(())
    }

    fn take_parts(&mut self, standing: &Standing, response: Response, frame_len: usize) {
        let planned = &standing.planned;
        let mut names: BTreeMap<[u8; 16], &TopicName> = BTreeMap::new();
        let mut last = None;
        // In order, so that those of a topic stand side by side.
        for planned in planned.values() {
            if last.replace(planned.topic_id) != Some(planned.topic_id) {
                names.insert(planned.topic_id.0, &planned.partition.topic);
            }
        }
        let mut parts = Vec::new();
        for topic in response.topics {
            let name = if topic.name.is_empty() {
                match names.get(&topic.topic_id.0) {
                    Some(name) => (*name).clone(),
                    None => continue,
                }
            } else {
                TopicName::from(topic.name)
            };
            for part in topic.partitions {
                let partition = TopicPartition { topic: name.clone(), partition: Partition(part.partition) };
                parts.push((partition, part));
            }
        }
        self.session.accept(response.session_id, parts.iter().map(|(partition, _)| partition));
        let total: usize = parts.iter().map(|(_, part)| part.records.len()).sum();
        // What takes long to read comes last.
        parts.sort_by_cached_key(|(_, part)| is_heavy(&part.records));
        let endpoints: Arc<[NodeEndpoint]> = response.node_endpoints.into();
        let mut seen = BTreeSet::new();
        for (partition, data) in parts {
            // Named twice: the first counts.
            let Some(planned) = planned.get(&partition).filter(|_| seen.insert(partition)).cloned() else {
                continue;
            };
            self.outputs.push_back(match Refusal::of(data.error_code) {
                Some(refusal) => {
                    let leader = data.current_leader.map(|leader| (leader, Arc::clone(&endpoints)));
                    Output::Refused { planned, refusal, leader }
                }
                None => {
                    let len = data.records.len();
                    let is_most = len * KEEP_SHARE >= frame_len && len == total && frame_len > LARGE_BYTES;
                    let keeps = is_most.then_some(frame_len);
                    Output::Read(Box::new(Part { planned, data, asked: self.credit, keeps }))
                }
            });
        }
    }

    /// What the broker told of `partition` is not what is wanted any more.
    pub(super) fn handle_unwanted(&mut self, partition: TopicPartition) {
        self.session.renew(partition);
    }

    /// The broker was not reached, or gave no answer: its partitions may have moved.
    pub(super) fn handle_unreachable(&mut self, now: Instant, dice: u64, error: Error) {
        if let Some(standing) = self.standing.take() {
            self.doubt(&standing);
        }
        self.handle_failed(now, dice, error);
    }

    /// The fetch came to nothing.
    pub(super) fn handle_failed(&mut self, now: Instant, dice: u64, error: Error) {
        self.session.reset();
        self.standing = None;
        self.credit = 0;
        self.failures += 1;
        // Parts that were not read yet are asked for again.
        self.outputs.retain(|output| matches!(output, Output::Doubt(_)));
        if is_final(&error) {
            self.step = Step::Over;
            return self.outputs.push_back(Output::End(error));
        }
        // One event for a row of failures: a broker that sends garbage does so again and again.
        let tell = error.kind() == ErrorKind::Protocol && self.failures == 1;
        self.step = Step::Paused(now + self.config.backoff.delay(self.failures, dice));
        self.outputs.push_back(Output::Failed { error, tell });
    }

    fn well(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            self.outputs.push_back(Output::Well);
        }
    }

    fn answered(&mut self, news: bool) {
        self.credit = 0;
        self.outputs.push_back(Output::Answered { news });
        self.step = Step::Next;
    }

    /// What was told belongs to nothing that was asked for: whatever else, the broker is asked again.
    fn begin_again(&mut self) {
        if self.step == Step::Busy {
            self.step = Step::Next;
        }
    }

    fn doubt(&mut self, standing: &Standing) {
        let topics: BTreeSet<&TopicName> =
            standing.planned.keys().map(|partition| &partition.topic).collect();
        self.outputs.extend(topics.into_iter().cloned().map(Output::Doubt));
    }
}

/// A request for an answer of so many bytes at most.
fn limits(config: &ConsumerConfig, credit: usize) -> Request {
    Request {
        // Less than a millisecond would make a loop without a pause of it.
        max_wait_ms: i32::try_from(config.max_wait.as_millis()).unwrap_or(i32::MAX).max(1),
        // So would answers that wait for nothing.
        min_bytes: i32::try_from(config.min_bytes).unwrap_or(i32::MAX).max(1),
        max_bytes: i32::try_from(credit).unwrap_or(i32::MAX),
        isolation_level: isolation_level(config.isolation),
        rack_id: Str::new(),
        ..fetch::Request::default()
    }
}

fn want(planned: &Planned, credit: usize) -> Want {
    Want {
        partition: planned.partition.clone(),
        topic_id: planned.topic_id,
        offset: planned.offset,
        leader_epoch: planned.leader_epoch,
        last_epoch: planned.last_epoch,
        max_bytes: i32::try_from(planned.max_bytes.min(credit)).unwrap_or(i32::MAX),
    }
}

#[cfg(test)]
mod tests;
