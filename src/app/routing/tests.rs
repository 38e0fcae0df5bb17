//! Routes and applications do not depend on the order in which they are defined.

use std::fmt::Debug;
use std::time::Duration;

use super::*;
use crate::app::{App, DeadLetter, Raw, Retry, Throttle, by_key};

/// What has setters, and all of them.
trait Set: Sized + 'static {
    const SETTERS: &'static [fn(&mut Self)];

    fn new() -> Self;
    fn picture(&self) -> impl Debug;
}

impl Set for TopicRoute {
    const SETTERS: &'static [fn(&mut Self)] = &[
        |route| {
            let _ = route.handler(async |_: Message<Raw>, _| Ok(()));
        },
        |route| {
            let _ = route.retry(Retry::fixed(Duration::from_secs(7)));
        },
        |route| {
            let _ = route.dead_letter_queue(DeadLetter::to("dead").max_retries(2));
        },
        |route| {
            let _ = route.virtual_partitions(by_key());
        },
        |route| {
            let _ = route.throttle(Throttle::new(3, Duration::from_secs(1)));
        },
        |route| {
            let _ = route.manual_offset_management();
        },
        |route| {
            let _ = route.max_messages(10);
        },
        |route| {
            let _ = route.eofed(true);
        },
        |route| {
            let _ = route.periodic(Duration::from_secs(2));
        },
        |route| {
            let _ = route.stuck_after(Duration::from_secs(9));
        },
    ];

    fn new() -> Self {
        Self::new("t".into())
    }

    fn picture(&self) -> impl Debug {
        format!("{self:?}")
    }
}

impl Set for GroupRoute {
    const SETTERS: &'static [fn(&mut Self)] = &[
        |group| {
            let _ = group.first_start(FirstStart::Latest);
        },
        |group| {
            let _ = group.out_of_range(OutOfRange::Latest);
        },
        |group| {
            let _ = group.truncation(Truncation::Resume);
        },
        |group| {
            let _ = group.consumer(|consumer| consumer.max_bytes(7));
        },
    ];

    fn new() -> Self {
        Self::new("g".into())
    }

    fn picture(&self) -> impl Debug {
        format!("{self:?} {:?}", self.consumer)
    }
}

impl Set for Option<App> {
    const SETTERS: &'static [fn(&mut Self)] = &[
        |app| *app = app.take().map(|app| app.bootstrap_servers("a:9092")),
        |app| *app = app.take().map(|app| app.concurrency(3)),
        |app| *app = app.take().map(|app| app.shutdown_timeout(Duration::from_secs(3))),
        |app| *app = app.take().map(|app| app.revoke_timeout(Duration::from_secs(4))),
        |app| *app = app.take().map(|app| app.first_start(FirstStart::Latest)),
        |app| *app = app.take().map(|app| app.out_of_range(OutOfRange::Stop)),
        |app| *app = app.take().map(|app| app.truncation(Truncation::Resume)),
        |app| *app = app.take().map(|app| app.producer(|producer| producer.batch_size(2000))),
        |app| *app = app.take().map(|app| app.connection(|client| client.client_id("me"))),
        |app| *app = app.take().map(|app| app.environment([("CARAFE_LINGER_MS", "1")])),
        |app| *app = app.take().map(|app| app.listener(|_: &crate::app::Event<'_>| {})),
        |app| {
            let define = |routes: &mut Routes| {
                let _ = routes.topic("t");
            };
            *app = app.take().map(|app| app.routes(define));
        },
    ];

    fn new() -> Self {
        Some(App::new("app"))
    }

    fn picture(&self) -> impl Debug {
        format!("{self:?}")
    }
}

fn any_order<T: Set>() {
    let mut dice = fastrand::Rng::with_seed(1);
    let mut order: Vec<usize> = (0..T::SETTERS.len()).collect();
    let mut picture = || {
        let mut target = T::new();
        order.iter().for_each(|&setter| T::SETTERS[setter](&mut target));
        dice.shuffle(&mut order);
        format!("{:?}", target.picture())
    };
    let first = picture();
    for _ in 0..500 {
        assert_eq!(picture(), first);
    }
    assert_ne!(format!("{:?}", T::new().picture()), first);
}

#[test]
fn the_order_of_setters_does_not_matter() {
    any_order::<TopicRoute>();
    any_order::<GroupRoute>();
    any_order::<Option<App>>();
}

#[tokio::test]
async fn two_ways_to_name_the_cluster_are_one_too_many() {
    let client = crate::client::Client::builder().bootstrap_servers("a:9092").build().await.unwrap();
    let define = |routes: &mut Routes| {
        routes.topic("t").handler(async |_: Message<Raw>, _| Ok(()));
    };
    for app in [
        App::new("app").client(client.clone()).bootstrap_servers("b:9092"),
        App::new("app").bootstrap_servers("b:9092").client(client),
    ] {
        let error = app.routes(define).build().await.unwrap_err();
        assert!(error.to_string().contains("both a client and settings of one"), "{error}");
    }
}

#[tokio::test]
async fn groups_are_checked_before_anything_runs() {
    let define = |routes: &mut Routes| {
        routes.group("", |group| {
            let _ = group.topic("t").handler(async |_: Message<Raw>, _| Ok(()));
        });
    };
    let error = App::new("app").bootstrap_servers("a:9092").routes(define).build().await.unwrap_err();
    assert!(error.to_string().contains("the group id is empty"), "{error}");
}
