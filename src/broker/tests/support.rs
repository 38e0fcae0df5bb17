//! A client without any cleverness: one connection, one request at a time, generated messages.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::broker::{Cluster, ClusterBuilder};
use crate::runtime::sim::SimRuntime;
use crate::runtime::{Runtime, Stream};
use crate::wire::frame::{decode_body, decode_response_header, encode_request};
use crate::wire::messages::produce::{
    PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData,
};
use crate::wire::{Reader, Request};

pub(super) struct Bench {
    pub(super) runtime: Arc<SimRuntime>,
    pub(super) cluster: Cluster,
}

impl Bench {
    pub(super) async fn start(builder: ClusterBuilder) -> Self {
        let runtime = SimRuntime::new(7);
        let cluster = builder.runtime(runtime.clone()).start().await.unwrap();
        Self { runtime, cluster }
    }

    pub(super) fn address(&self, node: usize) -> SocketAddr {
        self.cluster.bootstrap_servers().split(',').nth(node).unwrap().parse().unwrap()
    }

    pub(super) async fn client(&self, node: usize) -> Client {
        let stream = self.runtime.connect(self.address(node)).await.unwrap();
        Client::new(stream)
    }
}

pub(super) struct Client {
    pub(super) stream: Box<dyn Stream>,
    correlation: i32,
}

impl Client {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, correlation: 0 }
    }

    pub(super) async fn send<R: Request>(&mut self, request: &R, version: i16) {
        self.correlation += 1;
        let frame = encode_request(request, version, self.correlation, Some("tester")).unwrap();
        self.stream.write_all(&frame).await.unwrap();
    }

    /// The next frame without its length prefix.
    pub(super) async fn frame(&mut self) -> io::Result<Bytes> {
        let length = self.stream.read_i32().await?;
        let mut frame = BytesMut::zeroed(length as usize);
        self.stream.read_exact(&mut frame).await?;
        Ok(frame.freeze())
    }

    pub(super) async fn receive<R: Request>(&mut self, version: i16) -> io::Result<R::Response> {
        let frame = self.frame().await?;
        let (correlation, mut reader): (i32, Reader) =
            decode_response_header(frame, R::KEY, version).map_err(io::Error::other)?;
        assert_eq!(correlation, self.correlation);
        decode_body(&mut reader, version).map_err(io::Error::other)
    }

    pub(super) async fn try_ask<R: Request>(&mut self, request: &R, version: i16) -> io::Result<R::Response> {
        self.send(request, version).await;
        self.receive::<R>(version).await
    }

    pub(super) async fn ask<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        match self.try_ask(request, version).await {
            Ok(response) => response,
            Err(error) => panic!("{} version {version}: {error}", R::NAME),
        }
    }

    pub(super) async fn produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> ProduceResponse {
        self.ask(&produce(topic, partition, batch, -1), 9).await
    }
}

pub(super) fn produce(topic: &str, partition: i32, batch: Bytes, acks: i16) -> ProduceRequest {
    ProduceRequest {
        acks,
        timeout_ms: 1000,
        topic_data: vec![TopicProduceData {
            name: topic.into(),
            partition_data: vec![PartitionProduceData { index: partition, records: Some(batch) }],
            ..Default::default()
        }],
        ..Default::default()
    }
}
