//! Frames: a length, a header, a body. Writing them whole or head first, reading their headers, and splitting a
//! stream of bytes into them.

mod header;
mod split;

#[cfg(any(test, feature = "both-directions"))]
pub use header::{RequestHead, decode_request_header, encode_response, response_header};
pub use header::{decode_body, decode_response_header, encode_request, request_header};
#[cfg(any(feature = "broker", feature = "client"))]
pub(crate) use split::LARGE_BYTES;
pub use split::{FRAME_BYTES_MAX, FrameError, FrameReader};
