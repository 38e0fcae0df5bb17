//! Machine: the end of a membership that is under way: who waits for it, what it cost, and what it was in the end.

use std::collections::VecDeque;

use bytestring::ByteString;
use tokio::time::Instant;

use super::commits::{Failed, summary};
use crate::{Error, ErrorKind, Result};

/// The end.
#[derive(Debug)]
pub(crate) struct Closing {
    group: ByteString,
    /// Until when who waits.
    waiters: Vec<(Instant, u64)>,
    failed: Vec<Failed>,
    /// What became of the goodbye; `None` as long as nothing did.
    left: Option<Result<()>>,
    told: VecDeque<(u64, Result<()>)>,
}

impl Closing {
    pub(crate) fn new(group: ByteString) -> Self {
        Self { group, waiters: Vec::new(), failed: Vec::new(), left: None, told: VecDeque::new() }
    }

    /// `waiter` waits for the end until `deadline`.
    pub(crate) fn wait(&mut self, deadline: Instant, waiter: u64) {
        self.waiters.push((deadline, waiter));
    }

    /// When the last of those who wait stops; `least` at the earliest.
    pub(crate) fn until(&self, least: Instant) -> Instant {
        self.waiters.iter().map(|(by, _)| *by).fold(least, Instant::max)
    }

    /// These marks were not committed.
    pub(crate) fn handle_failed(&mut self, failed: impl IntoIterator<Item = Failed>) {
        self.failed.extend(failed);
    }

    /// The group was left, or could not be.
    pub(crate) fn handle_left(&mut self, result: Result<()>) {
        self.left = Some(result);
    }

    /// Gives up on those whose time is over; `reason` is why it may have been too short.
    pub(crate) fn handle_timeout(&mut self, now: Instant, reason: Option<&Error>) {
        let (over, still): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiters).into_iter().partition(|(by, _)| *by <= now);
        self.waiters = still;
        self.tell(over, reason);
    }

    /// Nothing more will come. Tells everybody, and whoever asks later.
    pub(crate) fn handle_end(&mut self) -> Result<()> {
        self.left.get_or_insert(Ok(()));
        let waiters = std::mem::take(&mut self.waiters);
        self.tell(waiters, None);
        self.result(None)
    }

    /// Somebody who waited, and what to tell.
    pub(crate) fn poll_output(&mut self) -> Option<(u64, Result<()>)> {
        self.told.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.waiters.iter().map(|(by, _)| *by).min()
    }

    fn tell(&mut self, waiters: Vec<(Instant, u64)>, reason: Option<&Error>) {
        for (_, waiter) in waiters {
            let result = self.result(reason);
            self.told.push_back((waiter, result));
        }
    }

    fn result(&self, reason: Option<&Error>) -> Result<()> {
        let group = &self.group;
        summary(&format!("closing a member of group {group}"), &self.failed)?;
        let stays = "the coordinator counts the member out when its session times out";
        match &self.left {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => {
                let message = format!("group {group} was not left");
                Err(Error::new(error.kind(), message).with_advice(stays).with_source(error.clone()))
            }
            None => {
                let message = format!("group {group} was not left before the deadline");
                let error = Error::new(ErrorKind::Timeout, message).with_advice(stays);
                Err(match reason {
                    Some(reason) => error.with_source(reason.clone()),
                    None => error,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::consumer::mark::Mark;
    use crate::types::{Offset, TopicPartition};

    #[test]
    fn everybody_hears_what_is_true_when_their_time_is_over() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut closing = Closing::new("g".into());
        closing.wait(now + second, 1);
        closing.wait(now + second * 2, 2);
        assert_eq!((closing.next_deadline(), closing.until(now)), (Some(now + second), now + second * 2));
        let away = Error::new(ErrorKind::Network, "away");
        closing.handle_timeout(now + second, Some(&away));
        let (waiter, result) = closing.poll_output().unwrap();
        let text = crate::error::Chain(&result.unwrap_err()).to_string();
        assert!(waiter == 1 && text.contains("not left before the deadline") && text.contains("away"));
        assert!(closing.poll_output().is_none());
        // What was left later was left; what was not committed stays that.
        closing.handle_left(Ok(()));
        let mark = Mark::new(TopicPartition::new("t", 0), Offset(7));
        closing.handle_failed([Failed { mark, error: away }]);
        assert!(closing.handle_end().unwrap_err().to_string().contains("t[0] at 7"));
        let (waiter, result) = closing.poll_output().unwrap();
        assert!(waiter == 2 && result.is_err());
    }
}
