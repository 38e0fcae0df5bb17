//! The tasks that fetch: one that follows leaders and starts look-ups, and one per broker that owns a fetch session.
//! They carry answers to [`Positions`](crate::consumer::positions::Positions) and decide nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep_until};

use crate::cluster::{Call, Cluster, Duty, Metadata};
use crate::consumer::condition_pump::ConditionPump;
use crate::consumer::config::ConsumerConfig;
use crate::consumer::core::Core;
use crate::consumer::event::Event;
use crate::consumer::fetch::decode::{DecodeConfig, Place, decode, is_heavy};
use crate::consumer::fetch::offsets::{LOOKUP_ROUND, isolation_level, look_up};
use crate::consumer::fetch::session::{Session, Want};
use crate::consumer::positions::{Fetched, Plan, Planned, Question, Sighting};
use crate::runtime::{AbortOnDrop, watch};
use crate::sync::budget::{Credit, MemoryBudget};
use crate::types::{NodeId, Partition, TopicName, TopicPartition};
use crate::wire::compression::Decompressor;
use crate::wire::fetch::{self, PartitionData, Response};
use crate::wire::frame::LARGE_BYTES;
use crate::wire::{ApiKey, Str, Uuid};
use crate::{Error, ErrorCode, ErrorKind};

/// The last version that names topics.
const NAMED_VERSION_MAX: i16 = 12;
/// From this version on a broker detects truncation by itself.
const DIVERGING_VERSION: i16 = 12;
/// Least credit worth a request.
const CREDIT_MIN: usize = 64 << 10;
/// A part that fills at least this share (1/n) of the answer's allocation keeps it instead of being copied.
const KEEP_SHARE: usize = 2;
/// While waiting for credit, prefetched data of paused partitions is asked back every so often.
const CREDIT_PATIENCE: Duration = Duration::from_millis(10);

/// What all tasks of a consumer's fetching need.
#[derive(Clone, Debug)]
pub(crate) struct Fetching {
    pub(crate) cluster: Cluster,
    pub(crate) core: Arc<Core>,
    pub(crate) config: Arc<ConsumerConfig>,
    pub(crate) budget: MemoryBudget,
    /// Names this consumer's connections and conditions.
    pub(crate) id: u64,
}

impl Fetching {
    /// Starts the tasks; they end with the guard.
    pub(crate) fn start(self) -> AbortOnDrop {
        let runtime = Arc::clone(self.cluster.runtime());
        runtime.spawn("carafe-positions", Box::pin(self.run())).abort_on_drop()
    }

    /// Follows leaders, starts look-ups, keeps one fetch task per leader, and tells what keeps partitions from going on.
    async fn run(self) {
        let _release = Release(&self);
        let mut metadata = self.cluster.subscribe();
        let mut changes = self.core.changes();
        let mut conditions = ConditionPump::new(self.cluster.clone(), self.id, Arc::clone(&self.core));
        let mut nodes: BTreeMap<NodeId, AbortOnDrop> = BTreeMap::new();
        let mut pressed = 0;
        let mut followed = None;
        loop {
            changes.mark_unchanged();
            let now = Instant::now();
            let snapshot = Arc::clone(&metadata.borrow_and_update());
            let interest = (snapshot.generation, self.core.interest());
            if followed.replace(interest) != Some(interest) {
                self.follow_leaders(&snapshot);
            }
            self.start_lookups(now);
            conditions.report();
            let (wanted, next) = self.core.with(|positions| (positions.nodes(), positions.next_lookup()));
            nodes.retain(|node, _| wanted.contains(node));
            for node in wanted {
                nodes.entry(node).or_insert_with(|| {
                    let fetcher = Fetcher {
                        fetching: self.clone(),
                        node,
                        session: Session::default(),
                        standing: None,
                        failures: 0,
                        decompressor: Decompressor::new(),
                    };
                    let task = self.cluster.runtime().spawn("carafe-fetch", Box::pin(fetcher.run()));
                    task.abort_on_drop()
                });
            }
            // Biased: the order does not matter, since every turn looks at everything; conditions are rare.
            tokio::select! {
                biased;
                changed = metadata.changed() => if changed.is_err() { return },
                changed = changes.changed() => if changed.is_err() { return },
                () = conditions.tell() => {}
                count = self.budget.pressed(pressed) => {
                    pressed = count;
                    if self.core.with(|positions| positions.shed()) {
                        self.core.wake_tasks();
                    }
                }
                () = sleep_until_some(next) => {}
            }
        }
    }

