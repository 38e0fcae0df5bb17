//! Machine: who waits until what was enqueued is settled, when their time is up, and when the producer is over.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::sender::{Sender, Unfinished};

/// What the driver has to do. `D` is where somebody waits to hear of it.
#[derive(Debug)]
pub(super) enum Output<D> {
    /// Tell it that all is settled, or what is not.
    Tell(D, Result<(), Unfinished>),
    /// The producer is over: what is left is given up.
    End,
}

#[derive(Debug)]
struct Flush<D> {
    /// See [`Sender::is_flushed`].
    number: u64,
    deadline: Instant,
    done: D,
}

#[derive(Debug)]
struct Closing<D> {
    deadline: Instant,
    flush: u64,
    done: Vec<D>,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Ends<D> {
    flushes: Vec<Flush<D>>,
    closing: Option<Closing<D>>,
    /// No handle is left.
    orphaned: bool,
    /// What was given up.
    lost: Option<Unfinished>,
    outputs: VecDeque<Output<D>>,
}

impl<D> Ends<D> {
    pub(super) fn new() -> Self {
        Self { flushes: Vec::new(), closing: None, orphaned: false, lost: None, outputs: VecDeque::new() }
    }

    /// `done` waits for the flush with this `number`, until `deadline`.
    pub(super) fn handle_flush(&mut self, number: u64, deadline: Instant, done: D) {
        self.flushes.push(Flush { number, deadline, done });
    }

    /// The producer is over once the flush with this `number` is done, or at `deadline`. If it was to be closed before, the
    /// earlier deadline counts.
    pub(super) fn handle_close(&mut self, number: u64, deadline: Instant, done: Option<D>) {
        let closing =
            self.closing.get_or_insert_with(|| Closing { deadline, flush: number, done: Vec::new() });
        closing.flush = number;
        closing.deadline = closing.deadline.min(deadline);
        closing.done.extend(done);
    }

    /// `done` wants to close what is over already.
    pub(super) fn handle_late_close(&mut self, done: D) {
        if let Some(closing) = &mut self.closing {
            closing.done.push(done);
        }
    }

    /// No handle is left: the producer is over once nothing waits any more.
    pub(super) fn handle_orphaned(&mut self) {
        self.orphaned = true;
    }

    /// So many `records` were given up; `left` says what was not settled before.
    pub(super) fn handle_given_up(&mut self, left: Unfinished, records: u64) {
        if records > 0 {
            self.lost.get_or_insert(left).records += records;
        }
    }

    /// Time passed, or something happened to the batches of `sender`.
    pub(super) fn handle_timeout(&mut self, now: Instant, sender: &Sender) {
        let is_over = |flush: &mut Flush<D>| sender.is_flushed(flush.number) || flush.deadline <= now;
        for Flush { number, done, .. } in self.flushes.extract_if(.., is_over) {
            let flushed = sender.is_flushed(number);
            let outcome = if flushed { Ok(()) } else { Err(sender.unfinished(number)) };
            self.outputs.push_back(Output::Tell(done, outcome));
        }
        let closed = self.closing.as_ref().is_some_and(|closing| {
            sender.is_flushed(closing.flush) && sender.rests() || closing.deadline <= now
        });
        if closed || self.orphaned && sender.is_idle() && sender.rests() {
            self.outputs.push_back(Output::End);
        }
    }

    pub(super) fn poll_output(&mut self) -> Option<Output<D>> {
        self.outputs.pop_front()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let closing = self.closing.iter().map(|closing| closing.deadline);
        self.flushes.iter().map(|flush| flush.deadline).chain(closing).min()
    }

    /// It is over: who wanted it closed, and what was given up.
    pub(super) fn take_end(&mut self) -> (Vec<D>, Option<Unfinished>) {
        let done = self.closing.take().map(|closing| closing.done).unwrap_or_default();
        (done, self.lost.take())
    }
}
