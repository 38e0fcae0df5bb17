//! Who is at the other end of a connection: users, mechanisms, and where each connection is in its authentication. Written
//! from the RFCs, not from the client.
//!
//! * `users`: what is known of those who may log in.
//! * `scram`: the broker's side of SCRAM.

mod scram;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::wire::{ApiKey, Str};
use crate::{ErrorCode, Result};

pub(crate) use users::{ITERATIONS_MAX, ITERATIONS_MIN, Users};

/// A SASL mechanism of the embedded cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SaslMechanism {
    /// `PLAIN`.
    Plain,
    /// `SCRAM-SHA-256`.
    ScramSha256,
    /// `SCRAM-SHA-512`.
    ScramSha512,
    /// `OAUTHBEARER`, with tokens that the cluster was told ([`Control::set_token`](super::Control::set_token)).
    OAuthBearer,
}

impl SaslMechanism {
    const ALL: [Self; 4] = [Self::Plain, Self::ScramSha256, Self::ScramSha512, Self::OAuthBearer];

    /// Kafka's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OAuthBearer => "OAUTHBEARER",
        }
    }

    /// The mechanism of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.name() == name)
    }

    /// The number that Kafka's messages give a kind of SCRAM.
    pub(crate) fn scram(number: i8) -> Option<Self> {
        match number {
            1 => Some(Self::ScramSha256),
            2 => Some(Self::ScramSha512),
            _ => None,
        }
    }
}

/// Attempts to log in since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Logins {
    /// Those that ended well, renewed sessions included.
    pub accepted: u64,
    /// Sessions among them that were renewed on an open connection.
    pub renewed: u64,
    /// Those that did not.
    pub refused: u64,
    /// Connections that were closed because they asked for something before they had logged in, or after their session had
    /// ended.
    pub closed: u64,
}

/// What the broker answers to a token.
#[derive(Debug)]
pub(crate) enum Answer {
    /// So far so good, or the end of it: a session of so many milliseconds, 0 without an end.
    Token(Vec<u8>, i64),
    Refused(ErrorCode, String),
}

#[derive(Debug)]
enum Stage {
    /// Nothing was said.
    Fresh,
    Named(SaslMechanism),
    Proving(SaslMechanism, scram::Server),
    /// The token was refused; the client has to say that it has seen that.
    Rejected,
    Authenticated,
    Failed,
}

#[derive(Debug)]
struct Login {
    offered: BTreeSet<SaslMechanism>,
    stage: Stage,
    /// Who it is, and by which mechanism: a session is renewed by the same.
    known: Option<(SaslMechanism, String)>,
    ends: Option<Instant>,
}

/// All connections of listeners with SASL.
#[derive(Debug, Default)]
pub(crate) struct Sasl {
    pub(crate) users: Users,
    logins: BTreeMap<u64, Login>,
    next: u64,
    /// Longest session (`connections.max.reauth.ms`).
    session_max: Option<Duration>,
    pub(crate) counts: Logins,
}

impl Sasl {
    pub(crate) fn new(session_max: Option<Duration>) -> Self {
        Self { session_max, ..Self::default() }
    }

    /// A connection was accepted; returns its number.
    pub(crate) fn opened(&mut self, offered: &BTreeSet<SaslMechanism>) -> u64 {
        self.next += 1;
        if !offered.is_empty() {
            let login = Login { offered: offered.clone(), stage: Stage::Fresh, known: None, ends: None };
            self.logins.insert(self.next, login);
        }
        self.next
    }

    pub(crate) fn closed(&mut self, connection: u64) {
        self.logins.remove(&connection);
    }

    /// False if the connection has to be closed instead of being asked `key`.
    pub(crate) fn admits(&mut self, connection: u64, key: ApiKey, now: Instant) -> bool {
        let Some(login) = self.logins.get(&connection) else { return true };
        let admitted = match (&login.stage, key) {
            (Stage::Failed, _) => false,
            (_, ApiKey::SASL_HANDSHAKE) => true,
            (Stage::Authenticated, _) => login.ends.is_none_or(|ends| now < ends),
            (_, ApiKey::SASL_AUTHENTICATE) => true,
            (_, ApiKey::API_VERSIONS) => login.known.is_none(),
            _ => false,
        };
        if !admitted {
            self.counts.closed += 1;
        }
        admitted
    }

    /// True if the connection ends with the answer that it gets now.
    pub(crate) fn has_failed(&self, connection: u64) -> bool {
        self.logins.get(&connection).is_some_and(|login| matches!(login.stage, Stage::Failed))
    }

