//! When open batches leave.

use super::*;

#[test]
fn open_batches_leave_by_linger_flush_and_memory() {
    let mut world = Bench::new(2);
    let first = world.open(0);
    let (request, ..) = world.one(ONE);
    let second = world.open(1);
    assert!(world.poll(ONE).is_none(), "one is on the way");
    assert_eq!(
        world.sender.next_deadline(world.now, &world.lanes),
        Some(world.now + Duration::from_millis(1))
    );
    world.sender.handle_disconnect(ONE);
    assert_eq!(world.sender.next_deadline(world.now, &world.lanes), Some(world.now + UNANSWERED));
    world.sender.handle_connection(ONE, Ok(()));
    let flush = world.sender.handle_flush();
    let (other, ..) = world.one(ONE);
    let third = world.open(0);
    assert!(world.poll(ONE).is_none(), "the flush was before it");
    world.answer(request, 0, ErrorCode::NONE);
    assert!(!world.sender.is_flushed(flush));
    world.answer(other, 1, ErrorCode::NONE);
    assert!(world.sender.is_flushed(flush));
    let (last, ..) = world.one(ONE);
    world.answer(last, 0, ErrorCode::NONE);
    for cell in [first, second, third] {
        assert!(offset(&cell).is_some());
    }
    assert!(world.sender.is_idle());
}

/// Where a request has no room for all that waits, something always does.
#[test]
fn what_was_opened_later_waits_for_its_own_time() {
    let linger = Duration::from_millis(100);
    for ask in [|_: &mut Bench| {}, |world: &mut Bench| world.sender.hurry()] {
        let mut world = Bench::new(2 * REQUEST_PARTITIONS_MAX);
        world.sender.config.linger = Some(linger);
        for partition in 0..2 * REQUEST_PARTITIONS_MAX {
            world.open(partition);
        }
        assert!(world.poll(ONE).is_none());
        world.pass(99);
        ask(&mut world);
        if world.sender.nodes[&ONE].hurry == 0 {
            world.pass(1);
        }
        world.poll(ONE).expect("half of them");
        for partition in 0..REQUEST_PARTITIONS_MAX {
            world.open(partition);
        }
        let (_, seen) = world.poll(ONE).expect("the other half");
        assert_eq!(seen[0].partition, REQUEST_PARTITIONS_MAX as i32);
        assert!(world.poll(ONE).is_none(), "the first half was opened a moment ago");
        let due = world.now + linger;
        assert_eq!(world.sender.next_deadline(world.now, &world.lanes), Some(due));
        world.pass(100);
        assert_eq!(world.poll(ONE).map(|(_, seen)| seen.len()), Some(REQUEST_PARTITIONS_MAX));
    }
}

#[test]
fn many_small_batches_wait_as_long_as_records_keep_coming() {
    let mut world = Bench::new(1001);
    world.open(1000);
    world.poll(ONE).expect("the first leaves at once");
    for partition in 0..1000 {
        world.open(partition);
    }
    assert!(world.poll(ONE).is_none());
    for _ in 0..9 {
        world.lanes.waiting_bytes += 20_000;
        world.pass(1);
        assert!(world.poll(ONE).is_none(), "ten milliseconds for a thousand");
    }
    world.pass(1);
    assert_eq!(world.poll(ONE).map(|(_, seen)| seen.len()), Some(1000));
    for partition in 0..1000 {
        world.open(partition);
    }
    assert!(world.poll(ONE).is_none());
    world.pass(1);
    assert!(world.poll(ONE).is_none());
    world.pass(1);
    assert_eq!(world.poll(ONE).map(|(_, seen)| seen.len()), Some(1000), "no more came");
}

#[test]
fn appenders_read_the_clock_each_time_while_a_broker_has_no_room() {
    let mut world = Bench::new(1);
    for flight in 0..5 {
        assert_eq!(world.lanes.pace[&ONE].busy, flight > 0);
        world.add(0, 1);
        world.poll(ONE).expect("there is room");
    }
    assert!(!world.lanes.pace[&ONE].busy, "an answer may take its time");
}

#[test]
fn brokers_have_their_turns_and_appenders_hear_of_the_end() {
    let mut world = Bench::without_id(2);
    world.lead(1, Some(TWO));
    world.sender.handle_disconnect(TWO);
    world.add(0, 1);
    world.add(1, 1);
    let poll = |world: &mut Bench| world.sender.poll_output(world.now, 7, &mut world.lanes);
    assert!(matches!(poll(&mut world), Some(Output::AskProducerId)));
    assert!(poll(&mut world).is_none(), "nothing leaves without an id");
    world.sender.handle_producer_id(world.now, Ok((7, 0)), 0, &mut world.lanes);
    assert!(matches!(poll(&mut world), Some(Output::Send(Outgoing { node: ONE, .. }))));
    assert!(matches!(poll(&mut world), Some(Output::Connect(TWO))));
    assert!(poll(&mut world).is_none(), "it was asked for");
    world.sender.handle_connection(TWO, Err(Error::new(ErrorKind::Network, "nobody is there")));
    assert!(matches!(poll(&mut world), Some(Output::Connect(TWO))), "it is asked for again");
    assert!(poll(&mut world).is_none());
    world.sender.handle_connection(TWO, Ok(()));
    assert_eq!(world.lanes.pace.get(&TWO).and_then(|pace| pace.look), None);
    world.open(1);
    assert!(matches!(poll(&mut world), Some(Output::Send(Outgoing { node: TWO, .. }))));
    assert!(poll(&mut world).is_none(), "the open batch waits");
    assert_eq!(world.lanes.pace[&TWO].look, Some(7), "a timer makes the driver look again");
    world.sender.handle_disconnect(TWO);
    assert!(matches!(poll(&mut world), Some(Output::Connect(TWO))));
}
