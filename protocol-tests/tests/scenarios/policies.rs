//! Policies of routes, on simulated time.

use carafe::broker::Cluster;
use carafe::prelude::*;
use protocol_tests::sim::{World, run_seed};
use tokio::time::sleep;

use crate::play::{MINUTE, Play, SECOND, TOPIC};

/// Records that wait while no application runs, and a record whose retries take longer than it may be old.
#[test]
fn what_is_too_old_is_dropped_and_committed_but_not_what_is_retried() {
    run_seed(1, async |world: World| {
        let play = Play::begin(world, 1).await;
        play.write(TOPIC, 0, 2).await;
        sleep(10 * MINUTE).await;
        play.write(TOPIC, 0, 2).await;
        let (diary, skips) = (play.diary.clone(), play.diary.clone());
        let tell = move |event: &Event<'_>| {
            if let Event::Skipped { partition, policy, first, last, records, .. } = event {
                skips.write(format!("{policy}: {records} of {partition} in {first} to {last}"));
            }
        };
        let define = |routes: &mut carafe::app::Routes| {
            let route = routes.topic(TOPIC).expire_after(5 * MINUTE).retry(Retry::fixed(2 * MINUTE));
            route.max_messages(1).handler(move |message: Message<Raw>, ctx: Context| {
                let diary = diary.clone();
                async move {
                    diary.write(format!("{} #{}", message.offset(), ctx.attempt()));
                    if message.offset().0 == 3 && ctx.attempt() < 5 {
                        return Err("on purpose".into());
                    }
                    Ok(())
                }
            });
        };
        let (handle, result) = play.run("app", |app| app.listener(tell), define).await;
        sleep(20 * MINUTE).await;
        let told: Vec<String> = play
            .diary
            .read()
            .into_iter()
            .filter(|entry| entry.contains('#') || entry.contains("expiry"))
            .collect();
        // The last one grew too old while the retries of the one before it went on.
        assert_eq!(
            told,
            [
                "expiry: 3 of t[0] in 0 to 2",
                "3 #1",
                "3 #2",
                "3 #3",
                "3 #4",
                "3 #5",
                "expiry: 1 of t[0] in 4 to 4"
            ]
        );
        assert_eq!(play.diary.count("filtering.skipped"), 2);
        assert_eq!(play.committed(0), Some(5));
        // What comes in time is handled.
        play.write(TOPIC, 0, 1).await;
        sleep(10 * SECOND).await;
        assert_eq!((play.diary.count("5 #1"), play.committed(0)), (1, Some(6)));
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

/// Stages have an order that does not depend on how the route was written.
#[test]
fn a_throttle_counts_what_runs_and_not_what_has_expired() {
    run_seed(1, async |world: World| {
        let play = Play::begin(world, 1).await;
        play.write(TOPIC, 0, 9).await;
        sleep(10 * MINUTE).await;
        play.write(TOPIC, 0, 4).await;
        let diary = play.diary.clone();
        let define = |routes: &mut carafe::app::Routes| {
            let route = routes.topic(TOPIC).throttle(carafe::app::Throttle::new(2, MINUTE));
            route.with(carafe::app::Expiry::after(5 * MINUTE)).handler(move |message: Message<Raw>, _| {
                diary.write(format!("handled {}", message.offset()));
                async { Ok(()) }
            });
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(MINUTE / 2).await;
        let handled = |play: &Play| play.diary.read().iter().filter(|e| e.starts_with("handled")).count();
        assert_eq!(handled(&play), 2);
        sleep(MINUTE).await;
        assert_eq!((handled(&play), play.committed(0)), (4, Some(14)));
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

#[test]
fn a_dead_letter_that_nobody_marked_is_not_committed() {
    run_seed(1, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 1).topic("dead", 1)).await;
        play.write(TOPIC, 0, 1).await;
        let diary = play.diary.clone();
        let define = |routes: &mut carafe::app::Routes| {
            routes
                .topic(TOPIC)
                .manual_offset_management()
                .dead_letter_queue(DeadLetter::to("dead").max_retries(0))
                .handler(move |message: Message<Raw>, _: Context| {
                    let offset = message.offset().0;
                    diary.write(format!("handled {offset}"));
                    async move { if offset == 0 { Err("on purpose".into()) } else { Ok(()) } }
                });
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(MINUTE).await;
        assert_eq!(play.committed(0), None);
        play.write(TOPIC, 0, 1).await;
        sleep(MINUTE).await;
        assert_eq!((play.diary.count("handled 1"), play.committed(0)), (1, None));
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

/// Marks come a batch late, and there are fewer workers by then.
#[test]
fn lanes_stay_when_there_are_fewer_workers() {
    struct Late(Option<carafe::types::Offset>, crate::play::Diary);

    impl Consumer for Late {
        type Payload = Raw;

        async fn consume(&mut self, batch: &Batch<Raw>, ctx: &mut Context) -> HandlerResult {
            if let Some(last) = self.0.take() {
                ctx.mark_as_consumed(last)?;
            }
            self.0 = batch.last_offset();
            self.1.write(format!("lane {} got {}", ctx.lane(), batch.len()));
            Ok(())
        }
    }

    run_seed(1, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 1)).await;
        play.write(TOPIC, 0, 8).await;
        let diary = play.diary.clone();
        let define = |routes: &mut carafe::app::Routes| {
            routes
                .topic(TOPIC)
                .manual_offset_management()
                .virtual_partitions(by_key())
                .consumer(move || Late(None, diary.clone()));
        };
        let (handle, result) = play.run("app", |app| app.concurrency(4), define).await;
        sleep(MINUTE).await;
        handle.scale(1);
        for _ in 0..10 {
            play.write(TOPIC, 0, 8).await;
            sleep(MINUTE).await;
        }
        assert!(play.committed(0) > Some(40), "{:?}", play.diary);
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}
