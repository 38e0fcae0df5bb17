//! Listeners, connections and the timer of a cluster. It decides nothing: it reads frames, asks the machine under one
//! lock that is never held across an await, and writes what the machine answers.
//!
//! As in Kafka, a connection is muted while one of its requests is handled: the next frame is looked at when the answer
//! has been written.

use std::collections::BTreeMap;
use std::fmt;
use std::future;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::cluster::{NewTopic, State};
use super::groups;
use super::handlers::{self, Answer, Context, Handled, Handler, dispatch};
use super::listener::Opened;
use super::locked::{Callers, Locked};
use super::log::Depth;
use super::rules::{Action, Met};
use super::settings::{ACCEPT_PAUSE, Mode};
use super::write::write_all;
use crate::runtime::{Listener, Runtime, Stream, Task, watch};
use crate::sync::{Mutex, MutexGuard, lock};
use crate::wire::frame::{FrameError, FrameReader, RequestHead, decode_request_header, encode_response};
use crate::wire::{ApiKey, Reader, Str};
use crate::{Error, ErrorCode, Result};

/// What the tasks of a cluster share.
pub(crate) struct Shared {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) listeners: Vec<Opened>,
    state: Mutex<State>,
    callers: Callers,
    timers: Notify,
    frame_max: usize,
    depth: Depth,
    sockets: Mutex<BTreeMap<i32, Socket>>,
    /// Listeners that were told to end, and may still have their ports.
    ending: Mutex<BTreeMap<i32, Vec<Task>>>,
    timer_task: Mutex<Option<Task>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

/// The listening side of a node.
struct Socket {
    /// Changes when all connections are to close.
    closing: watch::Sender<u64>,
    /// True while the node is frozen.
    frozen: watch::Sender<bool>,
    listeners: Vec<Task>,
}

impl Shared {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, listeners: Vec<Opened>, state: State) -> Arc<Self> {
        let frame_max = state.settings.frame_max_bytes;
        let depth = match state.settings.mode {
            Mode::Store => Depth::Records,
            Mode::Discard | Mode::Replay => Depth::Sample,
        };
        Arc::new(Self {
            runtime,
            listeners,
            state: Mutex::new(state),
            callers: Callers::default(),
            timers: Notify::new(),
            frame_max,
            depth,
            sockets: Mutex::new(BTreeMap::new()),
            ending: Mutex::new(BTreeMap::new()),
            timer_task: Mutex::new(None),
        })
    }

    /// The machine. A panic elsewhere does not make it unusable.
    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked::new(lock(&self.state), &self.callers)
    }

    /// The time that the machine is told.
    pub(crate) fn now(&self) -> Instant {
        Instant::now()
    }

    fn sockets(&self) -> MutexGuard<'_, BTreeMap<i32, Socket>> {
        lock(&self.sockets)
    }

    fn ending(&self) -> MutexGuard<'_, BTreeMap<i32, Vec<Task>>> {
        lock(&self.ending)
    }

    /// Lets the timer look at the deadlines again.
    pub(crate) fn timers_changed(&self) {
        self.timers.notify_one();
    }

    pub(crate) fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
        self.create_in(&mut self.lock(), name, partitions, configs)
    }

    /// Deletes and creates under one lock.
    pub(crate) fn recreate_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
        let mut state = self.lock();
        state.delete_topic(name);
        self.create_in(&mut state, name, partitions, configs)
    }

    fn create_in(
        &self,
        state: &mut State,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> Result<()> {
        let new = NewTopic {
            name: Str::from(name),
            partitions: Some(partitions),
            configs: configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..NewTopic::default()
        };
        let created = state.create_topic(new, false, self.now());
        self.timers_changed();
        created.map(|_| ()).map_err(|(code, why)| {
            Error::from_code(code, format!("creating the topic {name}")).with_advice(why)
        })
    }

    pub(crate) fn disconnect(&self, node: i32) {
        if let Some(socket) = self.sockets().get(&node) {
            socket.closing.send_modify(|count| *count += 1);
        }
    }

    /// Stops or lets go on whatever the connections of a node do.
    pub(crate) fn freeze(&self, node: i32, frozen: bool) {
        if let Some(socket) = self.sockets().get(&node) {
            socket.frozen.send_replace(frozen);
        }
    }

    pub(crate) fn stop_listening(&self, node: i32) {
        if let Some(socket) = self.sockets().remove(&node) {
            socket.listeners.iter().for_each(Task::abort);
            socket.closing.send_modify(|count| *count += 1);
            self.ending().insert(node, socket.listeners);
        }
    }

    /// Ends every task of the cluster.
    pub(crate) fn stop(&self) {
        let nodes: Vec<i32> = self.sockets().keys().copied().collect();
        for node in nodes {
            self.stop_listening(node);
        }
        let timer = lock(&self.timer_task).take();
        if let Some(timer) = timer {
            timer.abort();
        }
    }
}

