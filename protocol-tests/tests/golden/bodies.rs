//! Recorded Produce and Fetch frames, read and written by the code that carafe really uses for them.

use bytes::{Bytes, BytesMut};
use carafe::ErrorCode;
use carafe::wire::frame::{decode_request_header, decode_response_header};
use carafe::wire::messages::{FetchRequest, ProduceRequest, ProduceResponse};
use carafe::wire::records::HEADER_LEN;
use carafe::wire::{ApiKey, Decode, Reader, fetch, produce};
use protocol_tests::golden::{self, Message};

use super::{Difference, judge, ok};

const DIFFERENT: &[Difference] = &[];

#[test]
fn bodies_written_by_hand_are_those_of_others() {
    let mut different = Vec::new();
    let mut same = 0;
    for frame in golden::frames() {
        let versions = match &frame.name[..] {
            "ProduceRequest" | "ProduceResponse" => produce::VERSIONS,
            "FetchRequest" | "FetchResponse" => fetch::VERSIONS,
            _ => continue,
        };
        // Fetch 18 adds what followers tell their leader.
        if !versions.contains(frame.version) {
            continue;
        }
        let (body, again) = match &frame.name[..] {
            "ProduceRequest" => produce_request(&frame),
            "ProduceResponse" => {
                produce_response(&frame);
                continue;
            }
            "FetchRequest" => fetch_request(&frame),
            _ => fetch_response(&frame),
        };
        if body == again {
            same += 1;
        } else {
            different.push((frame.origin.clone(), format!("{} {}", frame.name, frame.version)));
        }
    }
    judge(DIFFERENT, &different);
    assert!(same >= 60, "{same} bodies");
}

fn request_body(frame: &Message) -> Reader {
    ok(&frame.origin, decode_request_header(frame.bytes.clone())).1
}

fn response_body(frame: &Message, key: ApiKey) -> Reader {
    ok(&frame.origin, decode_response_header(frame.bytes.clone(), key, frame.version)).1
}

fn produce_request(frame: &Message) -> (Bytes, Bytes) {
    let mut r = request_body(frame);
    let body = r.rest();
    let request = ok(&frame.origin, ProduceRequest::decode(&mut r, frame.version));
    let head = produce::RequestHead {
        transactional_id: request.transactional_id,
        acks: request.acks,
        timeout_ms: request.timeout_ms,
    };
    let mut batches = Vec::new();
    for topic in &request.topic_data {
        for partition in &topic.partition_data {
            let records = partition.records.clone().unwrap_or_default();
            batches.push(produce::PartitionBatch {
                topic: topic.name.clone(),
                topic_id: topic.topic_id,
                partition: partition.index,
                header: *records.first_chunk::<HEADER_LEN>().expect("the header of a batch"),
                body: records.slice(HEADER_LEN..),
            });
        }
    }
    let again = ok(&frame.origin, produce::encode_request(&head, &batches, frame.version));
    (body, again.concat().into())
}

/// Nothing writes these by hand: compared with what the generated message says.
fn produce_response(frame: &Message) {
    let body = response_body(frame, ApiKey::PRODUCE).rest();
    let by_hand = ok(&frame.origin, produce::Response::decode(&mut Reader::new(body.clone()), frame.version));
    let generated = ok(&frame.origin, ProduceResponse::decode(&mut Reader::new(body), frame.version));
    let left = by_hand.partitions().map(|(topic, partition)| {
        let offsets = (partition.base_offset, partition.log_append_time_ms, partition.log_start_offset);
        (&topic.name, topic.topic_id, partition.partition, partition.error_code, offsets)
    });
    let right = generated.responses.iter().flat_map(|topic| {
        topic.partition_responses.iter().map(move |partition| {
            let offsets = (partition.base_offset, partition.log_append_time_ms, partition.log_start_offset);
            (&topic.name, topic.topic_id, partition.index, ErrorCode(partition.error_code), offsets)
        })
    });
    assert!(left.eq(right), "{}", frame.origin);
    assert_eq!(by_hand.throttle_time_ms, generated.throttle_time_ms, "{}", frame.origin);
}

fn fetch_request(frame: &Message) -> (Bytes, Bytes) {
    let mut r = request_body(frame);
    let body = r.rest();
    let request = ok(&frame.origin, FetchRequest::decode(&mut r, frame.version));
    let topics = request.topics.into_iter().map(|topic| fetch::TopicRequest {
        name: topic.topic,
        topic_id: topic.topic_id,
        partitions: topic
            .partitions
            .into_iter()
            .map(|partition| fetch::PartitionRequest {
                partition: partition.partition,
                current_leader_epoch: partition.current_leader_epoch,
                fetch_offset: partition.fetch_offset,
                last_fetched_epoch: partition.last_fetched_epoch,
                partition_max_bytes: partition.partition_max_bytes,
            })
            .collect(),
    });
    let forgotten = request.forgotten_topics_data.into_iter().map(|topic| fetch::ForgottenTopic {
        name: topic.topic,
        topic_id: topic.topic_id,
        partitions: topic.partitions.iter().collect(),
    });
    let request = fetch::Request {
        max_wait_ms: request.max_wait_ms,
        min_bytes: request.min_bytes,
        max_bytes: request.max_bytes,
        isolation_level: request.isolation_level,
        session_id: request.session_id,
        session_epoch: request.session_epoch,
        topics: topics.collect(),
        forgotten: forgotten.collect(),
        rack_id: request.rack_id,
    };
    let mut again = BytesMut::new();
    ok(&frame.origin, request.encode(&mut again, frame.version));
    (body, again.freeze())
}

fn fetch_response(frame: &Message) -> (Bytes, Bytes) {
    let mut r = response_body(frame, ApiKey::FETCH);
    let body = r.rest();
    let response: fetch::Response = ok(&frame.origin, fetch::Response::decode(&mut r, frame.version));
    (body, ok(&frame.origin, response.encode(frame.version)).concat().into())
}
