//! The decoder of this crate's neighbour, as an example and as what the committed corpora were made with.

use bytes::{Bytes, BytesMut};
use carafe::wire::compression::{Compression, Compressor, Decompressor};
use carafe::wire::fetch::{self, AbortedTransaction};
use carafe::wire::frame::{FrameReader, decode_body, decode_request_header, decode_response_header};
use carafe::wire::records::{AbortedFilter, BatchIter, BatchWriter, RawBatch, RecordRange};
use carafe::wire::{ApiKey, Decode, DecodeError, Encode, Reader, Request, messages, produce};

use crate::decoder::{Batch, Batches, Codecs, Committed, Frames, Messages, Record, Refusal};

/// carafe's wire layer.
#[derive(Debug, Default)]
pub struct Carafe {
    decompressor: Decompressor,
    compressor: Compressor,
}

/// Reads a message and writes it again.
type Again = fn(i16, &Bytes) -> Result<Vec<u8>, Refusal>;

macro_rules! apis {
    ($($request:ident)*) => {
        /// Request and response of every API.
        const APIS: &[(ApiKey, Again, Again)] = &[$((
            <messages::$request as Request>::KEY,
            again::<messages::$request>,
            again::<<messages::$request as Request>::Response>,
        ),)*];
    };
}

apis! {
    ProduceRequest FetchRequest ListOffsetsRequest MetadataRequest OffsetCommitRequest
    OffsetFetchRequest FindCoordinatorRequest JoinGroupRequest HeartbeatRequest LeaveGroupRequest
    SyncGroupRequest DescribeGroupsRequest ListGroupsRequest SaslHandshakeRequest ApiVersionsRequest
    CreateTopicsRequest DeleteTopicsRequest DeleteRecordsRequest InitProducerIdRequest
    OffsetForLeaderEpochRequest AddPartitionsToTxnRequest AddOffsetsToTxnRequest EndTxnRequest
    WriteTxnMarkersRequest TxnOffsetCommitRequest DescribeAclsRequest CreateAclsRequest
    DeleteAclsRequest DescribeConfigsRequest AlterConfigsRequest AlterReplicaLogDirsRequest
    DescribeLogDirsRequest SaslAuthenticateRequest CreatePartitionsRequest CreateDelegationTokenRequest
    RenewDelegationTokenRequest ExpireDelegationTokenRequest DescribeDelegationTokenRequest
    DeleteGroupsRequest ElectLeadersRequest IncrementalAlterConfigsRequest
    AlterPartitionReassignmentsRequest ListPartitionReassignmentsRequest OffsetDeleteRequest
    DescribeClientQuotasRequest AlterClientQuotasRequest DescribeUserScramCredentialsRequest
    AlterUserScramCredentialsRequest DescribeQuorumRequest UpdateFeaturesRequest DescribeClusterRequest
    DescribeProducersRequest UnregisterBrokerRequest DescribeTransactionsRequest
    ListTransactionsRequest ConsumerGroupHeartbeatRequest ConsumerGroupDescribeRequest
    GetTelemetrySubscriptionsRequest PushTelemetryRequest ListConfigResourcesRequest
    DescribeTopicPartitionsRequest ShareGroupHeartbeatRequest ShareGroupDescribeRequest
    ShareFetchRequest ShareAcknowledgeRequest AddRaftVoterRequest RemoveRaftVoterRequest
    InitializeShareGroupStateRequest ReadShareGroupStateRequest WriteShareGroupStateRequest
    DeleteShareGroupStateRequest ReadShareGroupStateSummaryRequest DescribeShareGroupOffsetsRequest
    AlterShareGroupOffsetsRequest DeleteShareGroupOffsetsRequest StreamsGroupHeartbeatRequest
    StreamsGroupDescribeRequest StreamsGroupTopologyDescriptionUpdateRequest UnregisterControllerRequest
}

fn again<T: Decode + Encode>(version: i16, body: &Bytes) -> Result<Vec<u8>, Refusal> {
    let message: T =
        decode_body(&mut Reader::new(body.clone()), version).map_err(|error| named(error, body))?;
    let mut w = BytesMut::new();
    message
        .encode(&mut w, version)
        .unwrap_or_else(|error| panic!("what was read cannot be written: {error}"));
    Ok(w.into())
}

/// The error, which must say where in the body it lies.
fn named(error: DecodeError, body: &Bytes) -> Refusal {
    assert!(error.offset() <= body.len(), "{error} in {} bytes", body.len());
    error.to_string()
}

fn api(key: i16) -> Result<(Again, Again), Refusal> {
    let found = APIS.iter().find(|(api, ..)| api.0 == key);
    found.map(|(_, request, response)| (*request, *response)).ok_or(format!("no API has key {key}"))
}

impl Frames for Carafe {
    fn frames(&mut self, requests: bool, max: usize, chunks: &[&[u8]]) -> (Vec<Bytes>, Option<Refusal>) {
        let mut reader = if requests { FrameReader::requests(max) } else { FrameReader::responses(max) };
        let mut frames = Vec::new();
        for chunk in chunks {
            reader.buffer().extend_from_slice(chunk);
            loop {
                match reader.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error.to_string())),
                }
            }
        }
        (frames, None)
    }

    fn request_header(&mut self, frame: &Bytes) -> Result<(i16, i16, i32, usize), Refusal> {
        let (head, r) = decode_request_header(frame.clone()).map_err(|error| named(error, frame))?;
        Ok((head.key.0, head.version, head.correlation_id, r.offset()))
    }

    fn response_header(&mut self, frame: &Bytes, key: i16, version: i16) -> Result<(i32, usize), Refusal> {
        let (correlation_id, r) = decode_response_header(frame.clone(), ApiKey(key), version)
            .map_err(|error| named(error, frame))?;
        Ok((correlation_id, r.offset()))
    }
}

