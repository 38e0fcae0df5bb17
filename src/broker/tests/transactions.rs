//! Transactions over the simulated network: what producers, readers and groups see of them, and what moves and dies meanwhile.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::support::{Bench, Client, produce};
use crate::ErrorCode;
use crate::broker::log::test_batch;
use crate::broker::{Cluster, ClusterBuilder};
use crate::wire::messages as m;
use crate::wire::messages::add_partitions_to_txn::AddPartitionsToTxnTopic;
use crate::wire::messages::describe_producers::{ProducerState, TopicRequest};
use crate::wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionData};
use crate::wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use crate::wire::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use crate::wire::messages::txn_offset_commit::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};

const TOPIC: &str = "t";
const ID: &str = "id";
const NONE: ErrorCode = ErrorCode::NONE;

/// A transactional batch.
fn records(count: i32, producer: (i64, i16), sequence: i32) -> Bytes {
    let mut bytes = test_batch(count, (producer.0, producer.1, sequence), true).to_vec();
    bytes[22] |= 0x10;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

struct Txn {
    client: Client,
    /// Version 2 of the protocol.
    bumps: bool,
    producer: (i64, i16),
}

impl Txn {
    async fn start(bench: &Bench, bumps: bool) -> Self {
        let mut txn = Self { client: bench.client(0).await, bumps, producer: (-1, -1) };
        assert_eq!(txn.init((-1, -1)).await, NONE);
        txn
    }

    async fn init(&mut self, known: (i64, i16)) -> ErrorCode {
        let request = m::InitProducerIdRequest {
            transactional_id: Some(ID.into()),
            transaction_timeout_ms: 60_000,
            producer_id: known.0,
            producer_epoch: known.1,
        };
        let answer = self.client.ask(&request, 5).await;
        if answer.error_code == 0 {
            self.producer = (answer.producer_id, answer.producer_epoch);
        }
        ErrorCode(answer.error_code)
    }

    async fn add(&mut self, partition: i32) -> ErrorCode {
        let request = m::AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: ID.into(),
            v3_and_below_producer_id: self.producer.0,
            v3_and_below_producer_epoch: self.producer.1,
            v3_and_below_topics: vec![AddPartitionsToTxnTopic {
                name: TOPIC.into(),
                partitions: vec![partition].into(),
            }],
            ..Default::default()
        };
        let answer = self.client.ask(&request, 3).await;
        let topic = &answer.results_by_topic_v3_and_below[0];
        ErrorCode(topic.results_by_partition[0].partition_error_code)
    }

    async fn write(&mut self, partition: i32, sequence: i32) -> ErrorCode {
        let mut request = produce(TOPIC, partition, records(2, self.producer, sequence), -1);
        request.transactional_id = Some(ID.into());
        let answer = self.client.ask(&request, if self.bumps { 12 } else { 9 }).await;
        ErrorCode(answer.responses[0].partition_responses[0].error_code)
    }

    async fn end(&mut self, committed: bool) -> ErrorCode {
        let request = m::EndTxnRequest {
            transactional_id: ID.into(),
            producer_id: self.producer.0,
            producer_epoch: self.producer.1,
            committed,
        };
        let answer = self.client.ask(&request, if self.bumps { 5 } else { 4 }).await;
        if answer.error_code == 0 && self.bumps {
            self.producer = (answer.producer_id, answer.producer_epoch);
        }
        ErrorCode(answer.error_code)
    }

    /// A whole transaction of one batch.
    async fn whole(&mut self, sequence: i32, committed: bool) {
        if !self.bumps {
            assert_eq!(self.add(0).await, NONE);
        }
        let sequence = if self.bumps { 0 } else { sequence };
        assert_eq!(self.write(0, sequence).await, NONE);
        assert_eq!(self.end(committed).await, NONE);
    }
}

