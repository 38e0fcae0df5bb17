//! Transactions as users hold them.

use std::fmt;

use tokio::sync::oneshot;

use super::conductor::{Guard, Order};
use super::desk::Desk;
use super::error::{TransactionError, TransactionErrorKind as Kind};
use crate::cluster::GroupOffsets;
use crate::producer::handle::closed;
use crate::producer::shared::{Command, Shared};
use crate::producer::{Delivery, EnqueueAllError, ProduceError, Producer, Receipt, Receipts, Record};
use crate::{Error, ErrorKind, Result};

/// A transaction of a [`Producer`], while its scope runs: what is enqueued with it, and the offsets sent with it, become
/// visible together when the scope succeeds, or not at all. From [`Producer::transaction`]. Cheap to clone; once the scope has
/// ended, all clones refuse what they are asked for ([`Misuse`](super::TransactionErrorKind::Misuse)).
#[derive(Clone)]
pub struct Transaction {
    producer: Producer,
    number: u64,
}

impl Transaction {
    /// The producer, bound to this transaction: what it takes is part of it, or is refused.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Enqueues `record` as part of the transaction; as [`Producer::enqueue`]. The receipt tells that the record is in the
    /// log, where readers that read committed records alone see it once the transaction is committed. Nobody has to wait for
    /// it: a transaction with a record that failed is not committed.
    ///
    /// # Errors
    ///
    /// As [`Producer::enqueue`]; [`TransactionError::of`] finds in it that the transaction has ended or can only be aborted.
    pub async fn enqueue(&self, record: Record<'_>) -> Result<Receipt, ProduceError> {
        self.producer.enqueue(record).await
    }

    /// Enqueues `record` as part of the transaction and waits until it is in the log.
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Self::enqueue), and everything that can happen on the way to the log.
    pub async fn send(&self, record: Record<'_>) -> Result<Delivery, ProduceError> {
        self.producer.send(record).await
    }

    /// Enqueues `records` in order as part of the transaction; as [`Producer::enqueue_all`].
    ///
    /// # Errors
    ///
    /// As [`Producer::enqueue_all`].
    pub async fn enqueue_all<'a>(
        &self,
        records: impl IntoIterator<Item = Record<'a>>,
    ) -> Result<Receipts, EnqueueAllError> {
        self.producer.enqueue_all(records).await
    }

    /// Makes offsets of a consumer group part of the transaction, and waits until the group's coordinator has taken them: they
    /// are committed with the records, or not at all. Takes Kafka 2.5 or newer (KIP-447). Of one partition, the offset that is
    /// sent last counts.
    ///
    /// # Errors
    ///
    /// [`Abort`](super::TransactionErrorKind::Abort) if the member that the offsets come from has lost its place in the group, or
    /// lacks the right; [`Dead`](super::TransactionErrorKind::Dead) and [`Misuse`](super::TransactionErrorKind::Misuse). Cancel-safe
    /// in that the transaction stays usable; whether the offsets are part of it is not known then.
    pub async fn send_offsets(&self, offsets: GroupOffsets) -> Result<(), TransactionError> {
        self.producer.order_offsets(Some(self.number), offsets).await
    }

    /// Runs `work` as part of this transaction: a scope inside of a scope joins it. If it fails, panics or is dropped, the
    /// whole transaction can only be aborted, whatever the outer scope returns.
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub async fn transaction<T, E>(&self, work: impl AsyncFnOnce(Self) -> Result<T, E>) -> Result<T, E>
    where
        E: From<TransactionError>,
    {
        let mut doom = DoomOnDrop(Some(self));
        let result = work(self.clone()).await;
        if result.is_ok() {
            doom.0 = None;
        }
        result
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Lets the transaction be aborted, unless it is told otherwise.
struct DoomOnDrop<'a>(Option<&'a Transaction>);

impl Drop for DoomOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(transaction) = self.0
            && let Some(desk) = &transaction.producer.shared.desk
        {
            let error = Error::new(ErrorKind::Handler, "a scope inside of the transaction failed");
            desk.doom(Some(transaction.number), &error);
        }
    }
}

impl Producer {
    /// The name under which this producer writes in transactions, if it does (`transactional.id`).
    pub fn transactional_id(&self) -> Option<&str> {
        self.shared.desk.as_ref().map(|desk| &*desk.id)
    }

    /// Runs `work` in a transaction: commits when it returns `Ok`, and returns its value once that is certain; aborts when it
    /// returns `Err`, panics, or when this future is dropped before the commit has begun. Records that `work` enqueued need not
    /// be awaited: the commit waits for all of them, and aborts if one has failed.
    ///
    /// Scopes of one producer run one after the other; one waits for its turn for at most `max.block.ms`. A scope inside of
    /// a scope uses [`Transaction::transaction`], and joins it.
    ///
    /// ```no_run
    /// use carafe::producer::ProducerConfig;
    /// use carafe::{Client, Record};
    ///
    /// # async fn transfer(client: Client) -> carafe::Result<()> {
    /// let config = ProducerConfig::new().transactional_id("transfers-1");
    /// let producer = client.producer().config(config).build()?;
    /// producer
    ///     .transaction(async |tx| {
    ///         drop(tx.enqueue(Record::to("debits").key("alice").value("-10")).await?);
    ///         drop(tx.enqueue(Record::to("credits").key("bob").value("10")).await?);
    ///         Ok::<_, carafe::Error>(())
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// What `work` returned, once the transaction is aborted. Otherwise a [`TransactionError`], whose
    /// [kind](super::TransactionErrorKind) says what to do: `NotBegun` (`work` did not run), `Abort`, `Unknown`, `Dead`; `Misuse`
    /// where the producer has no transactional id, or a transaction that was begun by hand is open.
    ///
    /// Not cancel-safe beyond that: a commit that has begun goes on when the future is dropped.
    pub async fn transaction<T, E>(&self, work: impl AsyncFnOnce(Transaction) -> Result<T, E>) -> Result<T, E>
    where
        E: From<TransactionError>,
    {
        if let Some(number) = self.transaction {
            return Transaction { producer: self.clone(), number }.transaction(work).await;
        }
        let mut guard = self.begin(true).await?;
        let number = guard.number;
        let result = work(Transaction { producer: self.bound(number), number }).await;
        let doomed = self.desk()?.end(Some(number));
        let ended = self.order_end(Some(number), result.is_ok() && doomed.is_none());
        guard.disarm();
        let ended = ended.await;
        let value = result?;
        match (doomed, ended) {
            (None, Ok(())) => Ok(value),
            (Some(doomed), Ok(())) => Err(TransactionError::new(Kind::Abort, doomed).into()),
            (Some(doomed), Err(error)) if error.kind() != Kind::Dead => {
                Err(TransactionError::new(Kind::Abort, doomed).into())
            }
            (_, Err(error)) => Err(error.into()),
        }
    }

