//! Messages as people read them: the same JSON as Kafka's converters write, whatever is not a message refused as the
//! decoders refuse it, no secret shown.

use bytes::{BufMut, Bytes, BytesMut};
use carafe::wire::compression::{Compression, Decompressor};
use carafe::wire::frame::{encode_request, encode_response};
use carafe::wire::messages::{
    self as ours, alter_user_scram_credentials, incremental_alter_configs, join_group,
};
use carafe::wire::readable::schema::Schema;
use carafe::wire::readable::{Batch, Detail, Frame, Message};
use carafe::wire::records::{BatchIter, BatchWriter};
use carafe::wire::{ApiKey, Encode, encode_versioned};
use protocol_tests::golden;
use protocol_tests::messages::{Dice, Writer, shapes};
use serde_json::{Value, json};

use crate::messages::codecs;

fn read(name: &str, version: i16, bytes: Bytes) -> Message {
    let schema = Schema::named(name).unwrap_or_else(|| panic!("{name} has no schema"));
    Message::new(schema, version, bytes).unwrap_or_else(|error| panic!("{error}"))
}

fn parse(json: impl std::fmt::Display) -> Value {
    let json = json.to_string();
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

fn encoded(message: &impl Encode, version: i16) -> Bytes {
    let mut w = BytesMut::new();
    message.encode(&mut w, version).expect("a message that can be encoded");
    w.freeze()
}

/// Replaces what `ours` hides in `theirs`, and counts it.
fn hide(ours: &Value, theirs: &mut Value) -> usize {
    match (ours, theirs) {
        (Value::String(text), theirs) if text == "[hidden]" && theirs.is_string() => {
            *theirs = text.as_str().into();
            1
        }
        (Value::Object(ours), Value::Object(theirs)) => {
            let pairs = theirs.iter_mut().filter_map(|(name, theirs)| Some((ours.get(name)?, theirs)));
            pairs.map(|(ours, theirs)| hide(ours, theirs)).sum()
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.iter().zip(theirs).map(|(ours, theirs)| hide(ours, theirs)).sum()
        }
        _ => 0,
    }
}

/// Compares JSON of [`Detail::Kafka`] with that of Kafka's converter, and counts what is hidden in ours.
pub(crate) fn assert_same_json(ours: &str, theirs: &str, what: &str) -> usize {
    let (ours, mut theirs) = (parse(ours), parse(theirs));
    let hidden = hide(&ours, &mut theirs);
    assert_eq!(ours, theirs, "{what}");
    hidden
}

#[test]
fn the_json_is_that_of_kafkas_converters() {
    let mut hidden = 0;
    for vector in golden::messages() {
        let message = read(&vector.name, vector.version, vector.bytes);
        let json = message.json(Detail::Kafka).to_string();
        hidden += assert_same_json(&json, &vector.json, &vector.origin);
        // More detail adds to it, and text has a line for every field.
        let fields = parse(message.json(Detail::Full)).as_object().map_or(0, |fields| fields.len());
        assert!(message.text(Detail::Full).to_string().lines().count() >= fields, "{}", vector.origin);
    }
    // Random names are hardly ever those of secrets: what is hidden are the fields that always are.
    assert!((20..200).contains(&hidden), "{hidden} secrets");
}

#[test]
fn recorded_frames_print_as_kafka_reads_them() {
    let frames = golden::frames();
    for vector in &frames {
        let frame = match vector.name.strip_suffix("Response") {
            None => Frame::request(vector.bytes.clone()),
            Some(api) => {
                let key =
                    ApiKey::all().map(|(key, _)| key).find(|key| key.name() == Some(api)).expect("an API");
                Frame::response(vector.bytes.clone(), key, vector.version)
            }
        };
        let frame = frame.unwrap_or_else(|error| panic!("{}: {error}", vector.origin));
        let mut theirs = parse(&vector.json);
        theirs.as_object_mut().map(|parts| parts.remove("trailing"));
        let (header, body) = (frame.header().json(Detail::Kafka), frame.body().json(Detail::Kafka));
        let ours = format!(r#"{{"header":{header},"body":{body}}}"#);
        assert_same_json(&ours, &theirs.to_string(), &vector.origin);
        parse(frame.json(Detail::Full));
        assert!(frame.text(Detail::Full).to_string().contains("correlationId: "));
    }
    assert!(frames.len() > 500, "{} frames", frames.len());
}

#[test]
fn recorded_batches_print_as_kafka_reads_them() {
    let mut with = Decompressor::new();
    let mut printed = 0;
    for vector in golden::batches() {
        let theirs = parse(&vector.json);
        let batches = BatchIter::new(vector.bytes.clone()).map_while(Result::ok);
        for (raw, theirs) in batches.zip(theirs.as_array().expect("a list of batches")) {
            if !raw.compression().is_ok_and(Compression::is_available) {
                continue;
            }
            let ours = parse(Batch::new(raw, &mut with).json());
            for (our, their) in [
                ("baseOffset", "baseOffset"),
                ("lastOffset", "lastOffset"),
                ("size", "sizeInBytes"),
                ("compressCodec", "codec"),
                ("timestampType", "timestampType"),
                ("maxTimestamp", "maxTimestamp"),
                ("partitionLeaderEpoch", "leaderEpoch"),
                ("producerId", "producerId"),
                ("producerEpoch", "producerEpoch"),
                ("baseSequence", "baseSequence"),
                ("isTransactional", "transactional"),
                ("isControl", "control"),
            ] {
                assert_eq!(ours[our], theirs[their], "{}, {our}", vector.origin);
            }
            let (ours, theirs) = (ours["records"].as_array(), theirs["records"].as_array());
            let (ours, theirs) = ours.zip(theirs).unwrap_or_else(|| panic!("{}: no records", vector.origin));
            assert_eq!(ours.len(), theirs.len(), "{}", vector.origin);
            for (our, their) in ours.iter().zip(theirs) {
                assert_eq!((&our["offset"], &our["timestamp"]), (&their[0], &their[1]), "{}", vector.origin);
            }
            printed += 1;
        }
    }
    assert!(printed > 200, "{printed} batches");
}

#[test]
fn what_decoders_refuse_is_refused_and_nothing_else() {
    let mut dice = Dice::new(5);
    let mut refused = 0;
    for shape in shapes() {
        let schema = Schema::named(shape.name).expect("a schema");
        for _ in 0..40 {
            let mut bytes = shape.sample(&mut dice).bytes;
            for _ in 0..dice.below(3) {
                if bytes.is_empty() {
                    break;
                }
                let at = dice.below(bytes.len());
                match dice.below(3) {
                    0 => bytes[at] = dice.roll() as u8,
                    1 => bytes.truncate(at),
                    _ => bytes.push(dice.roll() as u8),
                }
            }
            let bytes = Bytes::from(bytes);
            let decoded = codecs::carafe(shape.name, shape.version, bytes.clone());
            let whole = matches!(decoded, Ok((_, 0)));
            match Message::new(schema, shape.version, bytes) {
                Ok(message) => {
                    assert!(whole, "{} {}: only printed: {message:?}", shape.name, shape.version);
                    parse(message.json(Detail::Full));
                    let _ = message.text(Detail::Full).to_string();
                }
                Err(error) => {
                    assert!(!whole, "only decoded: {error}");
                    assert_eq!((error.api(), error.version()), (shape.name, shape.version));
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 5000, "{refused} refusals");
}

#[test]
fn unknown_tagged_fields_are_printed_in_full_detail_alone() {
    let mut dice = Dice::new(6);
    let mut seen = 0;
    for shape in shapes() {
        let strangers = Dice::new(dice.roll());
        let mut writer = Writer::new(&mut dice);
        writer.strangers = Some(strangers);
        writer.put(&shape.root, "", false);
        let message = read(shape.name, shape.version, writer.sample.bytes.into());
        assert!(!message.json(Detail::Kafka).to_string().contains("unknownTag"));
        seen += usize::from(message.json(Detail::Full).to_string().contains("\"unknownTag1000\":\""));
    }
    assert!(seen > 100, "{seen} messages with strangers");
}

#[test]
fn bytes_behind_a_request_are_printed_in_full_detail_alone() {
    let frame =
        Frame::request(Bytes::from_static(&[0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0, 0xab])).unwrap();
    assert_eq!(parse(frame.json(Detail::Full))["trailing"], json!("qw=="));
    assert_eq!(parse(frame.json(Detail::Kafka)).get("trailing"), None);
}

#[test]
fn errors_name_api_version_field_and_offset() {
    let refused = |bytes: &'static [u8]| Frame::request(Bytes::from_static(bytes)).unwrap_err().to_string();
    assert_eq!(
        refused(&[0, 3, 0, 8, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 2, 0, 1, b'a', 0, 9]),
        "MetadataRequest version 8, topics[1].name, byte 17: needs 9 bytes, 0 are left"
    );
    assert_eq!(
        refused(&[0, 3, 0, 8, 0, 0, 0, 1, 0, 2, b'a']),
        "RequestHeader version 1, clientId, byte 8: needs 2 bytes, 1 are left"
    );
    assert_eq!(refused(&[0]), "RequestHeader version 1, requestApiKey, byte 0: needs 2 bytes, 1 are left");
    assert_eq!(
        refused(&[0, 4, 0, 0, 0, 0, 0, 1, 0xff, 0xff]),
        "RequestHeader version 1, requestApiKey, byte 0: no broker offers an API of this number to clients"
    );
    assert_eq!(
        refused(&[0, 3, 0, 99, 0, 0, 0, 1, 0xff, 0xff, 0]),
        "MetadataRequest version 99, byte 11: version is not supported"
    );
    let announced =
        Frame::response(Bytes::from_static(&[0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff]), ApiKey::METADATA, 0);
    assert_eq!(
        announced.unwrap_err().to_string(),
        "MetadataResponse version 0, brokers, byte 4: 2147483647 elements announced, at most 0 are possible"
    );
}

/// Every message with a secret, and the name of its field.
fn with_secrets() -> Vec<(Message, &'static str)> {
    let secret = Bytes::from_static(b"tell nobody");
    let setting = |name: &'static str| incremental_alter_configs::AlterableConfig {
        name: name.into(),
        value: Some("tell nobody".into()),
        ..Default::default()
    };
    let resource = incremental_alter_configs::AlterConfigsResource {
        configs: vec![
            setting("ssl.key.password"),
            setting("listener.name.outside.scram-sha-256.sasl.jaas.config"),
            setting("ssl.keystore.key"),
            setting("My.Client.Secret"),
        ],
        ..Default::default()
    };
    let credential = alter_user_scram_credentials::ScramCredentialUpsertion {
        salt: secret.clone(),
        salted_password: secret.clone(),
        ..Default::default()
    };
    let configs = ours::IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
    let scram = ours::AlterUserScramCredentialsRequest { upsertions: vec![credential], ..Default::default() };
    let sasl = ours::SaslAuthenticateRequest { auth_bytes: secret.clone() };
    let answer = ours::SaslAuthenticateResponse { auth_bytes: secret.clone(), ..Default::default() };
    let token = ours::CreateDelegationTokenResponse { hmac: secret.clone(), ..Default::default() };
    let renewal = ours::RenewDelegationTokenRequest { hmac: secret.clone(), ..Default::default() };
    let expiry = ours::ExpireDelegationTokenRequest { hmac: secret.clone(), ..Default::default() };
    let described =
        ours::describe_delegation_token::DescribedDelegationToken { hmac: secret, ..Default::default() };
    let tokens = ours::DescribeDelegationTokenResponse { tokens: vec![described], ..Default::default() };
    vec![
        (read("IncrementalAlterConfigsRequest", 1, encoded(&configs, 1)), "value"),
        (read("AlterUserScramCredentialsRequest", 0, encoded(&scram, 0)), "saltedPassword"),
        (read("SaslAuthenticateRequest", 2, encoded(&sasl, 2)), "authBytes"),
        (read("SaslAuthenticateResponse", 2, encoded(&answer, 2)), "authBytes"),
        (read("CreateDelegationTokenResponse", 3, encoded(&token, 3)), "hmac"),
        (read("RenewDelegationTokenRequest", 2, encoded(&renewal, 2)), "hmac"),
        (read("ExpireDelegationTokenRequest", 2, encoded(&expiry, 2)), "hmac"),
        (read("DescribeDelegationTokenResponse", 3, encoded(&tokens, 3)), "hmac"),
    ]
}

#[test]
fn secrets_are_hidden() {
    for (message, field) in with_secrets() {
        for detail in [Detail::Kafka, Detail::Full] {
            let (json, text) = (message.json(detail).to_string(), message.text(detail).to_string());
            assert!(json.contains(&format!("\"{field}\":\"[hidden]\"")), "{json}");
            assert!(text.contains(&format!("{field}: [hidden]")), "{text}");
            for print in [json, text] {
                // As text, as base64, as hexadecimal digits.
                for secret in ["nobody", "dGVsbCBub2JvZHk", "74656c6c"] {
                    assert!(!print.contains(secret), "{print}");
                }
            }
        }
    }
}

#[test]
fn settings_that_are_no_secrets_are_shown() {
    let setting = incremental_alter_configs::AlterableConfig {
        name: "retention.ms".into(),
        value: Some("1000".into()),
        ..Default::default()
    };
    let resource =
        incremental_alter_configs::AlterConfigsResource { configs: vec![setting], ..Default::default() };
    let request = ours::IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
    let json =
        read("IncrementalAlterConfigsRequest", 0, encoded(&request, 0)).json(Detail::Kafka).to_string();
    assert!(json.contains(r#""name":"retention.ms","configOperation":0,"value":"1000""#), "{json}");
}

/// A batch of two records.
fn batch(codec: Compression) -> Bytes {
    let mut writer = BatchWriter::with_capacity(64);
    let records = [(Some(&b"key"[..]), Some(&b"\x00\xff"[..])), (None, None)];
    for (at, (key, value)) in records.into_iter().enumerate() {
        let headers = || [(&b"h"[..], Some(&b"1"[..])), (b"h", None)].into_iter();
        let timestamp = 1_700_000_000_000 + at as i64;
        let size = writer.measure(timestamp, key, value, headers()).expect("a record that fits");
        writer.append(size, timestamp, key, value, headers());
    }
    let (body, meta) = writer.finish();
    let mut packed = Vec::new();
    carafe::wire::compression::Compressor::new().compress(codec, None, &body, &mut packed).expect("a codec");
    let mut header = meta.header(codec);
    (header.base_offset, header.producer_id, header.producer_epoch) = (40, 7, 1);
    header.base_sequence = i32::MAX;
    let mut batch = BytesMut::from(&header.encode(&packed)[..]);
    batch.put_slice(&packed);
    batch.freeze()
}

fn fetch_response(records: Bytes) -> Frame {
    let partition = ours::fetch::PartitionData { records: Some(records), ..Default::default() };
    let topic = ours::fetch::FetchableTopicResponse { partitions: vec![partition], ..Default::default() };
    let response = ours::FetchResponse { responses: vec![topic], ..Default::default() };
    let bytes = encode_response(&response, ApiKey::FETCH, 12, 5).expect("a response").freeze();
    Frame::response(bytes.slice(4..), ApiKey::FETCH, 12).expect("a valid frame")
}

#[test]
fn record_batches_are_printed_with_their_records() {
    for codec in Compression::ALL.into_iter().filter(|codec| codec.is_available()) {
        let whole = batch(codec);
        let blob = [&whole[..], &whole[..30]].concat();
        let frame = fetch_response(blob.clone().into());
        let json = parse(frame.json(Detail::Full));
        let batches = &json["response"]["responses"][0]["partitions"][0]["records"];
        let crc = u32::from_be_bytes([whole[17], whole[18], whole[19], whole[20]]);
        let headers = json!([{"key": "aA==", "value": "MQ=="}, {"key": "aA==", "value": null}]);
        let expected = json!([{
            "baseOffset": 40, "lastOffset": 41, "count": 2, "baseSequence": i32::MAX, "lastSequence": 0,
            "producerId": 7, "producerEpoch": 1, "partitionLeaderEpoch": -1, "isTransactional": false,
            "isControl": false, "deleteHorizonMs": null, "position": 0, "timestampType": "CreateTime",
            "maxTimestamp": 1_700_000_000_001_i64, "size": whole.len(), "magic": 2, "compressCodec": codec.name(),
            "crc": crc, "isValid": true, "records": [
                {"offset": 40, "timestamp": 1_700_000_000_000_i64, "sequence": i32::MAX, "key": "a2V5",
                 "value": "AP8=", "headers": headers},
                {"offset": 41, "timestamp": 1_700_000_000_001_i64, "sequence": 0, "key": null, "value": null,
                 "headers": headers},
            ],
        }, {"truncatedBytes": 30}]);
        assert_eq!(*batches, expected, "{codec}");
        let text = frame.text(Detail::Full).to_string();
        assert!(text.contains("key: \"key\"\n") && text.contains("value: 0x00ff\n"), "{text}");
        // Kafka's own form has the size alone.
        let json = parse(frame.json(Detail::Kafka));
        assert_eq!(
            json["response"]["responses"][0]["partitions"][0]["recordsSizeInBytes"],
            json!(blob.len())
        );
    }
}

#[test]
fn a_damaged_batch_is_printed_with_what_is_wrong() {
    let mut bytes = batch(Compression::Gzip).to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let json = parse(fetch_response(bytes.into()).json(Detail::Full));
    let batch = &json["response"]["responses"][0]["partitions"][0]["records"][0];
    assert_eq!((&batch["isValid"], batch.get("records")), (&json!(false), None));
    assert!(
        batch["error"].as_str().is_some_and(|error| error.contains("base offset 40 at byte 0")),
        "{batch}"
    );
}

#[test]
fn the_consumer_protocol_is_read_inside_of_group_messages() {
    let subscription =
        ours::ConsumerProtocolSubscription { topics: vec!["orders".into()], ..Default::default() };
    let known = encode_versioned(&subscription, 1).expect("a version");
    let mut newer = BytesMut::from(&encode_versioned(&subscription, 3).expect("a version")[..]);
    newer[1] = 9;
    newer.put_slice(b"more");
    let protocol = |metadata| join_group::JoinGroupRequestProtocol { name: "range".into(), metadata };
    let foreign = Bytes::from_static(b"something else");
    let request = ours::JoinGroupRequest {
        protocols: vec![protocol(known), protocol(newer.freeze()), protocol(foreign)],
        ..Default::default()
    };
    let bytes = encode_request(&request, 9, 1, None).expect("a request").freeze();
    let frame = Frame::request(bytes.slice(4..)).expect("a valid frame");
    let json = parse(frame.json(Detail::Full));
    let protocols = &json["request"]["protocols"];
    assert_eq!(json["requestHeader"]["requestApiKeyName"], json!("JOIN_GROUP"));
    assert_eq!(
        protocols[0]["metadata"],
        json!({"version": 1, "subscription": {"topics": ["orders"], "userData": null, "ownedPartitions": []}})
    );
    assert_eq!(protocols[1]["metadata"]["version"], json!(9));
    assert_eq!(protocols[2]["metadata"], json!("c29tZXRoaW5nIGVsc2U="));
    assert!(frame.text(Detail::Full).to_string().contains("        topics: [\"orders\"]\n"));
}
