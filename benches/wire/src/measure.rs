//! CPU time and heap allocations of the sides of a case.

use std::error::Error;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::{Allocations, Case, Side, counting};

/// CPU time of this process, which has one thread.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("the process has a CPU clock").into()
}

/// Nanoseconds per call over at least `sample`.
fn time(side: &mut Side, sample: Duration) -> f64 {
    let (mut calls, mut batch) = (0_u64, 1_u64);
    let start = cpu();
    loop {
        for _ in 0..batch {
            (side.run)();
        }
        calls += batch;
        let spent = cpu() - start;
        if spent >= sample {
            return spent.as_nanos() as f64 / calls as f64;
        }
        // The clock is a system call: ask for it less often when calls are short.
        batch = batch.saturating_mul(2).min(calls);
    }
}

/// Allocations per call, after a call that may fill buffers which are kept.
fn allocations(side: &mut Side) -> f64 {
    const CALLS: u64 = 8;
    (side.run)();
    let before = counting::allocations();
    for _ in 0..CALLS {
        (side.run)();
    }
    (counting::allocations() - before) as f64 / CALLS as f64
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

pub fn compare(cases: &[Case], blocks: usize, sample: Duration) -> Result<(), Box<dyn Error>> {
    counting::enable();
    println!(
        "{blocks} blocks, {} ms of CPU time per run; ratio: carafe to the side of that line\n",
        sample.as_millis()
    );
    println!("| Case | Side | ns | per | allocations | ratio (range) | goal |");
    println!("|---|---|---|---|---|---|---|");
    let mut excess = Vec::new();
    for case in cases {
        let units = case.units as f64;
        let mut sides = (case.sides)();
        let counts: Vec<f64> = sides.iter_mut().map(|side| allocations(side) / units).collect();
        // One vector of calls' times per side: the sum of the way there and the way back of each block.
        let mut times = vec![Vec::with_capacity(blocks); sides.len()];
        for _ in 0..blocks {
            let there: Vec<f64> = sides.iter_mut().map(|side| time(side, sample)).collect();
            for (index, side) in sides.iter_mut().enumerate().rev() {
                times[index].push((there[index] + time(side, sample)) / 2.0);
            }
        }
        for (index, side) in sides.iter().enumerate() {
            let ratios: Vec<f64> =
                times[0].iter().zip(&times[index]).map(|(ours, theirs)| ours / theirs).collect();
            let (least, most) =
                ratios.iter().fold((f64::MAX, f64::MIN), |(least, most), r| (least.min(*r), most.max(*r)));
            let ratio = median(ratios);
            let peer = side.name == "kafka-protocol";
            let goal = match case.goal.time.filter(|_| peer) {
                Some(goal) if ratio <= goal => format!("{goal:.2} met"),
                Some(goal) => format!("{goal:.2} **missed**"),
                None => String::new(),
            };
            let ratio =
                if index == 0 { String::new() } else { format!("{ratio:.3} ({least:.3}–{most:.3})") };
            println!(
                "| {} | {} | {:.1} | {} | {:.4} | {ratio} | {goal} |",
                case.name,
                side.name,
                median(times[index].iter().copied()) / units,
                case.unit,
                counts[index],
            );
            let limit = match case.goal.allocations {
                Some(Allocations::Each(limit)) if index == 0 => limit,
                Some(Allocations::Share(share)) if peer => share * counts[index],
                _ => continue,
            };
            if counts[0] > limit {
                excess.push(format!(
                    "{}: {} allocations per {}, goal {limit}",
                    case.name, counts[0], case.unit
                ));
            }
        }
    }
    if excess.is_empty() { Ok(()) } else { Err(excess.join("\n").into()) }
}
