//! The fuzz targets without a fuzzer: over their seeds and corpora, and over golden bytes cut short and changed.
//!
//! `CARAFE_TEST_EXHAUSTIVE=1` flips every bit of every golden message and batch, not some of them.

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

/// Target, head of its input, and body.
fn golden_messages() -> impl Iterator<Item = (&'static str, [u8; 2], Vec<u8>)> {
    golden::messages().into_iter().filter_map(|message| {
        let (api, target) = match message.name.strip_suffix("Request") {
            Some(api) => (api, "requests"),
            None => (message.name.strip_suffix("Response")?, "responses"),
        };
        let (key, _) = ApiKey::all().find(|(key, _)| key.name() == Some(api))?;
        Some((target, [key.0 as u8, message.version as u8], message.bytes.to_vec()))
    })
}

/// The bits of `bytes` that are to be flipped, of those of the input with this number.
fn bits(number: usize, bytes: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let step = if std::env::var_os("CARAFE_TEST_EXHAUSTIVE").is_some() { 1 } else { 11 };
    (number % step..bytes.len() * 8).step_by(step)
}

#[test]
fn golden_messages_cut_short() {
    for (name, head, body) in golden_messages() {
        for cut in 0..body.len() {
            target(name).replay(&[&head, &body[..cut]].concat());
        }
    }
}

#[test]
fn golden_messages_with_a_bit_flipped() {
    for (number, (name, head, body)) in golden_messages().enumerate() {
        for bit in bits(number, &body) {
            let mut input = [&head[..], &body].concat();
            input[2 + bit / 8] ^= 1 << (bit % 8);
            target(name).replay(&input);
        }
    }
}