/// What the generated messages accept the bodies written by hand must accept too: they are what clients really use.
fn by_hand<T>(
    generated: &Result<Vec<u8>, Refusal>,
    version: i16,
    body: &Bytes,
    decode: impl FnOnce(&mut Reader, i16) -> Result<T, DecodeError>,
) {
    if let Err(error) = decode(&mut Reader::new(body.clone()), version) {
        let refused = named(error, body);
        assert!(generated.is_err(), "generated code reads it, code written by hand says {refused}");
    }
}

impl Messages for Carafe {
    fn request(&mut self, key: i16, version: i16, body: &Bytes) -> Result<Vec<u8>, Refusal> {
        api(key)?.0(version, body)
    }

    fn response(&mut self, key: i16, version: i16, body: &Bytes) -> Result<Vec<u8>, Refusal> {
        let again = api(key)?.1(version, body);
        match ApiKey(key) {
            ApiKey::PRODUCE if produce::VERSIONS.contains(version) => {
                by_hand(&again, version, body, produce::Response::decode);
            }
            ApiKey::FETCH if fetch::VERSIONS.contains(version) => {
                by_hand(&again, version, body, fetch::Response::decode);
            }
            _ => {}
        }
        again
    }
}

impl Carafe {
    /// The records of a batch, in the buffer that is returned.
    fn positions(
        &mut self,
        batch: &RawBatch,
        cap: usize,
    ) -> Result<(Bytes, Vec<RecordRange>), carafe::wire::records::BatchError> {
        let mut positions = Vec::new();
        let data = batch.decode(&mut self.decompressor, cap, i64::MIN, &mut positions)?;
        Ok((data, positions))
    }
}

impl Batches for Carafe {
    fn batches(&mut self, blob: &Bytes, cap: usize) -> (Vec<Batch>, Option<Refusal>) {
        let mut batches = Vec::new();
        for raw in BatchIter::new(blob.clone()) {
            let read = raw.and_then(|raw| {
                let (data, positions) = self.positions(&raw, cap)?;
                let mut batch = Batch::new(raw.header.base_offset, raw.header.last_offset());
                for position in positions {
                    let record = position.get(&data);
                    let headers = record.headers.iter().map(|header| (header.key, header.value));
                    batch.record(record.offset.0, record.timestamp, record.key, record.value, headers);
                }
                assert_eq!(Ok(batch.count), usize::try_from(raw.header.record_count));
                Ok(batch)
            });
            match read {
                Ok(batch) => batches.push(batch),
                Err(error) => {
                    assert!(error.position <= blob.len().max(cap), "{error}");
                    return (batches, Some(error.to_string()));
                }
            }
        }
        (batches, None)
    }

    fn write(&mut self, codec: i8, records: &[Record]) -> Option<Bytes> {
        let codec = Compression::from_id(codec).filter(|codec| codec.is_available())?;
        let mut writer = BatchWriter::new();
        for Record { timestamp, key, value, headers } in records {
            let (key, value) = (key.as_deref(), value.as_deref());
            let headers = headers.iter().map(|(key, value)| (&key[..], value.as_deref()));
            let size = writer.measure(*timestamp, key, value, headers.clone()).ok()?;
            writer.append(size, *timestamp, key, value, headers);
        }
        let (body, meta) = writer.finish();
        let mut packed = Vec::new();
        self.compressor.compress(codec, None, &body, &mut packed).ok()?;
        let header = meta.header(codec).encode(&packed);
        Some([&header[..], &packed].concat().into())
    }
}

/// Bytes in front of the output, which no error may change.
const BEFORE: &[u8] = b"before";

impl Codecs for Carafe {
    fn decompress(&mut self, codec: i8, input: &[u8], cap: usize) -> Result<Vec<u8>, Refusal> {
        let codec = Compression::from_id(codec).ok_or("unknown codec")?;
        let mut out = BEFORE.to_vec();
        let result = self.decompressor.decompress(codec, input, cap, &mut out);
        assert!(out.starts_with(BEFORE) && (result.is_ok() || out == BEFORE));
        result.map(|()| out.split_off(BEFORE.len())).map_err(|error| error.to_string())
    }

    fn compress(&mut self, codec: i8, level: Option<i32>, input: &[u8]) -> Vec<u8> {
        let mut out = BEFORE.to_vec();
        let codec = Compression::from_id(codec).expect("a known codec");
        // Any number finds a level of the codec.
        let level = level.map(|level| match codec.levels() {
            Some(levels) => level.clamp(*levels.start(), *levels.end()),
            None => level,
        });
        self.compressor.compress(codec, level, input, &mut out).expect("every codec is on");
        out.split_off(BEFORE.len())
    }
}

impl Committed for Carafe {
    fn visible(&mut self, blob: &Bytes, aborted: &[(i64, i64)]) -> (Vec<i64>, Option<Refusal>) {
        let aborted = aborted
            .iter()
            .map(|&(producer_id, first_offset)| AbortedTransaction { producer_id, first_offset });
        let mut filter = AbortedFilter::new(aborted.collect());
        let mut visible = Vec::new();
        for raw in BatchIter::new(blob.clone()) {
            let read = raw.and_then(|raw| {
                if !filter.hides(&raw)? {
                    let (_, positions) = self.positions(&raw, 1 << 16)?;
                    visible.extend(positions.iter().map(|position| position.offset));
                }
                Ok(())
            });
            if let Err(error) = read {
                return (visible, Some(error.to_string()));
            }
        }
        (visible, None)
    }
}
