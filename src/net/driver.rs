//! The task of a connection: moves bytes between socket, frame buffer and machine, and decides nothing.
//!
//! One task does both directions. Each round takes queued requests, writes them all with one vectored write, reads once
//! and looks at the timer, so neither direction starves the other; tokio's cooperative budget ends a turn that would
//! otherwise go on for ever.

use std::future::Future;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::failure::Failure;
use super::machine::{Machine, Output};
use super::sasl::{Dialogue, Mechanism, Said};
use super::shared::{Command, Shared, Waiter};
use crate::error::Phase;
use crate::runtime::{Runtime, Stream};
use crate::wire::frame::FrameReader;

/// Most slices of one vectored write.
const SLICES_MAX: usize = 64;
/// Most commands taken before the socket gets its turn.
const COMMANDS_MAX: usize = 128;

/// Who speaks for us when the session is renewed.
pub(super) struct Speaker {
    mechanism: Option<Arc<dyn Mechanism>>,
    runtime: Arc<dyn Runtime>,
    dialogue: Option<Dialogue>,
}

impl Speaker {
    pub(super) fn new(mechanism: Option<Arc<dyn Mechanism>>, runtime: Arc<dyn Runtime>) -> Self {
        Self { mechanism, runtime, dialogue: None }
    }
}

/// State of the task.
pub(super) struct Driver {
    stream: Box<dyn Stream>,
    buffer: FrameReader,
    machine: Machine<Waiter>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// All handles are gone.
    orphaned: bool,
    batch: Vec<Command>,
    sleep: Pin<Box<Sleep>>,
    needs_flush: bool,
    shared: Arc<Shared>,
    speaker: Speaker,
}

impl Driver {
    pub(super) fn new(
        stream: Box<dyn Stream>,
        buffer: FrameReader,
        machine: Machine<Waiter>,
        commands: mpsc::UnboundedReceiver<Command>,
        shared: Arc<Shared>,
        speaker: Speaker,
    ) -> Self {
        let sleep = Box::pin(tokio::time::sleep_until(Instant::now()));
        Self {
            stream,
            buffer,
            machine,
            commands,
            orphaned: false,
            batch: Vec::new(),
            sleep,
            needs_flush: false,
            shared,
            speaker,
        }
    }

