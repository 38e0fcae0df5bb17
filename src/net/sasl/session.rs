//! Machine: an authenticated connection: when it proves itself again (KIP-368), and the conversation in which it does.
//!
//! ```text
//!   Valid ──due──▶ Preparing ──first token──▶ Renewing ──done──▶ Valid
//!     ▲                └──failed in time──┐
//!     └───────────────────────────────────┘ (tried again before the end)
//! ```
//!
//! Other requests of the connection are held from the moment at which SaslHandshake is sent: whatever the broker was asked
//! before that it answers before, in order, so nothing has to be waited for. The mechanism has its token by then.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::login::{self, Login};
use crate::error::Phase;
use crate::net::failure::Failure;
use crate::net::negotiate::ApiVersions;
use crate::wire::{ApiKey, Str};
use crate::{Error, ErrorKind};

/// The least time between two attempts.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// How long a mechanism may take over one token. While it does other requests wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the connection has to do.
#[derive(Debug)]
pub(in crate::net) enum Output {
    /// Have the mechanism begin.
    Begin,
    /// Write this request before all others.
    Send { key: ApiKey, version: i16, head: BytesMut },
    /// Hand this to the mechanism.
    Challenge(Bytes),
    /// The session goes on: other requests may leave.
    Renewed,
    /// It does not.
    Failed(Failure),
}

#[derive(Debug)]
enum Stage {
    Valid,
    /// The mechanism was told to begin and has said nothing.
    Preparing,
    /// The broker is asked whether it offers the mechanism, which has this to say.
    Naming(Login, Bytes),
    Renewing(Login),
}

/// The machine.
#[derive(Debug)]
pub(in crate::net) struct Session {
    client_id: Str,
    mechanism: Arc<str>,
    versions: ApiVersions,
    stage: Stage,
    /// In percent of a session's life, when it is renewed.
    draw: u32,
    /// When the broker ends it, and when it is renewed.
    ends: Option<(Instant, Instant)>,
    /// When the mechanism has to have spoken, if it is its turn.
    patience: Option<Instant>,
    output: Option<Output>,
}

impl Session {
    /// A session that the broker ends after `lifetime`. It is renewed at 85 to 95 % of that, by `dice`, so that the
    /// connections of many clients do not all do it at once.
    pub(in crate::net) fn new(
        now: Instant,
        client_id: Str,
        mechanism: Arc<str>,
        versions: ApiVersions,
        lifetime: Option<Duration>,
        dice: u64,
    ) -> Self {
        let draw = 85 + u32::try_from(dice % 11).unwrap_or(0);
        let mut session = Self {
            client_id,
            mechanism,
            versions,
            stage: Stage::Valid,
            draw,
            ends: None,
            patience: None,
            output: None,
        };
        session.begin(now, lifetime);
        session
    }

    fn begin(&mut self, now: Instant, lifetime: Option<Duration>) {
        self.stage = Stage::Valid;
        let due = |lifetime: Duration| (lifetime * self.draw / 100).max(PAUSE_MIN.min(lifetime));
        self.ends = lifetime.map(|lifetime| (now + lifetime, now + due(lifetime)));
    }

    /// What is to be done.
    pub(in crate::net) fn poll_output(&mut self) -> Option<Output> {
        self.output.take()
    }

