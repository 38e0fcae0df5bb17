use super::*;

const METADATA: ApiKey = ApiKey::METADATA;

struct Bench {
    machine: Machine<u32>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::starting_at(0)
    }

    fn starting_at(correlation: i32) -> Self {
        let now = Instant::now();
        let limits = Limits {
            idle_timeout: Duration::from_secs(540),
            throttle_max: Duration::from_secs(60),
            request_timeout: Duration::from_secs(30),
        };
        Self { machine: Machine::new(now, correlation, limits, None), now }
    }

    fn after(&mut self, millis: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        self.machine.handle_timeout(self.now);
        self
    }

    /// A request of 16 bytes: 12 of frame and 4 of body.
    fn request(&mut self, waiter: u32, timeout_millis: u64) {
        self.request_of(METADATA, 0, waiter, timeout_millis, true);
    }

    fn request_of(&mut self, key: ApiKey, version: i16, waiter: u32, timeout_millis: u64, answered: bool) {
        let deadline = self.now + Duration::from_millis(timeout_millis);
        let head = BytesMut::from(&[0, 0, 0, 12, 0, 3, 0, 0, 0xaa, 0xaa, 0xaa, 0xaa][..]);
        let rest = vec![Bytes::from_static(b"body"), Bytes::new()];
        let request = Outgoing { key, version, head, rest, deadline, answered, waiter };
        self.machine.handle_request(self.now, request);
    }

    /// Writes at most `n` bytes, and returns them.
    fn write(&mut self, n: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = self.machine.transmit(&mut slices);
        let mut bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        bytes.truncate(n);
        self.machine.handle_written(self.now, bytes.len());
        bytes
    }

    fn answer(&mut self, correlation: i32, body: &[u8]) {
        let mut frame = BytesMut::from(&correlation.to_be_bytes()[..]);
        frame.extend_from_slice(body);
        self.machine.handle_frame(self.now, frame.freeze());
    }

    /// `answered 1`, `written 1`, `failed 1 Timeout unsent`, …
    fn outputs(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.machine.poll_output())
            .map(|output| match output {
                Output::Answered { waiter, .. } => format!("answered {waiter}"),
                Output::Written { waiter } => format!("written {waiter}"),
                Output::Failed { waiter, failure, unsent } => {
                    format!("failed {waiter} {:?}{}", failure.kind, if unsent { " unsent" } else { "" })
                }
                Output::Begin => "begin".to_owned(),
                Output::Challenge(challenge) => format!("challenge {challenge:?}"),
            })
            .collect()
    }
}

#[test]
fn answers_reach_their_requests_in_order_and_ids_wrap_into_the_positive_half() {
    let mut bench = Bench::starting_at(i32::MAX);
    bench.request(1, 1000);
    bench.request(2, 1000);
    let bytes = bench.write(usize::MAX);
    assert_eq!(bytes.len(), 32);
    assert_eq!(bytes[8..12], i32::MAX.to_be_bytes());
    assert_eq!(bytes[16 + 8..16 + 12], 0i32.to_be_bytes());
    bench.answer(i32::MAX, b"");
    bench.answer(0, b"");
    assert_eq!(bench.outputs(), ["answered 1", "answered 2"]);
}

#[test]
fn a_wrong_correlation_id_ends_the_connection_and_fails_every_request_once() {
    let mut bench = Bench::new();
    bench.request(1, 1000);
    bench.request(2, 1000);
    bench.write(usize::MAX);
    bench.request(3, 1000);
    bench.answer(1, b"");
    assert_eq!(bench.outputs(), ["failed 1 Protocol", "failed 2 Protocol", "failed 3 Protocol unsent"]);
    assert!(bench.machine.failure().is_some());
    bench.request(4, 1000);
    bench.answer(0, b"");
    assert_eq!(bench.outputs(), ["failed 4 Protocol unsent"]);
    assert!(!bench.machine.has_transmit());
    assert_eq!(bench.machine.next_deadline(), None);
}

