//! Writes answers: slices of batches that lie in memory, not copied.

use std::future;
use std::io::{self, IoSlice};
use std::pin::Pin;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite as _, AsyncWriteExt};

use crate::runtime::Stream;

/// Writes slices with vectored writes, at most `limit` bytes.
pub(super) async fn write_all(
    stream: &mut Box<dyn Stream>,
    slices: Vec<Bytes>,
    limit: usize,
) -> io::Result<()> {
    const AT_ONCE: usize = 64;
    let mut left = limit;
    let mut at = 0;
    let mut slices = slices;
    while left > 0 {
        while slices.get(at).is_some_and(Bytes::is_empty) {
            at += 1;
        }
        if at >= slices.len() {
            break;
        }
        let mut room = left;
        let mut parts = Vec::with_capacity(AT_ONCE.min(slices.len() - at));
        for slice in slices.iter().skip(at).take(AT_ONCE) {
            let take = slice.len().min(room);
            parts.push(IoSlice::new(&slice[..take]));
            room -= take;
            if room == 0 {
                break;
            }
        }
        let mut written =
            future::poll_fn(|cx| Pin::new(&mut *stream).poll_write_vectored(cx, &parts)).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        left -= written;
        while written > 0 {
            let Some(slice) = slices.get_mut(at) else { break };
            let step = slice.len().min(written);
            slice.advance(step);
            written -= step;
            if slice.is_empty() {
                at += 1;
            }
        }
    }
    stream.flush().await
}
