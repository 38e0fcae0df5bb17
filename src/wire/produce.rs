//! Produce (key 0) by hand: the request as buffers for a vectored write, no record copied twice; the answer per
//! partition.

use bytes::{BufMut, Bytes};

use super::codec::{put_nullable_str, put_str};
use super::common::{read_topic, topic_len_min};
use super::error::{At, Fault};
use super::records::HEADER_LEN;
use super::segments::{SHARE_MIN, Segments, put_count, put_no_tags};
use super::{DecodeError, DecodeErrorKind, EncodeError, EncodeErrorKind, Reader, Str, Uuid, VersionRange};
use crate::ErrorCode;

pub use super::common::{CurrentLeader, NodeEndpoint};

/// The versions spoken here: batches of format 2 (3) to topic ids (13).
pub const VERSIONS: VersionRange = VersionRange::new(3, 13);

/// First version with compact strings and tagged fields.
const FLEXIBLE: i16 = 9;
/// First version that names topics by id alone.
const TOPIC_IDS: i16 = 13;

/// What a request says beside its batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Id of the transactional producer.
    pub transactional_id: Option<Str>,
    /// Acknowledgements: -1 for all in-sync replicas, 1 for the leader, 0 for none (there is no answer then).
    pub acks: i16,
    /// How long the broker may wait for the acknowledgements, in milliseconds.
    pub timeout_ms: i32,
}

/// The batch of one partition in a request; Kafka takes one per partition.
#[derive(Clone, Debug)]
pub struct PartitionBatch {
    /// The topic's name; sent up to version 12.
    pub topic: Str,
    /// The topic's id; sent from version 13.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: i32,
    /// The header made for this attempt.
    pub header: [u8; HEADER_LEN],
    /// The records, shared with the request unless they are small.
    pub body: Bytes,
}

/// The body of a request, in any order of batches: those of one topic are brought together. Bodies below 4 KiB are
/// copied, larger ones are buffers of their own.
///
/// # Errors
///
/// The version is not one of [`VERSIONS`], needs a topic id that a batch lacks, or a string is too long.
pub fn encode_request(
    head: &RequestHead,
    batches: &[PartitionBatch],
    version: i16,
) -> Result<Vec<Bytes>, EncodeError> {
    let fail = |fault: Fault<EncodeErrorKind>| EncodeError::new("ProduceRequest", version, fault);
    if !VERSIONS.contains(version) {
        return Err(fail(EncodeErrorKind::UnsupportedVersion.into()));
    }
    write_request(head, batches, version).map_err(fail)
}

fn write_request(
    head: &RequestHead,
    batches: &[PartitionBatch],
    version: i16,
) -> Result<Vec<Bytes>, Fault<EncodeErrorKind>> {
    let flexible = version >= FLEXIBLE;
    let by_id = version >= TOPIC_IDS;
    let same_topic = |a: &PartitionBatch, b: &PartitionBatch| {
        if by_id { a.topic_id == b.topic_id } else { a.topic == b.topic }
    };
    let mut order: Vec<&PartitionBatch> = batches.iter().collect();
    if by_id {
        order.sort_by_key(|batch| batch.topic_id.0);
    } else {
        order.sort_by(|a, b| a.topic.as_bytes().cmp(b.topic.as_bytes()));
    }

    let copied: usize = batches
        .iter()
        .map(|batch| {
            let body = if batch.body.len() < SHARE_MIN { batch.body.len() } else { 0 };
            // partition, length, tags; the topic's name or id, its count and tags
            HEADER_LEN + body + 4 + 5 + 1 + batch.topic.len().max(16) + 2 + 5 + 1
        })
        .sum();
    let id_len = head.transactional_id.as_ref().map_or(0, |id| id.len());
    let mut out = Segments::with_capacity(copied + id_len + 32, batches.len());

    put_nullable_str(&mut out.head, head.transactional_id.as_ref(), flexible).at("transactional_id")?;
    out.head.put_i16(head.acks);
    out.head.put_i32(head.timeout_ms);
    put_count(&mut out.head, order.chunk_by(|a, b| same_topic(a, b)).count(), flexible);
    for topic in order.chunk_by(|a, b| same_topic(a, b)) {
        let Some(first) = topic.first() else { continue };
        if !by_id {
            put_str(&mut out.head, &first.topic, flexible).at("topic_data.name")?;
        } else if first.topic_id == Uuid::ZERO {
            return Err(Fault::new(EncodeErrorKind::NotInVersion)).at("topic_data.topic_id");
        } else {
            out.head.put_slice(&first.topic_id.0);
        }
        put_count(&mut out.head, topic.len(), flexible);
        for batch in topic {
            out.head.put_i32(batch.partition);
            put_count(&mut out.head, HEADER_LEN + batch.body.len(), flexible);
            out.head.put_slice(&batch.header);
            out.put(&batch.body);
            put_no_tags(&mut out.head, flexible);
        }
        put_no_tags(&mut out.head, flexible);
    }
    put_no_tags(&mut out.head, flexible);
    Ok(out.finish())
}

