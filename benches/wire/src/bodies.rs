//! Bodies of requests and responses that are large in practice.

use std::hint::black_box;
use std::io::Cursor;

use bytes::{Bytes, BytesMut};
use carafe::wire::messages::MetadataResponse;
use carafe::wire::records::HEADER_LEN;
use carafe::wire::{Decode, Reader, Uuid, fetch, produce};
use kafka_protocol::messages as kp;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{BrokerId, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use rskafka::protocol::api_version::ApiVersion;
use rskafka::protocol::messages as rs;
use rskafka::protocol::messages::{ReadVersionedType, WriteVersionedType};
use rskafka::protocol::primitives::{Int16, Int32, NullableString, Records, String_};
use rskafka::protocol::record::RecordBatch;
use rskafka::protocol::traits::ReadType;

use crate::records::Source;
use crate::{Allocations, Case, Goal, Side};

/// Partitions of the 1 MB bodies, one batch of 1,000 records of 100 bytes each.
const PARTITIONS: usize = 8;
const TOPIC: &str = "orders";
const TOPIC_ID: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

fn version(version: i16) -> ApiVersion {
    ApiVersion(Int16(version))
}

fn encoded(message: &impl Encodable, version: i16) -> Bytes {
    let mut frame = BytesMut::new();
    message.encode(&mut frame, version).expect("a valid message");
    frame.freeze()
}

fn topic_name(name: String) -> TopicName {
    TopicName(StrBytes::from_string(name))
}

pub fn cases() -> Vec<Case> {
    let metadata = |topics, partitions, version: i16| Case {
        name: format!("Metadata v{version} response, {topics} topics × {partitions} partitions, decode"),
        unit: "partition",
        units: topics as u64 * partitions as u64,
        goal: Goal { time: Some(0.7), allocations: Some(Allocations::Share(0.5)) },
        sides: Box::new(move || decode_metadata(topics, partitions, version)),
    };
    let split = Goal { time: None, allocations: Some(Allocations::Each(4.0)) };
    vec![
        metadata(1000, 10, 12),
        metadata(10, 1000, 12),
        metadata(1000, 10, 4),
        Case {
            name: "Fetch v17 response, 1 MB, decode".to_owned(),
            unit: "frame",
            units: 1,
            goal: split,
            sides: Box::new(|| decode_fetch(17)),
        },
        Case {
            name: "Fetch v4 response, 1 MB, decode".to_owned(),
            unit: "frame",
            units: 1,
            goal: split,
            sides: Box::new(|| decode_fetch(4)),
        },
        Case {
            name: "Produce v13 request, 1 MB, encode".to_owned(),
            unit: "frame",
            units: 1,
            goal: Goal::default(),
            sides: Box::new(|| encode_produce(13)),
        },
        Case {
            name: "Produce v7 request, 1 MB, encode".to_owned(),
            unit: "frame",
            units: 1,
            goal: Goal::default(),
            sides: Box::new(|| encode_produce(7)),
        },
    ]
}

fn decode_metadata(topics: i32, partitions: i32, v: i16) -> Vec<Side> {
    let partition = |index| {
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(BrokerId(1 + index % 3))
            .with_leader_epoch(if v >= 7 { 5 } else { -1 })
            .with_replica_nodes((0..3).map(|replica| BrokerId(1 + (index + replica) % 3)).collect())
            .with_isr_nodes((0..3).map(|replica| BrokerId(1 + (index + replica) % 3)).collect())
    };
    let topic = |index: i32| {
        MetadataResponseTopic::default()
            .with_name(Some(topic_name(format!("orders.region-{index:04}"))))
            .with_topic_id(if v >= 10 {
                uuid::Uuid::from_u128(TOPIC_ID + index as u128)
            } else {
                Default::default()
            })
            .with_partitions((0..partitions).map(partition).collect())
    };
    let broker = |id: i32| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(id))
            .with_host(StrBytes::from_string(format!("kafka-{id}.example.com")))
            .with_port(9092)
    };
    let message = kp::MetadataResponse::default()
        .with_brokers((1..=3).map(broker).collect())
        .with_cluster_id(Some(StrBytes::from_static_str("0123456789abcdefghijkl")))
        .with_controller_id(BrokerId(1))
        .with_topics((0..topics).map(topic).collect());
    let frame = encoded(&message, v);
    let [ours, theirs, third] = std::array::from_fn(|_| frame.clone());

    let decoded = MetadataResponse::decode(&mut Reader::new(frame), v).expect("a valid frame");
    assert_eq!(decoded.topics.len(), topics as usize);
    let last = decoded.topics.last().and_then(|topic| topic.partitions.last()).expect("there are some");
    let theirs_last =
        message.topics.last().and_then(|topic| topic.partitions.last()).expect("there are some");
    assert_eq!(last.isr_nodes.to_vec(), theirs_last.isr_nodes.iter().map(|id| id.0).collect::<Vec<_>>());

    let mut sides = vec![
        Side::new("carafe", move || {
            black_box(MetadataResponse::decode(&mut Reader::new(ours.clone()), v).expect("a valid frame"));
        }),
        Side::new("kafka-protocol", move || {
            black_box(kp::MetadataResponse::decode(&mut theirs.clone(), v).expect("a valid frame"));
        }),
    ];
    if v <= 4 {
        sides.push(Side::new("rskafka", move || {
            let read = rs::MetadataResponse::read_versioned(&mut Cursor::new(&third), version(v));
            black_box(read.expect("a valid frame"));
        }));
    }
    sides
}

