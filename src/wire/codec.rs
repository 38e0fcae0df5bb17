//! The traits of messages, and the helpers that the generated code calls to write them.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::error::{At, Fault, Step};
use super::varint::put_uvarint;
use super::{
    ApiKey, Array, DecodeError, DecodeErrorKind, Element, EncodeError, EncodeErrorKind, Reader, Str,
};

/// Versions of a message, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VersionRange {
    /// Lowest version.
    pub min: i16,
    /// Highest version.
    pub max: i16,
}

impl VersionRange {
    /// The range from `min` to `max`, both included.
    pub const fn new(min: i16, max: i16) -> Self {
        Self { min, max }
    }

    /// True if `version` lies in the range.
    pub const fn contains(self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }

    /// The versions in both ranges, `None` without one.
    pub fn intersect(self, other: Self) -> Option<Self> {
        let both = Self { min: self.min.max(other.min), max: self.max.min(other.max) };
        (both.min <= both.max).then_some(both)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{}-{}", self.min, self.max) }
    }
}

/// A message of the protocol.
pub trait Message: Sized {
    /// Kafka's name, such as `MetadataRequest`.
    const NAME: &'static str;

    /// The stable versions of it that this crate speaks.
    const VERSIONS: VersionRange;
}

/// A message that can be received.
#[expect(private_bounds, reason = "only generated messages can be decoded")]
pub trait Decode: Message + Read {
    /// Reads the message, which may share the reader's buffer. Bytes after it are left in the reader.
    ///
    /// Fails if `version` is not one of [`VERSIONS`](Message::VERSIONS) or the bytes are not such a message.
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let result = if Self::VERSIONS.contains(version) {
            Self::read(r, version)
        } else {
            Err(Fault::new(DecodeErrorKind::UnsupportedVersion))
        };
        result.map_err(|fault| DecodeError::new(Self::NAME, version, fault, r.offset()))
    }
}

impl<T: Message + Read> Decode for T {}

/// A message that can be sent.
#[expect(private_bounds, reason = "only generated messages can be encoded")]
pub trait Encode: Message + Write {
    /// Appends the message. After an error `w` holds a part of it.
    ///
    /// Fails if `version` is not one of [`VERSIONS`](Message::VERSIONS), if a field that the version lacks and that
    /// may not be left out is set, or if something is too long for its length prefix.
    fn encode(&self, w: &mut BytesMut, version: i16) -> Result<(), EncodeError> {
        let result = if Self::VERSIONS.contains(version) {
            self.write(w, version)
        } else {
            Err(Fault::new(EncodeErrorKind::UnsupportedVersion))
        };
        result.map_err(|fault| EncodeError::new(Self::NAME, version, fault))
    }
}

impl<T: Message + Write> Encode for T {}

/// A request, and the type of its response.
pub trait Request: Encode {
    /// The API that it belongs to.
    const KEY: ApiKey;

    /// What the broker answers, in the request's version.
    type Response: Decode;
}

/// A structure that can be read.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be decoded in this build of carafe",
    note = "clients decode responses alone: requests decode and responses encode with the feature `both-directions`"
)]
pub(crate) trait Read: Sized {
    /// Fewest bytes in any version.
    const LEN_MIN: usize;

    fn read(r: &mut Reader, version: i16) -> Result<Self, Fault<DecodeErrorKind>>;
}

/// A structure that can be written.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be encoded in this build of carafe",
    note = "clients encode requests alone: requests decode and responses encode with the feature `both-directions`"
)]
pub(crate) trait Write {
    fn write(&self, w: &mut BytesMut, version: i16) -> Result<(), Fault<EncodeErrorKind>>;
}

type Put = Result<(), EncodeErrorKind>;

fn put_len16(w: &mut BytesMut, len: usize) -> Put {
    match i16::try_from(len) {
        Ok(len) => w.put_i16(len),
        Err(_) => return Err(EncodeErrorKind::TooLong { len, limit: i16::MAX as usize }),
    }
    Ok(())
}

