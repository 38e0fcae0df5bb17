//! What is done to the cluster.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use carafe::Client;
use carafe::admin::NewTopic;
use carafe::wire::Request;
use carafe::wire::frame::{decode_body, decode_response_header, encode_request};
use carafe::wire::messages::alter_client_quotas::{EntityDataRequest, EntryDataRequest, OpData};
use carafe::wire::messages::create_acls::AclCreation;
use carafe::wire::messages::{AlterClientQuotasRequest, CreateAclsRequest};
use tokio::time::{Instant, sleep};

use super::diary::{Diary, What};
use super::workload::VOLATILE;
use crate::kafka::{self, RunningNode};

const TIMEOUT: Duration = Duration::from_secs(100);
const RECREATE_EVERY: Duration = Duration::from_secs(20);
/// A frozen node, in seconds.
const FROZEN: std::ops::RangeInclusive<u64> = 5..=80;

/// Sends one request to a node by a way of its own, past the client under trial.
fn ask<R: Request>(node: &RunningNode, request: &R, version: i16) -> io::Result<R::Response> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, node.port)), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let frame =
        encode_request(request, version, 1, Some("trial-faults")).map_err(|e| invalid(e.to_string()))?;
    stream.write_all(&frame)?;
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let mut frame = vec![0; usize::try_from(i32::from_be_bytes(size)).unwrap_or(0).min(1 << 20)];
    stream.read_exact(&mut frame)?;
    let (_, mut body) =
        decode_response_header(Bytes::from(frame), R::KEY, version).map_err(|e| invalid(e.to_string()))?;
    decode_body(&mut body, version).map_err(|e| invalid(e.to_string()))
}

/// Takes every right on `topic` from everybody. Needs an authorizer.
pub(super) async fn forbid(nodes: &[RunningNode], topic: &'static str) -> io::Result<()> {
    let node = nodes[0].clone();
    let request = CreateAclsRequest {
        creations: vec![AclCreation {
            resource_type: 2,
            resource_name: topic.into(),
            resource_pattern_type: 3,
            principal: "User:ANONYMOUS".into(),
            host: "*".into(),
            operation: 2,
            permission_type: 2,
        }],
    };
    let answer = tokio::task::spawn_blocking(move || ask(&node, &request, 1)).await??;
    match answer.results.first() {
        Some(result) if result.error_code == 0 => Ok(()),
        result => Err(io::Error::other(format!("the topic cannot be forbidden: {result:?}"))),
    }
}

/// Deletes the volatile topic every 20 s and makes it anew, with more or fewer partitions.
pub(super) async fn recreate_topics(
    client: Client,
    diary: Arc<Diary>,
    mut dice: fastrand::Rng,
    end: Instant,
) {
    let admin = client.admin();
    while Instant::now() + RECREATE_EVERY < end {
        sleep(RECREATE_EVERY).await;
        let from = diary.now();
        let deleted = admin.delete_topics([VOLATILE]).await;
        if dice.bool() {
            sleep(Duration::from_millis(dice.u64(0..3000))).await;
        }
        let partitions = dice.i32(1..=8);
        let mut tries = 0;
        let created = loop {
            let created = admin.create_topics([NewTopic::new(VOLATILE).partitions(partitions)]).await;
            let done = match &created {
                Ok(results) => results.values().all(Result::is_ok),
                Err(_) => false,
            };
            tries += 1;
            if done || tries > 200 {
                break done;
            }
            sleep(Duration::from_millis(500)).await;
        };
        println!(
            "{}: {VOLATILE} made anew with {partitions} partitions: deleted {}, created {created}",
            diary.clock(),
            deleted.is_ok()
        );
        diary.happened(What::Recreated, from);
    }
}

/// Sets quotas that bite, for ten seconds at a time.
pub(super) async fn quotas(
    nodes: Vec<RunningNode>,
    diary: Arc<Diary>,
    mut dice: fastrand::Rng,
    end: Instant,
) {
    while Instant::now() + Duration::from_secs(60) < end {
        sleep(Duration::from_secs(dice.u64(20..50))).await;
        let from = diary.now();
        let rate = f64::from(dice.u32(2_000..20_000));
        let set = set_quota(&nodes, Some(rate)).await;
        println!("{}: quota of {rate} bytes/s: {set:?}", diary.clock());
        sleep(Duration::from_secs(10)).await;
        while let Err(error) = set_quota(&nodes, None).await {
            eprintln!("the quota stays: {error}");
            sleep(Duration::from_secs(1)).await;
        }
        diary.happened(What::Quota, from);
    }
}

async fn set_quota(nodes: &[RunningNode], rate: Option<f64>) -> io::Result<()> {
    let op = |key: &'static str| OpData {
        key: key.into(),
        value: rate.unwrap_or_default(),
        remove: rate.is_none(),
    };
    let request = AlterClientQuotasRequest {
        entries: vec![EntryDataRequest {
            entity: vec![EntityDataRequest { entity_type: "client-id".into(), entity_name: None }],
            ops: vec![op("producer_byte_rate"), op("consumer_byte_rate")],
        }],
        validate_only: false,
    };
    let nodes = nodes.to_vec();
    tokio::task::spawn_blocking(move || {
        let answer = ask(&nodes[0], &request, 0)?;
        match answer.entries.first() {
            Some(entry) if entry.error_code == 0 => Ok(()),
            entry => Err(io::Error::other(format!("{entry:?}"))),
        }
    })
    .await?
}

/// Freezes one node at a time (SIGSTOP), for 5 to 80 s.
pub(super) async fn freeze(
    nodes: Vec<RunningNode>,
    diary: Arc<Diary>,
    mut dice: fastrand::Rng,
    end: Instant,
) {
    loop {
        sleep(Duration::from_secs(dice.u64(15..40))).await;
        let time = Duration::from_secs(dice.u64(FROZEN));
        if Instant::now() + time > end {
            return;
        }
        let node = &nodes[dice.usize(..nodes.len())];
        let from = diary.now();
        println!("{}: node on port {} is frozen for {time:?}", diary.clock(), node.port);
        if let Err(error) = kafka::freeze(node, time).await {
            eprintln!("error: {error}");
            return;
        }
        println!("{}: node on port {} thaws", diary.clock(), node.port);
        diary.happened(What::Frozen, from);
    }
}
