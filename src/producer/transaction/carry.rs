//! What the driver of a transactional producer carries between the machine of its transactions, the sender, the coordinator
//! and those who wait.

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::conductor::{Conductor, Guard, Order, Waiter};
use super::machine::Machine;
use super::questions::{Asker, produce_versions};
use super::states::{Output, Protocol, Question, TransactionConfig};
use crate::Error;
use crate::producer::driver::Driver;
use crate::producer::sender::Sender;
use crate::producer::shared::Shared;
use crate::types::TopicPartition;
use crate::wire::VersionRange;
use crate::wire::produce::RequestHead;

/// What a producer with a transactional id holds for its transactions.
pub(in crate::producer) fn conductor(shared: &Shared) -> Option<Conductor> {
    let desk = shared.desk.as_ref()?;
    let config = &shared.config;
    let machine = Machine::new(TransactionConfig {
        backoff: config.backoff(shared.cluster.config().retry_backoff),
        patience: config.max_block,
        timeout: config.transaction_timeout,
    });
    let timeout_ms = i32::try_from(config.transaction_timeout.as_millis()).unwrap_or(i32::MAX);
    Some(Conductor::new(machine, Asker::new(shared.cluster.clone(), desk.id.clone(), timeout_ms)))
}

impl Driver {
    /// A handle wants something.
    pub(in crate::producer) fn on_order(&mut self, now: Instant, order: Order) {
        let Some(conductor) = &mut self.conductor else { return };
        match order {
            Order::Begin { scope, done } => {
                let ticket = conductor.ticket(Waiter::Begin(done));
                conductor.machine.handle_begin(now, ticket, scope);
            }
            Order::Offsets { number, offsets, done } => {
                let ticket = conductor.ticket(Waiter::Offsets(done));
                conductor.machine.handle_offsets(now, ticket, number, offsets);
            }
            Order::End { number, commit, done } => {
                let ticket = conductor.ticket(Waiter::End(done));
                conductor.machine.handle_end(now, ticket, number, commit);
            }
            Order::Abandon(number) => conductor.machine.handle_abandon(now, number),
        }
    }

    /// No transaction begins any more, and the open one is aborted.
    pub(in crate::producer) fn close_transactions(&mut self, now: Instant) {
        if let (Some(conductor), Some(desk)) = (&mut self.conductor, &self.shared.desk) {
            desk.end(None);
            conductor.machine.handle_close(now);
        }
    }

    /// Whoever waits for a transaction learns that the producer has ended.
    pub(in crate::producer) fn end_transactions(&mut self) {
        if let Some(conductor) = self.conductor.take() {
            conductor.end();
        }
    }

    /// A request with records says what they belong to, in one of the versions that are returned.
    pub(in crate::producer) fn say_whose(
        &self,
        head: &mut RequestHead,
        versions: VersionRange,
    ) -> VersionRange {
        match (&self.shared.desk, &self.conductor) {
            (Some(desk), Some(conductor)) => {
                head.transactional_id = Some(desk.id.clone());
                produce_versions(conductor.machine.protocol(), versions)
            }
            _ => versions,
        }
    }

    /// Carries what there is to carry.
    pub(in crate::producer) fn poll_transactions(&mut self, now: Instant, context: &mut Context<'_>) -> bool {
        let Some(mut conductor) = self.conductor.take() else { return false };
        let progress = self.carry(now, &mut conductor, context);
        self.conductor = Some(conductor);
        progress
    }

    fn carry(&mut self, now: Instant, conductor: &mut Conductor, context: &mut Context<'_>) -> bool {
        let mut progress = false;
        if let Some(asking) = &mut conductor.asking
            && let Poll::Ready(answer) = asking.as_mut().poll(context)
        {
            conductor.asking = None;
            conductor.machine.handle_answer(now, answer, self.random.u64(..));
            progress = true;
        }
        conductor.machine.handle_timeout(now);
        if let Some(fault) = self.sender.take_fault() {
            conductor.machine.handle_fault(now, &fault);
        }
        progress |= self.carry_outputs(now, conductor);
        if conductor.machine.is_resting() && self.sender.take_torn() {
            conductor.machine.handle_torn(now);
        }
        let unadmitted = self.sender.unadmitted();
        if !unadmitted.is_empty() {
            conductor.machine.handle_partitions(now, unadmitted);
        }
        let flushed = self.sender.is_flushed(conductor.flush);
        if conductor.machine.is_draining() && flushed && self.sender.is_quiet() {
            conductor.machine.handle_quiet(now, self.sender.has_sent());
        }
        progress | self.carry_outputs(now, conductor)
    }

    fn carry_outputs(&mut self, now: Instant, conductor: &mut Conductor) -> bool {
        let mut progress = false;
        while let Some(output) = conductor.machine.poll_output(now) {
            progress = true;
            match output {
                Output::Ask(question) => self.ask(now, conductor, question),
                Output::Opened { ticket, number, scope, era, protocol } => {
                    self.sender.handle_opened(now, era, protocol == Protocol::V2);
                    if let Some(desk) = &self.shared.desk {
                        desk.open(number, scope);
                    }
                    conductor.give(ticket, Guard::new(number, Arc::clone(&self.shared)));
                }
                Output::Admitted(partitions) => self.sender.handle_admitted(now, &partitions),
                Output::Flush => conductor.flush = self.flush(now),
                Output::Drop(error) => self.drop_records(now, &error),
                Output::Closed => {
                    self.sender.handle_closed(now);
                    if let Some(desk) = &self.shared.desk {
                        desk.close();
                    }
                    if self.sender.take_torn() {
                        conductor.machine.handle_torn(now);
                    }
                }
                Output::Tell { ticket, result } => conductor.tell(now, ticket, result),
                Output::Died(error) => {
                    tracing::error!(error = error.error().as_dyn(), "a transactional producer is dead");
                    self.drop_records(now, error.error());
                    self.sender.handle_closed(now);
                    if let Some(desk) = &self.shared.desk {
                        desk.die(error);
                    }
                }
            }
        }
        progress
    }

    /// Records of the open transaction that are not on their way fail, and none is taken any more.
    fn drop_records(&mut self, now: Instant, error: &Error) {
        if let Some(desk) = &self.shared.desk {
            desk.doom(None, error);
        }
        for lane in 0..self.lanes.lanes.len() {
            self.sender.handle_lane(now, lane, &mut self.lanes);
        }
        self.sender.handle_dropped(now, error, &mut self.lanes);
    }

    fn ask(&self, now: Instant, conductor: &mut Conductor, question: Question) {
        let names = |sender: &Sender, numbers: &[usize]| -> Vec<TopicPartition> {
            numbers.iter().map(|number| sender.partition_name(*number)).collect()
        };
        let partitions = match &question {
            Question::AddPartitions { partitions, .. } => names(&self.sender, partitions),
            _ => Vec::new(),
        };
        let deadline = self.links.answer_by(now);
        let asker = Arc::clone(&conductor.asker);
        conductor.asking = Some(Box::pin(async move { asker.ask(question, partitions, deadline).await }));
    }
}
