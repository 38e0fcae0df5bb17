//! A peer played by a test: frames in, frames out, over the simulated network.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::runtime::sim::SimRuntime;
use crate::runtime::{Listener, Runtime, Stream};
use crate::wire::frame::{self, RequestHead};
use crate::wire::messages::ApiVersionsResponse;
use crate::wire::messages::api_versions::ApiVersion;
use crate::wire::{ApiKey, Encode, Reader};

/// A place to connect to.
pub(crate) struct Stage {
    listener: Box<dyn Listener>,
}

impl Stage {
    pub(crate) async fn new(sim: &Arc<SimRuntime>) -> Self {
        Self { listener: sim.listen("localhost", 0).await.unwrap() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().port()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> Actor {
        Actor { stream: self.listener.accept().await.unwrap().0 }
    }

    /// The next connection, behind its negotiation.
    pub(crate) async fn accept_negotiated(&self) -> Actor {
        let mut actor = self.accept().await;
        actor.negotiate().await;
        actor
    }
}

/// The broker's end of a connection.
pub(crate) struct Actor {
    stream: Box<dyn Stream>,
}

impl Actor {
    /// The next request; `None` once the client has closed.
    pub(crate) async fn try_request(&mut self) -> Option<(RequestHead, Reader)> {
        let length = self.stream.read_i32().await.ok()?;
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut frame).await.ok()?;
        Some(frame::decode_request_header(Bytes::from(frame)).unwrap())
    }

    pub(crate) async fn request(&mut self) -> (RequestHead, Reader) {
        self.try_request().await.expect("a request")
    }

    /// A request for `key`, of which only the header matters.
    pub(crate) async fn expect(&mut self, key: ApiKey) -> RequestHead {
        let (head, _) = self.request().await;
        assert_eq!(head.key, key);
        head
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        // The client may have gone: that is for the test to notice on its side.
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn answer<T: Encode>(&mut self, head: &RequestHead, response: &T) {
        let bytes = self.encoded(head, response);
        self.write(&bytes).await;
    }

    /// An answer with its length.
    pub(crate) fn encoded<T: Encode>(&self, head: &RequestHead, response: &T) -> Bytes {
        frame::encode_response(response, head.key, head.version, head.correlation_id).unwrap().freeze()
    }

    /// Answers ApiVersions with everything that we speak.
    pub(crate) async fn negotiate(&mut self) {
        let head = self.expect(ApiKey::API_VERSIONS).await;
        self.answer(&head, &everything()).await;
    }

    /// True once the client has closed its end.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.try_request().await.is_none()
    }
}

/// All APIs in all versions that we speak.
pub(crate) fn everything() -> ApiVersionsResponse {
    let api_keys = ApiKey::all()
        .map(|(key, range)| ApiVersion { api_key: key.0, min_version: range.min, max_version: range.max })
        .collect();
    ApiVersionsResponse { api_keys, ..Default::default() }
}
