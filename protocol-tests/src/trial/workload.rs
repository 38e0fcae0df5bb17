//! The producer and the members.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use carafe::Client;
use carafe::admin::NewTopic;
use carafe::app::ServerHandle;
use carafe::client::{ConditionKind, Subject};
use carafe::prelude::*;
use carafe::producer::{Outcome, Producer, Receipt};
use carafe::types::TopicPartition;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::diary::{Diary, Handled, Sent, Stop, What};
use crate::kafka::RunningNode;

pub(super) const STEADY: &str = "trial-steady";
pub(super) const VOLATILE: &str = "trial-volatile";
pub(super) const FORBIDDEN: &str = "trial-forbidden";
pub(super) const GROUP: &str = "trial";
const PARTITIONS: i32 = 6;
/// Keys of the steady topic; records of one key have an order.
pub(super) const KEYS: u64 = 24;
const MEMBERS: usize = 2;
pub(super) const SHUTDOWN: Duration = Duration::from_secs(25);
const LOOK: Duration = Duration::from_secs(1);

type Members = Arc<Mutex<Vec<Option<Member>>>>;

struct Member {
    id: u32,
    handle: ServerHandle,
    run: JoinHandle<carafe::Result<()>>,
}

/// All that runs.
pub(super) struct Workload {
    bootstrap: String,
    client: Client,
    diary: Arc<Diary>,
    members: Members,
    ids: Arc<AtomicU32>,
    producing: Arc<AtomicBool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Workload {
    /// Creates the topics and begins to produce and to watch the commits.
    pub(super) async fn start(nodes: &[RunningNode], rate: u32, diary: Arc<Diary>) -> carafe::Result<Self> {
        let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let bootstrap = addresses.join(",");
        let client =
            Client::builder().client_id("trial").bootstrap_servers(bootstrap.as_str()).build().await?;
        let topics = [
            NewTopic::new(STEADY).partitions(PARTITIONS),
            NewTopic::new(VOLATILE).partitions(4),
            NewTopic::new(FORBIDDEN).partitions(1),
        ];
        for (topic, result) in client.admin().create_topics(topics).await? {
            result.map_err(|error| error.with_advice(format!("{topic}: the trial wants a fresh cluster")))?;
        }
        let producing = Arc::new(AtomicBool::new(true));
        let workload = Self {
            bootstrap,
            client: client.clone(),
            diary: Arc::clone(&diary),
            members: Arc::new(Mutex::new((0..MEMBERS).map(|_| None).collect())),
            ids: Arc::default(),
            producing: Arc::clone(&producing),
            tasks: Mutex::default(),
        };
        let producer = client.producer().build()?;
        let produce = tokio::spawn(produce(producer, rate, Arc::clone(&diary), Arc::clone(&producing)));
        let watch = tokio::spawn(watch_commits(client, diary, producing));
        workload.tasks().extend([produce, watch]);
        Ok(workload)
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) async fn start_members(&self) -> carafe::Result<()> {
        for slot in 0..MEMBERS {
            let member = start_member(&self.bootstrap, &self.ids, &self.diary).await?;
            lock(&self.members)[slot] = Some(member);
        }
        Ok(())
    }

    /// Stops one member after the other and starts another in its place, until `end`.
    pub(super) fn replace_members(
        &self,
        mut dice: fastrand::Rng,
        end: Instant,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (members, diary, ids) =
            (Arc::clone(&self.members), Arc::clone(&self.diary), Arc::clone(&self.ids));
        let bootstrap = self.bootstrap.clone();
        async move {
            for slot in (0..MEMBERS).cycle() {
                sleep(Duration::from_secs(dice.u64(30..90))).await;
                if Instant::now() + SHUTDOWN > end {
                    return;
                }
                let member = lock(&members)[slot].take();
                if let Some(member) = member {
                    stop_member(member, &diary).await;
                }
                match start_member(&bootstrap, &ids, &diary).await {
                    Ok(member) => lock(&members)[slot] = Some(member),
                    Err(error) => eprintln!("error: a member does not start: {error}"),
                }
            }
        }
    }

    /// Stops producing; every receipt has resolved when this returns.
    pub(super) async fn stop_producing(&self) {
        self.producing.store(false, Ordering::Relaxed);
        let tasks = std::mem::take(&mut *self.tasks());
        for task in tasks {
            if let Err(error) = task.await {
                eprintln!("error: {error}");
            }
        }
    }

    pub(super) async fn stop_members(&self) {
        for slot in 0..MEMBERS {
            let member = lock(&self.members)[slot].take();
            if let Some(member) = member {
                stop_member(member, &self.diary).await;
            }
        }
    }
}

fn lock(members: &Members) -> std::sync::MutexGuard<'_, Vec<Option<Member>>> {
    members.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn produce(producer: Producer, rate: u32, diary: Arc<Diary>, producing: Arc<AtomicBool>) {
    let mut tick = interval(Duration::from_millis(10));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut number, mut due) = (0u64, 0.0);
    let mut receipts = Vec::new();
    while producing.load(Ordering::Relaxed) {
        tick.tick().await;
        due += f64::from(rate) / 100.0;
        while due >= 1.0 {
            due -= 1.0;
            number += 1;
            let (topic, key) =
                if number % 3 == 0 { (VOLATILE, None) } else { (STEADY, Some((number % KEYS).to_string())) };
            let text = number.to_string();
            let mut record = Record::to(topic).value(&text);
            if let Some(key) = &key {
                record = record.key(key);
            }
            match producer.enqueue(record).await {
                Ok(receipt) => {
                    receipts.push(tokio::spawn(note(receipt, topic, number, Arc::clone(&diary))));
                }
                Err(error) => diary.pages().sent.push(Sent {
                    topic,
                    number,
                    place: None,
                    outcome: error.outcome(),
                    error: carafe::error::Chain(&error).to_string(),
                }),
            }
        }
        receipts.retain(|receipt| !receipt.is_finished());
    }
    if let Err(error) = producer.close(Duration::from_secs(130)).await {
        println!("{}: closing the producer: {}", diary.clock(), carafe::error::Chain(&error));
    }
    for receipt in receipts {
        if let Err(error) = receipt.await {
            eprintln!("error: {error}");
        }
    }
}

