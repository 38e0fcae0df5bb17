//! Fetch sessions of one node (KIP-227): what a consumer fetches is remembered, and answers name only what changed.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use tokio::time::Instant;

use crate::ErrorCode;
use crate::wire::{Str, Uuid};

/// Sessions per node, Kafka's `max.incremental.fetch.session.cache.slots`.
const SESSIONS_MAX: usize = 1000;
/// A session that was not used for this long gives way to a new one when all slots are taken.
const EVICT_AFTER: Duration = Duration::from_secs(120);
/// Epoch of a fetch that begins a session.
const INITIAL_EPOCH: i32 = 0;
/// Epoch of a fetch that ends one, or has none.
const FINAL_EPOCH: i32 = -1;

/// A partition in a session: by id from version 13 on (then the name is empty), by name before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) id: Uuid,
    pub(crate) name: Str,
    pub(crate) partition: i32,
}

/// What is fetched of a partition, and what the last answer said about it.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) offset: i64,
    pub(crate) max_bytes: usize,
    pub(crate) leader_epoch: i32,
    pub(crate) last_fetched_epoch: i32,
    pub(crate) told_high_watermark: i64,
    pub(crate) told_log_start: i64,
}

impl Wanted {
    pub(crate) fn new(offset: i64, max_bytes: i32, leader_epoch: i32, last_fetched_epoch: i32) -> Self {
        Self {
            offset,
            max_bytes: usize::try_from(max_bytes).unwrap_or(0),
            leader_epoch,
            last_fetched_epoch,
            told_high_watermark: -1,
            told_log_start: -1,
        }
    }
}

#[derive(Debug)]
struct Session {
    /// Epoch that the next fetch must carry.
    epoch: i32,
    by_id: bool,
    used: Instant,
    wanted: BTreeMap<Key, Wanted>,
    /// The partition that goes first next time, so that a busy one does not starve the others.
    first: Option<Key>,
}

/// What a fetch is about.
#[derive(Debug)]
pub(crate) struct Opened {
    /// 0 without a session.
    pub(crate) session_id: i32,
    /// Only changes are to be answered.
    pub(crate) incremental: bool,
    /// What to read, in order.
    pub(crate) wanted: Vec<(Key, Wanted)>,
}

/// The sessions of a node.
#[derive(Debug, Default)]
pub(crate) struct Sessions(BTreeMap<i32, Session>);

impl Sessions {
    /// Begins, continues or ends a session. `ask` is what the request names, `forget` what it drops.
    #[expect(clippy::too_many_arguments, reason = "the fields of one request")]
    pub(crate) fn open(
        &mut self,
        now: Instant,
        session_id: i32,
        epoch: i32,
        by_id: bool,
        ask: Vec<(Key, Wanted)>,
        forget: &[Key],
        dice: &mut fastrand::Rng,
    ) -> Result<Opened, ErrorCode> {
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            self.end(session_id);
            let granted = epoch == INITIAL_EPOCH && !ask.is_empty() && self.make_room(now);
            let session_id = if granted { self.create(now, by_id, &ask, dice) } else { 0 };
            return Ok(Opened { session_id, incremental: false, wanted: ask });
        }
        let session = self.0.get_mut(&session_id).ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        if session.epoch != epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        if session.by_id != by_id {
            return Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
        }
        session.epoch = next_epoch(epoch);
        session.used = now;
        for key in forget {
            session.wanted.remove(key);
        }
        for (key, wanted) in ask {
            match session.wanted.get_mut(&key) {
                Some(known) => {
                    known.offset = wanted.offset;
                    known.max_bytes = wanted.max_bytes;
                    known.leader_epoch = wanted.leader_epoch;
                    known.last_fetched_epoch = wanted.last_fetched_epoch;
                }
                None => {
                    session.wanted.insert(key, wanted);
                }
            }
        }
        Ok(Opened { session_id, incremental: true, wanted: session.in_order() })
    }

    /// Forgets a session.
    pub(crate) fn end(&mut self, session_id: i32) {
        self.0.remove(&session_id);
    }

    /// Notes what an answer said about a partition.
    pub(crate) fn told(&mut self, session_id: i32, key: &Key, high_watermark: i64, log_start: i64) {
        if let Some(wanted) = self.0.get_mut(&session_id).and_then(|session| session.wanted.get_mut(key)) {
            wanted.told_high_watermark = high_watermark;
            wanted.told_log_start = log_start;
        }
    }

    /// Lets the partition behind `key` go first next time.
    pub(crate) fn rotate(&mut self, session_id: i32, key: &Key) {
        if let Some(session) = self.0.get_mut(&session_id) {
            session.first = session
                .wanted
                .range((Bound::Excluded(key), Bound::Unbounded))
                .next()
                .map(|(key, _)| key.clone());
        }
    }

    fn make_room(&mut self, now: Instant) -> bool {
        if self.0.len() < SESSIONS_MAX {
            return true;
        }
        let oldest = self.0.iter().min_by_key(|(_, session)| session.used);
        match oldest.map(|(id, session)| (*id, session.used)) {
            Some((id, used)) if now.saturating_duration_since(used) > EVICT_AFTER => {
                self.0.remove(&id);
                true
            }
            _ => false,
        }
    }

    fn create(&mut self, now: Instant, by_id: bool, ask: &[(Key, Wanted)], dice: &mut fastrand::Rng) -> i32 {
        let mut id = dice.i32(1..);
        while self.0.contains_key(&id) {
            id = dice.i32(1..);
        }
        let wanted = ask.iter().cloned().collect();
        self.0
            .insert(id, Session { epoch: next_epoch(INITIAL_EPOCH), by_id, used: now, wanted, first: None });
        id
    }
}

