//! Machine: one authentication as frames: SaslHandshake names the mechanism, SaslAuthenticate carries its tokens until the
//! mechanism is content (KIP-43, KIP-152). It knows neither the mechanism nor the socket.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::error::{Chain, Phase};
use crate::net::failure::Failure;
use crate::net::negotiate::ApiVersions;
use crate::wire::messages::{
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use crate::wire::{ApiKey, Decode, Reader, Request, Str, VersionRange, frame};
use crate::{Error, ErrorCode, ErrorKind};

/// A session that lasts longer does so for ever, as far as we are concerned.
const LIFETIME_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// So much is shown of what a peer says about itself.
const SHOWN_MAX: usize = 512;

const NOT_SASL: &str = "the listener does not authenticate: set security.protocol to PLAINTEXT or SSL, or give the \
                        address of a listener with SASL";
const CREDENTIALS: &str =
    "check user, password and mechanism; a new user may take a moment to reach all brokers";
const ENABLED: &str = "set sasl.mechanism to one that the broker offers, or enable this one there";

/// What the driver has to do.
#[derive(Debug)]
pub(in crate::net) enum Output {
    /// Write this request; bytes 8 to 12 are for the correlation id.
    Send {
        key: ApiKey,
        version: i16,
        head: BytesMut,
    },
    /// Have the mechanism begin.
    Begin,
    /// Hand this to the mechanism.
    Challenge(Bytes),
    /// The connection is authenticated, for so long if there is an end to it.
    Done(Option<Duration>),
    Failed(Failure),
}

#[derive(Debug)]
enum Stage {
    /// The mechanism is offered to the broker.
    Naming,
    /// It is the mechanism's turn.
    Speaking,
    /// It is the broker's turn.
    Listening,
    Over,
}

/// The machine.
#[derive(Debug)]
pub(in crate::net) struct Login {
    client_id: Str,
    mechanism: Arc<str>,
    /// Version of SaslAuthenticate.
    version: i16,
    stage: Stage,
    /// The broker has answered to a token.
    answered: bool,
    lifetime: Option<Duration>,
    output: Option<Output>,
}

impl Login {
    pub(in crate::net) fn new(client_id: Str, mechanism: Arc<str>, versions: &ApiVersions) -> Self {
        // Version 0 of SaslHandshake is followed by tokens without a header, and belongs to brokers before 1.0.
        let handshake = versions.version(ApiKey::SASL_HANDSHAKE, VersionRange::new(1, 1));
        let version = versions.version(ApiKey::SASL_AUTHENTICATE, VersionRange::new(0, 2));
        let mut login = Self {
            client_id,
            mechanism,
            version: version.unwrap_or(0),
            stage: Stage::Naming,
            answered: false,
            lifetime: None,
            output: None,
        };
        if let (Some(handshake), Some(_)) = (handshake, version) {
            let request = SaslHandshakeRequest { mechanism: Str::from(&*login.mechanism) };
            login.send(&request, handshake);
        } else {
            let message = "the broker does not offer SaslHandshake and SaslAuthenticate";
            login.fail(refused(message).with_advice(NOT_SASL));
        }
        login
    }

    /// What is to be done; nothing while an answer is awaited.
    pub(in crate::net) fn poll_output(&mut self) -> Option<Output> {
        self.output.take()
    }

    /// The answer to what was sent last, behind its header.
    pub(in crate::net) fn handle_answer(&mut self, body: Bytes, version: i16) {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Naming => self.named(body, version),
            Stage::Listening => self.authenticated(body, version),
            // Nobody asked.
            Stage::Speaking | Stage::Over => {}
        }
    }

    /// What the mechanism wants sent.
    pub(in crate::net) fn handle_token(&mut self, token: Bytes) {
        self.stage = Stage::Listening;
        self.send(&SaslAuthenticateRequest { auth_bytes: token }, self.version);
    }

    /// The mechanism has ended.
    pub(in crate::net) fn handle_end(&mut self, result: Result<(), Error>) {
        self.stage = Stage::Over;
        match result {
            Ok(()) if self.answered => self.output = Some(Output::Done(self.lifetime)),
            Ok(()) => self.fail(refused("the mechanism ended before the broker had answered")),
            Err(error) => {
                let kind = match error.kind() {
                    ErrorKind::Network | ErrorKind::Timeout | ErrorKind::Protocol | ErrorKind::Config => {
                        error.kind()
                    }
                    _ => ErrorKind::Authentication,
                };
                let message = format!("{} failed: {}", self.mechanism, Chain(&error));
                self.fail(Failure::new(kind, Phase::Sasl, message));
            }
        }
    }

    fn send<R: Request>(&mut self, request: &R, version: i16) {
        self.output = Some(match frame::encode_request(request, version, 0, Some(&self.client_id)) {
            Ok(head) => Output::Send { key: R::KEY, version, head },
            Err(error) => {
                self.stage = Stage::Over;
                Output::Failed(refused(format!("{} cannot be encoded: {error}", R::KEY)))
            }
        });
    }

    fn fail(&mut self, failure: Failure) {
        self.stage = Stage::Over;
        self.output = Some(Output::Failed(failure));
    }

    fn named(&mut self, body: Bytes, version: i16) {
        let response = match SaslHandshakeResponse::decode(&mut Reader::new(body), version) {
            Ok(response) => response,
            Err(error) => return self.fail(invalid(&error)),
        };
        match ErrorCode(response.error_code) {
            ErrorCode::NONE => {
                self.stage = Stage::Speaking;
                self.output = Some(Output::Begin);
            }
            ErrorCode::UNSUPPORTED_SASL_MECHANISM => {
                let offered: Vec<_> = response.mechanisms.iter().map(|name| said(name)).collect();
                let message =
                    format!("the broker does not offer {}, only {}", self.mechanism, offered.join(", "));
                self.fail(refused(message).with_advice(ENABLED));
            }
            ErrorCode::ILLEGAL_SASL_STATE => {
                self.fail(refused("the broker wants no SASL here").with_advice(NOT_SASL));
            }
            code => self.fail(refused(format!("the broker refused {}: {code}", self.mechanism))),
        }
    }

    fn authenticated(&mut self, body: Bytes, version: i16) {
        let response = match SaslAuthenticateResponse::decode(&mut Reader::new(body), version) {
            Ok(response) => response,
            Err(error) => return self.fail(invalid(&error)),
        };
        match ErrorCode(response.error_code) {
            ErrorCode::NONE => {
                let lifetime = u64::try_from(response.session_lifetime_ms).unwrap_or(0);
                let lifetime = Duration::from_millis(lifetime);
                self.lifetime = (!lifetime.is_zero() && lifetime < LIFETIME_MAX).then_some(lifetime);
                self.challenge(response.auth_bytes);
            }
            code => {
                let text = response.error_message.as_deref().filter(|text| !text.is_empty());
                let said = text.map_or_else(|| code.to_string(), |text| format!("{code}: {:?}", said(text)));
                let message = format!("{} was refused by the broker: {said}", self.mechanism);
                self.fail(refused(message).with_advice(CREDENTIALS));
            }
        }
    }

    fn challenge(&mut self, challenge: Bytes) {
        self.answered = true;
        self.stage = Stage::Speaking;
        self.output = Some(Output::Challenge(challenge));
    }
}

fn refused(message: impl Into<Arc<str>>) -> Failure {
    Failure::new(ErrorKind::Authentication, Phase::Sasl, message)
}

fn invalid(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(ErrorKind::Protocol, Phase::Sasl, format!("the answer is not valid: {error}"))
}

/// What a peer says about itself, fit to be shown: not too much of it, and nothing that steers a terminal.
pub(in crate::net) fn said(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN_MAX)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if shown.len() < text.len() && text.chars().nth(SHOWN_MAX).is_some() {
        shown.push('…');
    }
    shown
}
