//! Listeners without a broker: a script yields what a group would, and writes down what it is told.

use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::app::command::{Act, CommandError, Reply, ask};
use crate::app::plan::Plan;
use crate::app::routing::Routes;
use crate::app::settings::Wishes;
use crate::app::snapshot::{ListenerSnapshot, ListenerState, PauseCause};
use crate::app::source::script::Script;
use crate::app::{Context, Message, Raw, TopicRoute};
use crate::deadline;
use crate::runtime::sim::SimRuntime;
use crate::types::Offset;

const SECOND: Duration = Duration::from_secs(1);

type Handled = Arc<Mutex<Vec<i64>>>;

/// A listener of topic `t`, whose handler writes offsets down; it takes a second for each record.
struct Stand {
    script: Script,
    events: mpsc::UnboundedSender<Result<SourceEvent>>,
    commands: Commands,
    stop: Stop,
    end: JoinHandle<End>,
    handled: Handled,
    plan: Plan,
}

fn tp() -> TopicPartition {
    TopicPartition::new("t", 0)
}

impl Stand {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(set: impl FnOnce(&mut TopicRoute)) -> Self {
        let handled = Handled::default();
        let calls = handled.clone();
        let mut routes = Routes::new(GroupId::from("g"));
        let route = routes.topic("t");
        set(route);
        route.handler(move |message: Message<Raw>, _: Context| {
            let calls = calls.clone();
            async move {
                calls.lock().unwrap_or_else(PoisonError::into_inner).push(message.offset().0);
                sleep(SECOND).await;
                Ok(())
            }
        });
        let settings = Wishes::default().settle("app", &[]).settings;
        let plan = Plan::new(routes.groups.remove(0), &settings);
        // Nobody is there, and nobody is asked.
        let sim: Arc<dyn Runtime> = SimRuntime::new(1);
        let client = Client::builder().bootstrap_servers("nowhere:9092").runtime(sim).build().await.unwrap();
        let producer = client.producer().build().unwrap();
        let monitor = Monitor::new(Vec::new());
        let (workers, health) = (Workers::new(1, None), Health::new());
        let shared = Shared { client, producer, workers, health, settings, monitor };
        let (script, events) = Script::new();
        let (source, stop) = (Source::Script(script.clone()), Stop::new(5 * SECOND));
        let parts = Parts {
            group: plan.group.clone(),
            source,
            routes: plan.routes.subscribe(),
            stop: stop.clone(),
            trouble: None,
        };
        let listener = GroupListener::new(parts, shared);
        let commands = listener.commands();
        let end = tokio::spawn(listener.run());
        Self { script, events, commands, stop, end, handled, plan }
    }

    fn event(&self, event: SourceEvent) {
        assert!(self.events.send(Ok(event)).is_ok());
    }

    fn assign(&self) {
        self.event(SourceEvent::Assigned(vec![tp()]));
    }

    /// So many records from there on.
    fn batch(&self, first: i64, records: usize) {
        let records = vec![(None::<&[u8]>, Some(&b"v"[..])); records];
        self.event(SourceEvent::Batch(RecordBatch::for_test(tp(), first, &records)));
    }

