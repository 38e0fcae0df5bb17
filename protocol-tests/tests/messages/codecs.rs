//! Both codecs behind one function each: read a message, write it again.

use bytes::{Bytes, BytesMut};
use carafe::wire::messages as ours;
use carafe::wire::{Decode, DecodeError, Encode, Reader, VersionRange};
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable, Message};

/// The messages that both have, and those that only carafe has.
macro_rules! messages {
    (both: $($both:ident)*; ours: $($ours:ident)*) => {
        /// What carafe makes of `bytes`: the message written again, and how many bytes it left.
        pub(crate) fn carafe(name: &str, version: i16, bytes: Bytes) -> Result<(BytesMut, usize), DecodeError> {
            match name {
                $(stringify!($both) => carafe_again::<ours::$both>(version, bytes),)*
                $(stringify!($ours) => carafe_again::<ours::$ours>(version, bytes),)*
                _ => panic!("{name} is missing in this list"),
            }
        }

        /// Lowest and highest version that `kafka-protocol` has of a message.
        pub(crate) fn oracle_versions(name: &str) -> Option<VersionRange> {
            match name {
                $(stringify!($both) => {
                    let theirs = <theirs::$both as Message>::VERSIONS;
                    Some(VersionRange::new(theirs.min, theirs.max))
                })*
                _ => None,
            }
        }

        /// What `kafka-protocol` makes of `bytes`: the message written again, and how many bytes it left; `None` if it
        /// does not know the message or version. It takes the process with it where a length is a lie.
        pub(crate) fn oracle(name: &str, version: i16, bytes: Bytes) -> Option<Result<(BytesMut, usize), String>> {
            match name {
                $(stringify!($both) => oracle_again::<theirs::$both>(version, bytes),)*
                _ => None,
            }
        }
    };
}

fn carafe_again<T: Decode + Encode>(version: i16, bytes: Bytes) -> Result<(BytesMut, usize), DecodeError> {
    let mut r = Reader::new(bytes);
    let message = T::decode(&mut r, version)?;
    let mut w = BytesMut::new();
    if let Err(error) = message.encode(&mut w, version) {
        panic!("what was read cannot be written: {error}");
    }
    Ok((w, r.remaining()))
}

fn oracle_again<T>(version: i16, mut bytes: Bytes) -> Option<Result<(BytesMut, usize), String>>
where
    T: Decodable + Encodable + Message,
{
    if version < T::VERSIONS.min || version > T::VERSIONS.max {
        return None;
    }
    let mut w = BytesMut::new();
    let result = T::decode(&mut bytes, version).and_then(|message| message.encode(&mut w, version));
    Some(result.map(|()| (w, bytes.len())).map_err(|error| error.to_string()))
}

