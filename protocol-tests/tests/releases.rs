//! Which versions the brokers of each Kafka release offer, and whether carafe can talk to them.

use carafe::wire::{ApiKey, RELEASES, VersionRange, fetch, produce};

#[test]
fn carafe_speaks_the_stable_versions_of_the_newest_release_and_no_other() {
    let newest = RELEASES.last().expect("a release");
    for (key, spoken) in ApiKey::all() {
        // Of Produce a broker names versions that it does not serve.
        let min = if key == ApiKey::PRODUCE { 0 } else { spoken.min };
        assert_eq!(key.offered_by(newest), Some(VersionRange::new(min, spoken.max)), "{key}");
    }
    // Version 6 is among Kafka's definitions, as one that may still change.
    assert_eq!(ApiKey::INIT_PRODUCER_ID.versions(), Some(VersionRange::new(0, 5)));
    for key in (0..100).map(ApiKey).filter(|key| key.versions().is_none()) {
        let offered = key.offered_by(newest);
        assert_eq!(offered, None, "{key} is not spoken");
    }
}

/// What producers, consumers and admin cannot do without.
#[test]
fn every_release_offers_what_the_client_needs() {
    let needed = [
        ApiKey::LIST_OFFSETS,
        ApiKey::METADATA,
        ApiKey::OFFSET_COMMIT,
        ApiKey::OFFSET_FETCH,
        ApiKey::FIND_COORDINATOR,
        ApiKey::JOIN_GROUP,
        ApiKey::HEARTBEAT,
        ApiKey::LEAVE_GROUP,
        ApiKey::SYNC_GROUP,
        ApiKey::DESCRIBE_GROUPS,
        ApiKey::LIST_GROUPS,
        ApiKey::API_VERSIONS,
        ApiKey::CREATE_TOPICS,
        ApiKey::DELETE_TOPICS,
        ApiKey::DELETE_RECORDS,
        ApiKey::INIT_PRODUCER_ID,
        ApiKey::OFFSET_FOR_LEADER_EPOCH,
        ApiKey::DESCRIBE_CONFIGS,
        ApiKey::CREATE_PARTITIONS,
        ApiKey::DELETE_GROUPS,
    ];
    let mut needed: Vec<_> = needed.into_iter().filter_map(|key| Some((key, key.versions()?))).collect();
    assert_eq!(needed.len(), 20);
    // The bodies that are written by hand have ranges of their own; zstd takes Produce 7.
    needed.extend([
        (ApiKey::PRODUCE, VersionRange::new(7, produce::VERSIONS.max)),
        (ApiKey::FETCH, fetch::VERSIONS),
    ]);
    assert_eq!(RELEASES.first(), Some(&"2.1"));
    for release in RELEASES {
        for (key, ours) in &needed {
            let offered = key.offered_by(release);
            let common = offered.and_then(|offered| offered.intersect(*ours));
            assert!(common.is_some(), "Kafka {release} offers {key} {offered:?}, carafe speaks {ours}");
            assert_eq!(key.since(*ours), Some("2.1"), "{key}");
        }
    }
}

#[test]
fn what_came_later_is_known_by_its_release() {
    let since = |key: ApiKey| key.since(key.versions().expect("spoken"));
    assert_eq!(since(ApiKey::INCREMENTAL_ALTER_CONFIGS), Some("2.3"));
    assert_eq!(since(ApiKey::OFFSET_DELETE), Some("2.4"));
    assert_eq!(since(ApiKey::DESCRIBE_CLUSTER), Some("2.8"));
    assert_eq!(since(ApiKey::CONSUMER_GROUP_HEARTBEAT), Some("3.7"));
    assert_eq!(ApiKey::PRODUCE.since(VersionRange::new(13, 13)), Some("4.1"));
    assert_eq!(ApiKey::FETCH.offered_by("4.0"), Some(VersionRange::new(4, 17)));
    assert_eq!(ApiKey::FETCH.offered_by("9.9"), None);
    assert_eq!(ApiKey(-1).since(VersionRange::new(0, 1)), None);
}