    fn follow_leaders(&self, snapshot: &Metadata) {
        let topics = self.core.topics();
        self.cluster.use_topics(&topics);
        let (missing, changed) = self.core.with(|positions| {
            for topic in &topics {
                match (snapshot.topic(topic), snapshot.errors.get(topic)) {
                    (Some(known), _) => positions.handle_topic_seen(topic, known.partition_count()),
                    (None, Some(&ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)) => {
                        positions.handle_topic_seen(topic, 0);
                    }
                    // Whoever may not see it does not know how many it has.
                    (None, _) => {}
                }
            }
            let before = positions.latest_version();
            let missing = positions.handle_leaders(|partition| {
                let topic = snapshot.topic(&partition.topic)?;
                let info = topic.partition(partition.partition);
                Some(Sighting {
                    topic_id: topic.id,
                    count: topic.partition_count(),
                    leader: info.and_then(|info| Some((info.leader?, info.leader_epoch.0))),
                })
            });
            (missing, before != positions.latest_version())
        });
        for topic in missing {
            self.cluster.want_topic(&topic, false);
        }
        if changed {
            self.core.wake_tasks();
            // Topics may have been made anew.
            self.core.wake_app();
        }
    }

    fn start_lookups(&self, now: Instant) {
        let mut groups: BTreeMap<(NodeId, u8), Vec<_>> = BTreeMap::new();
        for lookup in self.core.with(|positions| positions.lookups(now)) {
            let kind = match lookup.question {
                Question::Offset(_) => 0,
                Question::Range => 1,
                Question::Epoch(_) => 2,
            };
            groups.entry((lookup.leader, kind)).or_default().push(lookup);
        }
        for ((leader, _), lookups) in groups {
            let (cluster, core, isolation) =
                (self.cluster.clone(), Arc::clone(&self.core), self.config.isolation);
            let call = Call::slow(now + LOOKUP_ROUND, self.id);
            let work = async move { look_up(cluster, call, &core, leader, lookups, isolation).await };
            self.cluster.runtime().spawn("carafe-offsets", Box::pin(work));
        }
    }
}

/// Closes the fetch connections when fetching ends.
struct Release<'a>(&'a Fetching);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.cluster.release(Duty::Fetch(self.0.id));
        self.0.cluster.release(Duty::Slow(self.0.id));
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// One broker's session.
struct Fetcher {
    fetching: Fetching,
    node: NodeId,
    session: Session,
    /// What was asked last, while answers bring nothing and nothing changes.
    standing: Option<Standing>,
    failures: u32,
    decompressor: Decompressor,
}

/// What a node is asked, request after request.
struct Standing {
    planned: BTreeMap<TopicPartition, Planned>,
    settled: bool,
    /// The version that the connection offers, and the one that it was asked with before.
    sent: Option<(i16, i16)>,
}

impl Standing {
    fn new(planned: Vec<Planned>, settled: bool) -> Self {
        let planned = planned.into_iter().map(|planned| (planned.partition.clone(), planned)).collect();
        Self { planned, settled, sent: None }
    }
}