messages! {
    both:
        ProduceRequest
        ProduceResponse
        FetchRequest
        FetchResponse
        ListOffsetsRequest
        ListOffsetsResponse
        MetadataRequest
        MetadataResponse
        OffsetCommitRequest
        OffsetCommitResponse
        OffsetFetchRequest
        OffsetFetchResponse
        FindCoordinatorRequest
        FindCoordinatorResponse
        JoinGroupRequest
        JoinGroupResponse
        HeartbeatRequest
        HeartbeatResponse
        LeaveGroupRequest
        LeaveGroupResponse
        SyncGroupRequest
        SyncGroupResponse
        DescribeGroupsRequest
        DescribeGroupsResponse
        ListGroupsRequest
        ListGroupsResponse
        SaslHandshakeRequest
        SaslHandshakeResponse
        ApiVersionsRequest
        ApiVersionsResponse
        CreateTopicsRequest
        CreateTopicsResponse
        DeleteTopicsRequest
        DeleteTopicsResponse
        DeleteRecordsRequest
        DeleteRecordsResponse
        InitProducerIdRequest
        InitProducerIdResponse
        OffsetForLeaderEpochRequest
        OffsetForLeaderEpochResponse
        AddPartitionsToTxnRequest
        AddPartitionsToTxnResponse
        AddOffsetsToTxnRequest
        AddOffsetsToTxnResponse
        EndTxnRequest
        EndTxnResponse
        WriteTxnMarkersRequest
        WriteTxnMarkersResponse
        TxnOffsetCommitRequest
        TxnOffsetCommitResponse
        DescribeAclsRequest
        DescribeAclsResponse
        CreateAclsRequest
        CreateAclsResponse
        DeleteAclsRequest
        DeleteAclsResponse
        DescribeConfigsRequest
        DescribeConfigsResponse
        AlterConfigsRequest
        AlterConfigsResponse
        AlterReplicaLogDirsRequest
        AlterReplicaLogDirsResponse
        DescribeLogDirsRequest
        DescribeLogDirsResponse
        SaslAuthenticateRequest
        SaslAuthenticateResponse
        CreatePartitionsRequest
        CreatePartitionsResponse
        CreateDelegationTokenRequest
        CreateDelegationTokenResponse
        RenewDelegationTokenRequest
        RenewDelegationTokenResponse
        ExpireDelegationTokenRequest
        ExpireDelegationTokenResponse
        DescribeDelegationTokenRequest
        DescribeDelegationTokenResponse
        DeleteGroupsRequest
        DeleteGroupsResponse
        ElectLeadersRequest
        ElectLeadersResponse
        IncrementalAlterConfigsRequest
        IncrementalAlterConfigsResponse
        AlterPartitionReassignmentsRequest
        AlterPartitionReassignmentsResponse
        ListPartitionReassignmentsRequest
        ListPartitionReassignmentsResponse
        OffsetDeleteRequest
        OffsetDeleteResponse
        DescribeClientQuotasRequest
        DescribeClientQuotasResponse
        AlterClientQuotasRequest
        AlterClientQuotasResponse
        DescribeUserScramCredentialsRequest
        DescribeUserScramCredentialsResponse
        AlterUserScramCredentialsRequest
        AlterUserScramCredentialsResponse
        DescribeQuorumRequest
        DescribeQuorumResponse
        UpdateFeaturesRequest
        UpdateFeaturesResponse
        DescribeClusterRequest
        DescribeClusterResponse
        DescribeProducersRequest
        DescribeProducersResponse
        UnregisterBrokerRequest
        UnregisterBrokerResponse
        DescribeTransactionsRequest
        DescribeTransactionsResponse
        ListTransactionsRequest
        ListTransactionsResponse
        ConsumerGroupHeartbeatRequest
        ConsumerGroupHeartbeatResponse
        ConsumerGroupDescribeRequest
        ConsumerGroupDescribeResponse
        GetTelemetrySubscriptionsRequest
        GetTelemetrySubscriptionsResponse
        PushTelemetryRequest
        PushTelemetryResponse
        ListConfigResourcesRequest
        ListConfigResourcesResponse
        DescribeTopicPartitionsRequest
        DescribeTopicPartitionsResponse
        ShareGroupHeartbeatRequest
        ShareGroupHeartbeatResponse
        ShareGroupDescribeRequest
        ShareGroupDescribeResponse
        ShareFetchRequest
        ShareFetchResponse
        ShareAcknowledgeRequest
        ShareAcknowledgeResponse
        AddRaftVoterRequest
        AddRaftVoterResponse
        RemoveRaftVoterRequest
        RemoveRaftVoterResponse
        InitializeShareGroupStateRequest
        InitializeShareGroupStateResponse
        ReadShareGroupStateRequest
        ReadShareGroupStateResponse
        WriteShareGroupStateRequest
        WriteShareGroupStateResponse
        DeleteShareGroupStateRequest
        DeleteShareGroupStateResponse
        ReadShareGroupStateSummaryRequest
        ReadShareGroupStateSummaryResponse
        DescribeShareGroupOffsetsRequest
        DescribeShareGroupOffsetsResponse
        AlterShareGroupOffsetsRequest
        AlterShareGroupOffsetsResponse
        DeleteShareGroupOffsetsRequest
        DeleteShareGroupOffsetsResponse
        RequestHeader
        ResponseHeader
        ConsumerProtocolSubscription
        ConsumerProtocolAssignment
    ;
    ours:
        StreamsGroupHeartbeatRequest
        StreamsGroupHeartbeatResponse
        StreamsGroupDescribeRequest
        StreamsGroupDescribeResponse
        StreamsGroupTopologyDescriptionUpdateRequest
        StreamsGroupTopologyDescriptionUpdateResponse
        UnregisterControllerRequest
        UnregisterControllerResponse
}
