//! Instructions of the sides of a case, by callgrind: each side runs in a process of its own with two numbers of calls,
//! and what the difference costs is what the calls cost.

use std::error::Error;
use std::process::Command;

use crate::Case;

const CALLS: [u64; 2] = [2, 6];

pub fn compare(cases: &[Case]) -> Result<(), Box<dyn Error>> {
    println!("| Case | Side | instructions | per | ratio |");
    println!("|---|---|---|---|---|");
    for case in cases {
        let mut ours = 0.0;
        for (index, side) in (case.sides)().iter().enumerate() {
            let [few, many] = CALLS.map(|calls| count(&case.name, index, calls));
            let calls = (CALLS[1] - CALLS[0]) * case.units;
            let cost = (many? - few?) as f64 / calls as f64;
            let ratio = if index == 0 {
                ours = cost;
                String::new()
            } else {
                format!("{:.3}", ours / cost)
            };
            println!("| {} | {} | {cost:.1} | {} | {ratio} |", case.name, side.name, case.unit);
        }
    }
    Ok(())
}

fn count(case: &str, side: usize, calls: u64) -> Result<u64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["run", case, &side.to_string(), &calls.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("callgrind failed: {report}").into());
    }
    let collected = report.lines().find_map(|line| line.split("Collected : ").nth(1));
    Ok(collected.ok_or("callgrind printed no total")?.trim().parse()?)
}

/// `run CASE SIDE CALLS`
pub fn child(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [name, side, calls] = arguments else { return Err("run takes three arguments".into()) };
    let case = crate::cases().into_iter().find(|case| case.name == *name).ok_or("no such case")?;
    let mut sides = (case.sides)();
    let side = sides.get_mut(side.parse::<usize>()?).ok_or("no such side")?;
    for _ in 0..calls.parse::<u64>()? {
        (side.run)();
    }
    Ok(())
}
