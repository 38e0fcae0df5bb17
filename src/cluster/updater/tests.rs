use super::*;
use crate::wire::Array;
use crate::wire::messages::metadata::{MetadataResponseBroker, MetadataResponsePartition};

impl Updater {
    /// The question that is asked now, if there is one.
    fn query(&mut self, now: Instant) -> Option<Query> {
        self.handle_timeout(now);
        let asked = |output| match output {
            Output::Ask(query) => Some(query),
            Output::ClusterReplaced { .. } => None,
        };
        std::iter::from_fn(|| self.poll_output()).find_map(asked)
    }
}

struct Bench {
    updater: Updater,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let mut config = ClusterConfig::default();
        config.retry_backoff.jitter = 0.0;
        Self { updater: Updater::new(now, &config), now }
    }

    fn want(&mut self, topic: &str) {
        self.updater.want_topic(self.now, &topic.into(), false);
    }

    fn after(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// `a,b`, `+a` with creation, `-` for no question.
    fn query(&mut self) -> String {
        let Some(query) = self.updater.query(self.now) else { return "-".into() };
        let topics = query.topics.iter().map(|topic| topic.as_str()).collect::<Vec<_>>().join(",");
        if query.create { format!("+{topics}") } else { topics }
    }

    fn answer(&mut self, topics: Vec<MetadataResponseTopic>) -> Arc<Metadata> {
        self.answer_in(12, topics)
    }

    fn answer_in(&mut self, version: i16, topics: Vec<MetadataResponseTopic>) -> Arc<Metadata> {
        let response = MetadataResponse { topics, ..cluster() };
        self.updater.handle_response(self.now, NodeId(1), &response, version, 0).expect("a useful answer")
    }

    fn answer_of(&mut self, node: NodeId, topics: Vec<MetadataResponseTopic>) -> Arc<Metadata> {
        let response = MetadataResponse { topics, ..cluster() };
        self.updater.handle_response(self.now, node, &response, 12, 0).expect("a useful answer")
    }

    /// Asks about `topic` and takes `answer`.
    fn learn(&mut self, topic: &str, answer: MetadataResponseTopic) -> Arc<Metadata> {
        self.want(topic);
        self.after(2000);
        assert_eq!(self.query(), topic);
        self.answer(vec![answer])
    }
}

fn cluster() -> MetadataResponse {
    let broker =
        |node_id| MetadataResponseBroker { node_id, host: "h".into(), port: 9092, ..Default::default() };
    MetadataResponse {
        brokers: (1..=3).map(broker).collect(),
        controller_id: 2,
        cluster_id: Some("c".into()),
        ..Default::default()
    }
}

/// A topic whose partitions are given as (leader, epoch).
fn topic(name: &str, id: u8, partitions: &[(i32, i32)]) -> MetadataResponseTopic {
    let partitions = (0..)
        .zip(partitions)
        .map(|(partition_index, &(leader_id, leader_epoch))| MetadataResponsePartition {
            partition_index,
            leader_id,
            leader_epoch,
            replica_nodes: Array::from([1, 2]),
            ..Default::default()
        })
        .collect();
    MetadataResponseTopic {
        name: Some(name.into()),
        topic_id: Uuid([id; 16]),
        partitions,
        ..Default::default()
    }
}

fn failed(name: &str, code: ErrorCode) -> MetadataResponseTopic {
    MetadataResponseTopic { name: Some(name.into()), error_code: code.0, ..Default::default() }
}

/// (leader, epoch) of every partition.
fn leaders(metadata: &Metadata, name: &str) -> Vec<(i32, i32)> {
    let topic = metadata.topic(name).expect("a known topic");
    let leader = |info: &PartitionInfo| (info.leader.map_or(-1, |leader| leader.0), info.leader_epoch.0);
    topic.partitions.iter().map(leader).collect()
}

#[test]
fn one_question_is_out_and_wishes_made_meanwhile_are_asked_next() {
    let mut bench = Bench::new();
    assert_eq!(bench.query(), "-");
    bench.want("a");
    assert_eq!(bench.query(), "a");
    assert_eq!(bench.updater.next_deadline(), None);
    bench.want("b");
    bench.want("a");
    assert_eq!(bench.query(), "-");
    bench.answer(vec![topic("a", 1, &[(1, 0)])]);
    assert_eq!(bench.query(), "b", "a was asked a moment ago");
    bench.answer(vec![topic("b", 2, &[(1, 0)])]);
    assert_eq!(bench.query(), "-");
    bench.after(50);
    assert_eq!(bench.query(), "a", "the wish that came during the question counts");
}

