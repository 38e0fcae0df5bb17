//! One file per API, named by its key. A handler turns a request into an answer, at once under the cluster's lock or
//! later; it knows nothing of connections.

mod p00_produce;
mod p01_fetch;
mod p02_list_offsets;
mod p03_metadata;
mod p08_offset_commit;
mod p09_offset_fetch;
mod p10_find_coordinator;
mod p11_join_group;
mod p12_heartbeat;
mod p13_leave_group;
mod p14_sync_group;
mod p15_describe_groups;
mod p16_list_groups;
mod p17_sasl_handshake;
mod p18_api_versions;
mod p19_create_topics;
mod p20_delete_topics;
mod p21_delete_records;
mod p22_init_producer_id;
mod p23_offset_for_leader_epoch;
mod p24_add_partitions_to_txn;
mod p25_add_offsets_to_txn;
mod p26_end_txn;
mod p27_write_txn_markers;
mod p28_txn_offset_commit;
mod p32_describe_configs;
mod p36_sasl_authenticate;
mod p37_create_partitions;
mod p42_delete_groups;
mod p44_incremental_alter_configs;
mod p47_offset_delete;
mod p50_describe_user_scram_credentials;
mod p51_alter_user_scram_credentials;
mod p57_update_features;
mod p60_describe_cluster;
mod p61_describe_producers;
mod p65_describe_transactions;
mod p66_list_transactions;
mod p74_list_config_resources;
mod p75_describe_topic_partitions;

use std::fmt;

use bytes::Bytes;
use tokio::time::Instant;

use super::cluster::State;
use super::groups::{Output, Ticket};
use super::log::{Depth, Examined};
use super::partition::Wake;
use super::rights::Operation;
use super::transactions::Moment;
use crate::ErrorCode;
use crate::wire::frame::encode_response;
use crate::wire::{ApiKey, Decode, EncodeError, Request, Str, VersionRange};

pub(crate) use p18_api_versions::unsupported as unsupported_api_versions;

/// The APIs that are offered, with their versions.
pub(crate) const SERVED: &[(ApiKey, VersionRange)] = &[
    // 0 to 2 are named, as Kafka 4 does, because librdkafka looks for them; they are not served.
    (ApiKey::PRODUCE, VersionRange::new(0, 13)),
    (ApiKey::FETCH, VersionRange::new(4, 17)),
    (ApiKey::LIST_OFFSETS, VersionRange::new(1, 10)),
    (ApiKey::METADATA, VersionRange::new(0, 13)),
    (ApiKey::OFFSET_COMMIT, VersionRange::new(2, 10)),
    (ApiKey::OFFSET_FETCH, VersionRange::new(1, 10)),
    (ApiKey::FIND_COORDINATOR, VersionRange::new(0, 6)),
    (ApiKey::JOIN_GROUP, VersionRange::new(0, 9)),
    (ApiKey::HEARTBEAT, VersionRange::new(0, 4)),
    (ApiKey::LEAVE_GROUP, VersionRange::new(0, 5)),
    (ApiKey::SYNC_GROUP, VersionRange::new(0, 5)),
    (ApiKey::DESCRIBE_GROUPS, VersionRange::new(0, 6)),
    (ApiKey::LIST_GROUPS, VersionRange::new(0, 5)),
    (ApiKey::SASL_HANDSHAKE, VersionRange::new(0, 1)),
    (ApiKey::API_VERSIONS, VersionRange::new(0, 4)),
    (ApiKey::CREATE_TOPICS, VersionRange::new(2, 7)),
    (ApiKey::DELETE_TOPICS, VersionRange::new(1, 6)),
    (ApiKey::DELETE_RECORDS, VersionRange::new(0, 2)),
    (ApiKey::INIT_PRODUCER_ID, VersionRange::new(0, 5)),
    (ApiKey::OFFSET_FOR_LEADER_EPOCH, VersionRange::new(2, 4)),
    (ApiKey::ADD_PARTITIONS_TO_TXN, VersionRange::new(0, 5)),
    (ApiKey::ADD_OFFSETS_TO_TXN, VersionRange::new(0, 4)),
    (ApiKey::END_TXN, VersionRange::new(0, 5)),
    (ApiKey::WRITE_TXN_MARKERS, VersionRange::new(1, 2)),
    (ApiKey::TXN_OFFSET_COMMIT, VersionRange::new(0, 5)),
    (ApiKey::DESCRIBE_CONFIGS, VersionRange::new(1, 4)),
    (ApiKey::SASL_AUTHENTICATE, VersionRange::new(0, 2)),
    (ApiKey::ALTER_CONFIGS, VersionRange::new(0, 2)),
    (ApiKey::CREATE_PARTITIONS, VersionRange::new(0, 3)),
    (ApiKey::DELETE_GROUPS, VersionRange::new(0, 2)),
    (ApiKey::INCREMENTAL_ALTER_CONFIGS, VersionRange::new(0, 1)),
    (ApiKey::OFFSET_DELETE, VersionRange::new(0, 0)),
    (ApiKey::DESCRIBE_USER_SCRAM_CREDENTIALS, VersionRange::new(0, 0)),
    (ApiKey::ALTER_USER_SCRAM_CREDENTIALS, VersionRange::new(0, 0)),
    (ApiKey::UPDATE_FEATURES, VersionRange::new(0, 2)),
    (ApiKey::DESCRIBE_CLUSTER, VersionRange::new(0, 2)),
    (ApiKey::DESCRIBE_PRODUCERS, VersionRange::new(0, 0)),
    (ApiKey::DESCRIBE_TRANSACTIONS, VersionRange::new(0, 0)),
    (ApiKey::LIST_TRANSACTIONS, VersionRange::new(0, 1)),
    (ApiKey::LIST_CONFIG_RESOURCES, VersionRange::new(0, 1)),
    (ApiKey::DESCRIBE_TOPIC_PARTITIONS, VersionRange::new(0, 0)),
];

