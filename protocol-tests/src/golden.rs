//! Bytes that other implementations produced, with what an independent decoder says of them: see `golden/README.md`.
//!
//! Vectors come in the order of their files, files in the order of their names. A file that is not as its README says
//! is a panic that names the line.

use std::fs;
use std::path::Path;

use bytes::Bytes;

/// A message, with or without what frames it.
#[derive(Clone, Debug)]
pub struct Message {
    /// File and line that it comes from.
    pub origin: String,
    /// Kafka's name, such as `MetadataRequest`.
    pub name: String,
    /// Version of the message.
    pub version: i16,
    /// The bytes.
    pub bytes: Bytes,
    /// What Apache Kafka's own classes read from them.
    pub json: String,
}

/// Record batches one after the other, as the `records` of one partition hold them.
#[derive(Clone, Debug)]
pub struct Batches {
    /// File and line that they come from.
    pub origin: String,
    /// What they show.
    pub name: String,
    /// The bytes.
    pub bytes: Bytes,
    /// What Apache Kafka's own classes read from them.
    pub json: String,
}

/// Bodies of messages, from encoders without a connection.
pub fn messages() -> Vec<Message> {
    load_messages("messages")
}

/// Recorded frames: header and body, without the four bytes of the length.
pub fn frames() -> Vec<Message> {
    load_messages("frames")
}

/// Record batches of producers and brokers.
pub fn batches() -> Vec<Batches> {
    lines("batches", |origin, line| {
        let (name, rest) = line.split_once(' ')?;
        let (bytes, json) = rest.split_once(' ')?;
        Some(Batches { origin, name: name.into(), bytes: unhex(bytes)?, json: json.into() })
    })
}

fn load_messages(directory: &str) -> Vec<Message> {
    lines(directory, message)
}

/// The message of a line; `None` if it is none.
pub fn message(origin: String, line: &str) -> Option<Message> {
    let (name, rest) = line.split_once(' ')?;
    let (version, rest) = rest.split_once(' ')?;
    let (bytes, json) = rest.split_once(' ')?;
    let (version, bytes) = (version.parse().ok()?, unhex(bytes)?);
    Some(Message { origin, name: name.into(), version, bytes, json: json.into() })
}

/// Every line of every file of `directory` that is no comment.
fn lines<T>(directory: &str, parse: impl Fn(String, &str) -> Option<T>) -> Vec<T> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(directory);
    let mut paths: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("a directory entry").path())
        .collect();
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            let origin = format!("{file}:{}", number + 1);
            let vector = parse(origin, line);
            all.push(vector.unwrap_or_else(|| panic!("{}:{}: no vector", path.display(), number + 1)));
        }
    }
    all
}

fn unhex(text: &str) -> Option<Bytes> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|&[high, low]| Some((digit(high)? << 4 | digit(low)?) as u8));
    rest.is_empty().then(|| bytes.collect::<Option<Vec<u8>>>())?.map(Bytes::from)
}
