//! The cluster's machine on made-up time: replication, leaders, retention.

use std::time::Duration;

use tokio::time::Instant;

use crate::ErrorCode;
use crate::broker::cluster::{Append, Appended, Endpoint, NewTopic, State, check_topic_name};
use crate::broker::log::{Depth, Examined, Refusal, examine, test_batch};
use crate::broker::partition::Partition;
use crate::broker::settings::Settings;

const LAG: Duration = Duration::from_millis(100);

struct Bench {
    state: State,
    now: Instant,
    sequence: i32,
}

/// With acks=all.
fn attempt(node: i32, topic: &str, partition: i32, wall: i64) -> Append<'_> {
    Append { node, topic, partition, all: true, wall, transactional: None }
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let nodes = settings.nodes;
        let mut state = State::new(settings, fastrand::Rng::with_seed(1));
        for node in 0..nodes {
            state.add_node(node, vec![Endpoint { host: "h".into(), port: 9092 }]);
        }
        let new = NewTopic { name: "t".into(), partitions: Some(1), ..NewTopic::default() };
        let now = Instant::now();
        state.create_topic(new, false, now).unwrap();
        Self { state, now, sequence: 0 }
    }

    fn three(lag: Duration) -> Self {
        Self::new(Settings { nodes: 3, replication_lag: lag, ..Settings::default() })
    }

    fn partition(&self) -> &Partition {
        self.state.topic("t").unwrap().partition(0).unwrap()
    }

    /// Appends ten records at the leader.
    fn append(&mut self) -> Result<Appended, Refusal> {
        let batch = look(&test_batch(10, (77, 0, self.sequence), true));
        let leader = self.partition().leader;
        let appended = self.state.append(attempt(leader, "t", 0, 0), &batch, self.now)?;
        self.sequence += 10;
        Ok(appended)
    }

    fn after(&mut self, time: Duration) {
        self.now += time;
        self.state.handle_timeout(self.now);
    }

    fn high_watermark(&self) -> i64 {
        self.partition().high_watermark
    }

    fn ends(&self) -> Vec<i64> {
        self.partition().logs.values().map(|log| log.end()).collect()
    }
}

fn look(batch: &[u8]) -> Examined {
    examine(bytes::Bytes::copy_from_slice(batch), Depth::Records)
}

#[test]
fn without_lag_an_append_is_committed_at_once() {
    let mut f = Bench::three(Duration::ZERO);
    assert_eq!(f.append().unwrap().base_offset, 0);
    assert_eq!((f.high_watermark(), f.ends()), (10, vec![10, 10, 10]));
    assert_eq!(f.state.next_deadline(), None);
}

#[test]
fn the_high_watermark_follows_the_slowest_replica() {
    let mut f = Bench::three(LAG);
    f.append().unwrap();
    assert_eq!((f.high_watermark(), f.ends()), (0, vec![10, 0, 0]));
    f.after(LAG / 2);
    f.append().unwrap();
    f.after(LAG / 2);
    assert_eq!((f.high_watermark(), f.ends()), (10, vec![20, 10, 10]));
    f.state.set_replication_lag(Some(2), Duration::ZERO, f.now);
    assert_eq!((f.high_watermark(), f.ends()), (10, vec![20, 10, 20]));
    f.after(LAG);
    assert_eq!(f.high_watermark(), 20);
}

#[test]
fn a_stopped_follower_leaves_the_in_sync_set_and_returns() {
    let mut f = Bench::three(Duration::ZERO);
    f.state.set_replication_lag(Some(1), Duration::MAX, f.now);
    f.append().unwrap();
    assert_eq!((f.high_watermark(), f.partition().isr.clone()), (0, vec![0, 1, 2]));
    f.after(Duration::from_secs(30));
    assert_eq!((f.high_watermark(), f.partition().isr.clone()), (10, vec![0, 2]));
    f.state.set_replication_lag(Some(1), Duration::ZERO, f.now);
    assert_eq!((f.partition().isr.clone(), f.ends()), (vec![0, 2, 1], vec![10, 10, 10]));
}

#[test]
fn a_new_leader_cuts_off_what_was_not_committed() {
    let mut f = Bench::three(LAG);
    f.append().unwrap();
    f.after(LAG);
    f.append().unwrap();
    f.state.move_leader("t", 0, 1, false, f.now).unwrap();
    let partition = f.partition();
    assert_eq!((partition.leader, partition.leader_epoch, f.ends()), (1, 1, vec![10, 10, 10]));
    // The producer repeats what was lost with the same sequence, and it is new to this leader.
    f.sequence = 10;
    assert_eq!(f.append().unwrap().base_offset, 10);
    // What is committed is recognised.
    f.sequence = 0;
    assert_eq!(f.append().unwrap().base_offset, 0);
    assert_eq!(f.high_watermark(), 10);
    f.after(LAG);
    assert_eq!((f.high_watermark(), f.ends()), (20, vec![20, 20, 20]));
}