/// True if `version` of the API is answered.
pub(crate) fn is_served(key: ApiKey, version: i16) -> bool {
    let lowest = if key == ApiKey::PRODUCE { 3 } else { 0 };
    version >= lowest && SERVED.iter().any(|(served, range)| *served == key && range.contains(version))
}

/// Calls `$run::<RequestType>` for the API `$key`.
macro_rules! dispatch {
    ($key:expr, $run:ident ( $($argument:expr),* )) => {{
        use $crate::wire::messages as m;
        match $key {
            ApiKey::PRODUCE => $run::<m::ProduceRequest>($($argument),*).await,
            ApiKey::FETCH => $run::<m::FetchRequest>($($argument),*).await,
            ApiKey::LIST_OFFSETS => $run::<m::ListOffsetsRequest>($($argument),*).await,
            ApiKey::METADATA => $run::<m::MetadataRequest>($($argument),*).await,
            ApiKey::OFFSET_COMMIT => $run::<m::OffsetCommitRequest>($($argument),*).await,
            ApiKey::OFFSET_FETCH => $run::<m::OffsetFetchRequest>($($argument),*).await,
            ApiKey::FIND_COORDINATOR => $run::<m::FindCoordinatorRequest>($($argument),*).await,
            ApiKey::JOIN_GROUP => $run::<m::JoinGroupRequest>($($argument),*).await,
            ApiKey::HEARTBEAT => $run::<m::HeartbeatRequest>($($argument),*).await,
            ApiKey::LEAVE_GROUP => $run::<m::LeaveGroupRequest>($($argument),*).await,
            ApiKey::SYNC_GROUP => $run::<m::SyncGroupRequest>($($argument),*).await,
            ApiKey::DESCRIBE_GROUPS => $run::<m::DescribeGroupsRequest>($($argument),*).await,
            ApiKey::LIST_GROUPS => $run::<m::ListGroupsRequest>($($argument),*).await,
            ApiKey::SASL_HANDSHAKE => $run::<m::SaslHandshakeRequest>($($argument),*).await,
            ApiKey::API_VERSIONS => $run::<m::ApiVersionsRequest>($($argument),*).await,
            ApiKey::CREATE_TOPICS => $run::<m::CreateTopicsRequest>($($argument),*).await,
            ApiKey::DELETE_TOPICS => $run::<m::DeleteTopicsRequest>($($argument),*).await,
            ApiKey::DELETE_RECORDS => $run::<m::DeleteRecordsRequest>($($argument),*).await,
            ApiKey::INIT_PRODUCER_ID => $run::<m::InitProducerIdRequest>($($argument),*).await,
            ApiKey::OFFSET_FOR_LEADER_EPOCH => $run::<m::OffsetForLeaderEpochRequest>($($argument),*).await,
            ApiKey::ADD_PARTITIONS_TO_TXN => $run::<m::AddPartitionsToTxnRequest>($($argument),*).await,
            ApiKey::ADD_OFFSETS_TO_TXN => $run::<m::AddOffsetsToTxnRequest>($($argument),*).await,
            ApiKey::END_TXN => $run::<m::EndTxnRequest>($($argument),*).await,
            ApiKey::WRITE_TXN_MARKERS => $run::<m::WriteTxnMarkersRequest>($($argument),*).await,
            ApiKey::TXN_OFFSET_COMMIT => $run::<m::TxnOffsetCommitRequest>($($argument),*).await,
            ApiKey::DESCRIBE_CONFIGS => $run::<m::DescribeConfigsRequest>($($argument),*).await,
            ApiKey::SASL_AUTHENTICATE => $run::<m::SaslAuthenticateRequest>($($argument),*).await,
            ApiKey::ALTER_CONFIGS => $run::<m::AlterConfigsRequest>($($argument),*).await,
            ApiKey::INCREMENTAL_ALTER_CONFIGS => {
                $run::<m::IncrementalAlterConfigsRequest>($($argument),*).await
            }
            ApiKey::LIST_CONFIG_RESOURCES => $run::<m::ListConfigResourcesRequest>($($argument),*).await,
            ApiKey::CREATE_PARTITIONS => $run::<m::CreatePartitionsRequest>($($argument),*).await,
            ApiKey::DELETE_GROUPS => $run::<m::DeleteGroupsRequest>($($argument),*).await,
            ApiKey::OFFSET_DELETE => $run::<m::OffsetDeleteRequest>($($argument),*).await,
            ApiKey::DESCRIBE_USER_SCRAM_CREDENTIALS => {
                $run::<m::DescribeUserScramCredentialsRequest>($($argument),*).await
            }
            ApiKey::ALTER_USER_SCRAM_CREDENTIALS => {
                $run::<m::AlterUserScramCredentialsRequest>($($argument),*).await
            }
            ApiKey::UPDATE_FEATURES => $run::<m::UpdateFeaturesRequest>($($argument),*).await,
            ApiKey::DESCRIBE_CLUSTER => $run::<m::DescribeClusterRequest>($($argument),*).await,
            ApiKey::DESCRIBE_PRODUCERS => $run::<m::DescribeProducersRequest>($($argument),*).await,
            ApiKey::DESCRIBE_TRANSACTIONS => $run::<m::DescribeTransactionsRequest>($($argument),*).await,
            ApiKey::LIST_TRANSACTIONS => $run::<m::ListTransactionsRequest>($($argument),*).await,
            ApiKey::DESCRIBE_TOPIC_PARTITIONS => {
                $run::<m::DescribeTopicPartitionsRequest>($($argument),*).await
            }
            _ => None,
        }
    }};
}
pub(crate) use dispatch;

