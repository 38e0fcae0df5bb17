//! What goes wrong, by the dice of the seed.

use std::net::IpAddr;
use std::time::Duration;

use carafe::ErrorCode;
use carafe::broker::{Action, Control, Matcher, Operation, Resource};
use carafe::runtime::sim::{Direction, Links};
use carafe::wire::ApiKey;
use protocol_tests::sim::World;
use tokio::time::{Instant, sleep};

use super::{DEAD, GROUP, INPUT, OUTPUT, OUTPUT_PARTITIONS, Plan};

const APIS: [ApiKey; 12] = [
    ApiKey::PRODUCE,
    ApiKey::PRODUCE,
    ApiKey::FETCH,
    ApiKey::METADATA,
    ApiKey::OFFSET_COMMIT,
    ApiKey::OFFSET_COMMIT,
    ApiKey::OFFSET_FETCH,
    ApiKey::HEARTBEAT,
    ApiKey::JOIN_GROUP,
    ApiKey::SYNC_GROUP,
    ApiKey::FIND_COORDINATOR,
    ApiKey::INIT_PRODUCER_ID,
];

/// Breaks one thing after the other for `time`.
pub(super) async fn break_things(
    world: &World,
    control: Control,
    plan: &Plan,
    mut dice: fastrand::Rng,
    time: Duration,
) {
    let end = Instant::now() + time;
    // A slow beginning: several requests are on the way while leaders get ready.
    control.intercept(slow_produce(&mut dice), Action::Delay(Duration::from_millis(dice.u64(..300))));
    while Instant::now() < end {
        sleep(Duration::from_millis(dice.u64(..2000))).await;
        match dice.u8(..13) {
            0 | 1 => break_network(world, &mut dice).await,
            2..=4 => {
                let api = APIS[dice.usize(..APIS.len())];
                let matcher = Matcher::api(api).times(dice.u64(1..4)).skip(dice.u64(..3));
                control.intercept(matcher, draw_action(api, &mut dice));
            }
            8 => {
                // Requests queue up behind each other; then the node dies with what is on the way.
                let delay = Duration::from_millis(dice.u64(..300));
                control.intercept(slow_produce(&mut dice), Action::Delay(delay));
                sleep(Duration::from_millis(dice.u64(..2000))).await;
                restart(&control, plan, &mut dice).await;
            }
            5 => {
                let (topic, partitions) =
                    [(INPUT, plan.partitions), (OUTPUT, OUTPUT_PARTITIONS), (DEAD, 1)][dice.usize(..3)];
                let node = dice.i32(0..i32::from(plan.nodes));
                // It may be out of sync, or down.
                let _ = control.move_leader(topic, dice.i32(0..partitions), node);
            }
            6 => drop(control.move_coordinator(GROUP, dice.i32(0..i32::from(plan.nodes)))),
            9 => {
                let node = dice.i32(0..i32::from(plan.nodes));
                control.freeze_node(node);
                sleep(Duration::from_millis(dice.u64(..20_000))).await;
                control.thaw_node(node);
            }
            10 => {
                let matcher = Matcher::api(APIS[dice.usize(..APIS.len())]).times(dice.u64(1..10));
                control.intercept(matcher, Action::Throttle(Duration::from_millis(dice.u64(..3000))));
            }
            11 => late_answer(&control, plan, &mut dice).await,
            12 => {
                let resources = [Resource::Topic(INPUT.to_owned()), Resource::Group(GROUP.to_owned())];
                let resource = &resources[dice.usize(..2)];
                control.deny(resource.clone(), Operation::Read);
                sleep(Duration::from_millis(dice.u64(..10_000))).await;
                control.allow(resource);
            }
            _ => restart(&control, plan, &mut dice).await,
        }
    }
}

/// The leader of a partition answers a fetch, and the answer arrives when others have led it since.
async fn late_answer(control: &Control, plan: &Plan, dice: &mut fastrand::Rng) {
    let partition = dice.i32(0..plan.partitions);
    let Some(leader) = control.partition(INPUT, partition).and_then(|state| state.leader) else { return };
    let held = control.intercept(Matcher::api(ApiKey::FETCH).node(leader).times(1), Action::HoldAnswer);
    for _ in 0..dice.u8(1..3) {
        sleep(Duration::from_millis(dice.u64(..2000))).await;
        let _ = control.move_leader(INPUT, partition, dice.i32(0..i32::from(plan.nodes)));
    }
    sleep(Duration::from_millis(dice.u64(..2000))).await;
    held.remove();
}

/// Some of the next Produce requests.
fn slow_produce(dice: &mut fastrand::Rng) -> Matcher {
    Matcher::api(ApiKey::PRODUCE).probability(0.5).times(dice.u64(1..30))
}

async fn restart(control: &Control, plan: &Plan, dice: &mut fastrand::Rng) {
    let node = dice.i32(0..i32::from(plan.nodes));
    control.kill_node(node);
    sleep(Duration::from_millis(dice.u64(..10_000))).await;
    control.restart_node(node).await.expect("its port is free");
}

fn draw_action(api: ApiKey, dice: &mut fastrand::Rng) -> Action {
    match dice.u8(..6) {
        0 => Action::DropRequest,
        1 | 2 => Action::DropAnswer,
        3 => Action::CutAfter(dice.usize(..64)),
        4 => Action::DelayAnswer(Duration::from_millis(dice.u64(..5000))),
        _ => match api {
            ApiKey::PRODUCE | ApiKey::FETCH => Action::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER),
            ApiKey::OFFSET_COMMIT | ApiKey::HEARTBEAT | ApiKey::JOIN_GROUP | ApiKey::SYNC_GROUP => {
                Action::Error(ErrorCode::NOT_COORDINATOR)
            }
            _ => Action::Delay(Duration::from_millis(dice.u64(..5000))),
        },
    }
}

/// On real sockets the network does as it likes.
async fn break_network(world: &World, dice: &mut fastrand::Rng) {
    let Some(network) = world.network() else { return };
    // The producer, or a member.
    let host = [1, 10, 11, 12][dice.usize(..4)];
    let links = Links::of(IpAddr::from([10, 0, 0, host]));
    let direction = [Direction::ToServer, Direction::ToClient, Direction::Both][dice.usize(..3)];
    match dice.u8(..5) {
        0 => drop(network.cut(&Links::all())),
        1 => drop(network.cut(&links)),
        2 => drop(network.cut_after(&links, direction, dice.u64(..2000))),
        3 => {
            let fault = network.partition(links, direction);
            sleep(Duration::from_millis(dice.u64(..20_000))).await;
            network.heal(fault);
        }
        _ => {
            let delay = Duration::from_millis(dice.u64(..20))..=Duration::from_millis(dice.u64(20..1000));
            let fault = network.delay(links, direction, delay);
            sleep(Duration::from_millis(dice.u64(..10_000))).await;
            network.heal(fault);
        }
    }
}

/// Ends everything that [`break_things`] began.
pub(super) async fn heal(world: &World, control: &Control, nodes: u16) {
    control.clear();
    if let Some(network) = world.network() {
        network.heal_all();
    }
    control.allow(&Resource::Topic(INPUT.to_owned()));
    control.allow(&Resource::Group(GROUP.to_owned()));
    for node in 0..i32::from(nodes) {
        control.thaw_node(node);
        control.restart_node(node).await.expect("its port is free");
    }
}
