//! Callbacks of consumers besides `consume`, on simulated time.

use std::time::Duration;

use carafe::prelude::*;
use protocol_tests::sim::{World, run_seed};
use tokio::time::sleep;

use crate::play::{Diary, GROUP, MINUTE, Play, SECOND, TOPIC};

/// Writes down what it is called with, takes its time over it, and fails where it is told to.
struct Narrator {
    diary: Diary,
    name: &'static str,
    takes: Duration,
    fails: &'static [&'static str],
    busy: bool,
}

impl Narrator {
    fn new(diary: &Diary, name: &'static str) -> Self {
        Self { diary: diary.clone(), name, takes: Duration::ZERO, fails: &[], busy: false }
    }

    async fn act(&mut self, what: &str) -> HandlerResult {
        let Self { diary, name, .. } = self;
        assert!(!self.busy, "callbacks of one instance never overlap");
        self.busy = true;
        diary.write(format!("{name} {what}"));
        sleep(self.takes).await;
        self.busy = false;
        match self.fails.contains(&what) {
            true => Err(format!("{what} fails").into()),
            false => Ok(()),
        }
    }
}

impl Consumer for Narrator {
    type Payload = Raw;

    async fn initialized(&mut self, ctx: &mut Context) -> HandlerResult {
        self.act(&format!("initialized {}", ctx.partition())).await
    }

    async fn consume(&mut self, batch: &Batch<Raw>, _: &mut Context) -> HandlerResult {
        self.act(&format!("consume {}", batch.len())).await
    }

    async fn eofed(&mut self, _: &mut Context) -> HandlerResult {
        self.act("eofed").await
    }

    async fn tick(&mut self, _: &mut Context) -> HandlerResult {
        self.act("tick").await
    }

    async fn revoked(&mut self, _: &mut Context) -> HandlerResult {
        self.act("revoked").await
    }

    async fn shutdown(&mut self, _: &mut Context) -> HandlerResult {
        self.act("shutdown").await
    }
}

/// What the narrator of this name wrote since.
fn told(play: &Play, name: &str) -> Vec<String> {
    let entries = play.diary.read().into_iter();
    entries.filter_map(|entry| Some(entry.strip_prefix(name)?.trim_start().to_owned())).collect()
}

#[test]
fn an_empty_partition_is_initialized_ends_and_ticks() {
    run_seed(1, async |world: World| {
        let play = Play::on(world, carafe::broker::Cluster::builder().topic(TOPIC, 1)).await;
        let diary = play.diary.clone();
        let (handle, result) = play
            .run(
                "app",
                |app| app,
                |routes| {
                    let route = routes.topic(TOPIC).eofed(true).periodic(MINUTE);
                    route.consumer(move || Narrator::new(&diary, "n:"));
                },
            )
            .await;
        sleep(MINUTE / 2).await;
        assert_eq!(told(&play, "n:"), ["initialized t[0]", "eofed"]);
        sleep(2 * MINUTE).await;
        play.write(TOPIC, 0, 2).await;
        sleep(MINUTE / 2).await;
        assert_eq!(told(&play, "n:")[2..], ["tick", "tick", "consume 2", "eofed"]);
        handle.stop();
        result.await.expect("it ends").expect("in order");
        assert_eq!(told(&play, "n:").last().map(String::as_str), Some("shutdown"));
        assert_eq!(play.committed(0), Some(2));
        for (event, count) in [("initialized", 1), ("eofed", 2), ("ticked", 2)] {
            assert_eq!(play.diary.count(&format!("consumer.{event}")), count, "{event}");
        }
    });
}

