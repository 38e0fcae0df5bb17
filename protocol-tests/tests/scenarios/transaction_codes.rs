//! Transactions by raw requests: every code that they can meet, in one script that must get the same from whatever cluster it
//! plays on; and logs made from seeds, which a reader of committed records must see as a model does.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use carafe::ErrorCode;
use carafe::consumer::StartOffset;
use carafe::wire::frame::{decode_body, decode_response_header, encode_request};
use carafe::wire::messages as m;
use carafe::wire::messages::add_partitions_to_txn::AddPartitionsToTxnTopic;
use carafe::wire::messages::metadata::MetadataRequestTopic;
use carafe::wire::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use carafe::wire::messages::produce::{PartitionProduceData, TopicProduceData};
use carafe::wire::messages::txn_offset_commit::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use carafe::wire::{ApiKey, Decode, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::stage::{Stage, text};

scenarios!(every_step_gets_the_same_code_everywhere, readers_see_of_random_logs_what_a_model_says);

/// The newest version that these steps speak of; brokers before 4.0 lack it.
const END_TXN: i16 = 5;

struct Connection {
    stream: TcpStream,
    correlation: i32,
}

impl Connection {
    async fn open(address: &str) -> Self {
        Self { stream: TcpStream::connect(address).await.expect("connected"), correlation: 0 }
    }

    async fn ask<R: Request>(&mut self, request: &R, version: i16) -> R::Response
    where
        R::Response: Decode,
    {
        self.correlation += 1;
        let frame = encode_request(request, version, self.correlation, Some("script")).expect("encodes");
        self.stream.write_all(&frame).await.expect("written");
        let length = self.stream.read_i32().await.expect("an answer");
        let mut frame = BytesMut::zeroed(length as usize);
        self.stream.read_exact(&mut frame).await.expect("the whole answer");
        let (correlation, mut body) =
            decode_response_header(frame.freeze(), R::KEY, version).expect("a header");
        assert_eq!(correlation, self.correlation);
        decode_body(&mut body, version).expect("a body")
    }
}

type Identity = (i64, i16);

/// The script's view of the cluster.
struct Script {
    coordinator: Connection,
    group: Connection,
    leader: Connection,
    id: String,
    group_id: String,
    topic: String,
    steps: usize,
}

impl Script {
    /// What is not over yet, or not known yet, is asked again.
    async fn code(&mut self, what: &str, expected: ErrorCode, mut ask: impl AsyncFnMut(&mut Self) -> i16) {
        self.steps += 1;
        for _ in 0..200 {
            let code = ErrorCode(ask(self).await);
            let unsettled = matches!(
                code,
                ErrorCode::CONCURRENT_TRANSACTIONS
                    | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
                    | ErrorCode::NOT_COORDINATOR
                    | ErrorCode::NOT_ENOUGH_REPLICAS
            );
            if code == expected || !unsettled {
                assert_eq!(code, expected, "step {}: {what}", self.steps);
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("step {}: {what} does not settle", self.steps);
    }

    async fn init(&mut self, known: Identity, timeout_ms: i32, version: i16) -> (i16, Identity) {
        let request = m::InitProducerIdRequest {
            transactional_id: Some(self.id.as_str().into()),
            transaction_timeout_ms: timeout_ms,
            producer_id: known.0,
            producer_epoch: known.1,
        };
        let answer = self.coordinator.ask(&request, version).await;
        (answer.error_code, (answer.producer_id, answer.producer_epoch))
    }

    async fn end(&mut self, who: Identity, committed: bool, version: i16) -> (i16, Identity) {
        let request = m::EndTxnRequest {
            transactional_id: self.id.as_str().into(),
            producer_id: who.0,
            producer_epoch: who.1,
            committed,
        };
        let answer = self.coordinator.ask(&request, version).await;
        (answer.error_code, (answer.producer_id, answer.producer_epoch))
    }

    /// Codes of the partitions of the topic and of one that is not there.
    async fn add(&mut self, who: Identity, partition: i32, version: i16, unknown: bool) -> Vec<i16> {
        let topic = |name: &str, partition: i32| AddPartitionsToTxnTopic {
            name: name.into(),
            partitions: vec![partition].into(),
        };
        let mut topics = vec![topic(&self.topic, partition)];
        if unknown {
            topics.push(topic("carafe-test-nowhere", 0));
        }
        let request = m::AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.id.as_str().into(),
            v3_and_below_producer_id: who.0,
            v3_and_below_producer_epoch: who.1,
            v3_and_below_topics: topics,
            ..Default::default()
        };
        let answer = self.coordinator.ask(&request, version).await;
        let topics = answer.results_by_topic_v3_and_below.into_iter();
        let mut codes: Vec<_> = topics
            .flat_map(|topic| topic.results_by_partition)
            .map(|partition| partition.partition_error_code)
            .collect();
        codes.sort_unstable();
        codes
    }

    async fn add_offsets(&mut self, who: Identity) -> i16 {
        let request = m::AddOffsetsToTxnRequest {
            transactional_id: self.id.as_str().into(),
            producer_id: who.0,
            producer_epoch: who.1,
            group_id: self.group_id.as_str().into(),
        };
        self.coordinator.ask(&request, 3).await.error_code
    }

    async fn produce(&mut self, id: bool, batch: Bytes, partition: i32, version: i16) -> i16 {
        let request = m::ProduceRequest {
            transactional_id: id.then(|| self.id.as_str().into()),
            acks: -1,
            timeout_ms: 5000,
            topic_data: vec![TopicProduceData {
                name: self.topic.as_str().into(),
                partition_data: vec![PartitionProduceData { index: partition, records: Some(batch) }],
                ..Default::default()
            }],
        };
        self.leader.ask(&request, version).await.responses[0].partition_responses[0].error_code
    }

    async fn commit(&mut self, who: Identity, generation: i32, version: i16) -> i16 {
        let request = m::TxnOffsetCommitRequest {
            transactional_id: self.id.as_str().into(),
            group_id: self.group_id.as_str().into(),
            producer_id: who.0,
            producer_epoch: who.1,
            generation_id_or_member_epoch: generation,
            topics: vec![TxnOffsetCommitRequestTopic {
                name: self.topic.as_str().into(),
                partitions: vec![TxnOffsetCommitRequestPartition {
                    committed_offset: 1,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        self.group.ask(&request, version).await.topics[0].partitions[0].error_code
    }

    /// The code and the offset that a reader of stable offsets is told.
    async fn committed(&mut self) -> (i16, i64) {
        let request = m::OffsetFetchRequest {
            require_stable: true,
            groups: vec![OffsetFetchRequestGroup {
                group_id: self.group_id.as_str().into(),
                topics: Some(vec![OffsetFetchRequestTopics {
                    name: self.topic.as_str().into(),
                    partition_indexes: vec![0].into(),
                    ..Default::default()
                }]),
                ..Default::default()
            }],
            ..Default::default()
        };
        let answer = self.group.ask(&request, 8).await;
        let partition = &answer.groups[0].topics[0].partitions[0];
        (partition.error_code, partition.committed_offset)
    }

    async fn describe(&mut self) -> (i16, String) {
        let request = m::DescribeTransactionsRequest { transactional_ids: vec![self.id.as_str().into()] };
        let answer = self.coordinator.ask(&request, 0).await;
        let found = &answer.transaction_states[0];
        (found.error_code, found.transaction_state.to_string())
    }
}

/// A batch of one record.
fn batch(who: Identity, sequence: i32, transactional: bool) -> Bytes {
    valued(who, sequence, transactional, *b"val")
}

fn valued(who: Identity, sequence: i32, transactional: bool, [a, b, c]: [u8; 3]) -> Bytes {
    let mut bytes = vec![0u8; 61];
    // Length, attributes, deltas, no key, a value, no headers.
    bytes.extend_from_slice(&[18, 0, 0, 0, 1, 6, a, b, c, 0]);
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[16] = 2;
    bytes[22] = if transactional { 0x10 } else { 0 };
    bytes[27..35].copy_from_slice(&1_700_000_000_000i64.to_be_bytes());
    bytes[35..43].copy_from_slice(&1_700_000_000_000i64.to_be_bytes());
    bytes[43..51].copy_from_slice(&who.0.to_be_bytes());
    bytes[51..53].copy_from_slice(&who.1.to_be_bytes());
    bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
    bytes[57..61].copy_from_slice(&1i32.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// The script, once it has found its way; `None` where the cluster is too old for it.
async fn script(stage: &Stage, topic: &str, id: &str) -> Option<Script> {
    let topic = topic.to_owned();
    let (id, group_id) = (stage.name(id), stage.name("transactional-group"));
    let first = stage.servers().split(',').next().expect("a server").to_owned();
    let mut seed = Connection::open(&first).await;
    let versions = seed.ask(&m::ApiVersionsRequest::default(), 0).await;
    let newest = versions.api_keys.iter().find(|api| api.api_key == ApiKey::END_TXN.0)?.max_version;
    if newest < END_TXN {
        return None;
    }
    let mut found = Vec::new();
    for (kind, key) in [(1, &id), (0, &group_id)] {
        loop {
            let request = m::FindCoordinatorRequest {
                key_type: kind,
                coordinator_keys: vec![key.as_str().into()],
                ..Default::default()
            };
            let coordinator = seed.ask(&request, 4).await.coordinators.remove(0);
            if coordinator.error_code == 0 {
                found.push(format!("{}:{}", coordinator.host, coordinator.port));
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
    let asked = MetadataRequestTopic { name: Some(topic.as_str().into()), ..Default::default() };
    let metadata =
        seed.ask(&m::MetadataRequest { topics: Some(vec![asked]), ..Default::default() }, 12).await;
    let leader = metadata.topics[0].partitions.iter().find(|part| part.partition_index == 0)?.leader_id;
    let leader = metadata.brokers.iter().find(|broker| broker.node_id == leader)?;
    let leader = format!("{}:{}", leader.host, leader.port);
    Some(Script {
        coordinator: Connection::open(&found[0]).await,
        group: Connection::open(&found[1]).await,
        leader: Connection::open(&leader).await,
        id,
        group_id,
        topic,
        steps: 0,
    })
}

async fn every_step_gets_the_same_code_everywhere(stage: Stage) {
    use ErrorCode as E;
    const NEW: Identity = (-1, -1);
    let topic = stage.topic("transactions", 2).await;
    let Some(mut s) = script(&stage, &topic, "transactional-id").await else { return };

    // Before anybody has introduced itself.
    s.code("an unknown id is described", E::TRANSACTIONAL_ID_NOT_FOUND, async |s| s.describe().await.0).await;
    let stranger = (1 << 40, 0);
    for version in [3, 0] {
        s.code("an unknown id adds", E::INVALID_PRODUCER_ID_MAPPING, async |s| {
            s.add(stranger, 0, version, false).await[0]
        })
        .await;
    }
    s.code("an unknown id adds offsets", E::INVALID_PRODUCER_ID_MAPPING, async |s| {
        s.add_offsets(stranger).await
    })
    .await;
    for version in [5, 4] {
        s.code("an unknown id ends", E::INVALID_PRODUCER_ID_MAPPING, async |s| {
            s.end(stranger, true, version).await.0
        })
        .await;
    }
    for timeout in [0, -1, i32::MAX] {
        s.code("a wrong time-out", E::INVALID_TRANSACTION_TIMEOUT, async |s| s.init(NEW, timeout, 4).await.0)
            .await;
    }
    s.code("half an identity", E::INVALID_REQUEST, async |s| s.init((-1, 3), 60_000, 4).await.0).await;
    s.code("half an identity", E::INVALID_REQUEST, async |s| s.init((3, -1), 60_000, 4).await.0).await;

    // A producer without a transaction.
    let mut me = NEW;
    s.code("a producer begins", E::NONE, async |s| {
        let (code, identity) = s.init(NEW, 60_000, 4).await;
        me = identity;
        code
    })
    .await;
    assert_eq!(me.1, 0);
    s.code("nothing to commit, v2", E::INVALID_TXN_STATE, async |s| s.end(me, true, 5).await.0).await;
    s.code("nothing to commit, v1", E::INVALID_TXN_STATE, async |s| s.end(me, true, 4).await.0).await;
    s.code("nothing to abort, v1", E::INVALID_TXN_STATE, async |s| s.end(me, false, 4).await.0).await;
    let old = me;
    s.code("nothing to abort, v2", E::NONE, async |s| {
        let (code, identity) = s.end(old, false, 5).await;
        me = identity;
        code
    })
    .await;
    assert_eq!(me, (old.0, 1));
    s.code("the same again", E::NONE, async |s| {
        let (code, identity) = s.end(old, false, 5).await;
        assert!(code != 0 || identity == me, "{identity:?}");
        code
    })
    .await;
    s.code("the other end", E::INVALID_TXN_STATE, async |s| s.end(old, true, 5).await.0).await;
    s.code("a commit of what was aborted", E::INVALID_TXN_STATE, async |s| s.end(me, true, 5).await.0).await;
    s.code("an abort of what was aborted, v1", E::NONE, async |s| s.end(me, false, 4).await.0).await;

    // Batches.
    let data = |who, sequence| batch(who, sequence, true);
    for (version, expected) in
        [(9, E::INVALID_TXN_STATE), (10, E::INVALID_TXN_STATE), (11, E::TRANSACTION_ABORTABLE)]
    {
        s.code("a partition that was not added", expected, async |s| {
            s.produce(true, data(me, 0), 0, version).await
        })
        .await;
    }
    s.code("a batch that names no transaction", E::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, async |s| {
        s.produce(false, data(me, 0), 0, 12).await
    })
    .await;
    s.code("a batch of a stranger", E::INVALID_PRODUCER_ID_MAPPING, async |s| {
        s.produce(true, data(stranger, 0), 0, 12).await
    })
    .await;
    s.code("a batch of a later epoch", E::INVALID_PRODUCER_EPOCH, async |s| {
        s.produce(true, data((me.0, 9), 0), 0, 12).await
    })
    .await;
    s.code("a first sequence that is not 0", E::OUT_OF_ORDER_SEQUENCE_NUMBER, async |s| {
        s.produce(true, data(me, 5), 0, 12).await
    })
    .await;
    s.code("a batch", E::NONE, async |s| s.produce(true, data(me, 0), 0, 12).await).await;
    s.code("the same again", E::NONE, async |s| s.produce(true, data(me, 0), 0, 12).await).await;
    s.code("a gap", E::OUT_OF_ORDER_SEQUENCE_NUMBER, async |s| s.produce(true, data(me, 7), 0, 12).await)
        .await;
    s.code("outside of the transaction", E::INVALID_TXN_STATE, async |s| {
        s.produce(false, batch(me, 1, false), 0, 12).await
    })
    .await;
    s.code("an older epoch", E::INVALID_PRODUCER_EPOCH, async |s| s.produce(true, data(old, 1), 0, 12).await)
        .await;
    s.code("a control batch", E::INVALID_RECORD, async |s| {
        let mut bytes = data(me, 1).to_vec();
        bytes[22] |= 0x20;
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        s.produce(true, bytes.into(), 0, 12).await
    })
    .await;

    // Partitions.
    s.code("an older epoch adds", E::PRODUCER_FENCED, async |s| s.add(old, 1, 3, false).await[0]).await;
    s.code("an older epoch adds, v1", E::INVALID_PRODUCER_EPOCH, async |s| s.add(old, 1, 1, false).await[0])
        .await;
    s.code("another producer adds", E::INVALID_PRODUCER_ID_MAPPING, async |s| {
        s.add(stranger, 1, 3, false).await[0]
    })
    .await;
    s.steps += 1;
    let partly = s.add(me, 1, 3, true).await;
    assert_eq!(partly, [E::UNKNOWN_TOPIC_OR_PARTITION.0, E::OPERATION_NOT_ATTEMPTED.0]);
    s.code("a partition is added", E::NONE, async |s| s.add(me, 1, 3, false).await[0]).await;
    s.steps += 1;
    assert_eq!(s.describe().await, (0, "Ongoing".to_owned()));

    // Offsets.
    s.code("a group that was not added, v3", E::INVALID_TXN_STATE, async |s| s.commit(me, -1, 3).await).await;
    s.code("a group that was not added, v4", E::TRANSACTION_ABORTABLE, async |s| s.commit(me, -1, 4).await)
        .await;
    s.code("a generation of nobody", E::ILLEGAL_GENERATION, async |s| s.commit(me, 5, 5).await).await;
    s.code("an older epoch commits", E::INVALID_PRODUCER_EPOCH, async |s| s.commit(old, -1, 5).await).await;
    s.code("offsets", E::NONE, async |s| s.commit(me, -1, 5).await).await;
    s.code("an unknown generation", E::UNKNOWN_MEMBER_ID, async |s| s.commit(me, 5, 5).await).await;
    s.code("they are not stable", E::UNSTABLE_OFFSET_COMMIT, async |s| s.committed().await.0).await;

    // The end.
    s.code("another identity ends", E::INVALID_PRODUCER_ID_MAPPING, async |s| {
        s.end(stranger, true, 5).await.0
    })
    .await;
    s.code("an older epoch ends", E::PRODUCER_FENCED, async |s| s.end(old, true, 5).await.0).await;
    s.code("an older epoch ends, v1", E::INVALID_PRODUCER_EPOCH, async |s| s.end(old, true, 1).await.0).await;
    let before = me;
    s.code("the commit", E::NONE, async |s| {
        let (code, identity) = s.end(before, true, 5).await;
        me = identity;
        code
    })
    .await;
    assert_eq!(me, (before.0, before.1 + 1));
    s.code("the same again", E::NONE, async |s| s.end(before, true, 5).await.0).await;
    s.code("the other end", E::INVALID_TXN_STATE, async |s| s.end(before, false, 5).await.0).await;
    s.code("the offsets count", E::NONE, async |s| s.committed().await.0).await;
    assert_eq!(s.committed().await.1, 1);
    s.code("a batch of the old epoch", E::INVALID_PRODUCER_EPOCH, async |s| {
        s.produce(true, data(before, 1), 0, 12).await
    })
    .await;
    s.code("a sequence that goes on in the new epoch", E::OUT_OF_ORDER_SEQUENCE_NUMBER, async |s| {
        s.produce(true, data(me, 1), 0, 12).await
    })
    .await;

    // Coming back, and being replaced (that batch has begun a transaction).
    s.code("the abort", E::NONE, async |s| {
        let (code, identity) = s.end(me, false, 5).await;
        if code == 0 {
            me = identity;
        }
        code
    })
    .await;
    let before = me;
    s.code("back with the identity that it had", E::NONE, async |s| {
        let (code, identity) = s.init(before, 60_000, 4).await;
        me = identity;
        code
    })
    .await;
    assert_eq!(me, (before.0, before.1 + 1));
    s.code("the same again", E::NONE, async |s| {
        let (code, identity) = s.init(before, 60_000, 4).await;
        assert_eq!(identity, me);
        code
    })
    .await;
    s.code("an older identity", E::PRODUCER_FENCED, async |s| s.init(old, 60_000, 4).await.0).await;
    s.code("an older identity, v3", E::INVALID_PRODUCER_EPOCH, async |s| s.init(old, 60_000, 3).await.0)
        .await;
    s.code("another identity", E::PRODUCER_FENCED, async |s| s.init(stranger, 60_000, 4).await.0).await;
    s.code("a batch", E::NONE, async |s| s.produce(true, data(me, 0), 0, 12).await).await;
    let replaced = me;
    s.code("somebody else", E::CONCURRENT_TRANSACTIONS, async |s| s.init(NEW, 60_000, 4).await.0).await;
    s.code("and again", E::NONE, async |s| {
        let (code, identity) = s.init(NEW, 60_000, 4).await;
        me = identity;
        code
    })
    .await;
    assert_eq!(me, (replaced.0, replaced.1 + 2));
    s.code("the replaced one produces", E::INVALID_PRODUCER_EPOCH, async |s| {
        s.produce(true, data(replaced, 1), 0, 12).await
    })
    .await;
    s.code("the replaced one ends", E::PRODUCER_FENCED, async |s| s.end(replaced, true, 5).await.0).await;
    s.code("the replaced one adds", E::PRODUCER_FENCED, async |s| s.add(replaced, 0, 3, false).await[0])
        .await;

    // The whole by version 1.
    s.code("version 1 adds", E::NONE, async |s| s.add(me, 0, 3, false).await[0]).await;
    s.code("version 1 adds offsets", E::NONE, async |s| s.add_offsets(me).await).await;
    s.code("version 1 produces", E::NONE, async |s| s.produce(true, data(me, 0), 0, 9).await).await;
    s.code("version 1 commits offsets", E::NONE, async |s| s.commit(me, -1, 3).await).await;
    s.code("version 1 commits", E::NONE, async |s| s.end(me, true, 4).await.0).await;
    s.code("version 1 asks again", E::NONE, async |s| s.end(me, true, 4).await.0).await;
    s.code("version 1 changes its mind", E::INVALID_TXN_STATE, async |s| s.end(me, false, 4).await.0).await;
    assert!(s.steps >= 70, "{} steps", s.steps);
}

/// A producer of random logs and its open transaction.
struct Writer {
    script: Script,
    who: Identity,
    sequence: i32,
    /// Where its records lie in the model.
    open: Vec<usize>,
}

impl Writer {
    async fn begin(stage: &Stage, topic: &str, id: &str) -> Option<Self> {
        let mut script = script(stage, topic, id).await?;
        let mut who = (-1, -1);
        let begin = async |s: &mut Script| {
            let (code, identity) = s.init((-1, -1), 60_000, 4).await;
            who = identity;
            code
        };
        script.code("begin", ErrorCode::NONE, begin).await;
        Some(Self { script, who, sequence: 0, open: Vec::new() })
    }

    async fn write(&mut self, value: [u8; 3]) {
        let data = valued(self.who, self.sequence, true, value);
        let write = async |s: &mut Script| s.produce(true, data.clone(), 0, 12).await;
        self.script.code("a batch", ErrorCode::NONE, write).await;
        self.sequence += 1;
    }

    /// Ends the transaction; returns what was in it.
    async fn end(&mut self, commit: bool) -> Vec<usize> {
        let (before, mut who) = (self.who, self.who);
        let end = async |s: &mut Script| {
            let (code, identity) = s.end(before, commit, 5).await;
            who = identity;
            code
        };
        self.script.code("the end", ErrorCode::NONE, end).await;
        (self.who, self.sequence) = (who, 0);
        std::mem::take(&mut self.open)
    }
}

async fn readers_see_of_random_logs_what_a_model_says(stage: Stage) {
    let seeds = if stage.control.is_some() { 12 } else { 2 };
    for seed in 0..seeds {
        let mut dice = fastrand::Rng::with_seed(seed);
        let topic = stage.topic(&format!("random-log-{seed}"), 1).await;
        let mut writers = Vec::new();
        for at in 0..3 {
            match Writer::begin(&stage, &topic, &format!("random-{seed}-{at}")).await {
                Some(writer) => writers.push(writer),
                None => return,
            }
        }
        // Of each record whether a reader may see it, once that is known.
        let mut model: Vec<Option<bool>> = Vec::new();
        let value = |at: usize| <[u8; 3]>::try_from(format!("{at:03}").as_bytes()).expect("three digits");
        for _ in 0..dice.usize(20..50) {
            let writer = &mut writers[dice.usize(..3)];
            match dice.u8(..10) {
                0 => {
                    let plain = valued((-1, -1), -1, false, value(model.len()));
                    assert_eq!(writer.script.produce(false, plain, 0, 12).await, 0);
                    model.push(Some(true));
                }
                1 | 2 if !writer.open.is_empty() => {
                    let commit = dice.bool();
                    for at in writer.end(commit).await {
                        model[at] = Some(commit);
                    }
                }
                _ => {
                    writer.write(value(model.len())).await;
                    writer.open.push(model.len());
                    model.push(None);
                }
            }
        }
        // What hangs hides everything behind it, until it ends.
        let reader = stage.client.partition_reader().topic(topic.clone(), StartOffset::Earliest).build();
        let reader = reader.await.expect("a reader");
        let stable = model.iter().position(Option::is_none).unwrap_or(model.len());
        let visible = |model: &[Option<bool>]| -> Vec<String> {
            let seen = model.iter().enumerate().filter(|(_, seen)| **seen == Some(true));
            seen.map(|(at, _)| format!("{at:03}")).collect()
        };
        let before = visible(&model[..stable]);
        let mut read = Vec::new();
        while read.len() < before.len() {
            read.extend(
                reader.next().await.expect("a batch").messages().map(|message| text(&message).to_owned()),
            );
        }
        assert_eq!(read, before, "seed {seed}, before what hangs");
        for writer in writers.iter_mut().filter(|writer| !writer.open.is_empty()) {
            let commit = dice.bool();
            for at in writer.end(commit).await {
                model[at] = Some(commit);
            }
        }
        let last = valued((-1, -1), -1, false, *b"end");
        assert_eq!(writers[0].script.produce(false, last, 0, 12).await, 0);
        while read.last().is_none_or(|value| value != "end") {
            read.extend(
                reader.next().await.expect("a batch").messages().map(|message| text(&message).to_owned()),
            );
        }
        read.pop();
        assert_eq!(read, visible(&model), "seed {seed}");
        if let Some(control) = &stage.control {
            assert_eq!(control.committed_log(&topic, 0).len(), read.len() + 1);
        }
    }
}
