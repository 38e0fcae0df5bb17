//! The machine of a cluster under its lock, and those who wait for what it says. Whoever had the lock carries out what the
//! machine says when letting go of it.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use tokio::sync::oneshot;

use super::cluster::{Output, State};
use super::groups::{self, Ticket};
use crate::sync::{Mutex, MutexGuard, lock};

/// Requests that a group answers.
#[derive(Debug, Default)]
pub(super) struct Callers(Mutex<BTreeMap<Ticket, oneshot::Sender<groups::Output>>>);

impl Callers {
    /// The answer to `ticket`; to be asked for under the lock that the request was handled under.
    pub(super) fn wait_for(&self, ticket: Ticket) -> oneshot::Receiver<groups::Output> {
        let (caller, answer) = oneshot::channel();
        lock(&self.0).insert(ticket, caller);
        answer
    }

    fn carry_out(&self, output: Output) {
        match output {
            Output::Group(answer) => {
                // The connection may be gone; then nobody waits.
                if let Some(caller) = lock(&self.0).remove(&answer.ticket()) {
                    let _ = caller.send(answer);
                }
            }
            Output::NotCompacted(topic) => tracing::warn!(
                %topic,
                "cleanup.policy=compact is stored, but the embedded cluster does not compact yet"
            ),
        }
    }
}

/// The machine, until it is let go.
pub(crate) struct Locked<'a> {
    state: MutexGuard<'a, State>,
    callers: &'a Callers,
}

impl<'a> Locked<'a> {
    pub(super) fn new(state: MutexGuard<'a, State>, callers: &'a Callers) -> Self {
        Self { state, callers }
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        while let Some(output) = self.state.poll_output() {
            self.callers.carry_out(output);
        }
    }
}
