//! Leaders that move while answers are late: nothing is repeated, nothing skipped, and nobody stops.

use super::*;
use crate::runtime::AbortOnDrop;

const PARTITIONS: i32 = 3;
const RECORDS: u32 = 60;

/// Moves leaders and delays answers, as the dice say, for as long as it is held.
fn disturb(sim: &Arc<dyn Runtime>, broker: &broker::Cluster, seed: u64) -> AbortOnDrop {
    let control = broker.control();
    let mut dice = fastrand::Rng::with_seed(seed);
    let work = async move {
        loop {
            sleep(Duration::from_millis(dice.u64(20..800))).await;
            let node = dice.i32(0..3);
            match dice.u8(0..5) {
                0 | 1 => {
                    // A node that is not in sync refuses.
                    let _ = control.move_leader("t", dice.i32(0..PARTITIONS), node);
                }
                2 | 3 => {
                    let apis = [ApiKey::FETCH, ApiKey::FETCH, ApiKey::LIST_OFFSETS, ApiKey::METADATA];
                    let late = Action::DelayAnswer(Duration::from_millis(dice.u64(1..4_000)));
                    let rule = Matcher::api(apis[dice.usize(0..apis.len())]).node(node).times(dice.u64(1..4));
                    control.intercept(rule, late);
                }
                _ => control.disconnect(node),
            }
        }
    };
    sim.spawn("disturb", Box::pin(work)).abort_on_drop()
}

async fn one_seed(seed: u64) {
    let sim: Arc<dyn Runtime> = SimRuntime::new(seed);
    let Bench { broker, client } = bench_on(Arc::clone(&sim), 3, &[("t", PARTITIONS)]).await;
    let _disturbance = disturb(&sim, &broker, seed);
    let writer = client.clone();
    let work = async move {
        let mut dice = fastrand::Rng::with_seed(seed + 1);
        let mut written = [0; PARTITIONS as usize];
        while written.iter().any(|count| *count < RECORDS) {
            let partition = dice.usize(0..written.len());
            let count = dice.u32(1..8).min(RECORDS - written[partition]);
            if count > 0 {
                // One attempt each: what is written twice is no fault of the reader.
                let place = tp("t", i32::try_from(partition).unwrap());
                produce(writer.cluster(), &place, written[partition], count, 3).await;
                written[partition] += count;
            }
            sleep(Duration::from_millis(dice.u64(0..400))).await;
        }
    };
    let _writer = sim.spawn("write", Box::pin(work)).abort_on_drop();
    let reader =
        client.partition_reader().topic("t", StartOffset::Earliest).build().await.expect("it can be read");
    let mut seen: BTreeMap<TopicPartition, Vec<i64>> = BTreeMap::new();
    let mut total = 0;
    let all = (RECORDS * PARTITIONS as u32) as usize;
    while total < all {
        let batch = timeout(Duration::from_secs(90), reader.next()).await;
        let batch = batch.unwrap_or_else(|_| panic!("seed {seed}: nothing came after {seen:?}"));
        let batch = batch.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let offsets = seen.entry(batch.topic_partition().clone()).or_default();
        offsets.extend(batch.iter().map(|record| record.offset.0));
        let expected: Vec<i64> = (0..).take(offsets.len()).collect();
        assert_eq!(*offsets, expected, "seed {seed}: {}", batch.topic_partition());
        total = seen.values().map(Vec::len).sum();
    }
}

#[tokio::test(start_paused = true)]
async fn late_answers_of_former_leaders_repeat_skip_and_stop_nothing() {
    for seed in 0..30 {
        one_seed(seed).await;
    }
}
