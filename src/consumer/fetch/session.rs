//! Machine: a fetch session (KIP-227): what to put into the next request so that the broker knows all that is
//! wanted, while only what changed is sent.

use std::collections::{BTreeMap, BTreeSet};

use super::verdict::{SessionVerdict, session_verdict};
use crate::ErrorCode;
use crate::consumer::shared::grouped;
use crate::types::TopicPartition;
use crate::wire::Uuid;
use crate::wire::fetch::{ForgottenTopic, PartitionRequest, Request, TopicRequest};

/// First version that names topics by id alone.
const TOPIC_IDS: i16 = 13;
/// First version with sessions.
const SESSIONS: i16 = 7;

/// A partition that is to be read from a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) partition: TopicPartition,
    pub(crate) topic_id: Uuid,
    pub(crate) offset: i64,
    /// Epoch of the leader as we know it; -1 for unknown.
    pub(crate) leader_epoch: i32,
    /// Epoch of the record in front of `offset`; -1 for unknown.
    pub(crate) last_epoch: i32,
    pub(crate) max_bytes: i32,
}

/// What the broker was told of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    topic_id: Uuid,
    request: PartitionRequest,
}

impl Told {
    fn of(want: &Want) -> Self {
        let request = PartitionRequest {
            partition: want.partition.partition.0,
            current_leader_epoch: want.leader_epoch,
            fetch_offset: want.offset,
            last_fetched_epoch: want.last_epoch,
            partition_max_bytes: want.max_bytes,
        };
        Self { topic_id: want.topic_id, request }
    }
}

/// The session with one broker. One request at a time: [`build`](Self::build) or [`again`](Self::again), then exactly one of
/// [`accept`](Self::accept), [`refuse`](Self::refuse) and [`reset`](Self::reset).
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// 0 while there is none.
    id: i32,
    /// Number of the next request; 0 for a full one.
    epoch: i32,
    told: BTreeMap<TopicPartition, Told>,
    /// What the broker told of these was not taken; it would not tell it again to those who stay.
    renewed: BTreeSet<TopicPartition>,
    /// Some of what is wanted left with the latest request, to enter with the next.
    is_partial: bool,
    by_id: bool,
    /// Grows with every full request, to begin with another partition each time.
    turn: usize,
}

impl Session {
    /// The next request: everything in a new session, changes in an existing one. `request` comes with limits filled in,
    /// `wants` in their order.
    pub(crate) fn build(&mut self, mut request: Request, wants: &[Want], version: i16) -> Request {
        let by_id = version >= TOPIC_IDS;
        if by_id != self.by_id || version < SESSIONS {
            self.reset();
            self.by_id = by_id;
        }
        request.session_id = self.id;
        request.session_epoch = self.epoch;
        let full = self.epoch == 0;
        if full {
            self.told.clear();
        }
        let renewed = std::mem::take(&mut self.renewed);
        self.is_partial = false;
        let mut send: Vec<(&TopicPartition, Told)> = Vec::new();
        let mut forget: Vec<(TopicPartition, Uuid)> = Vec::new();
        // Both are in order: one look at each says what differs.
        let mut told = self.told.iter().peekable();
        for want in wants {
            let partition = &want.partition;
            while let Some((other, known)) = told.next_if(|(other, _)| *other < partition) {
                forget.push((other.clone(), known.topic_id));
            }
            let wanted = Told::of(want);
            match told.next_if(|(other, _)| *other == partition) {
                Some((_, known)) if known.topic_id != wanted.topic_id => {
                    // A topic that was recreated has another id: the old one leaves, the new one enters.
                    forget.push((partition.clone(), known.topic_id));
                    send.push((partition, wanted));
                }
                Some((_, known)) if renewed.contains(partition) => {
                    // A request cannot take a partition out and in again: it enters with the next, at once.
                    forget.push((partition.clone(), known.topic_id));
                    request.max_wait_ms = 0;
                    self.is_partial = true;
                }
                Some((_, known)) if *known == wanted => {}
                _ => send.push((partition, wanted)),
            }
        }
        forget.extend(told.map(|(other, known)| (other.clone(), known.topic_id)));
        for (partition, _) in &forget {
            self.told.remove(partition);
        }
        if full && !send.is_empty() {
            self.turn = self.turn.wrapping_add(1);
            let turn = self.turn % send.len();
            send.rotate_left(turn);
        }
        let asked = send.iter().map(|(partition, told)| ((&partition.topic, told.topic_id), told.request));
        request.topics = (grouped(asked).into_iter())
            .map(|((topic, topic_id), partitions)| TopicRequest {
                name: topic.to_byte_string(),
                topic_id,
                partitions,
            })
            .collect();
        let left = forget.iter().map(|(partition, id)| ((&partition.topic, *id), partition.partition.0));
        request.forgotten = (grouped(left).into_iter())
            .map(|((topic, topic_id), partitions)| ForgottenTopic {
                name: topic.to_byte_string(),
                topic_id,
                partitions,
            })
            .collect();
        self.told.extend(send.into_iter().map(|(partition, told)| (partition.clone(), told)));
        request
    }

