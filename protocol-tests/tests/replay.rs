//! The fuzz targets without a fuzzer: over their seeds and corpora, and over golden bytes cut short and changed.
//!
//! `CARAFE_TEST_EXHAUSTIVE=1` cuts at every byte and flips every bit of golden bytes, of long ones thousands.

use bytes::Bytes;
use carafe::wire::ApiKey;
use carafe_fuzz::seeds::seeds;
use carafe_fuzz::{corpus, target};
use protocol_tests::golden;

fn replay(name: &str) {
    let target = target(name);
    let corpus = corpus::read(&corpus::path(&target)).expect("a corpus");
    assert!(!corpus.is_empty());
    for input in seeds(&target).iter().chain(&corpus) {
        target.replay(input);
    }
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        #[test]
        fn no_target_is_forgotten() {
            let names: Vec<_> = carafe_fuzz::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

replays!(frames responses requests fixpoint records compression committed sasl);

/// Target, head of its input, and the golden bytes behind it.
fn golden_inputs() -> impl Iterator<Item = (&'static str, Vec<u8>, Bytes)> {
    let messages = golden::messages().into_iter().filter_map(|message| {
        let (api, target) = match message.name.strip_suffix("Request") {
            Some(api) => (api, "requests"),
            None => (message.name.strip_suffix("Response")?, "responses"),
        };
        let (key, _) = ApiKey::all().find(|(key, _)| key.name() == Some(api))?;
        Some((target, vec![key.0 as u8, message.version as u8], message.bytes))
    });
    let frames = golden::frames().into_iter().map(|frame| {
        let requests = frame.name.ends_with("Request");
        let stream = [&(frame.bytes.len() as u32).to_be_bytes()[..], &frame.bytes].concat();
        ("frames", vec![requests.into(), 0xff, 0xff, 2, 0, 30], stream.into())
    });
    // Checksums are made right behind the change, so that it is read.
    let batches = golden::batches().into_iter().map(|batches| ("records", vec![1, 0, 70], batches.bytes));
    messages.chain(frames).chain(batches)
}

/// Some numbers below `limit` for the input of this number: every eleventh, and no more than some dozens.
fn some(number: usize, limit: usize) -> impl Iterator<Item = usize> {
    let exhaustive = std::env::var_os("CARAFE_TEST_EXHAUSTIVE").is_some();
    let step = if exhaustive { (limit / 8192).max(1) } else { (limit / 60).max(11) };
    (number % step..limit).step_by(step)
}

#[test]
fn golden_bytes_cut_short() {
    for (number, (name, head, bytes)) in golden_inputs().enumerate() {
        for cut in some(number, bytes.len()) {
            target(name).replay(&[&head, &bytes[..cut]].concat());
        }
    }
}

#[test]
fn golden_bytes_with_a_bit_flipped() {
    for (number, (name, head, bytes)) in golden_inputs().enumerate() {
        for bit in some(number, bytes.len() * 8) {
            let mut input = [&head[..], &bytes].concat();
            input[head.len() + bit / 8] ^= 1 << (bit % 8);
            target(name).replay(&input);
        }
    }
}
