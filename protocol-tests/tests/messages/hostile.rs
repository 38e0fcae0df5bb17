//! Messages that lie. None may panic, and none may take memory or steps for what is not there; a test that fails here may
//! well do so by exhausting memory.

use bytes::Bytes;
use carafe::wire::messages::{ApiVersionsResponse, FetchResponse, MetadataRequest, MetadataResponse};
use carafe::wire::varint::put_uvarint;
use carafe::wire::{Decode, DecodeError, DecodeErrorKind, Reader};
use carafe_fuzz::limits::within;
use protocol_tests::messages::{Dice, Type, shapes};

use crate::messages::codecs;

fn refuse<T: Decode>(version: i16, bytes: &[u8]) -> DecodeError {
    let frame = Bytes::copy_from_slice(bytes);
    match within(bytes.len(), || T::decode(&mut Reader::new(frame), version)) {
        Ok(_) => panic!("{} {version} was accepted", T::NAME),
        Err(error) => error,
    }
}

#[test]
fn a_metadata_response_of_eight_bytes_announces_two_billion_brokers() {
    let error = refuse::<MetadataResponse>(8, &[0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]);
    assert_eq!(error.kind(), DecodeErrorKind::TooManyElements { count: i32::MAX as u64, limit: 0 });
    assert_eq!(
        error.to_string(),
        "MetadataResponse version 8, brokers, byte 4: 2147483647 elements announced, at most 0 are possible"
    );
}

