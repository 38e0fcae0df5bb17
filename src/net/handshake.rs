//! Machine: what is said on a fresh socket before the first request of a caller: version negotiation, and SASL where the
//! listener wants it.
//!
//! Frames come in, requests go out, one at a time. It knows nothing of the socket, and of the mechanism its name alone. The
//! conversation of SASL ([`Login`]) runs on an open connection too, which is what re-authentication is (KIP-368).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::failure::Failure;
use super::negotiate::{ApiVersions, Negotiation, Step};
use super::sasl::{Login, LoginOutput};
use crate::error::Phase;
use crate::wire::{ApiKey, Str, frame};
use crate::{Error, ErrorKind};

const HUNG_UP: &str =
    "the listener may expect TLS (security.protocol=SSL or SASL_SSL), or not be a Kafka broker";
const SASL_HUNG_UP: &str = "if this happens each time, check user, password and mechanism: some brokers hang up on what \
                            they refuse";

/// What has come of a handshake.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) versions: ApiVersions,
    /// First correlation id that was not used.
    pub(super) next_correlation: i32,
    /// How long the session lasts, if there is an end to it.
    pub(super) lifetime: Option<Duration>,
}

/// Why a handshake failed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) failure: Failure,
    /// The peer hung up before it sent a byte: it may dislike the version that we asked in.
    pub(super) silent: bool,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { failure, silent: false }
    }
}

/// What the driver has to do.
#[derive(Debug)]
pub(super) enum Output {
    /// Write this request, and say what came of it.
    Send(BytesMut),
    /// Have the mechanism begin, and say what it says.
    Begin,
    /// Hand this to the mechanism, and say what it says.
    Challenge(Bytes),
    /// The connection is ready.
    Done(Agreed),
    /// It never will be.
    Failed(Refusal),
}

/// How far one has come.
#[derive(Debug)]
enum Stage {
    /// Which versions does the broker speak?
    Versions(Negotiation),
    /// Who are we?
    Login { login: Login, versions: ApiVersions, asked: Option<(ApiKey, i16)> },
    /// There is nothing more to say.
    Over,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Handshake {
    client_id: Str,
    /// The name of the mechanism that the listener wants, if it does.
    mechanism: Option<Arc<str>>,
    stage: Stage,
    /// Id of the request that is out, or of the next one.
    correlation: i32,
    /// The peer has sent a byte.
    heard: bool,
    output: Option<Output>,
}

impl Handshake {
    pub(super) fn new(client_id: Str, negotiation: Negotiation, mechanism: Option<Arc<str>>) -> Self {
        let mut handshake =
            Self { client_id, mechanism, stage: Stage::Over, correlation: 0, heard: false, output: None };
        handshake.ask(negotiation);
        handshake
    }

    /// What is to be done; nothing while an answer is awaited.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.output.take()
    }

    /// Bytes arrived, a whole frame or not.
    pub(super) fn handle_bytes(&mut self) {
        self.heard = true;
    }

