//! The pool of workers: permits, not threads, and the queue of the jobs that wait for one. A run holds a permit while its
//! handler runs.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::app::scheduler::{Scheduler, WaitingJob};
use crate::app::snapshot::WorkersSnapshot;
use crate::types::{GroupId, TopicName};

/// Permits for running handlers. Cheap to clone; the lock is taken twice per run of a handler.
#[derive(Clone)]
pub(crate) struct Workers(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Without one, jobs run in the order in which they came.
    scheduler: Option<Box<dyn Scheduler>>,
}

/// Invariants: nobody waits while `busy < size`; `jobs` and `places` belong together, index by index.
#[derive(Default)]
struct Queue {
    size: usize,
    busy: usize,
    jobs: VecDeque<WaitingJob>,
    places: VecDeque<Place>,
    latest: u64,
    /// How long a record of a topic takes, in nanoseconds; only with a scheduler that measures.
    paces: BTreeMap<(GroupId, TopicName), u64>,
    begun: u64,
    waited: u64,
    waiting_time: Duration,
}

struct Place {
    number: u64,
    since: Instant,
    grant: oneshot::Sender<Permit>,
}

/// A job that waits. Dropping it gives the place up.
struct Waiting {
    workers: Workers,
    number: u64,
}

/// The right to run one handler.
pub(crate) struct Permit {
    workers: Workers,
    timing: Option<Timing>,
}

/// What is learned from a run.
struct Timing {
    topic: (GroupId, TopicName),
    records: usize,
    begun: Instant,
}

impl Workers {
    pub(crate) fn new(size: usize, scheduler: Option<Box<dyn Scheduler>>) -> Self {
        let queue = Queue { size: size.max(1), ..Queue::default() };
        Self(Arc::new(Shared { queue: Mutex::new(queue), scheduler }))
    }

    /// The number of handlers that may run at once.
    pub(crate) fn size(&self) -> usize {
        self.lock().size
    }

    /// Changes the number, to at least 1. Growing takes effect at once, shrinking as permits come back.
    pub(crate) fn scale(&self, size: usize) {
        self.lock().size = size.max(1);
        self.hand_out();
    }

    /// Waits for a permit. `job` is asked for what the scheduler and snapshots show, unless a worker is free. Cancel-safe; a
    /// dropped wait loses its place.
    pub(crate) async fn permit(&self, job: impl FnOnce() -> WaitingJob) -> Permit {
        let (waiting, granted) = {
            let mut queue = self.lock();
            if queue.busy < queue.size {
                queue.busy += 1;
                queue.begun += 1;
                let timing = self.measures().then(|| Timing::begin(&job()));
                return Permit { workers: self.clone(), timing };
            }
            let mut job = job();
            if self.measures() {
                job.expected = queue.expected(&job);
            }
            let (grant, granted) = oneshot::channel();
            queue.latest += 1;
            let number = queue.latest;
            queue.jobs.push_back(job);
            queue.places.push_back(Place { number, since: Instant::now(), grant });
            (Waiting { workers: self.clone(), number }, granted)
        };
        let permit = granted.await;
        drop(waiting);
        match permit {
            Ok(permit) => permit,
            // The queue, which holds the other end, lives as long as `self`.
            Err(_) => std::future::pending().await,
        }
    }

    /// Figures of this moment.
    pub(crate) fn snapshot(&self) -> WorkersSnapshot {
        let queue = self.lock();
        let now = Instant::now();
        WorkersSnapshot {
            size: queue.size,
            busy: queue.busy,
            waiting: queue.jobs.len(),
            longest_wait: queue.places.iter().map(|place| now - place.since).max().unwrap_or_default(),
            begun: queue.begun,
            waited: queue.waited,
            waiting_time: queue.waiting_time,
        }
    }

    /// Gives free workers to those who wait.
    fn hand_out(&self) {
        loop {
            let (grant, permit) = {
                let mut queue = self.lock();
                if queue.busy >= queue.size || queue.jobs.is_empty() {
                    return;
                }
                let index = self.choose(queue.jobs.make_contiguous());
                let Some((job, place)) = queue.jobs.remove(index).zip(queue.places.remove(index)) else {
                    return;
                };
                queue.busy += 1;
                queue.begun += 1;
                queue.waited += 1;
                queue.waiting_time += place.since.elapsed();
                let timing = self.measures().then(|| Timing::begin(&job));
                (place.grant, Permit { workers: self.clone(), timing })
            };
            // Whoever has given up meanwhile drops the permit, which comes back here.
            let _ = grant.send(permit);
        }
    }

    fn choose(&self, jobs: &[WaitingJob]) -> usize {
        let Some(scheduler) = self.0.scheduler.as_ref().filter(|_| jobs.len() > 1) else { return 0 };
        let chosen = catch_unwind(AssertUnwindSafe(|| scheduler.next(jobs)));
        if chosen.is_err() {
            tracing::error!("the scheduler panicked; the oldest job runs");
        }
        chosen.ok().filter(|index| *index < jobs.len()).unwrap_or(0)
    }

    fn measures(&self) -> bool {
        self.0.scheduler.as_ref().is_some_and(|scheduler| scheduler.measures())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn expected(&self, job: &WaitingJob) -> Option<Duration> {
        let pace = self.paces.get(&(job.group.clone(), job.partition.topic.clone()))?;
        Some(Duration::from_nanos(pace.saturating_mul(job.records as u64)))
    }

    /// The latest runs count most: an eighth of what is known gives way to each.
    fn learn(&mut self, timing: Timing) {
        // Callbacks without records say nothing of them.
        if timing.records == 0 {
            return;
        }
        let took = u64::try_from(timing.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let latest = took / timing.records as u64;
        let pace = self.paces.entry(timing.topic).or_insert(latest);
        *pace = *pace - *pace / 8 + latest / 8;
    }
}

impl Timing {
    fn begin(job: &WaitingJob) -> Self {
        let topic = (job.group.clone(), job.partition.topic.clone());
        Self { topic, records: job.records, begun: Instant::now() }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut queue = self.workers.lock();
            queue.busy -= 1;
            self.timing.take().into_iter().for_each(|timing| queue.learn(timing));
        }
        self.workers.hand_out();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut queue = self.workers.lock();
        if let Some(index) = queue.places.iter().position(|place| place.number == self.number) {
            queue.places.remove(index);
            queue.jobs.remove(index);
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.lock();
        write!(f, "Workers({} of {} busy, {} jobs wait)", queue.busy, queue.size, queue.jobs.len())
    }
}

#[cfg(test)]
mod tests;