/// Opens the ports of a node, one for each listener, and serves them. Returns the ports that were taken.
pub(crate) async fn listen(shared: &Arc<Shared>, node: i32, ports: &[u16]) -> Result<Vec<u16>> {
    let ending = shared.ending().remove(&node);
    for listener in ending.into_iter().flatten() {
        // It was told to end; that it did not reach its end by itself is no news.
        let _ = listener.join().await;
    }
    let mut opened = Vec::new();
    for (listener, port) in shared.listeners.iter().zip(ports) {
        opened.push(listener.open(&*shared.runtime, *port).await?);
    }
    let taken = opened.iter().map(|socket| socket.local_addr().port()).collect();
    let closing = watch::Sender::new(0);
    let frozen = watch::Sender::new(false);
    let accepting = |(listener, socket)| {
        let accept =
            accept(Arc::downgrade(shared), node, (listener, socket), closing.clone(), frozen.clone());
        shared.runtime.spawn("broker-listener", Box::pin(accept))
    };
    let listeners = opened.into_iter().enumerate().map(accepting).collect();
    shared.sockets().insert(node, Socket { closing, frozen, listeners });
    Ok(taken)
}

/// Accepts the connections of one listener, and serves each in a task of its own.
async fn accept(
    owner: Weak<Shared>,
    node: i32,
    (listener, socket): (usize, Box<dyn Listener>),
    closing: watch::Sender<u64>,
    frozen: watch::Sender<bool>,
) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let Some(shared) = owner.upgrade() else { return };
                let runtime = shared.runtime.clone();
                let mut closing = closing.subscribe();
                let frozen = frozen.subscribe();
                let serve = async move {
                    let secured = async {
                        let stream = shared.listeners[listener].secure(stream).await;
                        let stream = stream.inspect_err(|error| {
                            tracing::debug!(node, %error, "a client did not get through the TLS handshake");
                        });
                        let connection = Connection {
                            stream: stream.ok()?,
                            frames: FrameReader::requests(shared.frame_max),
                            node,
                            listener,
                            ticket: Ticket::new(&shared, listener),
                            frozen,
                            host: Str::from(peer.ip().to_string()),
                        };
                        serve(Arc::clone(&shared), connection).await;
                        Some(())
                    };
                    // Biased: a closing connection serves nothing more.
                    tokio::select! {
                        biased;
                        _ = closing.changed() => {}
                        _ = secured => {}
                    }
                };
                runtime.spawn("broker-connection", Box::pin(serve));
            }
            Err(error) => {
                tracing::debug!(node, %error, "accepting a connection failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Starts the task that runs what is due.
pub(crate) fn start_timer(shared: &Arc<Shared>) {
    let weak = Arc::downgrade(shared);
    let run = async move {
        loop {
            let Some(shared) = weak.upgrade() else { return };
            let deadline = {
                let mut state = shared.lock();
                state.handle_timeout(Instant::now());
                state.next_deadline()
            };
            let due = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => future::pending().await,
                }
            };
            // Biased: both lead to the same look at the deadlines.
            tokio::select! {
                biased;
                () = shared.timers.notified() => {}
                () = due => {}
            }
        }
    };
    let task = shared.runtime.spawn("broker-timer", Box::pin(run));
    *lock(&shared.timer_task) = Some(task);
}

/// Serves one connection until it ends.
async fn serve(shared: Arc<Shared>, mut connection: Connection) {
    let node = connection.node;
    loop {
        thawed(&mut connection.frozen).await;
        let frame = match connection.read_frame().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(Unread::Oversized { length, limit }) => {
                // All that the client learns is that its connection was closed.
                tracing::warn!(
                    node,
                    length,
                    limit,
                    "closed a connection of the embedded cluster: its request is larger than request_max_bytes \
                     (socket.request.max.bytes); send less at once, or raise the limit"
                );
                return;
            }
            Err(Unread::Failed(error)) => {
                tracing::debug!(node, %error, "a connection of the embedded cluster ended");
                return;
            }
        };
        match connection.request(&shared, frame).await {
            Some(Reply::Nothing) => {}
            Some(Reply::Frame { slices, limit, pause }) => {
                thawed(&mut connection.frozen).await;
                let written = write_all(&mut connection.stream, slices, limit.unwrap_or(usize::MAX)).await;
                if written.is_err() || limit.is_some() {
                    let _ = connection.stream.shutdown().await;
                    return;
                }
                if let Some(pause) = pause {
                    sleep(pause).await;
                }
            }
            None => {
                let _ = connection.stream.shutdown().await;
                return;
            }
        }
    }
}