    /// The answer to the request that is out.
    pub(super) fn handle_frame(&mut self, frame: Bytes) {
        let result = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Versions(negotiation) => self.negotiate(negotiation, frame),
            Stage::Login { login, versions, asked } => self.log_in(login, versions, asked, frame),
            Stage::Over => Ok(()),
        };
        if let Err(failure) = result {
            self.output = Some(Output::Failed(failure.into()));
        }
    }

    /// What the mechanism wants sent.
    pub(super) fn handle_token(&mut self, token: Bytes) {
        if let Stage::Login { login, .. } = &mut self.stage {
            login.handle_token(token);
        }
        self.advance();
    }

    /// The mechanism has ended.
    pub(super) fn handle_end_of_mechanism(&mut self, result: Result<(), Error>) {
        if let Stage::Login { login, .. } = &mut self.stage {
            login.handle_end(result);
        }
        self.advance();
    }

    /// The request could not be written.
    pub(super) fn handle_unwritten(&mut self, error: io::Error) {
        let (phase, what) = match self.phase() {
            Phase::Sasl => (Phase::Sasl, "cannot authenticate"),
            phase => (phase, "cannot ask for the broker's versions"),
        };
        self.fail(Failure::io(phase, what, error));
    }

    /// What the peer sends is no frame.
    pub(super) fn handle_garbage(&mut self, error: frame::FrameError) {
        self.fail(Failure::frame(self.phase(), error));
    }

    /// The peer hung up (`None`), or reading failed.
    pub(super) fn handle_end(&mut self, error: Option<io::Error>) {
        let by = self.mechanism.as_deref().unwrap_or_default();
        let (what, advice) = match (self.phase(), &error) {
            (Phase::Sasl, None) => {
                (format!("the broker hung up during authentication by {by}"), SASL_HUNG_UP)
            }
            (Phase::Sasl, Some(_)) => (format!("cannot read the broker's answer to {by}"), SASL_HUNG_UP),
            (_, None) => ("the peer hung up during negotiation".to_owned(), HUNG_UP),
            (_, Some(_)) => ("cannot read the broker's versions".to_owned(), HUNG_UP),
        };
        let error = error.unwrap_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof));
        self.fail(Failure::io(self.phase(), &what, error).with_advice(advice));
    }

    /// Why it fails if it takes longer than `limit`.
    pub(super) fn late(&self, limit: Duration) -> Failure {
        let (what, advice) = match self.phase() {
            Phase::Sasl => (
                "authentication was not finished",
                "the broker, or where the credentials come from, may be overloaded; see \
                 socket.connection.setup.timeout.ms",
            ),
            _ => (
                "the peer accepted the connection but did not answer ApiVersions",
                "the listener may expect TLS (security.protocol=SSL or SASL_SSL), or not be a Kafka broker",
            ),
        };
        let failure = Failure::new(ErrorKind::Timeout, self.phase(), format!("{what} within {limit:?}"));
        failure.with_advice(advice)
    }

    fn phase(&self) -> Phase {
        match self.stage {
            Stage::Login { .. } => Phase::Sasl,
            Stage::Versions(_) | Stage::Over => Phase::Negotiate,
        }
    }

    fn fail(&mut self, failure: Failure) {
        // What TLS says is no silence.
        let silent = !self.heard && self.correlation == 0 && failure.phase != Phase::Tls;
        self.stage = Stage::Over;
        self.output = Some(Output::Failed(Refusal { failure, silent }));
    }

    fn ask(&mut self, negotiation: Negotiation) {
        let (request, version) = (negotiation.request(), negotiation.version());
        let encoded = frame::encode_request(&request, version, self.correlation, Some(&self.client_id));
        self.output = Some(match encoded {
            Ok(bytes) => {
                self.stage = Stage::Versions(negotiation);
                Output::Send(bytes)
            }
            Err(error) => Output::Failed(protocol(format!("ApiVersions cannot be encoded: {error}")).into()),
        });
    }

    fn negotiate(&mut self, mut negotiation: Negotiation, frame: Bytes) -> Result<(), Failure> {
        let expected = self.correlation;
        let (answered, reader) =
            frame::decode_response_header(frame, ApiKey::API_VERSIONS, negotiation.version())
                .map_err(|error| protocol(format!("the answer is not valid: {error}")))?;
        if answered != expected {
            let message =
                format!("the answer does not match: expected correlation id {expected}, got {answered}");
            return Err(protocol(message));
        }
        self.correlation += 1;
        match negotiation.handle_response(reader)? {
            Step::Again => self.ask(negotiation),
            Step::Done(versions) => match &self.mechanism {
                Some(mechanism) => {
                    let login = Login::new(self.client_id.clone(), Arc::clone(mechanism), &versions);
                    self.stage = Stage::Login { login, versions, asked: None };
                    self.advance();
                }
                None => {
                    let agreed = Agreed { versions, next_correlation: self.correlation, lifetime: None };
                    self.output = Some(Output::Done(agreed));
                }
            },
        }
        Ok(())
    }

    fn log_in(
        &mut self,
        mut login: Login,
        versions: ApiVersions,
        asked: Option<(ApiKey, i16)>,
        frame: Bytes,
    ) -> Result<(), Failure> {
        let Some((key, version)) = asked else {
            return Err(unfit("the broker said something that nobody asked for".to_owned()));
        };
        let (answered, reader) = frame::decode_response_header(frame, key, version)
            .map_err(|error| unfit(format!("the answer is not valid: {error}")))?;
        if answered != self.correlation {
            let expected = self.correlation;
            return Err(unfit(format!(
                "the answer does not match: expected correlation id {expected}, got {answered}"
            )));
        }
        self.correlation += 1;
        login.handle_answer(reader.rest(), version);
        self.stage = Stage::Login { login, versions, asked: None };
        self.advance();
        Ok(())
    }

    /// Carries what the conversation wants outwards.
    fn advance(&mut self) {
        let Stage::Login { login, versions, asked } = &mut self.stage else { return };
        self.output = match login.poll_output() {
            None => return,
            Some(LoginOutput::Send { key, version, mut head }) => {
                if let Some(place) = head.get_mut(8..12) {
                    place.copy_from_slice(&self.correlation.to_be_bytes());
                }
                *asked = Some((key, version));
                Some(Output::Send(head))
            }
            Some(LoginOutput::Begin) => Some(Output::Begin),
            Some(LoginOutput::Challenge(challenge)) => Some(Output::Challenge(challenge)),
            Some(LoginOutput::Done(lifetime)) => {
                let versions = std::mem::take(versions);
                self.stage = Stage::Over;
                Some(Output::Done(Agreed { versions, next_correlation: self.correlation, lifetime }))
            }
            Some(LoginOutput::Failed(failure)) => {
                self.stage = Stage::Over;
                Some(Output::Failed(failure.into()))
            }
        };
    }
}

