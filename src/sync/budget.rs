//! Byte credit that several owners share, and the pooled buffers that carry it. Counts allocations: credit comes back
//! when the last reference to a buffer is gone, and so does the buffer.
//!
//! The limit has three parts. A quarter is for answers on their way, shared by the sessions. Half is for whoever comes
//! first. The last quarter belongs to the partitions in equal shares, so that one that holds nothing can have a batch
//! however much others hold. Only one batch at a time may be larger than its part allows, so that it can be read at all.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::Bytes;

use super::atomic::{AtomicUsize, Ordering};
use super::{Mutex, MutexGuard, lock};

/// Buffers are allocated in multiples of this, so that they fit the next answer too.
pub(crate) const BUFFER_STEP: usize = 4096;

/// Memory that fetched data may take, in bytes: what is on its way, buffered, and held by the application.
///
/// One budget per client by default (64 MiB); hand the same object to several clients to bound them together. It is fair:
/// partitions whose data is held for long leave room for a batch of every other one. A single batch at a time may be larger
/// than what is left, so that progress is always possible. Cheap to clone.
#[derive(Clone)]
pub struct MemoryBudget(Arc<Shared>);

struct Shared {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// On its way or held.
    used: usize,
    /// Held by partitions: buffered, and with the application.
    held: usize,
    /// Partitions that draw on the budget.
    accounts: usize,
    /// A batch that is larger than its part allows is held.
    overdrawn: bool,
    /// Fetch sessions that draw on the budget.
    sessions: usize,
    /// Buffers to use again, by capacity.
    free: BTreeMap<usize, Vec<Vec<u8>>>,
    free_bytes: usize,
    /// Something came back.
    returned: Signal,
    /// Somebody lacks memory.
    pressed: Signal,
}

/// Something that happens again and again, and those who wait for the next time.
#[derive(Default)]
struct Signal {
    count: u64,
    waiters: BTreeMap<u64, Waker>,
    next_waiter: u64,
}

impl Signal {
    fn wait(&mut self, id: &mut Option<u64>, waker: Waker) {
        let id = *id.get_or_insert_with(|| {
            self.next_waiter += 1;
            self.next_waiter
        });
        self.waiters.insert(id, waker);
    }

    /// It happens: who is to be woken.
    #[must_use]
    fn happen(&mut self) -> BTreeMap<u64, Waker> {
        self.count += 1;
        std::mem::take(&mut self.waiters)
    }
}