async fn note(receipt: Receipt, topic: &'static str, number: u64, diary: Arc<Diary>) {
    let sent = match receipt.await {
        Ok(delivery) => Sent {
            topic,
            number,
            place: Some((
                TopicPartition { topic: delivery.topic, partition: delivery.partition },
                delivery.offset,
            )),
            outcome: Outcome::Written,
            error: String::new(),
        },
        Err(error) => Sent {
            topic,
            number,
            place: None,
            outcome: error.outcome(),
            error: carafe::error::Chain(&error).to_string(),
        },
    };
    diary.pages().sent.push(sent);
}

async fn watch_commits(client: Client, diary: Arc<Diary>, producing: Arc<AtomicBool>) {
    let admin = client.admin().with_timeout(Duration::from_secs(5));
    while producing.load(Ordering::Relaxed) {
        sleep(LOOK).await;
        let asked = diary.now();
        let Ok(offsets) = admin.group_offsets(GROUP).await else { continue };
        let steady = offsets.into_iter().filter(|(partition, _)| partition.topic.as_str() == STEADY);
        let steady = steady.filter_map(|(partition, offset)| Some((partition, offset.ok()?.offset.0)));
        diary.pages().committed.push((asked, steady.collect()));
    }
}

async fn start_member(bootstrap: &str, ids: &AtomicU32, diary: &Arc<Diary>) -> carafe::Result<Member> {
    let id = ids.fetch_add(1, Ordering::Relaxed) + 1;
    let client =
        Client::builder().client_id(format!("member-{id}")).bootstrap_servers(bootstrap).build().await?;
    let (told, seen) = (Arc::clone(diary), Arc::clone(diary));
    let from = diary.now();
    let server = App::new(GROUP)
        .client(client)
        .shutdown_timeout(SHUTDOWN)
        .listener(move |event: &Event<'_>| tell(&told, id, event))
        .routes(|routes| {
            for topic in [STEADY, VOLATILE, FORBIDDEN] {
                let seen = Arc::clone(&seen);
                routes.topic(topic).handler(move |message: Message<Text>, ctx: Context| {
                    let seen = Arc::clone(&seen);
                    async move {
                        let number = message.payload()?.parse().unwrap_or(0);
                        sleep(Duration::from_micros(number % 7 * 300)).await;
                        let handled = Handled {
                            member: id,
                            partition: ctx.partition().clone(),
                            offset: message.offset().0,
                            number,
                            at: seen.now(),
                        };
                        seen.pages().handled.push(handled);
                        Ok(())
                    }
                });
            }
        })
        .build()
        .await?;
    let handle = server.handle();
    diary.pages().begun.push((id, from));
    println!("{}: member {id} begins", diary.clock());
    let run = tokio::spawn(server.run());
    diary.happened(What::Rebalance, from);
    Ok(Member { id, handle, run })
}

fn tell(diary: &Diary, member: u32, event: &Event<'_>) {
    match event {
        Event::Lost { partitions, .. } => {
            println!("{}: member {member} lost {partitions:?}", diary.clock());
            diary.happened(What::Lost(member), diary.now());
        }
        Event::TopicRecreated { topic, old, new, .. } => {
            println!("{}: member {member} sees {topic} made anew, {old} -> {new}", diary.clock());
            diary.pages().recreations_told += 1;
        }
        Event::Condition { event, .. } => {
            let condition = &event.condition;
            println!(
                "{}: member {member}: {} {:?} {:?} for {:?}: {}",
                diary.clock(),
                condition.subject,
                condition.kind,
                event.stage,
                condition.lasted,
                carafe::error::Chain(&condition.error)
            );
            let forbidden = matches!(&condition.subject,
                Subject::Topic(topic) | Subject::Partition(TopicPartition { topic, .. }) if topic.as_str() == FORBIDDEN);
            if forbidden && condition.kind == ConditionKind::NotAuthorized {
                let now = diary.now();
                diary.pages().forbidden.push((member, now));
            }
        }
        Event::Error { context, partition, error, .. } => {
            println!(
                "{}: member {member}: {context} {partition:?}: {}",
                diary.clock(),
                carafe::error::Chain(*error)
            );
        }
        _ => {}
    }
}

async fn stop_member(member: Member, diary: &Diary) {
    let from = diary.now();
    member.handle.stop();
    let result = match member.run.await {
        Ok(Ok(())) => "ok".to_owned(),
        Ok(Err(error)) => {
            diary.happened(What::Lost(member.id), from);
            carafe::error::Chain(&error).to_string()
        }
        Err(error) => format!("panicked: {error}"),
    };
    let took = diary.now() - from;
    println!("{}: member {} stopped in {took:?}: {result}", diary.clock(), member.id);
    diary.happened(What::Rebalance, from);
    diary.pages().stops.push(Stop { member: member.id, took, result });
}
