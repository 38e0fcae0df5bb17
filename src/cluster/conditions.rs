//! Machine: what is wrong and stays wrong: no such topic, no rights, no leader, nobody there, a partition that stopped.
//!
//! Whoever meets a failure [reports](Conditions::raise) it, as often as it happens, and says when it is over. This machine
//! decides what is worth a word: a failure that lasts longer than such things last by themselves is told once, again at
//! intervals, and when it ends. Events, probes and logs all read it here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::types::{GroupId, NodeId, TopicName, TopicPartition};
use crate::{Error, ErrorCode, ErrorKind};

/// A condition that lasts is told again after this time.
const REPEAT: Duration = Duration::from_secs(60);
/// What is kept for slow listeners; the oldest go first.
const LOG_MAX: usize = 1024;
/// More conditions at once are not distinguished: the cluster is down, and these say so.
const CONDITIONS_MAX: usize = 10_000;

/// What a condition is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Subject {
    /// The cluster as a whole.
    Cluster,
    /// A broker.
    Node(NodeId),
    /// A topic.
    Topic(TopicName),
    /// A partition.
    Partition(TopicPartition),
    /// A consumer group.
    Group(GroupId),
}

impl Subject {
    /// The topic that it is about, if it is about one.
    pub fn topic(&self) -> Option<&TopicName> {
        match self {
            Self::Topic(topic) => Some(topic),
            Self::Partition(partition) => Some(&partition.topic),
            Self::Cluster | Self::Node(_) | Self::Group(_) => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("the cluster"),
            Self::Node(node) => write!(f, "node {node}"),
            Self::Topic(topic) => write!(f, "topic {topic}"),
            Self::Partition(partition) => write!(f, "{partition}"),
            Self::Group(group) => write!(f, "group {group}"),
        }
    }
}

/// Which kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ConditionKind {
    /// The topic does not exist.
    NoSuchTopic,
    /// The principal lacks a permission.
    NotAuthorized,
    /// A partition has no leader.
    NoLeader,
    /// A host name cannot be resolved, nobody listens, or nobody answers.
    Unreachable,
    /// A group has no coordinator.
    NoCoordinator,
    /// The broker refuses a request again and again.
    Refused,
    /// A partition is not read on before somebody does something.
    Stopped,
    /// There is no memory, or no thread, to go on.
    Starving,
    /// Files of certificates or keys have changed and cannot be used: new connections go on with what they held before.
    StaleCertificates,
}

impl ConditionKind {
    /// Which kind of trouble it is as long as requests fail like this.
    pub(crate) fn of(error: &Error) -> Self {
        use ErrorCode as Code;
        match (error.code().unwrap_or(Code::NONE), error.kind()) {
            (Code::UNKNOWN_TOPIC_OR_PARTITION | Code::UNKNOWN_TOPIC_ID | Code::INCONSISTENT_TOPIC_ID, _) => {
                Self::NoSuchTopic
            }
            (_, ErrorKind::Authorization) => Self::NotAuthorized,
            (_, ErrorKind::Network | ErrorKind::Timeout) => Self::Unreachable,
            (Code::COORDINATOR_LOAD_IN_PROGRESS, _) => Self::NoCoordinator,
            (code, _) if code.is_coordinator_moved() => Self::NoCoordinator,
            // They only say that somebody else is to be asked.
            (Code::UNKNOWN_LEADER_EPOCH, _) => Self::NoLeader,
            (code, _) if code.needs_metadata() => Self::NoLeader,
            _ => Self::Refused,
        }
    }

    /// True if whoever needs what is missing meets it again and again; what is not met any more is nobody's trouble.
    fn is_met_again(self) -> bool {
        matches!(self, Self::Unreachable | Self::NoCoordinator)
    }

    /// How long such trouble lasts when a cluster is well: fail-overs, fresh topics, restarts.
    fn patience(self) -> Duration {
        match self {
            Self::Stopped => Duration::ZERO,
            _ => Duration::from_secs(3),
        }
    }
}

