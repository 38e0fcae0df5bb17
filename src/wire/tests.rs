//! The hand-written Produce and Fetch bodies against the generated messages: the same bytes in every version, both
//! ways, and no panic on damaged ones.

use bytes::{BufMut, Bytes, BytesMut};

use super::messages::fetch as gen_fetch;
use super::messages::produce as gen_produce;
use super::records::HEADER_LEN;
use super::{Decode, Encode, Reader, Str, Uuid, fetch, produce};
use crate::ErrorCode;

const SEEDS: std::ops::Range<u64> = 0..40;

/// Small random values.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    fn chance(&mut self) -> bool {
        self.roll() & 1 == 0
    }

    fn int(&mut self) -> i32 {
        (self.roll() >> self.below(64)) as i32
    }

    fn long(&mut self) -> i64 {
        (self.roll() >> self.below(64)) as i64
    }

    fn text(&mut self) -> Str {
        "ä-topic-with-a-name".chars().take(self.below(20) as usize).collect::<String>().into()
    }

    fn maybe_text(&mut self) -> Option<Str> {
        self.chance().then(|| self.text())
    }

    fn uuid(&mut self) -> Uuid {
        Uuid((u128::from(self.roll()) << 64 | 1).to_be_bytes())
    }

    fn bytes(&mut self) -> Bytes {
        let len = if self.below(8) == 0 { 4000 + self.below(200) } else { self.below(200) };
        (0..len).map(|at| at as u8).collect()
    }

    fn many<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| make(self)).collect()
    }
}

fn join(parts: &[Bytes]) -> Bytes {
    assert!(parts.iter().all(|part| !part.is_empty()));
    parts.concat().into()
}

fn generated<T: Encode>(message: &T, version: i16) -> Bytes {
    let mut w = BytesMut::new();
    message.encode(&mut w, version).unwrap();
    w.freeze()
}

/// Every prefix fails, and no changed bit panics.
fn hurt<T: std::fmt::Debug>(bytes: &Bytes, decode: impl Fn(&mut Reader) -> Result<T, super::DecodeError>) {
    if bytes.len() > 2000 {
        return;
    }
    for cut in 0..bytes.len() {
        let error = decode(&mut Reader::new(bytes.slice(..cut))).unwrap_err();
        assert!(error.offset() <= cut);
    }
    let mut long = bytes.to_vec();
    long.push(0);
    assert!(decode(&mut Reader::new(long.into())).is_err(), "bytes after the body");
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        let _ = decode(&mut Reader::new(changed.into()));
    }
}

fn leader(dice: &mut Dice, from: bool) -> Option<produce::CurrentLeader> {
    let leader = produce::CurrentLeader { leader_id: dice.below(9) as i32, leader_epoch: dice.int() };
    (dice.chance() && from).then_some(leader)
}

fn endpoints(dice: &mut Dice, from: bool) -> Vec<produce::NodeEndpoint> {
    let endpoints = dice.many(|dice| produce::NodeEndpoint {
        node_id: dice.int(),
        host: dice.text(),
        port: dice.int(),
        rack: dice.maybe_text(),
    });
    if from { endpoints } else { Vec::new() }
}

fn topic(dice: &mut Dice, by_id: bool) -> (Str, Uuid) {
    let (name, id) = (dice.text(), dice.uuid());
    if by_id { (Str::new(), id) } else { (name, Uuid::ZERO) }
}

#[test]
fn produce_requests() {
    for (version, seed) in (3..=13).flat_map(|version| SEEDS.map(move |seed| (version, seed))) {
        let mut dice = Dice(seed);
        let head = produce::RequestHead {
            transactional_id: dice.maybe_text(),
            acks: dice.int() as i16,
            timeout_ms: dice.int(),
        };
        let mut batches = Vec::new();
        let mut topics = Vec::new();
        for number in 0..dice.below(4) {
            let name: Str = format!("topic-{number}").into();
            let topic_id = Uuid(u128::from(number + 1).to_be_bytes());
            let mut partition_data = Vec::new();
            for partition in 0..=dice.below(3) as i32 {
                let (header, body) = ([dice.roll() as u8; HEADER_LEN], dice.bytes());
                partition_data.push(gen_produce::PartitionProduceData {
                    index: partition,
                    records: Some([&header[..], &body].concat().into()),
                });
                batches.push(produce::PartitionBatch {
                    topic: name.clone(),
                    topic_id,
                    partition,
                    header,
                    body,
                });
            }
            let (name, topic_id) = if version >= 13 { (Str::new(), topic_id) } else { (name, Uuid::ZERO) };
            topics.push(gen_produce::TopicProduceData { name, topic_id, partition_data });
        }
        // Batches of a topic need not come together, only those of one topic in order.
        batches.sort_by_key(|batch| batch.partition);
        let message = gen_produce::ProduceRequest {
            transactional_id: head.transactional_id.clone(),
            acks: head.acks,
            timeout_ms: head.timeout_ms,
            topic_data: topics,
        };
        let bytes = generated(&message, version);
        let parts = produce::encode_request(&head, &batches, version).unwrap();
        assert_eq!(join(&parts), bytes, "version {version}, seed {seed}");
        let large: Vec<_> = batches.iter().filter(|batch| batch.body.len() >= 4096).collect();
        let shared =
            parts.iter().filter(|part| large.iter().any(|batch| batch.body.as_ptr() == part.as_ptr()));
        assert_eq!(shared.count(), large.len());
    }
}

