//! Topics, groups and offsets, as an administrator sees them.

use carafe::ErrorCode;
use carafe::admin::{
    ConfigChange, ConfigResource, ConfigSource, DeleteRecords, GroupState, NewTopic, OffsetSpec,
};
use carafe::types::{GroupId, Offset, TopicPartition};
use carafe::{ErrorKind, Result};

use crate::stage::{SOON, Stage, eventually, take};

scenarios!(
    topics_are_created_described_and_deleted,
    topics_are_validated_grown_and_deleted_by_id,
    settings_are_changed_one_by_one,
    records_are_deleted,
    groups_are_listed_with_offsets_and_lag,
    nodes_are_described
);

async fn topics_are_created_described_and_deleted(stage: Stage) {
    let admin = stage.client.admin();
    let topic = stage.topic("admin", 3).await;
    let error = stage.create(NewTopic::new(topic.as_str()).partitions(3)).await.expect_err("it exists");
    assert_eq!(error.code(), Some(ErrorCode::TOPIC_ALREADY_EXISTS));
    let described = admin.describe_topics([topic.clone()]).await.expect("an answer");
    let description = described[topic.as_str()].as_ref().expect("described");
    assert_eq!((&*description.name, description.partitions.len()), (topic.as_str(), 3));
    let listed = admin.list_topics().await.expect("an answer");
    assert!(listed.iter().any(|listing| *listing.name == *topic && listing.partitions == 3));
    let deleted = admin.delete_topics([topic.clone()]).await.expect("an answer");
    deleted[topic.as_str()].as_ref().expect("deleted");
    eventually("the topic is gone", async || {
        let listed = admin.list_topics().await.expect("an answer");
        listed.iter().all(|listing| *listing.name != *topic)
    })
    .await;
    let deleted = admin.delete_topics([topic.clone()]).await.expect("an answer");
    let error = deleted[topic.as_str()].as_ref().expect_err("it is gone");
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
}

/// `None` where the cluster is too old for it.
fn where_known<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.kind() == ErrorKind::UnsupportedVersion => None,
        Err(error) => panic!("{error}"),
    }
}

async fn topics_are_validated_grown_and_deleted_by_id(stage: Stage) {
    let admin = stage.client.admin();
    let name = stage.name("validated");
    let new = NewTopic::new(name.as_str()).partitions(2).replication_factor(1);
    let said = admin.validate_topics([new.clone()]).await.expect("an answer");
    said[name.as_str()].as_ref().expect("it could be created");
    let listed = admin.list_topics().await.expect("an answer");
    assert!(listed.iter().all(|listing| *listing.name != *name), "it was only validated");
    let wrong = new.config("retention.ms", "soon");
    let said = admin.validate_topics([wrong]).await.expect("an answer");
    let error = said[name.as_str()].as_ref().expect_err("a wrong value");
    assert_eq!(error.code(), Some(ErrorCode::INVALID_CONFIG));

    let topic = stage.topic("grown", 2).await;
    let grown = admin.create_partitions([(topic.clone(), 5)]).await.expect("an answer");
    grown[topic.as_str()].as_ref().expect("grown");
    let mut id = None;
    eventually("the topic has grown everywhere", async || {
        let described = admin.describe_topics([topic.clone()]).await.expect("an answer");
        let description = described[topic.as_str()].as_ref().expect("described");
        id = description.id;
        description.partitions.len() == 5
    })
    .await;
    let Some(id) = id else { return };
    let deleted = where_known(admin.delete_topics_by_id([id]).await);
    if let Some(deleted) = deleted {
        deleted[&id].as_ref().expect("deleted");
        let deleted = admin.delete_topics_by_id([id]).await.expect("an answer");
        let error = deleted[&id].as_ref().expect_err("it is gone");
        assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_ID));
    }
}