fn wake(waiters: BTreeMap<u64, Waker>) {
    for waker in waiters.into_values() {
        waker.wake();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn give_back(&self, bytes: usize, buffer: Option<Vec<u8>>) {
        let mut state = self.state();
        state.used = state.used.saturating_sub(bytes);
        if let Some(buffer) = buffer {
            let capacity = buffer.capacity();
            if capacity > 0 && state.free_bytes + capacity <= self.limit / 4 {
                state.free_bytes += capacity;
                state.free.entry(capacity).or_default().push(buffer);
            }
        }
        let waiters = state.returned.happen();
        drop(state);
        wake(waiters);
    }
}

impl MemoryBudget {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Self(Arc::new(Shared { limit: limit_bytes.max(1), state: Mutex::new(State::default()) }))
    }

    /// The limit in bytes.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Bytes that are reserved or held now; above the limit only while a single batch exceeds it.
    pub fn used(&self) -> usize {
        self.0.state().used
    }

    /// Counts one more fetch session until the guard is dropped.
    pub(crate) fn session(&self) -> BudgetSession {
        self.0.state().sessions += 1;
        BudgetSession(self.clone())
    }

    /// What one answer may take, so that each session can have one on its way.
    pub(crate) fn fair_share(&self) -> usize {
        let sessions = self.0.state().sessions.max(1);
        (self.0.limit / sessions / 4).max(1)
    }

    /// Opens the account of a partition, which has a share of the budget until it is dropped.
    pub(crate) fn account(&self) -> Account {
        self.0.state().accounts += 1;
        Account(Arc::new(Ledger { shared: Arc::clone(&self.0), held: AtomicUsize::new(0) }))
    }

    /// What partitions may take now.
    pub(crate) fn room(&self) -> Room {
        let state = self.0.state();
        Room {
            common: (self.0.limit / 2).saturating_sub(state.held),
            share: self.0.limit / 4 / state.accounts.max(1),
        }
    }

    /// Memory is lacking: whoever can gives some back.
    pub(crate) fn press(&self) {
        let waiters = self.0.state().pressed.happen();
        wake(waiters);
    }

    /// How often something came back; for [`returned`](Self::returned).
    pub(crate) fn returns(&self) -> u64 {
        self.0.state().returned.count
    }

    /// Waits until something came back after [`returns`](Self::returns) was `seen`. Cancel-safe.
    pub(crate) async fn returned(&self, seen: u64) {
        self.after(|state| &mut state.returned, seen).await;
    }

    /// Waits until somebody lacked memory more often than `seen` times; how often it was. Cancel-safe.
    pub(crate) async fn pressed(&self, seen: u64) -> u64 {
        self.after(|state| &mut state.pressed, seen).await
    }

    async fn after(&self, signal: fn(&mut State) -> &mut Signal, seen: u64) -> u64 {
        let mut waiter = Waiter { shared: &self.0, signal, id: None };
        std::future::poll_fn(|context| {
            let mut state = self.0.state();
            let signal = signal(&mut state);
            if signal.count > seen {
                return Poll::Ready(signal.count);
            }
            signal.wait(&mut waiter.id, context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Credit for `bytes` if it need not be waited for.
    pub(crate) fn at_once(&self, bytes: usize) -> Option<Credit> {
        let granted = self.grant(&mut self.0.state(), bytes, bytes)?;
        Some(Credit { shared: Arc::clone(&self.0), bytes: granted })
    }

    /// Takes what there is, unless it is less than `least`.
    fn grant(&self, state: &mut State, least: usize, wanted: usize) -> Option<usize> {
        let room = self.0.limit.saturating_sub(state.used);
        let granted = if state.used == 0 { wanted } else { wanted.min(room) };
        (granted >= least.min(wanted)).then(|| {
            state.used += granted;
            granted
        })
    }

    /// Credit for `wanted` bytes, or for less but at least `least`, as soon as there is so much. Cancel-safe.
    pub(crate) async fn reserve(&self, least: usize, wanted: usize) -> Credit {
        let mut waiter = Waiter { shared: &self.0, signal: |state| &mut state.returned, id: None };
        std::future::poll_fn(|context| {
            let mut state = self.0.state();
            if let Some(bytes) = self.grant(&mut state, least, wanted) {
                return Poll::Ready(Credit { shared: Arc::clone(&self.0), bytes });
            }
            state.returned.wait(&mut waiter.id, context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// An empty buffer with room for `capacity` bytes, pooled if one fits.
    pub(crate) fn buffer(&self, capacity: usize) -> Vec<u8> {
        let capacity = capacity.max(1).next_multiple_of(BUFFER_STEP);
        let mut state = self.0.state();
        let fits = state.free.range(capacity..=capacity.saturating_mul(2)).next().map(|(size, _)| *size);
        if let Some(size) = fits
            && let Some(list) = state.free.get_mut(&size)
        {
            let buffer = list.pop();
            if list.is_empty() {
                state.free.remove(&size);
            }
            if let Some(mut buffer) = buffer {
                state.free_bytes -= size;
                buffer.clear();
                return buffer;
            }
        }
        drop(state);
        Vec::with_capacity(capacity)
    }
}

impl Default for MemoryBudget {
    /// 64 MiB.
    fn default() -> Self {
        Self::new(64 << 20)
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget").field("limit", &self.limit()).field("used", &self.used()).finish()
    }
}

/// Someone who waits; leaves the list when dropped.
struct Waiter<'a> {
    shared: &'a Shared,
    signal: fn(&mut State) -> &mut Signal,
    id: Option<u64>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            (self.signal)(&mut self.shared.state()).waiters.remove(&id);
        }
    }
}

/// One fetch session that draws on a budget.
#[derive(Debug)]
pub(crate) struct BudgetSession(MemoryBudget);

impl Drop for BudgetSession {
    fn drop(&mut self) {
        let mut state = self.0.0.state();
        state.sessions = state.sessions.saturating_sub(1);
    }
}

/// What partitions may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Bytes for whoever comes first.
    pub(crate) common: usize,
    /// Bytes that every partition may hold in any case.
    pub(crate) share: usize,
}

/// A partition's part in a budget.
pub(crate) struct Account(Arc<Ledger>);

impl Account {
    /// To charge the account with what is fetched for it; outlives it.
    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.0
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut state = self.0.shared.state();
        state.accounts = state.accounts.saturating_sub(1);
    }
}

/// What a partition holds of a budget: buffered, and with the application.
pub(crate) struct Ledger {
    shared: Arc<Shared>,
    held: AtomicUsize,
}

impl Ledger {
    /// Bytes that it holds.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that it may take now: out of its share if it holds nothing, else out of what is common to all.
    pub(crate) fn allowance(&self) -> usize {
        let room = MemoryBudget(Arc::clone(&self.shared)).room();
        if self.held() == 0 { room.common.max(room.share) } else { room.common }
    }

    /// Nothing yet, to be [added](Holding::add) to.
    pub(crate) fn hold(self: &Arc<Self>) -> Holding {
        Holding { ledger: Arc::clone(self), bytes: 0, overdraws: false }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ledger").field(&self.held()).finish()
    }
}

/// Bytes that a partition holds, until it is dropped.
#[derive(Debug)]
pub(crate) struct Holding {
    ledger: Arc<Ledger>,
    bytes: usize,
    overdraws: bool,
}

impl Holding {
    /// Whose it is.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Allows it to be larger than what its partition may take. False if there is such a one already.
    pub(crate) fn overdraw(&mut self) -> bool {
        if !self.overdraws {
            self.overdraws = !std::mem::replace(&mut self.ledger.shared.state().overdrawn, true);
        }
        self.overdraws
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.ledger.held.fetch_add(bytes, Ordering::Relaxed);
        self.ledger.shared.state().held += bytes;
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.ledger.held.fetch_sub(self.bytes, Ordering::Relaxed);
        let mut state = self.ledger.shared.state();
        state.held = state.held.saturating_sub(self.bytes);
        if self.overdraws {
            state.overdrawn = false;
        }
        let waiters = state.returned.happen();
        drop(state);
        wake(waiters);
    }
}

/// Credit; comes back when dropped.
pub(crate) struct Credit {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Credit {
    /// Bytes that it stands for.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes `bytes` out of this credit; what is missing is taken beyond the limit.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let covered = bytes.min(self.bytes);
        self.bytes -= covered;
        if bytes > covered {
            self.shared.state().used += bytes - covered;
        }
        Self { shared: Arc::clone(&self.shared), bytes }
    }

    /// `buffer` as shared bytes. This credit becomes its capacity, and comes back with the buffer.
    pub(crate) fn wrap(mut self, buffer: Vec<u8>) -> Bytes {
        let credit = self.split(buffer.capacity());
        drop(self);
        Bytes::from_owner(Pooled { buffer, credit })
    }

    /// `bytes`, whose allocation is `allocated` bytes large and not ours, with credit for it.
    pub(crate) fn attach(mut self, bytes: Bytes, allocated: usize) -> Bytes {
        let credit = self.split(allocated);
        drop(self);
        Bytes::from_owner(Attached { bytes, _credit: credit })
    }
}

impl fmt::Debug for Credit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credit").field(&self.bytes).finish()
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.shared.give_back(self.bytes, None);
        }
    }
}