impl Fetcher {
    async fn run(mut self) {
        let _share = self.fetching.budget.session();
        let core = Arc::clone(&self.fetching.core);
        let mut changes = core.changes();
        loop {
            let standing = self.standing.take().filter(|_| !changes.has_changed());
            let mut standing = match standing {
                Some(standing) => standing,
                None => {
                    changes.mark_unchanged();
                    let returns = self.fetching.budget.returns();
                    match core.with(|positions| positions.plan(self.node, Instant::now())) {
                        Plan::Fetch { planned, settled } => Standing::new(planned, settled),
                        Plan::Wait(at) => {
                            wait(&mut changes, at).await;
                            continue;
                        }
                        Plan::Starve(at) => {
                            // Biased: whichever comes first leads to the same look at everything.
                            tokio::select! {
                                biased;
                                () = wait(&mut changes, Some(at)) => {}
                                () = self.fetching.budget.returned(returns) => {}
                            }
                            continue;
                        }
                    }
                }
            };
            let credit = self.credit().await;
            // Much may have changed while waiting for credit.
            if changes.has_changed() {
                changes.mark_unchanged();
                let plan = core.with(|positions| positions.plan(self.node, Instant::now()));
                let Plan::Fetch { planned, settled } = plan else { continue };
                standing = Standing::new(planned, settled);
            }
            match self.fetch(standing, credit).await {
                Ok(()) => {
                    self.failures = 0;
                    core.with(|positions| positions.handle_node_well(self.node));
                }
                Err(error) => {
                    self.session.reset();
                    self.failures += 1;
                    if !error.is_retriable()
                        && matches!(
                            error.kind(),
                            ErrorKind::State | ErrorKind::UnsupportedVersion | ErrorKind::Authentication
                        )
                    {
                        return core.fail(error);
                    }
                    tracing::debug!(node = %self.node, %error, "fetch failed");
                    core.with(|positions| positions.handle_node_failed(self.node, error.clone()));
                    core.wake_tasks();
                    // One event for a row of failures: a broker that sends garbage does so again and again.
                    if error.kind() == ErrorKind::Protocol && self.failures == 1 {
                        core.emit(Event::FetchFailed { node: self.node, error });
                    }
                    let backoff = self.fetching.cluster.config().retry_backoff;
                    let pause = backoff.delay(self.failures, self.fetching.cluster.runtime().random());
                    // A leader that moves away ends this task, so the pause holds nobody up.
                    sleep_until(Instant::now() + pause).await;
                }
            }
        }
    }

    /// Credit for one answer.
    async fn credit(&self) -> Credit {
        let budget = &self.fetching.budget;
        let wanted = self.fetching.config.max_bytes.min(budget.fair_share());
        let reserve = budget.reserve(CREDIT_MIN.min(wanted), wanted);
        tokio::pin!(reserve);
        loop {
            // Biased: credit goes first; the timer only helps where there is none.
            tokio::select! {
                biased;
                credit = &mut reserve => return credit,
                () = tokio::time::sleep(CREDIT_PATIENCE) => budget.press(),
            }
        }
    }