fn unfit(message: String) -> Failure {
    Failure::new(ErrorKind::Protocol, Phase::Sasl, message)
}

fn protocol(message: String) -> Failure {
    Failure::new(ErrorKind::Protocol, Phase::Negotiate, message)
}

#[cfg(all(test, feature = "broker"))]
mod tests {
    use super::*;
    use crate::ErrorCode;
    use crate::wire::messages::ApiVersionsResponse;
    use crate::wire::messages::api_versions::ApiVersion;

    /// Version and correlation id of the request that is to be sent.
    fn sent(handshake: &mut Handshake) -> (i16, i32) {
        let Some(Output::Send(bytes)) = handshake.poll_output() else { panic!("a request was expected") };
        let (head, _) = frame::decode_request_header(bytes.freeze().slice(4..)).expect("a request");
        assert_eq!((head.key, head.client_id.as_deref()), (ApiKey::API_VERSIONS, Some("me")));
        (head.version, head.correlation_id)
    }

    fn answer(correlation: i32, version: i16, error_code: ErrorCode) -> Bytes {
        let api = ApiVersion { api_key: 18, min_version: 0, max_version: 3 };
        let response =
            ApiVersionsResponse { error_code: error_code.0, api_keys: vec![api], ..Default::default() };
        let frame = frame::encode_response(&response, ApiKey::API_VERSIONS, version, correlation);
        frame.expect("it can be encoded").freeze().slice(4..)
    }

    fn failed(handshake: &mut Handshake) -> (String, bool) {
        let Some(Output::Failed(refusal)) = handshake.poll_output() else { panic!("it should have failed") };
        (refusal.failure.reason(), refusal.silent)
    }

    fn begun() -> Handshake {
        let mut handshake = Handshake::new("me".into(), Negotiation::new(), None);
        assert_eq!(sent(&mut handshake), (4, 0));
        assert!(handshake.poll_output().is_none(), "one request at a time");
        handshake
    }

    #[test]
    fn versions_are_asked_for_once_more_where_ours_is_too_new() {
        let mut handshake = begun();
        handshake.handle_frame(answer(0, 0, ErrorCode::UNSUPPORTED_VERSION));
        assert_eq!(sent(&mut handshake), (3, 1));
        handshake.handle_frame(answer(1, 3, ErrorCode::NONE));
        let Some(Output::Done(agreed)) = handshake.poll_output() else { panic!("it should be done") };
        assert_eq!(agreed.next_correlation, 2);
        assert!(agreed.versions.range(ApiKey::API_VERSIONS).is_some());
        handshake.handle_frame(answer(2, 3, ErrorCode::NONE));
        assert!(handshake.poll_output().is_none(), "it is over");
    }

    #[test]
    fn whoever_hangs_up_without_a_word_may_dislike_the_version() {
        let mut handshake = begun();
        handshake.handle_end(None);
        let (reason, silent) = failed(&mut handshake);
        assert!(silent && reason.contains("hung up"), "{reason}");
        let mut handshake = begun();
        handshake.handle_bytes();
        handshake.handle_end(Some(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert!(!failed(&mut handshake).1, "it has said something");
        let mut handshake = begun();
        handshake.handle_frame(answer(0, 0, ErrorCode::UNSUPPORTED_VERSION));
        sent(&mut handshake);
        handshake.handle_end(None);
        assert!(!failed(&mut handshake).1, "it has answered before");
    }

    #[test]
    fn answers_that_are_none_end_it() {
        let mut handshake = begun();
        handshake.handle_frame(answer(7, 4, ErrorCode::NONE));
        assert!(failed(&mut handshake).0.contains("expected correlation id 0, got 7"));
        let mut handshake = begun();
        handshake.handle_frame(Bytes::from_static(&[0, 0]));
        assert!(failed(&mut handshake).0.contains("not valid"));
        let mut handshake = begun();
        handshake.handle_unwritten(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failed(&mut handshake).1);
    }
}
