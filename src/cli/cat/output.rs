//! Standard output with a buffer that is emptied before every wait.

use std::io::{self, Write};

/// The buffer is written once it holds this much.
const BUFFER: usize = 64 * 1024;

/// Standard output.
#[derive(Debug)]
pub(super) struct Output {
    buffer: Vec<u8>,
    unbuffered: bool,
}

impl Output {
    /// With `unbuffered`, nothing stays in the buffer after [`wrote`](Self::wrote).
    pub(super) fn new(unbuffered: bool) -> Self {
        Self { buffer: Vec::new(), unbuffered }
    }

    /// Append output here.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Something complete was appended. Returns false if nobody reads any more.
    ///
    /// # Errors
    ///
    /// Writing failed.
    pub(super) fn wrote(&mut self) -> io::Result<bool> {
        if self.unbuffered || self.buffer.len() >= BUFFER { self.flush() } else { Ok(true) }
    }

    /// Writes what is in the buffer. Returns false if nobody reads any more.
    ///
    /// # Errors
    ///
    /// Writing failed.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        if self.buffer.is_empty() {
            return Ok(true);
        }
        let mut stdout = io::stdout().lock();
        let result = stdout.write_all(&self.buffer).and_then(|()| stdout.flush());
        self.buffer.clear();
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error),
        }
    }
}