    /// Runs until the connection is over.
    pub(super) async fn run(mut self) {
        std::future::poll_fn(|context| self.poll(context)).await;
        self.finish();
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            // The order is that of the way of a request; every round visits all, so none can starve another.
            let mut progress = self.poll_commands(context, now);
            progress |= self.poll_write(context, now);
            progress |= self.poll_read(context, now);
            progress |= self.poll_speaker(context, now);
            progress |= self.deliver();
            if self.machine.failure().is_some() {
                return Poll::Ready(());
            }
            if !progress && !self.poll_timer(context) {
                return Poll::Pending;
            }
        }
    }

    fn poll_commands(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        if self.orphaned {
            return false;
        }
        match self.commands.poll_recv_many(context, &mut self.batch, COMMANDS_MAX) {
            Poll::Ready(0) => {
                self.orphaned = true;
                self.machine.close(None);
            }
            Poll::Ready(_) => {
                for command in self.batch.drain(..) {
                    match command {
                        Command::Request(request) => self.machine.handle_request(now, request),
                        Command::Throttle(pause) => self.machine.handle_throttle(now, pause),
                        Command::Close(limit) => self.machine.close(limit),
                        Command::Fail(failure) => self.machine.handle_failure(failure),
                    }
                }
            }
            Poll::Pending => return false,
        }
        true
    }

    fn poll_write(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        if self.machine.has_transmit() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = self.machine.transmit(&mut slices);
            match Pin::new(&mut *self.stream).poll_write_vectored(context, &slices[..filled]) {
                Poll::Ready(Ok(0)) => {
                    let error = std::io::Error::from(std::io::ErrorKind::WriteZero);
                    self.machine.handle_failure(Failure::io(Phase::Request, "cannot write", error));
                }
                Poll::Ready(Ok(n)) => {
                    self.machine.handle_written(now, n);
                    self.needs_flush = true;
                }
                Poll::Ready(Err(error)) => {
                    self.machine.handle_failure(Failure::io(Phase::Request, "cannot write", error));
                }
                Poll::Pending => return false,
            }
            return true;
        }
        if self.needs_flush {
            match Pin::new(&mut *self.stream).poll_flush(context) {
                Poll::Ready(Ok(())) => self.needs_flush = false,
                Poll::Ready(Err(error)) => {
                    self.machine.handle_failure(Failure::io(Phase::Request, "cannot write", error));
                }
                Poll::Pending => {}
            }
        }
        false
    }

    fn poll_read(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let read = pin!(self.stream.read_buf(self.buffer.buffer())).poll(context);
        match read {
            Poll::Ready(Ok(0)) => self.machine.handle_eof(self.buffer.is_mid_frame()),
            Poll::Ready(Ok(_)) => self.take_frames(now),
            Poll::Ready(Err(error)) => {
                self.machine.handle_failure(Failure::io(Phase::Request, "the connection broke", error));
            }
            Poll::Pending => return false,
        }
        true
    }

    fn take_frames(&mut self, now: Instant) {
        loop {
            match self.buffer.next_frame() {
                Ok(Some(frame)) => self.machine.handle_frame(now, frame),
                Ok(None) => break,
                Err(error) => return self.machine.handle_failure(Failure::frame(Phase::Request, error)),
            }
        }
        if self.buffer.is_mid_frame() {
            self.machine.handle_frame_begun();
        }
    }

    /// Asks the mechanism what it says; true if it said something.
    fn poll_speaker(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let Some(dialogue) = &mut self.speaker.dialogue else { return false };
        match dialogue.poll_said(context) {
            Poll::Ready(Said::Token(token)) => self.machine.handle_token(now, token),
            Poll::Ready(Said::End(result)) => {
                self.speaker.dialogue = None;
                self.machine.handle_end_of_mechanism(now, result);
            }
            Poll::Pending => return false,
        }
        true
    }

    /// Tells everyone what happened; true if the mechanism has something to say to that.
    fn deliver(&mut self) -> bool {
        let mut spoken_to = false;
        while let Some(output) = self.machine.poll_output() {
            // A caller that went away is no reason to do anything: its place in the queue is what mattered.
            let (waiter, result) = match output {
                Output::Answered { waiter, frame } => (waiter, Ok(frame)),
                Output::Written { waiter } => (waiter, Ok(Bytes::new())),
                Output::Failed { waiter, failure, unsent } => (waiter, Err((failure, unsent))),
                Output::Begin => {
                    let Speaker { mechanism, runtime, dialogue } = &mut self.speaker;
                    let peer = &self.shared.peer;
                    *dialogue = mechanism
                        .clone()
                        .map(|mechanism| Dialogue::new(mechanism, peer.clone(), Arc::clone(runtime)));
                    spoken_to = true;
                    continue;
                }
                Output::Challenge(challenge) => {
                    if let Some(dialogue) = &mut self.speaker.dialogue {
                        dialogue.answer(challenge);
                    }
                    spoken_to = true;
                    continue;
                }
            };
            self.shared.finished_one();
            let _ = waiter.send(result);
        }
        spoken_to
    }

    /// True if the machine was woken by its deadline.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> bool {
        self.poll_deadline(context).is_ready()
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.machine.next_deadline() else { return Poll::Pending };
        // A timer that is too early costs one look at the machine; moving it with every request would cost more.
        if self.sleep.deadline() > deadline || self.sleep.is_elapsed() {
            self.sleep.as_mut().reset(deadline);
        }
        ready!(self.sleep.as_mut().poll(context));
        self.machine.handle_timeout(Instant::now());
        Poll::Ready(())
    }

    fn finish(mut self) {
        if let Some(failure) = self.machine.failure() {
            let peer = &self.shared.peer;
            if failure.alarming {
                tracing::debug!(%peer, phase = ?failure.phase, reason = failure.reason(), "connection lost");
            } else {
                tracing::trace!(%peer, reason = failure.reason(), "connection ended");
            }
            self.shared.set_failure(failure.clone());
        }
        // From here on handles see a closed channel; what is already in it has to be told.
        self.commands.close();
        let now = Instant::now();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Request(request) = command {
                self.machine.handle_request(now, request);
            }
        }
        self.deliver();
    }
}
