//! A TLS session as a stream like any other.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::failure::Refused;
use crate::runtime::Stream;

/// A session of a client or a server.
#[derive(Debug)]
pub(super) struct Session<S> {
    tls: S,
    /// Whether we presented a certificate, or could have.
    identified: bool,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
}

impl<S> Session<S> {
    pub(super) fn new(tls: S, identified: bool, ends: (Option<SocketAddr>, Option<SocketAddr>)) -> Self {
        Self { tls, identified, local: ends.0, peer: ends.1 }
    }

    /// An error of TLS as what it means: with TLS 1.3, a broker says what it thinks of our certificate after the handshake.
    fn explained(&self, error: io::Error) -> io::Error {
        match Refused::of(&error, self.identified) {
            Some(refused) => io::Error::new(error.kind(), refused),
            None => error,
        }
    }
}

impl<S: AsyncRead + Unpin> Session<S> {
    /// Why nothing can be written: whoever hangs up on us may have said why before.
    fn unwritten(&mut self, context: &mut Context<'_>, error: io::Error) -> io::Error {
        let mut byte = [0];
        match Pin::new(&mut self.tls).poll_read(context, &mut ReadBuf::new(&mut byte)) {
            Poll::Ready(Err(reason)) if Refused::of(&reason, self.identified).is_some() => {
                self.explained(reason)
            }
            _ => error,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Session<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.tls).poll_read(context, buffer) {
            // A process that is killed says no goodbye, and nobody can cut a frame short unnoticed: it has a length.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.explained(error))),
            other => other,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Session<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.tls).poll_write(context, bytes) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.unwritten(context, error))),
            other => other,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.tls).poll_write_vectored(context, slices) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.unwritten(context, error))),
            other => other,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.tls).poll_flush(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.unwritten(context, error))),
            other => other,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin + 'static> Stream for Session<S> {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.local
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }
}
