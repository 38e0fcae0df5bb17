//! Machine: which listeners of an application run, which are started again and when, and which go for good.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::deadline;
use crate::types::GroupId;

/// How long a listener that failed waits before it is started again.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30), jitter: 0.2 };
/// A listener that ran for this long before it failed has not failed before.
const STEADY: Duration = Duration::from_secs(60);

/// What the driver has to do.
#[derive(Debug, PartialEq)]
pub(super) enum Output {
    /// Start the group's listener.
    Start(GroupId),
    /// Tell the group's listener to stop. That it ended comes back through [`Supervisor::handle_ended`].
    Stop(GroupId),
    /// Tell that the listener failed for this many times in a row, and how long it waits.
    Restarting(GroupId, u32, Duration),
    /// The group was dropped, and nothing of it runs any more.
    Gone(GroupId),
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Running,
    /// Told to stop, to be started again.
    Restarting,
    /// Told to stop for good.
    Dropping,
    Waiting(Instant),
}

#[derive(Debug)]
struct Listener {
    phase: Phase,
    since: Instant,
    failures: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    listeners: BTreeMap<GroupId, Listener>,
    stopping: bool,
    outputs: VecDeque<Output>,
}

impl Supervisor {
    /// The application has a group more.
    pub(super) fn handle_added(&mut self, now: Instant, group: GroupId) {
        self.start(now, group, 0);
    }

    /// The listener is to be started again, without having failed.
    pub(super) fn handle_restart(&mut self, now: Instant, group: &GroupId) {
        match self.listeners.get_mut(group) {
            Some(Listener { phase: phase @ Phase::Running, .. }) => {
                *phase = Phase::Restarting;
                self.outputs.push_back(Output::Stop(group.clone()));
            }
            Some(Listener { phase: Phase::Waiting(_), failures, .. }) => {
                let failures = *failures;
                self.start(now, group.clone(), failures);
            }
            _ => {}
        }
    }

    /// The application has the group no longer.
    pub(super) fn handle_dropped(&mut self, group: &GroupId) {
        let Some(listener) = self.listeners.get_mut(group) else { return };
        match std::mem::replace(&mut listener.phase, Phase::Dropping) {
            Phase::Running => self.outputs.push_back(Output::Stop(group.clone())),
            Phase::Restarting | Phase::Dropping => {}
            Phase::Waiting(_) => self.remove(group),
        }
    }

    /// The listener ended. `dice` is any random number, for the jitter of the pause.
    pub(super) fn handle_ended(&mut self, now: Instant, group: &GroupId, failed: bool, dice: u64) {
        let Some(listener) = self.listeners.get_mut(group) else { return };
        if self.stopping || matches!(listener.phase, Phase::Dropping) {
            self.remove(group);
        } else if failed && matches!(listener.phase, Phase::Running) {
            let before = if now - listener.since < STEADY { listener.failures } else { 0 };
            listener.failures = before + 1;
            let pause = BACKOFF.delay(listener.failures, dice);
            listener.phase = Phase::Waiting(deadline::after(now, pause));
            self.outputs.push_back(Output::Restarting(group.clone(), listener.failures, pause));
        } else {
            self.start(now, group.clone(), 0);
        }
    }

    /// The application stops: nothing is started any more. Listeners know by themselves.
    pub(super) fn handle_stop(&mut self) {
        self.stopping = true;
        self.listeners.retain(|_, listener| !matches!(listener.phase, Phase::Waiting(_)));
    }

