//! Compression of closed bodies.

use bytes::Bytes;

use crate::wire::compression::{Compression, Compressor};

/// Bodies up to this many bytes are compressed by whoever closes the batch, larger ones where blocking is allowed.
pub(super) const INLINE_MAX: usize = 64 * 1024;

/// Compresses `body`, unless that does not make it smaller.
pub(super) fn compress(codec: Compression, level: Option<i32>, body: Bytes) -> (Compression, Bytes) {
    if codec == Compression::None {
        return (codec, body);
    }
    let mut out = Vec::with_capacity(body.len() / 2);
    match Compressor::new().compress(codec, level, &body, &mut out) {
        Ok(()) if out.len() < body.len() => (codec, Bytes::from(out)),
        _ => (Compression::None, body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_shrink_is_sent_plain() {
        let codec = Compression::Lz4;
        if !codec.is_available() {
            return;
        }
        let mut dice = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = (0..1000).map(|_| dice.u8(..)).collect();
        assert_eq!(compress(codec, None, noise.clone().into()), (Compression::None, noise.into()));
        let (used, body) = compress(codec, None, vec![7; 1000].into());
        assert_eq!(used, codec);
        assert!(body.len() < 100);
    }
}