    /// The next request if nothing has changed; `None` where it has to be [built](Self::build).
    pub(crate) fn again(&self, mut request: Request) -> Option<Request> {
        request.session_id = self.id;
        request.session_epoch = self.epoch;
        (self.epoch != 0 && self.renewed.is_empty() && !self.is_partial).then_some(request)
    }

    /// The broker answered without an error; `listed` are the partitions that it named.
    pub(crate) fn accept<'a>(&mut self, session_id: i32, listed: impl Iterator<Item = &'a TopicPartition>) {
        let mut count = 0;
        let mut known = true;
        for partition in listed {
            count += 1;
            known &= self.told.contains_key(partition);
        }
        let full = self.epoch == 0;
        if session_id == 0 || !known || (full && count < self.told.len()) || (!full && session_id != self.id)
        {
            // None granted, or the broker has another idea of it than we.
            self.reset();
            return;
        }
        self.id = session_id;
        self.epoch = self.epoch.checked_add(1).unwrap_or(1);
    }

    /// What the broker told of `partition` was not taken, since it was asked under a state that is over. Its next answer
    /// shall tell everything of it again.
    pub(crate) fn renew(&mut self, partition: TopicPartition) {
        self.renewed.insert(partition);
    }

    /// The broker answered the whole request with an error. True if a new session will help.
    pub(crate) fn refuse(&mut self, code: ErrorCode) -> bool {
        let id = self.id;
        self.reset();
        let verdict = session_verdict(code);
        if verdict == SessionVerdict::OutOfStep {
            // A full request that names the old session ends it.
            self.id = id;
        }
        verdict != SessionVerdict::Failed
    }

    /// The session is gone, or in doubt: the next request is full.
    pub(crate) fn reset(&mut self) {
        self.id = 0;
        self.epoch = 0;
        self.told.clear();
        self.renewed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(topic: &'static str, partition: i32, offset: i64) -> Want {
        Want {
            partition: TopicPartition::new(topic, partition),
            topic_id: Uuid([topic.as_bytes()[0]; 16]),
            offset,
            leader_epoch: 1,
            last_epoch: -1,
            max_bytes: 1000,
        }
    }

    /// Session id and epoch, then what is sent and what is forgotten.
    fn build(session: &mut Session, wants: &[Want]) -> String {
        let request = session.build(Request::default(), wants, 13);
        let topics: Vec<String> = request
            .topics
            .iter()
            .flat_map(|t| {
                t.partitions.iter().map(move |p| format!("{}{}@{}", t.name, p.partition, p.fetch_offset))
            })
            .collect();
        let forgotten: Vec<String> = request
            .forgotten
            .iter()
            .flat_map(|t| t.partitions.iter().map(move |p| format!("{}{p}", t.name)))
            .collect();
        format!(
            "{}/{} +{} -{}",
            request.session_id,
            request.session_epoch,
            topics.join(","),
            forgotten.join(",")
        )
    }

    fn accept(session: &mut Session, id: i32, listed: &[(&'static str, i32)]) {
        let listed: Vec<TopicPartition> = listed.iter().map(|(t, p)| TopicPartition::new(*t, *p)).collect();
        session.accept(id, listed.iter());
    }

    #[test]
    fn only_changes_are_sent() {
        let mut session = Session::default();
        let first = build(&mut session, &[want("a", 0, 0), want("b", 0, 5)]);
        assert_eq!(first, "0/0 +b0@5,a0@0 -");
        accept(&mut session, 9, &[("a", 0), ("b", 0)]);
        assert_eq!(build(&mut session, &[want("a", 0, 0), want("b", 0, 5)]), "9/1 + -");
        let again = session.again(Request::default()).unwrap();
        assert_eq!((again.session_id, again.session_epoch, again.topics.len()), (9, 1, 0));
        accept(&mut session, 9, &[]);
        assert_eq!(build(&mut session, &[want("a", 0, 7), want("a", 1, 0)]), "9/2 +a0@7,a1@0 -b0");
        accept(&mut session, 9, &[("a", 0)]);
        assert_eq!(build(&mut session, &[want("a", 0, 8), want("a", 1, 0)]), "9/3 +a0@8 -");
    }

    #[test]
    fn sessions_that_are_not_granted_are_no_loop() {
        let mut session = Session::default();
        build(&mut session, &[want("a", 0, 0)]);
        accept(&mut session, 0, &[("a", 0)]);
        assert_eq!(build(&mut session, &[want("a", 0, 0)]), "0/0 +a0@0 -");
    }

    #[test]
    fn errors_begin_a_new_session() {
        for (code, expected) in [(70, "0/0 +a0@0 -"), (71, "9/0 +a0@0 -"), (106, "9/0 +a0@0 -")] {
            let mut session = Session::default();
            build(&mut session, &[want("a", 0, 0)]);
            accept(&mut session, 9, &[("a", 0)]);
            build(&mut session, &[want("a", 0, 0)]);
            assert!(session.refuse(ErrorCode(code)));
            assert_eq!(build(&mut session, &[want("a", 0, 0)]), expected);
        }
        let mut session = Session::default();
        build(&mut session, &[want("a", 0, 0)]);
        assert!(!session.refuse(ErrorCode(-1)));
    }

    #[test]
    fn answers_that_do_not_fit_reset() {
        // A full answer that leaves a partition out.
        let mut session = Session::default();
        build(&mut session, &[want("a", 0, 0), want("a", 1, 0)]);
        accept(&mut session, 9, &[("a", 0)]);
        assert!(build(&mut session, &[want("a", 0, 0)]).starts_with("0/0"));
        // A partition that was never asked for.
        accept(&mut session, 9, &[("a", 0), ("x", 0)]);
        assert!(build(&mut session, &[want("a", 0, 0)]).starts_with("0/0"));
    }

    #[test]
    fn a_topic_made_anew_is_replaced_in_one_request() {
        let mut session = Session::default();
        build(&mut session, &[want("a", 0, 9)]);
        accept(&mut session, 9, &[("a", 0)]);
        let mut anew = want("a", 0, 0);
        anew.topic_id = Uuid([7; 16]);
        assert_eq!(build(&mut session, &[anew]), "9/1 +a0@0 -a0");
    }

    #[test]
    fn what_was_not_taken_is_told_again() {
        let mut session = Session::default();
        build(&mut session, &[want("a", 0, 0), want("a", 1, 0)]);
        accept(&mut session, 9, &[("a", 0), ("a", 1)]);
        session.renew(TopicPartition::new("a", 0));
        let request =
            session.build(Request { max_wait_ms: 500, ..Request::default() }, &[want("a", 0, 5)], 13);
        assert_eq!(
            (request.topics.len(), request.forgotten[0].partitions.as_slice(), request.max_wait_ms),
            (0, &[0, 1][..], 0)
        );
        accept(&mut session, 9, &[]);
        assert!(session.again(Request::default()).is_none());
        assert_eq!(build(&mut session, &[want("a", 0, 5)]), "9/2 +a0@5 -");
    }

    #[test]
    fn the_epoch_wraps_to_one() {
        let mut session = Session::default();
        build(&mut session, &[want("a", 0, 0)]);
        accept(&mut session, 9, &[("a", 0)]);
        session.epoch = i32::MAX;
        build(&mut session, &[want("a", 0, 0)]);
        accept(&mut session, 9, &[]);
        assert_eq!(build(&mut session, &[want("a", 0, 0)]), "9/1 + -");
    }
}
