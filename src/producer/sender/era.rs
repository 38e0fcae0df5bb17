//! Eras: the producer id and epoch under which sequences count (KIP-98, KIP-360).

use tokio::time::Instant;

use super::transactional::Transactional;
use crate::{Error, ErrorKind};

/// A producer id with its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Era {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
}

impl Era {
    /// What a producer without idempotence writes.
    pub(crate) const NONE: Self = Self { producer_id: -1, epoch: -1 };
}

/// The eras of one producer.
#[derive(Debug)]
pub(super) enum Eras {
    /// Sequences are not used.
    Off,
    /// A producer id is needed, not before that time.
    Wanted(Option<Instant>),
    /// A broker was asked.
    Asked,
    /// The latest era.
    Known(Era),
    /// They begin and end with transactions.
    Transactional(Transactional),
}

impl Eras {
    /// The era of new sequences of `partition`, once there is one.
    pub(super) fn of(&self, partition: usize) -> Option<Era> {
        match self {
            Self::Transactional(transactional) => transactional.era_of(partition),
            Self::Off => Some(Era::NONE),
            Self::Known(era) => Some(*era),
            _ => None,
        }
    }

    /// Ends `spoiled`, unless that happened already: the next epoch, or after the last one another producer id.
    pub(super) fn end(&mut self, spoiled: Era) {
        if let Self::Known(era) = self
            && *era == spoiled
        {
            match era.epoch.checked_add(1) {
                Some(epoch) if epoch < i16::MAX => era.epoch = epoch,
                _ => *self = Self::Wanted(None),
            }
        }
    }

    /// Ends `spoiled` for good: the broker knows a later epoch of this id, so another id is needed.
    pub(super) fn abandon(&mut self, spoiled: Era) {
        if let Self::Known(era) = self
            && era.producer_id == spoiled.producer_id
        {
            *self = Self::Wanted(None);
        }
    }

    /// True if a broker should be asked now.
    pub(super) fn wants(&self, now: Instant) -> bool {
        matches!(self, Self::Wanted(at) if at.is_none_or(|at| at <= now))
    }

    /// Takes the answer.
    pub(super) fn answered(&mut self, producer_id: i64, epoch: i16) -> Result<(), Error> {
        if producer_id < 0 || epoch < 0 {
            let message = format!("a broker gave producer id {producer_id} and epoch {epoch}");
            return Err(Error::new(ErrorKind::Protocol, message));
        }
        *self = Self::Known(Era { producer_id, epoch });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_count_up_to_the_last_and_end_once() {
        let mut eras = Eras::Asked;
        assert!(eras.answered(-1, 0).is_err());
        eras.answered(7, 0).expect("a valid answer");
        let first = eras.of(0).expect("known");
        eras.end(first);
        eras.end(first);
        assert_eq!(eras.of(0), Some(Era { producer_id: 7, epoch: 1 }), "the same era ends once");
        eras.answered(7, i16::MAX - 1).expect("a valid answer");
        eras.end(Era { producer_id: 7, epoch: i16::MAX - 1 });
        assert_eq!(eras.of(0), None, "the epochs of this id are used up");
        assert!(eras.wants(Instant::now()));
    }
}
