use std::sync::LazyLock;

use bytes::Bytes;
use carafe::wire::ApiKey;
use protocol_tests::messages::{Dice, Shape, Writer, shapes};

use crate::decoder::{Batch, Batches, Messages, Record};
use crate::input::Input;
use crate::limits::within;

/// Messages and batches that are valid, drawn from the input: what is read is written as the same bytes again.
///
/// Input: which message in which version, or a batch (2 bytes); then choices, one byte or a few for each value.
pub fn fixpoint(decoder: &mut (impl Batches + Messages), input: &[u8]) {
    let mut input = Input::new(input);
    let which = usize::from(input.u16());
    match REQUESTS_AND_RESPONSES.get(which) {
        Some((key, shape)) => message(decoder, *key, shape, input.rest()),
        None => batch(decoder, &mut input),
    }
}

/// Every request and response in every version.
static REQUESTS_AND_RESPONSES: LazyLock<Vec<(i16, Shape)>> = LazyLock::new(|| {
    let key = |name: &str| {
        let api = name.strip_suffix("Request").or(name.strip_suffix("Response"))?;
        ApiKey::all().find(|(key, _)| key.name() == Some(api)).map(|(key, _)| key.0)
    };
    shapes().into_iter().filter_map(|shape| Some((key(shape.name)?, shape))).collect()
});

fn message(decoder: &mut impl Messages, key: i16, shape: &Shape, script: &[u8]) {
    let mut dice = Dice::scripted(script);
    let plain = Bytes::from(shape.sample(&mut dice).bytes);
    // The same message with tagged fields that nobody knows: they are skipped.
    let mut dice = Dice::scripted(script);
    let mut writer = Writer::new(&mut dice);
    writer.strangers = Some(Dice::new(script.len() as u64));
    writer.put(&shape.root, "", false);
    let strange = Bytes::from(writer.sample.bytes);
    for body in [&plain, &strange] {
        let again = within(body.len(), || match shape.name.ends_with("Request") {
            true => decoder.request(key, shape.version, body),
            false => decoder.response(key, shape.version, body),
        });
        assert_eq!(again.as_deref(), Ok(&plain[..]), "{} {}", shape.name, shape.version);
    }
}

fn batch(decoder: &mut impl Batches, input: &mut Input<'_>) {
    let codec = input.below(5) as i8;
    let mut records = Vec::new();
    while !input.is_empty() {
        records.push(record(input));
    }
    let Some(blob) = decoder.write(codec, &records) else { return };
    let (batches, refusal) = within(blob.len(), || decoder.batches(&blob, 1 << 16));
    assert_eq!(refusal, None);
    let mut expected = Batch::new(0, records.len().saturating_sub(1) as i64);
    for (offset, record) in records.iter().enumerate() {
        let headers = record.headers.iter().map(|(key, value)| (&key[..], value.as_deref()));
        expected.record(
            offset as i64,
            record.timestamp,
            record.key.as_deref(),
            record.value.as_deref(),
            headers,
        );
    }
    assert_eq!(batches, [expected]);
}

fn record(input: &mut Input<'_>) -> Record {
    let timestamp = match input.below(3) {
        0 => input.u8().into(),
        1 => input.u16().into(),
        _ => input.i64(),
    };
    let headers = input.below(4);
    Record {
        timestamp,
        key: field(input),
        value: field(input),
        headers: (0..headers).map(|_| (field(input).unwrap_or_default(), field(input))).collect(),
    }
}

/// Null, empty, or some bytes.
fn field(input: &mut Input<'_>) -> Option<Vec<u8>> {
    let len = input.u8();
    (len != 0).then(|| input.take(usize::from(len) - 1).to_vec())
}