    async fn fetch(&mut self, mut standing: Standing, mut credit: Credit) -> Result<(), Error> {
        let cluster = self.fetching.cluster.clone();
        let core = Arc::clone(&self.fetching.core);
        let config = Arc::clone(&self.fetching.config);
        let request_timeout = cluster.config().connection.request_timeout;
        let deadline = Instant::now() + request_timeout + config.max_wait;
        let duty = Duty::Fetch(self.fetching.id);
        let connection = match cluster.connection(self.node, duty, deadline).await {
            Ok(connection) => connection,
            Err(error) => {
                self.doubt(&standing.planned);
                return Err(error);
            }
        };
        let offered = connection.version(ApiKey::FETCH, fetch::VERSIONS)?;
        let limits = fetch::Request {
            // Less than a millisecond would make a loop without a pause of it.
            max_wait_ms: i32::try_from(config.max_wait.as_millis()).unwrap_or(i32::MAX).max(1),
            // So would answers that wait for nothing.
            min_bytes: i32::try_from(config.min_bytes).unwrap_or(i32::MAX).max(1),
            max_bytes: i32::try_from(credit.bytes()).unwrap_or(i32::MAX),
            isolation_level: isolation_level(config.isolation),
            rack_id: Str::new(),
            ..fetch::Request::default()
        };
        let before = standing.sent.filter(|(before, _)| *before == offered).map(|(_, version)| version);
        let (request, version) = match before.zip(self.session.again(limits.clone())) {
            Some((version, request)) => (request, version),
            None => {
                let mut version = offered;
                if standing.planned.values().any(|planned| planned.topic_id == Uuid::default()) {
                    version = version.min(NAMED_VERSION_MAX);
                }
                if version < DIVERGING_VERSION {
                    self.check_epochs(&mut standing.planned);
                }
                if standing.planned.is_empty() {
                    return Ok(());
                }
                let want = |planned: &Planned| Want {
                    partition: planned.partition.clone(),
                    topic_id: planned.topic_id,
                    offset: planned.offset,
                    leader_epoch: planned.leader_epoch,
                    last_epoch: planned.last_epoch,
                    max_bytes: i32::try_from(planned.max_bytes.min(credit.bytes())).unwrap_or(i32::MAX),
                };
                let wants: Vec<Want> = standing.planned.values().map(want).collect();
                (self.session.build(limits, &wants, version), version)
            }
        };
        standing.sent = Some((offered, version));
        let mut body = BytesMut::new();
        request.encode(&mut body, version).map_err(Error::from)?;
        let answer = connection.send_raw(ApiKey::FETCH, version, vec![body.freeze()], deadline, true).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.doubt(&standing.planned);
                return Err(error.error);
            }
        };
        let response = answer.reader().and_then(|mut reader| Ok(Response::decode(&mut reader, version)?));
        let response = response.inspect_err(|error| connection.fail(error))?;
        let frame_len = answer.frame.len();
        // The parts must be alone with their buffer, or it would count twice.
        drop(answer);
        if self.handle_response(response, &standing.planned, frame_len, &mut credit).await? {
            // What was fetched is planned anew by everyone; those who wait for records wake here.
            core.wake_tasks();
            core.wake_app();
        } else if standing.settled {
            self.standing = Some(standing);
        }
        Ok(())
    }

    /// Brokers before Kafka 2.7 do not detect truncation: the positions are checked first.
    fn check_epochs(&self, planned: &mut BTreeMap<TopicPartition, Planned>) {
        let check: Vec<Planned> = planned.values().filter(|planned| planned.unchecked).cloned().collect();
        if check.is_empty() {
            return;
        }
        planned.retain(|_, planned| !planned.unchecked);
        self.fetching
            .core
            .update(|positions| check.iter().for_each(|planned| positions.check_epoch(planned)));
    }

    /// The node cannot be reached: its partitions may have moved.
    fn doubt(&self, planned: &BTreeMap<TopicPartition, Planned>) {
        let topics: BTreeSet<&TopicName> = planned.keys().map(|partition| &partition.topic).collect();
        for topic in topics {
            self.fetching.cluster.leader_failed(topic);
        }
    }

    /// Carries an answer to the positions. False if nothing was in it.
    async fn handle_response(
        &mut self,
        response: Response,
        planned: &BTreeMap<TopicPartition, Planned>,
        frame_len: usize,
        credit: &mut Credit,
    ) -> Result<bool, Error> {
        let cluster = self.fetching.cluster.clone();
        if !response.error_code.is_ok() {
            if response.error_code.needs_metadata() {
                self.doubt(planned);
            }
            if self.session.refuse(response.error_code) {
                return Ok(true);
            }
            return Err(Error::from_code(response.error_code, "fetching failed"));
        }
        if response.topics.is_empty() {
            self.session.accept(response.session_id, std::iter::empty());
            return Ok(false);
        }
        let names: BTreeMap<[u8; 16], &TopicName> =
            planned.values().map(|planned| (planned.topic_id.0, &planned.partition.topic)).collect();
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
        let asked = credit.bytes();
        // What takes long to read comes last.
        parts.sort_by_cached_key(|(_, part)| is_heavy(&part.records));
        let mut seen = BTreeSet::new();
        for (partition, part) in parts {
            // Named twice: the first counts.
            let Some(plan) = planned.get(&partition).filter(|_| seen.insert(partition.clone())) else {
                continue;
            };
            let hint = part.current_leader;
            let code = part.error_code;
            let fetched = if code.is_ok() {
                self.read(plan, part, total, frame_len, asked, credit).await?
            } else {
                let news = hint.is_some_and(|hint| {
                    let (topic, index) = (&partition.topic, partition.partition);
                    cluster.leader_hint(topic, plan.topic_id, index, hint, &response.node_endpoints)
                });
                if !news && code.needs_metadata() {
                    cluster.leader_failed(&partition.topic);
                }
                fetch_error(&partition, plan.offset, code, !news)
            };
            let dice = cluster.runtime().random();
            let wanted = self
                .fetching
                .core
                .with(|positions| positions.handle_fetched(plan, fetched, Instant::now(), dice));
            if !wanted {
                self.session.renew(partition);
            }
        }
        Ok(true)
    }

    /// Reads one part. What a large one takes to decompress holds up other large ones and this broker's next fetch, and
    /// nothing else.
    async fn read(
        &mut self,
        plan: &Planned,
        part: PartitionData,
        total: usize,
        frame_len: usize,
        asked: usize,
        credit: &mut Credit,
    ) -> Result<Fetched, Error> {
        if let Some(diverging) = part.diverging_epoch {
            return Ok(Fetched::Diverging { epoch: diverging.epoch, end_offset: diverging.end_offset });
        }
        let (high_watermark, last_stable_offset) = (part.high_watermark, part.last_stable_offset);
        let PartitionData { records, .. } = &part;
        let budget = self.fetching.budget.clone();
        let len = records.len();
        let mut holding = plan.ledger.hold();
        // More than what was asked for is one batch that is larger: it comes all the same, and may not be taken.
        let fits = len <= asked.min(plan.max_bytes) || len <= plan.ledger.allowance();
        if !fits && (plan.ledger.held() > 0 || !holding.overdraw()) {
            return Ok(Fetched::Starved);
        }
        let blob = if len == 0 {
            Bytes::new()
        } else if len * KEEP_SHARE >= frame_len && len == total && frame_len > LARGE_BYTES {
            // Nearly all of an answer with a buffer of its own: it may keep that.
            credit.split(frame_len).attach(records.clone(), frame_len)
        } else {
            let mut buffer = budget.buffer(len);
            buffer.extend_from_slice(records);
            let capacity = buffer.capacity();
            credit.split(capacity).wrap(buffer)
        };
        let place = Place {
            partition: plan.partition.clone(),
            assignment: plan.assignment,
            position: plan.offset,
            last_epoch: plan.last_epoch,
            holding,
        };
        let part = PartitionData {
            partition: part.partition,
            error_code: part.error_code,
            high_watermark,
            last_stable_offset,
            log_start_offset: part.log_start_offset,
            diverging_epoch: None,
            current_leader: None,
            aborted_transactions: part.aborted_transactions,
            preferred_read_replica: None,
            records: (),
        };
        let config = DecodeConfig {
            check_crcs: self.fetching.config.check_crcs,
            isolation: self.fetching.config.isolation,
            batch_decompressed_max: self.fetching.config.batch_decompressed_max,
        };
        let heavy = is_heavy(&blob);
        let mut own = credit.split(credit.bytes());
        let mut decompressor = std::mem::take(&mut self.decompressor);
        let work = move || {
            let decoded = decode(place, part, blob, &config, &budget, &mut own, &mut decompressor);
            (decoded, own, decompressor)
        };
        let (decoded, rest, decompressor) = if heavy {
            // What else came with it does not wait.
            self.fetching.core.wake_app();
            let runtime = self.fetching.cluster.runtime();
            runtime.blocking("carafe-decompress", work).await.map_err(|error| {
                Error::new(ErrorKind::State, "decompressing a fetched part failed").with_source(error)
            })?
        } else {
            work()
        };
        *credit = rest;
        self.decompressor = decompressor;
        if decoded.starved {
            return Ok(Fetched::Starved);
        }
        Ok(Fetched::Records {
            batch: decoded.batch,
            next_offset: decoded.next_offset,
            last_epoch: decoded.last_epoch,
            high_watermark,
            last_stable_offset,
            fault: decoded.fault,
            cut: decoded.cut,
        })
    }
}

