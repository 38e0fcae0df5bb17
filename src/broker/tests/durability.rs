//! What was acknowledged with acks=all is in the log once and in order, whatever happens to leaders, replicas and nodes.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::cluster::{Append, Appended, Endpoint, NewTopic, State};
use crate::broker::log::{Depth, examine, test_batch};
use crate::broker::partition::NO_LEADER;
use crate::broker::settings::Settings;

const NODES: i32 = 3;
const IN_FLIGHT_MAX: usize = 5;

/// An idempotent producer of batches of three records that repeats what failed, oldest first.
struct Producer {
    /// Batches acknowledged so far; they are the first ones.
    acknowledged: i32,
    /// Sent in order from `acknowledged` on: where it was sent, and what became of it.
    in_flight: VecDeque<(i32, Appended)>,
}

struct Bench {
    state: State,
    now: Instant,
    dice: fastrand::Rng,
    producer: Producer,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let settings =
            Settings { nodes: NODES, min_insync_replicas: dice.usize(1..3), ..Settings::default() };
        let mut state = State::new(settings, dice.fork());
        for node in 0..NODES {
            state.add_node(node, vec![Endpoint { host: "h".into(), port: 9092 }]);
        }
        let now = Instant::now();
        state.create_topic(NewTopic { name: "t".into(), ..NewTopic::default() }, false, now).unwrap();
        let producer = Producer { acknowledged: 0, in_flight: VecDeque::new() };
        Self { state, now, dice, producer }
    }

    fn leader(&self) -> (i32, i32, i64) {
        let partition = &self.state.topic("t").unwrap().partitions[0];
        (partition.leader, partition.leader_epoch, partition.high_watermark)
    }

    fn send(&mut self) {
        let (leader, _, _) = self.leader();
        if leader == NO_LEADER || self.producer.in_flight.len() == IN_FLIGHT_MAX {
            return;
        }
        let number = self.producer.acknowledged + self.producer.in_flight.len() as i32;
        let batch = examine(test_batch(3, (1, 0, number * 3), true), Depth::Records);
        // A refusal is tried again later; an error of sequence would stall and fail the test at its end.
        let attempt =
            Append { node: leader, topic: "t", partition: 0, all: true, wall: 0, transactional: None };
        if let Ok(appended) = self.state.append(attempt, &batch, self.now) {
            self.producer.in_flight.push_back((leader, appended));
        }
    }

    /// What a waiting request with acks=all would see.
    fn settle(&mut self) {
        let (leader, epoch, high_watermark) = self.leader();
        while let Some((node, appended)) = self.producer.in_flight.front() {
            if *node != leader || appended.leader_epoch != epoch {
                // Failed: this one and all behind it are sent again.
                self.producer.in_flight.clear();
            } else if high_watermark >= appended.end {
                self.producer.in_flight.pop_front();
                self.producer.acknowledged += 1;
            } else {
                break;
            }
        }
    }

    fn step(&mut self) {
        let node = self.dice.i32(..NODES);
        match self.dice.u32(..100) {
            0..50 => self.send(),
            50..70 => {
                self.now += Duration::from_millis(self.dice.u64(1..50));
                self.state.handle_timeout(self.now);
            }
            70..78 => {
                let _ = self.state.move_leader("t", 0, node, false, self.now);
                if self.dice.bool() {
                    // Back and forth before anybody looks.
                    let other = self.dice.i32(..NODES);
                    let _ = self.state.move_leader("t", 0, other, false, self.now);
                }
            }
            78..84 => self.state.kill_node(node, self.now),
            84..92 => self.state.restart_node(node, self.now),
            92..97 => {
                let lag = Duration::from_millis(self.dice.u64(..100));
                let whom = self.dice.bool().then_some(node);
                self.state.set_replication_lag(whom, lag, self.now);
            }
            97..98 => self.state.set_replication_lag(Some(node), Duration::MAX, self.now),
            _ => {
                self.now += Duration::from_secs(31);
                self.state.handle_timeout(self.now);
            }
        }
        if self.dice.u32(..3) > 0 {
            self.settle();
        }
        self.check();
    }

    /// The acknowledged batches lie below the high watermark of whoever leads, in order, once.
    fn check(&self) {
        let partition = &self.state.topic("t").unwrap().partitions[0];
        for node in &partition.isr {
            let log = &partition.logs[node];
            assert!(partition.leader == NO_LEADER || log.end() >= partition.high_watermark);
        }
        let Some(log) = partition.leader_log() else { return };
        let mut expected = 0;
        for batch in log.batches() {
            assert_eq!((batch.head.base_sequence, batch.base_offset), (expected, i64::from(expected)));
            expected += 3;
        }
        assert!(expected >= self.producer.acknowledged * 3, "acknowledged batches are gone");
        assert!(partition.high_watermark >= i64::from(self.producer.acknowledged) * 3);
    }

    /// Everything is repaired; the producer finishes what it began.
    fn finish(&mut self) {
        for node in 0..NODES {
            self.state.restart_node(node, self.now);
        }
        self.state.set_replication_lag(None, Duration::ZERO, self.now);
        self.settle();
        let goal = self.producer.acknowledged + 20;
        for _ in 0..100 {
            self.send();
            self.settle();
        }
        assert!(self.producer.acknowledged >= goal, "the producer is stuck");
        self.check();
        let partition = &self.state.topic("t").unwrap().partitions[0];
        assert_eq!(partition.isr.len(), 3);
        for log in partition.logs.values() {
            assert_eq!(log.end(), partition.high_watermark);
            let bytes: usize = log.batches().map(|batch| batch.len()).sum();
            assert_eq!(log.bytes(), bytes);
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_doubled_or_swapped() {
    for seed in 0..300 {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = Bench::new(seed);
            for _ in 0..400 {
                world.step();
            }
            world.finish();
        });
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
