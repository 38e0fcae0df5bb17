//! Records that are given up: strategies, what letters carry, letters by hand, and the stop of an application, on simulated time.

use carafe::app::{Fate, Routes};
use carafe::broker::Cluster;
use carafe::prelude::*;
use carafe::types::{Offset, TopicPartition};
use protocol_tests::sim::{World, run_seed};
use tokio::time::{sleep, timeout};

use crate::play::{MINUTE, Play, SECOND, TOPIC};

const DEAD: &str = "dead";

async fn begin(world: World, records: usize) -> Play {
    let cluster = Cluster::builder().topic(TOPIC, 1).topic(DEAD, 2).topic("other", 1);
    let play = Play::on(world, cluster).await;
    play.write(TOPIC, 0, records).await;
    play
}

/// The headers of all letters of a topic, one line each.
async fn letters(play: &Play, topic: &'static str) -> Vec<String> {
    let client = play.client("reader").await;
    let reader = client.partition_reader();
    let reader =
        reader.partition(TopicPartition::new(topic, 0), carafe::consumer::StartOffset::At(Offset(0)));
    let reader = reader.build().await.expect("right settings");
    let mut found = Vec::new();
    while let Ok(batch) = timeout(SECOND, reader.next()).await {
        for message in batch.expect("readable").messages() {
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
            let headers = message.headers().iter();
            let headers = headers.filter(|header| header.key != b"source_trace_id");
            let headers: Vec<String> =
                headers.map(|header| format!("{}={}", text(Some(header.key)), text(header.value))).collect();
            found.push(headers.join(" "));
        }
    }
    found
}

#[test]
fn a_strategy_decides_by_what_failed_and_letters_say_why() {
    run_seed(1, async |world: World| {
        let play = begin(world, 4).await;
        let define = |routes: &mut Routes| {
            let strategy = |errors: &carafe::app::ErrorHistory, attempt| match errors.last() {
                Some(error) if error.kind() == ErrorKind::Payload => Fate::Dispatch,
                Some(error) if error.to_string().contains("skip") => Fate::Skip,
                _ if attempt == 2 => Fate::DispatchTo("other".into()),
                _ => Fate::Retry,
            };
            let letter = DeadLetter::to(DEAD)
                .strategy(strategy)
                .enhance(|letter, given_up| letter.header("failures", given_up.errors().total().to_string()));
            routes.topic(TOPIC).dead_letter_queue(letter).handler(|message: Message<Raw>, _| async move {
                match message.offset().0 {
                    0 => Err(Error::new(ErrorKind::Payload, "not an order").into()),
                    1 => Err(Error::new(ErrorKind::Handler, "skip me").into()),
                    2 => Err("no luck".into()),
                    _ => Ok(()),
                }
            });
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(MINUTE).await;
        assert_eq!(play.committed(0), Some(4));
        let source = |offset: i64, attempts: u32| {
            format!(
                "source_topic=t source_partition=0 source_offset={offset} source_consumer_group=group \
                 source_attempts={attempts}"
            )
        };
        let first =
            format!("{} source_error=not an order source_error_kind=Payload failures=1", source(0, 1));
        assert_eq!(letters(&play, DEAD).await, [first]);
        let second = source(2, 2);
        let second =
            format!("{second} source_error=the handler failed: no luck source_error_kind=Handler failures=2");
        assert_eq!(letters(&play, "other").await, [second]);
        assert_eq!(play.diary.count("dead_letter_queue.dispatched"), 2);
        assert_eq!(play.diary.count("filtering.skipped"), 1);
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

#[test]
fn an_error_that_stops_the_application_leaves_its_record_uncommitted() {
    run_seed(1, async |world: World| {
        let play = begin(world, 3).await;
        let define = |routes: &mut Routes| {
            let letter = DeadLetter::skip().strategy(|_, _| Fate::Stop);
            routes.topic(TOPIC).dead_letter_queue(letter).handler(|message: Message<Raw>, _| async move {
                if message.offset().0 == 1 { Err("the key store is gone".into()) } else { Ok(()) }
            });
        };
        let (_handle, result) = play.run("app", |app| app, define).await;
        let stopped = timeout(10 * SECOND, result).await.expect("it stops by itself").expect("it ends");
        let error = stopped.expect_err("it says why").to_string();
        assert!(error.contains("offset 1 of t[0]"), "{error}");
        assert_eq!(play.committed(0), Some(1));
    });
}

#[test]
fn a_hook_that_panics_is_reported_and_its_letter_tried_again() {
    run_seed(1, async |world: World| {
        let play = begin(world, 2).await;
        let calls = std::sync::atomic::AtomicU32::new(0);
        let define = move |routes: &mut Routes| {
            let letter = DeadLetter::to(DEAD).max_retries(0).enhance(move |letter, _| {
                let call = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                assert!(call > 0, "on purpose");
                letter
            });
            let route = routes.topic(TOPIC).dead_letter_queue(letter);
            route.retry(Retry::fixed(SECOND)).handler(|message: Message<Raw>, _| async move {
                if message.offset().0 == 0 { Err("poison".into()) } else { Ok(()) }
            });
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(10 * SECOND).await;
        assert_eq!((letters(&play, DEAD).await.len(), play.committed(0)), (1, Some(2)));
        let told = play.diary.read();
        assert!(
            told.iter().any(|entry| entry.contains("the hook for dead letters panicked at offset 0")),
            "{told:?}"
        );
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

#[test]
fn a_handler_sends_letters_by_hand_and_goes_on() {
    run_seed(1, async |world: World| {
        let play = begin(world, 3).await;
        let define = |routes: &mut Routes| {
            let route = routes.topic(TOPIC).dead_letter_queue(DeadLetter::to(DEAD));
            route.handler(|message: Message<Raw>, ctx: Context| async move {
                if message.offset().0 == 1 {
                    ctx.dead_letter(&message).await?;
                }
                Ok(())
            });
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(10 * SECOND).await;
        let letter =
            "source_topic=t source_partition=0 source_offset=1 source_consumer_group=group source_attempts=1";
        assert_eq!((letters(&play, DEAD).await, play.committed(0)), (vec![letter.to_owned()], Some(3)));
        assert_eq!(play.diary.count("dead_letter_queue.dispatched"), 1);
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

#[test]
fn by_hand_and_without_a_topic_the_handler_is_told_what_is_missing() {
    run_seed(1, async |world: World| {
        let play = begin(world, 1).await;
        let diary = play.diary.clone();
        let define = move |routes: &mut Routes| {
            routes.topic(TOPIC).handler(move |message: Message<Raw>, ctx: Context| {
                let diary = diary.clone();
                async move {
                    let refused = ctx.dead_letter(&message).await.expect_err("no topic");
                    diary.write(format!("{:?}: {refused}", refused.kind()));
                    Ok(())
                }
            });
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(10 * SECOND).await;
        let told = play.diary.read();
        assert!(
            told.iter().any(|entry| entry.starts_with("Config: the route of t[0] has no topic")),
            "{told:?}"
        );
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}