#[test]
fn the_cut_off_tail_never_counts_as_committed() {
    let mut f = Bench::three(LAG);
    f.append().unwrap();
    f.state.move_leader("t", 0, 1, false, f.now).unwrap();
    f.sequence = 0;
    f.append().unwrap();
    f.append().unwrap();
    assert_eq!((f.high_watermark(), f.ends()), (0, vec![0, 20, 0]));
    f.after(LAG);
    assert_eq!((f.high_watermark(), f.ends()), (20, vec![20, 20, 20]));
}

#[test]
fn nodes_die_and_return_with_their_logs() {
    let mut f = Bench::three(Duration::ZERO);
    f.append().unwrap();
    f.state.kill_node(0, f.now);
    assert_eq!((f.partition().leader, f.partition().isr.clone()), (1, vec![1, 2]));
    f.append().unwrap();
    f.state.kill_node(1, f.now);
    f.state.kill_node(2, f.now);
    assert_eq!((f.partition().leader, f.partition().isr.clone()), (-1, vec![2]));
    f.state.restart_node(0, f.now);
    assert_eq!(f.partition().leader, -1, "node 0 lacks committed records");
    f.state.restart_node(2, f.now);
    assert_eq!((f.partition().leader, f.ends()), (2, vec![20, 20, 20]));
    f.state.restart_node(1, f.now);
    assert_eq!((f.partition().isr.len(), f.high_watermark()), (3, 20));
}

#[test]
fn unclean_elections_lose_what_the_leader_lacks() {
    let mut f = Bench::three(Duration::ZERO);
    f.append().unwrap();
    f.state.set_replication_lag(Some(1), Duration::MAX, f.now);
    f.append().unwrap();
    f.after(Duration::from_secs(31));
    assert_eq!(f.high_watermark(), 20);
    let clean = f.state.move_leader("t", 0, 1, false, f.now);
    assert_eq!(clean, Err(ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE));
    f.state.move_leader("t", 0, 1, true, f.now).unwrap();
    assert_eq!((f.high_watermark(), f.ends()), (10, vec![10, 10, 10]));
    let log = f.partition().leader_log().unwrap();
    assert_eq!((log.end_of_epoch(0), log.end_of_epoch(1)), (Some((0, 10)), Some((1, 10))));
}

#[test]
fn too_few_in_sync_replicas_refuse_acks_all() {
    let mut f = Bench::new(Settings { nodes: 3, min_insync_replicas: 2, ..Settings::default() });
    f.append().unwrap();
    f.state.kill_node(1, f.now);
    f.append().unwrap();
    f.state.kill_node(2, f.now);
    assert_eq!(f.append().unwrap_err().code, ErrorCode::NOT_ENOUGH_REPLICAS);
    assert_eq!(f.high_watermark(), 20);
}

#[test]
fn retention_drops_the_oldest_batches_of_all_replicas() {
    let size = test_batch(10, (77, 0, 0), true).len();
    let mut f = Bench::new(Settings { nodes: 3, retention_bytes: size * 3, ..Settings::default() });
    for _ in 0..10 {
        f.append().unwrap();
    }
    for log in f.partition().logs.values() {
        assert_eq!((log.start(), log.end(), log.bytes()), (70, 100, size * 3));
    }
    let id = f.state.topic("t").unwrap().id;
    assert_eq!(f.state.advance_start(id, 0, 1000), Some(100));
}

