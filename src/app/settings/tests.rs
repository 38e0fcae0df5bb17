//! What overrides what, and whom it reaches.

use std::time::Duration;

use super::*;

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn settle(text: &str, say: impl FnOnce(&mut Wishes)) -> Settled {
    let mut wishes = Wishes::default();
    wishes.given.text(text, &mut wishes.problems);
    say(&mut wishes);
    let groups = [("shop", "orders"), ("bills", "orders")];
    wishes.settle("shop", &groups.map(|(group, topic)| (GroupId::from(group), vec![TopicName::from(topic)])))
}

fn problems(settled: Settled) -> Vec<String> {
    settled.problems.into_vec()
}

#[test]
fn setters_go_before_variables_before_properties_and_one_group_before_all() {
    let properties = "bootstrap.servers=a:1\nlinger.ms=1\nconcurrency=9\nshutdown.timeout.ms=5\nfetch.max.wait.ms=1\n\
                      fetch.max.bytes=1000\nfetch.min.bytes=2\nsession.timeout.ms=20000\n\
                      groups.bills.consumer.fetch.max.bytes=2000\ngroups.bills.consumer.session.timeout.ms=30000\n";
    let settled = settle(properties, |wishes| {
        let variables = [("CARAFE_LINGER_MS", "2"), ("CARAFE_GROUPS_BILLS_CONSUMER_FETCH_MIN_BYTES", "4")];
        wishes.given.environment(variables);
        wishes.app.push(|app| app.concurrency(3));
        wishes.producer.push(|producer| producer.batch_size(4000));
        wishes.consumer.push(|consumer| consumer.max_wait(ms(6)).max_bytes(3000));
        wishes.client.push(|client| client.request_timeout(ms(7)));
    });
    let client = ClientConfig::new().client_id("shop").bootstrap_servers("a:1").request_timeout(ms(7));
    assert_eq!(settled.client, client);
    assert!(settled.of_client);
    assert_eq!(settled.producer, ProducerConfig::new().linger(ms(2)).batch_size(4000));
    assert_eq!(settled.settings.app, AppConfig::new().concurrency(3).shutdown_timeout(ms(5)));
    let all = framework().max_wait(ms(6)).max_bytes(3000).min_bytes(2).session_timeout(ms(20_000));
    let mut own = Changes::default();
    let group = |group: &str, changes: &_| settled.settings.consumer(&GroupId::from(group), changes);
    assert_eq!(group("shop", &own), all);
    assert_eq!(group("came later", &own), all);
    let bills = all.max_bytes(2000).min_bytes(4).session_timeout(ms(30_000));
    assert_eq!(group("bills", &own), bills);
    own.push(|consumer: ConsumerConfig| consumer.max_bytes(5000));
    assert_eq!(group("bills", &own), bills.max_bytes(5000));
    assert_eq!(problems(settled), Vec::<String>::new());
}

#[test]
fn routes_and_groups_are_named_as_the_application_names_them() {
    let properties = "group.id=elsewhere\nroutes.orders.max.messages=5\ngroups.bills.routes.orders.max.messages=6\n\
                      groups.shop.consumer.fetch.max.bytes=7\n";
    let settled = settle(properties, |wishes| {
        wishes.given.environment([("CARAFE_ROUTES_ORDERS_STUCK_AFTER_MS", "8")]);
    });
    let own = RouteConfig::new().max_messages(5).stuck_after(ms(8));
    assert_eq!(settled.routes, [vec![own], vec![RouteConfig::new().max_messages(6)]]);
    let config = settled.settings.consumer(&GroupId::from("elsewhere"), &Changes::default());
    assert_eq!(config, framework().max_bytes(7));
    assert_eq!(problems(settled), Vec::<String>::new());
    let found = problems(settle("routes.orders.max.messages=0\nroutes.order.max.messages=1\n", |_| ()));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found.iter().any(|problem| problem.starts_with("routes.orders.max.messages: \"0\" is not valid"))
    );
    assert!(found.iter().any(|problem| problem.ends_with("did you mean routes.orders.max.messages?")));
}