#[test]
fn a_topic_that_does_not_exist_backs_off_alone() {
    let mut bench = Bench::new();
    for wait in [100, 200, 400, 800, 1000, 1000] {
        bench.want("ghost");
        assert_eq!(bench.query(), "ghost");
        bench.answer(vec![failed("ghost", ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)]);
        bench.want("ghost");
        bench.after(wait - 1);
        assert_eq!(bench.query(), "-");
        bench.after(1);
    }
    bench.want("new");
    assert_eq!(bench.query(), "ghost,new");
    bench.answer(vec![topic("new", 1, &[(1, 0)])]);
}

#[test]
fn creation_is_asked_for_the_topics_that_wish_it_and_once() {
    let mut bench = Bench::new();
    bench.want("read");
    bench.updater.want_topic(bench.now, &"write".into(), true);
    assert_eq!(bench.query(), "+write");
    bench.answer(vec![topic("write", 1, &[(1, 0)])]);
    assert_eq!(bench.query(), "read");
    bench.answer(vec![topic("read", 2, &[(1, 0)])]);
    bench.updater.want_refresh();
    assert_eq!(bench.query(), "read,write");
}

#[test]
fn everything_is_asked_again_after_the_maximum_age() {
    let mut bench = Bench::new();
    bench.learn("a", topic("a", 1, &[(1, 0)]));
    let deadline = bench.updater.next_deadline().unwrap();
    bench.now = deadline;
    assert_eq!(bench.query(), "a");
    bench.answer(vec![topic("a", 1, &[(1, 0)])]);
    assert!(bench.updater.next_deadline().unwrap() > deadline + Duration::from_secs(299));
    let mut bench = Bench::new();
    bench.updater.want_refresh();
    assert_eq!(bench.query(), "", "an empty list asks for the brokers alone");
}

#[test]
fn failures_back_off_and_ask_the_same_again() {
    let mut bench = Bench::new();
    bench.want("a");
    for wait in [100, 200, 400] {
        assert_eq!(bench.query(), "a");
        bench.updater.handle_failure(bench.now, None, Error::new(ErrorKind::Network, "gone"), 0);
        bench.after(wait - 1);
        assert_eq!(bench.query(), "-");
        assert_eq!(bench.updater.next_deadline(), Some(bench.now + Duration::from_millis(1)));
        bench.after(1);
    }
    assert!(bench.updater.last_error().is_some());
    assert_eq!(bench.query(), "a");
    // An answer without brokers is a failure, and changes nothing.
    let empty = MetadataResponse::default();
    assert!(bench.updater.handle_response(bench.now, NodeId(1), &empty, 12, 0).is_none());
    assert!(!bench.updater.current().is_known());
    bench.after(1000);
    assert_eq!(bench.query(), "a");
    bench.answer(vec![topic("a", 1, &[(1, 0)])]);
    assert!(bench.updater.last_error().is_none());
}

#[test]
fn the_bootstrap_list_is_used_after_long_failure_or_when_a_broker_says_so() {
    let mut bench = Bench::new();
    bench.want("a");
    bench.after(1_000_000);
    assert_eq!(bench.query(), "a");
    bench.updater.handle_failure(bench.now, None, Error::new(ErrorKind::Network, "gone"), 0);
    assert!(!bench.updater.wants_bootstrap(), "idle time does not count");
    bench.after(300_000);
    assert_eq!(bench.query(), "a");
    bench.updater.handle_failure(bench.now, None, Error::new(ErrorKind::Network, "gone"), 0);
    assert!(bench.updater.wants_bootstrap());
    bench.after(1000);
    assert_eq!(bench.query(), "a");
    bench.answer(vec![]);
    assert!(!bench.updater.wants_bootstrap());

    bench.updater.want_refresh();
    bench.after(1000);
    bench.query();
    let response = MetadataResponse { error_code: ErrorCode::REBOOTSTRAP_REQUIRED.0, ..cluster() };
    assert!(bench.updater.handle_response(bench.now, NodeId(1), &response, 13, 0).is_none());
    assert!(bench.updater.wants_bootstrap());
}

