//! Where responses carry `throttle_time_ms`, and from which version on the client is expected to pause (KIP-219).
//! Before that version the broker itself held the answer back, and a pause would count twice.

use std::time::Duration;

use crate::wire::ApiKey;

/// (API, first version whose body begins with the field, first version that asks the client to pause).
///
/// Produce has the field at its end and is handled where its body is parsed.
const FIRST_FIELD: &[(ApiKey, i16, i16)] = &[
    (ApiKey::FETCH, 1, 8),
    (ApiKey::LIST_OFFSETS, 2, 3),
    (ApiKey::METADATA, 3, 6),
    (ApiKey::OFFSET_COMMIT, 3, 4),
    (ApiKey::OFFSET_FETCH, 3, 4),
    (ApiKey::FIND_COORDINATOR, 1, 2),
    (ApiKey::JOIN_GROUP, 2, 3),
    (ApiKey::HEARTBEAT, 1, 2),
    (ApiKey::LEAVE_GROUP, 1, 2),
    (ApiKey::SYNC_GROUP, 1, 2),
    (ApiKey::DESCRIBE_GROUPS, 1, 2),
    (ApiKey::LIST_GROUPS, 1, 2),
    (ApiKey::CREATE_TOPICS, 2, 3),
    (ApiKey::DELETE_TOPICS, 1, 2),
    (ApiKey::INIT_PRODUCER_ID, 0, 1),
    (ApiKey::OFFSET_FOR_LEADER_EPOCH, 2, 2),
    (ApiKey::CREATE_PARTITIONS, 0, 1),
    (ApiKey::DESCRIBE_CLUSTER, 0, 0),
    (ApiKey::CONSUMER_GROUP_DESCRIBE, 0, 0),
    (ApiKey::CONSUMER_GROUP_HEARTBEAT, 0, 0),
];

/// Requests that go out although the broker asked for a pause, past those that are held: holding them back would cost the
/// membership, and nothing depends on what they overtake.
pub(super) fn is_exempt(key: ApiKey) -> bool {
    matches!(key, ApiKey::HEARTBEAT | ApiKey::CONSUMER_GROUP_HEARTBEAT)
}

/// The pause that the response `body` asks for, if its API and version say it at the beginning.
pub(super) fn requested_pause(key: ApiKey, version: i16, body: &[u8]) -> Option<Duration> {
    let &(_, first, pause) = FIRST_FIELD.iter().find(|(api, ..)| *api == key)?;
    if version < first.max(pause) {
        return None;
    }
    let millis = i32::from_be_bytes(*body.first_chunk::<4>()?);
    u64::try_from(millis).ok().filter(|&millis| millis > 0).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_that_expect_a_pause_give_one() {
        let body = [0, 0, 0, 200, 9, 9];
        let pause = Some(Duration::from_millis(200));
        assert_eq!(requested_pause(ApiKey::FETCH, 8, &body), pause);
        assert_eq!(requested_pause(ApiKey::FETCH, 7, &body), None);
        assert_eq!(requested_pause(ApiKey::PRODUCE, 9, &body), None);
        assert_eq!(requested_pause(ApiKey::METADATA, 12, &[0, 0]), None);
        assert_eq!(requested_pause(ApiKey::METADATA, 12, &[0xff; 4]), None);
        assert_eq!(requested_pause(ApiKey::METADATA, 12, &[0; 4]), None);
    }
}
