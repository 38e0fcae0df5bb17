//! Topics that are deleted and made anew under the same name.

use super::*;

#[test]
fn a_topic_that_is_made_anew_gets_new_sequences_and_what_has_no_partition_fails() {
    let mut world = Bench::new(2);
    world.rename(1);
    let written = world.add(0, 1);
    let (request, ..) = world.one(ONE);
    world.answer(request, 0, ErrorCode::NONE);
    assert!(offset(&written).is_some());
    let (kept, sent) = (world.add(0, 1), world.add(1, 1));
    let (request, _) = world.poll(ONE).expect("a request is due");
    let queued = world.add(1, 1);

    world.rename(2);
    world.sender.handle_partition_count(world.now, &"t".into(), 1, &mut world.lanes);
    assert_eq!(failure(&queued), (Outcome::NotWritten, crate::ErrorKind::Broker));
    assert!(world.sender.leaderless.is_empty(), "nobody asks for the leader of what is gone");
    assert!(sent.completion.get(0).is_none(), "its answer may come");
    world.answer(request, 0, ErrorCode::UNKNOWN_TOPIC_ID);
    assert_eq!(failure(&sent).0, Outcome::Unknown);
    world.pass(1000);
    let (request, epoch, sequence) = world.one(ONE);
    assert_eq!((epoch, sequence), (1, 0));
    world.answer(request, 0, ErrorCode::NONE);
    assert!(offset(&kept).is_some());
    let late = world.add(1, 1);
    assert_eq!(failure(&late).0, Outcome::NotWritten);

    // It grows again.
    world.sender.handle_partition_count(world.now, &"t".into(), 2, &mut world.lanes);
    world.lead(1, Some(ONE));
    let again = world.add(1, 1);
    let (request, seen) = world.poll(ONE).expect("a request is due");
    assert_eq!((seen[0].partition, seen[0].sequence), (1, 0));
    world.answer(request, 1, ErrorCode::NONE);
    assert!(offset(&again).is_some() && world.sender.is_idle());
}

/// A log that knows nothing of a producer takes any first sequence: what comes behind a batch that was refused meanwhile may
/// be in the new topic, and the gap before it proves nothing.
#[test]
fn what_may_be_in_a_new_topic_is_not_sent_there_again() {
    for (by_name, lost_first) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut world = Bench::new(1);
        world.rename(1);
        let (refused, lost) = (world.add(0, 1), world.add(0, 1));
        let (first, ..) = world.one(ONE);
        world.sender.partitions[0].probing = false;
        let (second, ..) = world.one(ONE);
        if by_name {
            world.sender.handle_named(first);
            world.sender.handle_named(second);
        }
        world.answer(first, 0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        if lost_first {
            world.lose(second, false);
            world.rename(2);
        } else {
            world.rename(2);
            world.lose(second, false);
        }
        world.pass(1000);
        let mut written = 0;
        while let Some((request, seen)) = world.poll(ONE) {
            written += seen[0].count;
            assert_eq!(seen[0].epoch, 1, "the new topic knows none of the old sequences");
            world.answer(request, 0, ErrorCode::NONE);
            world.pass(1000);
        }
        assert!(offset(&refused).is_some(), "that it was refused is certain");
        if by_name {
            assert_eq!(failure(&lost), (Outcome::Unknown, crate::ErrorKind::Broker));
        } else {
            assert!(offset(&lost).is_some(), "an id leads to its topic alone");
        }
        assert_eq!(written, 2 - i32::from(by_name));
        assert!(world.sender.is_idle());
    }
}