async fn settings_are_changed_one_by_one(stage: Stage) {
    let admin = stage.client.admin();
    // Kafka 2.4 appends to nothing but what the topic has itself.
    let own = [("retention.ms", "5000"), ("segment.ms", "7000"), ("cleanup.policy", "delete")];
    let name = stage.topic_with("settings", 1, &own).await;
    let topic = ConfigResource::Topic(name.as_str().into());
    let changes = vec![
        ConfigChange::set("max.message.bytes", "2000000"),
        ConfigChange::unset("retention.ms"),
        ConfigChange::Append("cleanup.policy".into(), "compact".into()),
    ];
    let said = admin.validate_configs([(topic.clone(), changes.clone())]).await.expect("an answer");
    said[&topic].as_ref().expect("it could be changed");
    let said = admin.alter_configs([(topic.clone(), changes)]).await.expect("an answer");
    said[&topic].as_ref().expect("changed");
    let own = async || {
        let described = admin.describe_configs([topic.clone()]).await;
        let entries = described[&topic].as_ref().expect("described").clone();
        let own = entries.into_iter().filter(|entry| entry.source == ConfigSource::Topic);
        own.map(|entry| format!("{}={}", entry.name, entry.value.unwrap_or_default())).collect::<Vec<_>>()
    };
    eventually("the change is everywhere", async || {
        let mut own = own().await;
        own.sort();
        own == ["cleanup.policy=delete,compact", "max.message.bytes=2000000", "segment.ms=7000"]
    })
    .await;
    let wrong = vec![ConfigChange::set("retention.ms", "soon")];
    let said = admin.alter_configs([(topic.clone(), wrong)]).await.expect("an answer");
    let code = said[&topic].as_ref().expect_err("a wrong value").code();
    // Brokers before 2.4 find another word.
    assert!(matches!(code, Some(ErrorCode::INVALID_CONFIG | ErrorCode::INVALID_REQUEST)), "{code:?}");
    let node = admin.describe_cluster().await.expect("an answer").nodes[0].id;
    let broker = ConfigResource::Broker(node);
    let described = admin.describe_configs_documented([broker.clone()]).await;
    let entries = described[&broker].as_ref().expect("described");
    assert!(entries.iter().any(|entry| entry.read_only));
    let Some(listed) = where_known(admin.list_config_resources().await) else { return };
    assert!(listed.is_empty() || listed.contains(&topic) || !listed.contains(&broker), "{listed:?}");
}

async fn records_are_deleted(stage: Stage) {
    let admin = stage.client.admin();
    let topic = stage.topic("records", 2).await;
    stage.fill(&topic, 0, 20).await;
    stage.fill(&topic, 1, 10).await;
    let at = |partition| TopicPartition::new(topic.as_str(), partition);
    let wanted = [(at(0), DeleteRecords::Before(Offset(7))), (at(1), DeleteRecords::All)];
    let deleted = admin.delete_records(wanted).await;
    assert_eq!(*deleted[&at(0)].as_ref().expect("deleted"), Offset(7));
    assert_eq!(*deleted[&at(1)].as_ref().expect("deleted"), Offset(10));
    let begins = admin.list_offsets([(at(0), OffsetSpec::Earliest), (at(1), OffsetSpec::Earliest)]).await;
    assert_eq!(begins[&at(0)].as_ref().expect("an offset").offset, Some(Offset(7)));
    assert_eq!(begins[&at(1)].as_ref().expect("an offset").offset, Some(Offset(10)));
    let deleted = admin.delete_records([(at(0), DeleteRecords::Before(Offset(21)))]).await;
    let error = deleted[&at(0)].as_ref().expect_err("behind the end");
    assert_eq!(error.code(), Some(ErrorCode::OFFSET_OUT_OF_RANGE));
}

async fn groups_are_listed_with_offsets_and_lag(stage: Stage) {
    let admin = stage.client.admin();
    let topic = stage.topic("lag", 1).await;
    let group = stage.name("lag");
    let id = GroupId::from(group.as_str());
    let partition = TopicPartition::new(topic.as_str(), 0);
    stage.fill(&topic, 0, 100).await;
    let consumer = stage.member(&group, &topic);
    let messages = take(&consumer, 30).await;
    consumer.commit([messages[29].mark()]).await.expect("committed");

    let listed = admin.list_groups().await.expect("an answer");
    assert!(listed.failures.is_empty(), "{listed:?}");
    let listing = listed.groups.iter().find(|listing| listing.id == id).expect("listed");
    assert_eq!(listing.protocol_type, "consumer");
    let mut described = admin.describe_groups([group.clone()]).await;
    let description = described.remove(&id).expect("named").expect("described");
    assert_eq!((description.state, description.members.len()), (GroupState::Stable, 1));
    assert_eq!(description.members[0].assignment, std::slice::from_ref(&partition));
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(30));
    let lag = admin.group_lag(group.clone()).await.expect("an answer");
    assert_eq!(lag.total(), 70);
    let lag = lag.partitions[&partition].as_ref().expect("a lag");
    assert_eq!((lag.committed, lag.end, lag.lag), (Some(Offset(30)), Offset(100), Some(70)));
    assert_eq!(lag.member.as_ref(), Some(&description.members[0].id));

    consumer.close(SOON).await.expect("closed");
    eventually("the group is empty", async || {
        let mut described = admin.describe_groups([group.clone()]).await;
        described.remove(&id).expect("named").expect("described").state == GroupState::Empty
    })
    .await;
    let ends = admin.list_offsets([(partition.clone(), OffsetSpec::Latest)]).await;
    assert_eq!(ends[&partition].as_ref().expect("an offset").offset, Some(Offset(100)));
}

async fn nodes_are_described(stage: Stage) {
    let cluster = stage.client.admin().describe_cluster().await.expect("an answer");
    assert!(!cluster.nodes.is_empty());
    if stage.control.is_some() {
        assert_eq!(cluster.nodes.len(), 3);
    }
}