#[test]
fn produce_refuses_what_a_version_cannot_carry() {
    let head = produce::RequestHead { transactional_id: None, acks: -1, timeout_ms: 1 };
    let batch = produce::PartitionBatch {
        topic: "t".into(),
        topic_id: Uuid::ZERO,
        partition: 0,
        header: [0; HEADER_LEN],
        body: Bytes::new(),
    };
    assert!(produce::encode_request(&head, std::slice::from_ref(&batch), 12).is_ok());
    let error = produce::encode_request(&head, &[batch], 13).unwrap_err();
    assert_eq!(error.path(), "topic_data.topic_id");
    for version in [2, 14] {
        assert!(produce::encode_request(&head, &[], version).is_err());
        assert!(produce::Response::decode(&mut Reader::new(Bytes::from_static(&[0; 64])), version).is_err());
    }
}

#[test]
fn produce_answers() {
    for (version, seed) in (3..=13).flat_map(|version| SEEDS.map(move |seed| (version, seed))) {
        let dice = &mut Dice(seed);
        let response = produce::Response {
            topics: dice.many(|dice| {
                let (name, topic_id) = topic(dice, version >= 13);
                let partitions = dice.many(|dice| produce::PartitionResponse {
                    partition: dice.int(),
                    error_code: ErrorCode(dice.int() as i16),
                    base_offset: dice.long(),
                    log_append_time_ms: dice.long(),
                    log_start_offset: if version >= 5 { dice.long() } else { -1 },
                    record_errors: if version >= 8 {
                        dice.many(|dice| produce::RecordError {
                            index: dice.int(),
                            message: dice.maybe_text(),
                        })
                    } else {
                        Vec::new()
                    },
                    error_message: dice.maybe_text().filter(|_| version >= 8),
                    current_leader: leader(dice, version >= 10),
                });
                produce::TopicResponse { name, topic_id, partitions }
            }),
            throttle_time_ms: dice.int(),
            node_endpoints: endpoints(dice, version >= 10),
        };
        let message = gen_produce::ProduceResponse {
            responses: response
                .topics
                .iter()
                .map(|topic| gen_produce::TopicProduceResponse {
                    name: topic.name.clone(),
                    topic_id: topic.topic_id,
                    partition_responses: topic.partitions.iter().map(produced).collect(),
                })
                .collect(),
            throttle_time_ms: response.throttle_time_ms,
            node_endpoints: response
                .node_endpoints
                .iter()
                .cloned()
                .map(|e| gen_produce::NodeEndpoint {
                    node_id: e.node_id,
                    host: e.host,
                    port: e.port,
                    rack: e.rack,
                })
                .collect(),
        };
        let bytes = generated(&message, version);
        assert_eq!(produce::Response::decode(&mut Reader::new(bytes.clone()), version), Ok(response));
        if seed < 8 {
            hurt(&bytes, |r| produce::Response::decode(r, version));
        }
    }
}

fn produced(partition: &produce::PartitionResponse) -> gen_produce::PartitionProduceResponse {
    gen_produce::PartitionProduceResponse {
        index: partition.partition,
        error_code: partition.error_code.0,
        base_offset: partition.base_offset,
        log_append_time_ms: partition.log_append_time_ms,
        log_start_offset: partition.log_start_offset,
        record_errors: partition
            .record_errors
            .iter()
            .map(|error| gen_produce::BatchIndexAndErrorMessage {
                batch_index: error.index,
                batch_index_error_message: error.message.clone(),
            })
            .collect(),
        error_message: partition.error_message.clone(),
        current_leader: partition.current_leader.map_or_else(Default::default, |leader| {
            gen_produce::LeaderIdAndEpoch { leader_id: leader.leader_id, leader_epoch: leader.leader_epoch }
        }),
    }
}