#[test]
fn a_compact_array_of_four_billion() {
    let error = refuse::<MetadataResponse>(12, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!((error.path().as_str(), error.offset()), ("brokers", 4));
    assert!(matches!(error.kind(), DecodeErrorKind::TooManyElements { count: 4_294_967_294, .. }));
}

#[test]
fn varints_that_do_not_end() {
    let mut bytes = vec![0, 0, 0, 0];
    bytes.extend([0xff; 12]);
    let error = refuse::<MetadataResponse>(12, &bytes);
    assert_eq!((error.path().as_str(), error.kind()), ("brokers", DecodeErrorKind::VarintTooLong));
    let error = refuse::<MetadataResponse>(12, &[0, 0, 0, 0, 0xff, 0xff]);
    assert!(matches!(error.kind(), DecodeErrorKind::UnexpectedEnd { .. }), "{error}");
}

#[test]
fn negative_lengths() {
    let error = refuse::<MetadataResponse>(8, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]);
    assert_eq!((error.path().as_str(), error.kind()), ("brokers", DecodeErrorKind::NegativeLength(-2)));
    // Null where an array or string must be: the frame that crashed other clients.
    let error = refuse::<MetadataResponse>(8, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!((error.path().as_str(), error.kind()), ("brokers", DecodeErrorKind::UnexpectedNull));
    let error = refuse::<MetadataRequest>(8, &[0, 0, 0, 1, 0xff, 0xff, 0, 0, 0]);
    assert_eq!((error.path().as_str(), error.kind()), ("topics[0].name", DecodeErrorKind::UnexpectedNull));
}

#[test]
fn tagged_fields_that_cannot_be() {
    let head = [0, 0, 1, 0, 0, 0, 0];
    let with = |tail: &[u8]| refuse::<ApiVersionsResponse>(3, &[&head[..], tail].concat());
    let error = with(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(error.path(), "tagged_fields");
    assert!(matches!(error.kind(), DecodeErrorKind::TooManyElements { .. }), "{error}");
    let error = with(&[1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(matches!(error.kind(), DecodeErrorKind::UnexpectedEnd { needed: 0xffff_ffff, .. }), "{error}");
    let epoch = [1, 8, 0, 0, 0, 0, 0, 0, 0, 7];
    let error = with(&[&[2][..], &epoch, &epoch].concat());
    assert_eq!((error.kind(), error.offset()), (DecodeErrorKind::TagOrder(1), 18));
    // A field longer, and one shorter, than its value.
    let error = with(&[1, 1, 9, 0, 0, 0, 0, 0, 0, 0, 7, 0]);
    assert_eq!(error.kind(), DecodeErrorKind::TrailingBytes(1));
    let error = with(&[1, 1, 7, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(error.path(), "finalized_features_epoch");
}

#[test]
fn records_of_four_billion_bytes() {
    let mut bytes = vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.push(2); // one topic
    bytes.extend([2, b't', 2]); // its name, one partition
    bytes.extend([0; 4 + 2 + 8 + 8 + 8]);
    bytes.extend([0, 0, 0, 0, 0]); // no aborted transactions, no preferred replica
    bytes.extend([0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0]);
    let error = refuse::<FetchResponse>(12, &bytes);
    assert_eq!(error.path(), "responses[0].partitions[0].records");
}

#[test]
fn versions_that_are_not_spoken() {
    for version in [-1, 14, i16::MAX] {
        let error = refuse::<MetadataResponse>(version, &[0; 64]);
        assert_eq!((error.kind(), error.path().as_str()), (DecodeErrorKind::UnsupportedVersion, ""));
    }
}

#[test]
fn a_topic_name_that_is_no_text() {
    let bytes = [&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0][..], &[3, b't', 0xff], &[0, 1, 0, 0]].concat();
    let error = refuse::<MetadataResponse>(9, &bytes);
    assert_eq!((error.path().as_str(), error.kind()), ("topics[0].name", DecodeErrorKind::InvalidUtf8));
}

/// An array of a message.
struct ArrayField {
    path: String,
    compact: bool,
    nullable: bool,
}

/// The arrays of a message; each structure in an array by its first element.
fn arrays(shape: &Type, path: &str, nullable: bool, found: &mut Vec<ArrayField>) {
    match shape {
        Type::Nullable(inner) => arrays(inner, path, true, found),
        Type::Array { compact, element } => {
            found.push(ArrayField { path: path.to_owned(), compact: *compact, nullable });
            arrays(element, &format!("{path}[0]"), false, found);
        }
        Type::Struct(shape) => {
            for field in shape.fields.iter().chain(shape.tagged.iter().flatten().map(|(_, field)| field)) {
                let dot = if path.is_empty() { "" } else { "." };
                arrays(&field.shape, &format!("{path}{dot}{}", field.name), false, found);
            }
        }
        Type::Bool | Type::Fixed(_) | Type::Str { .. } | Type::Bytes { .. } => {}
    }
}

#[test]
fn every_array_of_every_message_may_claim_to_be_endless_or_null() {
    let mut dice = Dice::new(6);
    let mut claims = 0;
    for shape in shapes() {
        let mut found = Vec::new();
        arrays(&shape.root, "", false, &mut found);
        for array in found {
            // The innermost arrays are not in every message.
            let mut samples = std::iter::repeat_with(|| shape.sample(&mut dice)).take(1000);
            let (bytes, at) = samples
                .find_map(|sample| {
                    let leaf = sample.leaves.iter().find(|(_, _, path)| *path == array.path)?;
                    Some((sample.bytes.clone(), leaf.0))
                })
                .unwrap_or_else(|| panic!("{} {}: no {}", shape.name, shape.version, array.path));
            let claim = |count: &[u8]| {
                let lie = Bytes::from([&bytes[..at], count, &bytes[at..]].concat());
                within(lie.len(), || codecs::carafe(shape.name, shape.version, lie))
            };
            let (endless, null): (&[u8], &[u8]) = match array.compact {
                true => (&[0xff, 0xff, 0xff, 0xff, 0x0f], &[0]),
                false => (&[0x7f, 0xff, 0xff, 0xff], &[0xff; 4]),
            };
            let error = claim(endless).unwrap_err();
            assert_eq!(error.path(), array.path, "{error}");
            assert!(matches!(error.kind(), DecodeErrorKind::TooManyElements { .. }), "{error}");
            let outcome = claim(null);
            if !array.nullable {
                let error = outcome.unwrap_err();
                assert_eq!((error.path(), error.kind()), (array.path, DecodeErrorKind::UnexpectedNull));
            }
            claims += 1;
        }
    }
    assert!(claims > 1000, "{claims} arrays");
}

/// The smallest message whose array at `path` has `count` elements.
fn crowded(shape: &Type, at: &str, path: &str, count: usize, out: &mut Vec<u8>) {
    let length = |len: usize, compact: bool, classic: usize, out: &mut Vec<u8>| match compact {
        true => put_uvarint(out, len as u32 + 1),
        false => out.extend_from_slice(&(len as u32).to_be_bytes()[4 - classic..]),
    };
    let on_the_way = path.starts_with(at);
    match shape {
        Type::Bool => out.push(0),
        Type::Fixed(size) => out.resize(out.len() + size, 0),
        Type::Str { compact } => length(0, *compact, 2, out),
        Type::Bytes { compact } => length(0, *compact, 4, out),
        Type::Array { compact, element } => {
            let count = if at == path { count } else { usize::from(on_the_way) };
            length(count, *compact, 4, out);
            let start = out.len();
            for _ in 0..count.min(1) {
                crowded(element, &format!("{at}[0]"), path, 0, out);
            }
            let element = out[start..].to_vec();
            out.extend(element.repeat(count.saturating_sub(1)));
        }
        Type::Nullable(inner) if on_the_way => {
            if let Type::Struct(_) = **inner {
                out.push(1);
            }
            crowded(inner, at, path, count, out);
        }
        Type::Nullable(inner) => match **inner {
            Type::Str { compact: false } => out.extend([0xff; 2]),
            Type::Bytes { compact: false } | Type::Array { compact: false, .. } => out.extend([0xff; 4]),
            Type::Struct(_) => out.push(0xff),
            _ => out.push(0),
        },
        Type::Struct(shape) => {
            let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
            for field in &shape.fields {
                crowded(&field.shape, &below(&field.name), path, count, out);
            }
            let Some(tagged) = &shape.tagged else { return };
            match tagged.iter().find(|(_, field)| path.starts_with(&below(&field.name))) {
                None => out.push(0),
                Some((tag, field)) => {
                    let mut value = Vec::new();
                    crowded(&field.shape, &below(&field.name), path, count, &mut value);
                    out.push(1);
                    put_uvarint(out, *tag);
                    put_uvarint(out, value.len() as u32);
                    out.extend(value);
                }
            }
        }
    }
}

/// Many elements of no content are the worst that an honest length can do.
#[test]
fn arrays_full_of_empty_elements_take_memory_by_the_byte() {
    for (number, shape) in shapes().into_iter().enumerate() {
        let mut found = Vec::new();
        arrays(&shape.root, "", false, &mut found);
        for array in found.iter().skip(number % 8).step_by(8) {
            let mut bytes = Vec::new();
            crowded(&shape.root, "", &array.path, 20_000, &mut bytes);
            let bytes = Bytes::from(bytes);
            let again = within(bytes.len(), || codecs::carafe(shape.name, shape.version, bytes.clone()));
            assert_eq!(again.unwrap().0, bytes, "{} {}: {}", shape.name, shape.version, array.path);
        }
    }
}

/// Any single change: either refused, or read as another message that can be written and read again.
#[test]
fn changed_bytes_never_panic() {
    let mut dice = Dice::new(4);
    for shape in shapes() {
        for _ in 0..60 {
            let mut bytes = shape.sample(&mut dice).bytes;
            for _ in 0..=dice.below(3) {
                if bytes.is_empty() {
                    break;
                }
                let at = dice.below(bytes.len());
                let lies = [0, 1, 0x7f, 0x80, 0xff, dice.roll() as u8];
                let lie = lies[dice.below(lies.len())];
                let until = (at + 1 + dice.below(5)).min(bytes.len());
                bytes[at..until].fill(lie);
            }
            if let Ok((again, _)) = codecs::carafe(shape.name, shape.version, Bytes::from(bytes)) {
                let again = again.freeze();
                let (twice, left) = codecs::carafe(shape.name, shape.version, again.clone())
                    .unwrap_or_else(|error| panic!("{error}"));
                assert_eq!((twice.freeze(), left), (again, 0), "{} {}", shape.name, shape.version);
            }
        }
    }
}

#[test]
fn noise_never_panics() {
    let mut dice = Dice::new(5);
    for shape in shapes() {
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..dice.below(100)).map(|_| dice.roll() as u8).collect();
            let _ = codecs::carafe(shape.name, shape.version, Bytes::from(bytes));
        }
    }
}
