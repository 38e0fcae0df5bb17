//! Which groups an application has, and where their listeners are told something.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::command::{Command, CommandError, Commands};
use super::snapshot::{ListenerSnapshot, ListenerState, ServerState};
use crate::Error;
use crate::error::Chain;
use crate::types::GroupId;

/// Shared by a server and its handles; locked for a moment per command, never while something waits.
#[derive(Clone)]
pub(crate) struct Directory(Arc<Mutex<Entries>>);

struct Entries {
    state: ServerState,
    /// Listeners begin quiet.
    quiet: bool,
    groups: BTreeMap<GroupId, Entry>,
}

#[derive(Default)]
struct Entry {
    /// `None` while the listener does not run.
    commands: Option<Commands>,
    restarts: u32,
    failure: Option<String>,
}

impl Default for Directory {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Entries {
            state: ServerState::Built,
            quiet: false,
            groups: BTreeMap::new(),
        })))
    }
}

impl Directory {
    pub(crate) fn state(&self) -> ServerState {
        self.lock().state
    }

    pub(crate) fn set_state(&self, state: ServerState) {
        self.lock().state = state;
    }

    /// The groups, by name.
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        self.lock().groups.keys().cloned().collect()
    }

    pub(crate) fn add(&self, group: &GroupId) {
        self.lock().groups.entry(group.clone()).or_default();
    }

    pub(crate) fn remove(&self, group: &GroupId) {
        self.lock().groups.remove(group);
    }

    /// The listener of the group takes commands; if it is to be quiet, that is the first of them.
    pub(crate) fn started(&self, group: &GroupId, commands: Commands) {
        let mut entries = self.lock();
        let quiet = entries.quiet;
        let Some(entry) = entries.groups.get_mut(group) else { return };
        if quiet {
            // Nobody waits for the answer.
            let (reply, _) = oneshot::channel();
            let _ = commands.send(Command::Quiet { on: true, reply });
        }
        entry.commands = Some(commands);
    }

    /// The listener of the group takes no more commands.
    pub(crate) fn ended(&self, group: &GroupId) {
        self.with(group, |entry| entry.commands = None);
    }

    /// The listener is started again by command.
    pub(crate) fn restarted(&self, group: &GroupId) {
        self.with(group, |entry| entry.restarts += 1);
    }

    /// The listener failed and is started again.
    pub(crate) fn failed(&self, group: &GroupId, error: &Error) {
        self.with(group, |entry| {
            entry.restarts += 1;
            entry.failure = Some(Chain(error).to_string());
        });
    }

    /// Listeners that start from now on are as quiet as this says. Returns where those that run are told so.
    pub(crate) fn set_quiet(&self, quiet: bool) -> Vec<Commands> {
        let mut entries = self.lock();
        entries.quiet = quiet;
        entries.groups.values().filter_map(|entry| entry.commands.clone()).collect()
    }

    /// Where the listener of the group is told something.
    pub(crate) fn commands(&self, group: &GroupId) -> Result<Commands, CommandError> {
        let entries = self.lock();
        let entry = entries.groups.get(group).ok_or_else(|| CommandError::UnknownGroup(group.clone()))?;
        entry.commands.clone().ok_or_else(|| match entries.state {
            ServerState::Stopping | ServerState::Stopped => CommandError::Stopping,
            ServerState::Built | ServerState::Running => CommandError::NotRunning(group.clone()),
        })
    }

    /// Tells the listener of the group something, if it runs.
    pub(crate) fn tell(&self, group: &GroupId, command: Command) {
        if let Ok(commands) = self.commands(group) {
            // One that has just ended is started with what is known then.
            let _ = commands.send(command);
        }
    }

    /// What the listener says of itself, completed; `None` stands for one that does not run.
    pub(crate) fn complete(&self, group: &GroupId, listener: Option<ListenerSnapshot>) -> ListenerSnapshot {
        let mut listener = listener.unwrap_or_else(|| ListenerSnapshot {
            group: group.clone(),
            state: ListenerState::Down,
            restarts: 0,
            failure: None,
            topics: Vec::new(),
            partitions: Vec::new(),
        });
        if let Some(entry) = self.lock().groups.get(group) {
            listener.restarts = entry.restarts;
            listener.failure = entry.failure.clone();
        }
        listener
    }

    fn with(&self, group: &GroupId, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.lock().groups.get_mut(group) {
            change(entry);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Directory").field(&self.groups()).finish()
    }
}