/// Trouble that lasts.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Condition {
    /// What it is about.
    pub subject: Subject,
    /// Which kind of trouble it is.
    pub kind: ConditionKind,
    /// The latest failure: what was attempted with whom, and what to try.
    pub error: Error,
    /// For how long it has been so.
    pub lasted: Duration,
}

/// Where a condition is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStage {
    /// It has lasted long enough to be trouble (3 s; a partition that stopped: at once).
    Began,
    /// It still lasts; told every 60 s.
    Lasts,
    /// It is over.
    Ended,
}

/// News of a condition.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConditionEvent {
    /// The condition.
    pub condition: Condition,
    /// Whether it began, lasts or ended.
    pub stage: ConditionStage,
}

/// Who reports: the client itself, or one of its consumers and producers. What one reports, only it can end.
pub(crate) type Owner = u64;

/// The client itself: connections, metadata, coordinators.
pub(crate) const CLIENT: Owner = 0;

type Key = (Owner, Subject, ConditionKind);

#[derive(Debug)]
struct Lasting {
    since: Instant,
    /// When it was reported last.
    met: Instant,
    error: Error,
    /// When it is told, for the first time or again.
    tell_at: Instant,
    told: bool,
}

/// The machine.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    lasting: BTreeMap<Key, Lasting>,
    log: VecDeque<(Owner, ConditionEvent)>,
    /// Number of events so far; the log holds the last of them.
    count: u64,
}

impl Conditions {
    /// Trouble was met, for the first time or again. True if it is new, so that [`next_deadline`](Self::next_deadline) has
    /// changed.
    pub(crate) fn raise(
        &mut self,
        now: Instant,
        owner: Owner,
        subject: Subject,
        kind: ConditionKind,
        error: Error,
    ) -> bool {
        let key = (owner, subject, kind);
        if let Some(known) = self.lasting.get_mut(&key) {
            known.error = error;
            known.met = now;
            return false;
        }
        if self.lasting.len() >= CONDITIONS_MAX {
            return false;
        }
        let tell_at = now + kind.patience();
        self.lasting.insert(key, Lasting { since: now, met: now, error, tell_at, told: false });
        true
    }

