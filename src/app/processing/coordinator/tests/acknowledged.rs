//! The coordinator does not know what the cluster is told of what is done: here it is told of each record, as share groups
//! will be, and nothing holds back what is done behind it.

use std::collections::BTreeSet;

use super::*;

#[derive(Debug, Default)]
struct Each {
    offsets: Vec<i64>,
    lanes: Option<Vec<u32>>,
    pending: BTreeSet<u32>,
    handled: BTreeSet<u32>,
    marked: BTreeSet<u32>,
    told: BTreeSet<u32>,
    started: u32,
}

impl Progress for Each {
    /// Offsets of records that were accepted.
    type Done = Vec<i64>;

    fn begin(&mut self, offsets: Vec<i64>, _: i64, lanes: Option<Vec<u32>>) {
        let pending = (0..offsets.len() as u32).collect();
        *self = Self { offsets, lanes, pending, ..Self::default() };
    }

    fn finish(&mut self) {
        self.reset();
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn offset(&self, record: u32) -> i64 {
        self.offsets[record as usize]
    }

    fn is_split(&self) -> bool {
        self.lanes.is_some()
    }

    fn lane(&self, record: u32) -> u32 {
        self.lanes.as_ref().map_or(0, |lanes| lanes[record as usize])
    }

    fn started(&self) -> u32 {
        self.started
    }

    fn start(&mut self, record: u32, lane: u32) {
        self.started = self.started.max(record + 1);
        self.lanes.iter_mut().for_each(|lanes| lanes[record as usize] = lane);
    }

    fn take_back(&mut self, from: u32) {
        self.started = self.started.min(from);
    }

    fn handled(&mut self, record: u32) {
        if self.pending.remove(&record) {
            self.handled.insert(record);
        }
    }

    fn left(&mut self, record: u32) {
        self.pending.remove(&record);
    }

    fn mark_one(&mut self, record: u32) {
        self.pending.remove(&record);
        self.marked.insert(record);
    }

    fn mark(&mut self, lane: u32, offset: i64) {
        let to =
            (0..self.started).filter(|&record| self.lane(record) == lane && self.offset(record) <= offset);
        to.collect::<Vec<_>>().into_iter().for_each(|record| self.mark_one(record));
    }

    fn reopen(&mut self, lane: u32, offset: i64) {
        let handled = std::mem::take(&mut self.handled);
        let (again, rest) = handled
            .into_iter()
            .partition(|&record| self.lane(record) == lane && self.offset(record) >= offset);
        self.handled = rest;
        self.pending.append(&mut { again });
    }

    fn pending(&self) -> impl Iterator<Item = u32> + '_ {
        self.pending.iter().copied()
    }

    fn is_pending(&self, record: u32) -> bool {
        self.pending.contains(&record)
    }

    fn take_done(&mut self) -> Option<Vec<i64>> {
        let new: Vec<u32> = self.marked.difference(&self.told).copied().collect();
        self.told.extend(&new);
        (!new.is_empty()).then(|| new.into_iter().map(|record| self.offset(record)).collect())
    }

    fn done_with(&self, record: u32) -> Vec<i64> {
        vec![self.offset(record)]
    }

    fn end(done: &Vec<i64>) -> i64 {
        done.last().map_or(0, |last| last + 1)
    }
}

fn drain(coordinator: &mut Coordinator<Each>) -> String {
    let outputs = std::iter::from_fn(|| coordinator.poll_output());
    let words = outputs.map(|output| match output {
        Output::Run { lane, records, attempt } => format!("run {lane} {records:?} #{attempt}"),
        Output::Mark(offsets) => format!("accept {offsets:?}"),
        Output::Dispatch { record, .. } => format!("dispatch {record}"),
        Output::Release => "release".into(),
        other => format!("{other:?}").split_whitespace().next().unwrap_or_default().to_lowercase(),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[test]
fn records_may_be_acknowledged_one_by_one() {
    let mut now = Instant::now();
    let lanes = Arc::new(Mutex::new(Some(vec![1, 2, 1, 2])));
    let stages: Vec<Box<dyn Stage>> =
        vec![Box::new(Lanes(lanes)), Box::new(dead_letter(1)), Box::new(Again(policy().retry))];
    let rules =
        Rules { marks: Marks::Automatic, max_messages: usize::MAX, stages, callbacks: Callbacks::default() };
    let mut coordinator = Coordinator::<Each>::new(rules);
    let batch = RecordBatch::for_test(TopicPartition::new("t", 0), 10, &[(None, None); 4]);
    coordinator.handle_batch(now, None, batch, 2);
    assert_eq!(drain(&mut coordinator), "run 1 [0, 2] #1, run 2 [1, 3] #1");
    // What comes before is not done: nobody waits for it.
    coordinator.handle_mark(2, 13);
    assert_eq!(drain(&mut coordinator), "accept [11, 13]");
    coordinator.handle_finished(now, 2, Outcome::Success, 0);
    coordinator.handle_finished(now, 1, Outcome::Failure, 0);
    assert_eq!(drain(&mut coordinator), "retrying");
    now = coordinator.next_deadline().expect("a retry");
    coordinator.handle_timeout(now);
    assert_eq!(drain(&mut coordinator), "run 0 [0, 2] #2");
    coordinator.handle_finished(now, 0, Outcome::Failure, 0);
    assert_eq!(drain(&mut coordinator), "dispatch 0");
    coordinator.handle_dispatched(now, true, 0);
    now = coordinator.next_deadline().expect("a pause");
    assert_eq!(drain(&mut coordinator), "accept [10]");
    coordinator.handle_timeout(now);
    coordinator.handle_finished(now, 0, Outcome::Success, 0);
    assert_eq!(drain(&mut coordinator), "run 0 [2] #1, accept [12], release");
}