/// Where and when a request is handled, and by whom it was sent.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) node: i32,
    pub(crate) version: i16,
    /// Index of the listener that the client came through.
    pub(crate) listener: usize,
    /// Number of the connection.
    pub(crate) connection: u64,
    pub(crate) client_id: Str,
    pub(crate) client_host: Str,
    pub(crate) now: Instant,
    /// Milliseconds since the Unix epoch.
    pub(crate) wall: i64,
    /// The batches of a Produce request in their order, see [`Handler::examine`].
    pub(crate) batches: Vec<Examined>,
    /// The answer will ask for a pause.
    pub(crate) throttled: bool,
}

impl Context {
    /// When it is.
    pub(crate) fn moment(&self) -> Moment {
        Moment { now: self.now, wall: self.wall }
    }
}

/// A request that this broker answers.
pub(crate) trait Handler: Request + Decode + Send + 'static {
    /// What is written back.
    type Answer: Answer + Send;

    /// Looks at the batches of the request before the cluster's lock is taken, because that is expensive.
    fn examine(&mut self, _depth: Depth) -> Vec<Examined> {
        Vec::new()
    }

    /// Applies the request.
    fn handle(self, state: &mut State, ctx: &Context) -> Handled<Self::Answer>;

    /// The answer that says `code` and nothing else.
    fn refuse(self, state: &State, ctx: &Context, code: ErrorCode) -> Handled<Self::Answer>;
}

/// What became of a request.
pub(crate) enum Handled<A> {
    /// It is answered.
    Now(A),
    /// No answer is expected (acks=0).
    Silent,
    /// The connection is to be closed.
    Disconnect,
    /// It is asked again when woken, or at its deadline.
    Wait(Box<dyn Waiting<A>>),
    /// A group answers it, at once or later: the ticket, and what is written of the answer.
    Told(Ticket, Box<dyn FnOnce(Output) -> A + Send>),
}

impl<A> fmt::Debug for Handled<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Now(_) => "Now",
            Self::Silent => "Silent",
            Self::Disconnect => "Disconnect",
            Self::Wait(_) => "Wait",
            Self::Told(..) => "Told",
        })
    }
}

/// A request that waits for the state to change.
pub(crate) trait Waiting<A>: Send {
    /// What wakes it.
    fn wake(&self) -> &Wake;
    /// When it is answered whatever the state.
    fn deadline(&self) -> Instant;
    /// Looks again; `expired` once the deadline has passed, when it must answer.
    fn poll(&mut self, state: &mut State, expired: bool) -> Option<A>;
}

/// Something that can be written as a response frame.
pub(crate) trait Answer {
    /// Asks the client for a pause (KIP-219).
    fn throttle(&mut self, pause_ms: i32);

    /// The frame as slices, its length prefix included.
    fn into_frame(self, key: ApiKey, version: i16, correlation_id: i32) -> Result<Vec<Bytes>, EncodeError>;
}