#[test]
fn values_are_not_shown_while_they_are_kept() {
    let app = crate::app::App::new("shop").properties([("sasl.password", "hunter2")]);
    let shown = format!("{app:?}");
    assert!(shown.contains("sasl.password") && !shown.contains("hunter2"), "{shown}");
    let loader = crate::client::ClientSettings::loader().environment([("CARAFE_SASL_PASSWORD", "hunter2")]);
    assert!(!format!("{loader:?}").contains("hunter2"));
}

#[test]
fn what_the_application_needs_is_not_to_be_changed() {
    let settled = settle("enable.auto.offset.store=true\n", |wishes| {
        wishes.consumer.push(|consumer| consumer.hold_after_delivery(false));
    });
    let problems = problems(settled);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|problem| problem.starts_with("consumer.enable.auto.offset.store: ")));
    assert!(problems.iter().any(|problem| problem.starts_with("consumer.hold.after.delivery: ")));
}

#[test]
fn everything_wrong_is_named_where_it_is() {
    let properties = "concurrency=0\nbatch.size=1\nlingr.ms=1\ngroups.bill.consumer.fetch.max.bytes=1\n\
                      groups.bills.consumer.fetch.max.bytes=0\n";
    let settled = settle(properties, |wishes| {
        wishes.producer.push(|producer| producer.max_in_flight(7));
    });
    let mut own = Changes::default();
    own.push(|consumer: ConsumerConfig| consumer.heartbeat_interval(ms(44_000)));
    let Settled { settings, problems: mut found, .. } = settled;
    settings.check_group(&GroupId::from("bills"), &own, &mut found);
    let found = found.into_vec();
    for (start, part) in [
        ("concurrency: ", "1 or more"),
        ("batch.size: ", "1024 to"),
        ("lingr.ms: ", "did you mean linger.ms?"),
        ("groups.bill.consumer.fetch.max.bytes: ", "did you mean groups.bills.consumer.fetch.max.bytes?"),
        ("groups.bills.consumer.fetch.max.bytes: ", "1 to"),
        ("groups.bills.consumer.heartbeat.interval.ms: ", "a third of session.timeout.ms"),
        ("producer.max.in.flight.requests.per.connection: ", "at most 5"),
    ] {
        assert!(
            found.iter().any(|problem| problem.starts_with(start) && problem.contains(part)),
            "{start}: {found:#?}"
        );
    }
    assert_eq!(found.len(), 7, "{found:#?}");
}

#[cfg(feature = "broker")]
#[tokio::test(start_paused = true)]
async fn settings_reach_the_producer_and_the_consumers() {
    use crate::app::{App, Context, Message, Raw};
    use crate::client::Client;
    use crate::consumer::FirstStart;
    use crate::producer::Record;
    use crate::runtime::sim::SimRuntime;

    let sim = SimRuntime::new(1);
    let broker = crate::broker::Cluster::builder().topic("in", 1).runtime(sim.clone()).start().await.unwrap();
    let client = Client::builder().bootstrap_servers(broker.bootstrap_servers()).runtime(sim.clone());
    let client = client.build().await.unwrap();
    let producer = client.producer().build().unwrap();
    producer.send(Record::to("in").value("early")).await.unwrap();

    // The handler's producer may not create topics. Of the two orders where to begin, that for the group counts.
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let app = App::new("shop")
        .client(client)
        .producer(|producer| producer.allow_auto_create_topics(false).max_block(ms(500)))
        .consumer(|all| all.first_start(FirstStart::Latest))
        .properties([("groups.shop.consumer.first.start", "earliest")])
        .routes(move |routes| {
            routes.topic("in").handler(move |_: Message<Raw>, ctx: Context| {
                let tell = tell.clone();
                async move {
                    let sent = ctx.producer().enqueue(Record::to("missing").value("x")).await;
                    tell.send(sent.is_ok()).expect("the test listens");
                    Ok(())
                }
            });
        });
    let server = app.build().await.unwrap();
    let handle = server.handle();
    let listen = async {
        let sent = tokio::time::timeout(ms(30_000), told.recv()).await;
        handle.stop();
        sent
    };
    let (ended, sent) = tokio::join!(server.run(), listen);
    ended.unwrap();
    assert_eq!(sent.expect("the record was not handled"), Some(false), "the topic was created");
}
