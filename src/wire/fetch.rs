//! Fetch (key 1) by hand: requests of full and incremental sessions; answers split into partitions whose records share
//! the frame's buffer.

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::put_str;
use super::common::{read_topic, topic_len_min};
use super::error::{At, Fault};
use super::segments::{put_count, put_no_tags};
use super::{DecodeError, DecodeErrorKind, EncodeError, EncodeErrorKind, Reader, Str, Uuid, VersionRange};
use crate::ErrorCode;

pub use super::common::{CurrentLeader, NodeEndpoint};

/// The versions spoken here: isolation levels (4) to directory ids (17); 18 concerns followers alone.
pub const VERSIONS: VersionRange = VersionRange::new(4, 17);

/// First version with sessions.
const SESSIONS: i16 = 7;
/// First version with compact strings and tagged fields.
const FLEXIBLE: i16 = 12;
/// First version that names topics by id alone.
const TOPIC_IDS: i16 = 13;

/// A request; its session fields say whether `topics` is everything or what changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Longest wait for `min_bytes`, in milliseconds.
    pub max_wait_ms: i32,
    /// Bytes to wait for.
    pub min_bytes: i32,
    /// Most bytes of records in the answer; one batch may exceed it.
    pub max_bytes: i32,
    /// 0 to read uncommitted, 1 to read committed.
    pub isolation_level: i8,
    /// The session; 0 for none or a new one. From version 7.
    pub session_id: i32,
    /// 0 to create a session, -1 to end one or go without, else the number of the request in it. From version 7.
    pub session_epoch: i32,
    /// What to read, by topic.
    pub topics: Vec<TopicRequest>,
    /// What leaves the session, by topic. From version 7.
    pub forgotten: Vec<ForgottenTopic>,
    /// The rack of the client, empty for none (KIP-392). From version 11.
    pub rack_id: Str,
}

impl Default for Request {
    /// Nothing, without a session, at once.
    fn default() -> Self {
        Self {
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: i32::MAX,
            isolation_level: 0,
            session_id: 0,
            session_epoch: -1,
            topics: Vec::new(),
            forgotten: Vec::new(),
            rack_id: Str::new(),
        }
    }
}

/// What to read of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicRequest {
    /// The topic's name; sent up to version 12.
    pub name: Str,
    /// The topic's id; sent from version 13.
    pub topic_id: Uuid,
    /// Its partitions.
    pub partitions: Vec<PartitionRequest>,
}

/// What to read of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionRequest {
    /// The partition.
    pub partition: i32,
    /// Epoch of the leader that the client knows, -1 for none; from version 9.
    pub current_leader_epoch: i32,
    /// The offset to read from.
    pub fetch_offset: i64,
    /// Epoch of the record in front of that, -1 for none; from version 12, where it lets the broker find truncation.
    pub last_fetched_epoch: i32,
    /// Most bytes of this partition; one batch may exceed it.
    pub partition_max_bytes: i32,
}

/// What leaves a session, of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForgottenTopic {
    /// The topic's name; sent up to version 12.
    pub name: Str,
    /// The topic's id; sent from version 13.
    pub topic_id: Uuid,
    /// Its partitions.
    pub partitions: Vec<i32>,
}

impl Request {
    /// Appends the body of the request. What the version does not know is left out: leader epochs, the rack, sessions.
    ///
    /// # Errors
    ///
    /// The version is not one of [`VERSIONS`], needs a topic id that is not there, cannot carry the forgotten
    /// partitions, or a string is too long.
    pub fn encode(&self, w: &mut BytesMut, version: i16) -> Result<(), EncodeError> {
        let written = if VERSIONS.contains(version) {
            self.write(w, version)
        } else {
            Err(EncodeErrorKind::UnsupportedVersion.into())
        };
        written.map_err(|fault| EncodeError::new("FetchRequest", version, fault))
    }