    /// True while other requests have to wait.
    pub(in crate::net) fn is_renewing(&self) -> bool {
        matches!(self.stage, Stage::Naming(..) | Stage::Renewing(_))
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(in crate::net) fn next_deadline(&self) -> Option<Instant> {
        let due = self.ends.filter(|_| matches!(self.stage, Stage::Valid)).map(|(_, due)| due);
        due.or(self.patience)
    }

    /// Time has passed.
    pub(in crate::net) fn handle_timeout(&mut self, now: Instant) {
        if self.next_deadline().is_none_or(|due| due > now) {
            return;
        }
        match self.stage {
            Stage::Valid => {
                self.stage = Stage::Preparing;
                let ends = self.ends.map_or(now, |(ends, _)| ends);
                self.patience = Some(ends.max(now + PATIENCE));
                self.output = Some(Output::Begin);
            }
            Stage::Preparing | Stage::Naming(..) | Stage::Renewing(_) => {
                self.patience = None;
                self.stage = Stage::Valid;
                self.ends = None;
                let message = format!("the session could not be renewed: {} took too long", self.mechanism);
                self.output = Some(Output::Failed(Failure::new(ErrorKind::Network, Phase::Sasl, message)));
            }
        }
    }

    /// What the mechanism wants sent.
    pub(in crate::net) fn handle_token(&mut self, now: Instant, token: Bytes) {
        self.patience = None;
        match std::mem::replace(&mut self.stage, Stage::Valid) {
            Stage::Preparing => {
                let login = Login::new(self.client_id.clone(), Arc::clone(&self.mechanism), &self.versions);
                self.stage = Stage::Naming(login, token);
            }
            Stage::Renewing(mut login) => {
                login.handle_token(token);
                self.stage = Stage::Renewing(login);
            }
            other => self.stage = other,
        }
        self.advance(now);
    }

    /// The mechanism has ended.
    pub(in crate::net) fn handle_end(&mut self, now: Instant, result: Result<(), Error>) {
        self.patience = None;
        match std::mem::replace(&mut self.stage, Stage::Valid) {
            Stage::Renewing(mut login) => {
                login.handle_end(result);
                self.stage = Stage::Renewing(login);
                self.advance(now);
            }
            // Nothing was said yet, so the session is as good as before, until it ends.
            Stage::Preparing | Stage::Valid | Stage::Naming(..) => {
                let ends = self.ends.map_or(now, |(ends, _)| ends);
                let again = now + (ends.saturating_duration_since(now) / 2).max(PAUSE_MIN);
                if again < ends {
                    self.ends = Some((ends, again));
                } else {
                    let mut login =
                        Login::new(self.client_id.clone(), Arc::clone(&self.mechanism), &self.versions);
                    let _ = login.poll_output();
                    login.handle_end(result);
                    self.stage = Stage::Renewing(login);
                    self.advance(now);
                }
            }
        }
    }

    /// The broker's answer to what was sent last, behind its header.
    pub(in crate::net) fn handle_answer(&mut self, now: Instant, body: Bytes, version: i16) {
        if let Stage::Naming(login, _) | Stage::Renewing(login) = &mut self.stage {
            login.handle_answer(body, version);
        }
        self.advance(now);
    }

    /// Carries what the conversation wants outwards.
    fn advance(&mut self, now: Instant) {
        let (Stage::Naming(login, _) | Stage::Renewing(login)) = &mut self.stage else { return };
        match login.poll_output() {
            None => {}
            Some(login::Output::Begin) => {
                // The mechanism has begun already, and waits with its first token.
                if let Stage::Naming(mut login, token) = std::mem::replace(&mut self.stage, Stage::Valid) {
                    login.handle_token(token);
                    self.stage = Stage::Renewing(login);
                    self.advance(now);
                }
            }
            Some(login::Output::Send { key, version, head }) => {
                self.output = Some(Output::Send { key, version, head });
            }
            Some(login::Output::Challenge(challenge)) => {
                self.patience = Some(now + PATIENCE);
                self.output = Some(Output::Challenge(challenge));
            }
            Some(login::Output::Done(lifetime)) => {
                self.begin(now, lifetime);
                self.output = Some(Output::Renewed);
            }
            Some(login::Output::Failed(mut failure)) => {
                // A new connection may do better, and says it more clearly where the credentials are bad.
                failure.kind = ErrorKind::Network;
                failure.message = format!("the session could not be renewed: {}", failure.message).into();
                self.output = Some(Output::Failed(failure));
            }
        }
    }
}