fn decode_fetch(v: i16) -> Vec<Side> {
    let batch = Source::new(1000, 100, false).batch();
    let partition = |index| {
        PartitionData::default()
            .with_partition_index(index)
            .with_high_watermark(1000)
            .with_last_stable_offset(1000)
            .with_log_start_offset(if v >= 5 { 0 } else { -1 })
            .with_aborted_transactions(Some(Vec::new()))
            .with_records(Some(batch.clone()))
    };
    let mut topic =
        FetchableTopicResponse::default().with_partitions((0..PARTITIONS as i32).map(partition).collect());
    if v >= 13 {
        topic = topic.with_topic_id(uuid::Uuid::from_u128(TOPIC_ID));
    } else {
        topic = topic.with_topic(topic_name(TOPIC.to_owned()));
    }
    let frame = encoded(&kp::FetchResponse::default().with_responses(vec![topic]), v);
    let [ours, theirs, third] = std::array::from_fn(|_| frame.clone());

    let decoded = fetch::Response::decode(&mut Reader::new(frame.clone()), v).expect("a valid frame");
    let here = frame.as_ptr_range();
    for partition in decoded.topics.iter().flat_map(|topic| &topic.partitions) {
        assert!(partition.records == batch, "the records of partition {} changed", partition.partition);
        assert!(here.contains(&partition.records.as_ptr()), "the records were copied");
    }

    let mut sides = vec![
        Side::new("carafe", move || {
            black_box(fetch::Response::decode(&mut Reader::new(ours.clone()), v).expect("a valid frame"));
        }),
        Side::new("kafka-protocol", move || {
            black_box(kp::FetchResponse::decode(&mut theirs.clone(), v).expect("a valid frame"));
        }),
    ];
    if v <= 4 {
        sides.push(Side::new("rskafka, decodes records too", move || {
            let read = rs::FetchResponse::read_versioned(&mut Cursor::new(&third), version(v));
            black_box(read.expect("a valid frame"));
        }));
    }
    sides
}

fn encode_produce(v: i16) -> Vec<Side> {
    let batch = Source::new(1000, 100, false).batch();
    let head = produce::RequestHead { transactional_id: None, acks: -1, timeout_ms: 30_000 };
    let mut header = [0; HEADER_LEN];
    header.copy_from_slice(&batch[..HEADER_LEN]);
    let batches: Vec<produce::PartitionBatch> = (0..PARTITIONS as i32)
        .map(|partition| produce::PartitionBatch {
            topic: TOPIC.into(),
            topic_id: Uuid(TOPIC_ID.to_be_bytes()),
            partition,
            header,
            body: batch.slice(HEADER_LEN..),
        })
        .collect();

    let partition =
        |index| PartitionProduceData::default().with_index(index).with_records(Some(batch.clone()));
    let mut topic =
        TopicProduceData::default().with_partition_data((0..PARTITIONS as i32).map(partition).collect());
    if v >= 13 {
        topic = topic.with_topic_id(uuid::Uuid::from_u128(TOPIC_ID));
    } else {
        topic = topic.with_name(topic_name(TOPIC.to_owned()));
    }
    let message =
        kp::ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);

    let frame = encoded(&message, v);
    let segments = produce::encode_request(&head, &batches, v).expect("a valid request");
    assert!(segments.concat() == frame, "kafka-protocol writes another request");

    let mut out = BytesMut::with_capacity(frame.len());
    let mut sides = vec![
        Side::new("carafe, for a vectored write", move || {
            black_box(produce::encode_request(&head, &batches, v).expect("a valid request"));
        }),
        Side::new("kafka-protocol", move || {
            out.clear();
            message.encode(&mut out, v).expect("a valid request");
            black_box(&out);
        }),
    ];
    if v <= 7 {
        let partition = |index| rs::ProduceRequestPartitionData {
            index: Int32(index),
            records: Records(vec![RecordBatch::read(&mut Cursor::new(&batch)).expect("a valid batch")]),
        };
        let message = rs::ProduceRequest {
            transactional_id: NullableString(None),
            acks: Int16(-1),
            timeout_ms: Int32(30_000),
            topic_data: vec![rs::ProduceRequestTopicData {
                name: String_(TOPIC.to_owned()),
                partition_data: (0..PARTITIONS as i32).map(partition).collect(),
            }],
        };
        let mut out = Vec::with_capacity(frame.len());
        sides.push(Side::new("rskafka, encodes records too", move || {
            out.clear();
            message.write_versioned(&mut out, version(v)).expect("a valid request");
            assert_eq!(out.len(), frame.len());
        }));
    }
    sides
}