    fn write(&self, w: &mut BytesMut, version: i16) -> Result<(), Fault<EncodeErrorKind>> {
        let flexible = version >= FLEXIBLE;
        let partitions: usize = self.topics.iter().map(|topic| topic.partitions.len()).sum();
        w.reserve(64 + 40 * self.topics.len() + 33 * partitions);
        if version <= 14 {
            w.put_i32(-1); // replica id; later versions tag it
        }
        w.put_i32(self.max_wait_ms);
        w.put_i32(self.min_bytes);
        w.put_i32(self.max_bytes);
        w.put_i8(self.isolation_level);
        if version >= SESSIONS {
            w.put_i32(self.session_id);
            w.put_i32(self.session_epoch);
        }
        put_count(w, self.topics.len(), flexible);
        for topic in &self.topics {
            put_topic(w, &topic.name, topic.topic_id, version).at("topics")?;
            put_count(w, topic.partitions.len(), flexible);
            for partition in &topic.partitions {
                w.put_i32(partition.partition);
                if version >= 9 {
                    w.put_i32(partition.current_leader_epoch);
                }
                w.put_i64(partition.fetch_offset);
                if version >= FLEXIBLE {
                    w.put_i32(partition.last_fetched_epoch);
                }
                if version >= 5 {
                    w.put_i64(-1); // log start offset, of followers
                }
                w.put_i32(partition.partition_max_bytes);
                put_no_tags(w, flexible);
            }
            put_no_tags(w, flexible);
        }
        if version >= SESSIONS {
            put_count(w, self.forgotten.len(), flexible);
            for topic in &self.forgotten {
                put_topic(w, &topic.name, topic.topic_id, version).at("forgotten_topics_data")?;
                put_count(w, topic.partitions.len(), flexible);
                for partition in &topic.partitions {
                    w.put_i32(*partition);
                }
                put_no_tags(w, flexible);
            }
        } else if !self.forgotten.is_empty() {
            return Err(Fault::new(EncodeErrorKind::NotInVersion)).at("forgotten_topics_data");
        }
        if version >= 11 {
            put_str(w, &self.rack_id, flexible).at("rack_id")?;
        }
        put_no_tags(w, flexible);
        Ok(())
    }
}

/// Name or id of a topic.
fn put_topic(
    w: &mut BytesMut,
    name: &Str,
    topic_id: Uuid,
    version: i16,
) -> Result<(), Fault<EncodeErrorKind>> {
    if version < TOPIC_IDS {
        put_str(w, name, version >= FLEXIBLE).at("topic")
    } else if topic_id == Uuid::ZERO {
        Err(Fault::new(EncodeErrorKind::NotInVersion)).at("topic_id")
    } else {
        w.put_slice(&topic_id.0);
        Ok(())
    }
}

/// What the broker answers. `R` holds the records of a partition: shared [`Bytes`] when read, several of them when a
/// broker writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<R = Bytes> {
    /// How long the client was or must be throttled, in milliseconds.
    pub throttle_time_ms: i32,
    /// An error of the whole request, of its session most of all (from version 7).
    pub error_code: ErrorCode,
    /// The session; 0 if there is none (from version 7).
    pub session_id: i32,
    /// Data by topic; in an incremental session only of partitions that have news.
    pub topics: Vec<TopicData<R>>,
    /// Addresses of the leaders that the partitions name (from version 16).
    pub node_endpoints: Vec<NodeEndpoint>,
}

impl<R> Default for Response<R> {
    /// No data, no session.
    fn default() -> Self {
        Self {
            throttle_time_ms: 0,
            error_code: ErrorCode::NONE,
            session_id: 0,
            topics: Vec::new(),
            node_endpoints: Vec::new(),
        }
    }
}

impl<R> Response<R> {
    /// The same answer with each partition's records replaced.
    pub fn map_records<S>(self, mut map: impl FnMut(R) -> S) -> Response<S> {
        let topic = |topic: TopicData<R>| TopicData {
            name: topic.name,
            topic_id: topic.topic_id,
            partitions: topic.partitions.into_iter().map(|part| part.map_records(&mut map)).collect(),
        };
        Response {
            throttle_time_ms: self.throttle_time_ms,
            error_code: self.error_code,
            session_id: self.session_id,
            topics: self.topics.into_iter().map(topic).collect(),
            node_endpoints: self.node_endpoints,
        }
    }
}

/// Data of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicData<R = Bytes> {
    /// The topic's name; empty from version 13.
    pub name: Str,
    /// The topic's id; zero up to version 12.
    pub topic_id: Uuid,
    /// Its partitions.
    pub partitions: Vec<PartitionData<R>>,
}

/// Data of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionData<R = Bytes> {
    /// The partition.
    pub partition: i32,
    /// What happened.
    pub error_code: ErrorCode,
    /// Offset up to which all in-sync replicas have the log; -1 if unknown.
    pub high_watermark: i64,
    /// Offset up to which every transaction is decided; -1 if unknown.
    pub last_stable_offset: i64,
    /// First offset of the log; -1 if unknown (from version 5).
    pub log_start_offset: i64,
    /// Where the log went another way than the records fetched before: truncation (from version 12).
    pub diverging_epoch: Option<EpochEndOffset>,
    /// The leader to ask instead (from version 12).
    pub current_leader: Option<CurrentLeader>,
    /// Transactions to leave out when reading committed, in no order to rely on; `None` when reading uncommitted.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// The replica to ask next (KIP-392, from version 11).
    pub preferred_read_replica: Option<i32>,
    /// Batches, the last of which may be cut short; empty without news.
    pub records: R,
}

