//! Frames, messages and record batches as people read them: as text, and as JSON in the form of Kafka's own
//! converters.
//!
//! ```
//! use bytes::Bytes;
//! use carafe::wire::frame::encode_request;
//! use carafe::wire::messages::{MetadataRequest, metadata::MetadataRequestTopic};
//! use carafe::wire::readable::{Detail, Frame};
//!
//! let topic = MetadataRequestTopic { name: Some("orders".into()), ..Default::default() };
//! let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
//! let bytes: Bytes = encode_request(&request, 1, 7, Some("me"))?.freeze();
//!
//! let frame = Frame::request(bytes.slice(4..))?;
//! assert_eq!(
//!     frame.json(Detail::Kafka).to_string(),
//!     r#"{"requestHeader":{"requestApiKey":3,"requestApiVersion":1,"correlationId":7,"clientId":"me"},"request":{"topics":[{"name":"orders"}]}}"#
//! );
//! assert_eq!(
//!     frame.text(Detail::Full).to_string(),
//!     r#"requestHeader:
//!   requestApiKey: 3
//!   requestApiKeyName: "METADATA"
//!   requestApiVersion: 1
//!   correlationId: 7
//!   clientId: "me"
//! request:
//!   topics:
//!     - name: "orders""#
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Messages are read by their [`schema`], not by the types of [`messages`](super::messages): all of them, in all their
//! versions and in both directions, whatever features are on. They are checked as a whole when they are taken, with the
//! bounds of every decoder here, and printed without being held in memory once more. Paths in errors have Kafka's names.
//!
//! Secrets print as `[hidden]`: SASL tokens, SCRAM salts and passwords, the HMAC of delegation tokens, and values of
//! settings that are named like a password, a key or a certificate.

mod batch;
pub mod schema;
mod sink;
mod walk;

use std::fmt;

use bytes::Bytes;

use super::error::{Fault, Step};
use super::{ApiKey, DecodeError, DecodeErrorKind, Reader};

pub use batch::{Batch, INFLATED_BYTES_MAX};
use schema::Schema;
use sink::{Bracket, Json, Nobody, Sink, Text, Value};
use walk::Walk;

/// How much is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// What Kafka's converters write: of records the size alone, other bytes as they are, no tagged fields that Kafka
    /// does not know. (Kafka also leaves out a known tagged field that holds its default, which nobody sends.)
    Kafka,
    /// Also what lies inside of byte fields (record batches with their records, subscriptions and assignments of the
    /// consumer protocol), unknown tagged fields, bytes behind a request, and the name of the API in its header.
    #[default]
    Full,
}

/// A message in its bytes, known to be one.
#[derive(Clone, Debug)]
pub struct Message {
    schema: &'static Schema,
    version: i16,
    bytes: Bytes,
}

impl Message {
    /// Checks that `bytes` are the message of `schema` in `version`, and nothing more.
    ///
    /// # Errors
    ///
    /// They are not: names message, version, field and offset.
    pub fn new(schema: &'static Schema, version: i16, bytes: Bytes) -> Result<Self, DecodeError> {
        Self::last(schema, version, &mut Reader::new(bytes))
    }

    /// The message at the cursor of `r`, which may go on behind it.
    fn read(schema: &'static Schema, version: i16, r: &mut Reader) -> Result<Self, DecodeError> {
        let bytes = r.rest();
        let result = if schema.versions.contains(version) {
            Walk::new(schema, version, Detail::Kafka, &mut Nobody).message(r)
        } else {
            Err(DecodeErrorKind::UnsupportedVersion.into())
        };
        match result {
            Ok(()) => Ok(Self { schema, version, bytes: bytes.slice(..bytes.len() - r.remaining()) }),
            Err(fault) => Err(DecodeError::new(schema.name, version, fault, r.offset())),
        }
    }

    /// The message that takes all that is left in `r`.
    fn last(schema: &'static Schema, version: i16, r: &mut Reader) -> Result<Self, DecodeError> {
        let message = Self::read(schema, version, r)?;
        r.finish().map_err(|kind| DecodeError::new(schema.name, version, kind, r.offset()))?;
        Ok(message)
    }

    /// A message with its version in front. What versions newer than the known ones add lies at the end.
    fn versioned(schema: &'static Schema, bytes: &Bytes) -> Option<(i16, Self)> {
        let mut r = Reader::new(bytes.clone());
        let version = r.i16().ok()?;
        if version > schema.versions.max {
            return Some((version, Self::read(schema, schema.versions.max, &mut r).ok()?));
        }
        Some((version, Self::last(schema, version, &mut r).ok()?))
    }

