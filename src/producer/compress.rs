//! Compression of closed bodies.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use crate::sync::{Mutex, lock};
use crate::wire::compression::{Compression, Compressor};

/// Bodies up to this many bytes are compressed by whoever closes the batch, larger ones where blocking is allowed.
pub(super) const INLINE_MAX: usize = 64 * 1024;

/// A producer's codec at its level. Contexts and buffers are used again; there are as many as were at work at once.
#[derive(Debug)]
pub(super) struct Codec {
    compression: Compression,
    level: Option<i32>,
    idle: Mutex<Vec<Packer>>,
}

#[derive(Debug, Default)]
struct Packer {
    compressor: Compressor,
    /// Output is made here and copied at its final size: what a body keeps alive is what it counts.
    out: Vec<u8>,
}

impl Codec {
    pub(super) fn new(compression: Compression, level: Option<i32>) -> Self {
        Self { compression, level, idle: Mutex::default() }
    }

    /// True if bodies stay as they are.
    pub(super) fn is_none(&self) -> bool {
        self.compression == Compression::None
    }

    /// Compresses `body`, unless that does not make it smaller.
    pub(super) fn compress(&self, body: Bytes) -> (Compression, Bytes) {
        if self.is_none() {
            return (Compression::None, body);
        }
        self.compress_with(body, |packer, body| {
            let Packer { compressor, out } = packer;
            compressor.compress(self.compression, self.level, body, out).is_ok()
        })
    }

    /// Lets `pack` write into an empty buffer of a packer. What fails, or panics, leaves the body plain: it is delivered all
    /// the same, and neither an appender nor the driver falls with a codec.
    fn compress_with(
        &self,
        body: Bytes,
        pack: impl FnOnce(&mut Packer, &Bytes) -> bool,
    ) -> (Compression, Bytes) {
        let idle = lock(&self.idle).pop();
        let mut packer = idle.unwrap_or_default();
        packer.out.clear();
        // The packer is dropped if it is in doubt, and the body cannot be changed.
        let Ok(packed) = catch_unwind(AssertUnwindSafe(|| pack(&mut packer, &body))) else {
            tracing::error!(codec = %self.compression, "the codec panicked: the batch is sent as it is");
            return (Compression::None, body);
        };
        let result = if packed && packer.out.len() < body.len() {
            (self.compression, Bytes::copy_from_slice(&packer.out))
        } else {
            (Compression::None, body)
        };
        lock(&self.idle).push(packer);
        result
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
        let bodies = Codec::new(codec, None);
        assert_eq!(bodies.compress(noise.clone().into()), (Compression::None, noise.into()));
        let (used, body) = bodies.compress(vec![7; 1000].into());
        assert_eq!(used, codec);
        assert!(body.len() < 100);
        assert_eq!(lock(&bodies.idle).len(), 1, "contexts are used again");
    }

    #[test]
    fn a_codec_that_panics_leaves_the_body_plain() {
        let bodies = Codec::new(Compression::Lz4, None);
        let body = Bytes::from_static(b"records");
        let packed = bodies.compress_with(body.clone(), |_, _| panic!("a bug in the codec"));
        assert_eq!(packed, (Compression::None, body));
        assert!(lock(&bodies.idle).is_empty(), "nobody works at that packer again");
    }
}