impl<R> PartitionData<R> {
    /// The same data with the records replaced.
    pub fn map_records<S>(self, map: impl FnOnce(R) -> S) -> PartitionData<S> {
        PartitionData {
            partition: self.partition,
            error_code: self.error_code,
            high_watermark: self.high_watermark,
            last_stable_offset: self.last_stable_offset,
            log_start_offset: self.log_start_offset,
            diverging_epoch: self.diverging_epoch,
            current_leader: self.current_leader,
            aborted_transactions: self.aborted_transactions,
            preferred_read_replica: self.preferred_read_replica,
            records: map(self.records),
        }
    }
}

impl<R: Default> Default for PartitionData<R> {
    /// No records, nothing known.
    fn default() -> Self {
        Self {
            partition: 0,
            error_code: ErrorCode::NONE,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
            aborted_transactions: None,
            preferred_read_replica: None,
            records: R::default(),
        }
    }
}

/// The end of an epoch in the broker's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// Largest epoch that both logs may share.
    pub epoch: i32,
    /// The offset after its last record.
    pub end_offset: i64,
}

/// An aborted transaction of the offsets that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Offset of its first record in this partition.
    pub first_offset: i64,
}

impl Response {
    /// Reads the body of an answer, which must take all that is left in `r`; records and text share its buffer.
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
            .map_err(|fault| DecodeError::new("FetchResponse", version, fault, r.offset()))
    }

    fn read(r: &mut Reader, version: i16) -> Result<Self, Fault<DecodeErrorKind>> {
        let flexible = version >= FLEXIBLE;
        let mut response = Self { throttle_time_ms: r.i32().at("throttle_time_ms")?, ..Self::default() };
        if version >= SESSIONS {
            response.error_code = ErrorCode(r.i16().at("error_code")?);
            response.session_id = r.i32().at("session_id")?;
        }
        response.topics = r
            .nullable_vec(flexible, topic_len_min(version >= TOPIC_IDS, flexible), |r| {
                TopicData::read(r, version)
            })
            .at("responses")?
            .unwrap_or_default();
        if flexible {
            r.tagged(|r, tag| match tag {
                0 if version >= 16 => {
                    response.node_endpoints = NodeEndpoint::read_all(r)?;
                    Ok(true)
                }
                _ => Ok(false),
            })?;
        }
        Ok(response)
    }
}

impl TopicData {
    fn read(r: &mut Reader, version: i16) -> Result<Self, Fault<DecodeErrorKind>> {
        let flexible = version >= FLEXIBLE;
        let (name, topic_id) = read_topic(r, version >= TOPIC_IDS, flexible, "topic")?;
        let partitions = r
            .nullable_vec(flexible, 4 + 2 + 8 + 8 + 1 + 1, |r| PartitionData::read(r, version))
            .at("partitions")?
            .unwrap_or_default();
        if flexible {
            r.skip_tagged()?;
        }
        Ok(Self { name, topic_id, partitions })
    }
}

impl PartitionData {
    fn read(r: &mut Reader, version: i16) -> Result<Self, Fault<DecodeErrorKind>> {
        let flexible = version >= FLEXIBLE;
        let mut partition = Self {
            partition: r.i32().at("partition_index")?,
            error_code: ErrorCode(r.i16().at("error_code")?),
            high_watermark: r.i64().at("high_watermark")?,
            last_stable_offset: r.i64().at("last_stable_offset")?,
            ..Self::default()
        };
        if version >= 5 {
            partition.log_start_offset = r.i64().at("log_start_offset")?;
        }
        let aborted = |r: &mut Reader| {
            let transaction = AbortedTransaction {
                producer_id: r.i64().at("producer_id")?,
                first_offset: r.i64().at("first_offset")?,
            };
            if flexible {
                r.skip_tagged()?;
            }
            Ok::<_, Fault<DecodeErrorKind>>(transaction)
        };
        partition.aborted_transactions = r.nullable_vec(flexible, 16, aborted).at("aborted_transactions")?;
        if version >= 11 {
            let replica = r.i32().at("preferred_read_replica")?;
            partition.preferred_read_replica = (replica >= 0).then_some(replica);
        }
        partition.records = r.nullable_bytes(flexible).at("records")?.unwrap_or_default();
        if flexible {
            r.tagged(|r, tag| match tag {
                0 => {
                    let end = EpochEndOffset {
                        epoch: r.i32().at("diverging_epoch.epoch")?,
                        end_offset: r.i64().at("diverging_epoch.end_offset")?,
                    };
                    r.skip_tagged()?;
                    // Both -1 is how Kafka says that there is none.
                    partition.diverging_epoch = (end.epoch >= 0 || end.end_offset >= 0).then_some(end);
                    Ok(true)
                }
                1 => {
                    partition.current_leader = CurrentLeader::read(r).at("current_leader")?;
                    Ok(true)
                }
                _ => Ok(false), // 2 is the snapshot of a metadata log
            })?;
        }
        Ok(partition)
    }
}