    /// What the message looks like.
    pub fn schema(&self) -> &'static Schema {
        self.schema
    }

    /// Its version.
    pub fn version(&self) -> i16 {
        self.version
    }

    /// One line of JSON.
    pub fn json(&self, detail: Detail) -> impl fmt::Display + '_ {
        fmt::from_fn(move |f| {
            let mut sink = Json::new(f);
            self.tell(detail, &mut sink);
            sink.result
        })
    }

    /// Lines of text, the last without a line break: a line per value, indented, bytes as quoted text where they are
    /// text and as hexadecimal digits where not, error codes with their names.
    pub fn text(&self, detail: Detail) -> impl fmt::Display + '_ {
        fmt::from_fn(move |f| {
            let mut sink = Text::new(f);
            self.tell(detail, &mut sink);
            sink.result
        })
    }

    fn tell(&self, detail: Detail, sink: &mut dyn Sink) {
        let mut r = Reader::new(self.bytes.clone());
        // It was read before, in the same way.
        let _ = Walk::new(self.schema, self.version, detail, sink).message(&mut r);
    }
}

/// A frame without the four bytes of its length: a header and the message behind it.
#[derive(Clone, Debug)]
pub struct Frame {
    header: Message,
    body: Message,
    /// Bytes behind a request, which Kafka ignores.
    trailing: Bytes,
    is_request: bool,
}

impl Frame {
    /// Checks that `frame` is a request: its header says of which API and version. Bytes behind it are no error: Kafka
    /// ignores them, and librdkafka sends some.
    ///
    /// # Errors
    ///
    /// It is none: names header or message, version, field and offset.
    pub fn request(frame: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(frame);
        let mut ahead = r.clone();
        let key = ApiKey(ahead.i16().unwrap_or(-1));
        let version = ahead.i16().unwrap_or(-1);
        let header_version = key.request_header_version(version);
        let header =
            Message::read(known(Schema::named("RequestHeader"), header_version)?, header_version, &mut r)?;
        let schema = known(Schema::request(key), header_version)?;
        let body = Message::read(schema, version, &mut r)?;
        Ok(Self { header, body, trailing: r.rest(), is_request: true })
    }

    /// Checks that `frame` is the response to a request of `key` and `version`.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub fn response(frame: Bytes, key: ApiKey, version: i16) -> Result<Self, DecodeError> {
        let mut r = Reader::new(frame);
        let header_version = key.response_header_version(version);
        let schema = known(Schema::response(key), header_version)?;
        let header =
            Message::read(known(Schema::named("ResponseHeader"), header_version)?, header_version, &mut r)?;
        let body = Message::last(schema, version, &mut r)?;
        Ok(Self { header, body, trailing: Bytes::new(), is_request: false })
    }

    /// The header.
    pub fn header(&self) -> &Message {
        &self.header
    }

    /// The message.
    pub fn body(&self) -> &Message {
        &self.body
    }

    /// One line of JSON, named as in Kafka's request log: `requestHeader` and `request`, or `responseHeader` and
    /// `response`.
    pub fn json(&self, detail: Detail) -> impl fmt::Display + '_ {
        fmt::from_fn(move |f| {
            let mut sink = Json::new(f);
            self.tell(detail, &mut sink);
            sink.result
        })
    }

    /// Lines of text, as [`Message::text`].
    pub fn text(&self, detail: Detail) -> impl fmt::Display + '_ {
        fmt::from_fn(move |f| {
            let mut sink = Text::new(f);
            self.tell(detail, &mut sink);
            sink.result
        })
    }

    fn tell(&self, detail: Detail, sink: &mut dyn Sink) {
        let (header, body) = match self.is_request {
            true => ("requestHeader", "request"),
            false => ("responseHeader", "response"),
        };
        sink.open(Bracket::Struct);
        sink.name(header);
        self.header.tell(detail, sink);
        sink.name(body);
        self.body.tell(detail, sink);
        if detail == Detail::Full && !self.trailing.is_empty() {
            sink.name("trailing");
            sink.value(Value::Bytes(&self.trailing));
        }
        sink.close(Bracket::Struct);
    }
}

/// The schema, or the error that a header names an API without one.
fn known(schema: Option<&'static Schema>, header_version: i16) -> Result<&'static Schema, DecodeError> {
    schema.ok_or_else(|| {
        let fault = Fault::new(DecodeErrorKind::Invalid("no broker offers an API of this number to clients"));
        DecodeError::new("RequestHeader", header_version, fault.within(Step::Field("requestApiKey")), 0)
    })
}
