//! ListTransactions, versions 0-1: the transactional ids that this node coordinates, by state and producer; 1 also by how
//! long they run (KIP-994). 2 would filter by a regular expression of Java's, which nothing here can read.

use super::{Context, Handled, Handler, refuse_with};
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::broker::transactions::Transaction;
use crate::wire::Str;
use crate::wire::messages::list_transactions::{
    ListTransactionsRequest, ListTransactionsResponse, TransactionState,
};

/// Kafka's names of states; the last two no transaction of this cluster is ever met in.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

impl Handler for ListTransactionsRequest {
    type Answer = ListTransactionsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<ListTransactionsResponse> {
        let producers: Vec<i64> = self.producer_id_filters.iter().collect();
        let fits = |id: &str, entry: &Transaction| {
            let named = self.state_filters.iter().any(|name| *name == entry.phase.name());
            let runs = entry.started.map_or(-1, |started| started.wall);
            state.transactions.coordinator(id) == ctx.node
                && state.rights.check_transactional_id(id, Operation::Describe).is_ok()
                && (self.state_filters.is_empty() || named)
                && (producers.is_empty() || producers.contains(&entry.identity.producer_id))
                && (self.duration_filter < 0 || ctx.wall.saturating_sub(runs) > self.duration_filter)
        };
        let found = state.transactions.iter().filter(|(id, entry)| fits(id, entry));
        let transaction_states = found
            .map(|(id, entry)| TransactionState {
                transactional_id: id.clone(),
                producer_id: entry.identity.producer_id,
                transaction_state: Str::from_static(entry.phase.name()),
            })
            .collect();
        let unknown = self.state_filters.iter().filter(|name| !STATES.contains(&&***name));
        Handled::Now(ListTransactionsResponse {
            unknown_state_filters: unknown.cloned().collect(),
            transaction_states,
            ..Default::default()
        })
    }

    refuse_with!(|_request, code| ListTransactionsResponse { error_code: code, ..Default::default() });
}