struct Connection {
    stream: Box<dyn Stream>,
    frames: FrameReader,
    node: i32,
    /// Index of the listener that it came through.
    listener: usize,
    ticket: Ticket,
    frozen: watch::Receiver<bool>,
    host: Str,
}

/// The number of a connection, which is forgotten with it.
struct Ticket {
    number: u64,
    shared: Arc<Shared>,
}

impl Ticket {
    fn new(shared: &Arc<Shared>, listener: usize) -> Self {
        let number = shared.lock().sasl.opened(&shared.listeners[listener].mechanisms);
        Self { number, shared: Arc::clone(shared) }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.lock().sasl.closed(self.number);
    }
}

/// Waits while the node is frozen.
async fn thawed(frozen: &mut watch::Receiver<bool>) {
    // An error means that the node has stopped; its connections close.
    let _ = frozen.wait_for(|frozen| !frozen).await;
}

/// Why no request could be read.
enum Unread {
    /// It is above the cap.
    Oversized { length: usize, limit: usize },
    /// The connection broke, or what came is no request.
    Failed(io::Error),
}

/// What goes back to the client.
enum Reply {
    /// acks=0.
    Nothing,
    Frame {
        slices: Vec<Bytes>,
        /// Behind how many bytes the connection closes.
        limit: Option<usize>,
        /// For how long nothing is read afterwards.
        pause: Option<Duration>,
    },
}

impl Connection {
    /// The next frame without its length; `None` at the end of the stream.
    async fn read_frame(&mut self) -> Result<Option<Bytes>, Unread> {
        loop {
            match self.frames.next_frame() {
                Ok(None) => {}
                Ok(frame) => return Ok(frame),
                Err(FrameError::TooLong { len, max }) => {
                    return Err(Unread::Oversized { length: len, limit: max });
                }
                Err(error) => return Err(Unread::Failed(io::Error::other(error))),
            }
            if self.stream.read_buf(self.frames.buffer()).await.map_err(Unread::Failed)? == 0 {
                return Ok(None);
            }
        }
    }

    /// Handles one request; `None` closes the connection.
    async fn request(&mut self, shared: &Arc<Shared>, frame: Bytes) -> Option<Reply> {
        let (head, body) = match decode_request_header(frame) {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::debug!(node = self.node, %error, "refused a request header");
                return None;
            }
        };
        let met = {
            let mut state = shared.lock();
            if !state.sasl.admits(self.ticket.number, head.key, shared.now()) {
                tracing::debug!(node = self.node, api = %head.key, "refused a client that has not logged in");
                return None;
            }
            let State { rules, rng, .. } = &mut *state;
            rules.meet(self.node, head.key, head.client_id.as_deref(), rng)
        };
        if !handlers::is_served(head.key, head.version) {
            if head.key == ApiKey::API_VERSIONS {
                let answer = handlers::unsupported_api_versions();
                let frame = encode_response(&answer, head.key, 0, head.correlation_id).ok()?;
                return Some(Reply::Frame { slices: vec![frame.freeze()], limit: None, pause: None });
            }
            tracing::debug!(node = self.node, api = %head.key, version = head.version, "refused a version");
            return None;
        }
        let key = head.key;
        let (node, listener, host) = (self.node, self.listener, &self.host);
        let frozen = &mut self.frozen;
        let connection = self.ticket.number;
        let asked = Asked { shared, node, listener, connection, host, frozen, head, body, met };
        dispatch!(key, answer(asked))
    }
}

/// A request on its way to its handler.
struct Asked<'a> {
    shared: &'a Arc<Shared>,
    node: i32,
    listener: usize,
    connection: u64,
    host: &'a Str,
    frozen: &'a mut watch::Receiver<bool>,
    head: RequestHead,
    body: Reader,
    met: Option<Met>,
}

/// An answer of a group, to come.
type Told = Option<oneshot::Receiver<groups::Output>>;

