//! What happens in an application, as events. Everything that watches (logs, metrics, tests) is a [`Listener`].

mod owned;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use owned::OwnedEvent;

use super::snapshot::JobKind;
use crate::Error;
use crate::client::ConditionEvent;
use crate::error::Chain;
use crate::types::{GroupId, Offset, TopicName, TopicPartition, Uuid};

/// One thing that happened. [`name`](Self::name) is its name in Karafka's dotted form.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The application consumes.
    Running,
    /// The application finishes what runs and starts nothing new.
    Stopping,
    /// The application stopped.
    Stopped,
    /// A group begins nothing new, or no longer so ([`ServerHandle::quiet`](super::ServerHandle::quiet)).
    Quiet {
        /// The group.
        group: &'a GroupId,
        /// True if nothing new begins.
        on: bool,
    },
    /// A group could not go on and is joined again after a pause. The error was told before, as an [`Error`](Self::Error).
    ListenerRestarting {
        /// The group.
        group: &'a GroupId,
        /// How often this happened in a row, 1 for the first time.
        failures: u32,
        /// How long it waits.
        delay: Duration,
        /// Why it could not go on.
        error: &'a Error,
    },
    /// Partitions came to this member.
    Assigned {
        /// The group.
        group: &'a GroupId,
        /// The partitions.
        partitions: &'a [TopicPartition],
    },
    /// Partitions go to another member; running handlers may finish.
    Revoked {
        /// The group.
        group: &'a GroupId,
        /// The partitions.
        partitions: &'a [TopicPartition],
    },
    /// Partitions were taken away without a chance to commit.
    Lost {
        /// The group.
        group: &'a GroupId,
        /// The partitions.
        partitions: &'a [TopicPartition],
    },
    /// A topic was deleted and recreated under its name: what was known of its partitions is void, and they are read as on
    /// the first start.
    TopicRecreated {
        /// The group.
        group: &'a GroupId,
        /// The topic.
        topic: &'a TopicName,
        /// The id it had.
        old: Uuid,
        /// The id it has now.
        new: Uuid,
    },
    /// Something that keeps the group, or partitions of it, from going on has lasted, lasts or has ended.
    Condition {
        /// The group.
        group: &'a GroupId,
        /// What it is, and why.
        event: &'a ConditionEvent,
    },
    /// Reading of a partition went on at another offset, by policy ([`App::out_of_range`](super::App::out_of_range),
    /// [`App::truncation`](super::App::truncation)): what lies between was skipped, or is read again.
    PositionReset {
        /// The partition.
        partition: &'a TopicPartition,
        /// The next offset that would have been read.
        from: Offset,
        /// The next offset that is read.
        to: Offset,
        /// What had happened.
        error: &'a Error,
    },
    /// A handler starts on records.
    Consume {
        /// Where the records are from.
        partition: &'a TopicPartition,
        /// Virtual partition, 0 where there is one.
        lane: u32,
        /// How many records it got.
        records: usize,
        /// 1 for the first run.
        attempt: u32,
    },
    /// A handler ended, successfully or not.
    Consumed {
        /// Where the records are from.
        partition: &'a TopicPartition,
        /// Virtual partition, 0 where there is one.
        lane: u32,
        /// How many records it got.
        records: usize,
        /// Whether it succeeded.
        success: bool,
        /// How long it took, the acknowledgement of its output included.
        time: Duration,
    },
    /// A callback other than `consume` ended, successfully or not. The last ones, `revoked` and `shutdown`, are not told.
    Called {
        /// Which one.
        kind: JobKind,
        /// The partition.
        partition: &'a TopicPartition,
        /// Virtual partition, 0 where there is one.
        lane: u32,
        /// Whether it succeeded.
        success: bool,
        /// How long it took, the acknowledgement of its output included.
        time: Duration,
    },
    /// A handler has been running for longer than the route's `stuck_after`.
    Stuck {
        /// Where the records are from.
        partition: &'a TopicPartition,
        /// Virtual partition, 0 where there is one.
        lane: u32,
        /// How long it has been running.
        time: Duration,
    },
    /// The application was run this much too late: something blocks the threads of its runtime, such as a handler that
    /// does not [declare](super::TopicRoute::blocking_handler) it.
    Starved {
        /// The group whose listener was late.
        group: &'a GroupId,
        /// How late.
        late: Duration,
    },
    /// The partition waits before it runs its handler again.
    Retrying {
        /// The partition.
        partition: &'a TopicPartition,
        /// The first record that will run again.
        offset: Offset,
        /// The run that failed, 1 for the first.
        attempt: u32,
        /// How long it waits.
        delay: Duration,
    },
    /// A policy of the route kept records from the handler.
    Skipped {
        /// The partition.
        partition: &'a TopicPartition,
        /// The name of the policy.
        policy: &'static str,
        /// The first of them.
        first: Offset,
        /// The last of them; records between may have been handled.
        last: Offset,
        /// How many they are.
        records: usize,
    },
    /// A record went to the dead letter topic and was acknowledged there.
    DeadLettered {
        /// Where the record was.
        partition: &'a TopicPartition,
        /// Its offset.
        offset: Offset,
        /// The dead letter topic.
        topic: &'a str,
        /// How often its handler failed.
        attempts: u32,
    },
    /// Something failed. `context` names what, in Karafka's dotted form.
    Error {
        /// `consumer.consume.error`, `dead_letter_queue.dispatch.error`, …
        context: &'static str,
        /// The partition it happened on, if it did on one.
        partition: Option<&'a TopicPartition>,
        /// The run of a handler that failed, or whose record could not be dispatched.
        run: Option<FailedRun>,
        /// What went wrong.
        error: &'a Error,
    },
}

