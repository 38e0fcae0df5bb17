//! Machine: which topic of a name is the one of now.
//!
//! A topic that is deleted and recreated keeps its name and gets another id, and ids have no order. A broker that lags
//! behind, or that was frozen, still tells of the one before. So another id is believed when a second answer in a row
//! says the same, and one that was replaced only after many: the cluster was restored from a backup.

use std::collections::VecDeque;

use crate::types::Uuid;

/// A new id is believed after this many answers in a row that name it.
const CLAIMS_MIN: u32 = 2;
/// An id that was replaced is believed again after this many answers in a row that name it.
const RETURNS_MIN: u32 = 20;
/// Replaced ids that are kept; the oldest go first.
const RETIRED_MAX: usize = 64;

/// What an id says about an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is about the topic that we know, or ids are not known.
    Same,
    /// It is about another topic, which took the place of the one that we knew.
    Replaced,
    /// It may be about a topic of the past: ask again.
    Doubtful,
}

/// The ids that a name has had.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    current: Option<Uuid>,
    /// Another id and the number of answers in a row that named it.
    claimed: Option<(Uuid, u32)>,
    retired: VecDeque<Uuid>,
}

impl Lineage {
    /// An answer names `id`; zero where the broker has none.
    pub(super) fn handle_id(&mut self, id: Uuid) -> Claim {
        if id == Uuid::default() {
            return Claim::Same;
        }
        let Some(current) = self.current.filter(|current| *current != id) else {
            self.current = Some(id);
            self.claimed = None;
            return Claim::Same;
        };
        let claims = self.claimed.filter(|(claimed, _)| *claimed == id).map_or(0, |(_, claims)| claims) + 1;
        let needed = if self.retired.contains(&id) { RETURNS_MIN } else { CLAIMS_MIN };
        if claims < needed {
            self.claimed = Some((id, claims));
            return Claim::Doubtful;
        }
        self.retired.retain(|retired| *retired != id);
        if self.retired.len() == RETIRED_MAX {
            self.retired.pop_front();
        }
        self.retired.push_back(current);
        self.current = Some(id);
        self.claimed = None;
        Claim::Replaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> Uuid {
        Uuid([byte; 16])
    }

    #[test]
    fn another_id_is_believed_at_its_second_answer_in_a_row() {
        let mut lineage = Lineage::default();
        assert_eq!(lineage.handle_id(id(0)), Claim::Same);
        assert_eq!(lineage.handle_id(id(1)), Claim::Same);
        assert_eq!(lineage.handle_id(id(2)), Claim::Doubtful);
        assert_eq!(lineage.handle_id(id(1)), Claim::Same, "the first was a broker that lags");
        assert_eq!(lineage.handle_id(id(2)), Claim::Doubtful);
        assert_eq!(lineage.handle_id(id(3)), Claim::Doubtful);
        assert_eq!(lineage.handle_id(id(3)), Claim::Replaced);
        assert_eq!(lineage.handle_id(id(0)), Claim::Same, "a broker without ids says nothing about them");
    }

    #[test]
    fn an_id_that_was_replaced_returns_only_if_all_say_so_for_long() {
        let mut lineage = Lineage::default();
        for byte in [1, 2, 2] {
            lineage.handle_id(id(byte));
        }
        for _ in 0..100 {
            assert_eq!(lineage.handle_id(id(1)), Claim::Doubtful);
            assert_eq!(lineage.handle_id(id(1)), Claim::Doubtful);
            assert_eq!(lineage.handle_id(id(2)), Claim::Same);
        }
        let answers = (1..).find(|_| lineage.handle_id(id(1)) == Claim::Replaced);
        assert_eq!(answers, Some(RETURNS_MIN));
    }
}