impl Session {
    fn in_order(&self) -> Vec<(Key, Wanted)> {
        let pair = |(key, wanted): (&Key, &Wanted)| (key.clone(), wanted.clone());
        match &self.first {
            Some(first) => {
                let tail = self.wanted.range(first..);
                tail.chain(self.wanted.range(..first)).map(pair).collect()
            }
            None => self.wanted.iter().map(pair).collect(),
        }
    }
}

/// Epochs run from 1 and wrap to 1.
fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: i32) -> Key {
        Key { id: Uuid::default(), name: "t".into(), partition }
    }

    fn ask(partitions: &[i32]) -> Vec<(Key, Wanted)> {
        partitions.iter().map(|partition| (key(*partition), Wanted::new(0, 100, -1, -1))).collect()
    }

    struct Bench {
        sessions: Sessions,
        dice: fastrand::Rng,
        now: Instant,
    }

    impl Bench {
        fn open(
            &mut self,
            id: i32,
            epoch: i32,
            partitions: &[i32],
            forget: &[i32],
        ) -> Result<Opened, ErrorCode> {
            let forget: Vec<_> = forget.iter().map(|partition| key(*partition)).collect();
            self.sessions.open(self.now, id, epoch, false, ask(partitions), &forget, &mut self.dice)
        }
    }

    fn fixture() -> Bench {
        Bench { sessions: Sessions::default(), dice: fastrand::Rng::with_seed(1), now: Instant::now() }
    }

    fn order(opened: &Opened) -> Vec<i32> {
        opened.wanted.iter().map(|(key, _)| key.partition).collect()
    }

    #[test]
    fn a_session_remembers_adds_and_forgets() {
        let mut f = fixture();
        let first = f.open(0, 0, &[0, 1], &[]).unwrap();
        assert!(first.session_id > 0 && !first.incremental);
        let id = first.session_id;
        assert_eq!(order(&f.open(id, 1, &[], &[]).unwrap()), [0, 1]);
        assert_eq!(order(&f.open(id, 2, &[2], &[0]).unwrap()), [1, 2]);
        f.sessions.rotate(id, &key(1));
        assert_eq!(order(&f.open(id, 3, &[], &[]).unwrap()), [2, 1]);
        assert_eq!(f.open(id, 3, &[], &[]).unwrap_err(), ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        assert_eq!(f.open(id + 1, 4, &[], &[]).unwrap_err(), ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        let closed = f.open(id, -1, &[], &[]).unwrap();
        assert_eq!((closed.session_id, closed.wanted.len()), (0, 0));
        assert_eq!(f.open(id, 4, &[], &[]).unwrap_err(), ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    }

    #[test]
    fn a_fetch_without_session_gets_none() {
        let mut f = fixture();
        let opened = f.open(0, -1, &[3], &[]).unwrap();
        assert_eq!((opened.session_id, opened.incremental, order(&opened)), (0, false, vec![3]));
    }

    #[test]
    fn full_caches_refuse_until_a_session_is_idle() {
        let mut f = fixture();
        for _ in 0..SESSIONS_MAX {
            assert!(f.open(0, 0, &[0], &[]).unwrap().session_id > 0);
        }
        assert_eq!(f.open(0, 0, &[0], &[]).unwrap().session_id, 0);
        f.now += EVICT_AFTER + Duration::from_secs(1);
        assert!(f.open(0, 0, &[0], &[]).unwrap().session_id > 0);
    }

    #[test]
    fn names_and_ids_do_not_mix_and_epochs_wrap() {
        let mut f = fixture();
        let id = f.open(0, 0, &[0], &[]).unwrap().session_id;
        let mixed = f.sessions.open(f.now, id, 1, true, Vec::new(), &[], &mut f.dice);
        assert_eq!(mixed.unwrap_err(), ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
        assert_eq!(next_epoch(i32::MAX), 1);
    }
}