#[test]
fn older_epochs_do_not_move_leaders_back() {
    let mut bench = Bench::new();
    bench.learn("a", topic("a", 1, &[(1, 5), (2, 5)]));
    let metadata = bench.learn("a", topic("a", 1, &[(3, 4), (3, 6)]));
    assert_eq!(leaders(&metadata, "a"), [(1, 5), (3, 6)]);
    // The same epoch with another leader, and no epoch at all, are believed.
    let metadata = bench.learn("a", topic("a", 1, &[(2, 5), (1, -1)]));
    assert_eq!(leaders(&metadata, "a"), [(2, 5), (1, -1)]);
    // Another topic of the same name begins anew.
    bench.learn("a", topic("a", 9, &[(3, 0)]));
    let metadata = bench.learn("a", topic("a", 9, &[(3, 0)]));
    assert_eq!(leaders(&metadata, "a"), [(3, 0)]);
    assert_eq!(metadata.topic_by_id(Uuid([9; 16])).unwrap().name.as_str(), "a");
    assert!(metadata.topic_by_id(Uuid([1; 16])).is_none());
}

#[test]
fn older_epochs_are_believed_in_the_end() {
    let mut bench = Bench::new();
    bench.learn("a", topic("a", 1, &[(1, 50)]));
    let mut answers = 0;
    loop {
        answers += 1;
        let metadata = bench.learn("a", topic("a", 1, &[(2, 3)]));
        if leaders(&metadata, "a") == [(2, 3)] {
            break;
        }
    }
    assert_eq!(answers, STALE_ANSWERS_MAX + 1);
}

#[test]
fn epochs_of_old_metadata_versions_are_not_trusted() {
    let mut bench = Bench::new();
    bench.want("a");
    bench.query();
    let metadata = bench.answer_in(8, vec![topic("a", 0, &[(1, 5)])]);
    assert_eq!(leaders(&metadata, "a"), [(1, -1)]);
}

#[test]
fn partitions_never_vanish_and_errors_keep_leaders() {
    let mut bench = Bench::new();
    bench.learn("a", topic("a", 1, &[(1, 0), (2, 0), (3, 0)]));
    let metadata = bench.learn("a", topic("a", 1, &[(2, 1)]));
    assert_eq!(leaders(&metadata, "a"), [(2, 1), (2, 0), (3, 0)]);
    let metadata = bench.learn("a", failed("a", ErrorCode::LEADER_NOT_AVAILABLE));
    assert_eq!(leaders(&metadata, "a").len(), 3);
    assert_eq!(metadata.errors["a"], ErrorCode::LEADER_NOT_AVAILABLE);
    let metadata = bench.learn("a", topic("a", 1, &[(-1, 2), (2, 0), (3, 0)]));
    assert_eq!(leaders(&metadata, "a")[0], (-1, 2));
    assert!(metadata.errors.is_empty());
}

