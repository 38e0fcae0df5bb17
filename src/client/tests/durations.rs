//! Every duration that a client takes, from zero to for ever, is refused with its range or works.

use std::time::Duration;

use crate::ErrorKind;
use crate::broker::Cluster;
use crate::client::{Client, ClientConfig};
use crate::runtime::sim::SimRuntime;

const DURATIONS: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_millis(1),
    Duration::from_secs(60),
    Duration::from_millis(i32::MAX as u64),
    Duration::from_secs(u64::MAX / 2),
    Duration::MAX,
];

type Setter = fn(ClientConfig, Duration) -> ClientConfig;

const SETTERS: [(&str, Setter); 8] = [
    ("request_timeout", ClientConfig::request_timeout),
    ("api_timeout", ClientConfig::api_timeout),
    ("connection_setup_timeout", ClientConfig::connection_setup_timeout),
    ("connections_max_idle", ClientConfig::connections_max_idle),
    ("reconnect_backoff", |config, value| config.reconnect_backoff(value).reconnect_backoff_max(value)),
    ("retry_backoff", |config, value| config.retry_backoff(value).retry_backoff_max(value)),
    ("metadata_max_age", ClientConfig::metadata_max_age),
    ("rebootstrap_after", ClientConfig::rebootstrap_after),
];

#[tokio::test(start_paused = true)]
async fn every_duration_is_refused_or_works() {
    let sim = SimRuntime::new(9);
    let broker = Cluster::builder().topic("t", 1).runtime(sim.clone()).start().await.unwrap();
    for (name, setter) in SETTERS {
        for duration in DURATIONS {
            let builder =
                Client::builder().bootstrap_servers(broker.bootstrap_servers()).runtime(sim.clone());
            let legal = (1..=i32::MAX as u128).contains(&duration.as_millis());
            let client = match builder.config(setter(ClientConfig::new(), duration)).build().await {
                Ok(client) if legal => client,
                Err(error) if !legal => {
                    assert_eq!(error.kind(), ErrorKind::Config, "{name} {duration:?}");
                    continue;
                }
                other => panic!("{name} {duration:?}: {other:?}"),
            };
            // Some are too short to get anything done; none may hang or panic.
            let described = client.admin().with_timeout(Duration::from_secs(5)).describe_topics(["t"]).await;
            if duration >= Duration::from_secs(1) {
                described.unwrap_or_else(|error| panic!("{name} {duration:?}: {error}"));
            }
        }
    }
    let client = Client::builder().bootstrap_servers(broker.bootstrap_servers()).runtime(sim);
    let client = client.build().await.unwrap();
    for duration in DURATIONS {
        let described = client.admin().with_timeout(duration).describe_cluster().await;
        assert_eq!(described.is_ok(), duration >= Duration::from_secs(1), "{duration:?}: {described:?}");
    }
}
