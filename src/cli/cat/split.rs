//! Splits what is read into messages, which stay where they were read to.

use std::io::BufRead;

use bytes::{Buf, BytesMut};

/// Bytes that are asked for at a time. A pipe gives less, a file as much.
const READ: usize = 256 * 1024;

/// Splits a stream at a delimiter of one or more bytes.
#[derive(Debug)]
pub(super) struct Splitter {
    delimiter: Vec<u8>,
    buffer: BytesMut,
    /// No delimiter ends before this position.
    scanned: usize,
}

impl Splitter {
    /// `delimiter` is not empty.
    pub(super) fn new(delimiter: &[u8]) -> Self {
        Self { delimiter: delimiter.to_vec(), buffer: BytesMut::new(), scanned: 0 }
    }

    /// Where to read to.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ);
        &mut self.buffer
    }

    /// The messages that ended, without their delimiters.
    pub(super) fn messages(&self) -> Messages<'_> {
        Messages {
            bytes: &self.buffer,
            delimiter: &self.delimiter,
            seen: Seen { start: 0, scanned: self.scanned },
        }
    }

    /// Forgets what was seen of the messages, and returns how many bytes are left.
    pub(super) fn advance(&mut self, seen: Seen) -> usize {
        self.buffer.advance(seen.start);
        self.scanned = seen.scanned - seen.start;
        self.buffer.len()
    }

    /// What has not ended by the end of the stream.
    pub(super) fn rest(&self) -> &[u8] {
        &self.buffer
    }
}

/// Messages over the bytes that were read.
#[derive(Clone, Debug)]
pub(super) struct Messages<'a> {
    bytes: &'a [u8],
    delimiter: &'a [u8],
    seen: Seen,
}

/// How far messages were looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Where the next message begins.
    start: usize,
    /// No delimiter ends before this position.
    scanned: usize,
}

impl Messages<'_> {
    pub(super) fn seen(&self) -> Seen {
        self.seen
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&last, front) = self.delimiter.split_last()?;
        loop {
            let Some(found) = find(self.bytes.get(self.seen.scanned..)?, last) else {
                self.seen.scanned = self.bytes.len();
                return None;
            };
            let end = self.seen.scanned + found;
            self.seen.scanned = end + 1;
            if let Some(message) = self.bytes[self.seen.start..end].strip_suffix(front) {
                self.seen.start = end + 1;
                return Some(message);
            }
        }
    }
}

/// Where `byte` is in `bytes`.
fn find(mut bytes: &[u8], byte: u8) -> Option<usize> {
    let all = bytes;
    // The standard library's fast search, by its only safe door for bytes.
    let skipped = bytes.skip_until(byte).ok()?;
    let at = skipped.checked_sub(1)?;
    (all.get(at) == Some(&byte)).then_some(at)
}

/// Key and value of a message, with kcat's rules.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
}

/// Takes a message apart at the first `delimiter`; without one, all of it is the value. With `null`, an empty part counts
/// as null, but only where a delimiter was found. `fixed_key` stands in for a key that is absent or null.
pub(super) fn parts<'a>(
    message: &'a [u8],
    delimiter: Option<&[u8]>,
    fixed_key: Option<&'a [u8]>,
    null: bool,
) -> Parts<'a> {
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty());
    let at = delimiter.and_then(|delimiter| {
        Messages { bytes: message, delimiter, seen: Seen { start: 0, scanned: 0 } }.next().map(<[u8]>::len)
    });
    let (key, value) = match (at, delimiter) {
        (Some(at), Some(delimiter)) => {
            let some = |part: &'a [u8]| (!null || !part.is_empty()).then_some(part);
            (some(&message[..at]), some(&message[at + delimiter.len()..]))
        }
        _ => (None, Some(message)),
    };
    Parts { key: key.or(fixed_key), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(delimiter: &str, chunks: &[&str]) -> Vec<String> {
        let mut splitter = Splitter::new(delimiter.as_bytes());
        let text = |message: &[u8]| String::from_utf8_lossy(message).into_owned();
        let mut messages = Vec::new();
        for chunk in chunks {
            splitter.buffer().extend_from_slice(chunk.as_bytes());
            let mut ended = splitter.messages();
            messages.extend(ended.by_ref().map(text));
            let seen = ended.seen();
            splitter.advance(seen);
        }
        if !splitter.rest().is_empty() {
            messages.push(text(splitter.rest()));
        }
        messages
    }

    #[test]
    fn streams_split_wherever_they_are_cut() {
        assert_eq!(split("\n", &["a\nb", "c\n\n", "d"]), ["a", "bc", "", "d"]);
        assert_eq!(split("XX", &["aX", "XbXX", "X", "XcXX"]), ["a", "b", "", "c"]);
        assert_eq!(split(";D;", &["k;D", ";v;D;;D;;", "D"]), ["k", "v", "", ";D"]);
        assert_eq!(split("\n", &[]), Vec::<String>::new());
    }

    /// Recorded from kcat 1.7.1.
    #[test]
    fn keys_and_nulls() {
        let of = |message, null| {
            let parts = parts(message, Some(b":"), Some(b"fix"), null);
            let show = |part: Option<&[u8]>| part.map(|part| String::from_utf8_lossy(part).into_owned());
            (show(parts.key).unwrap_or("NULL".into()), show(parts.value).unwrap_or("NULL".into()))
        };
        for (message, plain, null) in [
            (&b"k1:v1"[..], ("k1", "v1"), ("k1", "v1")),
            (b"k2:", ("k2", ""), ("k2", "NULL")),
            (b":v3", ("", "v3"), ("fix", "v3")),
            (b":", ("", ""), ("fix", "NULL")),
            (b"last", ("fix", "last"), ("fix", "last")),
            (b"a:b:c", ("a", "b:c"), ("a", "b:c")),
        ] {
            assert_eq!(of(message, false), (plain.0.to_owned(), plain.1.to_owned()));
            assert_eq!(of(message, true), (null.0.to_owned(), null.1.to_owned()));
        }
        assert_eq!(parts(b"a:b", None, None, true), Parts { key: None, value: Some(b"a:b") });
    }
}
