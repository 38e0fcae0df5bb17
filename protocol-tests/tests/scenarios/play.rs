//! What plays on simulated time share: an embedded cluster, an application, and a diary of what happens in it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use carafe::app::{Routes, ServerHandle};
use carafe::broker::{Cluster, ClusterBuilder, Control};
use carafe::prelude::*;
use protocol_tests::sim::World;
use tokio::sync::oneshot;

pub(crate) const TOPIC: &str = "t";
pub(crate) const GROUP: &str = "group";

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// An embedded cluster with one topic, and a diary.
#[derive(Debug)]
pub(crate) struct Play {
    pub(crate) world: World,
    cluster: Cluster,
    pub(crate) diary: Diary,
}

/// What happened, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    pub(crate) fn write(&self, entry: impl Into<String>) {
        self.0.lock().expect("no panic").push(entry.into());
    }

    pub(crate) fn count(&self, entry: &str) -> usize {
        self.0.lock().expect("no panic").iter().filter(|written| *written == entry).count()
    }

    pub(crate) fn read(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }
}

impl Play {
    /// `partitions` partitions with one record in each.
    pub(crate) async fn begin(world: World, partitions: i32) -> Self {
        let play = Self::on(world, Cluster::builder().topic(TOPIC, partitions)).await;
        for partition in 0..partitions {
            play.write(TOPIC, partition, 1).await;
        }
        play
    }

    /// A cluster of one's own, without records.
    pub(crate) async fn on(world: World, builder: ClusterBuilder) -> Self {
        let cluster = builder.runtime(world.runtime()).start().await.expect("a cluster");
        Self { cluster, world, diary: Diary::default() }
    }

    /// Writes so many records to a partition.
    pub(crate) async fn write(&self, topic: &str, partition: i32, count: usize) {
        let producer = self.client("producer").await.producer().build().expect("right settings");
        let record = || Record::to(topic).partition(partition).value("x");
        let receipts =
            producer.enqueue_all(std::iter::repeat_with(record).take(count)).await.expect("enqueued");
        assert!(receipts.wait().await.is_empty());
    }

    pub(crate) async fn client(&self, id: &str) -> Client {
        let builder = Client::builder().bootstrap_servers(self.cluster.bootstrap_servers()).client_id(id);
        builder.runtime(self.world.runtime()).build().await.expect("right settings")
    }

    pub(crate) fn control(&self) -> Control {
        self.cluster.control()
    }

    pub(crate) fn committed(&self, partition: i32) -> Option<i64> {
        self.control().committed(GROUP).get(&(TOPIC.to_owned(), partition)).copied()
    }

    /// Runs an application whose names of events, and contexts of errors, are written down.
    pub(crate) async fn run(
        &self,
        id: &str,
        set: impl FnOnce(App) -> App,
        define: impl FnOnce(&mut Routes),
    ) -> (ServerHandle, oneshot::Receiver<carafe::Result<()>>) {
        let diary = self.diary.clone();
        let app = App::new(GROUP).client(self.client(id).await).routes(define);
        let app = set(app).listener(move |event: &Event<'_>| match event {
            Event::Error { error, .. } => diary.write(format!("{}: {error}", event.name())),
            Event::PositionReset { from, to, .. } => {
                diary.write(format!("{}: {from} to {to}", event.name()));
            }
            _ => diary.write(event.name()),
        });
        let server = app.build().await.expect("right settings");
        let handle = server.handle();
        let (result_to, result) = oneshot::channel();
        let run = async move {
            let _ = result_to.send(server.run().await);
        };
        self.world.runtime().spawn("application", Box::pin(run));
        (handle, result)
    }
}