async fn fetch(client: &mut Client, offset: i64, committed: bool) -> PartitionData {
    let request = FetchRequest {
        max_bytes: 1 << 20,
        isolation_level: i8::from(committed),
        session_epoch: -1,
        topics: vec![FetchTopic {
            topic: TOPIC.into(),
            partitions: vec![FetchPartition {
                fetch_offset: offset,
                partition_max_bytes: 1 << 20,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    client.ask(&request, 12).await.responses.remove(0).partitions.remove(0)
}

async fn latest(client: &mut Client, committed: bool) -> i64 {
    let request = m::ListOffsetsRequest {
        isolation_level: i8::from(committed),
        topics: vec![ListOffsetsTopic {
            name: TOPIC.into(),
            partitions: vec![ListOffsetsPartition { timestamp: -1, ..Default::default() }],
        }],
        ..Default::default()
    };
    client.ask(&request, 7).await.topics[0].partitions[0].offset
}

async fn producers(client: &mut Client) -> Vec<ProducerState> {
    let topics = vec![TopicRequest { name: TOPIC.into(), partition_indexes: vec![0].into() }];
    let mut answer = client.ask(&m::DescribeProducersRequest { topics }, 0).await;
    answer.topics.remove(0).partitions.remove(0).active_producers
}

fn builder() -> ClusterBuilder {
    Cluster::builder().topic(TOPIC, 2)
}

#[tokio::test(start_paused = true)]
async fn readers_of_committed_records_wait_for_the_end_and_learn_what_was_aborted() {
    for bumps in [false, true] {
        let bench = Bench::start(builder()).await;
        let mut reader = bench.client(0).await;
        let mut txn = Txn::start(&bench, bumps).await;
        txn.whole(0, true).await;
        txn.whole(2, false).await;
        let aborted = txn.producer;
        if !bumps {
            assert_eq!(txn.add(0).await, NONE);
        }
        assert_eq!(txn.write(0, if bumps { 0 } else { 4 }).await, NONE);
        // Two records and a marker each, and two that are open.
        let open = fetch(&mut reader, 0, true).await;
        assert_eq!((open.high_watermark, open.last_stable_offset), (8, 6));
        let told: Vec<_> =
            open.aborted_transactions.unwrap().iter().map(|t| (t.producer_id, t.first_offset)).collect();
        assert_eq!(told, [(aborted.0, 3)]);
        let below = fetch(&mut reader, 7, true).await;
        assert!(below.records.is_none_or(|records| records.is_empty()));
        let all = fetch(&mut reader, 7, false).await;
        assert_eq!((all.last_stable_offset, all.aborted_transactions), (6, None));
        assert!(!all.records.unwrap().is_empty());
        assert_eq!((latest(&mut reader, true).await, latest(&mut reader, false).await), (6, 8));
        let control = bench.cluster.control();
        assert_eq!((control.log(TOPIC, 0).len(), control.committed_log(TOPIC, 0).len()), (6, 2));
        assert_eq!(producers(&mut reader).await[0].current_txn_start_offset, 6);
        assert_eq!(control.transaction(ID).unwrap().state, "Ongoing");
        assert_eq!(txn.end(true).await, NONE);
        assert_eq!(fetch(&mut reader, 0, true).await.last_stable_offset, 9);
        assert_eq!(control.committed_log(TOPIC, 0).len(), 4);
        assert_eq!(control.transaction(ID).unwrap().state, "CompleteCommit");
        assert!(bench.runtime.panics().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_producer_fences_the_old_one_and_aborts_what_it_left() {
    for bumps in [false, true] {
        let bench = Bench::start(builder()).await;
        let mut old = Txn::start(&bench, bumps).await;
        if !bumps {
            assert_eq!(old.write(0, 0).await, ErrorCode::INVALID_TXN_STATE);
            assert_eq!(old.add(0).await, NONE);
        }
        assert_eq!(old.write(0, 0).await, NONE);
        let mut new = Txn { client: bench.client(0).await, bumps, producer: (-1, -1) };
        assert_eq!(new.init((-1, -1)).await, ErrorCode::CONCURRENT_TRANSACTIONS);
        assert_eq!(new.init((-1, -1)).await, NONE);
        assert_eq!(new.producer, (old.producer.0, old.producer.1 + 2));
        assert_eq!(old.write(0, 2).await, ErrorCode::INVALID_PRODUCER_EPOCH);
        assert_eq!(old.add(0).await, ErrorCode::PRODUCER_FENCED);
        assert_eq!(old.end(true).await, ErrorCode::PRODUCER_FENCED);
        assert_eq!(old.init(old.producer).await, ErrorCode::PRODUCER_FENCED);
        assert!(bench.cluster.control().committed_log(TOPIC, 0).is_empty());
        new.whole(0, true).await;
        assert_eq!(bench.cluster.control().committed_log(TOPIC, 0).len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn transactions_that_are_open_for_too_long_are_aborted() {
    for bumps in [false, true] {
        let bench = Bench::start(builder().transaction_version(if bumps { 2 } else { 1 })).await;
        let mut txn = Txn::start(&bench, bumps).await;
        let producer = txn.producer;
        if !bumps {
            assert_eq!(txn.add(0).await, NONE);
        }
        assert_eq!(txn.write(0, 0).await, NONE);
        sleep(Duration::from_secs(61)).await;
        let state = bench.cluster.control().transaction(ID).unwrap();
        assert_eq!((state.state.as_str(), state.producer_epoch), ("CompleteAbort", producer.1 + 1));
        assert_eq!(txn.write(0, 2).await, ErrorCode::INVALID_PRODUCER_EPOCH);
        let fenced = if bumps { ErrorCode::INVALID_TXN_STATE } else { ErrorCode::PRODUCER_FENCED };
        assert_eq!(txn.end(true).await, fenced);
        let partition = bench.cluster.control().partition(TOPIC, 0).unwrap();
        assert_eq!((partition.last_stable_offset, partition.high_watermark), (3, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_goes_on_where_its_coordinator_was_and_ends_in_spite_of_dead_nodes() {
    let bench = Bench::start(builder().nodes(3).transaction_marker_lag(Duration::from_millis(50))).await;
    let control = bench.cluster.control();
    control.move_leader(TOPIC, 0, 0).unwrap();
    control.move_transaction_coordinator(ID, 0).unwrap();
    let mut txn = Txn::start(&bench, true).await;
    assert_eq!(txn.write(0, 0).await, NONE);
    control.move_transaction_coordinator(ID, 1).unwrap();
    assert_eq!(txn.end(true).await, ErrorCode::NOT_COORDINATOR);
    txn.client = bench.client(1).await;
    let before = txn.producer;
    assert_eq!(txn.end(true).await, NONE);
    let after = std::mem::replace(&mut txn.producer, before);
    assert_eq!(after, (before.0, before.1 + 1));
    assert_eq!(control.transaction(ID).unwrap().state, "PrepareCommit");
    // Asked again, it is neither done twice nor forgotten.
    assert_eq!(txn.end(true).await, ErrorCode::CONCURRENT_TRANSACTIONS);
    assert_eq!(txn.end(false).await, ErrorCode::INVALID_TXN_STATE);
    control.kill_node(1);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(control.transaction(ID).unwrap().state, "CompleteCommit");
    txn.client = bench.client(control.transaction(ID).unwrap().coordinator as usize).await;
    assert_eq!((txn.end(true).await, txn.producer), (NONE, after));
    assert_eq!(control.committed_log(TOPIC, 0).len(), 2);
    let mut reader = bench.client(0).await;
    // The marker was written by the third coordinator.
    assert_eq!(producers(&mut reader).await[0].coordinator_epoch, 3);
}

#[tokio::test(start_paused = true)]
async fn an_end_is_only_complete_once_its_markers_are_committed() {
    let bench = Bench::start(builder().nodes(2)).await;
    let control = bench.cluster.control();
    control.move_transaction_coordinator(ID, 0).unwrap();
    control.move_leader(TOPIC, 0, 0).unwrap();
    let mut txn = Txn::start(&bench, true).await;
    assert_eq!(txn.write(0, 0).await, NONE);
    control.set_replication_lag(Duration::from_secs(1));
    assert_eq!(txn.end(false).await, NONE);
    assert_eq!(control.transaction(ID).unwrap().state, "PrepareAbort");
    assert_eq!(control.partition(TOPIC, 0).unwrap().last_stable_offset, 0);
    assert_eq!(txn.init((-1, -1)).await, ErrorCode::CONCURRENT_TRANSACTIONS);
    assert_eq!(txn.write(0, 0).await, ErrorCode::CONCURRENT_TRANSACTIONS);
    sleep(Duration::from_millis(1100)).await;
    assert_eq!(control.transaction(ID).unwrap().state, "CompleteAbort");
    assert_eq!(control.partition(TOPIC, 0).unwrap().last_stable_offset, 3);
}

#[tokio::test(start_paused = true)]
async fn offsets_of_a_transaction_count_once_it_is_committed() {
    let bench = Bench::start(builder()).await;
    let control = bench.cluster.control();
    let mut txn = Txn::start(&bench, true).await;
    let mut reader = bench.client(0).await;
    let offset = |offset| {
        vec![TxnOffsetCommitRequestTopic {
            name: TOPIC.into(),
            partitions: vec![TxnOffsetCommitRequestPartition {
                committed_offset: offset,
                ..Default::default()
            }],
            ..Default::default()
        }]
    };
    for (round, committed) in [(1, false), (2, true)] {
        let request = m::TxnOffsetCommitRequest {
            transactional_id: ID.into(),
            group_id: "g".into(),
            producer_id: txn.producer.0,
            producer_epoch: txn.producer.1,
            generation_id_or_member_epoch: -1,
            topics: offset(round),
            ..Default::default()
        };
        let code = |answer: m::TxnOffsetCommitResponse| ErrorCode(answer.topics[0].partitions[0].error_code);
        // Before version 5 the group must have been added.
        let not_added = code(txn.client.ask(&request, 4).await);
        assert_eq!(not_added, ErrorCode::TRANSACTION_ABORTABLE);
        let stranger = m::TxnOffsetCommitRequest { generation_id_or_member_epoch: 3, ..request.clone() };
        let code_of_stranger = code(txn.client.ask(&stranger, 5).await);
        let known = control.group("g").is_some();
        let expected = if known { ErrorCode::UNKNOWN_MEMBER_ID } else { ErrorCode::ILLEGAL_GENERATION };
        assert_eq!(code_of_stranger, expected);
        assert_eq!(code(txn.client.ask(&request, 5).await), NONE);
        for (require_stable, expected) in [(false, NONE), (true, ErrorCode::UNSTABLE_OFFSET_COMMIT)] {
            let request = m::OffsetFetchRequest {
                require_stable,
                groups: vec![OffsetFetchRequestGroup {
                    group_id: "g".into(),
                    topics: Some(vec![OffsetFetchRequestTopics {
                        name: TOPIC.into(),
                        partition_indexes: vec![0].into(),
                        ..Default::default()
                    }]),
                    ..Default::default()
                }],
                ..Default::default()
            };
            let answer = reader.ask(&request, 9).await;
            let partition = &answer.groups[0].topics[0].partitions[0];
            assert_eq!((ErrorCode(partition.error_code), partition.committed_offset), (expected, -1));
        }
        assert_eq!(txn.end(committed).await, NONE);
        let found = control.committed("g").get(&(TOPIC.to_owned(), 0)).copied();
        assert_eq!(found, committed.then_some(round));
    }
}
