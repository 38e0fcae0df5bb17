//! Machine: eras that begin and end with transactions.
//!
//! A partition is written to under the era of the open transaction once it is admitted to it. What fails, fails the
//! transaction, and then nothing more of it is sent.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::era::{Era, Eras};
use super::{Lanes, Sender};
use crate::types::TopicPartition;
use crate::{Error, ErrorKind};

/// The eras of a transactional producer.
#[derive(Debug, Default)]
pub(super) struct Transactional {
    open: Option<Open>,
    /// Sequences of the latest era have a gap, so that it must not go on behind this transaction.
    torn: bool,
}

#[derive(Debug)]
struct Open {
    era: Era,
    /// Partitions need not be admitted.
    admits_all: bool,
    /// Those that are, or were written to.
    partitions: BTreeSet<usize>,
    /// Something was sent.
    sent: bool,
    /// Why it cannot be committed; the second tells that this was taken.
    fault: Option<(Error, bool)>,
    /// Why nothing more is sent.
    dropped: Option<Error>,
}

impl Transactional {
    pub(super) fn era_of(&self, partition: usize) -> Option<Era> {
        let open = self.open.as_ref()?;
        let admitted = open.admits_all || open.partitions.contains(&partition);
        (admitted && open.fault.is_none() && open.dropped.is_none()).then_some(open.era)
    }

    /// A batch is sent to `partition`.
    pub(super) fn send(&mut self, partition: usize) {
        if let Some(open) = &mut self.open {
            open.sent = true;
            open.partitions.insert(partition);
        }
    }

    /// Sequences of `partition` have a gap.
    pub(super) fn tear(&mut self, partition: usize) {
        self.torn = true;
        if self.open.as_ref().is_some_and(|open| open.partitions.contains(&partition)) {
            let what = "the broker has lost track of records of this transaction";
            self.note(&Error::new(ErrorKind::Broker, what));
        }
    }

    fn note(&mut self, error: &Error) {
        if let Some(open) = self.open.as_mut().filter(|open| open.dropped.is_none()) {
            open.fault.get_or_insert_with(|| (error.clone(), false));
        }
    }
}

impl Sender {
    /// This machine for a producer whose eras begin and end with transactions.
    pub(in crate::producer) fn transactional(mut self) -> Self {
        self.eras = Eras::Transactional(Transactional::default());
        self
    }

    fn open(&self) -> Option<&Open> {
        match &self.eras {
            Eras::Transactional(transactional) => transactional.open.as_ref(),
            _ => None,
        }
    }

    fn open_mut(&mut self) -> Option<&mut Open> {
        match &mut self.eras {
            Eras::Transactional(transactional) => transactional.open.as_mut(),
            _ => None,
        }
    }

    /// A transaction begins under `era`. `admits_all`: partitions become part of it by being written to (KIP-890).
    pub(in crate::producer) fn handle_opened(&mut self, now: Instant, era: Era, admits_all: bool) {
        if let Eras::Transactional(transactional) = &mut self.eras {
            transactional.open = Some(Open {
                era,
                admits_all,
                partitions: BTreeSet::new(),
                sent: false,
                fault: None,
                dropped: None,
            });
        }
        if admits_all {
            let waiting: Vec<_> = self.waiting_for_era.iter().copied().collect();
            self.handle_admitted(now, &waiting);
        }
    }

    /// These partitions are part of the transaction.
    pub(in crate::producer) fn handle_admitted(&mut self, now: Instant, partitions: &[usize]) {
        if let Some(open) = self.open_mut().filter(|open| !open.admits_all) {
            open.partitions.extend(partitions);
        }
        for partition in partitions {
            if self.waiting_for_era.remove(partition) {
                self.schedule(now, *partition);
            }
        }
    }

    /// Nothing more of the open transaction is sent: what is not on the way fails with `error`, and what is on the way unless
    /// its answer says otherwise.
    pub(in crate::producer) fn handle_dropped(
        &mut self,
        now: Instant,
        error: &Error,
        lanes: &mut impl Lanes,
    ) {
        let Some(open) = self.open_mut() else { return };
        open.dropped.get_or_insert_with(|| error.clone());
        for partition in self.waiting_partitions() {
            self.fail_waiting(now, partition, error, lanes);
            self.schedule(now, partition);
        }
        self.waiting_for_era.clear();
    }

    /// The open transaction is over.
    pub(in crate::producer) fn handle_closed(&mut self, _now: Instant) {
        if let Eras::Transactional(transactional) = &mut self.eras {
            transactional.open = None;
        }
    }

    /// Why nothing more of the open transaction is sent.
    pub(super) fn dropped(&self) -> Option<&Error> {
        self.open()?.dropped.as_ref()
    }

    /// A record failed, and with it the transaction that it is part of.
    pub(super) fn note_failure(&mut self, error: &Error) {
        if let Eras::Transactional(transactional) = &mut self.eras {
            transactional.note(error);
        }
    }

    /// Why the open transaction cannot be committed, once.
    pub(in crate::producer) fn take_fault(&mut self) -> Option<Error> {
        let (fault, taken) = self.open_mut()?.fault.as_mut()?;
        (!std::mem::replace(taken, true)).then(|| fault.clone())
    }

    /// True, once, if sequences of the latest era have a gap.
    pub(in crate::producer) fn take_torn(&mut self) -> bool {
        match &mut self.eras {
            Eras::Transactional(transactional) => std::mem::take(&mut transactional.torn),
            _ => false,
        }
    }

    /// True unless a transaction is open or being ended.
    pub(in crate::producer) fn rests(&self) -> bool {
        self.open().is_none()
    }

    /// True if anything of the open transaction was sent.
    pub(in crate::producer) fn has_sent(&self) -> bool {
        self.open().is_some_and(|open| open.sent)
    }

    /// True if nothing waits and no request is on its way.
    pub(in crate::producer) fn is_quiet(&self) -> bool {
        self.outstanding.is_empty() && self.requests.is_empty()
    }

    /// Partitions with records that wait to be admitted to the open transaction.
    pub(in crate::producer) fn unadmitted(&self) -> Vec<usize> {
        match self.open() {
            Some(open) if !open.admits_all && open.dropped.is_none() => {
                self.waiting_for_era.difference(&open.partitions).copied().collect()
            }
            _ => Vec::new(),
        }
    }

    /// The name of the partition with this number.
    pub(in crate::producer) fn partition_name(&self, partition: usize) -> TopicPartition {
        self.name(partition)
    }
}
