//! Routed applications.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carafe::app::ServerHandle;
use carafe::broker::{Action, Matcher};
use carafe::consumer::StartOffset;
use carafe::prelude::*;
use carafe::types::Offset;
use carafe::wire::ApiKey;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::stage::{Stage, eventually, text};

scenarios!(
    a_failing_record_is_retried_until_it_succeeds,
    a_record_that_keeps_failing_becomes_a_dead_letter,
    virtual_partitions_keep_the_order_of_each_key,
    nothing_is_committed_that_was_not_marked,
    batch_handlers_mark_what_they_want,
    a_panic_is_contained_and_retried,
    blocking_handlers_block_nobody_and_may_panic,
    a_stop_finishes_what_runs_and_commits_it,
    output_is_acknowledged_before_its_offset,
);

fn fail(text: &str) -> HandlerError {
    text.into()
}

fn quickly() -> Retry {
    Retry::fixed(Duration::from_millis(5))
}

/// A running application, stopped at the end.
struct Running {
    handle: ServerHandle,
    task: JoinHandle<carafe::Result<()>>,
}

impl Running {
    async fn start(app: App) -> Self {
        let server = app.build().await.expect("right settings");
        Self { handle: server.handle(), task: tokio::spawn(server.run()) }
    }

    async fn stop(self) {
        self.handle.stop();
        let ended = timeout(Duration::from_secs(20), self.task).await;
        ended.expect("stopped in time").expect("no panic").expect("stopped in order");
    }
}

async fn receive<T>(from: &mut mpsc::UnboundedReceiver<T>, count: usize) -> Vec<T> {
    let mut received = Vec::new();
    while received.len() < count {
        let item = timeout(Duration::from_secs(20), from.recv()).await;
        received.push(item.expect("in time").expect("handlers live"));
    }
    received
}

async fn a_failing_record_is_retried_until_it_succeeds(stage: Stage) {
    let topic = stage.topic("retry", 1).await;
    let group = stage.name("retry");
    stage.fill(&topic, 0, 10).await;
    let (calls, mut called) = mpsc::unbounded_channel();
    let app = App::new(&group).client(stage.client.clone()).routes(|routes| {
        routes.topic(topic.clone()).retry(quickly()).handler(move |message: Message<Text>, ctx: Context| {
            let calls = calls.clone();
            async move {
                calls.send((message.offset().0, ctx.attempt())).map_err(|_| fail("the test ended"))?;
                if message.offset().0 == 4 && ctx.attempt() < 3 { Err(fail("on purpose")) } else { Ok(()) }
            }
        });
    });
    let running = Running::start(app).await;
    let seen = receive(&mut called, 12).await;
    let offsets: Vec<i64> = seen.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 9]);
    assert_eq!(seen[4..7].iter().map(|(_, attempt)| *attempt).collect::<Vec<_>>(), [1, 2, 3]);
    running.stop().await;
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(10));
}

async fn a_record_that_keeps_failing_becomes_a_dead_letter(stage: Stage) {
    let (topic, dead) = (stage.topic("source", 1).await, stage.topic("dead", 1).await);
    let group = stage.name("dead");
    let record = Record::to(&topic).key("k").value("poison").header("own", "kept");
    stage.producer().send(record).await.expect("written");
    stage.fill(&topic, 0, 3).await;
    let (calls, mut called) = mpsc::unbounded_channel();
    let app = App::new(&group).client(stage.client.clone()).routes(|routes| {
        let handler = move |message: Message<Text>, _: Context| {
            let calls = calls.clone();
            async move {
                calls.send(message.offset().0).map_err(|_| fail("the test ended"))?;
                if message.payload()? == "poison" { Err(fail("on purpose")) } else { Ok(()) }
            }
        };
        let route = routes.topic(topic.clone()).retry(quickly());
        route.dead_letter_queue(DeadLetter::to(dead.clone()).max_retries(2)).handler(handler);
    });
    let running = Running::start(app).await;
    assert_eq!(receive(&mut called, 6).await, [0, 0, 0, 1, 2, 3]);
    running.stop().await;
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(4));
    let reader = stage.client.partition_reader().topic(dead.clone(), StartOffset::Earliest).build().await;
    let batch = timeout(Duration::from_secs(20), reader.expect("a reader").next()).await;
    let letter = batch.expect("in time").expect("a batch").message(0).expect("a letter");
    assert_eq!((letter.key(), text(&letter)), (Some(&b"k"[..]), "poison"));
    let headers: BTreeMap<&[u8], &[u8]> =
        letter.headers().iter().filter_map(|header| Some((header.key, header.value?))).collect();
    for (name, value) in [
        ("own", "kept"),
        ("source_topic", topic.as_str()),
        ("source_partition", "0"),
        ("source_offset", "0"),
        ("source_consumer_group", group.as_str()),
        ("source_attempts", "3"),
    ] {
        assert_eq!(headers.get(name.as_bytes()).copied(), Some(value.as_bytes()), "{name}");
    }
}