#[test]
fn a_topic_is_gone_when_it_is_confirmed() {
    let mut bench = Bench::new();
    bench.learn("a", topic("a", 1, &[(1, 0)]));
    for answer in 1..=UNKNOWN_ANSWERS_MAX {
        let metadata = bench.learn("a", failed("a", ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
        assert_eq!(metadata.topic("a").is_some(), answer < UNKNOWN_ANSWERS_MAX, "answer {answer}");
    }
    let mut bench = Bench::new();
    bench.learn("b", topic("b", 2, &[(1, 0)]));
    let metadata = bench.learn("b", failed("b", ErrorCode::TOPIC_AUTHORIZATION_FAILED));
    assert!(metadata.topic("b").is_none());
}

#[test]
fn a_topic_made_anew_is_another_one_whatever_its_size_and_does_not_come_back() {
    let mut bench = Bench::new();
    bench.learn("a", topic("a", 1, &[(1, 7), (2, 7), (3, 7)]));
    bench.want("a");
    bench.after(2000);
    bench.query();
    let metadata = bench.answer(vec![topic("a", 2, &[(2, 0)])]);
    assert_eq!(leaders(&metadata, "a").len(), 3, "one answer may be that of a broker that lags");
    // Nobody has to ask: it asks again, and another node.
    bench.now = bench.updater.next_deadline().unwrap();
    let query = bench.updater.query(bench.now).unwrap();
    assert_eq!(query.avoid, [NodeId(1)]);
    let metadata = bench.answer(vec![topic("a", 2, &[(2, 0)])]);
    assert_eq!((leaders(&metadata, "a"), metadata.topic("a").unwrap().id), (vec![(2, 0)], Uuid([2; 16])));
    for _ in 0..10 {
        let metadata = bench.learn("a", topic("a", 1, &[(1, 7), (2, 7), (3, 7)]));
        assert_eq!(leaders(&metadata, "a"), [(2, 0)]);
    }
    bench.learn("a", topic("a", 3, &[(1, 0), (1, 0)]));
    let metadata = bench.learn("a", topic("a", 3, &[(1, 0), (1, 0)]));
    assert_eq!(leaders(&metadata, "a").len(), 2);
    // Not even if the name was gone meanwhile.
    for _ in 0..UNKNOWN_ANSWERS_MAX {
        bench.learn("a", failed("a", ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    }
    assert!(bench.learn("a", topic("a", 2, &[(2, 0)])).topic("a").is_none());
}

#[test]
fn whoever_knows_nothing_new_when_something_is_doubted_is_not_asked_next() {
    let mut bench = Bench::new();
    bench.learn("a", topic("a", 1, &[(1, 7)]));
    // Nobody doubts anything.
    bench.updater.want_refresh();
    assert_eq!(bench.query(), "a");
    bench.answer(vec![topic("a", 1, &[(1, 7)])]);
    bench.want("a");
    bench.after(2000);
    assert_eq!(bench.updater.query(bench.now).unwrap().avoid, []);
    bench.answer(vec![topic("a", 1, &[(1, 7)])]);
    // The answer was that of a node that lags behind for good; another one knows.
    bench.want("a");
    bench.after(2000);
    assert_eq!(bench.updater.query(bench.now).unwrap().avoid, [NodeId(1)]);
    let metadata = bench.answer_of(NodeId(2), vec![topic("a", 1, &[(3, 8)])]);
    assert_eq!(leaders(&metadata, "a"), [(3, 8)]);
    bench.want("a");
    bench.after(2000);
    assert_eq!(bench.updater.query(bench.now).unwrap().avoid, []);
}

#[test]
fn what_is_wrong_is_watched_until_it_is_right() {
    let mut bench = Bench::new();
    bench.learn("a", topic("a", 1, &[(1, 0)]));
    bench.want("a");
    bench.after(2000);
    bench.query();
    let began = bench.now;
    let mut metadata = bench.answer(vec![failed("a", ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)]);
    let mut watch = |bench: &mut Bench, answer: MetadataResponseTopic| {
        bench.now = bench.updater.next_deadline().unwrap();
        assert_eq!(bench.query(), "a");
        metadata = bench.answer(vec![answer]);
        Arc::clone(&metadata)
    };
    while watch(&mut bench, failed("a", ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)).topic("a").is_some() {}
    assert!(bench.now - began < Duration::from_secs(2), "gone after {:?}", bench.now - began);
    for _ in 0..20 {
        let before = bench.now;
        watch(&mut bench, failed("a", ErrorCode::TOPIC_AUTHORIZATION_FAILED));
        assert!(bench.now - before <= WATCH_MAX);
    }
    watch(&mut bench, topic("a", 1, &[(-1, 0)]));
    let metadata = watch(&mut bench, topic("a", 1, &[(2, 1)]));
    assert_eq!(leaders(&metadata, "a"), [(2, 1)]);
    assert!(bench.updater.next_deadline().unwrap() > bench.now + Duration::from_secs(100));
}

#[test]
fn a_node_that_does_not_answer_costs_a_moment() {
    let mut bench = Bench::new();
    bench.want("a");
    let mut waits = Vec::new();
    for node in [1, 2, 1, 3, 4, 5, 6] {
        let query = bench.updater.query(bench.now).expect("others are asked at once");
        waits.push(query.patience.as_secs());
        bench.now += query.patience;
        let error = Error::new(ErrorKind::Timeout, "no answer");
        bench.updater.handle_failure(bench.now, Some(NodeId(node)), error, 0);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    let query = bench.updater.query(bench.now).unwrap();
    assert_eq!(query.avoid, [2, 1, 3, 4, 5, 6].map(NodeId));
    bench.answer(vec![topic("a", 1, &[(1, 0)])]);
    bench.want("a");
    bench.after(100);
    let query = bench.updater.query(bench.now).unwrap();
    assert_eq!((query.patience.as_secs(), query.avoid), (1, Vec::new()));
}

#[test]
fn topics_that_nobody_uses_leave_the_refresh() {
    let mut bench = Bench::new();
    for (id, name) in [(1, "once"), (2, "used"), (3, "missing")] {
        bench.want(name);
        bench.query();
        let answer = if name == "missing" {
            failed(name, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
        } else {
            topic(name, id, &[(1, 0)])
        };
        bench.answer(vec![answer]);
    }
    let mut questions = Vec::new();
    for _ in 0..5 {
        bench.after(301_000);
        questions.push(bench.query());
        let metadata = bench.answer(vec![topic("used", 2, &[(1, 0)])]);
        assert!(metadata.topic("used").is_some());
        assert_eq!(metadata.topic("once").is_some(), questions.last().unwrap().contains("once"));
        bench.updater.use_topic(bench.now, &"used".into(), false);
    }
    assert_eq!(questions, ["missing,once,used", "used", "used", "used", "used"]);
    // Whoever comes back asks anew.
    bench.updater.use_topic(bench.now, &"once".into(), false);
    bench.after(100);
    assert_eq!(bench.query(), "once");
}

#[test]
fn another_cluster_behind_the_same_name_starts_over() {
    let mut bench = Bench::new();
    bench.learn("a", topic("a", 0, &[(1, 50)]));
    bench.updater.want_refresh();
    bench.query();
    let response = MetadataResponse {
        cluster_id: Some("other".into()),
        topics: vec![topic("a", 0, &[(2, 1)])],
        ..cluster()
    };
    let metadata = bench.updater.handle_response(bench.now, NodeId(1), &response, 12, 0).unwrap();
    assert_eq!(leaders(&metadata, "a"), [(2, 1)]);
}

#[test]
fn leader_hints_are_taken_if_they_are_news_of_reachable_nodes() {
    let mut bench = Bench::new();
    bench.learn("a", topic("a", 1, &[(1, 5)]));
    let hint = |leader_id, leader_epoch| CurrentLeader { leader_id, leader_epoch };
    let at = |node_id| NodeEndpoint { node_id, host: "new".into(), port: 1, rack: None };
    let mut try_hint = |partition, hint, endpoints: &[NodeEndpoint]| {
        bench.updater.handle_hint("a", Uuid([1; 16]), Partition(partition), hint, endpoints)
    };
    assert!(!try_hint(0, hint(2, 5), &[]), "the same epoch");
    assert!(!try_hint(0, hint(-1, 6), &[]));
    assert!(!try_hint(0, hint(2, -1), &[]));
    assert!(!try_hint(1, hint(2, 6), &[]), "no such partition");
    assert!(!try_hint(0, hint(9, 6), &[]), "an unknown node without address");
    assert!(try_hint(0, hint(2, 6), &[]));
    assert!(try_hint(0, hint(9, 7), &[at(8), at(9)]));
    let metadata = bench.updater.current();
    assert_eq!(leaders(metadata, "a"), [(9, 7)]);
    assert_eq!(metadata.nodes.keys().map(|node| node.0).collect::<Vec<_>>(), [1, 2, 3, 9]);
}

#[test]
fn lying_partition_indexes_reserve_nothing() {
    let mut bench = Bench::new();
    let mut lie = topic("a", 1, &[(1, 0), (1, 0)]);
    lie.partitions[0].partition_index = i32::MAX;
    lie.partitions[1].partition_index = -1;
    let metadata = bench.learn("a", lie);
    assert!(metadata.topic("a").unwrap().partitions.is_empty());
}

#[test]
fn a_late_hint_about_a_topic_that_was_replaced_is_none_about_its_successor() {
    let mut bench = Bench::new();
    bench.learn("a", topic("a", 2, &[(1, 0)]));
    let hint = CurrentLeader { leader_id: 2, leader_epoch: 5 };
    let mut try_hint = |id| bench.updater.handle_hint("a", id, Partition(0), hint, &[]);
    assert!(!try_hint(Uuid([1; 16])), "the topic before");
    assert!(try_hint(Uuid([2; 16])));
    assert_eq!(leaders(bench.updater.current(), "a"), [(2, 5)]);
    // Old brokers have no ids.
    let hint = CurrentLeader { leader_id: 1, leader_epoch: 6 };
    assert!(bench.updater.handle_hint("a", Uuid::default(), Partition(0), hint, &[]));
}