#[test]
fn errors_of_callbacks_are_reported_by_name_and_stop_nothing() {
    run_seed(1, async |world: World| {
        let play = Play::begin(world, 1).await;
        let (diary, contexts) = (play.diary.clone(), play.diary.clone());
        let tell = move |event: &Event<'_>| {
            if let Event::Error { context, .. } = event {
                contexts.write(format!("context {context}"));
            }
        };
        let define = |routes: &mut carafe::app::Routes| {
            routes.topic(TOPIC).eofed(true).periodic(MINUTE).consumer(move || Narrator {
                fails: &["initialized t[0]", "eofed", "tick"],
                ..Narrator::new(&diary, "n:")
            });
        };
        let (handle, result) = play.run("app", |app| app.listener(tell), define).await;
        sleep(MINUTE + 30 * SECOND).await;
        play.write(TOPIC, 0, 1).await;
        sleep(10 * SECOND).await;
        assert_eq!(
            told(&play, "n:"),
            ["initialized t[0]", "consume 1", "eofed", "tick", "consume 1", "eofed"]
        );
        assert_eq!(
            told(&play, "context"),
            ["initialized", "eofed", "tick", "eofed"].map(|name| format!("consumer.{name}.error"))
        );
        assert_eq!(play.committed(0), Some(2));
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

/// With the only worker busy, a callback waits for it; a quiet time that begins meanwhile keeps it waiting.
#[test]
fn a_callback_that_waits_for_a_worker_does_not_begin_in_quiet() {
    run_seed(1, async |world: World| {
        let cluster = carafe::broker::Cluster::builder().topic(TOPIC, 1).topic("u", 1);
        let play = Play::on(world, cluster).await;
        let (busy, waits) = (play.diary.clone(), play.diary.clone());
        let define = |routes: &mut carafe::app::Routes| {
            let busy = move || Narrator { takes: 2 * MINUTE, ..Narrator::new(&busy, "busy:") };
            routes.topic(TOPIC).consumer(busy);
            routes.topic("u").periodic(MINUTE).consumer(move || Narrator::new(&waits, "waits:"));
        };
        let (handle, result) = play.run("app", |app| app.concurrency(1), define).await;
        sleep(MINUTE).await;
        assert_eq!(told(&play, "busy:"), ["initialized t[0]"]);
        handle.quiet().await.expect("it runs");
        sleep(4 * MINUTE).await;
        assert_eq!(told(&play, "waits:"), [""; 0]);
        handle.unquiet().await.expect("it runs");
        sleep(MINUTE + 10 * SECOND).await;
        assert_eq!(told(&play, "waits:"), ["initialized u[0]", "tick"]);
        handle.stop();
        // The last callback of the busy one takes longer than a stop may.
        let late = result.await.expect("it ends").expect_err("it is dropped").to_string();
        assert!(late.contains("the last callback of t[0]"), "{late}");
    });
}

/// A group whose consumer tells no ends learns to when a route comes that wants them; settings of the consumer come too late.
#[test]
fn a_route_that_comes_later_is_told_of_ends_and_brings_no_settings() {
    run_seed(1, async |world: World| {
        let cluster = carafe::broker::Cluster::builder().topic(TOPIC, 1).topic("later", 1);
        let play = Play::on(world, cluster).await;
        let diary = play.diary.clone();
        let define = |routes: &mut carafe::app::Routes| {
            routes.topic(TOPIC).consumer(move || Narrator::new(&diary, "n:"));
        };
        let (handle, result) = play.run("app", |app| app, define).await;
        sleep(10 * SECOND).await;
        let later = |max_wait| {
            let diary = play.diary.clone();
            move |routes: &mut carafe::app::Routes| {
                routes.group(GROUP, move |group| {
                    if let Some(max_wait) = max_wait {
                        group.consumer(move |consumer| consumer.max_wait(max_wait));
                    }
                    group.topic("later").eofed(true).consumer(move || Narrator::new(&diary, "later:"));
                });
            }
        };
        let refused = handle.add_routes(later(Some(SECOND))).await.expect_err("the consumer is there");
        assert!(refused.to_string().contains("settings come with its first routes"), "{refused}");
        handle.add_routes(later(None)).await.expect("added");
        sleep(30 * SECOND).await;
        assert_eq!(told(&play, "later:"), ["initialized later[0]", "eofed"]);
        assert_eq!(told(&play, "n:"), ["initialized t[0]"], "nobody asked");
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

/// A panic costs the instance, not the partition: the next one is initialized before it gets anything.
#[test]
fn an_instance_that_replaces_one_that_panicked_is_initialized() {
    struct Panics(Narrator);

    impl Consumer for Panics {
        type Payload = Raw;

        async fn initialized(&mut self, ctx: &mut Context) -> HandlerResult {
            self.0.initialized(ctx).await
        }

        async fn consume(&mut self, batch: &Batch<Raw>, ctx: &mut Context) -> HandlerResult {
            assert!(ctx.is_retrying(), "on purpose");
            self.0.consume(batch, ctx).await
        }
    }

    run_seed(1, async |world: World| {
        let play = Play::begin(world, 1).await;
        let diary = play.diary.clone();
        let (handle, result) = play
            .run(
                "app",
                |app| app,
                |routes| {
                    routes.topic(TOPIC).consumer(move || Panics(Narrator::new(&diary, "n:")));
                },
            )
            .await;
        sleep(MINUTE).await;
        assert_eq!(told(&play, "n:"), ["initialized t[0]", "initialized t[0]", "consume 1"]);
        assert_eq!(play.committed(0), Some(1));
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

/// A consumer that says nothing of its life is not made before it has a batch, and not told of what it did not ask for.
#[test]
fn who_asks_for_nothing_is_called_with_batches_alone() {
    struct Silent(Diary);

    impl Consumer for Silent {
        type Payload = Raw;

        async fn consume(&mut self, _: &Batch<Raw>, _: &mut Context) -> HandlerResult {
            self.0.write("n: consume");
            Ok(())
        }

        async fn shutdown(&mut self, ctx: &mut Context) -> HandlerResult {
            self.0.write(format!("n: shutdown {}", ctx.partition()));
            Ok(())
        }
    }

    run_seed(1, async |world: World| {
        let play = Play::on(world, carafe::broker::Cluster::builder().topic(TOPIC, 2)).await;
        play.write(TOPIC, 0, 1).await;
        let diary = play.diary.clone();
        let (handle, result) = play
            .run(
                "app",
                |app| app,
                |routes| {
                    routes.topic(TOPIC).consumer(move || Silent(diary.clone()));
                },
            )
            .await;
        sleep(MINUTE).await;
        handle.stop();
        result.await.expect("it ends").expect("in order");
        assert_eq!(told(&play, "n:"), ["consume", "shutdown t[0]"]);
    });
}

#[test]
fn marks_made_at_the_end_of_a_partition_and_in_ticks_are_committed() {
    struct Late(Option<carafe::types::Offset>);

    impl Consumer for Late {
        type Payload = Raw;

        async fn consume(&mut self, batch: &Batch<Raw>, _: &mut Context) -> HandlerResult {
            self.0 = batch.last_offset();
            Ok(())
        }

        async fn eofed(&mut self, ctx: &mut Context) -> HandlerResult {
            if let Some(last) = self.0.take() {
                ctx.mark_as_consumed(last)?;
            }
            Ok(())
        }

        async fn tick(&mut self, ctx: &mut Context) -> HandlerResult {
            if let Some(last) = self.0.take() {
                ctx.mark_as_consumed(last)?;
            }
            Ok(())
        }
    }

    for eofed in [true, false] {
        run_seed(1, async move |world: World| {
            let play = Play::begin(world, 1).await;
            let (handle, result) = play
                .run(
                    "app",
                    |app| app,
                    |routes| {
                        let route = routes.topic(TOPIC).manual_offset_management();
                        match eofed {
                            true => route.eofed(true),
                            false => route.periodic(SECOND),
                        };
                        route.consumer(|| Late(None));
                    },
                )
                .await;
            sleep(MINUTE).await;
            assert_eq!(play.committed(0), Some(1));
            handle.stop();
            result.await.expect("it ends").expect("in order");
        });
    }
}

/// Ticks take longer than the time between them; another member comes and takes a partition while one runs.
#[test]
fn a_revocation_and_a_stop_wait_for_the_callback_that_runs() {
    run_seed(1, async |world: World| {
        let play = Play::begin(world, 2).await;
        let first = play.diary.clone();
        let (handle, result) = play
            .run(
                "first",
                |app| app,
                |routes| {
                    routes
                        .topic(TOPIC)
                        .periodic(SECOND)
                        .consumer(move || Narrator { takes: 10 * SECOND, ..Narrator::new(&first, "first:") });
                },
            )
            .await;
        sleep(45 * SECOND).await;
        assert!(told(&play, "first:").iter().filter(|entry| *entry == "tick").count() >= 2);
        let second = play.diary.clone();
        let (other, other_result) = play
            .run(
                "second",
                |app| app,
                |routes| {
                    routes.topic(TOPIC).consumer(move || Narrator::new(&second, "second:"));
                },
            )
            .await;
        sleep(MINUTE).await;
        // One of two instances was revoked, after its tick; the other ticks on.
        assert_eq!(told(&play, "first:").iter().filter(|entry| *entry == "revoked").count(), 1);
        assert_eq!(told(&play, "second:").len(), 1, "initialized");
        assert_eq!(play.control().group(GROUP).expect("a group").members.len(), 2);
        handle.stop();
        result.await.expect("it ends").expect("in order");
        assert_eq!(told(&play, "first:").last().map(String::as_str), Some("shutdown"));
        other.stop();
        other_result.await.expect("it ends").expect("in order");
        assert_eq!(play.diary.count("error.occurred"), 0);
    });
}
