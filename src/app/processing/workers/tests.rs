//! The queue of the workers.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::*;
use crate::app::LongestFirst;
use crate::types::TopicPartition;

fn job(topic: &str, records: usize) -> WaitingJob {
    WaitingJob {
        group: GroupId::from("g"),
        partition: TopicPartition::new(topic, 0),
        lane: 0,
        records,
        attempt: 1,
        expected: None,
    }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn ask(workers: &Workers, topic: &'static str) -> Pin<Box<impl Future<Output = Permit>>> {
    let workers = workers.clone();
    Box::pin(async move { workers.permit(|| job(topic, 1)).await })
}

#[tokio::test]
async fn the_pool_shrinks_as_permits_come_back_and_grows_at_once() {
    let workers = Workers::new(2, None);
    let (first, second) = (workers.permit(|| job("t", 1)).await, workers.permit(|| job("t", 1)).await);
    workers.scale(1);
    drop(first);
    let mut third = pin!(workers.permit(|| job("t", 1)));
    assert!(poll(third.as_mut()).is_none(), "one worker is left, and it is busy");
    drop(second);
    let _third = poll(third).expect("it came back");
    let mut fourth = pin!(workers.permit(|| job("t", 1)));
    assert!(poll(fourth.as_mut()).is_none());
    workers.scale(3);
    let _fourth = poll(fourth).expect("there are more now");
    let figures = workers.snapshot();
    assert_eq!((figures.size, figures.busy, figures.waiting, figures.begun), (3, 2, 0, 4));
    workers.scale(0);
    assert_eq!(workers.size(), 1, "there is always one");
}

#[tokio::test(start_paused = true)]
async fn jobs_run_in_the_order_in_which_they_came_and_waiting_is_counted() {
    let workers = Workers::new(1, None);
    let running = workers.permit(|| job("t", 1)).await;
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(|topic| ask(&workers, topic));
    for waiting in [&mut a, &mut b, &mut c] {
        assert!(poll(waiting.as_mut()).is_none());
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    // Whoever gives up loses the place.
    drop(a);
    let figures = workers.snapshot();
    assert_eq!((figures.waiting, figures.longest_wait), (2, Duration::from_secs(2)));
    drop(running);
    assert!(poll(c.as_mut()).is_none());
    let running = poll(b.as_mut()).expect("the next one");
    tokio::time::advance(Duration::from_secs(1)).await;
    drop(running);
    // A permit that nobody takes any more goes on to the next.
    let mut d = ask(&workers, "d");
    assert!(poll(d.as_mut()).is_none());
    drop(c);
    assert!(poll(d.as_mut()).is_some());
    let figures = workers.snapshot();
    assert_eq!((figures.busy, figures.waiting, figures.begun, figures.waited), (0, 0, 4, 3));
    assert_eq!(figures.waiting_time, Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn the_longest_job_runs_first_once_it_is_known_how_long_they_take() {
    let workers = Workers::new(1, Some(Box::new(LongestFirst)));
    for (topic, seconds) in [("quick", 1), ("slow", 10)] {
        let permit = workers.permit(|| job(topic, 1)).await;
        tokio::time::advance(Duration::from_secs(seconds)).await;
        drop(permit);
    }
    let running = workers.permit(|| job("slow", 1)).await;
    let mut waiting: Vec<_> = [("quick", 5), ("slow", 1), ("quick", 30), ("new", 1)]
        .map(|(topic, records)| (topic, records, Box::pin(workers.permit(move || job(topic, records)))))
        .into();
    waiting.iter_mut().for_each(|(_, _, place)| assert!(poll(place.as_mut()).is_none()));
    let mut order = Vec::new();
    let mut permit = Some(running);
    while !waiting.is_empty() {
        drop(permit.take());
        let next = waiting.iter_mut().position(|(_, _, place)| {
            permit = poll(place.as_mut());
            permit.is_some()
        });
        let (topic, records, _) = waiting.remove(next.expect("somebody's turn"));
        order.push((topic, records));
    }
    assert_eq!(order, [("new", 1), ("quick", 30), ("slow", 1), ("quick", 5)]);
}

struct Fickle;

impl Scheduler for Fickle {
    fn next(&self, waiting: &[WaitingJob]) -> usize {
        assert!(waiting.len() < 3, "on purpose");
        99
    }
}

#[tokio::test]
async fn a_scheduler_that_panics_or_points_nowhere_gives_way_to_the_oldest() {
    let workers = Workers::new(1, Some(Box::new(Fickle)));
    let mut permit = Some(workers.permit(|| job("t", 1)).await);
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(workers.permit(|| job("t", 1)))).collect();
    waiting.iter_mut().for_each(|place| assert!(poll(place.as_mut()).is_none()));
    for place in waiting {
        drop(permit.take());
        permit = Some(poll({ place }.as_mut()).expect("in the order of coming"));
    }
}