fn put_len(w: &mut BytesMut, len: usize, compact: bool) -> Put {
    match i32::try_from(len) {
        Ok(len) if compact => put_uvarint(w, len as u32 + 1),
        Ok(len) => w.put_i32(len),
        Err(_) => return Err(EncodeErrorKind::TooLong { len, limit: i32::MAX as usize }),
    }
    Ok(())
}

fn put_null(w: &mut BytesMut, compact: bool) {
    if compact { w.put_u8(0) } else { w.put_i32(-1) }
}

/// `value`, or an error unless it is null and `nullable`.
pub(crate) fn nullable<T>(value: &Option<T>, nullable: bool) -> Result<Option<&T>, EncodeErrorKind> {
    if value.is_none() && !nullable { Err(EncodeErrorKind::UnexpectedNull) } else { Ok(value.as_ref()) }
}

/// An error unless a field that the version lacks holds its default.
pub(crate) fn absent(is_default: bool) -> Put {
    if is_default { Ok(()) } else { Err(EncodeErrorKind::NotInVersion) }
}

pub(crate) fn put_str(w: &mut BytesMut, value: &Str, compact: bool) -> Put {
    if compact {
        put_len(w, value.len(), true)?
    } else {
        put_len16(w, value.len())?
    }
    w.put_slice(value.as_bytes());
    Ok(())
}

pub(crate) fn put_nullable_str(w: &mut BytesMut, value: Option<&Str>, compact: bool) -> Put {
    match value {
        Some(value) => return put_str(w, value, compact),
        None if compact => w.put_u8(0),
        None => w.put_i16(-1),
    }
    Ok(())
}

pub(crate) fn put_bytes(w: &mut BytesMut, value: &Bytes, compact: bool) -> Put {
    put_len(w, value.len(), compact)?;
    w.put_slice(value);
    Ok(())
}

pub(crate) fn put_nullable_bytes(w: &mut BytesMut, value: Option<&Bytes>, compact: bool) -> Put {
    match value {
        Some(value) => put_bytes(w, value, compact)?,
        None => put_null(w, compact),
    }
    Ok(())
}

pub(crate) fn put_array<T: Element>(w: &mut BytesMut, value: &Array<T>, compact: bool) -> Put {
    put_len(w, value.len(), compact)?;
    w.put_slice(value.wire());
    Ok(())
}

pub(crate) fn put_nullable_array<T: Element>(
    w: &mut BytesMut,
    value: Option<&Array<T>>,
    compact: bool,
) -> Put {
    match value {
        Some(value) => put_array(w, value, compact)?,
        None => put_null(w, compact),
    }
    Ok(())
}

type PutNested = Result<(), Fault<EncodeErrorKind>>;

fn put_vec<T, E: Into<Fault<EncodeErrorKind>>>(
    w: &mut BytesMut,
    values: &[T],
    compact: bool,
    mut put: impl FnMut(&mut BytesMut, &T) -> Result<(), E>,
) -> PutNested {
    put_len(w, values.len(), compact)?;
    for (index, value) in values.iter().enumerate() {
        put(w, value).map_err(|error| error.into().within(Step::Index(index)))?;
    }
    Ok(())
}

pub(crate) fn put_strs(w: &mut BytesMut, values: &[Str], compact: bool) -> PutNested {
    put_vec(w, values, compact, |w, value| put_str(w, value, compact))
}

pub(crate) fn put_nullable_strs(w: &mut BytesMut, values: Option<&Vec<Str>>, compact: bool) -> PutNested {
    match values {
        Some(values) => put_strs(w, values, compact)?,
        None => put_null(w, compact),
    }
    Ok(())
}

pub(crate) fn put_structs<T: Write>(
    w: &mut BytesMut,
    values: &[T],
    compact: bool,
    version: i16,
) -> PutNested {
    put_vec(w, values, compact, |w, value| value.write(w, version))
}

