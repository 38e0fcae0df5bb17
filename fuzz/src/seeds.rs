//! Inputs to start from: golden bytes, and what carafe writes.

use carafe::wire::ApiKey;
use carafe::wire::records::BatchIter;
use protocol_tests::golden;
use protocol_tests::messages::Dice;

use crate::Target;
use crate::carafe::Carafe;
use crate::decoder::{Batches, Codecs, Frames, Record};

/// The seeds of a target.
pub fn seeds(target: &Target) -> Vec<Vec<u8>> {
    match target.name {
        "frames" => streams(),
        "responses" => messages("Response").map(|(key, version, body)| of(&[key, version], &body)).collect(),
        "requests" => messages("Request").map(|(key, version, body)| of(&[key, version], &body)).collect(),
        "sasl" => sasl(),
        "records" => records(),
        "compression" => compressed(),
        "fixpoint" => scripts(600, |number| (number as u16).to_be_bytes().to_vec()),
        "committed" => scripts(300, |number| vec![number as u8]),
        name => panic!("no seeds for {name}"),
    }
}

fn of(head: &[u8], body: &[u8]) -> Vec<u8> {
    [head, body].concat()
}

/// Key, version and body of the golden messages in one direction, with and without frames.
fn messages(direction: &'static str) -> impl Iterator<Item = (u8, u8, Vec<u8>)> {
    let key = move |name: &str| {
        let api = name.strip_suffix(direction)?;
        ApiKey::all().find(|(key, _)| key.name() == Some(api)).map(|(key, _)| key.0)
    };
    let bare = golden::messages().into_iter().filter_map(move |message| {
        Some((key(&message.name)? as u8, message.version as u8, message.bytes.to_vec()))
    });
    let framed = golden::frames().into_iter().filter_map(move |message| {
        let (key, version, frame) = (key(&message.name)?, message.version, &message.bytes);
        let body = match direction {
            "Request" => Carafe::default().request_header(frame).ok()?.3,
            _ => Carafe::default().response_header(frame, key, version).ok()?.1,
        };
        Some((key as u8, version as u8, frame.slice(body..).to_vec()))
    });
    bare.chain(framed)
}

/// Recorded frames after each other, requests apart from responses.
fn streams() -> Vec<Vec<u8>> {
    let (requests, responses): (Vec<_>, Vec<_>) =
        golden::frames().into_iter().partition(|frame| frame.name.ends_with("Request"));
    let stream = |direction: u8, frames: &[golden::Message]| {
        let mut stream = vec![direction, 0xff, 0xff, 3, 0, 4, 60];
        for frame in frames {
            stream.extend((frame.bytes.len() as u32).to_be_bytes());
            stream.extend(&frame.bytes);
        }
        stream
    };
    let requests = requests.chunks(12).map(|frames| stream(1, frames));
    requests.chain(responses.chunks(12).map(|frames| stream(0, frames))).collect()
}

fn sasl() -> Vec<Vec<u8>> {
    let in_direction = |direction, low: u8| {
        messages(direction).filter_map(move |(key, version, body)| {
            let which = [17, 36, 18].iter().position(|known| *known == key)? as u8;
            Some(of(&[which * 2 + low, version], &body))
        })
    };
    in_direction("Response", 0).chain(in_direction("Request", 1)).collect()
}

fn records() -> Vec<Vec<u8>> {
    let header = |key: &[u8], value: Option<&[u8]>| (key.to_vec(), value.map(<[u8]>::to_vec));
    let record = |number: usize| Record {
        timestamp: 1_700_000_000_000 + number as i64,
        key: (!number.is_multiple_of(3)).then(|| format!("key {number}").into_bytes()),
        value: (!number.is_multiple_of(4)).then(|| b"value ".repeat(number % 30)),
        headers: match number % 5 {
            0 => vec![header(b"h", Some(b"1")), header(b"h", None), header(b"\xff", Some(b""))],
            _ => Vec::new(),
        },
    };
    let mut carafe = Carafe::default();
    let mut seeds: Vec<_> = golden::batches().iter().map(|batches| of(&[1, 0, 90], &batches.bytes)).collect();
    for codec in 0..5 {
        for count in [0, 1, 7, 60] {
            let batch = carafe.write(codec, &(0..count).map(record).collect::<Vec<_>>());
            let batch = batch.expect("a batch that can be written");
            seeds.push(of(&[1, 0xff, 0xff], &batch));
            seeds.push(of(&[0, 0, 100], &[&batch[..], &batch].concat()));
        }
    }
    seeds
}

fn compressed() -> Vec<Vec<u8>> {
    let mut carafe = Carafe::default();
    // The records of the first batch, whatever packed them.
    let packed = |batches: golden::Batches| {
        let batch = BatchIter::new(batches.bytes).next()?.ok()?;
        let codec = batch.header.attributes.codec_id() as u8;
        Some(of(&[codec, 0, 0xff, 0xff], &batch.body()))
    };
    let mut seeds: Vec<_> = golden::batches().into_iter().filter_map(packed).collect();
    for text in [&b""[..], b"a", &b"text ".repeat(40), &[7; 3000], &(0..=255).collect::<Vec<u8>>()] {
        for codec in 0..5 {
            seeds.push(of(&[codec, 0, 0xff, 0xff], &carafe.compress(codec as i8, None, text)));
            seeds.push(of(&[codec + 130, 3, 0, 0], text));
        }
    }
    seeds
}

/// Random choices, in all lengths.
fn scripts(count: usize, head: impl Fn(usize) -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut dice = Dice::new(1);
    let script = |number: usize| {
        let choices: Vec<u8> = (0..number % 100).map(|_| dice.roll() as u8).collect();
        of(&head(number), &choices)
    };
    (0..count).map(script).collect()
}