    /// Begins a transaction that everything belongs to that is enqueued from now on, by whichever clone, until
    /// [`commit_transaction`](Self::commit_transaction) or [`abort_transaction`](Self::abort_transaction).
    /// [`transaction`](Self::transaction) is the safer way: nothing there can be forgotten.
    ///
    /// Waits for the end of the transaction before, and for the coordinator, at most `max.block.ms`. The first one takes the
    /// transactional id: the producer that had it is fenced, and its open transaction aborted.
    ///
    /// # Errors
    ///
    /// [`TransactionErrorKind`](super::TransactionErrorKind)`::NotBegun`, `Dead`, or `Misuse` if a transaction is open or the
    /// producer has no transactional id. Cancel-safe: dropped, nothing is begun.
    pub async fn begin_transaction(&self) -> Result<(), TransactionError> {
        self.begin(false).await?.disarm();
        Ok(())
    }

    /// Sends everything that was enqueued since [`begin_transaction`](Self::begin_transaction), and commits it. `Ok`: all of it
    /// is visible to whoever reads committed records.
    ///
    /// # Errors
    ///
    /// `Abort`: it was aborted, for a record or offsets failed, and the next transaction may begin. `Unknown` if the
    /// coordinator did not confirm for `max.block.ms`, `Dead`, `Misuse`. Cancel-safe: the commit goes on, and calling this again
    /// waits for it.
    pub async fn commit_transaction(&self) -> Result<(), TransactionError> {
        // If it is doomed, the driver knows why.
        self.desk()?.end(None);
        self.order_end(None, true).await
    }

    /// Gives up everything that was enqueued since [`begin_transaction`](Self::begin_transaction). Receipts of records that
    /// were not in the log yet fail. After a failed commit there is nothing left to do, and it returns `Ok`.
    ///
    /// # Errors
    ///
    /// `Abort` if the coordinator did not confirm for `max.block.ms`: nothing of the transaction will be visible all the same,
    /// but readers may wait until it times out. `Dead`, `Misuse`. Cancel-safe: the abort goes on.
    pub async fn abort_transaction(&self) -> Result<(), TransactionError> {
        self.desk()?.end(None);
        self.order_end(None, false).await
    }

    /// Makes offsets of a consumer group part of the transaction that was begun by hand; see [`Transaction::send_offsets`].
    ///
    /// # Errors
    ///
    /// As [`Transaction::send_offsets`].
    pub async fn send_offsets(&self, offsets: GroupOffsets) -> Result<(), TransactionError> {
        self.order_offsets(self.transaction, offsets).await
    }

    /// This producer, which takes records for the transaction with `number` alone.
    fn bound(&self, number: u64) -> Self {
        let mut bound = self.clone();
        bound.transaction = Some(number);
        bound
    }

    fn desk(&self) -> Result<&Desk, TransactionError> {
        self.shared.desk.as_ref().ok_or_else(|| {
            TransactionError::misuse(
                "the producer has no transactional id",
                "set transactional.id: a name that stays the same over restarts and that no other producer uses meanwhile",
            )
        })
    }

    async fn begin(&self, scope: bool) -> Result<Guard, TransactionError> {
        self.desk()?;
        let (done, begun) = oneshot::channel();
        send(&self.shared, Order::Begin { scope, done });
        begun.await.unwrap_or_else(|_| Err(TransactionError::new(Kind::NotBegun, closed())))
    }

    /// Orders the end at once; the future waits for it.
    fn order_end(
        &self,
        number: Option<u64>,
        commit: bool,
    ) -> impl Future<Output = Result<(), TransactionError>> + use<> {
        let (done, ended) = oneshot::channel();
        send(&self.shared, Order::End { number, commit, done });
        // The driver tells everybody, unless it panicked.
        async move { ended.await.unwrap_or_else(|_| Err(TransactionError::new(Kind::Unknown, closed()))) }
    }

    async fn order_offsets(
        &self,
        number: Option<u64>,
        offsets: GroupOffsets,
    ) -> Result<(), TransactionError> {
        self.desk()?;
        if offsets.offsets.is_empty() {
            return Ok(());
        }
        let (done, taken) = oneshot::channel();
        send(&self.shared, Order::Offsets { number, offsets, done });
        taken.await.unwrap_or_else(|_| Err(TransactionError::new(Kind::Abort, closed())))
    }
}

fn send(shared: &Shared, order: Order) {
    if let Err(Command::Transaction(order)) = shared.mailbox.send(Command::Transaction(order)) {
        order.refuse(); // the driver has ended
    }
}
