//! Memberships in trouble: topics that vanish, coordinators that freeze or refuse, ends that come too soon.

use super::*;
use crate::ErrorCode;
use crate::backoff::Backoff;
use crate::broker::{Interception, Operation, Resource};
use crate::cluster::{Condition, ConditionEvents, ConditionKind, ConditionStage, CoordinatorKind, Subject};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A member that stores by hand.
fn by_hand() -> ConsumerConfig {
    ConsumerConfig::new().auto_store(false)
}

/// Waits for an event that `wanted` finds something in.
async fn until<T>(consumer: &GroupConsumer, wanted: impl Fn(ConsumerEvent) -> Option<T>) -> T {
    timeout(secs(200), async {
        loop {
            if let Some(found) = wanted(consumer.next_event().await.unwrap()) {
                return found;
            }
        }
    })
    .await
    .expect("it was not told")
}

async fn assigned(consumer: &GroupConsumer) -> Vec<TopicPartition> {
    until(consumer, |event| match event {
        ConsumerEvent::Assigned(partitions) if !partitions.is_empty() => Some(partitions),
        _ => None,
    })
    .await
}

fn committed(bench: &Bench, topic: &str) -> Option<i64> {
    bench.broker.control().committed("g").get(&(topic.to_owned(), 0)).copied()
}

/// Waits for news of a condition.
async fn told(
    events: &mut ConditionEvents,
    stage: ConditionStage,
    wanted: impl Fn(&Condition) -> bool,
) -> Condition {
    let look = async {
        loop {
            let event = events.next().await.unwrap();
            if event.stage == stage && wanted(&event.condition) {
                return event.condition;
            }
        }
    };
    timeout(secs(200), look).await.expect("it was not told")
}

