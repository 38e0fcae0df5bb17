//! Messages beside Kafka's own classes, run now: what carafe writes is read and written again by Java, what Java writes
//! by carafe, and both print the same JSON. Needs a JDK and Maven, so that these tests run only when asked for:
//! `cargo test -p protocol-tests --test protocol java -- --ignored`.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::process::{Child, Command, Stdio};
use std::thread;

use bytes::Bytes;
use carafe::wire::readable::schema::Schema;
use carafe::wire::readable::{Detail, Message};
use protocol_tests::golden;
use protocol_tests::messages::{Dice, shapes};

use crate::messages::codecs;
use crate::readable::assert_same_json;

/// Random messages per version, in either direction.
const SAMPLES: usize = 20;

/// A program of `golden/java`.
fn java(program: &str, argument: Option<usize>) -> Child {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/java/run"))
        .arg(program)
        .args(argument.map(|argument| argument.to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("golden/java/run can be started")
}

fn json(name: &str, version: i16, bytes: Bytes) -> String {
    let schema = Schema::named(name).expect("a schema");
    let message = Message::new(schema, version, bytes).unwrap_or_else(|error| panic!("{error}"));
    message.json(Detail::Kafka).to_string()
}

#[test]
#[ignore = "needs a JDK and Maven"]
fn java_reads_what_is_written_here() {
    let mut dice = Dice::new(8);
    let samples: Vec<_> = shapes()
        .iter()
        .flat_map(|shape| {
            (0..SAMPLES)
                .map(|_| (shape.name, shape.version, shape.sample(&mut dice).bytes))
                .collect::<Vec<_>>()
        })
        .collect();
    let mut echo = java("Echo", None);
    let mut questions = BufWriter::new(echo.stdin.take().expect("piped"));
    let answers = BufReader::new(echo.stdout.take().expect("piped"));
    let samples = &samples;
    thread::scope(|scope| {
        let asked = scope.spawn(move || {
            for (name, version, bytes) in samples {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(questions, "{name} {version} {hex}")?;
            }
            // Java ends with its input.
            questions.flush()
        });
        let mut lines = answers.lines();
        for (name, version, bytes) in samples {
            let line = lines.next().and_then(Result::ok).expect("Java answers every message");
            let again =
                golden::message("Java".to_owned(), &format!("{name} {version} {line}")).expect("an answer");
            assert_eq!(again.bytes, *bytes, "{name} {version}");
            assert_same_json(&json(name, *version, again.bytes), &again.json, name);
        }
        asked.join().expect("no panic").expect("Java takes every message");
    });
    assert!(echo.wait().expect("Java ends").success());
}

#[test]
#[ignore = "needs a JDK and Maven"]
fn what_java_writes_is_read_here() {
    let mut messages = java("Messages", Some(SAMPLES));
    let lines = BufReader::new(messages.stdout.take().expect("piped")).lines();
    let mut count = 0;
    for line in lines.map(|line| line.expect("Java writes UTF-8")).filter(|line| !line.starts_with('#')) {
        let vector = golden::message("Java".to_owned(), &line).expect("a vector");
        let (again, left) = codecs::carafe(&vector.name, vector.version, vector.bytes.clone())
            .unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!((&again[..], left), (&vector.bytes[..], 0), "{line}");
        assert_same_json(&json(&vector.name, vector.version, vector.bytes), &vector.json, &line);
        count += 1;
    }
    assert!(messages.wait().expect("Java ends").success());
    assert!(count > SAMPLES * 500, "{count} messages");
}
