//! Headers in front of requests and responses.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::error::{At, Fault};
use crate::wire::{
    ApiKey, Decode, DecodeError, DecodeErrorKind, EncodeError, EncodeErrorKind, Reader, Request,
};
#[cfg(any(test, feature = "both-directions"))]
use crate::wire::{Encode, Str};

/// A whole request frame, the four bytes of its length included. The correlation id lies in bytes 8 to 11.
///
/// Fails as [`Encode::encode`] does, and if the frame is above 2 GiB.
pub fn encode_request<R: Request>(
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
) -> Result<BytesMut, EncodeError> {
    let mut w = request_header(R::KEY, version, correlation_id, client_id, 0);
    request.encode(&mut w, version)?;
    finish(w).map_err(|kind| EncodeError::new(R::NAME, version, kind))
}

/// Length prefix and header of a request whose body of `body_len` bytes follows as it is. The correlation id lies in
/// bytes 8 to 11. A client id above 32,767 bytes is cut. If the frame is above 2 GiB its length is -1, which every peer
/// refuses.
pub fn request_header(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    body_len: usize,
) -> BytesMut {
    let header = key.request_header_version(version);
    let mut w = BytesMut::with_capacity(128);
    w.put_i32(0);
    w.put_i16(key.0);
    w.put_i16(version);
    w.put_i32(correlation_id);
    if header >= 1 {
        match client_id.map(|id| &id[..id.floor_char_boundary(i16::MAX as usize)]) {
            Some(id) => {
                w.put_i16(id.len() as i16);
                w.put_slice(id.as_bytes());
            }
            None => w.put_i16(-1),
        }
    }
    if header >= 2 {
        w.put_u8(0);
    }
    set_len(&mut w, body_len);
    w
}

/// Reads the header of a response to `key` and `version`: the correlation id, and a reader at the start of the body.
/// `frame` begins after the length prefix.
pub fn decode_response_header(frame: Bytes, key: ApiKey, version: i16) -> Result<(i32, Reader), DecodeError> {
    let header = key.response_header_version(version);
    let mut r = Reader::new(frame);
    let correlation_id = read_response_header(&mut r, header)
        .map_err(|fault| DecodeError::new("ResponseHeader", header, fault, r.offset()))?;
    Ok((correlation_id, r))
}

fn read_response_header(r: &mut Reader, header: i16) -> Result<i32, Fault<DecodeErrorKind>> {
    let correlation_id = r.i32().at("correlation_id")?;
    if header >= 1 {
        r.skip_tagged()?;
    }
    Ok(correlation_id)
}

/// Reads a message that must take all that is left in `r`.
pub fn decode_body<T: Decode>(r: &mut Reader, version: i16) -> Result<T, DecodeError> {
    let message = T::decode(r, version)?;
    r.finish().map_err(|kind| DecodeError::new(T::NAME, version, kind, r.offset()))?;
    Ok(message)
}

/// The header of a request.
#[cfg(any(test, feature = "both-directions"))]
#[derive(Clone, Debug, PartialEq)]
pub struct RequestHead {
    /// Which API is asked.
    pub key: ApiKey,
    /// Version of request and response.
    pub version: i16,
    /// To be repeated in the response.
    pub correlation_id: i32,
    /// Name that the client gives itself.
    pub client_id: Option<Str>,
}

/// Reads the header of a request: its contents, and a reader at the start of the body. `frame` begins after the length
/// prefix. Versions are not checked; an ApiVersions request newer than known ones reads as far as the header.
#[cfg(any(test, feature = "both-directions"))]
pub fn decode_request_header(frame: Bytes) -> Result<(RequestHead, Reader), DecodeError> {
    let mut r = Reader::new(frame);
    let head = read_request_header(&mut r);
    let head =
        head.map_err(|(header, fault)| DecodeError::new("RequestHeader", header, fault, r.offset()))?;
    Ok((head, r))
}

#[cfg(any(test, feature = "both-directions"))]
fn read_request_header(r: &mut Reader) -> Result<RequestHead, (i16, Fault<DecodeErrorKind>)> {
    let key = ApiKey(r.i16().at("request_api_key").map_err(|fault| (1, fault))?);
    let version = r.i16().at("request_api_version").map_err(|fault| (1, fault))?;
    let header = key.request_header_version(version);
    let mut rest = || {
        let correlation_id = r.i32().at("correlation_id")?;
        let client_id = if header >= 1 { r.nullable_str(false).at("client_id")? } else { None };
        if header >= 2 {
            r.skip_tagged()?;
        }
        Ok(RequestHead { key, version, correlation_id, client_id })
    };
    rest().map_err(|fault| (header, fault))
}

/// A whole response frame, the four bytes of its length included.
///
/// Fails as [`Encode::encode`] does, and if the frame is above 2 GiB.
#[cfg(any(test, feature = "both-directions"))]
pub fn encode_response<T: Encode>(
    response: &T,
    key: ApiKey,
    version: i16,
    correlation_id: i32,
) -> Result<BytesMut, EncodeError> {
    let mut w = response_header(key, version, correlation_id, 0);
    response.encode(&mut w, version)?;
    finish(w).map_err(|kind| EncodeError::new(T::NAME, version, kind))
}

