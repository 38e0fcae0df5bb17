//! Valid messages.

use bytes::Bytes;
use protocol_tests::messages::{Dice, Writer, shapes};

use crate::messages::codecs;

#[test]
fn every_message_in_every_version_is_written_as_it_was_read() {
    let mut dice = Dice::new(1);
    for shape in shapes() {
        for _ in 0..20 {
            let bytes = Bytes::from(shape.sample(&mut dice).bytes);
            let (again, left) = codecs::carafe(shape.name, shape.version, bytes.clone())
                .unwrap_or_else(|error| panic!("{error}\n{bytes:x?}"));
            assert_eq!(left, 0, "{} {}", shape.name, shape.version);
            assert_eq!(again, bytes, "{} {}", shape.name, shape.version);
        }
    }
}

#[test]
fn unknown_tagged_fields_are_skipped() {
    for seed in 0..5 {
        for shape in shapes() {
            let bytes = shape.sample(&mut Dice::new(seed)).bytes;
            let mut dice = Dice::new(seed);
            let mut writer = Writer::new(&mut dice);
            writer.strangers = Some(Dice::new(!seed));
            writer.put(&shape.root, "", false);
            let with_strangers = Bytes::from(writer.sample.bytes);
            let (again, left) = codecs::carafe(shape.name, shape.version, with_strangers)
                .unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((&again[..], left), (&bytes[..], 0), "{} {}", shape.name, shape.version);
        }
    }
}

#[test]
fn cut_short_anywhere_the_error_names_field_and_offset() {
    let mut dice = Dice::new(3);
    for shape in shapes() {
        let sample = shape.sample(&mut dice);
        for cut in 0..sample.bytes.len() {
            let bytes = Bytes::copy_from_slice(&sample.bytes[..cut]);
            let error = match codecs::carafe(shape.name, shape.version, bytes) {
                Ok(_) => panic!("{} {} was read from {cut} bytes", shape.name, shape.version),
                Err(error) => error,
            };
            assert_eq!((error.api(), error.version()), (shape.name, shape.version));
            assert!(error.offset() <= cut, "{error}");
            // A length that cannot be true any more is refused early, so the path may end before the cut.
            let (_, _, path) =
                sample.leaves.iter().find(|leaf| leaf.1 > cut).expect("the cut lies in a value");
            let named = error.path();
            let section = named.strip_suffix("tagged_fields").map(|outer| outer.trim_end_matches('.'));
            assert!(path.starts_with(section.unwrap_or(&named)), "{error}: cut at {cut}, in {path}");
            assert!(!named.is_empty(), "{error}");
        }
    }
}
