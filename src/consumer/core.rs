//! What the handle and the tasks of one consumer share: the positions behind a lock that is never held across an await,
//! and two ways to wake each other.

use std::collections::BTreeSet;

use tokio::sync::Notify;

use super::event::ConsumerEvent;
use super::positions::{Output, Positions};
use crate::cluster::Subject;
use crate::runtime::watch;
use crate::sync::{Mutex, MutexGuard, lock};
use crate::types::{GroupId, TopicName};
use crate::{Error, ErrorKind, Result};

/// Shared by handle and tasks.
#[derive(Debug)]
pub(crate) struct Core {
    state: Mutex<CoreState>,
    /// Wakes those who wait for an event.
    app: Notify,
    /// Counts changes that concern fetching.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct CoreState {
    positions: Positions,
    /// Why nothing more will come.
    end: Option<End>,
    auto_store: bool,
    /// The group, of a member of one.
    group: Option<GroupId>,
    /// What it is subscribed to.
    subscribed: BTreeSet<TopicName>,
    /// How often that changed.
    subscriptions: u64,
}

#[derive(Debug)]
enum End {
    Failed(Option<Error>),
    /// What became of it.
    Closed(Result<()>),
}

impl Core {
    pub(crate) fn new(positions: Positions, auto_store: bool, group: Option<GroupId>) -> Self {
        let subscribed = BTreeSet::new();
        Self {
            state: Mutex::new(CoreState {
                positions,
                end: None,
                auto_store,
                group,
                subscribed,
                subscriptions: 0,
            }),
            app: Notify::new(),
            changed: watch::Sender::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, CoreState> {
        lock(&self.state)
    }

    /// Reads or changes positions without waking anyone.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Positions) -> T) -> T {
        f(&mut self.state().positions)
    }

    /// Changes positions and wakes everyone: handle and tasks.
    pub(crate) fn update<T>(&self, f: impl FnOnce(&mut Positions) -> T) -> T {
        let result = self.with(f);
        self.wake_tasks();
        self.wake_app();
        result
    }

    /// Takes over what the group's member is subscribed to.
    pub(crate) fn subscribe(&self, topics: BTreeSet<TopicName>) {
        let mut state = self.state();
        state.subscribed = topics;
        state.subscriptions += 1;
        drop(state);
        self.wake_tasks();
    }

    /// Changes whenever it reads, or wants to read, something else.
    pub(crate) fn interest(&self) -> (u64, u64) {
        let state = self.state();
        (state.positions.latest_assignment(), state.subscriptions)
    }

    /// Topics that it reads, or wants to.
    pub(crate) fn topics(&self) -> BTreeSet<TopicName> {
        let state = self.state();
        let mut topics = state.subscribed.clone();
        topics.extend(state.positions.topics());
        topics
    }

    /// True if what is known of `subject` concerns this consumer.
    pub(crate) fn is_concerned(&self, subject: &Subject) -> bool {
        let state = self.state();
        match subject {
            Subject::Cluster => true,
            Subject::Node(node) => state.positions.is_leader(*node),
            Subject::Topic(topic) => state.subscribed.contains(topic) || state.positions.reads(topic),
            Subject::Partition(partition) => state.positions.is_assigned(partition),
            Subject::Group(group) => state.group.as_ref() == Some(group),
        }
    }

    pub(crate) fn wake_app(&self) {
        self.app.notify_waiters();
    }

    pub(crate) fn wake_tasks(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Sees changes from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Tells the application `event`.
    pub(crate) fn emit(&self, event: ConsumerEvent) {
        self.with(|positions| positions.push_event(event));
        self.wake_app();
    }

    /// Nothing more will come, because of `error`; what is there already is still handed out.
    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.state();
        if state.end.is_none() {
            state.end = Some(End::Failed(Some(error)));
        }
        drop(state);
        self.wake_app();
        self.wake_tasks();
    }

    /// Nothing more will come, because the consumer was closed: whether all was done that belongs to that.
    pub(crate) fn close(&self, result: Result<()>) {
        self.state().end = Some(End::Closed(result));
        self.wake_app();
        self.wake_tasks();
    }

    /// What became of closing it.
    pub(crate) fn closed(&self) -> Result<()> {
        match &self.state().end {
            Some(End::Closed(result)) => result.clone(),
            _ => Ok(()),
        }
    }

    fn poll_next(&self, first: bool) -> Option<Result<ConsumerEvent>> {
        let mut state = self.state();
        if first && state.auto_store {
            state.positions.store_handed_out();
        }
        if matches!(state.end, Some(End::Closed(_))) {
            return Some(Err(Error::new(ErrorKind::State, "the consumer is closed")));
        }
        if let Some(output) = state.positions.poll_output() {
            drop(state);
            let Output { event, used_up } = output;
            if used_up {
                self.wake_tasks();
            }
            return Some(Ok(event));
        }
        match &mut state.end {
            Some(End::Failed(error)) => Some(Err(error.take().unwrap_or_else(|| {
                Error::new(ErrorKind::State, "the consumer has failed; its error was returned before")
            }))),
            _ => None,
        }
    }

    /// The next event. Cancel-safe: nothing is taken before it is returned.
    pub(crate) async fn next(&self) -> Result<ConsumerEvent> {
        let mut first = true;
        loop {
            let mut notified = std::pin::pin!(self.app.notified());
            // Counts from here on, so that nothing is missed between the look and the wait.
            notified.as_mut().enable();
            if let Some(event) = self.poll_next(first) {
                return event;
            }
            first = false;
            notified.await;
        }
    }

    /// The next event if there is one.
    pub(crate) fn try_next(&self) -> Option<Result<ConsumerEvent>> {
        self.poll_next(true)
    }
}