#[test]
fn a_peer_that_hangs_up_on_the_first_request_may_expect_sasl() {
    let advice = |answered: bool, asked: bool| {
        let mut bench = Bench::new();
        if answered {
            bench.request(1, 1000);
            bench.write(usize::MAX);
            bench.answer(0, b"");
        }
        bench.request(2, 1000);
        if asked {
            bench.write(usize::MAX);
        }
        bench.machine.handle_eof(false);
        bench.machine.failure().unwrap().advice
    };
    assert_eq!(advice(false, true), Some(HUNG_UP));
    assert_eq!(advice(true, true), None);
    assert_eq!(advice(false, false), None);
}

#[test]
fn unasked_responses_and_runt_frames_end_the_connection() {
    let mut bench = Bench::new();
    bench.answer(0, b"");
    assert_eq!(bench.machine.failure().unwrap().kind, ErrorKind::Protocol);
    let mut bench = Bench::new();
    bench.request(1, 1000);
    bench.write(usize::MAX);
    bench.machine.handle_frame(bench.now, Bytes::from_static(&[0, 0]));
    assert_eq!(bench.outputs(), ["failed 1 Protocol"]);
}

#[test]
fn the_first_expired_request_takes_the_connection_with_it() {
    let mut bench = Bench::new();
    bench.request(1, 5000);
    bench.request(2, 1000);
    bench.write(20);
    assert_eq!(bench.machine.next_deadline(), Some(bench.now + Duration::from_millis(1000)));
    bench.after(999);
    assert!(bench.outputs().is_empty());
    bench.after(1);
    assert_eq!(bench.outputs(), ["failed 1 Timeout", "failed 2 Timeout"]);
}

#[test]
fn a_request_is_unsent_until_its_first_byte_was_written() {
    for (written, expected) in [
        (0, ["failed 1 Network unsent", "failed 2 Network unsent"]),
        (1, ["failed 1 Network", "failed 2 Network unsent"]),
    ]
    .into_iter()
    .chain([
        (16, ["failed 1 Network", "failed 2 Network unsent"]),
        (17, ["failed 1 Network", "failed 2 Network"]),
    ]) {
        let mut bench = Bench::new();
        bench.request(1, 1000);
        bench.request(2, 1000);
        bench.write(written);
        bench.machine.handle_eof(false);
        assert_eq!(bench.outputs(), expected, "{written} bytes");
        assert!(bench.machine.failure().unwrap().alarming);
    }
}

#[test]
fn an_end_between_answers_is_no_alarm() {
    let mut bench = Bench::new();
    bench.request(1, 1000);
    bench.write(usize::MAX);
    bench.answer(0, b"");
    bench.machine.handle_eof(false);
    assert!(!bench.machine.failure().unwrap().alarming);
    let mut bench = Bench::new();
    bench.machine.handle_eof(true);
    assert!(bench.machine.failure().unwrap().alarming);
}

#[test]
fn an_unanswered_request_completes_when_its_last_byte_is_written() {
    let mut bench = Bench::new();
    bench.request_of(ApiKey::PRODUCE, 3, 1, 1000, false);
    bench.write(15);
    assert!(bench.outputs().is_empty());
    bench.write(1);
    assert_eq!(bench.outputs(), ["written 1"]);
    bench.request(2, 1000);
    bench.write(usize::MAX);
    bench.answer(1, b"");
    assert_eq!(bench.outputs(), ["answered 2"]);
    bench.request_of(ApiKey::PRODUCE, 3, 3, 1000, false);
    bench.after(1000);
    assert_eq!(bench.outputs(), ["failed 3 Timeout unsent"]);
}