async fn virtual_partitions_keep_the_order_of_each_key(stage: Stage) {
    let topic = stage.topic("lanes", 1).await;
    let group = stage.name("lanes");
    let producer = stage.producer();
    for number in 0..200 {
        let record = Record::to(&topic).key(format!("{}", number % 10)).value(number.to_string());
        let _unawaited = producer.enqueue(record).await.expect("enqueued");
    }
    producer.flush(Duration::from_secs(20)).await.expect("flushed");
    let lanes = Arc::new(Mutex::new(BTreeSet::new()));
    let (calls, mut called) = mpsc::unbounded_channel();
    let seen_lanes = lanes.clone();
    let app = App::new(&group).client(stage.client.clone()).concurrency(4).routes(|routes| {
        let handler = move |message: Message<Text>, ctx: Context| {
            let (calls, lanes) = (calls.clone(), seen_lanes.clone());
            async move {
                lanes.lock().expect("no panic").insert(ctx.lane());
                tokio::task::yield_now().await;
                let key = message.key().map(<[u8]>::to_vec);
                calls.send((key, message.payload()?.to_owned())).map_err(|_| fail("the test ended"))
            }
        };
        routes.topic(topic.clone()).virtual_partitions(by_key()).handler(handler);
    });
    let running = Running::start(app).await;
    let mut latest = BTreeMap::new();
    for (key, value) in receive(&mut called, 200).await {
        let number: u64 = value.parse().expect("a number");
        let before = latest.insert(key, number);
        assert!(before.is_none_or(|before| before < number), "{before:?} came before {number}");
    }
    running.stop().await;
    assert!(lanes.lock().expect("no panic").len() > 1, "several lanes ran");
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(200));
}

async fn nothing_is_committed_that_was_not_marked(stage: Stage) {
    let topic = stage.topic("manual", 1).await;
    let group = stage.name("manual");
    stage.fill(&topic, 0, 10).await;
    let (calls, mut called) = mpsc::unbounded_channel();
    let app = App::new(&group).client(stage.client.clone()).routes(|routes| {
        let handler = move |message: Message<Text>, ctx: Context| {
            let calls = calls.clone();
            async move {
                if message.offset().0 == 5 {
                    ctx.mark_as_consumed(Offset(5))?;
                }
                calls.send(()).map_err(|_| fail("the test ended"))
            }
        };
        routes.topic(topic.clone()).manual_offset_management().handler(handler);
    });
    let running = Running::start(app).await;
    receive(&mut called, 10).await;
    running.stop().await;
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(6));
}

/// Half of the records is marked, the rest comes again in the next life.
async fn batch_handlers_mark_what_they_want(stage: Stage) {
    let topic = stage.topic("batches", 1).await;
    let group = stage.name("batches");
    stage.fill(&topic, 0, 10).await;
    for (expected, marked) in [(0..10, 4), (5..10, 9)] {
        let (calls, mut called) = mpsc::unbounded_channel();
        let app = App::new(&group).client(stage.client.clone()).routes(|routes| {
            let handler = move |batch: Batch<Text>, ctx: Context| {
                let calls = calls.clone();
                async move {
                    for message in &batch {
                        let offset = message.offset().0;
                        if offset == marked {
                            ctx.mark_as_consumed(message)?;
                        }
                        calls.send(offset).map_err(|_| fail("the test ended"))?;
                    }
                    Ok(())
                }
            };
            routes.topic(topic.clone()).manual_offset_management().batch_handler(handler);
        });
        let running = Running::start(app).await;
        let expected: Vec<i64> = expected.collect();
        assert_eq!(receive(&mut called, expected.len()).await, expected);
        running.stop().await;
        assert_eq!(stage.committed(&group, &topic, 0).await, Some(marked + 1));
    }
}

/// One worker thread is blocked until the other partition was handled too.
async fn blocking_handlers_block_nobody_and_may_panic(stage: Stage) {
    let topic = stage.topic("blocking", 2).await;
    let group = stage.name("blocking");
    stage.fill(&topic, 0, 1).await;
    stage.fill(&topic, 1, 1).await;
    let both = Arc::new(std::sync::Barrier::new(2));
    let errors = Arc::new(Mutex::new(Vec::new()));
    let heard = errors.clone();
    let (calls, mut called) = mpsc::unbounded_channel();
    let app = App::new(&group)
        .client(stage.client.clone())
        .listener(move |event: &Event<'_>| {
            if let Event::Error { context: "consumer.consume.error", error, .. } = event {
                heard.lock().expect("no panic").push(error.to_string());
            }
        })
        .routes(|routes| {
            let handler = move |batch: &Batch<Text>, ctx: &Context| {
                both.wait();
                assert!(ctx.is_retrying(), "on purpose");
                for message in batch {
                    ctx.mark_as_consumed(message)?;
                }
                calls.send(ctx.partition().partition.0).map_err(|_| fail("the test ended"))
            };
            routes.topic(topic.clone()).retry(quickly()).blocking_handler(handler);
        });
    let running = Running::start(app).await;
    let handled: BTreeSet<i32> = receive(&mut called, 2).await.into_iter().collect();
    assert_eq!(handled, [0, 1].into());
    running.stop().await;
    let errors = errors.lock().expect("no panic").clone();
    assert_eq!(errors.len(), 2);
    assert!(errors.iter().all(|error| error.contains("panicked: on purpose")), "{errors:?}");
    for partition in 0..2 {
        assert_eq!(stage.committed(&group, &topic, partition).await, Some(1));
    }
}

