//! Topics, groups and offsets, as an administrator sees them.

use carafe::ErrorCode;
use carafe::admin::{GroupState, NewTopic, OffsetSpec};
use carafe::types::{GroupId, Offset, TopicPartition};

use crate::stage::{SOON, Stage, eventually, take};

scenarios!(
    topics_are_created_described_and_deleted,
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