#[test]
fn closing_waits_for_answers_and_takes_no_more_requests() {
    let mut bench = Bench::new();
    bench.request(1, 1000);
    bench.write(usize::MAX);
    bench.machine.close(None);
    assert!(bench.machine.failure().is_none());
    bench.request(2, 1000);
    assert_eq!(bench.outputs(), ["failed 2 Network unsent"]);
    bench.answer(0, b"");
    assert_eq!(bench.outputs(), ["answered 1"]);
    assert!(!bench.machine.failure().unwrap().alarming);
    let mut bench = Bench::new();
    bench.machine.close(None);
    assert!(bench.machine.failure().is_some());
}

#[test]
fn draining_ends_at_its_limit() {
    let mut bench = Bench::new();
    bench.request(1, 30_000);
    bench.write(usize::MAX);
    bench.machine.close(None);
    let limit = bench.now + Duration::from_secs(1);
    bench.machine.close(Some(limit));
    assert_eq!(bench.machine.next_deadline(), Some(limit));
    bench.after(999);
    assert!(bench.machine.failure().is_none());
    bench.after(1);
    assert_eq!(bench.outputs(), ["failed 1 Network"]);
}

#[test]
fn idle_connections_close_quietly_and_busy_ones_do_not() {
    let mut bench = Bench::new();
    bench.request(1, 3_600_000);
    bench.write(usize::MAX);
    bench.after(600_000);
    assert!(bench.machine.failure().is_none());
    bench.answer(0, b"");
    bench.after(539_999);
    assert!(bench.machine.failure().is_none());
    assert_eq!(bench.machine.next_deadline(), Some(bench.now + Duration::from_millis(1)));
    bench.after(1);
    assert!(!bench.machine.failure().unwrap().alarming);
}

#[test]
fn a_pause_holds_requests_back_but_not_heartbeats() {
    let mut bench = Bench::new();
    bench.request_of(METADATA, 6, 1, 1000, true);
    bench.write(usize::MAX);
    bench.answer(0, &[0, 0, 0, 200]);
    assert_eq!(bench.outputs(), ["answered 1"]);
    bench.request(2, 1000);
    bench.request(3, 100);
    bench.request_of(ApiKey::HEARTBEAT, 0, 4, 1000, true);
    assert_eq!(bench.write(usize::MAX).len(), 16);
    bench.after(100);
    assert_eq!(bench.outputs(), ["failed 3 Timeout unsent"]);
    assert!(bench.machine.failure().is_none());
    bench.after(100);
    assert_eq!(bench.write(usize::MAX).len(), 16);
    bench.answer(1, b"");
    bench.answer(2, b"");
    assert_eq!(bench.outputs(), ["answered 4", "answered 2"]);
}

#[test]
fn what_a_pause_held_back_is_not_overtaken_when_it_ends() {
    let mut bench = Bench::new();
    bench.request_of(METADATA, 6, 1, 1000, true);
    bench.write(usize::MAX);
    bench.answer(0, &[0, 0, 0, 200]);
    bench.outputs();
    bench.request(2, 1000);
    bench.request_of(ApiKey::LEAVE_GROUP, 0, 3, 1000, true);
    // The pause is over, and the timer has not said so yet.
    bench.now += Duration::from_millis(201);
    bench.request(4, 1000);
    bench.after(0);
    bench.request(5, 1000);
    assert_eq!(bench.write(usize::MAX).len(), 4 * 16);
    for correlation in 1..=4 {
        bench.answer(correlation, b"");
    }
    assert_eq!(bench.outputs(), ["answered 2", "answered 3", "answered 4", "answered 5"]);
}

#[test]
fn a_pause_is_capped_and_read_behind_the_tags_of_the_header() {
    let mut bench = Bench::new();
    bench.request_of(METADATA, 12, 1, 1000, true);
    bench.write(usize::MAX);
    bench.answer(0, &[0, 0x7f, 0xff, 0xff, 0xff]);
    bench.request(2, 300_000);
    assert_eq!(bench.write(usize::MAX).len(), 0);
    bench.after(59_999);
    assert_eq!(bench.write(usize::MAX).len(), 0);
    bench.after(1);
    assert_eq!(bench.write(usize::MAX).len(), 16);
}
