//! Pipes, faults and determinism of the simulated network.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::*;

type Pair = (Box<dyn Stream>, Box<dyn Stream>);

/// A connection from a host of its own to a listener on localhost.
async fn connect(sim: &SimRuntime) -> Pair {
    let listener = sim.listen("localhost", 0).await.expect("a free port");
    let (client, accepted) = tokio::join!(sim.connect(listener.local_addr()), listener.accept());
    (client.expect("a connection"), accepted.expect("a connection").0)
}

fn address(stream: &dyn Stream) -> SocketAddr {
    stream.local_addr().expect("simulated streams have addresses")
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_in_order_after_a_delay_whatever_their_split() {
    let sim = SimRuntime::builder(3).buffer(1000).build();
    let (mut client, mut server) = connect(&sim).await;
    let sent: Vec<u8> = (0..100_000_u32).map(|number| number as u8 ^ (number >> 8) as u8).collect();
    let expected = sent.clone();
    let before = Instant::now();
    let writer = sim.spawn(
        "writer",
        Box::pin(async move {
            client.write_all(&sent).await.expect("written");
            client.shutdown().await.expect("half close");
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.expect("the other half is open");
            assert_eq!(answer, b"thanks");
            assert!(client.write_all(b"more").await.is_err(), "this half is closed");
        }),
    );
    let mut received = Vec::new();
    server.read_to_end(&mut received).await.expect("read");
    assert_eq!(received, expected);
    assert_eq!(server.read(&mut [0; 8]).await.expect("the end stays"), 0);
    server.write_all(b"thanks").await.expect("written after the other half was closed");
    drop(server);
    assert_eq!(writer.join().await, Ok(()));
    // At most 1000 bytes are under way at a time.
    assert!(before.elapsed() >= Duration::from_millis(20), "{:?}", before.elapsed());
    assert_eq!(sim.network().connections(), []);
}

#[tokio::test(start_paused = true)]
async fn a_writer_learns_that_its_reader_is_gone() {
    let sim = SimRuntime::new(1);
    let (mut client, server) = connect(&sim).await;
    drop(server);
    client.write_all(b"lost in silence").await.expect("the sender cannot know yet");
    tokio::time::sleep(Duration::from_millis(10)).await;
    let error = client.write_all(b"too late").await.expect_err("the reader is gone");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(client.read(&mut [0; 8]).await.expect("the other end closed in order"), 0);
}

#[tokio::test(start_paused = true)]
async fn an_endless_writer_learns_it_too() {
    let sim = SimRuntime::new(1);
    let (mut client, server) = connect(&sim).await;
    drop(server);
    // A writer that took everything would stop virtual time, and with it the news.
    while client.write_all(&[0; 1000]).await.is_ok() {}

    let (mut client, server) = connect(&sim).await;
    let fault = sim.network().partition(Links::all(), Direction::Both);
    drop(server);
    let endless = async { while client.write_all(&[0; 1000]).await.is_ok() {} };
    let mut endless = std::pin::pin!(endless);
    let wait = Duration::from_secs(60);
    assert!(tokio::time::timeout(wait, &mut endless).await.is_err(), "no news pass the partition");
    sim.network().heal(fault);
    tokio::time::timeout(wait, endless).await.expect("the news pass");
}

#[tokio::test(start_paused = true)]
async fn a_full_buffer_makes_the_writer_wait_and_a_cut_frees_it() {
    let sim = SimRuntime::builder(1).buffer(10).build();
    let (mut client, _server) = connect(&sim).await;
    let write = tokio::time::timeout(Duration::from_secs(5), client.write_all(&[0; 11])).await;
    assert!(write.is_err(), "nobody reads");
    let write = sim.spawn(
        "writer",
        Box::pin(async move {
            let error = client.write_all(&[0; 11]).await.expect_err("cut");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }),
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(sim.network().cut(&Links::all()), 1);
    assert_eq!(write.join().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_cut_loses_what_is_under_way_and_keeps_what_has_arrived() {
    let sim = SimRuntime::builder(1).short_writes(false).build();
    let (mut client, mut server) = connect(&sim).await;
    client.write_all(b"arrived").await.expect("written");
    tokio::time::sleep(Duration::from_millis(10)).await;
    client.write_all(b"under way").await.expect("written");
    assert_eq!(sim.network().cut(&Links::of(address(&*client))), 1);
    let mut buffer = [0; 100];
    let length = server.read(&mut buffer).await.expect("what has arrived");
    assert_eq!(&buffer[..length], b"arrived");
    for stream in [&mut server, &mut client] {
        let error = stream.read(&mut buffer).await.expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_cut_at_the_given_byte() {
    let sim = SimRuntime::new(9);
    let (mut client, mut server) = connect(&sim).await;
    let network = sim.network();
    assert_eq!(network.cut_after(&Links::all(), Direction::ToClient, 5), 1);
    client.write_all(b"requests pass").await.expect("written");
    server.write_all(b"answer").await.expect("taken, though its end is lost");
    let mut answer = Vec::new();
    let error = client.read_to_end(&mut answer).await.expect_err("reset");
    assert_eq!((error.kind(), answer.as_slice()), (io::ErrorKind::ConnectionReset, &b"answe"[..]));
    let mut request = Vec::new();
    server.read_to_end(&mut request).await.expect_err("reset");
    assert_eq!(request, b"requests pass");

    let fault = network.cut_new_after(Links::all(), Direction::ToServer, 0);
    let (mut client, mut server) = connect(&sim).await;
    network.heal(fault);
    client.write_all(b"nothing passes").await.expect("taken");
    assert!(server.read(&mut [0; 8]).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_partition_holds_bytes_ends_and_attempts_until_it_heals() {
    let sim = SimRuntime::new(5);
    let far = sim.host([10, 0, 0, 2].into());
    let listener = far.listen("0.0.0.0", 9092).await.expect("free");
    assert_eq!(listener.local_addr(), "10.0.0.2:9092".parse().expect("an address"));
    let client = sim.connect(listener.local_addr()).await.expect("a connection");
    let (mut client, mut server) = (client, listener.accept().await.expect("a connection").0);
    client.write_all(b"under ").await.expect("written");
    let network = sim.network();
    let _unrelated = network.partition(Links::of(IpAddr::from([10, 0, 0, 3])), Direction::Both);
    let fault = network.partition(Links::of(far.address()), Direction::ToServer);
    client.write_all(b"way").await.expect("written");

    server.write_all(b"answers pass").await.expect("written");
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.expect("the other direction is free");
    client.shutdown().await.expect("half close");
    let mut request = Vec::new();
    let wait = Duration::from_secs(60);
    assert!(tokio::time::timeout(wait, server.read_to_end(&mut request)).await.is_err());
    assert!(tokio::time::timeout(wait, sim.connect(listener.local_addr())).await.is_err());
    let late = sim.spawn("connect", {
        let (sim, address) = (sim.host(sim.address()), listener.local_addr());
        Box::pin(async move { drop(sim.connect(address).await.expect("after healing")) })
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(request.is_empty() && !late.is_finished());

    network.heal(fault);
    server.read_to_end(&mut request).await.expect("all arrives");
    assert_eq!(request, b"under way");
    assert_eq!(late.join().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn attempts_are_refused_without_a_listener_or_by_fault() {
    let sim = SimRuntime::new(5);
    let listener = sim.listen("localhost", 9092).await.expect("free");
    let address = listener.local_addr();
    let taken = sim.listen("127.0.0.1", 9092).await.expect_err("taken");
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);

    let fault = sim.network().refuse(Links::of(address));
    let refused = sim.connect(address).await.expect_err("refused");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    sim.network().heal(fault);
    let mut client = sim.connect(address).await.expect("a connection");
    drop(listener);
    assert_eq!(client.read(&mut [0; 8]).await.expect("closed before it was accepted"), 0);
    assert!(sim.connect(address).await.is_err());
    assert!(sim.listen("localhost", 9092).await.is_ok(), "the address is free again");
}

#[tokio::test(start_paused = true)]
async fn delays_and_bandwidth_cost_time() {
    let sim = SimRuntime::new(5);
    let (mut client, mut server) = connect(&sim).await;
    let second = Duration::from_secs(1);
    let delay = sim.network().delay(Links::all(), Direction::ToServer, second..=2 * second);
    let before = Instant::now();
    client.write_all(b"x").await.expect("written");
    server.read_exact(&mut [0]).await.expect("read");
    assert!((second..3 * second).contains(&before.elapsed()));
    sim.network().heal(delay);

    let throttle = sim.network().throttle(Links::all(), Direction::Both, 1000);
    let before = Instant::now();
    client.write_all(&[7; 10_000]).await.expect("written");
    let mut buffer = [0; 10_000];
    server.read_exact(&mut buffer).await.expect("read");
    assert!((10 * second..11 * second).contains(&before.elapsed()), "{:?}", before.elapsed());
    sim.network().heal(throttle);
}

#[tokio::test(start_paused = true)]
async fn names_come_from_a_table() {
    let sim = SimRuntime::new(5);
    sim.network().set_host("kafka.example", vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]);
    let found = sim.resolve("Kafka.Example", 9092).await.expect("known");
    assert_eq!(found, ["10.0.0.1:9092", "10.0.0.2:9092"].map(|text| text.parse().expect("an address")));
    assert_eq!(sim.resolve("[::1]", 1).await.expect("an address"), ["[::1]:1".parse().expect("an address")]);
    let error = sim.resolve("kafka.exmaple", 9092).await.expect_err("unknown");
    assert!(error.to_string().contains("kafka.exmaple"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_wall_clock_follows_virtual_time_and_can_jump() {
    let sim = SimRuntime::new(5);
    let start = sim.wall_clock();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(sim.wall_clock(), start + Duration::from_secs(3600));
    sim.shift_wall_clock(-3_600_000);
    assert_eq!(sim.wall_clock(), start);
    let runtime: Arc<dyn Runtime> = sim;
    assert_eq!(runtime.timestamp().0, 1_767_225_600_000);
}

#[tokio::test(start_paused = true)]
async fn blocking_work_runs_inline_and_panics_are_collected() {
    let sim = SimRuntime::new(5);
    let runtime: Arc<dyn Runtime> = sim.clone();
    assert_eq!(runtime.blocking("sum", || 2 + 2).await, Ok(4));
    assert!(runtime.blocking("bad work", || panic!("one")).await.is_err());
    assert!(runtime.spawn("bad task", Box::pin(async { panic!("two") })).join().await.is_err());
    assert_eq!(sim.panics(), [("bad work", "one".to_owned()), ("bad task", "two".to_owned())]);
}

/// Ten clients talk to an echo server while faults come and go. Returns the hash of the trace.
async fn scenario(seed: u64) -> u64 {
    let sim = SimRuntime::new(seed);
    let listener = sim.listen("localhost", 9092).await.expect("free");
    let address = listener.local_addr();
    let server: Arc<dyn Runtime> = sim.clone();
    let _server = sim.spawn("server", {
        Box::pin(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _echo = server.spawn(
                    "echo",
                    Box::pin(async move {
                        let (mut read, mut write) = tokio::io::split(stream);
                        let _ = tokio::io::copy(&mut read, &mut write).await;
                    }),
                );
            }
        })
    });
    let mut clients = Vec::new();
    for index in 1..=10 {
        let client: Arc<dyn Runtime> = sim.host([10, 0, 0, index].into());
        clients.push(sim.spawn("client", {
            Box::pin(async move {
                let mut dice = client.dice();
                for _ in 0..20 {
                    let Ok(mut stream) = client.connect(address).await else { continue };
                    let question = vec![index; dice.usize(1..5000)];
                    let mut answer = vec![0; question.len()];
                    if stream.write_all(&question).await.is_ok() {
                        let _ = stream.read_exact(&mut answer).await;
                    }
                    tokio::time::sleep(Duration::from_millis(dice.u64(0..10))).await;
                }
            })
        }));
    }
    let mut dice = fastrand::Rng::with_seed(seed);
    let network = sim.network();
    for _ in 0..20 {
        let host = IpAddr::from([10, 0, 0, dice.u8(1..=10)]);
        let fault = match dice.u8(..4) {
            0 => network.partition(Links::of(host), Direction::Both),
            1 => network.refuse(Links::of(host)),
            2 => network.throttle(Links::of(host), Direction::ToClient, 100_000),
            _ => network.cut_new_after(Links::of(host), Direction::ToServer, dice.u64(..3000)),
        };
        tokio::time::sleep(Duration::from_millis(dice.u64(1..20))).await;
        network.cut(&Links::of(IpAddr::from([10, 0, 0, dice.u8(1..=10)])));
        network.heal(fault);
    }
    for client in clients {
        assert_eq!(client.join().await, Ok(()));
    }
    assert!(network.events() > 1000, "{}", network.events());
    sim.trace_hash()
}

#[test]
fn a_seed_gives_the_same_trace_each_time() {
    let run = |seed| {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        tokio.expect("a tokio runtime").block_on(scenario(seed))
    };
    let hashes: Vec<_> = (0..5).map(run).collect();
    for (seed, hash) in hashes.iter().enumerate() {
        assert_eq!(run(seed as u64), *hash, "seed {seed}");
    }
    assert!(hashes.windows(2).all(|pair| pair[0] != pair[1]), "other seeds give other traces");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_swapped_without_a_cut() {
    for seed in 0..30 {
        let sim = SimRuntime::builder(seed).buffer(3000).build();
        let (mut client, mut server) = connect(&sim).await;
        let sent: Vec<u8> = {
            let mut dice = fastrand::Rng::with_seed(seed);
            (0..50_000).map(|_| dice.u8(..)).collect()
        };
        let expected = sent.clone();
        let writer = sim.spawn(
            "writer",
            Box::pin(async move {
                for part in sent.chunks(1234) {
                    client.write_all(part).await.expect("no cut");
                }
            }),
        );
        let network = sim.network();
        let _faults = sim
            .spawn("faults", {
                let mut dice = fastrand::Rng::with_seed(seed);
                Box::pin(async move {
                    loop {
                        let long = Duration::from_millis(dice.u64(1..30));
                        let fault = match dice.u8(..3) {
                            0 => network.partition(Links::all(), Direction::Both),
                            1 => network.delay(Links::all(), Direction::ToServer, Duration::ZERO..=long),
                            _ => network.throttle(Links::all(), Direction::Both, dice.u64(10_000..1_000_000)),
                        };
                        tokio::time::sleep(Duration::from_millis(dice.u64(1..30))).await;
                        network.heal(fault);
                        tokio::time::sleep(Duration::from_millis(dice.u64(..5))).await;
                    }
                })
            })
            .abort_on_drop();
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.expect("no cut");
        assert!(received == expected, "seed {seed}");
        assert_eq!(writer.join().await, Ok(()));
    }
}