/// The broker's side.
#[cfg(any(test, feature = "both-directions"))]
mod serve {
    use super::*;
    use crate::wire::codec::Tags;
    use crate::wire::segments::Segments;

    /// The records of a partition as a broker holds them: one buffer or several in a row.
    pub trait Records {
        /// The buffers, in order.
        fn parts(&self) -> &[Bytes];
    }

    impl Records for Bytes {
        fn parts(&self) -> &[Bytes] {
            std::slice::from_ref(self)
        }
    }

    impl Records for Vec<Bytes> {
        fn parts(&self) -> &[Bytes] {
            self
        }
    }

    impl<R: Records> Response<R> {
        /// The body of an answer as buffers for a vectored write: records of 4 KiB and more are shared, not copied. What
        /// the version cannot carry is left out.
        ///
        /// # Errors
        ///
        /// The version is not one of [`VERSIONS`], or a string is too long.
        pub fn encode(&self, version: i16) -> Result<Vec<Bytes>, EncodeError> {
            let written = if VERSIONS.contains(version) {
                self.write(version)
            } else {
                Err(EncodeErrorKind::UnsupportedVersion.into())
            };
            written.map_err(|fault| EncodeError::new("FetchResponse", version, fault))
        }

        fn write(&self, version: i16) -> Result<Vec<Bytes>, Fault<EncodeErrorKind>> {
            let flexible = version >= FLEXIBLE;
            let mut out = Segments::with_capacity(256, 0);
            let w = &mut out.head;
            w.put_i32(self.throttle_time_ms);
            if version >= SESSIONS {
                w.put_i16(self.error_code.0);
                w.put_i32(self.session_id);
            }
            put_count(w, self.topics.len(), flexible);
            for topic in &self.topics {
                if version >= TOPIC_IDS {
                    out.head.put_slice(&topic.topic_id.0);
                } else {
                    put_str(&mut out.head, &topic.name, flexible).at("topic")?;
                }
                put_count(&mut out.head, topic.partitions.len(), flexible);
                for partition in &topic.partitions {
                    partition.write(&mut out, version)?;
                }
                put_no_tags(&mut out.head, flexible);
            }
            if flexible {
                let mut tags = Tags::default();
                if version >= 16 {
                    NodeEndpoint::write_all(&self.node_endpoints, 0, &mut tags)?;
                }
                tags.finish(&mut out.head);
            }
            Ok(out.finish())
        }
    }

    impl<R: Records> PartitionData<R> {
        fn write(&self, out: &mut Segments, version: i16) -> Result<(), Fault<EncodeErrorKind>> {
            let flexible = version >= FLEXIBLE;
            let w = &mut out.head;
            w.put_i32(self.partition);
            w.put_i16(self.error_code.0);
            w.put_i64(self.high_watermark);
            w.put_i64(self.last_stable_offset);
            if version >= 5 {
                w.put_i64(self.log_start_offset);
            }
            match &self.aborted_transactions {
                Some(aborted) => {
                    put_count(w, aborted.len(), flexible);
                    for transaction in aborted {
                        w.put_i64(transaction.producer_id);
                        w.put_i64(transaction.first_offset);
                        put_no_tags(w, flexible);
                    }
                }
                None if flexible => w.put_u8(0),
                None => w.put_i32(-1),
            }
            if version >= 11 {
                w.put_i32(self.preferred_read_replica.unwrap_or(-1));
            }
            let parts = self.records.parts();
            put_count(w, parts.iter().map(Bytes::len).sum(), flexible);
            for part in parts {
                out.put(part);
            }
            if flexible {
                let mut tags = Tags::default();
                if let Some(end) = self.diverging_epoch {
                    tags.field(0, "diverging_epoch", |w| {
                        w.put_i32(end.epoch);
                        w.put_i64(end.end_offset);
                        put_no_tags(w, true);
                        Ok(())
                    })?;
                }
                if let Some(leader) = self.current_leader {
                    tags.field(1, "current_leader", |w| {
                        leader.write(w);
                        Ok(())
                    })?;
                }
                tags.finish(&mut out.head);
            }
            Ok(())
        }
    }
}

#[cfg(any(test, feature = "both-directions"))]
pub use serve::Records;