    /// The deadline passed: those whose pause is over start.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let due = |listener: &Listener| matches!(listener.phase, Phase::Waiting(until) if until <= now);
        let due: Vec<(GroupId, u32)> = self
            .listeners
            .iter()
            .filter(|(_, listener)| due(listener))
            .map(|(group, listener)| (group.clone(), listener.failures))
            .collect();
        due.into_iter().for_each(|(group, failures)| self.start(now, group, failures));
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.listeners.values().filter_map(|listener| match listener.phase {
            Phase::Waiting(until) => Some(until),
            _ => None,
        });
        waiting.min()
    }

    /// True if the application is about to have the group no longer.
    pub(super) fn is_dropping(&self, group: &GroupId) -> bool {
        self.listeners.get(group).is_some_and(|listener| matches!(listener.phase, Phase::Dropping))
    }

    /// True if no listener runs any more.
    pub(super) fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    fn start(&mut self, now: Instant, group: GroupId, failures: u32) {
        self.listeners.insert(group.clone(), Listener { phase: Phase::Running, since: now, failures });
        self.outputs.push_back(Output::Start(group));
    }

    fn remove(&mut self, group: &GroupId) {
        self.listeners.remove(group);
        self.outputs.push_back(Output::Gone(group.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn drain(supervisor: &mut Supervisor) -> Vec<Output> {
        std::iter::from_fn(|| supervisor.poll_output()).collect()
    }

    fn group() -> GroupId {
        GroupId::from("g")
    }

    fn running(now: Instant) -> Supervisor {
        let mut supervisor = Supervisor::default();
        supervisor.handle_added(now, group());
        assert_eq!(drain(&mut supervisor), [Output::Start(group())]);
        supervisor
    }

    #[test]
    fn pauses_grow_while_a_listener_fails_and_begin_anew_after_it_ran() {
        let mut now = Instant::now();
        let mut supervisor = running(now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            // The dice that spread nothing.
            supervisor.handle_ended(now, &group(), true, 1 << 63);
            let Some(Output::Restarting(_, _, pause)) = supervisor.poll_output() else { panic!("it waits") };
            pauses.push(pause.as_secs());
            assert_eq!(supervisor.next_deadline(), Some(now + pause));
            supervisor.handle_timeout(now + pause - SECOND / 1000);
            assert_eq!(drain(&mut supervisor), []);
            now += pause;
            supervisor.handle_timeout(now);
            assert_eq!(drain(&mut supervisor), [Output::Start(group())]);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        now += STEADY;
        supervisor.handle_ended(now, &group(), true, 1 << 63);
        assert_eq!(drain(&mut supervisor), [Output::Restarting(group(), 1, SECOND)]);
    }

    #[test]
    fn a_restart_by_command_waits_for_the_end_and_for_nothing_else() {
        let now = Instant::now();
        let mut supervisor = running(now);
        supervisor.handle_restart(now, &group());
        supervisor.handle_restart(now, &group());
        assert_eq!(drain(&mut supervisor), [Output::Stop(group())]);
        supervisor.handle_ended(now, &group(), false, 0);
        assert_eq!(drain(&mut supervisor), [Output::Start(group())]);
        // Of one that waits, the pause ends.
        supervisor.handle_ended(now, &group(), true, 0);
        supervisor.handle_restart(now, &group());
        assert_eq!(drain(&mut supervisor).last(), Some(&Output::Start(group())));
        assert_eq!(supervisor.next_deadline(), None);
    }

    #[test]
    fn a_group_that_was_dropped_is_not_started_again() {
        let now = Instant::now();
        let mut supervisor = running(now);
        supervisor.handle_restart(now, &group());
        supervisor.handle_dropped(&group());
        supervisor.handle_ended(now, &group(), true, 0);
        assert_eq!(drain(&mut supervisor), [Output::Stop(group()), Output::Gone(group())]);
        let mut supervisor = running(now);
        supervisor.handle_ended(now, &group(), true, 0);
        supervisor.handle_dropped(&group());
        assert_eq!(drain(&mut supervisor).last(), Some(&Output::Gone(group())));
        assert!(supervisor.is_empty());
    }

    #[test]
    fn nothing_starts_during_a_stop() {
        let now = Instant::now();
        let mut supervisor = running(now);
        supervisor.handle_stop();
        assert!(!supervisor.is_empty());
        supervisor.handle_ended(now, &group(), true, 0);
        assert_eq!(drain(&mut supervisor), [Output::Gone(group())]);
        let mut supervisor = running(now);
        supervisor.handle_ended(now, &group(), true, 0);
        supervisor.handle_stop();
        assert!(supervisor.is_empty() && supervisor.next_deadline().is_none());
    }
}