pub(crate) fn put_nullable_structs<T: Write>(
    w: &mut BytesMut,
    values: Option<&Vec<T>>,
    compact: bool,
    version: i16,
) -> PutNested {
    match values {
        Some(values) => put_structs(w, values, compact, version)?,
        None => put_null(w, compact),
    }
    Ok(())
}

pub(crate) fn put_nullable_struct<T: Write>(w: &mut BytesMut, value: Option<&T>, version: i16) -> PutNested {
    match value {
        Some(value) => {
            w.put_i8(1);
            value.write(w, version)
        }
        None => {
            w.put_i8(-1);
            Ok(())
        }
    }
}

/// The tagged fields of a structure, collected so that their number comes first. Tags must be added ascending.
#[derive(Default)]
pub(crate) struct Tags {
    count: u32,
    fields: BytesMut,
}

impl Tags {
    pub(crate) fn field(
        &mut self,
        tag: u32,
        name: &'static str,
        put: impl FnOnce(&mut BytesMut) -> PutNested,
    ) -> PutNested {
        let mut field = BytesMut::new();
        put(&mut field).at(name)?;
        self.count += 1;
        put_uvarint(&mut self.fields, tag);
        put_uvarint(&mut self.fields, field.len() as u32);
        self.fields.put_slice(&field);
        Ok(())
    }

    pub(crate) fn finish(self, w: &mut BytesMut) {
        put_uvarint(w, self.count);
        w.put_slice(&self.fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::messages::{
        ConsumerProtocolSubscription, FindCoordinatorRequest, JoinGroupRequest, MetadataRequest, metadata,
    };

    fn refused(message: &impl Encode, version: i16) -> String {
        message.encode(&mut BytesMut::new(), version).unwrap_err().to_string()
    }

    #[test]
    fn a_version_that_cannot_carry_a_field_is_refused() {
        let request = JoinGroupRequest { group_instance_id: Some("one".into()), ..Default::default() };
        assert_eq!(
            refused(&request, 4),
            "JoinGroupRequest version 4, group_instance_id: this version cannot carry the field"
        );
        assert!(request.encode(&mut BytesMut::new(), 5).is_ok());
        // The protocol lets this one be left out.
        let request = JoinGroupRequest { reason: Some("why".into()), ..Default::default() };
        assert!(request.encode(&mut BytesMut::new(), 7).is_ok());
        let topic = metadata::MetadataRequestTopic { name: None, ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
        assert_eq!(
            refused(&request, 9),
            "MetadataRequest version 9, topics[0].name: null is not allowed in this version"
        );
    }

    #[test]
    fn what_does_not_fit_its_prefix_is_refused() {
        let request = FindCoordinatorRequest { key: "k".repeat(32_768).into(), ..Default::default() };
        assert_eq!(
            refused(&request, 2),
            "FindCoordinatorRequest version 2, key: length 32768 is above 32767"
        );
        assert!(request.encode(&mut BytesMut::new(), 3).is_ok(), "compact lengths go further");
    }

    #[test]
    fn versions_out_of_range_are_refused() {
        assert_eq!(
            refused(&MetadataRequest::default(), 14),
            "MetadataRequest version 14: version is not supported"
        );
        assert_eq!(
            refused(&ConsumerProtocolSubscription::default(), -1),
            "ConsumerProtocolSubscription version -1: version is not supported"
        );
    }

    #[test]
    fn ranges_of_versions() {
        let range = VersionRange::new(2, 5);
        assert!(range.contains(2) && range.contains(5) && !range.contains(6));
        assert_eq!(range.intersect(VersionRange::new(4, 9)), Some(VersionRange::new(4, 5)));
        assert_eq!(range.intersect(VersionRange::new(6, 9)), None);
        assert_eq!((range.to_string(), VersionRange::new(3, 3).to_string()), ("2-5".into(), "3".into()));
    }
}