struct Pooled {
    buffer: Vec<u8>,
    credit: Credit,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.credit.bytes);
        self.credit.shared.give_back(bytes, Some(std::mem::take(&mut self.buffer)));
    }
}

struct Attached {
    bytes: Bytes,
    _credit: Credit,
}

impl AsRef<[u8]> for Attached {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(all(test, carafe_shuttle))]
impl MemoryBudget {
    /// Those who wait for memory, or for somebody who lacks it.
    pub(crate) fn waiting(&self) -> usize {
        let state = self.0.state();
        state.returned.waiters.len() + state.pressed.waiters.len()
    }
}

#[cfg(all(test, not(carafe_shuttle)))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn credit_comes_back_with_the_last_reference() {
        let budget = MemoryBudget::new(100_000);
        let mut answer = budget.at_once(50_000).unwrap();
        let mut buffer = budget.buffer(10_000);
        let capacity = buffer.capacity();
        buffer.extend_from_slice(&[7; 10_000]);
        let bytes = answer.split(0).wrap(buffer);
        drop(answer);
        assert_eq!(budget.used(), capacity);
        let part = bytes.slice(5..9);
        drop(bytes);
        assert_eq!(budget.used(), capacity);
        drop(part);
        assert_eq!(budget.used(), 0);
        // The buffer is used again.
        assert_eq!(budget.buffer(9_000).capacity(), capacity);
        assert_eq!(budget.0.state().free_bytes, 0);
    }

    #[test]
    fn one_allocation_may_exceed_the_limit_alone() {
        let budget = MemoryBudget::new(100);
        let large = budget.at_once(1000).unwrap();
        assert!(budget.at_once(1).is_none());
        drop(large);
        assert!(budget.at_once(100).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reservation_waits_for_its_least() {
        let budget = MemoryBudget::new(100);
        let held = budget.at_once(80);
        assert_eq!(budget.reserve(10, 50).await.bytes(), 20);
        let waiting = budget.reserve(40, 50);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut waiting).await.is_err());
        drop(held);
        assert_eq!(waiting.await.bytes(), 50);
        assert!(budget.0.state().returned.waiters.is_empty());
        // Dropped while waiting: nothing is left behind.
        let held = budget.at_once(100);
        assert!(tokio::time::timeout(Duration::from_secs(1), budget.reserve(40, 50)).await.is_err());
        assert!(budget.0.state().returned.waiters.is_empty());
        drop(held);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn sessions_share() {
        let budget = MemoryBudget::new(64 << 20);
        let _a = budget.session();
        assert_eq!(budget.fair_share(), 16 << 20);
        let b = budget.session();
        assert_eq!(budget.fair_share(), 8 << 20);
        drop(b);
        assert_eq!(budget.fair_share(), 16 << 20);
    }

    #[test]
    fn whatever_others_hold_a_partition_that_holds_nothing_has_its_share() {
        let budget = MemoryBudget::new(64 << 20);
        let accounts: Vec<Account> = (0..4).map(|_| budget.account()).collect();
        assert_eq!(budget.room().share, 4 << 20);
        let mut holding = accounts[0].ledger().hold();
        assert_eq!(accounts[0].ledger().allowance(), 32 << 20);
        holding.add(32 << 20);
        assert_eq!((accounts[0].ledger().held(), accounts[0].ledger().allowance()), (32 << 20, 0));
        assert_eq!(accounts[1].ledger().allowance(), 4 << 20);
        // One batch at a time may be larger.
        let (mut large, mut other) = (accounts[1].ledger().hold(), accounts[2].ledger().hold());
        assert!(large.overdraw() && large.overdraw() && !other.overdraw());
        drop(large);
        assert!(other.overdraw());
        drop((accounts, holding, other));
        assert_eq!((budget.room().common, budget.room().share), (32 << 20, 16 << 20));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_learn_what_came_back_and_who_lacks_memory() {
        let budget = MemoryBudget::new(100);
        let seen = budget.returns();
        let waiting = budget.returned(seen);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut waiting).await.is_err());
        drop(budget.at_once(10));
        waiting.await;
        budget.press();
        assert_eq!(budget.pressed(0).await, 1);
        assert!(tokio::time::timeout(Duration::from_secs(1), budget.pressed(1)).await.is_err());
        assert!(budget.0.state().pressed.waiters.is_empty());
    }
}