#[test]
fn fetch_requests() {
    for (version, seed) in (4..=17).flat_map(|version| SEEDS.map(move |seed| (version, seed))) {
        let dice = &mut Dice(seed);
        let request = fetch::Request {
            max_wait_ms: dice.int(),
            min_bytes: dice.int(),
            max_bytes: dice.int(),
            isolation_level: dice.below(2) as i8,
            session_id: if version >= 7 { dice.int() } else { 0 },
            session_epoch: if version >= 7 { dice.int() } else { -1 },
            topics: dice.many(|dice| {
                let (name, topic_id) = topic(dice, version >= 13);
                let partitions = dice.many(|dice| fetch::PartitionRequest {
                    partition: dice.int(),
                    current_leader_epoch: if version >= 9 { dice.int() } else { -1 },
                    fetch_offset: dice.long(),
                    last_fetched_epoch: if version >= 12 { dice.int() } else { -1 },
                    partition_max_bytes: dice.int(),
                });
                fetch::TopicRequest { name, topic_id, partitions }
            }),
            forgotten: if version >= 7 {
                dice.many(|dice| {
                    let (name, topic_id) = topic(dice, version >= 13);
                    fetch::ForgottenTopic { name, topic_id, partitions: dice.many(Dice::int) }
                })
            } else {
                Vec::new()
            },
            rack_id: if version >= 11 { dice.text() } else { Str::new() },
        };
        let message = gen_fetch::FetchRequest {
            max_wait_ms: request.max_wait_ms,
            min_bytes: request.min_bytes,
            max_bytes: request.max_bytes,
            isolation_level: request.isolation_level,
            session_id: request.session_id,
            session_epoch: request.session_epoch,
            topics: request
                .topics
                .iter()
                .map(|topic| gen_fetch::FetchTopic {
                    topic: topic.name.clone(),
                    topic_id: topic.topic_id,
                    partitions: topic
                        .partitions
                        .iter()
                        .map(|partition| gen_fetch::FetchPartition {
                            partition: partition.partition,
                            current_leader_epoch: partition.current_leader_epoch,
                            fetch_offset: partition.fetch_offset,
                            last_fetched_epoch: partition.last_fetched_epoch,
                            partition_max_bytes: partition.partition_max_bytes,
                            ..Default::default()
                        })
                        .collect(),
                })
                .collect(),
            forgotten_topics_data: request
                .forgotten
                .iter()
                .map(|topic| gen_fetch::ForgottenTopic {
                    topic: topic.name.clone(),
                    topic_id: topic.topic_id,
                    partitions: topic.partitions.clone().into(),
                })
                .collect(),
            rack_id: request.rack_id.clone(),
            ..Default::default()
        };
        let bytes = generated(&message, version);
        let mut w = BytesMut::new();
        request.encode(&mut w, version).unwrap();
        assert_eq!(w, bytes, "version {version}, seed {seed}");
    }
}

#[test]
fn fetch_refuses_what_a_version_cannot_carry() {
    let forgotten =
        vec![fetch::ForgottenTopic { name: "t".into(), partitions: vec![1], ..Default::default() }];
    let request = fetch::Request { forgotten, ..Default::default() };
    let error = request.encode(&mut BytesMut::new(), 6).unwrap_err();
    assert_eq!(error.path(), "forgotten_topics_data");
    assert!(request.encode(&mut BytesMut::new(), 12).is_ok());
    let error = request.encode(&mut BytesMut::new(), 13).unwrap_err();
    assert_eq!(error.path(), "forgotten_topics_data.topic_id");
    assert!(request.encode(&mut BytesMut::new(), 18).is_err());
}

