//! Kafka's error codes as data: name, retriability, what the code says about cached state, and what to try.

use std::fmt;

use crate::ErrorKind;

/// An error code as a broker sent it. Unknown codes survive a round trip; they are neither retriable nor anything else.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ErrorCode(pub i16);

/// One line of the table.
struct Entry {
    name: &'static str,
    kind: ErrorKind,
    traits: u8,
    advice: &'static str,
}

/// Nothing helps but a change.
const FINAL: u8 = 0;
/// The same attempt may succeed later.
const RETRY: u8 = 1;
/// So it may, after a metadata refresh.
const REFRESH: u8 = RETRY | 2;
/// So it may, at another coordinator.
const COORDINATOR: u8 = RETRY | 4;
/// So it may, at another controller.
const CONTROLLER: u8 = RETRY | 8;

macro_rules! table {
    ($($code:literal $name:ident $kind:ident $traits:ident $meaning:literal $advice:literal;)*) => {
        impl ErrorCode {
            $(#[doc = concat!($meaning, ".")] pub const $name: Self = Self($code);)*
        }

        /// From code -1 on, without gaps.
        static TABLE: &[Entry] = &[
            $(Entry { name: stringify!($name), kind: ErrorKind::$kind, traits: $traits, advice: $advice },)*
        ];

        #[cfg(test)]
        const CODES: &[i16] = &[$($code),*];
    };
}

// Retriability and refresh are those of Apache Kafka 4.4.0's own client.
#[rustfmt::skip]
table! {
    -1 UNKNOWN_SERVER_ERROR Broker FINAL "The broker failed in a way it has no code for" "look into the broker's log";
    0 NONE Broker FINAL "No error" "";
    1 OFFSET_OUT_OF_RANGE OffsetOutOfRange FINAL "The offset lies outside of the partition's log" "choose where to go on: earliest, latest, or an offset that still exists";
    2 CORRUPT_MESSAGE CorruptRecord RETRY "A record failed its checksum, or is malformed for the topic, such as one without a key in a compacted topic" "give every record of a compacted topic a key; otherwise look for a faulty network or disk";
    3 UNKNOWN_TOPIC_OR_PARTITION Broker REFRESH "The broker does not know the topic or partition, or the principal may not describe it" "check the topic's name, create it, or allow the principal to describe it";
    4 INVALID_FETCH_SIZE Protocol FINAL "The size of a fetch is invalid" "";
    5 LEADER_NOT_AVAILABLE Broker REFRESH "The partition has no leader now" "wait for the election; if it lasts, bring a replica of the partition back";
    6 NOT_LEADER_OR_FOLLOWER Broker REFRESH "The broker no longer holds the partition in the role that was asked for" "";
    7 REQUEST_TIMED_OUT Timeout RETRY "The broker could not finish in the time that the request allowed; a write may have happened" "check the in-sync replicas and the load of the brokers";
    8 BROKER_NOT_AVAILABLE Broker FINAL "The broker is not available" "";
    9 REPLICA_NOT_AVAILABLE Broker REFRESH "The broker has no replica of the partition to answer from" "";
    10 MESSAGE_TOO_LARGE TooLarge FINAL "The batch is above what the topic accepts" "send smaller records or raise max.message.bytes of the topic";
    11 STALE_CONTROLLER_EPOCH Broker FINAL "The controller moved on" "";
    12 OFFSET_METADATA_TOO_LARGE TooLarge FINAL "The text committed with an offset is too long" "shorten it or raise offset.metadata.max.bytes of the brokers";
    13 NETWORK_EXCEPTION Network REFRESH "The connection broke before the answer" "";
    14 COORDINATOR_LOAD_IN_PROGRESS Broker RETRY "The coordinator is still loading its state" "";
    15 COORDINATOR_NOT_AVAILABLE Broker COORDINATOR "There is no coordinator now" "if it lasts, check that the brokers' internal topics have leaders";
    16 NOT_COORDINATOR Broker COORDINATOR "The broker is not the coordinator any more" "";
    17 INVALID_TOPIC_EXCEPTION Config FINAL "The topic's name is illegal, or the operation is not allowed on an internal topic" "use 1 to 249 letters, digits, dots, underscores and dashes";
    18 RECORD_LIST_TOO_LARGE TooLarge FINAL "The batch is above the segment size of the topic" "send smaller batches";
    19 NOT_ENOUGH_REPLICAS Broker RETRY "Fewer replicas are in sync than the topic demands; nothing was written" "bring replicas back, or lower min.insync.replicas of the topic";
    20 NOT_ENOUGH_REPLICAS_AFTER_APPEND Broker RETRY "Fewer replicas are in sync than the topic demands; the batch was written to the leader" "bring replicas back, or lower min.insync.replicas of the topic";
    21 INVALID_REQUIRED_ACKS Config FINAL "The number of acknowledgements is none of -1, 0 and 1" "set acks to all, 1 or 0";
    22 ILLEGAL_GENERATION Broker FINAL "The generation of the group is over" "the member joins again; its partitions may be elsewhere by now";
    23 INCONSISTENT_GROUP_PROTOCOL Config FINAL "The member shares no assignor or protocol with the group" "give all members one assignor in common, or use another group id";
    24 INVALID_GROUP_ID Config FINAL "The group id is invalid" "set a group id that is not empty";
    25 UNKNOWN_MEMBER_ID Broker FINAL "The group does not know the member, usually because its session timed out" "the member joins again; if this repeats, raise the session timeout";
    26 INVALID_SESSION_TIMEOUT Config FINAL "The session timeout lies outside of the brokers' limits" "keep it between group.min.session.timeout.ms and group.max.session.timeout.ms of the brokers";
    27 REBALANCE_IN_PROGRESS Broker FINAL "The group is rebalancing" "the member joins again";
    28 INVALID_COMMIT_OFFSET_SIZE TooLarge FINAL "The commit does not fit into one record of the offsets topic" "commit fewer partitions at once";
    29 TOPIC_AUTHORIZATION_FAILED Authorization FINAL "The principal lacks a permission on the topic" "grant the principal the operation on the topic";
    30 GROUP_AUTHORIZATION_FAILED Authorization FINAL "The principal lacks a permission on the group" "grant the principal READ on the group";
    31 CLUSTER_AUTHORIZATION_FAILED Authorization FINAL "The principal lacks a permission on the cluster" "grant the principal the operation on the cluster; before Kafka 2.8 idempotent producers need IDEMPOTENT_WRITE";
    32 INVALID_TIMESTAMP Config FINAL "The record's timestamp is too far from the broker's clock" "check the clocks, or the topic's limits on timestamps";
    33 UNSUPPORTED_SASL_MECHANISM Authentication FINAL "The broker does not offer the SASL mechanism" "choose one of the mechanisms that the broker enables";
    34 ILLEGAL_SASL_STATE Authentication FINAL "The request does not fit the state of the authentication" "check that listener and client agree on SASL";
    35 UNSUPPORTED_VERSION UnsupportedVersion FINAL "The broker does not speak this version" "upgrade the broker, or switch off the feature that needs it";
    36 TOPIC_ALREADY_EXISTS Broker FINAL "The topic exists already" "";
    37 INVALID_PARTITIONS Config FINAL "The number of partitions is invalid" "use at least one, and never fewer than the topic has";
    38 INVALID_REPLICATION_FACTOR Config FINAL "The replication factor is below one or above the number of live brokers" "use at most as many replicas as brokers are alive";
    39 INVALID_REPLICA_ASSIGNMENT Config FINAL "The assignment of replicas is invalid" "name existing brokers, each once per partition";
    40 INVALID_CONFIG Config FINAL "A setting is invalid" "";
    41 NOT_CONTROLLER Broker CONTROLLER "The broker is not the controller any more" "";
    42 INVALID_REQUEST Protocol FINAL "The broker considers the request malformed" "this may be a bug of the client; please report it";
    43 UNSUPPORTED_FOR_MESSAGE_FORMAT UnsupportedVersion FINAL "The topic's message format is too old for the operation" "";
    44 POLICY_VIOLATION Config FINAL "A policy of the cluster forbids the change" "ask those who run the cluster for its policy";
    45 OUT_OF_ORDER_SEQUENCE_NUMBER Broker FINAL "Earlier batches of the producer are missing at the broker" "";
    46 DUPLICATE_SEQUENCE_NUMBER Broker FINAL "The batch was written before; its offset is no longer known" "";
    47 INVALID_PRODUCER_EPOCH Fenced FINAL "The producer's epoch is over" "another producer with this transactional id may have started; run one at a time";
    48 INVALID_TXN_STATE State FINAL "The transaction is in a state that forbids the operation" "";
    49 INVALID_PRODUCER_ID_MAPPING Broker FINAL "The transactional id is assigned to another producer id, or has expired" "abort and begin again";
    50 INVALID_TRANSACTION_TIMEOUT Config FINAL "The transaction timeout is above the broker's limit" "keep it below transaction.max.timeout.ms of the brokers (15 minutes by default)";
    51 CONCURRENT_TRANSACTIONS Broker RETRY "The producer's previous transaction is still being finished" "";
    52 TRANSACTION_COORDINATOR_FENCED Fenced FINAL "The transaction coordinator was replaced" "";
    53 TRANSACTIONAL_ID_AUTHORIZATION_FAILED Authorization FINAL "The principal lacks a permission on the transactional id" "grant the principal WRITE on the transactional id";
    54 SECURITY_DISABLED Config FINAL "The cluster has no authorizer" "configure an authorizer on the brokers";
    55 OPERATION_NOT_ATTEMPTED Broker FINAL "Nothing was tried, because another part of the request failed" "see the error of the other part";
    56 KAFKA_STORAGE_ERROR Broker REFRESH "The broker cannot use the disk of the partition" "check the broker's disks";
    57 LOG_DIR_NOT_FOUND Config FINAL "The log directory is not among the broker's" "name one of the directories in the broker's log.dirs";
    58 SASL_AUTHENTICATION_FAILED Authentication FINAL "The credentials were refused" "check user, password and mechanism";
    59 UNKNOWN_PRODUCER_ID Broker FINAL "The broker has forgotten the producer's state" "";
    60 REASSIGNMENT_IN_PROGRESS Broker FINAL "A reassignment of the partition is going on" "wait until it is done, or cancel it";
    61 DELEGATION_TOKEN_AUTH_DISABLED Config FINAL "Delegation tokens are switched off" "set delegation.token.secret.key on the brokers";
    62 DELEGATION_TOKEN_NOT_FOUND Broker FINAL "The delegation token does not exist" "";
    63 DELEGATION_TOKEN_OWNER_MISMATCH Authorization FINAL "The principal is neither owner nor renewer of the token" "";
    64 DELEGATION_TOKEN_REQUEST_NOT_ALLOWED Authentication FINAL "Tokens cannot be requested over this connection" "use TLS or SASL, and no delegation token, for requests about tokens";
    65 DELEGATION_TOKEN_AUTHORIZATION_FAILED Authorization FINAL "The principal lacks a permission on the token" "";
    66 DELEGATION_TOKEN_EXPIRED Authentication FINAL "The delegation token has expired" "get a new token";
    67 INVALID_PRINCIPAL_TYPE Config FINAL "The type of the principal is not supported" "";
    68 NON_EMPTY_GROUP Broker FINAL "The group has members" "stop its members first";
    69 GROUP_ID_NOT_FOUND Broker FINAL "The group does not exist" "";
    70 FETCH_SESSION_ID_NOT_FOUND Broker RETRY "The broker has dropped the fetch session" "";
    71 INVALID_FETCH_SESSION_EPOCH Broker RETRY "The fetch session is out of step" "";
    72 LISTENER_NOT_FOUND Broker REFRESH "The leader has no listener like the one that was asked" "give all brokers the same listeners";
    73 TOPIC_DELETION_DISABLED Config FINAL "Topics cannot be deleted in this cluster" "set delete.topic.enable on the brokers";
    74 FENCED_LEADER_EPOCH Broker REFRESH "The leader epoch is older than the broker's" "";
    75 UNKNOWN_LEADER_EPOCH Broker RETRY "The leader epoch is newer than the broker's" "";
    76 UNSUPPORTED_COMPRESSION_TYPE UnsupportedVersion FINAL "The version of the request cannot carry the compression" "choose another compression or upgrade";
    77 STALE_BROKER_EPOCH Broker FINAL "The broker's epoch is over" "";
    78 OFFSET_NOT_AVAILABLE Broker RETRY "The leader does not know the high watermark yet" "";
    79 MEMBER_ID_REQUIRED Broker FINAL "The member is to join again with the id it was given" "";
    80 PREFERRED_LEADER_NOT_AVAILABLE Broker REFRESH "The preferred leader is not available" "bring that broker back";
    81 GROUP_MAX_SIZE_REACHED Config FINAL "The group is full" "run fewer members or raise group.max.size of the brokers";
    82 FENCED_INSTANCE_ID Fenced FINAL "Another member has taken over this static member's instance id" "give each running member its own group.instance.id";
    83 ELIGIBLE_LEADERS_NOT_AVAILABLE Broker REFRESH "No replica may become leader" "bring a replica back, or elect uncleanly if losing records is acceptable";
    84 ELECTION_NOT_NEEDED Broker REFRESH "The leader is already the wanted one" "";
    85 NO_REASSIGNMENT_IN_PROGRESS Broker FINAL "No reassignment of the partition is going on" "";
    86 GROUP_SUBSCRIBED_TO_TOPIC Broker FINAL "A member of the group is subscribed to the topic" "stop or unsubscribe its members first";
    87 INVALID_RECORD Broker FINAL "The broker refused a record" "see the broker's message; compacted topics need keys";
    88 UNSTABLE_OFFSET_COMMIT Broker RETRY "A transaction that commits offsets of the partition is not finished" "";
    89 THROTTLING_QUOTA_EXCEEDED Broker RETRY "A quota is used up" "wait as long as the broker says, or raise the quota";
    90 PRODUCER_FENCED Fenced FINAL "A newer producer uses the transactional id" "run one producer per transactional id";
    91 RESOURCE_NOT_FOUND Broker FINAL "What the request names does not exist" "";
    92 DUPLICATE_RESOURCE Config FINAL "The request names something twice" "";
    93 UNACCEPTABLE_CREDENTIAL Config FINAL "The credential does not meet the demands" "";
    94 INCONSISTENT_VOTER_SET Broker FINAL "The voters do not match" "";
    95 INVALID_UPDATE_VERSION Broker FINAL "The version of the update is invalid" "";
    96 FEATURE_UPDATE_FAILED Broker FINAL "The features could not be updated" "see the broker's message";
    97 PRINCIPAL_DESERIALIZATION_FAILURE Broker FINAL "A broker could not read a forwarded principal" "check the principal builders of the brokers";
    98 SNAPSHOT_NOT_FOUND Broker FINAL "The snapshot does not exist" "";
    99 POSITION_OUT_OF_RANGE Broker FINAL "The position lies outside of the snapshot" "";
    100 UNKNOWN_TOPIC_ID Broker REFRESH "The broker does not know the topic id" "the topic may have been deleted, or deleted and created again";
    101 DUPLICATE_BROKER_REGISTRATION Broker FINAL "A broker of this id is registered already" "";
    102 BROKER_ID_NOT_REGISTERED Broker FINAL "No broker of this id is registered" "";
    103 INCONSISTENT_TOPIC_ID Broker REFRESH "The topic id is not that of the topic's log" "the topic may have been deleted and created again";
    104 INCONSISTENT_CLUSTER_ID Config FINAL "The broker belongs to another cluster" "check that all addresses belong to one cluster";
    105 TRANSACTIONAL_ID_NOT_FOUND Broker FINAL "The transactional id does not exist" "";
    106 FETCH_SESSION_TOPIC_ID_ERROR Broker RETRY "The fetch session mixes requests with and without topic ids" "";
    107 INELIGIBLE_REPLICA Broker FINAL "The replica may not join the in-sync replicas" "";
    108 NEW_LEADER_ELECTED Broker FINAL "The change led to the election of another leader" "";
    109 OFFSET_MOVED_TO_TIERED_STORAGE Broker FINAL "The offset lies in tiered storage" "fetch from the leader";
    110 FENCED_MEMBER_EPOCH Fenced FINAL "The group has moved past the member's epoch" "the member gives up its partitions and joins again";
    111 UNRELEASED_INSTANCE_ID Broker FINAL "The instance id still belongs to a member that has not left" "wait for its session timeout, or give each member its own id";
    112 UNSUPPORTED_ASSIGNOR Config FINAL "The brokers do not have the assignor" "choose one of group.consumer.assignors of the brokers";
    113 STALE_MEMBER_EPOCH Broker FINAL "The member's epoch is older than the group's" "";
    114 MISMATCHED_ENDPOINT_TYPE Config FINAL "The address belongs to a controller where a broker was expected, or the reverse" "use bootstrap servers that are brokers";
    115 UNSUPPORTED_ENDPOINT_TYPE Config FINAL "The type of endpoint is not supported" "";
    116 UNKNOWN_CONTROLLER_ID Broker FINAL "No controller of this id is known" "";
    117 UNKNOWN_SUBSCRIPTION_ID Broker FINAL "The telemetry subscription is out of date" "";
    118 TELEMETRY_TOO_LARGE TooLarge FINAL "The telemetry is too large" "";
    119 INVALID_REGISTRATION Broker FINAL "The registration is invalid" "";
    120 TRANSACTION_ABORTABLE Broker FINAL "The transaction failed and has to be aborted" "abort and begin again";
    121 INVALID_RECORD_STATE Broker FINAL "The record is not in the member's hands any more" "acknowledge within the lock's duration";
    122 SHARE_SESSION_NOT_FOUND Broker RETRY "The broker has dropped the share session" "";
    123 INVALID_SHARE_SESSION_EPOCH Broker RETRY "The share session is out of step" "";
    124 FENCED_STATE_EPOCH Fenced FINAL "The share coordinator has moved past the state epoch" "";
    125 INVALID_VOTER_KEY Config FINAL "The voter's key does not match" "";
    126 DUPLICATE_VOTER Broker FINAL "The voter is part of the set already" "";
    127 VOTER_NOT_FOUND Broker FINAL "The voter is not part of the set" "";
    128 INVALID_REGULAR_EXPRESSION Config FINAL "The brokers cannot read the pattern" "use RE2's syntax";
    129 REBOOTSTRAP_REQUIRED Broker FINAL "The client is to start again from its bootstrap servers" "";
    130 STREAMS_INVALID_TOPOLOGY Config FINAL "The topology is invalid" "";
    131 STREAMS_INVALID_TOPOLOGY_EPOCH Config FINAL "The topology's epoch is invalid" "";
    132 STREAMS_TOPOLOGY_FENCED Fenced FINAL "The topology's epoch is over" "";
    133 SHARE_SESSION_LIMIT_REACHED Broker RETRY "The broker has no room for another share session" "";
    134 GROUP_DELETION_FAILED Broker FINAL "The group could not be deleted" "see the broker's message";
    135 STREAMS_TOPOLOGY_DESCRIPTION_UPDATE_FAILED Broker FINAL "The description of the topology could not be stored" "";
    136 CONTROLLER_ID_NOT_REGISTERED Broker FINAL "No controller of this id is registered" "";
}

impl ErrorCode {
    fn entry(self) -> Option<&'static Entry> {
        TABLE.get(usize::try_from(i32::from(self.0) + 1).ok()?)
    }

    fn has(self, traits: u8) -> bool {
        self.entry().is_some_and(|entry| entry.traits & traits == traits)
    }

    /// True for [`NONE`](Self::NONE).
    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }

    /// `Ok` for [`NONE`](Self::NONE), the code itself otherwise.
    pub const fn check(self) -> Result<(), Self> {
        if self.is_ok() { Ok(()) } else { Err(self) }
    }

    /// Kafka's name, such as `NOT_LEADER_OR_FOLLOWER`; `None` for a code newer than this crate.
    pub fn name(self) -> Option<&'static str> {
        self.entry().map(|entry| entry.name)
    }

    /// The kind of [`Error`](crate::Error) that this code leads to.
    pub fn kind(self) -> ErrorKind {
        self.entry().map_or(ErrorKind::Broker, |entry| entry.kind)
    }

    /// True if Kafka calls the code retriable: the same attempt may succeed later.
    pub fn is_retriable(self) -> bool {
        self.has(RETRY)
    }

    /// True if the code says that cached metadata is out of date. All such codes are retriable.
    pub fn needs_metadata(self) -> bool {
        self.has(REFRESH)
    }

    /// True if the code says that another broker is the coordinator now, or that it has to be looked up.
    pub fn is_coordinator_moved(self) -> bool {
        self.has(COORDINATOR)
    }

    /// True if the code says that another broker is the controller now.
    pub fn is_controller_moved(self) -> bool {
        self.has(CONTROLLER)
    }

    /// What to try, for a person; `None` where the client does all that can be done.
    pub fn advice(self) -> Option<&'static str> {
        self.entry().map(|entry| entry.advice).filter(|advice| !advice.is_empty())
    }
}

