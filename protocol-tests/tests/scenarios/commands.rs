//! A running application is told what to do, from outside of its handlers and from within.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use carafe::app::{CommandError, ListenerState, LongestFirst, ServerHandle, ServerState};
use carafe::prelude::*;
use carafe::types::{Offset, TopicPartition};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::stage::{Stage, eventually};

scenarios!(
    a_partition_is_paused_and_resumed_from_outside,
    a_seek_from_outside_reads_again_and_commits_what_follows,
    a_quiet_application_keeps_its_membership_and_goes_on,
    a_durable_mark_is_committed_when_it_returns,
    a_handler_pauses_and_another_task_resumes,
    topics_and_groups_come_and_go,
    a_group_is_left_and_joined_again_by_command,
    a_snapshot_shows_what_waits_for_a_worker,
);

/// Nobody waits for what handlers write.
fn ended() -> HandlerError {
    "the test ended".into()
}

/// A long time, in which nothing happens.
const NOTHING: Duration = Duration::from_millis(300);

struct Running {
    handle: ServerHandle,
    task: JoinHandle<carafe::Result<()>>,
    handled: mpsc::UnboundedReceiver<(String, i64)>,
}

/// Writes down what it handles.
fn writes(calls: &mpsc::UnboundedSender<(String, i64)>, routes: &mut carafe::app::Routes, topic: &str) {
    let calls = calls.clone();
    routes.topic(topic.to_owned()).handler(move |message: Message<Raw>, ctx: Context| {
        let calls = calls.clone();
        async move {
            let entry = (ctx.partition().topic.to_string(), message.offset().0);
            calls.send(entry).map_err(|_| ended())
        }
    });
}

impl Running {
    async fn start(app: App, handled: mpsc::UnboundedReceiver<(String, i64)>) -> Self {
        let server = app.build().await.expect("right settings");
        Self { handle: server.handle(), task: tokio::spawn(server.run()), handled }
    }

    async fn writing(stage: &Stage, group: &str, topic: &str) -> Self {
        let (calls, handled) = mpsc::unbounded_channel();
        let app = App::new(group).client(stage.client.clone()).routes(|routes| writes(&calls, routes, topic));
        Self::start(app, handled).await
    }

    async fn offsets(&mut self, count: usize) -> Vec<i64> {
        let mut offsets = Vec::new();
        while offsets.len() < count {
            let entry = timeout(Duration::from_secs(20), self.handled.recv()).await;
            offsets.push(entry.expect("in time").expect("handlers live").1);
        }
        offsets
    }

    async fn nothing(&mut self) {
        sleep(NOTHING).await;
        assert!(self.handled.try_recv().is_err(), "nothing is handled");
    }

    async fn stop(self) {
        self.handle.stop();
        let ended = timeout(Duration::from_secs(20), self.task).await;
        ended.expect("stopped in time").expect("no panic").expect("stopped in order");
    }
}

async fn a_partition_is_paused_and_resumed_from_outside(stage: Stage) {
    let (topic, group) = (stage.topic("pause", 1).await, stage.name("pause"));
    let partition = TopicPartition::new(topic.as_str(), 0);
    stage.fill(&topic, 0, 2).await;
    let mut app = Running::writing(&stage, &group, &topic).await;
    assert_eq!(app.offsets(2).await, [0, 1]);
    app.handle.pause(group.as_str(), &partition, Duration::MAX).await.expect("it is assigned");
    stage.fill(&topic, 0, 2).await;
    app.nothing().await;
    app.handle.resume(group.as_str(), &partition).await.expect("it is assigned");
    assert_eq!(app.offsets(2).await, [2, 3]);
    // Its time ends a pause too.
    app.handle.pause(group.as_str(), &partition, NOTHING).await.expect("it is assigned");
    stage.fill(&topic, 0, 1).await;
    assert_eq!(app.offsets(1).await, [4]);

    let other = TopicPartition::new(topic.as_str(), 5);
    let refused = app.handle.resume(group.as_str(), &other).await;
    assert!(matches!(refused, Err(CommandError::NotAssigned(_))), "{refused:?}");
    let refused = app.handle.resume(group.as_str(), &TopicPartition::new("other", 0)).await;
    assert!(matches!(refused, Err(CommandError::UnknownTopic(_))), "{refused:?}");
    let refused = app.handle.resume("other", &partition).await;
    assert!(matches!(refused, Err(CommandError::UnknownGroup(_))), "{refused:?}");
    let handle = app.handle.clone();
    app.stop().await;
    let refused = handle.resume(group.as_str(), &partition).await;
    assert!(matches!(refused, Err(CommandError::Stopping)), "{refused:?}");
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(5));
}

