//! Groups from outside, as an administrator changes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use carafe::ErrorCode;
use carafe::ErrorKind;
use carafe::admin::{Admin, CommittedOffset, GroupKind, GroupState, Leaving, MoveTo, OffsetPlan};
use carafe::producer::Record;
use carafe::types::{GroupId, Offset, Timestamp, TopicPartition};

use crate::stage::{SOON, Stage, eventually, take};

scenarios!(
    offsets_are_changed_and_deleted,
    offsets_are_moved_by_a_plan,
    groups_are_copied_renamed_and_deleted,
    members_are_removed,
    lag_is_told_in_time
);

fn planned(plan: &OffsetPlan, at: &TopicPartition) -> (Option<i64>, i64, bool) {
    let planned = plan.moves[at].as_ref().expect("a plan");
    (planned.from.map(|from| from.0), planned.to.offset.0, planned.clamped)
}

/// Commits `offset` in partition 0 of `topic`.
async fn commit(admin: &Admin, group: &str, topic: &str, offset: i64) {
    let at = TopicPartition::new(topic, 0);
    let committed = CommittedOffset::new(offset).metadata("by hand");
    let changed =
        admin.alter_group_offsets(group.to_owned(), [(at.clone(), committed)]).await.expect("an answer");
    changed[&at].as_ref().expect("changed");
}

async fn offsets_are_changed_and_deleted(stage: Stage) {
    let admin = stage.client.admin();
    let (topic, group) = (stage.topic("changed", 2).await, stage.name("changed"));
    let at = |partition| TopicPartition::new(topic.as_str(), partition);
    let offsets = [(at(0), CommittedOffset::new(5)), (at(1), CommittedOffset::new(6))];
    let changed = admin.alter_group_offsets(group.clone(), offsets).await.expect("an answer");
    assert!(changed.values().all(Result::is_ok), "{changed:?}");
    assert_eq!(stage.committed(&group, &topic, 1).await, Some(6));
    let deleted = match admin.delete_group_offsets(group.clone(), [at(1)]).await {
        // Before 2.4.
        Err(error) if error.kind() == ErrorKind::UnsupportedVersion => return,
        deleted => deleted.expect("an answer"),
    };
    deleted[&at(1)].as_ref().expect("deleted");
    assert_eq!(stage.committed(&group, &topic, 1).await, None);
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(5));
    let member = stage.member(&group, &topic);
    eventually("there is a member", async || {
        let described = admin.describe_groups([group.clone()]).await;
        matches!(&described[group.as_str()], Ok(group) if group.state == GroupState::Stable)
    })
    .await;
    let changed = admin.alter_group_offsets(group.clone(), [(at(0), CommittedOffset::new(1))]).await;
    let changed = changed.expect("an answer");
    assert!(changed[&at(0)].as_ref().expect_err("a member has it").advice().is_some());
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(5));
    member.close(SOON).await.expect("closed");
}

async fn offsets_are_moved_by_a_plan(stage: Stage) {
    let admin = stage.client.admin();
    let (topic, group) = (stage.topic("moved", 2).await, stage.name("moved"));
    let at = TopicPartition::new(topic.as_str(), 0);
    let producer = stage.producer();
    for (number, timestamp) in (0..10).zip((1_700_000_000_000i64..).step_by(1000)) {
        let record = Record::to(topic.as_str()).partition(0).value(number.to_string());
        producer.send(record.timestamp(timestamp)).await.expect("sent");
    }
    commit(&admin, &group, &topic, 4).await;
    let plan = async |to| admin.plan_offsets(group.clone(), [(at.clone(), to)]).await.expect("an answer");
    for (to, expected) in [
        (MoveTo::Earliest, (Some(4), 0, false)),
        (MoveTo::Latest, (Some(4), 10, false)),
        (MoveTo::Offset(Offset(7)), (Some(4), 7, false)),
        (MoveTo::Offset(Offset(700)), (Some(4), 10, true)),
        (MoveTo::By(3), (Some(4), 7, false)),
        (MoveTo::By(-9), (Some(4), 0, true)),
        (MoveTo::At(Timestamp(1_700_000_002_500)), (Some(4), 3, false)),
        (MoveTo::At(Timestamp(1_800_000_000_000)), (Some(4), 10, false)),
        (MoveTo::Ago(Duration::from_secs(1)), (Some(4), 10, false)),
    ] {
        assert_eq!(planned(&plan(to).await, &at), expected, "{to:?}");
    }
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(4), "a plan changes nothing");
    let other = TopicPartition::new(topic.as_str(), 1);
    let nothing =
        admin.plan_offsets(group.clone(), [(other.clone(), MoveTo::By(1))]).await.expect("an answer");
    assert_eq!(nothing.moves[&other].as_ref().expect_err("nothing to move").kind(), ErrorKind::State);

    let old = plan(MoveTo::Earliest).await;
    let moved = admin.move_offsets(&plan(MoveTo::By(2)).await).await.expect("an answer");
    moved.partitions[&at].as_ref().expect("moved");
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(6));
    // The plan speaks of a group that has gone on.
    let moved = admin.move_offsets(&old).await.expect("an answer");
    assert_eq!(moved.partitions[&at].as_ref().expect_err("it went on").kind(), ErrorKind::State);
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(6));
}

