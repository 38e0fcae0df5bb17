//! From host name to [`Connection`]: the addresses of the name race, each with a head start and a timeout of its own (RFC
//! 8305).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::config::{ConnectionConfig, FRAME_BYTES_HANDSHAKE_MAX};
use super::connection::{Connection, Established};
use super::failure::{Failure, Peer};
use super::handshake::{self, Handshake, Refusal};
use super::negotiate::Negotiation;
use super::sasl::{Dialogue, Said};
use crate::error::Phase;
#[cfg(feature = "tls")]
use crate::runtime::tls::{Refused, TlsFailure};
use crate::runtime::{BoxFuture, Runtime, Stream};
use crate::wire::frame::FrameReader;
use crate::{Error, ErrorKind};

/// How long an address is tried alone before the next one joins in.
const HEAD_START: Duration = Duration::from_millis(250);

/// Opens connections.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    runtime: Arc<dyn Runtime>,
    config: Arc<ConnectionConfig>,
}

impl Connector {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, config: ConnectionConfig) -> Self {
        Self { runtime, config: Arc::new(config) }
    }

    /// Why the files of certificates that changed are not used, if that is so.
    pub(crate) fn stale_certificates(&self) -> Option<Error> {
        #[cfg(feature = "tls")]
        return self.config.tls.as_ref()?.stale();
        #[cfg(not(feature = "tls"))]
        None
    }

    /// Opens a connection to `peer`, speaks TLS where that is configured, and negotiates versions. The name is looked up anew each time; each address gets
    /// `setup_timeout`. Fails with the failure that came last. `ended` is called when the connection is over.
    pub(crate) async fn open(
        &self,
        peer: Peer,
        setup_timeout: Duration,
        ended: impl FnOnce(Failure) + Send + 'static,
    ) -> Result<Connection, Failure> {
        let addresses = match timeout(setup_timeout, self.runtime.resolve(&peer.host, peer.port)).await {
            Ok(Ok(addresses)) => interleave(addresses),
            Ok(Err(error)) => {
                return Err(Failure::io(Phase::Resolve, "cannot look up the host", error).with_advice(
                    "check the name in bootstrap.servers, or advertised.listeners of the broker",
                ));
            }
            Err(_) => return Err(late(Phase::Resolve, "the host's addresses were not found", setup_timeout)),
        };
        let count = addresses.len();
        match self.race(&peer, addresses, setup_timeout).await {
            Ok((stream, established)) => {
                Ok(Connection::start(&self.runtime, &self.config, peer, stream, established, Box::new(ended)))
            }
            Err(mut failure) if count > 1 => {
                failure.message = format!("{} (the last of {count} addresses)", failure.message).into();
                Err(failure)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Opens the first address that lets us. The next one joins in when one failed, or after [`HEAD_START`].
    async fn race(
        &self,
        peer: &Peer,
        addresses: Vec<SocketAddr>,
        limit: Duration,
    ) -> Result<(Box<dyn Stream>, Established), Failure> {
        let mut waiting = addresses.into_iter();
        let mut running = Vec::new();
        let mut head_start = pin!(sleep(HEAD_START));
        let mut last = Failure::new(ErrorKind::Network, Phase::Resolve, "the host has no address");
        poll_fn(|context| {
            loop {
                let (mut index, mut failed) = (0, false);
                while let Some(attempt) = running.get_mut(index) {
                    let attempt: &mut BoxFuture<'_, Result<_, Failure>> = attempt;
                    match attempt.as_mut().poll(context) {
                        Poll::Ready(Ok(opened)) => return Poll::Ready(Ok(opened)),
                        Poll::Ready(Err(failure)) => {
                            last = failure;
                            failed = true;
                            drop(running.remove(index));
                        }
                        Poll::Pending => index += 1,
                    }
                }
                let next = failed || running.is_empty() || head_start.as_mut().poll(context).is_ready();
                match if next { waiting.next() } else { None } {
                    Some(address) => {
                        running.push(Box::pin(self.open_address(peer, address, limit)));
                        head_start.as_mut().reset(Instant::now() + HEAD_START);
                    }
                    None if running.is_empty() => return Poll::Ready(Err(last.clone())),
                    None => return Poll::Pending,
                }
            }
        })
        .await
    }

    async fn open_address(
        &self,
        peer: &Peer,
        address: SocketAddr,
        limit: Duration,
    ) -> Result<(Box<dyn Stream>, Established), Failure> {
        let refusal = match self.attempt(peer, address, limit, Negotiation::new()).await {
            Ok(established) => return Ok(established),
            Err(refusal) => refusal,
        };
        if !refusal.silent {
            return Err(refusal.failure);
        }
        // Azure Event Hubs hangs up on versions that it does not know.
        self.attempt(peer, address, limit, Negotiation::oldest()).await.map_err(|_| refusal.failure)
    }

    async fn attempt(
        &self,
        peer: &Peer,
        address: SocketAddr,
        limit: Duration,
        negotiation: Negotiation,
    ) -> Result<(Box<dyn Stream>, Established), Refusal> {
        let mut stream = match timeout(limit, self.runtime.connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let advice = (error.kind() == io::ErrorKind::ConnectionRefused)
                    .then_some("nothing listens there: is the broker running, and is the port right?");
                let mut failure = Failure::io(Phase::Connect, &format!("cannot connect to {address}"), error);
                failure.advice = advice;
                return Err(failure.into());
            }
            Err(_) => {
                return Err(
                    late(Phase::Connect, &format!("{address} did not accept the connection"), limit).into()
                );
            }
        };
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.config.tls {
            stream = match timeout(limit, tls.connect(&peer.host, stream)).await {
                Ok(secured) => secured.map_err(Failure::tls)?,
                Err(_) => {
                    let message = format!("the TLS handshake was not finished within {limit:?}");
                    return Err(Failure::tls(Refused::new(TlsFailure::Late, message)).into());
                }
            };
        }
        let mechanism = self.config.mechanism.as_ref().map(|mechanism| Arc::from(mechanism.name()));
        let mut machine = Handshake::new(self.config.client_id.clone(), negotiation, mechanism);
        match timeout(limit, self.establish(peer, &mut *stream, &mut machine)).await {
            Ok(Ok(established)) => Ok((stream, established)),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(machine.late(limit).into()),
        }
    }

    /// Moves the bytes of a handshake over `stream`, and the tokens of the mechanism. No timeout of its own.
    async fn establish(
        &self,
        peer: &Peer,
        stream: &mut dyn Stream,
        machine: &mut Handshake,
    ) -> Result<Established, Refusal> {
        let mut buffer = FrameReader::responses(FRAME_BYTES_HANDSHAKE_MAX);
        let mut dialogue = None;
        loop {
            match machine.poll_output() {
                Some(handshake::Output::Send(request)) => {
                    let written = async {
                        stream.write_all(&request).await?;
                        stream.flush().await
                    };
                    if let Err(error) = written.await {
                        machine.handle_unwritten(error);
                    }
                }
                Some(handshake::Output::Begin) => {
                    dialogue =
                        self.config.mechanism.clone().map(|mechanism| {
                            Dialogue::new(mechanism, peer.clone(), Arc::clone(&self.runtime))
                        });
                    listen(&mut dialogue, machine).await;
                }
                Some(handshake::Output::Challenge(challenge)) => {
                    if let Some(dialogue) = &mut dialogue {
                        dialogue.answer(challenge);
                    }
                    listen(&mut dialogue, machine).await;
                }
                Some(handshake::Output::Done(agreed)) => return Ok(Established { agreed, buffer }),
                Some(handshake::Output::Failed(refusal)) => return Err(refusal),
                None => match buffer.next_frame() {
                    Ok(Some(frame)) => machine.handle_frame(frame),
                    Ok(None) => match stream.read_buf(buffer.buffer()).await {
                        Ok(0) => machine.handle_end(None),
                        Ok(_) => machine.handle_bytes(),
                        Err(error) => machine.handle_end(Some(error)),
                    },
                    Err(error) => machine.handle_garbage(error),
                },
            }
        }
    }
}

/// Waits for what the mechanism says next.
async fn listen(dialogue: &mut Option<Dialogue>, machine: &mut Handshake) {
    let Some(dialogue) = dialogue else { return };
    match poll_fn(|context| dialogue.poll_said(context)).await {
        Said::Token(token) => machine.handle_token(token),
        Said::End(result) => machine.handle_end_of_mechanism(result),
    }
}

fn late(phase: Phase, what: &str, limit: Duration) -> Failure {
    Failure::new(ErrorKind::Timeout, phase, format!("{what} within {limit:?}"))
}

/// Address families in turn, the resolver's favourite first, so that one broken family costs one timeout, not all.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut ordered = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return ordered;
        }
        ordered.extend(pair.0);
        ordered.extend(pair.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_families_take_turns() {
        let addresses = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"].map(|a| a.parse().unwrap()).to_vec();
        let ordered: Vec<_> = interleave(addresses).iter().map(ToString::to_string).collect();
        assert_eq!(ordered, ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]);
    }
}
