//! Where responses carry `throttle_time_ms`, and from which version on the client is expected to pause (KIP-219).
//! Before that version the broker itself held the answer back, and a pause would count twice.
//!
//! The places come from Kafka's definitions ([`ApiKey::throttle`]). Produce has the field at its end, behind an array,
//! and is handled where its body is parsed; ApiVersions is asked before there is anything to hold back; of the two calls
//! for delegation tokens that have text before the field, the pause is not kept.

use std::time::Duration;

use crate::wire::ApiKey;

/// Requests that go out although the broker asked for a pause, past those that are held: holding them back would cost the
/// membership, and nothing depends on what they overtake.
pub(super) fn is_exempt(key: ApiKey) -> bool {
    matches!(key, ApiKey::HEARTBEAT | ApiKey::CONSUMER_GROUP_HEARTBEAT)
}

/// The pause that the response `body` asks for, if its API and version say it at a fixed place.
pub(super) fn requested_pause(key: ApiKey, version: i16, body: &[u8]) -> Option<Duration> {
    let (at, since) = key.throttle()?;
    if version < since {
        return None;
    }
    let millis = i32::from_be_bytes(*body.get(at..)?.first_chunk::<4>()?);
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

    #[test]
    fn the_first_version_with_a_pause_is_that_of_kafkas_own_client() {
        // `shouldClientThrottle` of Java's response classes.
        for (key, at, since) in [
            (ApiKey::FETCH, 0, 8),
            (ApiKey::LIST_OFFSETS, 0, 3),
            (ApiKey::METADATA, 0, 6),
            (ApiKey::OFFSET_COMMIT, 0, 4),
            (ApiKey::OFFSET_FETCH, 0, 4),
            (ApiKey::JOIN_GROUP, 0, 3),
            (ApiKey::CREATE_TOPICS, 0, 3),
            (ApiKey::DELETE_TOPICS, 0, 2),
            (ApiKey::INIT_PRODUCER_ID, 0, 1),
            (ApiKey::OFFSET_FOR_LEADER_EPOCH, 0, 2),
            (ApiKey::DELETE_GROUPS, 0, 1),
            (ApiKey::DELETE_RECORDS, 0, 1),
            (ApiKey::DESCRIBE_CONFIGS, 0, 2),
            (ApiKey::END_TXN, 0, 1),
            (ApiKey::OFFSET_DELETE, 2, 0),
            (ApiKey::CONSUMER_GROUP_HEARTBEAT, 0, 0),
            (ApiKey::SHARE_FETCH, 0, 0),
        ] {
            assert_eq!(key.throttle(), Some((at, since)), "{key}");
        }
        for key in [ApiKey::PRODUCE, ApiKey::API_VERSIONS, ApiKey::SASL_HANDSHAKE] {
            assert_eq!(key.throttle(), None, "{key}");
        }
    }

    #[cfg(feature = "broker")]
    #[test]
    fn the_place_is_where_the_message_has_it() {
        use crate::wire::Encode;
        use crate::wire::messages::{
            DeleteGroupsResponse, DeleteRecordsResponse, DescribeConfigsResponse, EndTxnResponse,
            FetchResponse, ListOffsetsResponse, MetadataResponse, OffsetDeleteResponse,
            RenewDelegationTokenResponse,
        };

        fn check<T: Encode + Default>(key: ApiKey, version: i16, set: impl Fn(&mut T)) {
            let mut response = T::default();
            set(&mut response);
            let mut body = bytes::BytesMut::new();
            response.encode(&mut body, version).expect("it can be encoded");
            assert_eq!(requested_pause(key, version, &body), Some(Duration::from_millis(70)), "{key}");
        }
        check(ApiKey::FETCH, 12, |response: &mut FetchResponse| response.throttle_time_ms = 70);
        check(ApiKey::LIST_OFFSETS, 3, |response: &mut ListOffsetsResponse| response.throttle_time_ms = 70);
        check(ApiKey::METADATA, 12, |response: &mut MetadataResponse| response.throttle_time_ms = 70);
        check(ApiKey::DELETE_GROUPS, 2, |response: &mut DeleteGroupsResponse| response.throttle_time_ms = 70);
        check(ApiKey::DELETE_RECORDS, 2, |response: &mut DeleteRecordsResponse| {
            response.throttle_time_ms = 70
        });
        check(ApiKey::DESCRIBE_CONFIGS, 4, |response: &mut DescribeConfigsResponse| {
            response.throttle_time_ms = 70
        });
        check(ApiKey::END_TXN, 3, |response: &mut EndTxnResponse| response.throttle_time_ms = 70);
        check(ApiKey::OFFSET_DELETE, 0, |response: &mut OffsetDeleteResponse| response.throttle_time_ms = 70);
        check(ApiKey::RENEW_DELEGATION_TOKEN, 2, |response: &mut RenewDelegationTokenResponse| {
            response.throttle_time_ms = 70;
        });
    }
}
