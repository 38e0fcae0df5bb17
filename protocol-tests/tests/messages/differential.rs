//! carafe and `kafka-protocol` against each other: every message in every version that both have, from random values.
//! What they do not share, and the other's known defects, are listed in `differential.txt`.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use carafe::wire::readable::schema::Schema;
use carafe::wire::records::{BatchHeader, BatchWriter};
use carafe::wire::{ApiKey, VersionRange};
use kafka_protocol::messages::ApiKey as TheirKey;
use kafka_protocol::records::RecordBatchDecoder;
use protocol_tests::messages::{Bias, Dice, Shape, Type, Writer, shapes};

use crate::messages::codecs;

/// Samples of each kind for every message and version, unless `CARAFE_TEST_SEEDS` asks for more.
const SEEDS: u64 = 2;

const BIASES: [Bias; 4] = [Bias::Mixed, Bias::Null, Bias::Empty, Bias::Large];

fn seeds() -> u64 {
    match std::env::var("CARAFE_TEST_SEEDS") {
        Ok(seeds) => seeds.parse().expect("CARAFE_TEST_SEEDS is a number"),
        Err(_) => SEEDS,
    }
}

fn carafe(shape: &Shape, bytes: &Bytes) -> Bytes {
    let (again, left) = codecs::carafe(shape.name, shape.version, bytes.clone())
        .unwrap_or_else(|error| panic!("{error}\n{bytes:x?}"));
    assert_eq!(left, 0, "{} {}", shape.name, shape.version);
    again.freeze()
}

/// `None` where they do not know the version.
fn theirs(shape: &Shape, bytes: &Bytes) -> Option<Bytes> {
    match codecs::oracle(shape.name, shape.version, bytes.clone())? {
        Ok((again, left)) => {
            assert_eq!(left, 0, "{} {}", shape.name, shape.version);
            Some(again.freeze())
        }
        Err(error) => panic!("{} {}: {error}\n{bytes:x?}", shape.name, shape.version),
    }
}

/// The same message as an encoder writes it, and as one that wastes bytes and knows more fields does.
fn pair(shape: &Shape, seed: u64, bias: Bias) -> (Bytes, Bytes) {
    let write = |padded, strangers| {
        let mut dice = Dice::new(seed);
        let mut writer = Writer::new(&mut dice);
        (writer.bias, writer.padded, writer.strangers) = (bias, padded, strangers);
        writer.put(&shape.root, "", false);
        Bytes::from(writer.sample.bytes)
    };
    (write(false, None), write(true, Some(Dice::new(!seed))))
}

#[test]
fn both_read_and_write_the_same() {
    let mut compared = 0;
    for shape in shapes() {
        for (seed, bias) in (0..seeds()).flat_map(|seed| BIASES.map(|bias| (seed, bias))) {
            let (plain, odd) = pair(&shape, seed, bias);
            let at = || format!("{} {}, seed {seed}, {bias:?}", shape.name, shape.version);
            let ours = carafe(&shape, &plain);
            assert_eq!(ours, plain, "{}", at());
            assert_eq!(carafe(&shape, &odd), plain, "{}", at());
            let Some(again) = theirs(&shape, &ours) else { continue };
            assert_eq!(carafe(&shape, &again), plain, "{}", at());
            // They keep tagged fields that they do not know; we leave them out.
            let kept = theirs(&shape, &odd).expect("a version they know");
            assert_eq!(theirs(&shape, &carafe(&shape, &kept)), Some(plain), "{}", at());
            compared += 1;
        }
    }
    assert!(compared > 4000, "{compared} comparisons");
}

/// True if a structure may be null, whose marker they misread (a defect in `differential.txt`).
fn has_nullable_structure(shape: &Type) -> bool {
    match shape {
        Type::Nullable(inner) => matches!(**inner, Type::Struct(_)) || has_nullable_structure(inner),
        Type::Array { element, .. } => has_nullable_structure(element),
        Type::Struct(shape) => {
            let tagged = shape.tagged.iter().flatten().map(|(_, field)| field);
            shape.fields.iter().chain(tagged).any(|field| has_nullable_structure(&field.shape))
        }
        Type::Bool | Type::Fixed(_) | Type::Str { .. } | Type::Bytes { .. } => false,
    }
}

/// Whatever happens to a message on its way: where both still read it, they read the same.
#[test]
fn damaged_messages_mean_the_same_to_both() {
    let mut compared = 0;
    for shape in shapes().iter().filter(|shape| !has_nullable_structure(&shape.root)) {
        for seed in 0..20 * seeds() {
            let mut dice = Dice::new(seed);
            let mut bytes = shape.sample(&mut dice).bytes;
            if bytes.is_empty() {
                continue;
            }
            let at = dice.below(bytes.len());
            bytes[at] = [0, 1, 2, 0x7f, 0x80, 0xff, dice.roll() as u8][dice.below(7)];
            let bytes = Bytes::from(bytes);
            // They may only see what we have checked: a lie about a length would end this process.
            let Ok((ours, left)) = codecs::carafe(shape.name, shape.version, bytes.clone()) else { continue };
            let Some(Ok((again, also_left))) = codecs::oracle(shape.name, shape.version, bytes.clone())
            else {
                continue;
            };
            let at = || format!("{} {}, seed {seed}\n{bytes:x?}", shape.name, shape.version);
            assert_eq!(left, also_left, "{}", at());
            let (back, _) = codecs::carafe(shape.name, shape.version, again.freeze())
                .unwrap_or_else(|error| panic!("{error}, {}", at()));
            assert_eq!(back, ours, "{}", at());
            compared += 1;
        }
    }
    assert!(compared > 5000, "{compared} comparisons");
}