/// Asks the machine; `None` if the node is dead.
fn ask<R: Handler>(
    shared: &Shared,
    ctx: &Context,
    request: R,
    refusal: Option<ErrorCode>,
) -> Option<(Handled<R::Answer>, Told)> {
    let mut state = shared.lock();
    if !state.is_alive(ctx.node) {
        return None;
    }
    let before = state.next_deadline();
    let handled = match refusal {
        Some(code) => request.refuse(&state, ctx, code),
        None => request.handle(&mut state, ctx),
    };
    let after = state.next_deadline();
    let told = match &handled {
        Handled::Told(ticket, _) => Some(shared.callers.wait_for(*ticket)),
        _ => None,
    };
    drop(state);
    if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
        shared.timers_changed();
    }
    Some((handled, told))
}

/// The answer, once there is one; or what is replied without.
async fn awaited<A>(
    handled: Handled<A>,
    told: Told,
    shared: &Arc<Shared>,
    frozen: &mut watch::Receiver<bool>,
) -> ControlFlow<Option<Reply>, A> {
    match handled {
        Handled::Now(answer) => ControlFlow::Continue(answer),
        Handled::Silent => ControlFlow::Break(Some(Reply::Nothing)),
        Handled::Disconnect => ControlFlow::Break(None),
        Handled::Told(_, shape) => {
            let Some(told) = told else { return ControlFlow::Break(None) };
            // Every ticket is answered; without an answer the cluster is gone.
            told.await.map_or(ControlFlow::Break(None), |told| ControlFlow::Continue(shape(told)))
        }
        Handled::Wait(mut waiting) => loop {
            let wake = waiting.wake().clone();
            // Biased: a change of state is looked at before the deadline.
            let expired = tokio::select! {
                biased;
                () = wake.notified() => false,
                () = sleep_until(waiting.deadline()) => true,
            };
            drop(wake);
            thawed(frozen).await;
            let answer = waiting.poll(&mut shared.lock(), expired);
            if let Some(answer) = answer {
                break ControlFlow::Continue(answer);
            }
        },
    }
}

async fn answer<R: Handler>(asked: Asked<'_>) -> Option<Reply> {
    let Asked { shared, node, listener, connection, host, frozen, head, mut body, met } = asked;
    let version = head.version;
    // As Kafka does, bytes behind the body are ignored: librdkafka 2.16 sends some with Metadata 13.
    let mut request = match R::decode(&mut body, version) {
        Ok(request) => request,
        Err(error) => {
            tracing::debug!(node, %error, "refused a request");
            return None;
        }
    };
    drop(body);
    let (action, mut released) = met.map(|met| (met.action, met.released)).unzip();
    match &action {
        Some(Action::Delay(delay)) => sleep(*delay).await,
        Some(Action::Hold) => wait_for_release(&mut released).await,
        Some(Action::DropRequest) => return None,
        _ => {}
    }
    let pause = match action {
        Some(Action::Throttle(pause)) => Some(pause),
        _ => None,
    };
    thawed(frozen).await;
    let ctx = Context {
        node,
        version,
        listener,
        connection,
        client_id: head.client_id.as_deref().map(Str::from).unwrap_or_default(),
        client_host: Str::from(format!("/{host}")),
        now: Instant::now(),
        wall: shared.runtime.timestamp().0,
        batches: request.examine(shared.depth),
        throttled: pause.is_some(),
    };
    let refusal = match action {
        Some(Action::Error(code)) => Some(code),
        _ => None,
    };
    let (handled, told) = ask(shared, &ctx, request, refusal)?;
    drop(ctx);
    let mut answer = match awaited(handled, told, shared, frozen).await {
        ControlFlow::Continue(answer) => answer,
        ControlFlow::Break(reply) => return reply,
    };
    let limit = match action {
        Some(Action::DropAnswer) => return None,
        Some(Action::DelayAnswer(delay)) => {
            sleep(delay).await;
            None
        }
        Some(Action::HoldAnswer) => {
            wait_for_release(&mut released).await;
            None
        }
        Some(Action::CutAfter(bytes)) => Some(bytes),
        _ => None,
    };
    if let Some(pause) = pause {
        answer.throttle(i32::try_from(pause.as_millis()).unwrap_or(i32::MAX));
    }
    // Whoever could not log in is told so, and that is all.
    let limit = limit.or_else(|| shared.lock().sasl.has_failed(connection).then_some(usize::MAX));
    match answer.into_frame(head.key, version, head.correlation_id) {
        Ok(slices) => Some(Reply::Frame { slices, limit, pause }),
        Err(error) => {
            tracing::error!(node, %error, "an answer of the embedded cluster cannot be written");
            None
        }
    }
}

async fn wait_for_release(released: &mut Option<watch::Receiver<bool>>) {
    if let Some(released) = released {
        // An error means that the rule is gone, which releases too.
        let _ = released.wait_for(|released| *released).await;
    }
}
