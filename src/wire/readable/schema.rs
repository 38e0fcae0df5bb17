//! What messages look like, as data: every message of [`messages`](crate::wire::messages) in all its stable versions.
//! Generated from Kafka's definitions, beside the code that reads and writes messages and without it.

use crate::wire::messages::schemas::SCHEMAS;
use crate::wire::{ApiKey, VersionRange};

/// A request, a response, a header, or a type of the consumer protocol.
#[derive(Debug)]
pub struct Schema {
    /// Kafka's name, such as `MetadataResponse`.
    pub name: &'static str,
    /// The stable versions.
    pub versions: VersionRange,
    /// First version with compact lengths and tagged fields; `i16::MAX` without one.
    pub flexible: i16,
    /// The fields in the order in which they lie on the wire, tagged ones wherever Kafka defines them.
    pub fields: &'static [Field],
}

/// A field of a message or of a structure in one.
#[derive(Debug)]
pub struct Field {
    /// Kafka's name, as in its JSON: `topicId`.
    pub name: &'static str,
    /// The type; of one element if the field is an array.
    pub kind: Kind,
    /// True for an array.
    pub array: bool,
    /// The versions that have the field, of those that have what it is part of.
    pub versions: VersionRange,
    /// The versions in which it may be null, of those that have it.
    pub nullable: Option<VersionRange>,
    /// Its tag, if it is a tagged field.
    pub tag: Option<u32>,
    /// True if its length is never compact.
    pub classic: bool,
}

/// A type.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Uint32,
    Int64,
    Float64,
    Uuid,
    Str,
    Bytes,
    /// Bytes that are record batches.
    Records,
    Struct(&'static [Field]),
}

impl Schema {
    /// The message of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SCHEMAS.iter().find(|schema| schema.name == name)
    }

    /// The request of an API.
    pub fn request(key: ApiKey) -> Option<&'static Self> {
        Self::of(key, "Request")
    }

    /// The response of an API.
    pub fn response(key: ApiKey) -> Option<&'static Self> {
        Self::of(key, "Response")
    }

    fn of(key: ApiKey, direction: &str) -> Option<&'static Self> {
        let name = key.name()?;
        SCHEMAS.iter().find(|schema| schema.name.strip_suffix(direction) == Some(name))
    }

    /// All messages: in the order of API keys, requests before responses, then headers and the consumer protocol.
    pub fn all() -> &'static [Self] {
        SCHEMAS
    }

    /// True if `version` uses compact lengths and tagged fields.
    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible
    }
}

impl Field {
    /// True if the field may be null in `version`.
    pub fn is_nullable(&self, version: i16) -> bool {
        self.nullable.is_some_and(|versions| versions.contains(version))
    }
}

/// A field that is there in all versions, and never null.
pub(crate) const fn field(name: &'static str, kind: Kind) -> Field {
    let versions = VersionRange::new(0, i16::MAX);
    Field { name, kind, array: false, versions, nullable: None, tag: None, classic: false }
}

impl Field {
    pub(crate) const fn array(mut self) -> Self {
        self.array = true;
        self
    }

    pub(crate) const fn only(mut self, versions: VersionRange) -> Self {
        self.versions = versions;
        self
    }

    pub(crate) const fn nullable(mut self, versions: VersionRange) -> Self {
        self.nullable = Some(versions);
        self
    }

    pub(crate) const fn tag(mut self, tag: u32) -> Self {
        self.tag = Some(tag);
        self
    }

    pub(crate) const fn classic(mut self) -> Self {
        self.classic = true;
        self
    }
}
