//! What keeps an application from going on is told, fails its probe, and heals. On simulated time.

use carafe::app::Routes;
use carafe::broker::{Cluster, Operation, Resource};
use carafe::consumer::OutOfRange;
use carafe::prelude::*;
use protocol_tests::sim::{World, run_seed};
use tokio::time::sleep;

use crate::play::{GROUP, MINUTE, Play, SECOND, TOPIC};

fn handle(routes: &mut Routes) {
    routes.topic(TOPIC).handler(async |_: Message<Raw>, _| Ok(()));
}

const TOLD: &str = "condition.occurred";

#[test]
fn a_topic_that_does_not_exist_is_told_again_and_again_until_it_does() {
    run_seed(1, async |world: World| {
        let play = Play::on(world, Cluster::builder().auto_create_topics(false)).await;
        let (app, result) = play.run("app", |app| app, handle).await;
        sleep(10 * SECOND).await;
        let begun = play.diary.count(TOLD);
        assert!(begun > 0 && !app.is_live(), "{:?}", play.diary);
        sleep(2 * MINUTE).await;
        assert!(play.diary.count(TOLD) > begun, "{:?}", play.diary);
        play.control().create_topic(TOPIC, 1, &[]).expect("created");
        play.write(TOPIC, 0, 1).await;
        sleep(MINUTE).await;
        assert!(app.is_live(), "{:?}", play.diary);
        assert_eq!(play.committed(0), Some(1));
        app.stop();
        result.await.expect("it ends").expect("in order");
    });
}

#[test]
fn missing_rights_on_a_topic_are_told_and_heal() {
    run_seed(2, async |world: World| {
        let play = Play::begin(world, 1).await;
        let resource = Resource::Topic(TOPIC.into());
        play.control().deny(resource.clone(), Operation::Read);
        let (app, result) = play.run("app", |app| app, handle).await;
        sleep(15 * SECOND).await;
        assert!(play.diary.count(TOLD) > 0 && !app.is_live(), "{:?}", play.diary);
        play.control().allow(&resource);
        sleep(MINUTE).await;
        assert!(app.is_live(), "{:?}", play.diary);
        assert_eq!(play.committed(0), Some(1));
        app.stop();
        result.await.expect("it ends").expect("in order");
    });
}

/// An application whose position retention has passed, with each policy.
#[test]
fn behind_retention_an_application_goes_on_or_says_that_it_does_not() {
    for stops in [false, true] {
        run_seed(3, async move |world: World| {
            let play = Play::on(world, Cluster::builder().topic(TOPIC, 1)).await;
            play.write(TOPIC, 0, 5).await;
            let (app, result) = play.run("app", |app| app, handle).await;
            sleep(10 * SECOND).await;
            app.stop();
            result.await.expect("it ends").expect("in order");
            assert_eq!(play.committed(0), Some(5));

            play.write(TOPIC, 0, 20).await;
            play.control().delete_records(TOPIC, 0, 15);
            let set = move |app: App| if stops { app.out_of_range(OutOfRange::Stop) } else { app };
            let (app, result) = play.run("app", set, handle).await;
            sleep(10 * SECOND).await;
            let skipped = play.diary.count("consumer.position_reset: 5 to 15");
            assert_eq!(skipped, usize::from(!stops), "{:?}", play.diary);
            let begun = play.diary.count(TOLD);
            assert_eq!((app.is_live(), begun > 0), (!stops, stops), "{:?}", play.diary);
            sleep(2 * MINUTE).await;
            assert_eq!(play.diary.count(TOLD) > begun, stops, "{:?}", play.diary);
            assert_eq!(play.committed(0), Some(if stops { 5 } else { 25 }));
            app.stop();
            result.await.expect("it ends").expect("in order");
        });
    }
}

#[test]
fn brokers_that_are_gone_are_told_and_no_reason_to_restart() {
    run_seed(5, async |world: World| {
        let play = Play::begin(world, 1).await;
        let (app, result) = play.run("app", |app| app, handle).await;
        sleep(10 * SECOND).await;
        play.control().kill_node(0);
        for _ in 0..18 {
            sleep(10 * SECOND).await;
            assert!(app.is_live(), "{:?}", play.diary);
        }
        assert!(play.diary.count(TOLD) > 0, "{:?}", play.diary);
        app.stop_now();
        let _ = result.await.expect("it ends");
    });
}

/// What concerns another group of the same client is none of an application's business.
#[test]
fn another_groups_trouble_is_not_ones_own() {
    run_seed(4, async |world: World| {
        let play = Play::begin(world, 1).await;
        play.control().deny(Resource::Group("other".into()), Operation::Read);
        let client = play.client("shared").await;
        let app =
            App::new(GROUP).client(client.clone()).routes(handle).build().await.expect("right settings");
        let handle = app.handle();
        let running =
            play.world.runtime().spawn("application", Box::pin(async move { drop(app.run().await) }));
        let other = client.group_consumer("other").topics([TOPIC]).build().expect("right settings");
        sleep(MINUTE).await;
        assert!(handle.is_live());
        drop(other);
        handle.stop();
        running.join().await.expect("it ends");
    });
}
