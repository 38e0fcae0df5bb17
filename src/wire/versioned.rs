//! Values that carry their own version in front: what members of classic groups send each other through the broker.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Decode, DecodeError, DecodeErrorKind, Encode, EncodeError, Reader};

/// `message` in `version`, the version in front as an int16.
///
/// Fails as [`Encode::encode`] does.
pub fn encode_versioned<T: Encode>(message: &T, version: i16) -> Result<Bytes, EncodeError> {
    let mut w = BytesMut::new();
    w.put_i16(version);
    message.encode(&mut w, version)?;
    Ok(w.freeze())
}

/// Reads a message with its version in front: the version, and the message. A version newer than known ones is read as
/// the newest known; what it adds lies at the end and is ignored, as every client of Kafka does.
pub fn decode_versioned<T: Decode>(bytes: Bytes) -> Result<(i16, T), DecodeError> {
    let mut r = Reader::new(bytes);
    let version = r.i16().map_err(|kind| DecodeError::new(T::NAME, -1, kind, 0))?;
    if version < T::VERSIONS.min {
        return Err(DecodeError::new(T::NAME, version, DecodeErrorKind::UnsupportedVersion, 0));
    }
    Ok((version, T::decode(&mut r, version.min(T::VERSIONS.max))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::messages::ConsumerProtocolSubscription;

    #[test]
    fn subscriptions_of_any_version_are_read() {
        let subscription = ConsumerProtocolSubscription {
            topics: vec!["a".into()],
            generation_id: 7,
            rack_id: Some("r".into()),
            ..Default::default()
        };
        let bytes = encode_versioned(&subscription, 3).unwrap();
        assert_eq!(decode_versioned(bytes.clone()), Ok((3, subscription.clone())));

        let mut newer = BytesMut::from(&bytes[..]);
        newer[1] = 9;
        newer.put_slice(b"more");
        assert_eq!(decode_versioned(newer.freeze()), Ok((9, subscription)));

        let refused = |bytes: &'static [u8]| {
            decode_versioned::<ConsumerProtocolSubscription>(Bytes::from_static(bytes))
                .unwrap_err()
                .to_string()
        };
        assert!(refused(&[0]).contains("needs 2 bytes"));
        assert!(refused(&[0xff, 0xff]).contains("version is not supported"));
        assert!(refused(&[0, 0, 0x7f, 0xff, 0xff, 0xff]).contains("topics"));
    }
}
