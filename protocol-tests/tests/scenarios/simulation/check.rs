//! What must hold, whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use carafe::broker::{Control, LoggedRecord};
use carafe::producer::Outcome;

use super::{DEAD, Diary, Fates, GROUP, INPUT, OUTPUT, OUTPUT_PARTITIONS, Plan, is_poison};

/// Compares commits with the diary while the workload runs, and everything at its end.
pub(super) struct Checker {
    control: Control,
    diary: Arc<Diary>,
    plan: Plan,
    /// By partition, the highest offset that was committed so far.
    committed: BTreeMap<i32, i64>,
}

fn value(record: &LoggedRecord) -> u64 {
    let value = record.value.as_deref().expect("every record has a value");
    std::str::from_utf8(value).expect("text").parse().expect("a number")
}

impl Checker {
    pub(super) fn new(control: Control, diary: Arc<Diary>, plan: Plan) -> Self {
        Self { control, diary, plan, committed: BTreeMap::new() }
    }

    /// Everything below a committed offset is handled, and its output acknowledged, or is an acknowledged dead letter.
    pub(super) fn look(&mut self) {
        let mut advanced = Vec::new();
        for ((topic, partition), offset) in self.control.committed(GROUP) {
            assert_eq!(topic, INPUT);
            let before = self.committed.insert(partition, offset).unwrap_or(0);
            assert!(
                before <= offset,
                "the committed offset of partition {partition} went back from {before} to {offset}"
            );
            if before < offset {
                advanced.push((partition, before..offset));
            }
        }
        if advanced.is_empty() {
            return;
        }
        // Commits first, then what they must not pass: on real sockets both move meanwhile.
        let handled = self.handled();
        let outputs: BTreeSet<u64> = self.outputs().into_iter().collect();
        let dead = self.dead();
        for (partition, offsets) in advanced {
            for offset in offsets {
                if dead.contains(&(partition, offset)) {
                    continue;
                }
                let runs = handled.get(&(partition, offset));
                let runs = runs.unwrap_or_else(|| {
                    panic!("a committed offset of partition {partition} passes an unhandled record: {offset}")
                });
                assert!(
                    runs.iter().any(|output| outputs.contains(output)),
                    "a committed offset of partition {partition} passes an unacknowledged output: {offset}"
                );
            }
        }
    }

    /// What is not yet handled and committed; `None` at the end.
    pub(super) fn left(&self) -> Option<String> {
        let committed = self.control.committed(GROUP);
        let left: Vec<String> = (0..self.plan.partitions)
            .filter_map(|partition| {
                let end = self.control.partition(INPUT, partition)?.high_watermark;
                let done = committed.get(&(INPUT.to_owned(), partition)).copied().unwrap_or(0);
                (done < end).then(|| format!("partition {partition}: {done} of {end}"))
            })
            .collect();
        (!left.is_empty()).then(|| format!("{}; group {:?}", left.join(", "), self.control.group(GROUP)))
    }

    /// The checks of the whole.
    pub(super) fn finish(&self, fates: &Fates) {
        let (dead, handled) = (self.dead(), self.handled());
        // Where each record is first, and where copies of it are.
        let mut found = BTreeMap::new();
        let mut copies = BTreeSet::new();
        for partition in 0..self.plan.partitions {
            let mut before = None;
            for record in self.control.log(INPUT, partition) {
                let (number, place) = (value(&record), (partition, record.offset.0));
                let other = found.get(&number);
                assert!(
                    other.is_none() || !self.plan.idempotent,
                    "record {number} was written twice: at {other:?} and {place:?}"
                );
                if other.is_some() {
                    copies.insert((number, place));
                } else {
                    assert!(
                        before < Some(number) || !self.plan.idempotent,
                        "{before:?} was written before {number} in {partition}"
                    );
                    before = Some(number);
                    found.insert(number, place);
                }
                let is_handled = handled.contains_key(&place);
                assert!(is_handled || dead.contains(&place), "record {number} at {place:?} was not handled");
                assert!(!(is_poison(number) && is_handled), "poison {number} cannot be handled");
            }
        }
        for number in 0..self.plan.records {
            let (outcome, told) = fates.get(&number).expect("every record has a fate");
            let place = found.get(&number);
            match outcome {
                Outcome::Written => {
                    assert!(place.is_some(), "record {number} was acknowledged and lost; told {told:?}");
                    assert!(
                        told.is_none_or(|told| Some(&told) == place || copies.contains(&(number, told))),
                        "{number} is at {place:?}, not {told:?}"
                    );
                }
                Outcome::NotWritten => {
                    assert!(place.is_none(), "record {number} is at {place:?}, told not to be written");
                }
                _ => {}
            }
        }
        if self.plan.idempotent {
            self.check_key_order(&found, &dead);
        }
        let mut outputs = self.outputs();
        outputs.sort_unstable();
        for pair in outputs.windows(2) {
            assert!(pair[0] != pair[1], "output {} was written twice", pair[0]);
        }
    }

    /// The first success of a record comes after those of earlier records of its key. Dead letters have no place in it:
    /// one that was sent before a crash may be handled after it.
    fn check_key_order(&self, found: &BTreeMap<u64, (i32, i64)>, dead: &BTreeSet<(i32, i64)>) {
        let numbers: BTreeMap<(i32, i64), u64> =
            found.iter().map(|(number, place)| (*place, *number)).collect();
        let mut seen = BTreeSet::new();
        let mut latest = BTreeMap::new();
        for &(partition, offset, _) in &self.diary.open().handled {
            let place = (partition, offset);
            if dead.contains(&place) || !seen.insert(place) {
                continue;
            }
            let number =
                numbers.get(&place).unwrap_or_else(|| panic!("{place:?} was handled and is not there"));
            let before = latest.insert(number % self.plan.keys, *number);
            assert!(before < Some(*number), "{before:?} of the same key was handled before {number}");
        }
    }

    /// Numbers of the outputs of every success, by record.
    fn handled(&self) -> BTreeMap<(i32, i64), Vec<u64>> {
        let mut handled: BTreeMap<(i32, i64), Vec<u64>> = BTreeMap::new();
        for &(partition, offset, output) in &self.diary.open().handled {
            handled.entry((partition, offset)).or_default().push(output);
        }
        handled
    }

    /// Numbers of the outputs in the log.
    fn outputs(&self) -> Vec<u64> {
        let logs = (0..OUTPUT_PARTITIONS).flat_map(|partition| self.control.log(OUTPUT, partition));
        logs.map(|record| value(&record)).collect()
    }

    /// Where the dead letters in the log are from.
    fn dead(&self) -> BTreeSet<(i32, i64)> {
        let letters = self.control.log(DEAD, 0);
        let source = |letter: &LoggedRecord, name: &str| -> i64 {
            let header = letter.headers.iter().find(|(key, _)| &key[..] == name.as_bytes());
            let value =
                header.and_then(|(_, value)| value.as_deref()).expect("dead letters name their source");
            std::str::from_utf8(value).expect("text").parse().expect("a number")
        };
        let place = |letter| (source(letter, "source_partition") as i32, source(letter, "source_offset"));
        letters.iter().map(place).collect()
    }
}