/// The versions of `ours` that `theirs` lacks, as one range.
fn beyond(ours: VersionRange, theirs: Option<VersionRange>) -> Option<VersionRange> {
    let Some(theirs) = theirs else { return Some(ours) };
    let mut lacking = (ours.min..=ours.max).filter(|version| !theirs.contains(*version));
    let first = lacking.next()?;
    Some(VersionRange::new(first, lacking.next_back().unwrap_or(first)))
}

/// True while the defect is there.
type Proof = fn() -> bool;

/// What they cannot do.
const DEFECTS: [(&str, Proof); 4] = [
    ("nullable-structures", takes_structures_for_null),
    ("long-varints", accepts_endless_varints),
    ("header-keys", loses_headers_of_equal_keys),
    ("last-offset-delta", loses_the_end_of_compacted_batches),
];

fn takes_structures_for_null() -> bool {
    // ConsumerGroupHeartbeat 0: throttle time, no error, two nulls, an epoch and an interval, and an empty assignment
    // whose marker is 2. Without it, its bytes pass for a tagged field.
    let bytes = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0]);
    let name = "ConsumerGroupHeartbeatResponse";
    let (ours, left) = codecs::carafe(name, 0, bytes.clone()).expect("an assignment");
    let (theirs, _) = codecs::oracle(name, 0, bytes).expect("known").expect("no assignment");
    left == 0 && ours != theirs
}

fn accepts_endless_varints() -> bool {
    // ApiVersions 3: a name whose length ends, after five bytes, with one that announces a sixth.
    let bytes = Bytes::from_static(&[0x82, 0x80, 0x80, 0x80, 0x80, b'n', 2, b'v', 0]);
    let name = "ApiVersionsRequest";
    codecs::carafe(name, 3, bytes.clone()).is_err() && codecs::oracle(name, 3, bytes).expect("known").is_ok()
}

/// A batch of one record with two headers, and a last offset as compaction leaves it.
fn batch(last_offset_delta: i32) -> Bytes {
    let mut writer = BatchWriter::with_capacity(64);
    let headers = [(&b"k"[..], Some(&b"1"[..])), (b"k", Some(b"2"))];
    let size = writer.measure(1, None, Some(b"v"), headers.into_iter()).expect("a small record");
    writer.append(size, 1, None, Some(b"v"), headers.into_iter());
    let (body, meta) = writer.finish();
    let header = BatchHeader { last_offset_delta, ..meta.header(Default::default()) };
    let mut batch = BytesMut::from(&header.encode(&body)[..]);
    batch.extend_from_slice(&body);
    batch.freeze()
}

fn loses_headers_of_equal_keys() -> bool {
    let records = RecordBatchDecoder::decode(&mut batch(0)).expect("a batch").records;
    records.len() == 1 && records[0].headers.len() == 1
}

fn loses_the_end_of_compacted_batches() -> bool {
    // Nothing in what they return says that the next offset is 10.
    let set = RecordBatchDecoder::decode(&mut batch(9)).expect("a batch");
    set.records.len() == 1 && !format!("{set:?}").contains('9')
}

#[test]
fn what_they_do_not_share_is_listed() {
    let mut facts = BTreeSet::new();
    for schema in Schema::all() {
        let theirs = codecs::oracle_versions(schema.name);
        if let Some(range) = beyond(schema.versions, theirs) {
            facts.insert(format!("only-carafe {} {range}", schema.name));
        }
        if let Some(range) = theirs.and_then(|theirs| beyond(theirs, Some(schema.versions))) {
            facts.insert(format!("only-theirs {} {range}", schema.name));
        }
    }
    for key in TheirKey::iter() {
        let claimed = key.valid_versions();
        let claimed = VersionRange::new(claimed.min, claimed.max);
        if ApiKey(key as i16).versions().is_none() {
            facts.insert(format!("only-theirs {key:?} {claimed}"));
        } else if let Some(really) = codecs::oracle_versions(&format!("{key:?}Request"))
            && really != claimed
        {
            facts.insert(format!("misstated {key:?} {claimed} for {really}"));
        }
    }
    for (name, proof) in DEFECTS {
        if proof() {
            facts.insert(format!("defect {name}"));
        }
    }

    let lines = include_str!("differential.txt").lines().filter(|line| !line.starts_with('#'));
    let entries = lines.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("no reason: {line}")));
    let listed: BTreeSet<String> = entries.map(|(fact, _)| fact.to_owned()).collect();
    let missing: Vec<_> = facts.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&facts).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "differential.txt lacks {missing:#?}\nand lists what is not so any more {gone:#?}"
    );
}
