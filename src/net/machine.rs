//! Machine: what a connection knows: which requests are out, in which order, until when; whether it may write.
//!
//! ```text
//!          close()                 last answer
//!   Open ───────────▶ Draining ───────────────▶ Closed
//!     └──── failure, deadline, desync ──────────▶ Closed
//! ```
//!
//! A broker answers in the order of the requests, so there is no way to give up one request alone: the place of one
//! whose caller went away stays in the queue, and the first one to expire takes the connection with it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;

use super::failure::Failure;
use super::sasl::{Session, SessionOutput};
use super::throttle;
use crate::error::Phase;
use crate::wire::{ApiKey, frame};
use crate::{Error, ErrorKind};

/// What to try where the peer spoke versions and hung up on the first request, as listeners with SASL do.
const HUNG_UP: &str = "if this happens each time, the listener expects SASL: set security.protocol and sasl.mechanism, \
                       or give the address of a listener without";

/// A request as it goes to the machine.
#[derive(Debug)]
pub(super) struct Outgoing<W> {
    pub(super) key: ApiKey,
    pub(super) version: i16,
    /// Length prefix, header and the beginning of the body; bytes 8 to 12 are for the correlation id.
    pub(super) head: BytesMut,
    /// The rest of the body.
    pub(super) rest: Vec<Bytes>,
    /// The connection is given up if there is no answer by then.
    pub(super) deadline: Instant,
    /// False for Produce with `acks=0`, which is not answered.
    pub(super) answered: bool,
    pub(super) waiter: W,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Output<W> {
    /// A response frame, beginning with its header.
    Answered { waiter: W, frame: Bytes },
    /// An unanswered request was written.
    Written { waiter: W },
    /// There will be no answer. `unsent` if not one byte was written.
    Failed { waiter: W, failure: Failure, unsent: bool },
    /// The session is to be renewed: have the mechanism begin.
    Begin,
    /// Hand this to the mechanism.
    Challenge(Bytes),
}

#[derive(Debug)]
struct InFlight<W> {
    correlation: i32,
    key: ApiKey,
    version: i16,
    /// Position of the request's first byte in the stream.
    start: u64,
    deadline: Instant,
    sent: Instant,
    /// `None` for what the session itself asks.
    waiter: Option<W>,
}

#[derive(Debug)]
struct Unanswered<W> {
    start: u64,
    end: u64,
    deadline: Instant,
    waiter: W,
}

#[derive(Debug)]
enum State {
    Open,
    /// Until the last answer, and not beyond the instant.
    Draining(Option<Instant>),
    Closed(Failure),
}

/// Limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) idle_timeout: Duration,
    pub(super) throttle_max: Duration,
    /// For what the session itself asks.
    pub(super) request_timeout: Duration,
}

/// The machine; `W` is whatever the driver needs to reach the caller.
#[derive(Debug)]
pub(super) struct Machine<W> {
    state: State,
    limits: Limits,
    next_correlation: i32,
    /// Where the peer asked who we are.
    session: Option<Session>,
    /// Requests that wait for the end of a pause, or for the session to be renewed, in order; nothing of them was written.
    held: VecDeque<Outgoing<W>>,
    throttled_until: Option<Instant>,
    in_flight: VecDeque<InFlight<W>>,
    unanswered: VecDeque<Unanswered<W>>,
    /// Bytes accepted for writing and not yet written: `written <= queued`.
    transmit: VecDeque<Bytes>,
    queued: u64,
    written: u64,
    /// At or before the earliest deadline.
    earliest: Option<Instant>,
    last_used: Instant,
    /// A request was answered.
    heard: bool,
    outputs: VecDeque<Output<W>>,
}

impl<W> Machine<W> {
    pub(super) fn new(
        now: Instant,
        first_correlation: i32,
        limits: Limits,
        session: Option<Session>,
    ) -> Self {
        Self {
            state: State::Open,
            limits,
            next_correlation: first_correlation,
            session,
            held: VecDeque::new(),
            throttled_until: None,
            in_flight: VecDeque::new(),
            unanswered: VecDeque::new(),
            transmit: VecDeque::new(),
            queued: 0,
            written: 0,
            earliest: None,
            last_used: now,
            heard: false,
            outputs: VecDeque::new(),
        }
    }

