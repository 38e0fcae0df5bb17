//! A group that cannot go on ends nothing else, and is joined again. On simulated time.

use carafe::app::ListenerState;
use carafe::broker::{Action, Cluster, Matcher, Operation, Resource};
use carafe::prelude::*;
use carafe::wire::ApiKey;
use protocol_tests::sim::{World, run_seed};
use tokio::time::sleep;

use crate::play::{MINUTE, Play, SECOND, TOPIC};

/// An application of two groups over the same topic.
async fn two_groups(
    play: &Play,
) -> (carafe::app::ServerHandle, tokio::sync::oneshot::Receiver<carafe::Result<()>>) {
    let (mine, theirs) = (play.diary.clone(), play.diary.clone());
    let define = move |routes: &mut carafe::app::Routes| {
        routes.topic(TOPIC).handler(move |_: Message<Raw>, _| {
            mine.write("handled");
            async { Ok(()) }
        });
        routes.group("denied", |group| {
            group.topic(TOPIC).handler(move |_: Message<Raw>, _| {
                theirs.write("handled by denied");
                async { Ok(()) }
            });
        });
    };
    play.run("app", |app| app, define).await
}

#[test]
fn a_group_that_may_not_be_joined_ends_nothing_else_fails_liveness_and_heals() {
    run_seed(1, async |world: World| {
        let play = Play::begin(world, 1).await;
        let denied = Resource::Group("denied".to_owned());
        play.control().deny(denied.clone(), Operation::Read);
        let (handle, result) = two_groups(&play).await;
        sleep(MINUTE).await;
        assert_eq!((play.diary.count("handled"), play.diary.count("handled by denied")), (1, 0));
        // After 1, 2, 4, 8, 16 and 30 seconds, more or less.
        let restarts = play.diary.count("connection.listener.restarting");
        assert!((5..=7).contains(&restarts), "{restarts}: {:?}", play.diary);
        assert!(!handle.is_live());
        let listener =
            handle.snapshot().await.listeners.into_iter().find(|listener| *listener.group == *"denied");
        let listener = listener.expect("it is there");
        assert_eq!(listener.state, ListenerState::Down);
        assert!(listener.failure.expect("it failed").contains("GROUP_AUTHORIZATION_FAILED"));

        play.control().allow(&denied);
        sleep(MINUTE).await;
        assert_eq!(play.diary.count("handled by denied"), 1);
        assert!(handle.is_live());
        handle.stop();
        result.await.expect("it ends").expect("all is well in the end");
    });
}

#[test]
fn what_is_wrong_at_the_end_is_what_the_application_ends_with() {
    run_seed(2, async |world: World| {
        let play = Play::begin(world, 1).await;
        play.control().deny(Resource::Group("denied".to_owned()), Operation::Read);
        let (handle, result) = two_groups(&play).await;
        sleep(10 * SECOND).await;
        handle.stop();
        let error = result.await.expect("it ends").expect_err("a group was not joined");
        assert_eq!(error.kind(), ErrorKind::Authorization);
        assert!(error.to_string().contains("denied"), "{error}");
        assert_eq!(play.committed(0), Some(1), "the other group has stopped in order");
        assert!(handle.is_live());
    });
}

/// By command, the pause after a failure ends.
#[test]
fn a_listener_that_waits_is_started_by_command() {
    run_seed(3, async |world: World| {
        let play = Play::on(world, Cluster::builder().topic(TOPIC, 1)).await;
        play.write(TOPIC, 0, 1).await;
        let denied = Resource::Group("denied".to_owned());
        play.control().deny(denied.clone(), Operation::Read);
        let (handle, result) = two_groups(&play).await;
        sleep(5 * MINUTE).await;
        play.control().allow(&denied);
        handle.restart("denied").await.expect("it is a group of the application");
        sleep(5 * SECOND).await;
        assert_eq!(play.diary.count("handled by denied"), 1);
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}

/// A member that is gone for the coordinator joins again by itself; nothing is restarted.
#[test]
fn what_the_member_mends_itself_is_no_restart() {
    run_seed(4, async |world: World| {
        let play = Play::begin(world, 1).await;
        let (handle, result) = two_groups(&play).await;
        sleep(10 * SECOND).await;
        let forget = Action::Error(carafe::ErrorCode::UNKNOWN_MEMBER_ID);
        play.control().intercept(Matcher::api(ApiKey::HEARTBEAT).times(2), forget);
        sleep(MINUTE).await;
        assert_eq!(play.diary.count("connection.listener.restarting"), 0);
        handle.stop();
        result.await.expect("it ends").expect("in order");
    });
}