async fn groups_are_copied_renamed_and_deleted(stage: Stage) {
    let admin = stage.client.admin();
    let topic = stage.topic("renamed", 1).await;
    let [old, copy, new] = ["old", "copy", "new"].map(|name| stage.name(name));
    stage.fill(&topic, 0, 10).await;
    commit(&admin, &old, &topic, 4).await;
    let plan = admin.plan_copy(old.clone(), copy.clone()).await.expect("an answer");
    assert_eq!(planned(&plan, &TopicPartition::new(topic.as_str(), 0)), (None, 4, false));
    let moved = admin.move_offsets(&plan).await.expect("an answer");
    assert!(moved.partitions.values().all(Result::is_ok) && moved.source_deleted.is_none(), "{moved:?}");
    let offsets = admin.group_offsets(copy.clone()).await.expect("an answer");
    let offset = offsets.values().next().expect("copied").as_ref().expect("an offset");
    assert_eq!((offset.offset, offset.metadata.as_str()), (Offset(4), "by hand"));
    let plan = admin.plan_rename(old.clone(), new.clone()).await.expect("an answer");
    let moved = admin.move_offsets(&plan).await.expect("an answer");
    moved.source_deleted.expect("planned").expect("deleted");
    assert_eq!(stage.committed(&new, &topic, 0).await, Some(4));
    assert_eq!(stage.committed(&old, &topic, 0).await, None);
    let error = admin.plan_copy(old.clone(), new).await.expect_err("there is nothing");
    assert_eq!(error.kind(), ErrorKind::State);
    let deleted = admin.delete_groups([copy.clone(), old.clone()]).await;
    deleted[copy.as_str()].as_ref().expect("deleted");
    let error = deleted[old.as_str()].as_ref().expect_err("it is gone");
    assert_eq!(error.code(), Some(ErrorCode::GROUP_ID_NOT_FOUND));
}

async fn members_are_removed(stage: Stage) {
    let admin = stage.client.admin();
    let (topic, group) = (stage.topic("removed", 1).await, stage.name("removed"));
    let id = GroupId::from(group.as_str());
    stage.fill(&topic, 0, 1).await;
    let member = stage.member(&group, &topic);
    take(&member, 1).await;
    let described = admin.describe_groups([group.clone()]).await;
    let description = described[&id].as_ref().expect("described");
    assert_eq!(description.kind, GroupKind::Classic);
    let first = description.members[0].id.clone();
    let nobody = Leaving::Member("nobody".into());
    let removed = admin
        .remove_members(group.clone(), [nobody.clone(), Leaving::Member(first.clone())], "a test")
        .await
        .expect("an answer");
    removed[&Leaving::Member(first.clone())].as_ref().expect("removed");
    let code = removed[&nobody].as_ref().expect_err("unknown").code();
    assert_eq!(code, Some(ErrorCode::UNKNOWN_MEMBER_ID));
    // Who still runs comes back, as another.
    eventually("the member is back", async || {
        let described = admin.describe_groups([group.clone()]).await;
        let description = described[&id].as_ref().expect("described");
        description.members.iter().any(|member| member.id != first)
    })
    .await;
    member.close(SOON).await.expect("closed");
}

async fn lag_is_told_in_time(stage: Stage) {
    let admin = stage.client.admin();
    let (topic, group) = (stage.topic("waiting", 3).await, stage.name("waiting"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let now = i64::try_from(now).expect("a date");
    let producer = stage.producer();
    for (partition, ages) in [(0, [7200, 3600, 60]), (1, [3600, 60, 30])] {
        for age in ages {
            let record = Record::to(topic.as_str()).partition(partition).value("x");
            producer.send(record.timestamp(now - age * 1000)).await.expect("sent");
        }
    }
    let at = |partition| TopicPartition::new(topic.as_str(), partition);
    let offsets = [(at(0), 1), (at(1), 3), (at(2), 0)].map(|(at, offset)| (at, CommittedOffset::new(offset)));
    let changed = admin.alter_group_offsets(group.clone(), offsets).await.expect("an answer");
    assert!(changed.values().all(Result::is_ok), "{changed:?}");
    let lag = admin.group_lag_in_time(group.clone()).await.expect("an answer");
    let waiting = |partition| lag.partitions[&at(partition)].as_ref().expect("a lag").waiting;
    let hour = Duration::from_secs(3600);
    let first = waiting(0).expect("it is known");
    assert!(first >= hour && first < hour + Duration::from_secs(600), "{first:?}");
    assert_eq!((waiting(1), waiting(2)), (Some(Duration::ZERO), Some(Duration::ZERO)));
    assert_eq!(lag.longest_wait(), Some(first));
    assert_eq!(admin.group_lag(group).await.expect("an answer").longest_wait(), None);
}