    /// Takes a request. Its fate appears as one [`Output`].
    pub(super) fn handle_request(&mut self, now: Instant, request: Outgoing<W>) {
        match &self.state {
            State::Open => {}
            State::Draining(_) => {
                let failure = closed();
                self.outputs.push_back(Output::Failed { waiter: request.waiter, failure, unsent: true });
                return;
            }
            State::Closed(failure) => {
                let failure = failure.clone();
                self.outputs.push_back(Output::Failed { waiter: request.waiter, failure, unsent: true });
                return;
            }
        }
        self.earliest =
            Some(self.earliest.map_or(request.deadline, |earliest| earliest.min(request.deadline)));
        // A pause may be over before those that it held have left: order in is order out.
        let waits = (self.is_throttled(now) || !self.held.is_empty()) && !throttle::is_exempt(request.key);
        if waits || self.is_renewing() {
            self.held.push_back(request);
        } else {
            self.enqueue(now, request);
        }
    }

    fn enqueue(&mut self, now: Instant, request: Outgoing<W>) {
        let Outgoing { key, version, head, rest, deadline, answered, waiter } = request;
        self.last_used = now;
        let (correlation, start) = self.write(head, rest);
        if answered {
            let waiter = Some(waiter);
            self.in_flight.push_back(InFlight {
                correlation,
                key,
                version,
                start,
                deadline,
                sent: now,
                waiter,
            });
        } else {
            self.unanswered.push_back(Unanswered { start, end: self.queued, deadline, waiter });
        }
    }

    /// Puts a request in line; returns its correlation id and where it begins.
    fn write(&mut self, mut head: BytesMut, rest: Vec<Bytes>) -> (i32, u64) {
        let correlation = self.next_correlation;
        self.next_correlation = (correlation.wrapping_add(1)) & i32::MAX;
        if let Some(place) = head.get_mut(8..12) {
            place.copy_from_slice(&correlation.to_be_bytes());
        }
        let start = self.queued;
        self.queued += head.len() as u64;
        self.transmit.push_back(head.freeze());
        for part in rest {
            if !part.is_empty() {
                self.queued += part.len() as u64;
                self.transmit.push_back(part);
            }
        }
        (correlation, start)
    }