/// Which run of a handler failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedRun {
    /// Virtual partition, 0 where there is one.
    pub lane: u32,
    /// The first record that it left to be done; `None` for callbacks without records, and after its last record.
    pub offset: Option<Offset>,
    /// 1 for the first run.
    pub attempt: u32,
    /// Identifies the error: the dead letter that comes of it has it in its header `source_trace_id`.
    pub trace_id: Uuid,
}

impl Event<'_> {
    /// The event's name: `consumer.consumed`, `error.occurred`, …
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "app.running",
            Self::Stopping => "app.stopping",
            Self::Stopped => "app.stopped",
            Self::Quiet { on: true, .. } => "app.quiet",
            Self::Quiet { on: false, .. } => "app.unquiet",
            Self::ListenerRestarting { .. } => "connection.listener.restarting",
            Self::Assigned { .. } => "rebalance.partitions_assigned",
            Self::Revoked { .. } => "rebalance.partitions_revoked",
            Self::Lost { .. } => "rebalance.partitions_lost",
            Self::TopicRecreated { .. } => "topic.recreated",
            Self::Condition { .. } => "condition.occurred",
            Self::PositionReset { .. } => "consumer.position_reset",
            Self::Consume { .. } => "consumer.consume",
            Self::Consumed { .. } => "consumer.consumed",
            Self::Called { kind, .. } => match kind {
                JobKind::Initialized => "consumer.initialized",
                JobKind::Consume => "consumer.consumed",
                JobKind::Eofed => "consumer.eofed",
                JobKind::Tick => "consumer.ticked",
                JobKind::Revoked => "consumer.revoked",
                JobKind::Shutdown => "consumer.shutdown",
            },
            Self::Stuck { .. } => "consumer.stuck",
            Self::Starved { .. } => "runtime.starved",
            Self::Retrying { .. } => "consumer.consuming.retry",
            Self::Skipped { .. } => "filtering.skipped",
            Self::DeadLettered { .. } => "dead_letter_queue.dispatched",
            Self::Error { .. } => "error.occurred",
        }
    }
}

/// Watches an application. Called where the event happens, so it must be quick; a panic in it is contained.
///
/// Closures that take an `&Event` are listeners.
pub trait Listener: Send + Sync + 'static {
    /// Something happened.
    fn on_event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync + 'static> Listener for F {
    fn on_event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// All listeners of an application; `tracing` gets every event as well.
#[derive(Clone, Default)]
pub(crate) struct Monitor(Arc<[Box<dyn Listener>]>);

impl Monitor {
    pub(crate) fn new(listeners: Vec<Box<dyn Listener>>) -> Self {
        Self(listeners.into())
    }

    pub(crate) fn emit(&self, event: &Event<'_>) {
        log(event);
        for listener in &*self.0 {
            let call = std::panic::AssertUnwindSafe(|| listener.on_event(event));
            if std::panic::catch_unwind(call).is_err() {
                tracing::error!(event = event.name(), "a listener panicked");
            }
        }
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Monitor({} listeners)", self.0.len())
    }
}

fn log(event: &Event<'_>) {
    match event {
        Event::Error { context, partition, run, error } => {
            let partition = partition.map(tracing::field::display);
            let offset = run.and_then(|run| run.offset).map(tracing::field::display);
            let attempt = run.map(|run| run.attempt);
            let trace_id = run.map(|run| tracing::field::display(run.trace_id));
            let error = Chain(*error);
            tracing::error!(context, partition, offset, attempt, trace_id, %error, "error.occurred");
        }
        // Logged where it is told.
        Event::Condition { .. } => {}
        Event::Consume { .. } | Event::Consumed { .. } | Event::Called { .. } => tracing::debug!("{event:?}"),
        Event::PositionReset { partition, from, to, error } => {
            tracing::warn!(%partition, %from, %to, error = %Chain(*error), "consumer.position_reset");
        }
        Event::ListenerRestarting { group, failures, delay, error } => {
            tracing::warn!(%group, failures, ?delay, error = %Chain(*error), "connection.listener.restarting");
        }
        Event::Stuck { .. } | Event::Starved { .. } | Event::Lost { .. } | Event::TopicRecreated { .. } => {
            tracing::warn!("{event:?}")
        }
        _ => tracing::info!("{event:?}"),
    }
}