#[test]
fn fetch_answers() {
    for (version, seed) in (4..=17).flat_map(|version| SEEDS.map(move |seed| (version, seed))) {
        let dice = &mut Dice(seed);
        let response = fetch::Response::<Vec<Bytes>> {
            throttle_time_ms: dice.int(),
            error_code: ErrorCode(if version >= 7 { dice.int() as i16 } else { 0 }),
            session_id: if version >= 7 { dice.int() } else { 0 },
            topics: dice.many(|dice| {
                let (name, topic_id) = topic(dice, version >= 13);
                let partitions = dice.many(|dice| fetch::PartitionData {
                    partition: dice.int(),
                    error_code: ErrorCode(dice.int() as i16),
                    high_watermark: dice.long(),
                    last_stable_offset: dice.long(),
                    log_start_offset: if version >= 5 { dice.long() } else { -1 },
                    diverging_epoch: Some(fetch::EpochEndOffset { epoch: dice.int(), end_offset: 7 })
                        .filter(|_| dice.chance() && version >= 12),
                    current_leader: leader(dice, version >= 12),
                    aborted_transactions: dice.chance().then(|| {
                        dice.many(|dice| fetch::AbortedTransaction {
                            producer_id: dice.long(),
                            first_offset: dice.long(),
                        })
                    }),
                    preferred_read_replica: (version >= 11 && dice.chance()).then_some(3),
                    records: dice.many(Dice::bytes),
                });
                fetch::TopicData { name, topic_id, partitions }
            }),
            node_endpoints: endpoints(dice, version >= 16),
        };
        let message = gen_fetch::FetchResponse {
            throttle_time_ms: response.throttle_time_ms,
            error_code: response.error_code.0,
            session_id: response.session_id,
            responses: response
                .topics
                .iter()
                .map(|topic| gen_fetch::FetchableTopicResponse {
                    topic: topic.name.clone(),
                    topic_id: topic.topic_id,
                    partitions: topic.partitions.iter().map(fetched).collect(),
                })
                .collect(),
            node_endpoints: response
                .node_endpoints
                .iter()
                .cloned()
                .map(|e| gen_fetch::NodeEndpoint {
                    node_id: e.node_id,
                    host: e.host,
                    port: e.port,
                    rack: e.rack,
                })
                .collect(),
        };
        let bytes = generated(&message, version);
        assert_eq!(join(&response.encode(version).unwrap()), bytes, "version {version}, seed {seed}");

        let read = fetch::Response::decode(&mut Reader::new(bytes.clone()), version).unwrap();
        let whole = bytes.as_ptr() as usize..=bytes.as_ptr() as usize + bytes.len();
        for partition in read.topics.iter().flat_map(|topic| &topic.partitions) {
            assert!(partition.records.is_empty() || whole.contains(&(partition.records.as_ptr() as usize)));
        }
        let joined = response.map_records(|parts| Bytes::from(parts.concat()));
        assert_eq!(read, joined, "version {version}, seed {seed}");
        if seed < 8 {
            hurt(&bytes, |r| fetch::Response::decode(r, version));
        }
    }
}

fn fetched(partition: &fetch::PartitionData<Vec<Bytes>>) -> gen_fetch::PartitionData {
    gen_fetch::PartitionData {
        partition_index: partition.partition,
        error_code: partition.error_code.0,
        high_watermark: partition.high_watermark,
        last_stable_offset: partition.last_stable_offset,
        log_start_offset: partition.log_start_offset,
        diverging_epoch: partition.diverging_epoch.map_or_else(Default::default, |end| {
            gen_fetch::EpochEndOffset { epoch: end.epoch, end_offset: end.end_offset }
        }),
        current_leader: partition.current_leader.map_or_else(Default::default, |leader| {
            gen_fetch::LeaderIdAndEpoch { leader_id: leader.leader_id, leader_epoch: leader.leader_epoch }
        }),
        aborted_transactions: partition.aborted_transactions.as_ref().map(|aborted| {
            let entry = |t: &fetch::AbortedTransaction| gen_fetch::AbortedTransaction {
                producer_id: t.producer_id,
                first_offset: t.first_offset,
            };
            aborted.iter().map(entry).collect()
        }),
        preferred_read_replica: partition.preferred_read_replica.unwrap_or(-1),
        records: Some(partition.records.concat().into()),
        ..Default::default()
    }
}

#[test]
fn counts_are_checked_before_anything_is_reserved() {
    for version in 3..=13 {
        let mut w = BytesMut::new();
        if version >= 9 {
            w.put_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f])
        } else {
            w.put_i32(i32::MAX)
        }
        w.put_slice(&[0; 100]);
        assert!(produce::Response::decode(&mut Reader::new(w.freeze()), version).is_err());
    }
    // The generated decoder agrees on what it accepts.
    let bytes = Bytes::from_static(&[0; 64]);
    let hand = produce::Response::decode(&mut Reader::new(bytes.slice(..8)), 3);
    let other = gen_produce::ProduceResponse::decode(&mut Reader::new(bytes.slice(..8)), 3);
    assert!(hand.is_ok() && other.is_ok());
}
