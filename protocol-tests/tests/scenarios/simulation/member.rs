//! A member of the application: it lives, stops or dies, and comes again.

use std::sync::Arc;
use std::time::Duration;

use carafe::consumer;
use carafe::prelude::*;
use carafe::producer::{Producer, ProducerConfig};
use carafe::runtime::watch;
use protocol_tests::sim::World;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::{DEAD, Diary, Flaw, GROUP, INPUT, OUTPUT, Plan, is_poison, is_shaky};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Things break, members come and go.
    Faults,
    /// Whoever lives stays.
    Calm,
    /// Everybody stops.
    Done,
}

pub(super) struct Member {
    pub(super) index: u8,
    pub(super) world: World,
    pub(super) servers: String,
    pub(super) plan: Plan,
    pub(super) diary: Arc<Diary>,
    pub(super) stages: watch::Receiver<Stage>,
}

impl Member {
    pub(super) async fn live(self, mut dice: fastrand::Rng) {
        let reached = async |stages: &mut watch::Receiver<Stage>, stage: Stage| {
            let _ = stages.wait_for(|now| *now >= stage).await;
        };
        while *self.stages.borrow() < Stage::Done {
            let pause = Duration::from_millis(dice.u64(..4000));
            let mut stages = self.stages.clone();
            tokio::select! {
                biased; // it ends once
                () = reached(&mut stages, Stage::Done) => return,
                () = sleep(pause) => {}
            }
            let address = [10, 0, 0, 10 + self.index];
            let builder = Client::builder().bootstrap_servers(self.servers.as_str());
            let builder =
                builder.client_id(format!("member-{}", self.index)).runtime(self.world.host(address));
            let client = builder.build().await.expect("right settings");
            let server = self.app(client).build().await.expect("right settings");
            let handle = server.handle();
            let (result_to, mut result) = oneshot::channel();
            let task = self.world.runtime().spawn(
                "application",
                Box::pin(async move {
                    let _ = result_to.send(server.run().await);
                }),
            );
            let life = Duration::from_millis(dice.u64(2000..30_000));
            tokio::select! {
                biased; // each of them ends it
                _ = &mut result => continue,
                () = reached(&mut stages, Stage::Calm) => {
                    reached(&mut stages, Stage::Done).await;
                    // Whoever was refused joins again.
                    let heals = async {
                        while !handle.is_live() {
                            sleep(Duration::from_secs(1)).await;
                        }
                    };
                    timeout(Duration::from_secs(100), heals).await.expect("it heals in time");
                    handle.stop();
                    let result = timeout(Duration::from_secs(100), result).await;
                    result.expect("it stops in time").expect("no panic").expect("it stops in order");
                    return;
                }
                () = sleep(life) => {}
            }
            if dice.bool() {
                handle.stop();
                // In the middle of faults the groups may not be left in time.
                let _ = result.await;
            } else {
                task.abort();
            }
        }
    }

    fn app(&self, client: Client) -> App {
        let (diary, plan) = (self.diary.clone(), self.plan.clone());
        let aside = (plan.flaw == Flaw::OutputAside).then(|| {
            client
                .producer()
                .config(ProducerConfig::new().linger(Duration::from_secs(3)))
                .build()
                .expect("right settings")
        });
        let runtime = client.runtime();
        App::new(GROUP).client(client).concurrency(4).routes(|routes| {
            let route = routes.topic(INPUT);
            route.retry(Retry::exponential(Duration::from_millis(5), Duration::from_millis(500)));
            route.dead_letter_queue(DeadLetter::to(DEAD).max_retries(2));
            if plan.lanes {
                route.virtual_partitions(by_key());
            }
            let handle = Handle { diary, flaw: plan.flaw, aside, runtime };
            if plan.manual {
                route.dead_letter_queue(DeadLetter::to(DEAD).max_retries(2).mark_after_dispatch(true));
                route.manual_offset_management();
                route.batch_handler(move |batch: Batch<Raw>, ctx: Context| {
                    let handle = handle.clone();
                    async move { handle.batch(&batch, &ctx).await }
                });
            } else {
                route.handler(move |message: Message<Raw>, ctx: Context| {
                    let handle = handle.clone();
                    async move { handle.message(&message, &ctx).await }
                });
            }
        })
    }
}

/// What the handlers do.
#[derive(Clone)]
struct Handle {
    diary: Arc<Diary>,
    flaw: Flaw,
    aside: Option<Producer>,
    runtime: Arc<dyn carafe::runtime::Runtime>,
}

impl Handle {
    async fn batch(&self, batch: &Batch<Raw>, ctx: &Context) -> HandlerResult {
        for message in batch.messages() {
            if self.flaw == Flaw::MarksEarly {
                ctx.mark_as_consumed(message.offset())?;
            }
            self.message(&message, ctx).await?;
            ctx.mark_as_consumed(message.offset())?;
        }
        Ok(())
    }

    async fn message(&self, message: &consumer::OwnedRecord, ctx: &Context) -> HandlerResult {
        let text = std::str::from_utf8(message.value().unwrap_or_default()).unwrap_or_default();
        let fail = |why: &str| Err(format!("{text} fails: {why}").into());
        let Ok(number) = text.parse::<u64>() else { return fail("it is no number") };
        match self.runtime.random() % 16 {
            0 => sleep(Duration::from_millis(self.runtime.random() % 2000)).await,
            1..5 => sleep(Duration::from_millis(self.runtime.random() % 20)).await,
            _ => {}
        }
        if is_poison(number) {
            return fail("poison");
        }
        if is_shaky(number) && !ctx.is_retrying() {
            return fail("the first attempt");
        }
        let output = {
            let mut entries = self.diary.open();
            entries.outputs += 1;
            entries.outputs
        };
        let value = output.to_string();
        let record = || Record::to(OUTPUT).key(text).value(&value);
        match &self.aside {
            Some(producer) => drop(producer.enqueue(record()).await?),
            None => ctx.producer().enqueue(record()).await?,
        }
        if self.flaw == Flaw::OutputTwice {
            ctx.producer().enqueue(record()).await?;
        }
        let place = (message.partition().0, message.offset().0, output);
        self.diary.open().handled.push(place);
        Ok(())
    }
}
