//! One request over HTTP/1.1, to an identity provider or to AWS: bounded in size and time, without redirects, on a connection of its own.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use tokio::io::ReadBuf;
use tokio::time::timeout;

use crate::error::Phase;
use crate::runtime::{Runtime, Stream};
use crate::types::Secret;
use crate::{Error, ErrorKind, Result};

/// Largest answer.
const BODY_MAX: usize = 1024 * 1024;
/// Largest head of an answer.
const HEAD_MAX: usize = 64 * 1024;
/// Time for everything.
const LIMIT: Duration = Duration::from_secs(10);

/// An address of the web.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(super) secure: bool,
    host: String,
    port: u16,
    path: String,
}

impl Url {
    /// Reads `http://host:port/path` and `https://…`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (secure, rest) = if let Some(rest) = text.strip_prefix("https://") {
            (true, rest)
        } else if let Some(rest) = text.strip_prefix("http://") {
            (false, rest)
        } else {
            return Err("does not begin with https:// or http://".to_owned());
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err("has a user in it, which is not supported".to_owned());
        }
        let plain = |c: char| c.is_ascii_graphic() && c != '#';
        if !path.chars().all(plain) || !authority.chars().all(plain) {
            return Err("has characters that no address has".to_owned());
        }
        let bracketed = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            return Err("has no host".to_owned());
        }
        let port = match port {
            None => {
                if secure {
                    443
                } else {
                    80
                }
            }
            Some(port) => {
                port.parse().ok().filter(|port| *port > 0).ok_or("has a port that is not in 1 to 65535")?
            }
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { secure, host: host.to_owned(), port, path })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        // The query may hold what is nobody's business.
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{scheme}://{}:{}{path}", self.host, self.port)
    }
}

/// What a provider answered.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// A request, without its address.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Names in small letters.
    pub(super) headers: &'a [(&'a str, &'a Secret)],
    pub(super) body: &'a Secret,
}

/// Asks `who`, which is how errors call it. The answer is of any status.
pub(super) async fn ask(runtime: &Arc<dyn Runtime>, who: &str, url: &Url, what: Ask<'_>) -> Result<Response> {
    match timeout(LIMIT, exchange(runtime, who, url, what)).await {
        Ok(result) => result.map_err(|error| error.with_peer(url.to_string())),
        Err(_) => Err(Error::new(ErrorKind::Network, format!("{who} did not answer within {LIMIT:?}"))
            .with_peer(url.to_string())),
    }
}

async fn exchange(runtime: &Arc<dyn Runtime>, who: &str, url: &Url, what: Ask<'_>) -> Result<Response> {
    if url.secure {
        return Err(Error::new(
            ErrorKind::Config,
            "https is not spoken with those who give out tokens and credentials in this version",
        ));
    }
    let unreachable = |source: io::Error| {
        Error::new(ErrorKind::Network, format!("{who} cannot be reached"))
            .with_source(source)
            .with_advice("check the address, and what is in between")
    };
    let addresses = runtime.resolve(&url.host, url.port).await.map_err(unreachable)?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let mut connected = None;
    for address in addresses {
        match runtime.connect(address).await {
            Ok(stream) => {
                connected = Some(stream);
                break;
            }
            Err(error) => last = error,
        }
    }
    let Some(stream) = connected else { return Err(unreachable(last).with_phase(Phase::Connect)) };
    let broken = |source: hyper::Error| {
        Error::new(ErrorKind::Protocol, format!("{who} did not answer in HTTP")).with_source(source)
    };
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_MAX).handshake(Io(stream)).await.map_err(broken)?;
    let mut request = Request::builder()
        .method(what.method)
        .uri(&url.path)
        .header(header::HOST, format!("{}:{}", url.host, url.port))
        .header(header::CONNECTION, "close");
    for (name, value) in what.headers {
        request = request.header(*name, value.expose());
    }
    let request = request.body(what.body.expose().to_owned()).map_err(|_| {
        let message = format!("the request to {who} cannot be written: is the address right?");
        Error::new(ErrorKind::Config, message)
    })?;
    let asking = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        Ok(Response { status, body: read(who, response.into_body()).await? })
    };
    let (mut connection, mut asking) = (pin!(connection), pin!(asking));
    let mut over = false;
    // The connection moves the bytes that the question waits for.
    poll_fn(|context| {
        over = over || connection.as_mut().poll(context).is_ready();
        asking.as_mut().poll(context)
    })
    .await
}

async fn read(who: &str, mut body: Incoming) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|source| {
            Error::new(ErrorKind::Network, format!("the answer of {who} broke off")).with_source(source)
        })?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > BODY_MAX {
                let message = format!("the answer of {who} has more than {BODY_MAX} bytes");
                return Err(Error::new(ErrorKind::Protocol, message));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// Our stream in the terms of hyper.
struct Io(Box<dyn Stream>);

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut space = [0; 4096];
        let room = cursor.remaining().min(space.len());
        let mut buffer = ReadBuf::new(&mut space[..room]);
        let read = Pin::new(&mut *self.0).poll_read(context, &mut buffer);
        read.map_ok(|()| cursor.put_slice(buffer.filled()))
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}

/// A text as forms have it.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte))
            }
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (text, expected) in [
            ("http://a", "http://a:80/"),
            ("https://a/token?secret=1", "https://a:443/token"),
            ("http://[::1]:8080/x/y", "http://::1:8080/x/y"),
            ("http://a:7?x=1", "http://a:7/"),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), expected);
        }
        for (text, expected) in [
            ("ftp://a", "http"),
            ("a", "http"),
            ("http://", "no host"),
            ("http://user:pass@a/", "user"),
            ("http://a:0", "port"),
            ("http://a:b", "port"),
            ("http://a/\r\nx", "characters"),
            ("http://a/#x", "characters"),
        ] {
            assert!(Url::parse(text).unwrap_err().contains(expected), "{text}");
        }
        assert_eq!(encoded("a b+ü/~"), "a%20b%2B%C3%BC%2F~");
    }
}