    /// Everything that `over` names is over, or is nobody's any more. True if that is news to listeners.
    pub(crate) fn clear_where(&mut self, now: Instant, over: impl Fn(&Key) -> bool) -> bool {
        if !self.lasting.keys().any(&over) {
            return false;
        }
        let (over, still): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.lasting).into_iter().partition(|(key, _)| over(key));
        self.lasting = still;
        let before = self.count;
        for (key, state) in over {
            if state.told {
                self.tell(now, key, &state, ConditionStage::Ended);
            }
        }
        self.count > before
    }

    /// What `owner` reports of all that `about` names is `troubles` now, and nothing else. True if
    /// [`next_deadline`](Self::next_deadline) has changed or there is news.
    pub(crate) fn replace(
        &mut self,
        now: Instant,
        owner: Owner,
        about: impl Fn(&Subject, ConditionKind) -> bool,
        troubles: Vec<(Subject, ConditionKind, Error)>,
    ) -> bool {
        let still: BTreeSet<_> = troubles.iter().map(|(subject, kind, _)| (subject.clone(), *kind)).collect();
        let mut changed = self.clear_where(now, |(by, subject, kind)| {
            *by == owner && about(subject, *kind) && !still.contains(&(subject.clone(), *kind))
        });
        for (subject, kind, error) in troubles {
            changed |= self.raise(now, owner, subject, kind, error);
        }
        changed
    }

    /// Tells what is due. True if there is news.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        let before = self.count;
        let forgotten: BTreeSet<Key> = (self.lasting.iter())
            .filter(|((owner, _, kind), state)| {
                *owner == CLIENT
                    && kind.is_met_again()
                    && state.told
                    && now >= state.tell_at.max(state.met + REPEAT)
            })
            .map(|(key, _)| key.clone())
            .collect();
        self.clear_where(now, |key| forgotten.contains(key));
        let mut due = Vec::new();
        // While no broker answers, nobody says whether a partition still lacks its leader: that they are gone says it all.
        let silent = self.lasting.contains_key(&(CLIENT, Subject::Cluster, ConditionKind::Unreachable));
        // What the client itself tells (its owner is the lowest) reaches everybody: its parts need not tell it too.
        let mut said = BTreeSet::new();
        for (key, state) in &mut self.lasting {
            let (owner, subject, kind) = key;
            let is_said = *owner != CLIENT && said.contains(&(subject.clone(), *kind));
            if state.tell_at <= now && silent && *kind == ConditionKind::NoLeader && !state.told {
                state.tell_at = now + kind.patience();
            } else if state.tell_at <= now && is_said {
                state.tell_at = now + REPEAT;
            } else if state.tell_at <= now {
                let stage = if state.told { ConditionStage::Lasts } else { ConditionStage::Began };
                state.told = true;
                state.tell_at = now + REPEAT;
                due.push((*owner, ConditionEvent { condition: picture(now, key, state), stage }));
            }
            if *owner == CLIENT && state.told {
                said.insert((subject.clone(), *kind));
            }
        }
        for event in due {
            self.push(event);
        }
        self.count > before
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to tell.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.lasting.values().map(|state| state.tell_at).min()
    }

    /// What has been told and is not over.
    pub(crate) fn told(&self, now: Instant) -> Vec<(Owner, Condition)> {
        let told = self.lasting.iter().filter(|(_, state)| state.told);
        told.map(|(key, state)| (key.0, picture(now, key, state))).collect()
    }

    /// The latest failure that was reported about `subject`, told or not: the reason behind a deadline that passed.
    pub(crate) fn latest(&self, subject: &Subject) -> Option<&Error> {
        let about = self.lasting.iter().filter(|((_, about, _), _)| about == subject);
        about.map(|(_, state)| &state.error).next()
    }

    /// Events since `seen` of them had been told, and how many there are now.
    pub(crate) fn events(&self, seen: u64) -> (Vec<(Owner, ConditionEvent)>, u64) {
        let missing = usize::try_from(self.count - seen.min(self.count)).unwrap_or(usize::MAX);
        let skip = self.log.len().saturating_sub(missing);
        (self.log.iter().skip(skip).cloned().collect(), self.count)
    }

    /// How many events there have been.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    fn tell(&mut self, now: Instant, key: Key, state: &Lasting, stage: ConditionStage) {
        let condition = picture(now, &key, state);
        self.push((key.0, ConditionEvent { condition, stage }));
    }

    fn push(&mut self, event: (Owner, ConditionEvent)) {
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        self.log.push_back(event);
        self.count += 1;
    }
}