/// Implements [`Answer`] for messages that are written as they are.
macro_rules! answers {
    ($($response:ident),* $(,)?) => {
        $(impl Answer for crate::wire::messages::$response {
            fn throttle(&mut self, pause_ms: i32) {
                self.throttle_time_ms = pause_ms;
            }

            fn into_frame(self, key: ApiKey, version: i16, correlation_id: i32) -> Result<Vec<Bytes>, EncodeError> {
                Ok(vec![encode_response(&self, key, version, correlation_id)?.freeze()])
            }
        })*
    };
}

answers!(
    ProduceResponse,
    ListOffsetsResponse,
    MetadataResponse,
    OffsetCommitResponse,
    OffsetFetchResponse,
    FindCoordinatorResponse,
    JoinGroupResponse,
    HeartbeatResponse,
    LeaveGroupResponse,
    SyncGroupResponse,
    DescribeGroupsResponse,
    ListGroupsResponse,
    ApiVersionsResponse,
    CreateTopicsResponse,
    DeleteTopicsResponse,
    DeleteRecordsResponse,
    InitProducerIdResponse,
    OffsetForLeaderEpochResponse,
    AddPartitionsToTxnResponse,
    AddOffsetsToTxnResponse,
    EndTxnResponse,
    TxnOffsetCommitResponse,
    UpdateFeaturesResponse,
    DescribeProducersResponse,
    DescribeTransactionsResponse,
    ListTransactionsResponse,
    DescribeConfigsResponse,
    AlterConfigsResponse,
    IncrementalAlterConfigsResponse,
    ListConfigResourcesResponse,
    CreatePartitionsResponse,
    DeleteGroupsResponse,
    OffsetDeleteResponse,
    DescribeUserScramCredentialsResponse,
    AlterUserScramCredentialsResponse,
    DescribeClusterResponse,
    DescribeTopicPartitionsResponse,
);

/// Implements [`Answer`] for messages that cannot ask for a pause.
macro_rules! unpaused_answers {
    ($($response:ident),* $(,)?) => {
        $(impl Answer for crate::wire::messages::$response {
            fn throttle(&mut self, _: i32) {}

            fn into_frame(self, key: ApiKey, version: i16, correlation_id: i32) -> Result<Vec<Bytes>, EncodeError> {
                Ok(vec![encode_response(&self, key, version, correlation_id)?.freeze()])
            }
        })*
    };
}

unpaused_answers!(SaslHandshakeResponse, SaslAuthenticateResponse);

/// The codes that a group request is refused with: without the right to it, and at the wrong node.
pub(crate) fn check_group(
    state: &State,
    ctx: &Context,
    group: &str,
    operation: Operation,
) -> Result<(), ErrorCode> {
    state.rights.check_group(group, operation)?;
    if state.groups.coordinator(group) == ctx.node { Ok(()) } else { Err(ErrorCode::NOT_COORDINATOR) }
}

/// NOT_COORDINATOR unless this node coordinates the transactional id.
pub(crate) fn check_coordinator(state: &State, ctx: &Context, id: &str) -> Result<(), ErrorCode> {
    if state.transactions.coordinator(id) == ctx.node { Ok(()) } else { Err(ErrorCode::NOT_COORDINATOR) }
}

/// Before `version` a fenced producer is told INVALID_PRODUCER_EPOCH (KIP-588).
pub(crate) fn fenced_before(version: i16, ctx: &Context, code: ErrorCode) -> ErrorCode {
    if code == ErrorCode::PRODUCER_FENCED && ctx.version < version {
        ErrorCode::INVALID_PRODUCER_EPOCH
    } else {
        code
    }
}

/// A copy, so that state does not keep a request's buffer alive.
pub(crate) fn own(text: &Str) -> Str {
    Str::from(&**text)
}

/// [`own`] for a text that may be missing.
pub(crate) fn own_option(text: &Option<Str>) -> Option<Str> {
    text.as_ref().map(own)
}

/// A length of time that a request carries in milliseconds; negative is none.
pub(crate) fn millis(value: i32) -> std::time::Duration {
    std::time::Duration::from_millis(u64::try_from(value).unwrap_or(0))
}

/// Implements [`Handler::refuse`] with an expression over the request.
macro_rules! refuse_with {
    (|$request:ident, $code:ident| $answer:expr) => {
        fn refuse(
            self,
            _state: &$crate::broker::cluster::State,
            _ctx: &$crate::broker::handlers::Context,
            code: $crate::ErrorCode,
        ) -> $crate::broker::handlers::Handled<Self::Answer> {
            let $request = self;
            let $code = code.0;
            $crate::broker::handlers::Handled::Now($answer)
        }
    };
}
pub(crate) use refuse_with;