/// What an error of one partition means.
fn fetch_error(partition: &TopicPartition, offset: i64, code: ErrorCode, pause: bool) -> Fetched {
    let error = || Error::from_code(code, format!("reading {partition} at offset {offset} failed"));
    match code {
        ErrorCode::OFFSET_OUT_OF_RANGE => Fetched::OutOfRange,
        ErrorCode::TOPIC_AUTHORIZATION_FAILED => Fetched::Retry { pause: true, error: error() },
        ErrorCode::CORRUPT_MESSAGE => Fetched::Fatal(
            Error::new(ErrorKind::CorruptRecord, format!("{partition} cannot be read at offset {offset}"))
                .with_code(code)
                .with_retriable(false)
                .with_advice("the broker found the log damaged; seek past the offset to go on without it"),
        ),
        code if code.is_retriable()
            || matches!(
                code,
                ErrorCode::UNKNOWN_SERVER_ERROR
                    | ErrorCode::OFFSET_MOVED_TO_TIERED_STORAGE
                    | ErrorCode::INCONSISTENT_TOPIC_ID
            ) =>
        {
            Fetched::Retry { pause, error: error() }
        }
        _ => Fetched::Fatal(error()),
    }
}

async fn wait(changes: &mut watch::Receiver<u64>, at: Option<Instant>) {
    // Biased: whichever comes first leads to the same look at everything.
    tokio::select! {
        biased;
        changed = changes.changed() => if changed.is_err() { std::future::pending().await },
        () = sleep_until_some(at) => {}
    }
}