async fn a_seek_from_outside_reads_again_and_commits_what_follows(stage: Stage) {
    let (topic, group) = (stage.topic("seek", 1).await, stage.name("seek"));
    let partition = TopicPartition::new(topic.as_str(), 0);
    stage.fill(&topic, 0, 5).await;
    let mut app = Running::writing(&stage, &group, &topic).await;
    assert_eq!(app.offsets(5).await, [0, 1, 2, 3, 4]);
    app.handle.seek(group.as_str(), &partition, Offset(3)).await.expect("it is assigned");
    assert_eq!(app.offsets(2).await, [3, 4]);
    let refused = app.handle.seek(group.as_str(), &partition, Offset(-1)).await;
    assert!(matches!(refused, Err(CommandError::Failed(_))), "{refused:?}");
    eventually("the marks of the last records are there", async || {
        app.handle.commit(group.as_str(), &partition).await.expect("committed") == Some(Offset(5))
    })
    .await;
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(5));
    app.stop().await;
}

async fn a_quiet_application_keeps_its_membership_and_goes_on(stage: Stage) {
    let (topic, group) = (stage.topic("quiet", 1).await, stage.name("quiet"));
    stage.fill(&topic, 0, 1).await;
    let mut app = Running::writing(&stage, &group, &topic).await;
    assert_eq!(app.offsets(1).await, [0]);
    app.handle.quiet().await.expect("it runs");
    stage.fill(&topic, 0, 3).await;
    app.nothing().await;
    let snapshot = app.handle.snapshot().await;
    assert_eq!((snapshot.state, snapshot.listeners[0].state), (ServerState::Running, ListenerState::Quiet));
    let described = stage.client.admin().describe_groups([group.clone()]).await;
    let described = described.into_values().next().expect("named").expect("described");
    assert_eq!(described.members.len(), 1, "it is a member still");
    app.handle.unquiet().await.expect("it runs");
    assert_eq!(app.offsets(3).await, [1, 2, 3]);
    app.stop().await;
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(4));
}

async fn a_durable_mark_is_committed_when_it_returns(stage: Stage) {
    let (topic, out, group) =
        (stage.topic("durable", 1).await, stage.topic("out", 1).await, stage.name("durable"));
    stage.fill(&topic, 0, 3).await;
    let (calls, mut called) = mpsc::unbounded_channel();
    let app = App::new(&group).client(stage.client.clone()).routes(|routes| {
        routes.topic(topic.clone()).handler(move |message: Message<Raw>, ctx: Context| {
            let (calls, out) = (calls.clone(), out.clone());
            async move {
                ctx.producer().enqueue(Record::to(&out).value("before")).await?;
                let committed = ctx.mark_and_commit(&message).await?;
                calls.send(committed).map_err(|_| ended())?;
                if message.offset().0 == 1 { std::future::pending().await } else { Ok(()) }
            }
        });
    });
    let server = app.build().await.expect("right settings");
    let (handle, task) = (server.handle(), tokio::spawn(server.run()));
    for offset in [1, 2] {
        let committed = timeout(Duration::from_secs(20), called.recv()).await.expect("in time");
        assert_eq!(committed, Some(Some(Offset(offset))));
        // The handler goes on meanwhile.
        assert!(stage.committed(&group, &topic, 0).await >= Some(offset));
    }
    handle.stop_now();
    let _ = timeout(Duration::from_secs(20), task).await.expect("ended in time").expect("no panic");
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(2));
}