    fn handled(&self) -> Vec<i64> {
        std::mem::take(&mut self.handled.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn act(&self, act: Act) -> Result<(), CommandError> {
        ask(&self.commands, |reply| Command::Act { partition: tp(), act, reply }).await
    }

    async fn pause(&self, time: Duration) {
        self.act(Act::Pause(deadline::after(Instant::now(), time))).await.expect("it is assigned");
    }

    async fn quiet(&self, on: bool) {
        ask(&self.commands, |reply| Command::Quiet { on, reply }).await.expect("it runs");
    }

    async fn snapshot(&self) -> ListenerSnapshot {
        ask(&self.commands, Command::Snapshot).await.expect("it runs")
    }

    async fn commit(&self) -> Result<Option<Offset>, CommandError> {
        ask(&self.commands, |reply| Command::Commit { partition: tp(), reply }).await
    }

    async fn stop(self) -> End {
        self.stop.begin();
        self.end.await.expect("no panic")
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_handled_is_marked_and_the_next_batch_may_come() {
    let stand = Stand::new().await;
    stand.assign();
    stand.batch(10, 2);
    sleep(5 * SECOND).await;
    assert_eq!(stand.handled(), [10, 11]);
    assert_eq!(stand.script.told(), ["store t[0] 11", "store t[0] 12", "release t[0]"]);
    let script = stand.script.clone();
    let end = stand.stop().await;
    assert!(end.failure.is_none() && end.errors.is_empty() && end.joined);
    assert_eq!(script.told(), ["close"]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_acts_between_two_messages_and_ends_by_itself_or_by_command() {
    let stand = Stand::new().await;
    stand.assign();
    stand.batch(0, 3);
    sleep(SECOND / 2).await;
    stand.pause(10 * SECOND).await;
    sleep(9 * SECOND).await;
    assert_eq!(stand.handled(), [0]);
    let pause = stand.snapshot().await.partitions.remove(0).pause.expect("it is paused");
    assert_eq!((pause.cause, pause.left), (PauseCause::Command, SECOND));
    sleep(SECOND + SECOND / 2).await;
    assert_eq!(stand.handled(), [1]);
    stand.pause(Duration::MAX).await;
    sleep(1000 * SECOND).await;
    assert_eq!(stand.handled(), [0; 0]);
    stand.act(Act::Resume).await.expect("it is assigned");
    sleep(SECOND / 2).await;
    assert_eq!(stand.handled(), [2]);
    sleep(SECOND).await;
    assert_eq!(stand.script.told().last().map(String::as_str), Some("release t[0]"));
    // Of a partition without a batch too.
    stand.pause(Duration::MAX).await;
    stand.batch(3, 1);
    sleep(10 * SECOND).await;
    assert_eq!(stand.handled(), [0; 0]);
    stand.stop().await;
}

/// What was handled is not marked, and still not handled again.
#[tokio::test(start_paused = true)]
async fn a_pause_repeats_nothing_with_manual_marks() {
    let manual = |route: &mut TopicRoute| {
        route.manual_offset_management();
    };
    let stand = Stand::with(manual).await;
    stand.assign();
    stand.batch(0, 3);
    sleep(SECOND + SECOND / 2).await;
    stand.pause(5 * SECOND).await;
    sleep(20 * SECOND).await;
    assert_eq!(stand.handled(), [0, 1, 2]);
    assert_eq!(stand.script.told(), ["release t[0]"]);
    stand.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_seek_acts_at_once_or_when_the_running_message_is_done() {
    let stand = Stand::new().await;
    stand.assign();
    sleep(SECOND).await;
    stand.act(Act::Seek(Offset(7))).await.expect("it is assigned");
    assert_eq!(stand.script.told(), ["seek t[0] 7"]);
    stand.batch(7, 3);
    sleep(SECOND / 2).await;
    stand.act(Act::Seek(Offset(100))).await.expect("it is assigned");
    sleep(5 * SECOND).await;
    assert_eq!(stand.handled(), [7]);
    assert_eq!(stand.script.told(), ["store t[0] 8", "seek t[0] 100", "release t[0]"]);
    stand.stop().await;
}

#[tokio::test(start_paused = true)]
async fn quiet_begins_nothing_until_it_ends() {
    let stand = Stand::new().await;
    stand.quiet(true).await;
    stand.assign();
    stand.batch(0, 2);
    sleep(100 * SECOND).await;
    assert_eq!(stand.handled(), [0; 0]);
    let snapshot = stand.snapshot().await;
    assert_eq!((snapshot.state, snapshot.partitions[0].held), (ListenerState::Quiet, 2));
    stand.quiet(false).await;
    sleep(SECOND / 2).await;
    let snapshot = stand.snapshot().await;
    assert_eq!((snapshot.state, snapshot.partitions[0].jobs.len()), (ListenerState::Running, 1));
    assert_eq!(snapshot.partitions[0].jobs[0].running, Some(SECOND / 2));
    // What runs stops before the next message, and goes on there.
    stand.quiet(true).await;
    sleep(100 * SECOND).await;
    assert_eq!(stand.handled(), [0]);
    stand.quiet(false).await;
    sleep(SECOND / 2).await;
    assert_eq!(stand.handled(), [1]);
    stand.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_commit_takes_the_marks_of_a_handler_that_runs() {
    let stand = Stand::new().await;
    stand.assign();
    sleep(SECOND).await;
    assert_eq!(stand.commit().await.expect("it is assigned"), None);
    stand.batch(0, 5);
    sleep(SECOND + SECOND / 2).await;
    stand.script.told();
    assert_eq!(stand.commit().await.expect("it is assigned"), Some(Offset(1)));
    assert_eq!(stand.script.told().last().map(String::as_str), Some("commit t[0] 1"));
    stand.stop().await;
}

#[tokio::test(start_paused = true)]
async fn commands_that_come_to_nothing_say_why() {
    let stand = Stand::new().await;
    assert!(matches!(stand.act(Act::Resume).await, Err(CommandError::NotAssigned(_))));
    assert!(matches!(stand.commit().await, Err(CommandError::NotAssigned(_))));
    let partition = TopicPartition::new("other", 0);
    let act = |reply: Reply<()>| Command::Act { partition, act: Act::Resume, reply };
    assert!(matches!(ask(&stand.commands, act).await, Err(CommandError::UnknownTopic(_))));
    stand.assign();
    stand.batch(0, 1);
    sleep(SECOND / 2).await;
    stand.stop.begin();
    sleep(SECOND / 4).await;
    assert!(matches!(stand.act(Act::Resume).await, Err(CommandError::Stopping)));
    let commands = stand.commands.clone();
    stand.stop().await;
    let quiet = |reply: Reply<()>| Command::Quiet { on: true, reply };
    assert!(matches!(ask(&commands, quiet).await, Err(CommandError::Stopping)));
}

#[tokio::test(start_paused = true)]
async fn topics_come_and_go_and_what_comes_of_a_former_one_is_handled() {
    let stand = Stand::new().await;
    stand.assign();
    let routes = stand.plan.routes.borrow().clone();
    assert!(stand.plan.remove(&TopicName::from("t")));
    assert!(stand.commands.send(Command::Subscribe).is_ok());
    stand.batch(0, 1);
    sleep(2 * SECOND).await;
    assert_eq!(stand.script.told(), ["subscribe ", "store t[0] 1", "release t[0]"]);
    let (revocation, done) = Revocation::new(vec![tp()], Instant::now() + 60 * SECOND);
    stand.event(SourceEvent::Revoked(revocation));
    done.await.expect("it is given back");
    assert!(stand.snapshot().await.partitions.is_empty());
    stand.plan.routes.send_replace(routes);
    assert!(stand.commands.send(Command::Subscribe).is_ok());
    sleep(SECOND).await;
    assert_eq!(stand.script.told(), ["subscribe t"]);
    stand.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_ends_the_listener_in_order() {
    let stand = Stand::new().await;
    stand.assign();
    stand.batch(0, 1);
    sleep(SECOND / 2).await;
    let (script, handled) = (stand.script.clone(), stand.handled.clone());
    assert!(stand.events.send(Err(Error::new(ErrorKind::Fenced, "somebody else"))).is_ok());
    let end = stand.end.await.expect("no panic");
    assert_eq!(end.failure.map(|error| error.kind()), Some(ErrorKind::Fenced));
    assert!(end.errors.is_empty() && end.joined);
    assert_eq!(script.told(), ["store t[0] 1", "close"]);
    assert_eq!(handled.lock().unwrap_or_else(PoisonError::into_inner).len(), 1);
}

/// A batch of the next assignment waits for the handlers of the former one.
#[tokio::test(start_paused = true)]
async fn a_partition_that_comes_back_waits_for_its_former_handler() {
    let stand = Stand::new().await;
    stand.assign();
    stand.batch(0, 1);
    sleep(SECOND / 4).await;
    stand.event(SourceEvent::Lost(vec![tp()]));
    stand.assign();
    stand.batch(0, 1);
    sleep(SECOND / 4).await;
    assert_eq!(stand.handled(), [0]);
    assert!(matches!(stand.act(Act::Resume).await, Err(CommandError::NotAssigned(_))));
    sleep(SECOND).await;
    assert_eq!(stand.handled(), [0]);
    stand.stop().await;
}