#[test]
fn batches_are_judged_as_kafka_does() {
    let mut f = Bench::new(Settings { message_max_bytes: 300, ..Settings::default() });
    let mut code = |batch: &[u8]| {
        let batch = look(batch);
        f.state.append(attempt(0, "t", 0, 0), &batch, f.now).map(|_| ()).unwrap_err().code
    };
    assert_eq!(code(&test_batch(100, (-1, -1, -1), true)), ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(code(b"short"), ErrorCode::CORRUPT_MESSAGE);
    let mut damaged = test_batch(1, (-1, -1, -1), true).to_vec();
    damaged[65] ^= 1;
    assert_eq!(code(&damaged), ErrorCode::CORRUPT_MESSAGE);
    damaged[16] = 1;
    assert_eq!(code(&damaged), ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT);
    let batch = look(&test_batch(1, (-1, -1, -1), true));
    let elsewhere = f.state.append(attempt(3, "t", 0, 0), &batch, f.now).unwrap_err().code;
    assert_eq!(elsewhere, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    let unknown = f.state.append(attempt(0, "t", 1, 0), &batch, f.now).unwrap_err().code;
    assert_eq!(unknown, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn compacted_topics_name_the_records_without_key() {
    let mut f = Bench::new(Settings::default());
    let new = NewTopic {
        name: "c".into(),
        configs: [("cleanup.policy".to_owned(), "compact".to_owned())].into(),
        ..NewTopic::default()
    };
    f.state.create_topic(new, false, f.now).unwrap();
    let mut append = |keys| {
        let batch = look(&test_batch(2, (-1, -1, -1), keys));
        f.state.append(attempt(0, "c", 0, 0), &batch, f.now).map(|_| ())
    };
    assert!(append(true).is_ok());
    let refusal = append(false).unwrap_err();
    assert_eq!((refusal.code, refusal.records.len()), (ErrorCode::INVALID_RECORD, 2));
}

#[test]
fn timestamps_far_from_the_brokers_are_refused() {
    const HOUR: i64 = 3_600_000;
    let mut f = Bench::new(Settings::default());
    for (name, key, value) in [
        ("late", "message.timestamp.before.max.ms", HOUR.to_string()),
        ("own", "message.timestamp.type", "LogAppendTime".to_owned()),
    ] {
        let configs = [(key.to_owned(), value)].into();
        let new = NewTopic { name: name.into(), configs, ..NewTopic::default() };
        f.state.create_topic(new, false, f.now).unwrap();
    }
    let batch = look(&test_batch(2, (-1, -1, -1), true));
    let at = batch.head.clone().unwrap().base_timestamp;
    let mut append = |topic, wall| f.state.append(attempt(0, topic, 0, wall), &batch, f.now).map(|_| ());
    assert!(append("t", at - HOUR + 1).is_ok() && append("t", at + 100 * HOUR).is_ok());
    let refusal = append("t", at - HOUR - 1).unwrap_err();
    assert_eq!((refusal.code, refusal.records.len()), (ErrorCode::INVALID_TIMESTAMP, 1));
    assert_eq!(append("late", at + 2 * HOUR).unwrap_err().code, ErrorCode::INVALID_TIMESTAMP);
    assert!(append("own", at - 2 * HOUR).is_ok(), "the broker's own time counts there");
}

#[test]
fn batches_of_deleted_topics_leave_no_trace() {
    let mut f = Bench::new(Settings::default());
    f.append().unwrap();
    for round in 0..3000 {
        let new = NewTopic { name: "u".into(), ..NewTopic::default() };
        f.state.create_topic(new, false, f.now).unwrap();
        let batch = look(&test_batch(1, (1000 + round, 0, 0), true));
        f.state.append(attempt(0, "u", 0, 0), &batch, f.now).unwrap();
        f.state.delete_topic("u").unwrap();
    }
    assert!(f.state.node(0).unwrap().remembered() <= 2048);
}

#[test]
fn topics_are_checked_and_spread() {
    let mut f = Bench::three(Duration::ZERO);
    let mut create = |name: &str, partitions, factor: i16, assignments| {
        let new = NewTopic {
            name: name.into(),
            partitions: Some(partitions),
            replication_factor: Some(factor),
            assignments,
            ..NewTopic::default()
        };
        f.state.create_topic(new, false, f.now).map_err(|(code, _)| code)
    };
    assert_eq!(create("t", 1, 1, None), Err(ErrorCode::TOPIC_ALREADY_EXISTS));
    assert_eq!(create("a/b", 1, 1, None), Err(ErrorCode::INVALID_TOPIC_EXCEPTION));
    assert_eq!(create("u", 0, 1, None), Err(ErrorCode::INVALID_PARTITIONS));
    assert_eq!(create("u", 1, 4, None), Err(ErrorCode::INVALID_REPLICATION_FACTOR));
    assert_eq!(create("u", 1, 1, Some(vec![vec![9]])), Err(ErrorCode::INVALID_REPLICA_ASSIGNMENT));
    assert!(create("u", 6, 2, None).is_ok());
    let leaders: Vec<i32> =
        f.state.topic("u").unwrap().partitions.iter().map(|partition| partition.leader).collect();
    for node in 0..3 {
        assert_eq!(leaders.iter().filter(|leader| **leader == node).count(), 2);
    }
    let mut named = |name: &str| {
        let new = NewTopic { name: name.into(), ..NewTopic::default() };
        f.state.create_topic(new, false, f.now).map_err(|(code, _)| code)
    };
    assert!(named("a.b").is_ok());
    assert_eq!(named("a_b"), Err(ErrorCode::INVALID_TOPIC_EXCEPTION), "metrics write both alike");
    assert_eq!(named("__consumer_offsets"), Err(ErrorCode::TOPIC_ALREADY_EXISTS));
    assert_eq!(named("__cluster_metadata"), Err(ErrorCode::INVALID_REQUEST));
    assert!(f.state.delete_topic("a.b").is_some());
    let again = NewTopic { name: "a_b".into(), ..NewTopic::default() };
    assert!(f.state.create_topic(again, false, f.now).is_ok());
    assert!(f.state.create_partitions("u", 6, None, false).is_err());
    f.state.create_partitions("u", 9, None, false).unwrap();
    assert_eq!(f.state.topic("u").unwrap().partitions.len(), 9);
    assert!(f.state.delete_topic("u").is_some() && f.state.delete_topic("u").is_none());
}

#[test]
fn topic_names_follow_kafkas_rules() {
    for bad in ["", ".", "..", "a b", "ä", &"x".repeat(250)] {
        assert!(check_topic_name(bad).is_err(), "{bad}");
    }
    assert!(check_topic_name("A.b_c-9").is_ok());
}
