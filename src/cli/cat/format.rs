//! How a record is printed: a format of `-f`, or what `-K` and `-D` make of one.

use super::{escape, json};
use crate::consumer::{RecordRef, TimestampType};

/// Longest format that is made of delimiters; the rest is cut off, as kcat does.
const MADE_MAX: usize = 63;
/// What a null or empty key or value is printed as, where that is asked for.
const NULL: &[u8] = b"NULL";

/// A record and where it comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Printed<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    /// Id of the broker that it was fetched from.
    pub(super) broker: i32,
    pub(super) timestamp_type: TimestampType,
    pub(super) record: RecordRef<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Offset,
    Key,
    KeyLen,
    Value,
    ValueLen,
    ValueLenBinary,
    Topic,
    Partition,
    Timestamp,
    Headers,
}

/// Prints records.
#[derive(Clone, Debug)]
pub(super) struct Format {
    pieces: Vec<Piece>,
    json: bool,
    null: &'static [u8],
}

impl Format {
    /// The format that these flags ask for.
    ///
    /// # Errors
    ///
    /// What is wrong with a format of `-f`.
    pub(super) fn new(
        format: Option<&[u8]>,
        delimiter: &[u8],
        key_delimiter: Option<&[u8]>,
        json: bool,
        null: bool,
    ) -> Result<Self, String> {
        let pieces = match (format, json) {
            (Some(format), _) => parse(format)?,
            (None, true) => parse(delimiter)?,
            (None, false) => {
                let mut made = Vec::new();
                if let Some(key_delimiter) = key_delimiter {
                    made.extend_from_slice(b"%k");
                    made.extend_from_slice(key_delimiter);
                }
                made.extend_from_slice(b"%s");
                made.extend_from_slice(delimiter);
                made.truncate(MADE_MAX);
                parse(&made)?
            }
        };
        Ok(Self { pieces, json, null: if null { NULL } else { b"" } })
    }

    /// Appends a record to `out`.
    pub(super) fn print(&self, printed: &Printed<'_>, out: &mut Vec<u8>) {
        if self.json {
            json::record(printed, out);
            // Only a literal at the very front of a format counts as the delimiter.
            if let Some(Piece::Text(text)) = self.pieces.first() {
                out.extend_from_slice(text);
            }
            return;
        }
        let record = &printed.record;
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Offset => number(out, record.offset.0),
                Piece::Key => out.extend_from_slice(filled(record.key).unwrap_or(self.null)),
                Piece::KeyLen => number(out, length(record.key)),
                Piece::Value => out.extend_from_slice(filled(record.value).unwrap_or(self.null)),
                Piece::ValueLen => number(out, length(record.value)),
                Piece::ValueLenBinary => out.extend_from_slice(&length(record.value).to_be_bytes()[4..]),
                Piece::Topic => out.extend_from_slice(printed.topic.as_bytes()),
                Piece::Partition => number(out, printed.partition.into()),
                Piece::Timestamp => number(out, record.timestamp),
                Piece::Headers => headers(record, out),
            }
        }
    }
}

fn parse(format: &[u8]) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = format;
    while !rest.is_empty() {
        let percent = rest.iter().position(|&byte| byte == b'%');
        let (text, after) = rest.split_at(percent.unwrap_or(rest.len()));
        if !text.is_empty() {
            pieces.push(Piece::Text(checked(escape::literal(text))?));
        }
        rest = after;
        if let Some(after) = rest.strip_prefix(b"%") {
            let Some((&token, after)) = after.split_first() else {
                return Err("the format ends in a lone %".to_owned());
            };
            pieces.push(match token {
                b'o' => Piece::Offset,
                b'k' => Piece::Key,
                b'K' => Piece::KeyLen,
                b's' => Piece::Value,
                b'S' => Piece::ValueLen,
                b'R' => Piece::ValueLenBinary,
                b't' => Piece::Topic,
                b'p' => Piece::Partition,
                b'T' => Piece::Timestamp,
                b'h' => Piece::Headers,
                b'%' => Piece::Text(b"%".to_vec()),
                other => return Err(format!("the format has no token %{}", char::from(other))),
            });
            rest = after;
        }
    }
    Ok(pieces)
}

/// kcat gives up at the first record if a literal is empty.
fn checked(text: Vec<u8>) -> Result<Vec<u8>, String> {
    if text.is_empty() {
        Err("a literal of the format begins with a NUL, which ends it".to_owned())
    } else {
        Ok(text)
    }
}

fn filled(bytes: Option<&[u8]>) -> Option<&[u8]> {
    bytes.filter(|bytes| !bytes.is_empty())
}

fn length(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX))
}

fn number(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(number.to_string().as_bytes());
}

/// `a=1,b=2`; names and values end at a NUL, null is `NULL`.
fn headers(record: &RecordRef<'_>, out: &mut Vec<u8>) {
    for (index, header) in record.headers.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(c_string(header.key));
        out.push(b'=');
        out.extend_from_slice(header.value.map_or(NULL, c_string));
    }
}

/// What C takes for a string in `bytes`.
pub(super) fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use crate::consumer::HeadersRef;

    use super::*;
    use crate::types::Offset;

    pub(in crate::cli::cat) fn printed<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Printed<'a> {
        let headers = HeadersRef::default();
        let record = RecordRef { offset: Offset(7), timestamp: 1_795_252_649_911, key, value, headers };
        let timestamp_type = TimestampType::CreateTime;
        Printed { topic: "t1", partition: 3, broker: 1, timestamp_type, record }
    }

    fn print(format: &Format, key: Option<&[u8]>, value: Option<&[u8]>) -> String {
        let mut out = Vec::new();
        format.print(&printed(key, value), &mut out);
        String::from_utf8(out).expect("text")
    }

    fn format(format: &[u8], null: bool) -> Format {
        Format::new(Some(format), b"\n", None, false, null).expect("a good format")
    }

    /// Recorded from kcat 1.7.1.
    #[test]
    fn tokens() {
        let all = format(br"%o|%k|%K|%s|%S|%h|%T|%t|%p|%%\n", false);
        assert_eq!(print(&all, Some(b"a"), Some(b"1")), "7|a|1|1|1||1795252649911|t1|3|%\n");
        assert_eq!(print(&all, Some(b""), Some(b"")), "7||0||0||1795252649911|t1|3|%\n");
        assert_eq!(print(&all, None, None), "7||-1||-1||1795252649911|t1|3|%\n");
        let null = format(b"%k %s", true);
        assert_eq!(print(&null, Some(b""), None), "NULL NULL");
        assert_eq!(print(&format(b"%R", false), None, Some(b"12345678901234")), "\0\0\0\u{e}");
    }

    #[test]
    fn delimiters_make_formats() {
        let made = |delimiter: &[u8], key: Option<&[u8]>| {
            Format::new(None, delimiter, key, false, false).expect("a good format")
        };
        assert_eq!(print(&made(b"\n--\n", Some(b" => ")), None, Some(b"v")), " => v\n--\n");
        assert_eq!(print(&made(b"", None), Some(b"k"), Some(b"v")), "v");
        // A token in a delimiter is a token.
        assert_eq!(print(&made(b"\n", Some(b"%o")), Some(b"k"), Some(b"v")), "k7v\n");
        assert_eq!(print(&made(&b"x".repeat(80), None), None, None), "x".repeat(61));
    }

    #[test]
    fn bad_formats_are_refused() {
        for bad in [&b"%"[..], b"%s%", b"%y", br"\0"] {
            assert!(Format::new(Some(bad), b"\n", None, false, false).is_err());
        }
    }
}