    /// A client names a mechanism. Returns what to answer, and the mechanisms that there are.
    pub(crate) fn name(&mut self, connection: u64, name: &str) -> (ErrorCode, Vec<Str>) {
        let Some(login) = self.logins.get_mut(&connection) else {
            return (ErrorCode::ILLEGAL_SASL_STATE, Vec::new());
        };
        let names = login.offered.iter().map(|mechanism| Str::from_static(mechanism.name())).collect();
        if !matches!(login.stage, Stage::Fresh | Stage::Authenticated) {
            login.stage = Stage::Failed;
            return (ErrorCode::ILLEGAL_SASL_STATE, names);
        }
        let mechanism = SaslMechanism::of(name).filter(|mechanism| login.offered.contains(mechanism));
        let other = |mechanism| login.known.as_ref().is_some_and(|(known, _)| *known != mechanism);
        match mechanism {
            Some(mechanism) if !other(mechanism) => {
                login.stage = Stage::Named(mechanism);
                (ErrorCode::NONE, names)
            }
            _ => {
                login.stage = Stage::Failed;
                self.counts.refused += 1;
                (ErrorCode::UNSUPPORTED_SASL_MECHANISM, names)
            }
        }
    }

    /// A client says what its mechanism says.
    pub(crate) fn authenticate(
        &mut self,
        connection: u64,
        token: &[u8],
        dice: &mut fastrand::Rng,
        now: Instant,
    ) -> Answer {
        let Some(login) = self.logins.get_mut(&connection) else {
            let text = "SaslAuthenticate on a listener without SASL".to_owned();
            return Answer::Refused(ErrorCode::ILLEGAL_SASL_STATE, text);
        };
        let stage = std::mem::replace(&mut login.stage, Stage::Failed);
        let proved: Result<(SaslMechanism, String, Vec<u8>, Option<Instant>), String> = match stage {
            Stage::Named(SaslMechanism::Plain) => {
                self.users.plain(token).map(|user| (SaslMechanism::Plain, user, Vec::new(), None))
            }
            Stage::Named(mechanism @ (SaslMechanism::ScramSha256 | SaslMechanism::ScramSha512)) => {
                match scram::Server::new(mechanism, &self.users, token, dice) {
                    Some((server, challenge)) => {
                        login.stage = Stage::Proving(mechanism, server);
                        return Answer::Token(challenge, 0);
                    }
                    None => Err(invalid(mechanism)),
                }
            }
            Stage::Proving(mechanism, server) => match server.finish(token) {
                Some((user, signature)) => Ok((mechanism, user, signature, None)),
                None => Err(invalid(mechanism)),
            },
            Stage::Named(SaslMechanism::OAuthBearer) => match self.users.token(token, now) {
                Some((user, ends)) => Ok((SaslMechanism::OAuthBearer, user, Vec::new(), ends)),
                None => {
                    login.stage = Stage::Rejected;
                    return Answer::Token(br#"{"status":"invalid_token"}"#.to_vec(), 0);
                }
            },
            Stage::Rejected => Err("{\"status\":\"invalid_token\"}".to_owned()),
            Stage::Fresh | Stage::Authenticated | Stage::Failed => {
                let text = "SaslAuthenticate without SaslHandshake".to_owned();
                return Answer::Refused(ErrorCode::ILLEGAL_SASL_STATE, text);
            }
        };
        let proved = proved.and_then(|(mechanism, user, answer, ends)| match &login.known {
            Some((_, known)) if *known != user => Err(format!(
                "Cannot change principals during re-authentication from User:{known} to User:{user}"
            )),
            _ => Ok((mechanism, user, answer, ends)),
        });
        match proved {
            Ok((mechanism, user, answer, ends)) => {
                self.counts.accepted += 1;
                self.counts.renewed += u64::from(login.known.is_some());
                login.known = Some((mechanism, user));
                login.stage = Stage::Authenticated;
                login.ends = ends.into_iter().chain(self.session_max.map(|max| now + max)).min();
                let lifetime = login.ends.map_or(0, |ends| {
                    i64::try_from(ends.saturating_duration_since(now).as_millis()).unwrap_or(i64::MAX)
                });
                Answer::Token(answer, lifetime)
            }
            Err(text) => {
                self.counts.refused += 1;
                Answer::Refused(ErrorCode::SASL_AUTHENTICATION_FAILED, text)
            }
        }
    }

    /// Users whose connections are open, with the number of those.
    pub(crate) fn connected(&self) -> BTreeMap<String, usize> {
        let mut connected = BTreeMap::new();
        for (_, user) in self.logins.values().filter_map(|login| login.known.as_ref()) {
            *connected.entry(user.clone()).or_default() += 1;
        }
        connected
    }
}

fn invalid(mechanism: SaslMechanism) -> String {
    format!(
        "Authentication failed during authentication due to invalid credentials with SASL mechanism {}",
        mechanism.name()
    )
}