async fn a_panic_is_contained_and_retried(stage: Stage) {
    let topic = stage.topic("panic", 1).await;
    let group = stage.name("panic");
    stage.fill(&topic, 0, 3).await;
    let (calls, mut called) = mpsc::unbounded_channel();
    let errors = Arc::new(AtomicUsize::new(0));
    let counted = errors.clone();
    let app = App::new(&group)
        .client(stage.client.clone())
        .listener(move |event: &Event<'_>| {
            if let Event::Error { context: "consumer.consume.error", .. } = event {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        })
        .routes(|routes| {
            let handler = move |message: Message<Text>, ctx: Context| {
                let calls = calls.clone();
                async move {
                    assert!(message.offset().0 != 1 || ctx.is_retrying(), "on purpose");
                    calls.send(message.offset().0).map_err(|_| fail("the test ended"))
                }
            };
            routes.topic(topic.clone()).retry(quickly()).handler(handler);
        });
    let running = Running::start(app).await;
    assert_eq!(receive(&mut called, 3).await, [0, 1, 2]);
    running.stop().await;
    assert_eq!(errors.load(Ordering::Relaxed), 1);
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(3));
}

async fn a_stop_finishes_what_runs_and_commits_it(stage: Stage) {
    let topic = stage.topic("stop", 1).await;
    let group = stage.name("stop");
    stage.fill(&topic, 0, 1).await;
    let (calls, mut called) = mpsc::unbounded_channel();
    let go_on = Arc::new(tokio::sync::Notify::new());
    let waits = go_on.clone();
    let app = App::new(&group).client(stage.client.clone()).routes(|routes| {
        routes.topic(topic.clone()).handler(move |_: Message<Text>, ctx: Context| {
            let (calls, waits) = (calls.clone(), waits.clone());
            async move {
                calls.send("started").map_err(|_| fail("the test ended"))?;
                ctx.ended().await;
                calls.send("told").map_err(|_| fail("the test ended"))?;
                waits.notified().await;
                Ok(())
            }
        });
    });
    let running = Running::start(app).await;
    assert_eq!(receive(&mut called, 1).await, ["started"]);
    running.handle.stop();
    assert_eq!(receive(&mut called, 1).await, ["told"]);
    assert!(!running.task.is_finished(), "the handler still runs");
    go_on.notify_one();
    running.stop().await;
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(1));
}

async fn output_is_acknowledged_before_its_offset(stage: Stage) {
    let (topic, output) = (stage.topic("in", 1).await, stage.topic("out", 1).await);
    let group = stage.name("output");
    stage.fill(&topic, 0, 5).await;
    // Without a hand on the broker only the outcome is checked.
    let held = stage.control.as_ref().map(|control| {
        control.intercept(Matcher::api(ApiKey::PRODUCE).client_id("application"), Action::Hold)
    });
    let client = stage.another_client("application").await;
    let (calls, mut called) = mpsc::unbounded_channel();
    let to = output.clone();
    let app = App::new(&group).client(client).routes(|routes| {
        routes.topic(topic.clone()).handler(move |message: Message<Text>, ctx: Context| {
            let (calls, to) = (calls.clone(), to.clone());
            async move {
                let value = message.payload()?;
                ctx.producer().enqueue(Record::to(&to).value(value)).await?;
                calls.send(()).map_err(|_| fail("the test ended"))
            }
        });
    });
    let running = Running::start(app).await;
    receive(&mut called, 5).await;
    if let Some(held) = &held {
        eventually("the output is on its way", async || held.hits() > 0).await;
        running.handle.stop();
        assert_eq!(stage.committed(&group, &topic, 0).await, None);
        held.remove();
    }
    running.stop().await;
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(5));
    let reader = stage.client.partition_reader().topic(output.clone(), StartOffset::Earliest).build().await;
    let reader = reader.expect("a reader");
    let mut written = Vec::new();
    while written.len() < 5 {
        let batch = timeout(Duration::from_secs(20), reader.next()).await.expect("in time").expect("a batch");
        written.extend(batch.messages().map(|message| text(&message).to_owned()));
    }
    assert_eq!(written, ["0", "1", "2", "3", "4"]);
}
