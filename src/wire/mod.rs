//! Kafka's wire format: frames, headers, messages and record batches. No I/O, no clock.
//!
//! Decoding borrows from [`bytes::Bytes`], never panics, and never reserves more than the bytes that are there can
//! fill. What it refuses it names: API, version, path of the field, offset in the frame.
//!
//! Clients encode requests and decode responses. What is on the other side, a broker, a proxy or a tool, does the reverse too,
//! and asks for the feature `both-directions`:
//!
//! ```
//! # #[cfg(feature = "both-directions")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use carafe::wire::messages::HeartbeatRequest;
//! use carafe::wire::{Decode, Encode, Reader};
//!
//! let request = HeartbeatRequest { group_id: "readers".into(), ..Default::default() };
//! let mut frame = bytes::BytesMut::new();
//! request.encode(&mut frame, 4)?;
//! assert_eq!(HeartbeatRequest::decode(&mut Reader::new(frame.freeze()), 4)?, request);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "both-directions"))]
//! # fn main() {}
//! ```

mod api_key;
mod array;
mod codec;
mod common;
pub mod compression;
mod error;
pub mod fetch;
pub mod frame;
pub mod messages;
pub mod produce;
#[cfg(feature = "readable")]
pub mod readable;
mod reader;
pub mod records;
mod releases;
mod segments;
#[cfg(test)]
mod tests;
pub mod varint;
mod versioned;

pub use crate::types::Uuid;
pub use api_key::ApiKey;
pub use array::{Array, ArrayIter, Element};
pub use codec::{Decode, Encode, Message, Request, VersionRange};
pub use error::{DecodeError, DecodeErrorKind, EncodeError, EncodeErrorKind};
pub use reader::{ARRAY_LEN_MAX, Reader};
pub use releases::RELEASES;
pub use versioned::{decode_versioned, encode_versioned};

/// Text that was checked once and shares the buffer it came in.
pub type Str = bytestring::ByteString;
