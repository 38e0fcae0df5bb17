//! JSON as kcat writes it: compact, bytes of strings as they are, only what must be escaped.

use super::format::{Printed, c_string};
use super::list::{controller, error_text, originator};
use crate::admin::MetadataListing;
use crate::consumer::TimestampType;

/// Writes one JSON text; commas come by themselves.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    comma: bool,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, comma: false }
    }

    fn separate(&mut self) {
        if self.comma {
            self.out.push(b',');
        }
        self.comma = true;
    }

    fn string(&mut self, bytes: &[u8]) {
        self.separate();
        quote(bytes, self.out);
    }

    fn maybe_string(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.string(bytes),
            None => {
                self.separate();
                self.out.extend_from_slice(b"null");
            }
        }
    }

    fn number(&mut self, number: i64) {
        self.separate();
        self.out.extend_from_slice(number.to_string().as_bytes());
    }

    fn key(&mut self, name: &str) -> &mut Self {
        self.string(name.as_bytes());
        self.out.push(b':');
        self.comma = false;
        self
    }

    fn open(&mut self, bracket: u8) {
        self.separate();
        self.out.push(bracket);
        self.comma = false;
    }

    fn close(&mut self, bracket: u8) {
        self.out.push(bracket);
        self.comma = true;
    }

    fn object(&mut self, fill: impl FnOnce(&mut Self)) {
        self.open(b'{');
        fill(self);
        self.close(b'}');
    }

    fn array<T>(&mut self, items: impl IntoIterator<Item = T>, mut fill: impl FnMut(&mut Self, T)) {
        self.open(b'[');
        for item in items {
            fill(self, item);
        }
        self.close(b']');
    }
}

fn quote(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push(b'"');
    for &byte in bytes {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            0..0x20 => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// The envelope of `-J`.
pub(super) fn record(printed: &Printed<'_>, out: &mut Vec<u8>) {
    let record = &printed.record;
    Writer::new(out).object(|json| {
        json.key("topic").string(printed.topic.as_bytes());
        json.key("partition").number(printed.partition.into());
        json.key("offset").number(record.offset.0);
        json.key("tstype").string(match printed.timestamp_type {
            TimestampType::CreateTime => b"create",
            TimestampType::LogAppendTime => b"logappend",
        });
        json.key("ts").number(record.timestamp);
        json.key("broker").number(printed.broker.into());
        if !record.headers.is_empty() {
            json.key("headers").array(record.headers.iter(), |json, header| {
                json.string(c_string(header.key));
                json.maybe_string(header.value);
            });
        }
        json.key("key").maybe_string(record.key);
        json.key("payload").maybe_string(record.value);
    });
}

/// The listing of `-L -J`.
pub(super) fn listing(listing: &MetadataListing, topic: Option<&str>, out: &mut Vec<u8>) {
    let id = |json: &mut Writer<'_>, id: i32| json.object(|json| json.key("id").number(id.into()));
    Writer::new(out).object(|json| {
        let (from, name) = originator(listing);
        json.key("originating_broker").object(|json| {
            json.key("id").number(from.into());
            json.key("name").string(name.as_bytes());
        });
        json.key("query").object(|json| json.key("topic").string(topic.unwrap_or("*").as_bytes()));
        json.key("controllerid").number(controller(listing).into());
        json.key("brokers").array(&listing.nodes, |json, node| {
            json.object(|json| {
                json.key("id").number(node.id.0.into());
                json.key("name").string(format!("{}:{}", node.host, node.port).as_bytes());
            });
        });
        json.key("topics").array(&listing.topics, |json, topic| {
            json.object(|json| {
                json.key("topic").string(topic.name.as_bytes());
                if !topic.error.is_ok() {
                    json.key("error").string(error_text(topic.error).as_bytes());
                }
                json.key("partitions").array(&topic.partitions, |json, partition| {
                    json.object(|json| {
                        json.key("partition").number(partition.partition.0.into());
                        if !partition.error.is_ok() {
                            json.key("error").string(error_text(partition.error).as_bytes());
                        }
                        json.key("leader").number(partition.leader.map_or(-1, |leader| leader.0).into());
                        json.key("replicas").array(&partition.replicas, |json, node| id(json, node.0));
                        json.key("isrs").array(&partition.in_sync, |json, node| id(json, node.0));
                    });
                });
            });
        });
    });
}

/// An offset that `-Q` found.
pub(super) struct Found<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) error: Option<String>,
}

/// The answers of `-Q -J`; those of one topic stand together.
pub(super) fn offsets(found: &[Found<'_>], out: &mut Vec<u8>) {
    Writer::new(out).object(|json| {
        for same in found.chunk_by(|a, b| a.topic == b.topic) {
            let Some(first) = same.first() else { continue };
            json.key(first.topic).object(|json| {
                json.key("topic").string(first.topic.as_bytes());
                for found in same {
                    json.key(&found.partition.to_string()).object(|json| {
                        json.key("partition").number(found.partition.into());
                        json.key("offset").number(found.offset);
                        if let Some(error) = &found.error {
                            json.key("error").string(error.as_bytes());
                        }
                    });
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::cat::format::tests::printed;

    /// Recorded from kcat 1.7.1.
    #[test]
    fn envelopes() {
        let mut out = Vec::new();
        record(&printed(None, Some(b"x\0y\"\\/\t\x08\x7f\xc3\xa9\xff\x01\x1f")), &mut out);
        let expected = b"{\"topic\":\"t1\",\"partition\":3,\"offset\":7,\"tstype\":\"create\",\"ts\":1795252649911,\
            \"broker\":1,\"key\":null,\"payload\":\"x\\u0000y\\\"\\\\/\\t\\b\x7f\xc3\xa9\xff\\u0001\\u001F\"}";
        assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    /// Recorded from kcat 1.7.1, but for the null payload.
    #[test]
    fn timestamps() {
        let mut of_broker = printed(None, None);
        of_broker.timestamp_type = TimestampType::LogAppendTime;
        let mut none = printed(None, None);
        none.record.timestamp = -1;
        for (printed, expected) in [
            (of_broker, r#""tstype":"logappend","ts":1795252649911,"#),
            (none, r#""tstype":"create","ts":-1,"#),
        ] {
            let mut out = Vec::new();
            record(&printed, &mut out);
            let out = String::from_utf8(out).unwrap_or_default();
            assert!(out.contains(expected), "{out}");
        }
    }

    #[test]
    fn found_offsets() {
        let mut out = Vec::new();
        let lost = Some("Local: Unknown partition".to_owned());
        let found = [
            Found { topic: "t1", partition: 0, offset: 5, error: None },
            Found { topic: "t1", partition: 1, offset: -2, error: lost },
        ];
        offsets(&found, &mut out);
        assert_eq!(
            String::from_utf8(out).as_deref(),
            Ok(
                r#"{"t1":{"topic":"t1","0":{"partition":0,"offset":5},"1":{"partition":1,"offset":-2,"error":"Local: Unknown partition"}}}"#
            )
        );
    }
}
