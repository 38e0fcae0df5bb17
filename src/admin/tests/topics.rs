//! Topics, records and settings.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_only_validated_is_not_done() {
    let Bench { broker, admin } = bench(2).await;
    let valid = NewTopic::new("a").partitions(2).config("retention.ms", "5");
    let wrong = NewTopic::new("b").config("no.such.setting", "5");
    let said = admin.validate_topics([valid.clone(), wrong]).await.unwrap();
    assert!(said[&topic("a")].is_ok());
    let error = said[&topic("b")].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::INVALID_CONFIG));
    assert!(broker.control().partition("a", 0).is_none());
    admin.create_topics([valid]).await.unwrap().into_values().next().unwrap().unwrap();
    let said = admin.validate_partitions([("a", 3)]).await.unwrap();
    assert!(said[&topic("a")].is_ok());
    assert!(admin.validate_partitions([("a", 2)]).await.unwrap()[&topic("a")].is_err());
    assert!(broker.control().partition("a", 2).is_none());
    // Where the new ones go.
    let more = PartitionIncrease::to(4).replicas([vec![NodeId(1)], vec![NodeId(0)]]);
    admin.create_partitions([("a", more)]).await.unwrap().into_values().next().unwrap().unwrap_err();
    let more = PartitionIncrease::to(4).replicas([vec![NodeId(1), NodeId(0)], vec![NodeId(0), NodeId(1)]]);
    admin.create_partitions([("a", more)]).await.unwrap().into_values().next().unwrap().unwrap();
    let described = admin.describe_topics(["a"]).await.unwrap();
    let a = described[&topic("a")].as_ref().unwrap();
    assert_eq!(a.partitions[2].replicas, [NodeId(1), NodeId(0)]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_was_made_anew_is_safe_from_deletion_by_its_old_id() {
    let Bench { broker, admin } = bench(1).await;
    broker.control().create_topic("t", 1, &[]).unwrap();
    let id = admin.describe_topics(["t"]).await.unwrap()[&topic("t")].as_ref().unwrap().id.unwrap();
    broker.control().recreate_topic("t", 1, &[]).unwrap();
    let anew = admin.describe_topics(["t"]).await.unwrap()[&topic("t")].as_ref().unwrap().id.unwrap();
    let deleted = admin.delete_topics_by_id([id, anew]).await.unwrap();
    assert_eq!(deleted[&id].as_ref().unwrap_err().code(), Some(ErrorCode::UNKNOWN_TOPIC_ID));
    assert!(deleted[&anew].is_ok());
    assert!(broker.control().partition("t", 0).is_none());
}

#[tokio::test(start_paused = true)]
async fn topics_are_described_in_pages_and_by_older_brokers_at_once() {
    let Bench { broker, admin } = bench(2).await;
    for name in ["a", "b", "c"] {
        broker.control().create_topic(name, 5, &[]).unwrap();
    }
    let names = ["a", "b", "c", "ghost"];
    let whole = admin.describe_topics(names).await.unwrap();
    let asked = broker.control().requests(ApiKey::DESCRIBE_TOPIC_PARTITIONS);
    let paged = admin.describe_paged(&names.map(topic), admin.call(), 2).await.unwrap();
    assert!(broker.control().requests(ApiKey::DESCRIBE_TOPIC_PARTITIONS) > asked + 6);
    let describe = |results: &Results<TopicName, TopicDescription>| format!("{results:?}");
    assert_eq!(describe(&whole), describe(&paged));
    assert_eq!(paged[&topic("b")].as_ref().unwrap().partitions.len(), 5);
    let error = paged[&topic("ghost")].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    let names: Vec<_> = names.map(topic).into();
    let response = admin.metadata(Some(&names), admin.call()).await.unwrap();
    let at_once = crate::admin::descriptions::from_metadata(names, response);
    assert_eq!(describe(&whole), describe(&at_once));
}

#[tokio::test(start_paused = true)]
async fn records_are_deleted_where_partitions_are_led() {
    let Bench { broker, admin } = bench(3).await;
    broker.control().create_topic("t", 3, &[]).unwrap();
    let wanted = [
        (partition("t", 0), DeleteRecords::All),
        (partition("t", 1), DeleteRecords::Before(Offset(5))),
        (partition("t", 2), DeleteRecords::Before(Offset(0))),
        (partition("t", 7), DeleteRecords::All),
        (partition("ghost", 0), DeleteRecords::All),
    ];
    let deleted = admin.delete_records(wanted).await;
    assert_eq!(*deleted[&partition("t", 0)].as_ref().unwrap(), Offset(0));
    let error = deleted[&partition("t", 1)].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::OFFSET_OUT_OF_RANGE));
    assert_eq!(*deleted[&partition("t", 2)].as_ref().unwrap(), Offset(0));
    assert_eq!(deleted[&partition("t", 7)].as_ref().unwrap_err().kind(), ErrorKind::Config);
    let error = deleted[&partition("ghost", 0)].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
}

fn value(results: &Results<ConfigResource, Vec<ConfigEntry>>, of: &ConfigResource, name: &str) -> String {
    let entries = results[of].as_ref().unwrap();
    let entry = entries.iter().find(|entry| entry.name == name).unwrap();
    format!("{} ({})", entry.value.as_deref().unwrap_or("?"), entry.source)
}

