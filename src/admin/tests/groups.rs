//! Groups from outside: members, offsets, moves, lag in time.

use super::*;

fn group(id: &str) -> GroupId {
    id.into()
}

#[tokio::test(start_paused = true)]
async fn groups_are_listed_by_state_and_kind() {
    let Bench { broker, admin } = bench(2).await;
    broker.control().create_topic("t", 3, &[]).unwrap();
    join(&admin, "busy").await;
    commit(&admin, "idle", "t", 2, 0).await;
    let ids = async |states: &[GroupState], kinds: &[GroupKind]| {
        let listed = admin.list_groups_of(states.iter().copied(), kinds.iter().copied()).await.unwrap();
        assert!(listed.failures.is_empty(), "{listed:?}");
        listed.groups.into_iter().map(|group| group.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&[], &[]).await, ["busy", "idle"]);
    assert_eq!(ids(&[GroupState::Empty], &[]).await, ["idle"]);
    assert_eq!(ids(&[GroupState::Stable, GroupState::Empty], &[GroupKind::Classic]).await, ["busy", "idle"]);
    assert!(ids(&[], &[GroupKind::Share]).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn members_are_removed_and_groups_deleted() {
    let Bench { broker, admin } = bench(3).await;
    broker.control().create_topic("t", 3, &[]).unwrap();
    join(&admin, "g").await;
    let deleted = admin.delete_groups(["g", "ghost"]).await;
    assert_eq!(deleted[&group("g")].as_ref().unwrap_err().code(), Some(ErrorCode::NON_EMPTY_GROUP));
    assert_eq!(deleted[&group("ghost")].as_ref().unwrap_err().code(), Some(ErrorCode::GROUP_ID_NOT_FOUND));
    let nobody = Leaving::Member("nobody".into());
    let removed = admin.remove_members("g", [nobody.clone()], "test").await.unwrap();
    assert_eq!(removed[&nobody].as_ref().unwrap_err().code(), Some(ErrorCode::UNKNOWN_MEMBER_ID));
    // The coordinator moves while it is asked.
    let matcher = Matcher::api(ApiKey::LEAVE_GROUP).times(1);
    broker.control().intercept(matcher, Action::Error(ErrorCode::NOT_COORDINATOR));
    let removed = admin.remove_all_members("g", "test").await.unwrap();
    assert!(removed.len() == 1 && removed.values().all(Result::is_ok), "{removed:?}");
    assert_eq!(admin.describe_groups(["g"]).await[&group("g")].as_ref().unwrap().state, GroupState::Empty);
    assert!(admin.delete_groups(["g"]).await[&group("g")].is_ok());
    assert!(admin.list_groups().await.unwrap().groups.is_empty());
}

#[tokio::test(start_paused = true)]
async fn offsets_are_changed_and_deleted_of_groups_without_members() {
    let Bench { broker, admin } = bench(3).await;
    broker.control().create_topic("t", 3, &[]).unwrap();
    let offsets = [
        (partition("t", 0), CommittedOffset::new(5).metadata("by hand")),
        (partition("t", 1), CommittedOffset::new(7)),
        (partition("ghost", 0), CommittedOffset::new(7)),
    ];
    let changed = admin.alter_group_offsets("g", offsets).await.unwrap();
    assert!(changed[&partition("t", 0)].is_ok() && changed[&partition("t", 1)].is_ok());
    let error = changed[&partition("ghost", 0)].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    let committed = admin.group_offsets("g").await.unwrap();
    let first = committed[&partition("t", 0)].as_ref().unwrap();
    assert_eq!((first.offset, first.metadata.as_str()), (Offset(5), "by hand"));
    let deleted = admin.delete_group_offsets("g", [partition("t", 0)]).await.unwrap();
    assert!(deleted[&partition("t", 0)].is_ok());
    assert_eq!(admin.group_offsets("g").await.unwrap().len(), 1);
    let deleted = admin.delete_group_offsets("ghost", [partition("t", 0)]).await.unwrap();
    let error = deleted[&partition("t", 0)].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::GROUP_ID_NOT_FOUND));

    join(&admin, "busy").await;
    let changed =
        admin.alter_group_offsets("busy", [(partition("t", 0), CommittedOffset::new(5))]).await.unwrap();
    let error = changed[&partition("t", 0)].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_MEMBER_ID));
    assert!(error.advice().is_some_and(|advice| advice.contains("stop the members")), "{error}");
}
