//! What a listener is told by its program and its handlers, and what it answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::{GroupListener, concern};
use crate::app::command::{Act, Command, CommandError, Reply};
use crate::app::instrument::Event;
use crate::app::processing::partition::PartitionState;
use crate::app::processing::route::Route;
use crate::app::snapshot::{ListenerSnapshot, ListenerState, PartitionPhase};
use crate::types::{Offset, TopicName, TopicPartition};

// Whoever asked may have gone: then nobody is told.
impl GroupListener {
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::Act { partition, act, reply } => {
                let done = self.act(&partition, act);
                let _ = reply.send(done);
            }
            Command::Commit { partition, reply } => self.commit(&partition, reply),
            Command::Interrupt(partition) => {
                self.partitions.get(&partition).into_iter().for_each(PartitionState::interrupt);
            }
            Command::Quiet { on, reply } => {
                self.set_quiet(on);
                let _ = reply.send(Ok(()));
            }
            Command::Subscribe => self.subscribe(),
            Command::Snapshot(reply) => {
                let state = if self.quiet { ListenerState::Quiet } else { ListenerState::Running };
                let _ = reply.send(Ok(self.snapshot(state)));
            }
        }
    }

    /// As [`on_command`](Self::on_command) while what runs is finished: nothing is begun any more.
    pub(super) fn on_late_command(&mut self, command: Command) {
        match command {
            Command::Commit { partition, reply } => self.commit(&partition, reply),
            Command::Snapshot(reply) => {
                let _ = reply.send(Ok(self.snapshot(ListenerState::Stopping)));
            }
            Command::Act { reply, .. } | Command::Quiet { reply, .. } => {
                let _ = reply.send(Err(CommandError::Stopping));
            }
            // The next listener begins with what is known then.
            Command::Interrupt(_) | Command::Subscribe => {}
        }
    }

    fn act(&mut self, partition: &TopicPartition, act: Act) -> Result<(), CommandError> {
        if !self.routes.contains_key(&partition.topic) {
            return Err(CommandError::UnknownTopic(partition.topic.clone()));
        }
        let active = self.lives.phase(partition) == Some(PartitionPhase::Active);
        let Some(state) = self.partitions.get_mut(partition).filter(|_| active) else {
            return Err(CommandError::NotAssigned(partition.clone()));
        };
        let now = Instant::now();
        match act {
            Act::Pause(until) => {
                state.coordinator.handle_command_pause(now, until);
                state.interrupt();
            }
            Act::Resume => {
                state.runs.values().for_each(|run| run.context.end_pause());
                state.coordinator.handle_resume(now);
            }
            Act::Seek(offset) => {
                state.coordinator.handle_command_seek(now, offset.0);
                state.interrupt();
            }
        }
        self.carry_out(partition);
        Ok(())
    }

    /// Commits what handlers of the partition have marked so far, those that run included.
    fn commit(&mut self, partition: &TopicPartition, reply: Reply<Option<Offset>>) {
        if !self.routes.contains_key(&partition.topic) {
            let _ = reply.send(Err(CommandError::UnknownTopic(partition.topic.clone())));
            return;
        }
        let Some(state) = self.partitions.get_mut(partition) else {
            let _ = reply.send(Err(CommandError::NotAssigned(partition.clone())));
            return;
        };
        state.collect_marks();
        self.carry_out(partition);
        let Some(mark) = self.partitions.get(partition).and_then(|state| state.stored.clone()) else {
            let _ = reply.send(Ok(None));
            return;
        };
        let offset = mark.offset();
        let commit = self.source.commit(mark);
        self.runtime.spawn(
            "commit",
            Box::pin(async move {
                let committed = commit.await.map(|()| Some(offset)).map_err(CommandError::Failed);
                let _ = reply.send(committed);
            }),
        );
    }

    fn set_quiet(&mut self, on: bool) {
        if std::mem::replace(&mut self.quiet, on) == on {
            return;
        }
        let now = Instant::now();
        for partition in self.partitions.keys().cloned().collect::<Vec<_>>() {
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            state.coordinator.handle_quiet(now, on);
            if on {
                state.hush();
            }
            self.carry_out(&partition);
        }
        self.shared.monitor.emit(&Event::Quiet { group: &self.group, on });
    }

    /// Subscribes to the topics that there are routes for. What comes of others before they are given back is handled as before.
    pub(super) fn subscribe(&mut self) {
        let routes = self.current_routes.borrow().clone();
        // Where a topic was dropped and added again, what is assigned still has the former route: it is given back first.
        let is_former = |topic: &TopicName, route: &Arc<Route>| {
            let mut states = self.partitions.iter().filter(|(partition, _)| partition.topic == *topic);
            states.any(|(_, state)| !Arc::ptr_eq(&state.route, route))
        };
        let (former, current): (Vec<_>, Vec<_>) =
            routes.iter().partition(|(topic, route)| is_former(topic, route));
        let topics: BTreeSet<TopicName> = current.into_iter().map(|(topic, _)| topic.clone()).collect();
        self.replacing = !former.is_empty();
        if routes.values().any(|route| route.wants_ends()) {
            self.source.tell_ends();
        }
        self.conditions.forget(|topic| !concern(&routes, topic));
        self.routes.extend(routes);
        if topics != self.topics {
            self.topics = topics;
            if let Err(error) = self.source.subscribe(self.topics.iter().cloned()) {
                self.emit_error("connection.listener.subscribe.error", None, &error);
            }
        }
    }

    fn snapshot(&self, state: ListenerState) -> ListenerSnapshot {
        let now = Instant::now();
        let partitions = self.partitions.iter().filter_map(|(partition, state)| {
            let phase = self.lives.phase(partition)?;
            Some(state.snapshot(now, partition.clone(), phase, self.source.position(partition)))
        });
        ListenerSnapshot {
            group: self.group.clone(),
            state,
            restarts: 0,
            failure: None,
            topics: self.topics.iter().cloned().collect(),
            partitions: partitions.collect(),
        }
    }
}