/// What the broker answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Results by topic.
    pub topics: Vec<TopicResponse>,
    /// How long the client was or must be throttled, in milliseconds.
    pub throttle_time_ms: i32,
    /// Addresses of the leaders that the results name (from version 10).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// Results of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicResponse {
    /// The topic's name; empty from version 13.
    pub name: Str,
    /// The topic's id; zero up to version 12.
    pub topic_id: Uuid,
    /// Results of its partitions.
    pub partitions: Vec<PartitionResponse>,
}

/// Result of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionResponse {
    /// The partition.
    pub partition: i32,
    /// What happened.
    pub error_code: ErrorCode,
    /// Offset of the batch's first record; -1 if unknown.
    pub base_offset: i64,
    /// Timestamp that the broker gave to the records; -1 with create time.
    pub log_append_time_ms: i64,
    /// First offset of the log; -1 if unknown.
    pub log_start_offset: i64,
    /// The records that made the broker refuse the batch (KIP-467, from version 8).
    pub record_errors: Vec<RecordError>,
    /// What the records have in common.
    pub error_message: Option<Str>,
    /// The leader to send to instead (from version 10).
    pub current_leader: Option<CurrentLeader>,
}

impl Default for PartitionResponse {
    /// Success with nothing known.
    fn default() -> Self {
        Self {
            partition: 0,
            error_code: ErrorCode::NONE,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: None,
            current_leader: None,
        }
    }
}

/// A record that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// Index of the record in the batch.
    pub index: i32,
    /// Why.
    pub message: Option<Str>,
}

impl Response {
    /// Reads the body of an answer, which must take all that is left in `r`; text shares its buffer.
    ///
    /// # Errors
    ///
    /// The version is not one of [`VERSIONS`], or the bytes are not such an answer.
    pub fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let read = if VERSIONS.contains(version) {
            Self::read(r, version)
        } else {
            Err(DecodeErrorKind::UnsupportedVersion.into())
        };
        read.and_then(|body| r.finish().map(|()| body).map_err(Fault::new))
            .map_err(|fault| DecodeError::new("ProduceResponse", version, fault, r.offset()))
    }

    fn read(r: &mut Reader, version: i16) -> Result<Self, Fault<DecodeErrorKind>> {
        let flexible = version >= FLEXIBLE;
        let least = topic_len_min(version >= TOPIC_IDS, flexible);
        let mut response = Self {
            topics: r
                .nullable_vec(flexible, least, |r| TopicResponse::read(r, version))
                .at("responses")?
                .unwrap_or_default(),
            throttle_time_ms: r.i32().at("throttle_time_ms")?,
            node_endpoints: Vec::new(),
        };
        if flexible {
            r.tagged(|r, tag| match tag {
                0 if version >= 10 => {
                    response.node_endpoints = NodeEndpoint::read_all(r)?;
                    Ok(true)
                }
                _ => Ok(false),
            })?;
        }
        Ok(response)
    }

    /// The results with the topic they belong to.
    pub fn partitions(&self) -> impl Iterator<Item = (&TopicResponse, &PartitionResponse)> {
        self.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)))
    }
}

impl TopicResponse {
    fn read(r: &mut Reader, version: i16) -> Result<Self, Fault<DecodeErrorKind>> {
        let flexible = version >= FLEXIBLE;
        let (name, topic_id) = read_topic(r, version >= TOPIC_IDS, flexible, "name")?;
        let partitions = r
            .nullable_vec(flexible, 4 + 2 + 8 + 8, |r| PartitionResponse::read(r, version))
            .at("partition_responses")?
            .unwrap_or_default();
        if flexible {
            r.skip_tagged()?;
        }
        Ok(Self { name, topic_id, partitions })
    }
}

impl PartitionResponse {
    fn read(r: &mut Reader, version: i16) -> Result<Self, Fault<DecodeErrorKind>> {
        let flexible = version >= FLEXIBLE;
        let mut partition = Self {
            partition: r.i32().at("index")?,
            error_code: ErrorCode(r.i16().at("error_code")?),
            base_offset: r.i64().at("base_offset")?,
            log_append_time_ms: r.i64().at("log_append_time_ms")?,
            ..Self::default()
        };
        if version >= 5 {
            partition.log_start_offset = r.i64().at("log_start_offset")?;
        }
        if version >= 8 {
            let record_error = |r: &mut Reader| {
                let error = RecordError {
                    index: r.i32().at("batch_index")?,
                    message: r.nullable_str(flexible).at("batch_index_error_message")?,
                };
                if flexible {
                    r.skip_tagged()?;
                }
                Ok::<_, Fault<DecodeErrorKind>>(error)
            };
            partition.record_errors =
                r.nullable_vec(flexible, 5, record_error).at("record_errors")?.unwrap_or_default();
            partition.error_message = r.nullable_str(flexible).at("error_message")?;
        }
        if flexible {
            r.tagged(|r, tag| match tag {
                0 if version >= 10 => {
                    partition.current_leader = CurrentLeader::read(r).at("current_leader")?;
                    Ok(true)
                }
                _ => Ok(false),
            })?;
        }
        Ok(partition)
    }
}