/// A member that has stored a mark of each topic.
async fn storing(bench: &Bench, topics: &[&'static str]) -> GroupConsumer {
    for topic in topics {
        produce(bench.client.cluster(), &tp(topic, 0), 0, 5, 5).await;
    }
    let consumer = bench.client.group_consumer("g").topics(topics.to_vec()).config(by_hand());
    let consumer = consumer.build().unwrap();
    for _ in topics {
        let batch = consumer.next().await.unwrap();
        consumer.store(batch.mark()).unwrap();
    }
    consumer
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_gone_costs_the_commits_of_no_other_and_its_mark_is_given_up() {
    let bench = bench(3, &[("a", 1), ("b", 1)]).await;
    let consumer = storing(&bench, &["a", "b"]).await;
    assert!(bench.broker.control().delete_topic("b"));
    let explicit = consumer.clone();
    let mark = Mark::new(tp("b", 0), Offset(4));
    let refused = tokio::spawn(async move { explicit.commit([mark]).await });
    // The rest goes through with the next automatic commit, and the one after it.
    sleep(secs(6)).await;
    assert_eq!(committed(&bench, "a"), Some(5));
    produce(bench.client.cluster(), &tp("a", 0), 5, 1, 1).await;
    let (partition, offset, error) = until(&consumer, |event| match event {
        ConsumerEvent::Batch(batch) => {
            consumer.store(batch.mark()).unwrap();
            None
        }
        ConsumerEvent::CommitFailed { partition, offset, error } => Some((partition, offset, error)),
        _ => None,
    })
    .await;
    assert_eq!((partition, offset), (tp("b", 0), Offset(5)));
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_ID));
    let error = refused.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("b[0] at 4"), "{error}");
    sleep(secs(6)).await;
    // What is not stored any more is asked for no more.
    let commits = bench.broker.control().requests(ApiKey::OFFSET_COMMIT);
    sleep(secs(60)).await;
    assert!(bench.broker.control().requests(ApiKey::OFFSET_COMMIT) <= commits + 1);
    consumer.commit_stored().await.unwrap();
    consumer.close(SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_with_a_mark_of_a_topic_that_is_gone_commits_the_rest_and_leaves() {
    let bench = bench(3, &[("a", 1), ("b", 1)]).await;
    let consumer = storing(&bench, &["a", "b"]).await;
    assert!(bench.broker.control().delete_topic("b"));
    let begun = Instant::now();
    consumer.close(SOON).await.unwrap();
    assert!(begun.elapsed() < secs(5), "{:?}", begun.elapsed());
    assert_eq!(committed(&bench, "a"), Some(5));
    assert!(bench.broker.control().group("g").unwrap().members.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_gone_costs_no_other_its_start() {
    let bench = bench(3, &[("a", 1), ("b", 1)]).await;
    let control = bench.broker.control();
    produce(bench.client.cluster(), &tp("a", 0), 0, 5, 5).await;
    // The offsets are asked for when the topic was known a moment ago, and is gone.
    let held = control.intercept(Matcher::api(ApiKey::OFFSET_FETCH).times(1), Action::Hold);
    let consumer = bench.client.group_consumer("g").topics(["a", "b"]).build().unwrap();
    while held.hits() == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    control.delete_topic("b");
    held.release();
    let batch = timeout(secs(10), consumer.next()).await.unwrap().unwrap();
    consumer.commit([batch.mark()]).await.unwrap();
    // Asked for by name, it is waited for without hammering anybody.
    sleep(secs(60)).await;
    let before = control.requests(ApiKey::OFFSET_FETCH);
    sleep(secs(60)).await;
    assert_eq!(control.requests(ApiKey::OFFSET_FETCH), before);
    assert_eq!(consumer.committed(&[tp("a", 0), tp("b", 0)]).await.unwrap().len(), 1);
    consumer.close(SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stale_topic_id_is_refreshed() {
    let bench = bench(3, &[("a", 1)]).await;
    let control = bench.broker.control();
    // The client knows the topic that was.
    produce(bench.client.cluster(), &tp("a", 0), 0, 5, 5).await;
    control.recreate_topic("a", 1, &[]).unwrap();
    let consumer = bench.client.group_consumer("g").topics(["a"]).build().unwrap();
    let begun = Instant::now();
    while consumer.position(&tp("a", 0)).is_none() {
        assert!(begun.elapsed() < secs(10));
        sleep(Duration::from_millis(100)).await;
    }
    let asked = control.requests(ApiKey::OFFSET_FETCH);
    assert!((1..5).contains(&asked), "{asked}");
    consumer.close(SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_topic_without_rights_costs_no_other_its_start_or_its_commits() {
    let bench = bench(1, &[("a", 1), ("b", 1)]).await;
    let control = bench.broker.control();
    let mut events = bench.client.cluster().condition_events(None);
    let consumer = storing(&bench, &["a", "b"]).await;
    control.deny(Resource::Topic("b".into()), Operation::Read);
    consumer.commit_stored().await.unwrap_err();
    assert_eq!(committed(&bench, "a"), Some(5));
    let of_b = |condition: &Condition| {
        condition.subject == Subject::Topic("b".into()) && condition.kind == ConditionKind::NotAuthorized
    };
    told(&mut events, ConditionStage::Began, of_b).await;
    control.allow(&Resource::Topic("b".into()));
    told(&mut events, ConditionStage::Ended, of_b).await;
    assert_eq!(committed(&bench, "b"), Some(5));
    consumer.close(SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_says_what_was_not_committed_and_leaves_all_the_same() {
    let bench = bench(3, &[("a", 1)]).await;
    let control = bench.broker.control();
    for action in [Action::Hold, Action::DropRequest, Action::Error(ErrorCode(14))] {
        let consumer = storing(&bench, &["a"]).await;
        control.intercept(Matcher::api(ApiKey::OFFSET_COMMIT), action);
        let begun = Instant::now();
        let error = consumer.close(secs(8)).await.unwrap_err();
        assert!(begun.elapsed() <= secs(8), "{:?}", begun.elapsed());
        assert!(error.is_timeout() && error.to_string().contains("a[0] at "), "{error}");
        assert!(control.group("g").unwrap().members.is_empty());
        control.clear();
    }
    // Without any time it is left in the background.
    let consumer = storing(&bench, &["a"]).await;
    let error = consumer.close(Duration::ZERO).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    sleep(secs(1)).await;
    assert!(control.group("g").unwrap().members.is_empty());
    // Nobody is there.
    let consumer = storing(&bench, &["a"]).await;
    (0..3).for_each(|node| control.freeze_node(node));
    let begun = Instant::now();
    let error = consumer.close(secs(10)).await.unwrap_err();
    assert!(begun.elapsed() <= secs(10) && error.is_timeout(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn whoever_closes_does_not_wait_for_a_back_off() {
    let bench = bench(1, &[("a", 1)]).await;
    let control = bench.broker.control();
    let reconnect_backoff = Backoff { first: secs(1), max: secs(600), jitter: 0.0 };
    let client = client_with(&bench, ClusterConfig { reconnect_backoff, ..ClusterConfig::default() });
    produce(bench.client.cluster(), &tp("a", 0), 0, 5, 5).await;
    let patient = by_hand().session_timeout(secs(1800));
    let consumer = client.group_consumer("g").topics(["a"]).config(patient).build().unwrap();
    let batch = consumer.next().await.unwrap();
    control.kill_node(0);
    sleep(secs(300)).await;
    consumer.store(batch.mark()).unwrap();
    control.restart_node(0).await.unwrap();
    let begun = Instant::now();
    consumer.close(SOON).await.unwrap();
    assert!(begun.elapsed() < secs(5), "{:?}", begun.elapsed());
    assert_eq!(committed(&bench, "a"), Some(5));
    assert!(control.group("g").unwrap().members.is_empty());
    consumer.close(SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_again_tells_the_same() {
    let bench = bench(1, &[("a", 1)]).await;
    let control = bench.broker.control();
    let consumer = storing(&bench, &["a"]).await;
    let held = control.intercept(Matcher::api(ApiKey::OFFSET_COMMIT), Action::DropRequest);
    consumer.close(secs(4)).await.unwrap_err();
    held.remove();
    for _ in 0..2 {
        sleep(secs(20)).await;
        let error = consumer.clone().close(SOON).await.unwrap_err();
        assert!(error.is_timeout() && error.to_string().contains("a[0] at 5"), "{error}");
    }
    // Nobody could be reached.
    let consumer = bench.client.group_consumer("g").topics(["a"]).config(by_hand()).build().unwrap();
    assigned(&consumer).await;
    control.freeze_node(0);
    consumer.close(secs(2)).await.unwrap_err();
    sleep(secs(60)).await;
    let error = consumer.close(SOON).await.unwrap_err();
    assert!(error.to_string().contains("group g was not left"), "{error}");
    control.thaw_node(0);
    // The client went first.
    let consumer = storing(&bench, &["a"]).await;
    bench.client.cluster().close();
    sleep(secs(1)).await;
    let error = consumer.close(SOON).await.unwrap_err();
    assert!(error.to_string().contains("a[0] at 10"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_commit_follows_its_coordinator_and_never_goes_back() {
    let bench = bench(3, &[("a", 1)]).await;
    let control = bench.broker.control();
    control.move_coordinator("g", 1).unwrap();
    let config = by_hand().enable_auto_commit(false);
    let consumer = bench.client.group_consumer("g").topics(["a"]).config(config).build().unwrap();
    assigned(&consumer).await;
    consumer.commit([Mark::new(tp("a", 0), Offset(1))]).await.unwrap();
    // It is there as far as the cluster can tell, and says nothing to the member.
    let silent = [ApiKey::OFFSET_COMMIT, ApiKey::HEARTBEAT]
        .map(|api| control.intercept(Matcher::api(api).node(1), Action::Hold));
    let begun = Instant::now();
    let (committing, ()) = tokio::join!(consumer.commit([Mark::new(tp("a", 0), Offset(2))]), async {
        sleep(secs(2)).await;
        control.move_coordinator("g", 2).unwrap();
    });
    committing.unwrap();
    // The time until heartbeats give the old one up, and no request timeout.
    assert!(begun.elapsed() < secs(20), "{:?}", begun.elapsed());
    consumer.commit([Mark::new(tp("a", 0), Offset(3))]).await.unwrap();
    silent.iter().for_each(Interception::remove);
    for _ in 0..40 {
        sleep(secs(1)).await;
        assert_eq!(committed(&bench, "a"), Some(3));
    }
    consumer.close(SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_last_commit_that_is_refused_is_an_error_of_closing() {
    let bench = bench(1, &[("a", 1), ("b", 1)]).await;
    let control = bench.broker.control();
    let consumer = storing(&bench, &["a", "b"]).await;
    control.deny(Resource::Topic("b".into()), Operation::Read);
    let error = consumer.close(SOON).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authorization);
    let text = error.to_string();
    assert!(text.contains("b[0] at 5") && !text.contains("a[0]"), "{text}");
    assert_eq!(committed(&bench, "a"), Some(5));
    assert!(control.group("g").unwrap().members.is_empty());
}

#[tokio::test(start_paused = true)]
async fn closing_during_the_first_join_leaves_no_member() {
    let bench = bench(1, &[("a", 1)]).await;
    let control = bench.broker.control();
    for times in [1, 2] {
        let late =
            control.intercept(Matcher::api(ApiKey::JOIN_GROUP).nth(times), Action::DelayAnswer(secs(1)));
        let consumer = bench.client.group_consumer("g").topics(["a"]).build().unwrap();
        while late.hits() == 0 {
            sleep(Duration::from_millis(10)).await;
        }
        consumer.close(SOON).await.unwrap();
        let group = control.group("g").unwrap();
        assert!(group.members.is_empty(), "{group:?}");
        control.clear();
        // Nobody has to be waited for.
        let begun = Instant::now();
        let next = bench.client.group_consumer("g").topics(["a"]).build().unwrap();
        assigned(&next).await;
        assert!(begun.elapsed() < secs(5), "{:?}", begun.elapsed());
        next.close(SOON).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_expects_of_a_coordinator_is_told_and_not_hammered() {
    let bench = bench(1, &[("a", 1)]).await;
    let control = bench.broker.control();
    let mut events = bench.client.cluster().condition_events(None);
    let odd = || Action::Error(ErrorCode::UNKNOWN_SERVER_ERROR);
    let cases = [
        (ApiKey::JOIN_GROUP, odd()),
        (ApiKey::JOIN_GROUP, Action::DropRequest),
        (ApiKey::SYNC_GROUP, odd()),
        (ApiKey::HEARTBEAT, odd()),
        (ApiKey::FIND_COORDINATOR, odd()),
        (ApiKey::OFFSET_FETCH, odd()),
    ];
    for (api, action) in cases {
        let what = format!("{api} {action:?}");
        let consumer = bench.client.group_consumer("g").topics(["a"]).build().unwrap();
        if api == ApiKey::HEARTBEAT {
            assigned(&consumer).await;
        }
        let rule = control.intercept(Matcher::api(api), action);
        if api == ApiKey::FIND_COORDINATOR {
            bench.client.cluster().coordinator_failed(CoordinatorKind::Group, "g");
        }
        let of_group = |condition: &Condition| condition.subject == Subject::Group("g".into());
        let began = timeout(secs(20), told(&mut events, ConditionStage::Began, of_group)).await.expect(&what);
        assert_eq!(began.lasted, secs(3), "{what}");
        let before = control.requests(api);
        sleep(secs(20)).await;
        let more = control.requests(api) - before;
        assert!((1..=45).contains(&more), "{what}: {more}");
        rule.remove();
        timeout(secs(30), told(&mut events, ConditionStage::Ended, of_group)).await.expect(&what);
        consumer.close(SOON).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_joins_while_its_coordinator_is_frozen_ends_with_its_own_session() {
    let bench = bench(3, &[("a", 1)]).await;
    let control = bench.broker.control();
    control.move_coordinator("g", 1).unwrap();
    let config = || ConsumerConfig::new().session_timeout(secs(10)).heartbeat_interval(secs(1));
    let consumer = bench.client.group_consumer("g").topics(["a"]).config(config()).build().unwrap();
    assigned(&consumer).await;
    // Another member makes it join, and its join is what the coordinator freezes on.
    let held = control.intercept(Matcher::api(ApiKey::JOIN_GROUP).node(1).skip(2), Action::Hold);
    let other = bench.client.group_consumer("g").topics(["a"]).config(config()).build().unwrap();
    while held.hits() == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    control.freeze_node(1);
    let begun = Instant::now();
    let lost = until(&consumer, |event| match event {
        ConsumerEvent::Lost(partitions) => Some(partitions),
        _ => None,
    })
    .await;
    assert_eq!(lost, [tp("a", 0)]);
    assert!(begun.elapsed() <= secs(11), "{:?}", begun.elapsed());
    // Somebody has it again soon, with a coordinator that is there.
    let reading = async {
        loop {
            if consumer.assignment().len() + other.assignment().len() == 1 {
                break;
            }
            sleep(secs(1)).await;
        }
    };
    timeout(secs(60), reading).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_duration_of_a_group_works_or_is_refused() {
    let bench = bench(1, &[("a", 1)]).await;
    let wild = [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_millis(1),
        secs(3),
        secs(1 << 40),
        Duration::MAX,
    ];
    type Set = fn(ConsumerConfig, Duration) -> ConsumerConfig;
    let setters: [Set; 5] = [
        ConsumerConfig::session_timeout,
        ConsumerConfig::heartbeat_interval,
        ConsumerConfig::rebalance_timeout,
        |config, time| config.revoke_timeout(time),
        ConsumerConfig::auto_commit_interval,
    ];
    for (index, set) in setters.into_iter().enumerate() {
        for time in wild {
            let config = set(ConsumerConfig::new(), time);
            match bench.client.group_consumer("g").topics(["a"]).config(config).build() {
                Ok(consumer) => {
                    assigned(&consumer).await;
                    consumer.close(time).await.unwrap_or_else(|error| {
                        assert!(error.is_timeout(), "{index} {time:?}: {error}");
                    });
                    sleep(secs(6)).await;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Config, "{index} {time:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_no_broker_takes_are_refused_at_once() {
    let Bench { broker: _broker, client } = bench(1, &[]).await;
    let build = |group: String, topics: Vec<String>| {
        GroupConsumerBuilder::new(client.cluster.clone(), client.budget.clone(), group.into())
            .topics(topics)
            .build()
    };
    let error = build("g".repeat(40_000), vec!["a b".into(), "ok".into(), "x".repeat(250)]).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Config);
    for part in ["group id", "\"a b\"", "249"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.len() < 1_000, "{text}");
    let consumer = build("g".repeat(32_767), vec!["a".into()]).unwrap();
    assert_eq!(consumer.subscribe(["b", ".."]).unwrap_err().kind(), ErrorKind::Config);
    consumer.close(Duration::ZERO).await.unwrap_or_default();
}

/// What was there before the rights came is not new.
#[tokio::test(start_paused = true)]
async fn a_topic_that_was_denied_at_first_is_read_from_where_the_first_start_says() {
    let bench = bench(1, &[("t", 1)]).await;
    produce(bench.client.cluster(), &tp("t", 0), 0, 50, 10).await;
    let control = bench.broker.control();
    control.deny(Resource::Topic("t".to_owned()), Operation::Describe);
    let late = client_of(&bench.broker, bench.client.cluster().runtime());
    let config = ConsumerConfig::new().first_start(FirstStart::Latest);
    let consumer = late.group_consumer("g").topics(["t"]).config(config).build().unwrap();
    let denied = timeout(secs(60), consumer.next()).await.unwrap().unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Authorization);
    control.allow(&Resource::Topic("t".to_owned()));
    assigned(&consumer).await;
    sleep(secs(10)).await;
    produce(bench.client.cluster(), &tp("t", 0), 50, 1, 1).await;
    let batch = timeout(secs(10), consumer.next()).await.unwrap().unwrap();
    assert_eq!(numbers(&batch), [50]);
}
