//! Machine: the end of a membership that is under way: who waits for it, what it cost, and what it was in the end.

use bytestring::ByteString;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::commits::{Failed, summary};
use crate::{Error, ErrorKind, Result};

/// The end.
#[derive(Debug)]
pub(crate) struct Closing {
    group: ByteString,
    waiters: Vec<(Instant, oneshot::Sender<Result<()>>)>,
    failed: Vec<Failed>,
    /// What became of the goodbye; `None` as long as nothing did.
    left: Option<Result<()>>,
}

impl Closing {
    pub(crate) fn new(group: ByteString) -> Self {
        Self { group, waiters: Vec::new(), failed: Vec::new(), left: None }
    }

    /// Somebody waits for the end until `deadline`.
    pub(crate) fn wait(&mut self, deadline: Instant, reply: oneshot::Sender<Result<()>>) {
        self.waiters.push((deadline, reply));
    }

    /// These marks were not committed.
    pub(crate) fn handle_failed(&mut self, failed: Vec<Failed>) {
        for Failed { mark, error } in &failed {
            let partition = mark.topic_partition();
            tracing::warn!(group = %self.group, %partition, offset = %mark.offset(), %error, "not committed at the end");
        }
        self.failed.extend(failed);
    }

    /// The group was left, or could not be.
    pub(crate) fn handle_left(&mut self, result: Result<()>) {
        self.left = Some(result);
    }

    /// Tells those whose time is over; `reason` is why it may have been too short.
    pub(crate) fn expire(&mut self, now: Instant, reason: impl FnOnce() -> Option<Error>) {
        let (over, still): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiters).into_iter().partition(|(by, _)| *by <= now);
        self.waiters = still;
        if !over.is_empty() {
            self.tell(over, reason());
        }
    }

    /// Tells everybody, and whoever asks later.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.left.get_or_insert(Ok(()));
        let waiters = std::mem::take(&mut self.waiters);
        self.tell(waiters, None);
        self.result(None)
    }

    /// When the last of those who wait stops; `least` at the earliest.
    pub(crate) fn until(&self, least: Instant) -> Instant {
        self.waiters.iter().map(|(by, _)| *by).fold(least, Instant::max)
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.waiters.iter().map(|(by, _)| *by).min()
    }

    fn tell(&self, waiters: Vec<(Instant, oneshot::Sender<Result<()>>)>, reason: Option<Error>) {
        for (_, reply) in waiters {
            // Whoever closed may have stopped waiting.
            let _ = reply.send(self.result(reason.as_ref()));
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