impl From<i16> for ErrorCode {
    fn from(code: i16) -> Self {
        Self(code)
    }
}

impl From<ErrorCode> for i16 {
    fn from(code: ErrorCode) -> Self {
        code.0
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "unknown error code {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_no_gaps() {
        assert_eq!(CODES, (-1..=136).collect::<Vec<i16>>());
        for &code in CODES {
            let code = ErrorCode(code);
            assert!(code.is_retriable() || !code.needs_metadata(), "{code}");
            assert!(code.advice().is_none_or(|advice| !advice.ends_with('.')), "{code}");
        }
    }

    #[test]
    fn codes_print_with_name_and_number() {
        assert_eq!(ErrorCode(6).to_string(), "NOT_LEADER_OR_FOLLOWER (6)");
        assert_eq!(format!("{:?}", ErrorCode(-1)), "UNKNOWN_SERVER_ERROR (-1)");
        for code in [-2, 137, i16::MIN, i16::MAX] {
            let code = ErrorCode(code);
            assert_eq!(code.to_string(), format!("unknown error code {}", code.0));
            assert_eq!((code.kind(), code.is_retriable(), code.name()), (ErrorKind::Broker, false, None));
        }
    }

    /// As `Errors` and its exceptions in Kafka 4.4.0's client say.
    #[test]
    fn retriability_is_kafkas() {
        let holding = |test: fn(ErrorCode) -> bool| {
            CODES.iter().copied().filter(|&code| test(ErrorCode(code))).collect::<Vec<_>>()
        };
        assert_eq!(
            holding(ErrorCode::is_retriable),
            [
                2, 3, 5, 6, 7, 9, 13, 14, 15, 16, 19, 20, 41, 51, 56, 70, 71, 72, 74, 75, 78, 80, 83, 84, 88,
                89, 100, 103, 106, 122, 123, 133
            ]
        );
        assert_eq!(holding(ErrorCode::needs_metadata), [3, 5, 6, 9, 13, 56, 72, 74, 80, 83, 84, 100, 103]);
        assert_eq!(holding(ErrorCode::is_coordinator_moved), [15, 16]);
        assert_eq!(holding(ErrorCode::is_controller_moved), [41]);
    }
}