/// Length prefix and header of a response whose body of `body_len` bytes follows as it is. If the frame is above
/// 2 GiB its length is -1, which every peer refuses.
#[cfg(any(test, feature = "both-directions"))]
pub fn response_header(key: ApiKey, version: i16, correlation_id: i32, body_len: usize) -> BytesMut {
    let mut w = BytesMut::with_capacity(64);
    w.put_i32(0);
    w.put_i32(correlation_id);
    if key.response_header_version(version) >= 1 {
        w.put_u8(0);
    }
    set_len(&mut w, body_len);
    w
}

/// Writes the length of a frame whose head is `w`.
fn set_len(w: &mut BytesMut, body_len: usize) {
    let len = i32::try_from((w.len() - 4).saturating_add(body_len)).unwrap_or(-1);
    w[..4].copy_from_slice(&len.to_be_bytes());
}

fn finish(mut w: BytesMut) -> Result<BytesMut, EncodeErrorKind> {
    let len = w.len() - 4;
    if i32::try_from(len).is_err() {
        return Err(EncodeErrorKind::TooLong { len, limit: i32::MAX as usize });
    }
    set_len(&mut w, 0);
    Ok(w)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::messages::{ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, MetadataResponse};

    #[test]
    fn request_header_1() {
        let request = MetadataRequest { topics: None, ..Default::default() };
        let frame = encode_request(&request, 1, 7, Some("ab")).unwrap();
        assert_eq!(frame[..], [0, 0, 0, 16, 0, 3, 0, 1, 0, 0, 0, 7, 0, 2, b'a', b'b', 255, 255, 255, 255]);
        let (head, mut r) = decode_request_header(frame.freeze().slice(4..)).unwrap();
        assert_eq!(
            head,
            RequestHead {
                key: ApiKey::METADATA,
                version: 1,
                correlation_id: 7,
                client_id: Some("ab".into())
            }
        );
        assert_eq!(decode_body::<MetadataRequest>(&mut r, 1).unwrap(), request);
    }

    #[test]
    fn request_header_2_has_a_classic_client_id() {
        let request = ApiVersionsRequest {
            client_software_name: "c".into(),
            client_software_version: "1".into(),
            ..Default::default()
        };
        let frame = encode_request(&request, 3, -1, None).unwrap();
        let expected = [0, 0, 0, 16, 0, 18, 0, 3, 255, 255, 255, 255, 255, 255, 0, 2, b'c', 2, b'1', 0];
        assert_eq!(frame[..], expected);
        assert!(decode_request_header(frame.freeze().slice(4..)).is_ok());
    }

    #[test]
    fn controlled_shutdown_0_has_header_0() {
        let head = request_header(ApiKey::CONTROLLED_SHUTDOWN, 0, 5, Some("x"), 4);
        assert_eq!(head[..], [0, 0, 0, 12, 0, 7, 0, 0, 0, 0, 0, 5]);
        let (head, r) =
            decode_request_header(Bytes::from_static(&[0, 7, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1])).unwrap();
        assert_eq!((head.client_id, r.remaining()), (None, 4));
    }

    #[test]
    fn api_versions_answers_with_header_0() {
        let frame = encode_response(&ApiVersionsResponse::default(), ApiKey::API_VERSIONS, 3, 9).unwrap();
        assert_eq!(frame[..], [0, 0, 0, 12, 0, 0, 0, 9, 0, 0, 1, 0, 0, 0, 0, 0]);
        let frame = encode_response(&MetadataResponse::default(), ApiKey::METADATA, 12, 9)
            .unwrap()
            .freeze()
            .slice(4..);
        assert_eq!(frame[..5], [0, 0, 0, 9, 0]);
        let (correlation_id, mut r) = decode_response_header(frame, ApiKey::METADATA, 12).unwrap();
        assert_eq!(correlation_id, 9);
        assert!(decode_body::<MetadataResponse>(&mut r, 12).is_ok());
    }

    #[test]
    fn bytes_behind_a_body_are_refused() {
        let mut r = Reader::new(Bytes::from_static(&[255, 255, 255, 255, 1, 2]));
        let error = decode_body::<MetadataRequest>(&mut r, 1).unwrap_err();
        assert_eq!(error.to_string(), "MetadataRequest version 1, byte 4: 2 bytes too many");
    }

    #[test]
    fn a_header_that_ends_early_names_its_field() {
        let error = decode_response_header(Bytes::from_static(&[0, 0]), ApiKey::FETCH, 12).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ResponseHeader version 1, correlation_id, byte 0: needs 4 bytes, 2 are left"
        );
        let error = decode_request_header(Bytes::from_static(&[0, 3, 0, 1, 0, 0, 0, 1, 0, 9])).unwrap_err();
        assert_eq!((error.path().as_str(), error.offset()), ("client_id", 8));
    }

    #[test]
    fn long_client_ids_are_cut_between_letters() {
        let name = "é".repeat(20_000);
        let head = request_header(ApiKey::METADATA, 1, 0, Some(&name), 0);
        assert_eq!(head[12..14], 32_766u16.to_be_bytes());
    }
}