#[tokio::test(start_paused = true)]
async fn settings_are_described_and_changed_one_by_one() {
    let Bench { broker, admin } = bench(2).await;
    broker.control().create_topic("t", 1, &[("retention.ms", "5")]).unwrap();
    let t = ConfigResource::Topic("t".into());
    let node = ConfigResource::Broker(NodeId(1));
    let group = ConfigResource::Group("g".into());
    let metrics = ConfigResource::ClientMetrics("m".to_owned());
    let ghost = ConfigResource::Topic("ghost".into());
    let changes = [
        (t.clone(), vec![ConfigChange::set("segment.ms", "7"), ConfigChange::unset("retention.ms")]),
        (t.clone(), vec![ConfigChange::Append("cleanup.policy".into(), "compact".into())]),
        (ConfigResource::AllBrokers, vec![ConfigChange::set("log.retention.ms", "100")]),
        (node.clone(), vec![ConfigChange::set("log.retention.ms", "200")]),
        (group.clone(), vec![ConfigChange::set("consumer.session.timeout.ms", "50000")]),
        (metrics.clone(), vec![ConfigChange::set("interval.ms", "1000")]),
        (ghost.clone(), vec![ConfigChange::set("segment.ms", "7")]),
    ];
    let said = admin.validate_configs(changes.clone()).await.unwrap();
    assert_eq!(said.values().filter(|said| said.is_err()).count(), 1, "{said:?}");
    assert_eq!(value(&admin.describe_configs([t.clone()]).await, &t, "retention.ms"), "5 (topic)");
    let said = admin.alter_configs(changes).await.unwrap();
    assert_eq!(said[&ghost].as_ref().unwrap_err().code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    assert_eq!(said.values().filter(|said| said.is_ok()).count(), 5, "{said:?}");

    let other = ConfigResource::Broker(NodeId(0));
    let all =
        [t.clone(), node.clone(), other.clone(), ConfigResource::AllBrokers, group.clone(), metrics.clone()];
    let told = admin.describe_configs(all).await;
    assert_eq!(value(&told, &t, "retention.ms"), "604800000 (default)");
    assert_eq!(value(&told, &t, "cleanup.policy"), "delete,compact (topic)");
    assert_eq!(value(&told, &node, "log.retention.ms"), "200 (broker)");
    assert_eq!(value(&told, &other, "log.retention.ms"), "100 (all brokers)");
    assert_eq!(told[&ConfigResource::AllBrokers].as_ref().unwrap().len(), 1);
    assert_eq!(value(&told, &group, "consumer.session.timeout.ms"), "50000 (group)");
    assert_eq!(value(&told, &metrics, "interval.ms"), "1000 (client metrics)");
    let entry = told[&node].as_ref().unwrap().iter().find(|entry| entry.name == "log.retention.ms").unwrap();
    let sources: Vec<_> = entry.synonyms.iter().map(|synonym| synonym.source).collect();
    assert_eq!(sources, [ConfigSource::Broker, ConfigSource::AllBrokers, ConfigSource::Default]);

    let listed = admin.list_config_resources().await.unwrap();
    assert!(listed.contains(&group) && listed.contains(&metrics) && listed.contains(&t), "{listed:?}");
    // Nothing is changed where one change is wrong, and nothing twice.
    let changes = vec![ConfigChange::set("segment.ms", "9"), ConfigChange::set("retention.ms", "soon")];
    let said = admin.alter_configs([(t.clone(), changes)]).await.unwrap();
    assert_eq!(said[&t].as_ref().unwrap_err().code(), Some(ErrorCode::INVALID_CONFIG));
    assert_eq!(value(&admin.describe_configs([t.clone()]).await, &t, "segment.ms"), "7 (topic)");
    let twice = vec![ConfigChange::unset("segment.ms"), ConfigChange::set("segment.ms", "9")];
    let twice = admin.alter_configs([(t, twice)]).await;
    assert_eq!(twice.unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_cannot_be_asked_hides_no_settings_of_others() {
    let Bench { broker, admin } = bench(3).await;
    broker.control().kill_node(2);
    let admin = admin.with_timeout(Duration::from_secs(3));
    let nodes = [0, 1, 2].map(|node| ConfigResource::Broker(NodeId(node)));
    let told = admin.describe_configs(nodes.clone()).await;
    assert!(told[&nodes[0]].is_ok() && told[&nodes[1]].is_ok());
    assert!(told[&nodes[2]].is_err());
    assert!(told[&nodes[0]].as_ref().unwrap().iter().any(|entry| entry.read_only));
}

#[tokio::test(start_paused = true)]
async fn changes_wait_for_a_controller_that_moves() {
    let Bench { broker, admin } = bench(2).await;
    broker.control().create_topic("t", 1, &[]).unwrap();
    let matcher = Matcher::api(ApiKey::INCREMENTAL_ALTER_CONFIGS).times(2);
    broker.control().intercept(matcher, Action::Error(ErrorCode::NOT_CONTROLLER));
    let t = ConfigResource::Topic("t".into());
    let said = admin.alter_configs([(t.clone(), vec![ConfigChange::set("segment.ms", "7")])]).await.unwrap();
    assert!(said[&t].is_ok(), "{said:?}");
    assert_eq!(broker.control().requests(ApiKey::INCREMENTAL_ALTER_CONFIGS), 3);
}