    /// Fills `slices` with what is to be written next; returns how many were filled.
    pub(super) fn transmit<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(&self.transmit) {
            *slice = IoSlice::new(part);
            filled += 1;
        }
        filled
    }

    /// `n` bytes of what [`transmit`](Self::transmit) gave were written.
    pub(super) fn handle_written(&mut self, now: Instant, mut n: usize) {
        self.written += n as u64;
        // What the session asks for itself keeps no connection open.
        if !self.is_renewing() {
            self.last_used = now;
        }
        while n > 0 {
            let Some(first) = self.transmit.front_mut() else { break };
            if first.len() > n {
                first.advance(n);
                break;
            }
            n -= first.len();
            self.transmit.pop_front();
        }
        while self.unanswered.front().is_some_and(|request| request.end <= self.written) {
            if let Some(request) = self.unanswered.pop_front() {
                self.outputs.push_back(Output::Written { waiter: request.waiter });
            }
        }
        self.finish_drain();
    }

    /// Takes a frame that the peer sent.
    pub(super) fn handle_frame(&mut self, now: Instant, frame: Bytes) {
        if matches!(self.state, State::Closed(_)) {
            return;
        }
        self.heard = true;
        let correlation = frame.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes));
        let Some(request) = self.in_flight.pop_front() else {
            return self.handle_failure(protocol("the peer sent a response that nobody asked for".into()));
        };
        if correlation != Some(request.correlation) {
            let expected = request.correlation;
            self.in_flight.push_front(request);
            let got = correlation.map_or_else(|| "none".to_owned(), |id| id.to_string());
            return self.handle_failure(protocol(format!(
                "responses and requests no longer match: expected correlation id {expected}, got {got}"
            )));
        }
        let Some(waiter) = request.waiter else {
            return self.answer_session(now, request.key, request.version, frame);
        };
        self.last_used = now;
        if let Some(pause) = body_of(request.key, request.version, &frame)
            .and_then(|body| throttle::requested_pause(request.key, request.version, body))
        {
            self.handle_throttle(now, pause);
        }
        self.outputs.push_back(Output::Answered { waiter, frame });
        self.finish_drain();
    }

    fn answer_session(&mut self, now: Instant, key: ApiKey, version: i16, frame: Bytes) {
        match frame::decode_response_header(frame, key, version) {
            Ok((_, body)) => {
                if let Some(session) = &mut self.session {
                    session.handle_answer(now, body.rest(), version);
                }
                self.carry_session(now);
            }
            Err(error) => self.handle_failure(protocol(format!("an answer was not valid: {error}"))),
        }
    }

    /// What the mechanism wants sent to renew the session.
    pub(super) fn handle_token(&mut self, now: Instant, token: Bytes) {
        if let Some(session) = &mut self.session {
            session.handle_token(now, token);
        }
        self.carry_session(now);
    }

    /// The mechanism that renews the session has ended.
    pub(super) fn handle_end_of_mechanism(&mut self, now: Instant, result: Result<(), Error>) {
        if let Some(session) = &mut self.session {
            session.handle_end(now, result);
        }
        self.carry_session(now);
    }

    fn carry_session(&mut self, now: Instant) {
        if matches!(self.state, State::Closed(_)) {
            return;
        }
        while let Some(output) = self.session.as_mut().and_then(Session::poll_output) {
            match output {
                SessionOutput::Begin => self.outputs.push_back(Output::Begin),
                SessionOutput::Challenge(challenge) => self.outputs.push_back(Output::Challenge(challenge)),
                SessionOutput::Send { key, version, head } => {
                    // It is answered behind what is out already, which may have more time than usual.
                    let before = self.in_flight.back().map(|request| request.deadline);
                    let deadline = before.into_iter().chain([now + self.limits.request_timeout]).max();
                    let deadline = deadline.unwrap_or(now);
                    let (correlation, start) = self.write(head, Vec::new());
                    self.in_flight.push_back(InFlight {
                        correlation,
                        key,
                        version,
                        start,
                        deadline,
                        sent: now,
                        waiter: None,
                    });
                    self.earliest = self.earliest.into_iter().chain([deadline]).min();
                }
                SessionOutput::Renewed => {
                    self.release(now);
                    self.finish_drain();
                }
                SessionOutput::Failed(failure) => return self.handle_failure(failure),
            }
        }
    }

    /// Lets go what was held, unless there is another reason to hold it.
    fn release(&mut self, now: Instant) {
        if self.is_throttled(now) {
            return;
        }
        self.throttled_until = None;
        if self.is_renewing() {
            return;
        }
        while let Some(request) = self.held.pop_front() {
            self.enqueue(now, request);
        }
    }

    fn is_renewing(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_renewing)
    }

    /// A frame has begun and is not complete: worth waiting for only if a request is out.
    pub(super) fn handle_frame_begun(&mut self) {
        if self.in_flight.is_empty() {
            self.handle_failure(protocol("the peer sent a response that nobody asked for".into()));
        }
    }

    /// The broker wants no requests for `pause`. It is not a failure.
    pub(super) fn handle_throttle(&mut self, now: Instant, pause: Duration) {
        let until = now + pause.min(self.limits.throttle_max);
        self.throttled_until = Some(self.throttled_until.map_or(until, |current| current.max(until)));
    }

    /// The peer closed its side.
    pub(super) fn handle_eof(&mut self, mid_frame: bool) {
        let failure = Failure::new(ErrorKind::Network, Phase::Request, "the peer closed the connection");
        let quiet = !mid_frame && self.in_flight.is_empty() && self.unanswered.is_empty();
        self.handle_failure(if quiet { failure.planned() } else { failure });
    }

    /// The connection is over; everything that waits fails.
    pub(super) fn handle_failure(&mut self, mut failure: Failure) {
        if matches!(self.state, State::Closed(_)) {
            return;
        }
        let asked = self.in_flight.front().is_some_and(|request| request.start < self.written);
        if failure.kind == ErrorKind::Network && asked && !self.heard && self.session.is_none() {
            failure.advice.get_or_insert(HUNG_UP);
        }
        for request in self.in_flight.drain(..) {
            let unsent = self.written <= request.start;
            if let Some(waiter) = request.waiter {
                self.outputs.push_back(Output::Failed { waiter, failure: failure.clone(), unsent });
            }
        }
        for request in self.unanswered.drain(..) {
            let unsent = self.written <= request.start;
            self.outputs.push_back(Output::Failed {
                waiter: request.waiter,
                failure: failure.clone(),
                unsent,
            });
        }
        for request in self.held.drain(..) {
            self.outputs.push_back(Output::Failed {
                waiter: request.waiter,
                failure: failure.clone(),
                unsent: true,
            });
        }
        self.transmit.clear();
        self.state = State::Closed(failure);
    }

    /// Accepts nothing more and ends when the last answer has arrived, or at `limit`.
    pub(super) fn close(&mut self, limit: Option<Instant>) {
        self.state = match std::mem::replace(&mut self.state, State::Open) {
            State::Open => State::Draining(limit),
            State::Draining(before) => State::Draining(before.into_iter().chain(limit).min()),
            closed @ State::Closed(_) => closed,
        };
        self.finish_drain();
    }

    fn finish_drain(&mut self) {
        if matches!(self.state, State::Draining(_))
            && self.held.is_empty()
            && self.in_flight.is_empty()
            && self.unanswered.is_empty()
        {
            self.handle_failure(closed());
        }
    }

    /// Time has passed: ends pauses, expires requests, closes when idle.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.release(now);
        if let Some(session) = self.session.as_mut().filter(|_| matches!(self.state, State::Open)) {
            session.handle_timeout(now);
            self.carry_session(now);
        }
        if self.earliest.is_some_and(|earliest| earliest <= now) {
            self.expire(now);
        }
        if self.drained_by().is_some_and(|limit| limit <= now) {
            let message = "the broker left the cluster or moved, and did not answer any more";
            return self.handle_failure(Failure::new(ErrorKind::Network, Phase::Request, message));
        }
        if self.is_idle()
            && now >= self.last_used + self.limits.idle_timeout
            && matches!(self.state, State::Open)
        {
            let message = format!("closed after {:?} without traffic", self.limits.idle_timeout);
            self.handle_failure(Failure::new(ErrorKind::Network, Phase::Request, message).planned());
        }
    }

    fn expire(&mut self, now: Instant) {
        // Nothing of a held request was written: it may go alone.
        let mut kept = VecDeque::with_capacity(self.held.len());
        let why = if self.is_renewing() {
            "the session was not renewed before the request's deadline"
        } else {
            "the broker asked for a pause (quota) that outlasted the request's deadline"
        };
        for request in self.held.drain(..) {
            if request.deadline <= now {
                let failure = Failure::new(ErrorKind::Timeout, Phase::Request, why);
                self.outputs.push_back(Output::Failed { waiter: request.waiter, failure, unsent: true });
            } else {
                kept.push_back(request);
            }
        }
        self.held = kept;
        let expired = self.in_flight.iter().find(|request| request.deadline <= now);
        if let Some(request) = expired {
            let waited = now.saturating_duration_since(request.sent);
            let message = if self.written <= request.start {
                format!("the request could not be written within {waited:?}")
            } else {
                format!("no answer to {} within {waited:?}", request.key)
            };
            return self.handle_failure(Failure::new(ErrorKind::Timeout, Phase::Request, message));
        }
        if self.unanswered.iter().any(|request| request.deadline <= now) {
            let message = "the peer did not take the request in time";
            return self.handle_failure(Failure::new(ErrorKind::Timeout, Phase::Request, message));
        }
        self.earliest = (self.in_flight.iter().map(|request| request.deadline))
            .chain(self.unanswered.iter().map(|request| request.deadline))
            .chain(self.held.iter().map(|request| request.deadline))
            .min();
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due at the latest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if matches!(self.state, State::Closed(_)) {
            return None;
        }
        let idle = self.is_idle().then(|| self.last_used + self.limits.idle_timeout);
        let resume = self.throttled_until.filter(|_| !self.held.is_empty());
        let request = self.earliest.filter(|_| !self.is_idle());
        let session = self.session.as_ref().filter(|_| matches!(self.state, State::Open));
        let session = session.and_then(Session::next_deadline);
        [idle, resume, request, session, self.drained_by()].into_iter().flatten().min()
    }

    /// When draining ends whatever has been answered.
    fn drained_by(&self) -> Option<Instant> {
        match self.state {
            State::Draining(limit) => limit,
            State::Open | State::Closed(_) => None,
        }
    }

    /// The next thing that happened to a request.
    pub(super) fn poll_output(&mut self) -> Option<Output<W>> {
        self.outputs.pop_front()
    }

    /// Why the connection is over, once it is.
    pub(super) fn failure(&self) -> Option<&Failure> {
        match &self.state {
            State::Closed(failure) => Some(failure),
            State::Open | State::Draining(_) => None,
        }
    }

    /// True if bytes wait to be written.
    pub(super) fn has_transmit(&self) -> bool {
        !self.transmit.is_empty()
    }

    fn is_throttled(&self, now: Instant) -> bool {
        self.throttled_until.is_some_and(|until| now < until)
    }

    fn is_idle(&self) -> bool {
        self.held.is_empty() && self.in_flight.is_empty() && self.unanswered.is_empty()
    }
}

fn protocol(message: String) -> Failure {
    Failure::new(ErrorKind::Protocol, Phase::Request, message)
}

pub(super) fn closed() -> Failure {
    Failure::new(ErrorKind::Network, Phase::Request, "the connection was closed").planned()
}

/// The body of a response, if its header has no tagged fields (none exist today).
fn body_of(key: ApiKey, version: i16, frame: &[u8]) -> Option<&[u8]> {
    match key.response_header_version(version) {
        0 => frame.get(4..),
        _ => frame.get(5..).filter(|_| frame[4] == 0),
    }
}

#[cfg(test)]
mod tests;