fn picture(now: Instant, (_, subject, kind): &Key, state: &Lasting) -> Condition {
    Condition {
        subject: subject.clone(),
        kind: *kind,
        error: state.error.clone(),
        lasted: now.saturating_duration_since(state.since),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_kind_follows_from_the_cause() {
        let of = |code: i16| ConditionKind::of(&Error::from_code(ErrorCode(code), "asking"));
        for (codes, kind) in [
            (&[3, 100, 103][..], ConditionKind::NoSuchTopic),
            (&[29, 30, 31], ConditionKind::NotAuthorized),
            (&[5, 6, 9, 74, 75, 80], ConditionKind::NoLeader),
            (&[14, 15, 16], ConditionKind::NoCoordinator),
            (&[7, 13], ConditionKind::Unreachable),
            (&[-1, 10, 24, 42, 12345], ConditionKind::Refused),
        ] {
            codes.iter().for_each(|&code| assert_eq!(of(code), kind, "{code}"));
        }
        for kind in [ErrorKind::Network, ErrorKind::Timeout] {
            assert_eq!(ConditionKind::of(&Error::new(kind, "nobody there")), ConditionKind::Unreachable);
        }
    }

    fn topic() -> Subject {
        Subject::Topic(TopicName::from("t"))
    }

    fn raise(conditions: &mut Conditions, now: Instant, text: &str) -> bool {
        let error = Error::new(ErrorKind::Broker, text);
        conditions.raise(now, CLIENT, topic(), ConditionKind::NoSuchTopic, error)
    }

    fn clear(conditions: &mut Conditions, now: Instant) -> bool {
        conditions.clear_where(now, |(owner, subject, _)| *owner == CLIENT && *subject == topic())
    }

    fn stages(conditions: &Conditions, seen: u64) -> Vec<(ConditionStage, String, u64)> {
        let events = conditions.events(seen).0.into_iter();
        events
            .map(|(_, event)| {
                (event.stage, event.condition.error.to_string(), event.condition.lasted.as_secs())
            })
            .collect()
    }

    #[test]
    fn what_lasts_is_told_once_then_at_intervals_and_when_it_ends() {
        let (mut conditions, now) = (Conditions::default(), Instant::now());
        assert!(raise(&mut conditions, now, "first"));
        assert!(!conditions.handle_timeout(now + secs(2)));
        assert!(!raise(&mut conditions, now + secs(2), "second"));
        assert_eq!(conditions.next_deadline(), Some(now + secs(3)));
        assert!(conditions.handle_timeout(now + secs(3)) && !conditions.handle_timeout(now + secs(62)));
        assert!(conditions.handle_timeout(now + secs(63)));
        assert_eq!(conditions.told(now + secs(70))[0].1.lasted, secs(70));
        assert!(clear(&mut conditions, now + secs(80)));
        assert_eq!(
            stages(&conditions, 0),
            [
                (ConditionStage::Began, "second".to_owned(), 3),
                (ConditionStage::Lasts, "second".to_owned(), 63),
                (ConditionStage::Ended, "second".to_owned(), 80),
            ]
        );
        assert_eq!(stages(&conditions, 2).len(), 1);
        assert_eq!(conditions.next_deadline(), None);
    }

    #[test]
    fn what_is_over_soon_is_not_told() {
        let (mut conditions, now) = (Conditions::default(), Instant::now());
        raise(&mut conditions, now, "a fail-over");
        assert!(!clear(&mut conditions, now + secs(2)));
        assert!(!conditions.handle_timeout(now + secs(10)));
        assert_eq!(conditions.count(), 0);
    }

    #[test]
    fn what_one_reports_another_does_not_end_and_a_partition_that_stopped_is_told_at_once() {
        let (mut conditions, now) = (Conditions::default(), Instant::now());
        let stopped = || Error::new(ErrorKind::OffsetOutOfRange, "behind retention");
        conditions.raise(now, 1, topic(), ConditionKind::Stopped, stopped());
        conditions.raise(now, 2, topic(), ConditionKind::Stopped, stopped());
        assert!(conditions.handle_timeout(now));
        assert!(conditions.clear_where(now, |(owner, ..)| *owner == 1));
        assert_eq!(conditions.told(now).iter().map(|(owner, _)| *owner).collect::<Vec<_>>(), [2]);
        assert!(conditions.latest(&topic()).is_some());
    }

    #[test]
    fn a_broker_that_nobody_needs_any_more_is_not_told_for_ever() {
        let (mut conditions, now) = (Conditions::default(), Instant::now());
        let away = |conditions: &mut Conditions, after: u64| {
            let error = Error::new(ErrorKind::Network, "refused");
            let node = Subject::Node(NodeId(1));
            conditions.raise(now + secs(after), CLIENT, node, ConditionKind::Unreachable, error);
        };
        away(&mut conditions, 0);
        conditions.handle_timeout(now + secs(3));
        away(&mut conditions, 30);
        conditions.handle_timeout(now + secs(63));
        conditions.handle_timeout(now + secs(123));
        let told: Vec<_> = stages(&conditions, 0).into_iter().map(|(stage, ..)| stage).collect();
        assert_eq!(told, [ConditionStage::Began, ConditionStage::Lasts, ConditionStage::Ended]);
        assert_eq!(conditions.next_deadline(), None);
    }

    #[test]
    fn what_an_answer_says_replaces_what_the_one_before_said() {
        let (mut conditions, now) = (Conditions::default(), Instant::now());
        raise(&mut conditions, now, "no such topic");
        conditions.handle_timeout(now + secs(3));
        let refused = || Error::new(ErrorKind::Authorization, "refused");
        let troubles = vec![(topic(), ConditionKind::NotAuthorized, refused())];
        assert!(conditions.replace(now + secs(4), CLIENT, |subject, _| *subject == topic(), troubles));
        conditions.handle_timeout(now + secs(7));
        let told: Vec<_> = conditions.told(now).into_iter().map(|(_, condition)| condition.kind).collect();
        assert_eq!(told, [ConditionKind::NotAuthorized]);
    }

    #[test]
    fn what_the_client_tells_its_parts_do_not_repeat() {
        let (mut conditions, now) = (Conditions::default(), Instant::now());
        let missing = || Error::new(ErrorKind::Broker, "no such topic");
        conditions.raise(now, 7, topic(), ConditionKind::NoSuchTopic, missing());
        raise(&mut conditions, now, "no such topic");
        conditions.handle_timeout(now + secs(3));
        conditions.handle_timeout(now + secs(63));
        assert_eq!(stages(&conditions, 0).len(), 2, "began and lasts, once each");
        // The client needs the topic no more, but its part does.
        clear(&mut conditions, now + secs(64));
        conditions.handle_timeout(now + secs(123));
        let told: Vec<_> = stages(&conditions, 2).into_iter().map(|(stage, ..)| stage).collect();
        assert_eq!(told, [ConditionStage::Ended, ConditionStage::Began]);
    }

    #[test]
    fn a_flood_is_bounded() {
        let (mut conditions, now) = (Conditions::default(), Instant::now());
        for node in 0..20_000 {
            let error = Error::new(ErrorKind::Network, "away");
            conditions.raise(now, CLIENT, Subject::Node(NodeId(node)), ConditionKind::Unreachable, error);
        }
        conditions.handle_timeout(now + secs(3));
        assert_eq!((conditions.lasting.len(), conditions.log.len()), (CONDITIONS_MAX, LOG_MAX));
        assert_eq!(conditions.events(0).0.len(), LOG_MAX);
    }

    #[test]
    fn a_leader_that_is_missing_when_all_brokers_vanish_is_told_when_they_are_back() {
        let (mut conditions, now) = (Conditions::default(), Instant::now());
        let partition = Subject::Partition(TopicPartition::new("t", 0));
        let fail = |kind| Error::new(kind, "failed");
        for owner in [CLIENT, 7] {
            let error = fail(ErrorKind::Broker);
            conditions.raise(now, owner, partition.clone(), ConditionKind::NoLeader, error);
        }
        let error = fail(ErrorKind::Network);
        conditions.raise(now + secs(1), CLIENT, Subject::Cluster, ConditionKind::Unreachable, error);
        for second in 2..30 {
            conditions.handle_timeout(now + secs(second));
            assert!(conditions.next_deadline().is_some_and(|at| at > now + secs(second)));
        }
        let told: Vec<_> =
            conditions.told(now + secs(30)).into_iter().map(|(_, told)| told.subject).collect();
        assert_eq!(told, [Subject::Cluster]);
        conditions.clear_where(now + secs(30), |(_, subject, _)| *subject == Subject::Cluster);
        conditions.handle_timeout(now + secs(33));
        let told = conditions.told(now + secs(33));
        assert_eq!((told.len(), &told[0].1.subject), (1, &partition), "once, from the client itself");
    }
}