async fn a_handler_pauses_and_another_task_resumes(stage: Stage) {
    let (topic, group) = (stage.topic("resume", 1).await, stage.name("resume"));
    stage.fill(&topic, 0, 2).await;
    let (calls, handled) = mpsc::unbounded_channel();
    let contexts = Arc::new(Mutex::new(Vec::new()));
    let kept = contexts.clone();
    let app = App::new(&group).client(stage.client.clone()).routes(|routes| {
        routes.topic(topic.clone()).handler(move |message: Message<Raw>, ctx: Context| {
            let (calls, kept) = (calls.clone(), kept.clone());
            async move {
                let offset = message.offset().0;
                if offset == 0 {
                    ctx.pause(Duration::MAX);
                }
                kept.lock().expect("no panic").push(ctx.clone());
                calls.send((String::new(), offset)).map_err(|_| ended())
            }
        });
    });
    let mut app = Running::start(app, handled).await;
    assert_eq!(app.offsets(1).await, [0]);
    app.nothing().await;
    contexts.lock().expect("no panic")[0].resume();
    assert_eq!(app.offsets(1).await, [1]);
    app.stop().await;
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(2));
}

async fn topics_and_groups_come_and_go(stage: Stage) {
    let (one, two, three) =
        (stage.topic("one", 1).await, stage.topic("two", 1).await, stage.topic("three", 1).await);
    let (group, other) = (stage.name("main"), stage.name("other"));
    for topic in [&one, &two, &three] {
        stage.fill(topic, 0, 1).await;
    }
    let (calls, handled) = mpsc::unbounded_channel();
    let app = App::new(&group).client(stage.client.clone()).routes(|routes| writes(&calls, routes, &one));
    let mut app = Running::start(app, handled).await;
    assert_eq!(app.offsets(1).await, [0]);
    let twice = app.handle.add_routes(|routes| writes(&calls, routes, &one)).await;
    assert!(
        matches!(&twice, Err(CommandError::Failed(error)) if error.kind() == ErrorKind::Config),
        "{twice:?}"
    );
    let without_consumer = |routes: &mut carafe::app::Routes| {
        routes.topic(two.clone());
    };
    let empty = app.handle.add_routes(without_consumer).await;
    assert!(
        matches!(&empty, Err(CommandError::Failed(error)) if error.kind() == ErrorKind::Config),
        "{empty:?}"
    );

    app.handle.add_routes(|routes| writes(&calls, routes, &two)).await.expect("added");
    assert_eq!(app.offsets(1).await, [0]);
    let (to, topic) = (calls.clone(), three.clone());
    let define = move |group: &mut carafe::app::GroupRoute| {
        group.topic(topic).handler(move |message: Message<Raw>, _: Context| {
            let to = to.clone();
            async move {
                let entry = ("three".to_owned(), message.offset().0);
                to.send(entry).map_err(|_| ended())
            }
        });
    };
    let another = |routes: &mut carafe::app::Routes| {
        routes.group(other.as_str(), define);
    };
    app.handle.add_routes(another).await.expect("added");
    assert_eq!(app.offsets(1).await, [0]);
    assert_eq!(app.handle.groups().len(), 2);

    app.handle.drop_topic(group.as_str(), two.as_str()).await.expect("dropped");
    app.handle.drop_group(other.as_str()).await.expect("left");
    assert_eq!(stage.committed(&other, &three, 0).await, Some(1), "what was done is committed");
    let gone = app.handle.drop_group(other.as_str()).await;
    assert!(matches!(gone, Err(CommandError::UnknownGroup(_))), "{gone:?}");
    eventually("the topic is given back", async || {
        let listener = app.handle.snapshot().await.listeners.remove(0);
        listener.topics.len() == 1 && listener.partitions.len() == 1
    })
    .await;
    stage.fill(&two, 0, 1).await;
    stage.fill(&three, 0, 1).await;
    app.nothing().await;
    // It comes back where it was left.
    app.handle.add_routes(|routes| writes(&calls, routes, &two)).await.expect("added again");
    assert_eq!(app.offsets(1).await, [1]);
    app.stop().await;
    assert_eq!(stage.committed(&group, &two, 0).await, Some(2));
}

