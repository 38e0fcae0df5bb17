//! What happens on a fresh socket before the first request of a caller: version negotiation today; TLS comes before it
//! and SASL after it, both between [`Connector`](super::Connector) and [`Driver`](super::driver::Driver).

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::ErrorKind;
use crate::error::Phase;
use crate::runtime::Stream;
use crate::wire::frame::FrameReader;
use crate::wire::{ApiKey, frame};

use super::config::{ConnectionConfig, FRAME_BYTES_HANDSHAKE_MAX};
use super::failure::Failure;
use super::negotiate::{ApiVersions, Negotiation, Step};

/// A socket that is ready for requests.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) versions: ApiVersions,
    /// May hold bytes that arrived early.
    pub(super) buffer: FrameReader,
    /// First correlation id that was not used.
    pub(super) next_correlation: i32,
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

/// Negotiates versions over `stream`. No timeout of its own.
pub(super) async fn handshake(
    stream: &mut dyn Stream,
    config: &ConnectionConfig,
    mut negotiation: Negotiation,
) -> Result<Established, Refusal> {
    let mut buffer = FrameReader::responses(FRAME_BYTES_HANDSHAKE_MAX);
    let mut correlation = 0;
    loop {
        let version = negotiation.version();
        let request =
            frame::encode_request(&negotiation.request(), version, correlation, Some(&config.client_id))
                .map_err(|error| {
                    Failure::new(
                        ErrorKind::Protocol,
                        Phase::Negotiate,
                        format!("ApiVersions cannot be encoded: {error}"),
                    )
                })?;
        let (answer, received) = exchange(stream, &mut buffer, &request).await;
        let frame = answer.map_err(|failure| Refusal { failure, silent: !received && correlation == 0 })?;
        let (answered, reader) = frame::decode_response_header(frame, ApiKey::API_VERSIONS, version)
            .map_err(|error| protocol(format!("the answer is not valid: {error}")))?;
        if answered != correlation {
            let message =
                format!("the answer does not match: expected correlation id {correlation}, got {answered}");
            return Err(protocol(message).into());
        }
        correlation += 1;
        match negotiation.handle_response(reader)? {
            Step::Again => {}
            Step::Done(versions) => {
                return Ok(Established { versions, buffer, next_correlation: correlation });
            }
        }
    }
}

/// Writes a request and reads one frame; also tells whether any byte was received.
async fn exchange(
    stream: &mut dyn Stream,
    buffer: &mut FrameReader,
    request: &[u8],
) -> (Result<Bytes, Failure>, bool) {
    let mut received = false;
    if let Err(error) = stream.write_all(request).await {
        return (Err(Failure::io(Phase::Negotiate, "cannot ask for the broker's versions", error)), received);
    }
    if let Err(error) = stream.flush().await {
        return (Err(Failure::io(Phase::Negotiate, "cannot ask for the broker's versions", error)), received);
    }
    loop {
        match buffer.next_frame() {
            Ok(Some(frame)) => return (Ok(frame), received),
            Ok(None) => {}
            Err(error) => return (Err(Failure::frame(Phase::Negotiate, error)), received),
        }
        match stream.read_buf(buffer.buffer()).await {
            Ok(0) => {
                let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                return (
                    Err(hang_up(Failure::io(Phase::Negotiate, "the peer hung up during negotiation", error))),
                    received,
                );
            }
            Ok(_) => received = true,
            Err(error) => {
                let failure = Failure::io(Phase::Negotiate, "cannot read the broker's versions", error);
                return (Err(hang_up(failure)), received);
            }
        }
    }
}

fn hang_up(failure: Failure) -> Failure {
    failure.with_advice(
        "the listener may expect TLS, which carafe does not speak yet (give the address of a PLAINTEXT listener), or \
         not be a Kafka broker",
    )
}

fn protocol(message: String) -> Failure {
    Failure::new(ErrorKind::Protocol, Phase::Negotiate, message)
}
