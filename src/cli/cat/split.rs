//! Splits what is read into messages.

use bytes::{Bytes, BytesMut};

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
        self.buffer.reserve(64 * 1024);
        &mut self.buffer
    }

    /// Bytes of the message that has not ended yet.
    pub(super) fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The next message that ended, without its delimiter.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let (&last, front) = self.delimiter.split_last()?;
        loop {
            let found = self.buffer.get(self.scanned..)?.iter().position(|&byte| byte == last);
            let Some(found) = found else {
                self.scanned = self.buffer.len();
                return None;
            };
            let end = self.scanned + found;
            self.scanned = end + 1;
            if self.buffer[..end].ends_with(front) {
                let mut message = self.buffer.split_to(end + 1);
                message.truncate(end - front.len());
                self.scanned = 0;
                return Some(message.freeze());
            }
        }
    }

    /// What is left at the end of the stream.
    pub(super) fn finish(&mut self) -> Option<Bytes> {
        self.scanned = 0;
        let rest = self.buffer.split().freeze();
        (!rest.is_empty()).then_some(rest)
    }
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
    let at = delimiter
        .and_then(|delimiter| message.windows(delimiter.len()).position(|window| window == delimiter));
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
        let mut messages = Vec::new();
        for chunk in chunks {
            splitter.buffer().extend_from_slice(chunk.as_bytes());
            messages.extend(std::iter::from_fn(|| splitter.next()));
        }
        messages.extend(splitter.finish());
        messages.iter().map(|message| String::from_utf8_lossy(message).into_owned()).collect()
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
