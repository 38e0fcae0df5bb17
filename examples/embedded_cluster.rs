//! Starts an embedded cluster, prints its address and serves until standard input ends or the given time is over.
//!
//! ```sh
//! cargo run --features broker --example embedded_cluster -- --nodes 3 --listen 127.0.0.1:9092 --seconds 60
//! ```

use std::time::Duration;

use carafe::broker::Cluster;

#[tokio::main]
async fn main() -> carafe::Result<()> {
    let mut builder = Cluster::builder();
    let mut seconds = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        builder = match name.as_str() {
            "--nodes" => builder.nodes(value.parse().unwrap_or(1)),
            "--listen" => builder.listen(value),
            "--topic" => match value.rsplit_once(':') {
                Some((topic, partitions)) => builder.topic(topic, partitions.parse().unwrap_or(1)),
                None => builder.topic(value, 1),
            },
            "--seconds" => {
                seconds = value.parse().ok();
                builder
            }
            _ => {
                eprintln!("unknown argument {name}; known are --nodes, --listen, --topic, --seconds");
                std::process::exit(2);
            }
        };
    }
    let cluster = builder.start().await?;
    print_address(&cluster);
    match seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => {
            let ended =
                tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
            let _ = ended.await;
        }
    }
    cluster.shutdown();
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the address is the output of this program")]
fn print_address(cluster: &Cluster) {
    println!("bootstrap.servers={}", cluster.bootstrap_servers());
}
