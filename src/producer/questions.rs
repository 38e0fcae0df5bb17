//! What the driver asks the cluster.

use std::sync::Arc;

use tokio::time::Instant;

use crate::cluster::{Cluster, Metadata, SlowLane};
use crate::runtime::BoxFuture;
use crate::wire::messages::{InitProducerIdRequest, InitProducerIdResponse};
use crate::{ErrorCode, Result};

/// The next snapshot after the one with generation `seen`.
pub(super) fn next_metadata(cluster: &Cluster, seen: u64) -> BoxFuture<'static, Option<Arc<Metadata>>> {
    let mut snapshots = cluster.subscribe();
    Box::pin(async move {
        loop {
            {
                let current = snapshots.borrow_and_update();
                if current.generation > seen {
                    return Some(Arc::clone(&current));
                }
            }
            snapshots.changed().await.ok()?;
        }
    })
}

/// A producer id and its epoch.
pub(super) async fn ask_producer_id(cluster: Cluster, deadline: Instant) -> Result<(i64, i16)> {
    let request = InitProducerIdRequest {
        transactional_id: None,
        // Ignored without transactional id.
        transaction_timeout_ms: i32::MAX,
        producer_id: -1,
        producer_epoch: -1,
    };
    // The broker waits for a log or for the controller.
    let lane = SlowLane::new(cluster.clone());
    let code = |response: &InitProducerIdResponse| ErrorCode(response.error_code);
    let response = cluster.request_any(&request, lane.call(deadline), code).await?;
    Ok((response.producer_id, response.producer_epoch))
}