async fn a_group_is_left_and_joined_again_by_command(stage: Stage) {
    let (topic, group) = (stage.topic("again", 1).await, stage.name("again"));
    stage.fill(&topic, 0, 1).await;
    let mut app = Running::writing(&stage, &group, &topic).await;
    assert_eq!(app.offsets(1).await, [0]);
    app.handle.restart(group.as_str()).await.expect("restarted");
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(1), "left in order");
    stage.fill(&topic, 0, 1).await;
    assert_eq!(app.offsets(1).await, [1]);
    let snapshot = app.handle.snapshot().await;
    assert_eq!((snapshot.listeners[0].restarts, &snapshot.listeners[0].failure), (1, &None));
    // A quiet group is quiet in its next life.
    app.handle.quiet().await.expect("it runs");
    app.handle.restart(group.as_str()).await.expect("restarted");
    stage.fill(&topic, 0, 1).await;
    eventually("it is joined", async || !app.handle.snapshot().await.listeners[0].partitions.is_empty())
        .await;
    app.nothing().await;
    app.handle.unquiet().await.expect("it runs");
    assert_eq!(app.offsets(1).await, [2]);
    let unknown = app.handle.restart("nobody").await;
    assert!(matches!(unknown, Err(CommandError::UnknownGroup(_))), "{unknown:?}");
    app.stop().await;
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(3));
}

async fn a_snapshot_shows_what_waits_for_a_worker(stage: Stage) {
    let (topic, group) = (stage.topic("workers", 3).await, stage.name("workers"));
    for partition in 0..3 {
        stage.fill(&topic, partition, 1).await;
    }
    let go_on = Arc::new(tokio::sync::Semaphore::new(0));
    let waits = go_on.clone();
    let app = App::new(&group).client(stage.client.clone()).concurrency(1).scheduler(LongestFirst);
    let app = app.routes(|routes| {
        routes.topic(topic.clone()).handler(move |_: Message<Raw>, _: Context| {
            let waits = waits.clone();
            async move {
                waits.acquire().await.expect("open").forget();
                Ok(())
            }
        });
    });
    let server = app.build().await.expect("right settings");
    let handle = server.handle();
    let refused = handle.pause(group.as_str(), &TopicPartition::new(topic.as_str(), 0), NOTHING).await;
    assert!(matches!(refused, Err(CommandError::NotRunning(_))), "{refused:?}");
    assert_eq!(handle.snapshot().await.state, ServerState::Built);
    let task = tokio::spawn(server.run());
    eventually("one runs and two wait", async || {
        let workers = handle.snapshot().await.workers;
        (workers.size, workers.busy, workers.waiting) == (1, 1, 2)
    })
    .await;
    let snapshot = handle.snapshot().await;
    let jobs: Vec<_> =
        snapshot.listeners[0].partitions.iter().flat_map(|partition| &partition.jobs).collect();
    assert_eq!((jobs.len(), jobs.iter().filter(|job| job.running.is_some()).count()), (3, 1));
    handle.scale(3);
    eventually("all run", async || handle.snapshot().await.workers.busy == 3).await;
    go_on.add_permits(3);
    eventually("all is done", async || handle.snapshot().await.workers.busy == 0).await;
    handle.stop();
    timeout(Duration::from_secs(20), task).await.expect("in time").expect("no panic").expect("in order");
    let snapshot = handle.snapshot().await;
    assert_eq!(
        (snapshot.state, snapshot.workers.begun, snapshot.workers.waited),
        (ServerState::Stopped, 3, 2)
    );
}
