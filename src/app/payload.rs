//! How the bytes of a record become a value.
//!
//! A consumer names its format in [`Consumer::Payload`](super::Consumer::Payload). Decoding happens when
//! [`Message::payload`](super::Message::payload) is called, on each call, and its error is an error of the handler like
//! any other: retried, then dead-lettered.

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::{Error, ErrorKind, Result};

/// A format of record values.
pub trait Payload: Send + Sync + 'static {
    /// What a value decodes to; it may borrow from the record.
    type Value<'a>;

    /// Decodes a value. `None` is a tombstone (null value).
    ///
    /// # Errors
    /// Any error; [`ErrorKind::Payload`] says that the bytes are not of this format.
    fn decode(value: Option<&[u8]>) -> Result<Self::Value<'_>>;
}

/// The bytes as they are; `None` for a tombstone.
#[derive(Debug)]
pub struct Raw;

impl Payload for Raw {
    type Value<'a> = Option<&'a [u8]>;

    fn decode(value: Option<&[u8]>) -> Result<Option<&[u8]>> {
        Ok(value)
    }
}

/// UTF-8 text. A tombstone is an error.
#[derive(Debug)]
pub struct Text;

impl Payload for Text {
    type Value<'a> = &'a str;

    fn decode(value: Option<&[u8]>) -> Result<&str> {
        let value = value.ok_or_else(|| tombstone("text"))?;
        std::str::from_utf8(value)
            .map_err(|error| Error::new(ErrorKind::Payload, "the value is not UTF-8 text").with_source(error))
    }
}

/// JSON, decoded by serde into `T`. A tombstone is an error; `Json<Option<T>>` accepts it as `None`.
pub struct Json<T>(PhantomData<fn() -> T>);

impl<T> fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Json")
    }
}

impl<T: DeserializeOwned + 'static> Payload for Json<T> {
    type Value<'a> = T;

    fn decode(value: Option<&[u8]>) -> Result<T> {
        let value = value.unwrap_or(b"null");
        serde_json::from_slice(value).map_err(|error| {
            let expected = std::any::type_name::<T>();
            Error::new(ErrorKind::Payload, format!("the value is not JSON of {expected}")).with_source(error)
        })
    }
}

fn tombstone(format: &str) -> Error {
    Error::new(ErrorKind::Payload, format!("a tombstone (null value) has no {format}"))
        .with_advice("consume the topic as `Raw`, or filter tombstones")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_decode_or_say_why_not() {
        assert_eq!(Raw::decode(None).unwrap(), None);
        assert_eq!(Text::decode(Some(b"kawa")).unwrap(), "kawa");
        assert_eq!(Text::decode(Some(b"\xff")).unwrap_err().kind(), ErrorKind::Payload);
        assert_eq!(Text::decode(None).unwrap_err().kind(), ErrorKind::Payload);
        assert_eq!(Json::<Vec<u8>>::decode(Some(b"[1,2]")).unwrap(), [1, 2]);
        assert_eq!(Json::<Vec<u8>>::decode(Some(b"[1,")).unwrap_err().kind(), ErrorKind::Payload);
        assert_eq!(Json::<Vec<u8>>::decode(None).unwrap_err().kind(), ErrorKind::Payload);
        assert_eq!(Json::<Option<u8>>::decode(None).unwrap(), None);
    }
}
