//! A request that its broker sits on holds up neither memberships nor questions about the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::Result;
use crate::admin::{NewTopic, OffsetSpec};
use crate::broker::{Action, Cluster, Matcher};
use crate::client::Client;
use crate::consumer::{ConsumerConfig, ConsumerEvent, GroupConsumer, StartOffset};
use crate::producer::Record;
use crate::runtime::BoxFuture;
use crate::runtime::sim::SimRuntime;
use crate::types::TopicPartition;
use crate::wire::ApiKey;

/// Longer than the session of the member, shorter than a request may take.
const SAT_ON: Duration = Duration::from_secs(25);

type Operation = fn(Client, GroupConsumer) -> BoxFuture<'static, Result<()>>;

/// What every client does now and then, by the request that takes its time.
fn operations() -> BTreeMap<ApiKey, Operation> {
    fn first<K: Ord, T>(results: BTreeMap<K, Result<T>>) -> Result<()> {
        results.into_values().next().map_or(Ok(()), |result| result.map(|_| ()))
    }
    BTreeMap::from([
        (
            ApiKey::CREATE_TOPICS,
            (|client, _| {
                Box::pin(async move { first(client.admin().create_topics([NewTopic::new("new")]).await?) })
            }) as Operation,
        ),
        (ApiKey::DELETE_TOPICS, |client, _| {
            Box::pin(async move { first(client.admin().delete_topics(["other"]).await?) })
        }),
        (ApiKey::CREATE_PARTITIONS, |client, _| {
            Box::pin(async move { first(client.admin().create_partitions([("other", 5)]).await?) })
        }),
        (ApiKey::LIST_OFFSETS, |client, _| {
            Box::pin(async move {
                let ends = [(TopicPartition::new("other", 0), OffsetSpec::Latest)];
                first(client.admin().list_offsets(ends).await)
            })
        }),
        (ApiKey::INIT_PRODUCER_ID, |client, _| {
            Box::pin(async move {
                let producer = client.producer().build()?;
                producer.send(Record::to("other").value("x")).await.map(|_| ()).map_err(Into::into)
            })
        }),
        (ApiKey::PRODUCE, |client, _| {
            Box::pin(async move {
                let producer = client.producer().build()?;
                producer.send(Record::to("other").value("x")).await.map(|_| ()).map_err(Into::into)
            })
        }),
        (ApiKey::FETCH, |client, _| {
            Box::pin(async move {
                let start = (TopicPartition::new("other", 0), StartOffset::Earliest);
                let reader = client.partition_reader().partition(start.0, start.1).build().await?;
                reader.next_event().await.map(|_| ())
            })
        }),
        (ApiKey::OFFSET_COMMIT, |_, member| {
            Box::pin(async move {
                let batch = member.next().await?;
                member.commit([batch.mark()]).await
            })
        }),
        (ApiKey::OFFSET_FETCH, |_, member| {
            Box::pin(async move { member.committed(&[TopicPartition::new("t", 0)]).await.map(|_| ()) })
        }),
        (ApiKey::JOIN_GROUP, |client, _| {
            Box::pin(async move {
                let other = client.group_consumer("another").topics(["other"]).build()?;
                other.next_event().await.map(|_| ())
            })
        }),
        (ApiKey::SYNC_GROUP, |client, _| {
            Box::pin(async move {
                let other = client.group_consumer("another").topics(["other"]).build()?;
                other.next_event().await.map(|_| ())
            })
        }),
        (ApiKey::DESCRIBE_GROUPS, |client, _| {
            Box::pin(async move { first(client.admin().describe_groups(["g"]).await) })
        }),
        (ApiKey::LIST_GROUPS, |client, _| {
            Box::pin(async move { client.admin().list_groups().await.map(|_| ()) })
        }),
    ])
}

#[tokio::test(start_paused = true)]
async fn no_request_that_takes_its_time_costs_a_membership() {
    for (api, operation) in operations() {
        let sim = SimRuntime::new(11);
        let broker = Cluster::builder().topic("t", 1).topic("other", 1).runtime(sim.clone());
        let broker = broker.start().await.unwrap();
        let client = Client::builder().bootstrap_servers(broker.bootstrap_servers()).runtime(sim);
        let client = client.build().await.unwrap();
        let producer = client.producer().build().unwrap();
        for topic in ["t", "other"] {
            producer.send(Record::to(topic).value("x")).await.unwrap();
        }
        drop(producer);
        let config = ConsumerConfig::new()
            .session_timeout(Duration::from_secs(10))
            .heartbeat_interval(Duration::from_secs(3))
            .enable_auto_commit(false);
        let member = client.group_consumer("g").config(config).topics(["t"]).build().unwrap();
        assert!(matches!(member.next_event().await.unwrap(), ConsumerEvent::Assigned(_)), "{api}");
        sleep(Duration::from_secs(1)).await;

        let sat_on = broker.control().intercept(Matcher::api(api).times(1), Action::Delay(SAT_ON));
        let running = tokio::spawn(operation(client.clone(), member.clone()));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(sat_on.hits(), 1, "{api}");
        if !matches!(api, ApiKey::DESCRIBE_GROUPS | ApiKey::LIST_GROUPS) {
            // Others may wait behind a description, which has no reason to take long.
            let asked = timeout(Duration::from_secs(1), client.admin().describe_cluster()).await;
            asked.unwrap_or_else(|_| panic!("{api} holds up metadata")).unwrap();
        }
        timeout(SAT_ON + Duration::from_secs(5), running)
            .await
            .unwrap_or_else(|_| panic!("{api} did not end"))
            .unwrap()
            .unwrap_or_else(|error| panic!("{api}: {error}"));
        while let Some(event) = member.try_next_event().unwrap() {
            assert!(!matches!(event, ConsumerEvent::Lost(_)), "{api}: {event:?}");
        }
        assert_eq!(member.assignment().len(), 1, "{api}");
    }
}
