//! Connections that pass every byte on, and remember the frames.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use carafe::wire::ApiKey;
use carafe::wire::frame::{FRAME_BYTES_MAX, FrameReader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// ErrorCode UNSUPPORTED_VERSION, in the first bytes of an ApiVersions answer: it has the form of version 0 then.
const UNSUPPORTED_VERSION: [u8; 2] = 35i16.to_be_bytes();

/// A frame without its length prefix.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) key: ApiKey,
    pub(super) version: i16,
    pub(super) is_request: bool,
    pub(super) bytes: Bytes,
}

type Tape = Arc<Mutex<Vec<Frame>>>;

/// The requests of a connection that wait for their answers, by correlation id.
type Pending = Arc<Mutex<HashMap<i32, (ApiKey, i16)>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything that was said between `listen` and `upstream` until `command` has ended well.
pub(super) fn record(
    listen: SocketAddr,
    upstream: SocketAddr,
    command: &[String],
) -> Result<Vec<Frame>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start the runtime: {error}"))?;
    let tape = Tape::default();
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await;
        let listener = listener.map_err(|error| format!("listen on {listen}: {error}"))?;
        let accepting = tokio::spawn(accept(listener, upstream, tape.clone()));
        let [program, arguments @ ..] = command else { return Err("no command".into()) };
        let status = Command::new(program).args(arguments).kill_on_drop(true).status().await;
        accepting.abort();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{program} ended with {status}")),
            Err(error) => Err(format!("run {program}: {error}")),
        }
    })?;
    let frames = std::mem::take(&mut *lock(&tape));
    Ok(frames)
}

async fn accept(listener: TcpListener, upstream: SocketAddr, tape: Tape) -> io::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        let tape = tape.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(client, upstream, tape).await {
                eprintln!("a connection to {upstream} ended: {error}");
            }
        });
    }
}

async fn connection(client: TcpStream, upstream: SocketAddr, tape: Tape) -> io::Result<()> {
    let broker = TcpStream::connect(upstream).await?;
    for stream in [&client, &broker] {
        stream.set_nodelay(true)?;
    }
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let pending = Pending::default();
    let asked = |frame: Bytes| {
        let (key, version) = (ApiKey(i16_at(&frame, 0)?), i16_at(&frame, 2)?);
        lock(&pending).insert(i32_at(&frame, 4)?, (key, version));
        Some(Frame { key, version, is_request: true, bytes: frame })
    };
    let answered = |frame: Bytes| {
        let (key, mut version) = lock(&pending).remove(&i32_at(&frame, 0)?)?;
        if key == ApiKey::API_VERSIONS && frame.get(4..6) == Some(&UNSUPPORTED_VERSION) {
            version = 0;
        }
        Some(Frame { key, version, is_request: false, bytes: frame })
    };
    let up = pump(from_client, to_broker, FrameReader::requests(FRAME_BYTES_MAX), &tape, asked);
    let down = pump(from_broker, to_client, FrameReader::responses(FRAME_BYTES_MAX), &tape, answered);
    tokio::try_join!(up, down).map(|_| ())
}

/// Passes on what comes until the end of the stream. Bytes that are no frames (tokens of SASL before its version 1) are
/// passed on as well, and end the recording of this direction.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut frames: FrameReader,
    tape: &Mutex<Vec<Frame>>,
    mut recognise: impl FnMut(Bytes) -> Option<Frame>,
) -> io::Result<()> {
    let mut recording = true;
    loop {
        let before = frames.buffer().len();
        if from.read_buf(frames.buffer()).await? == 0 {
            return to.shutdown().await;
        }
        let chunk = Bytes::copy_from_slice(&frames.buffer()[before..]);
        while recording {
            match frames.next_frame() {
                Ok(Some(frame)) => lock(tape).extend(recognise(frame)),
                Ok(None) => break,
                Err(_) => recording = false,
            }
        }
        if !recording {
            frames.buffer().clear();
        }
        // The peer answers only after its question is noted.
        to.write_all(&chunk).await?;
    }
}

fn i16_at(bytes: &[u8], at: usize) -> Option<i16> {
    Some(i16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
