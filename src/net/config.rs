//! Settings of one connection.

use std::sync::Arc;
use std::time::Duration;

use super::sasl::Mechanism;
#[cfg(feature = "tls")]
use crate::runtime::tls::ClientTls;
use crate::wire::Str;

/// Largest frame accepted before versions are negotiated and SASL has finished: 512 KiB, as brokers.
pub(super) const FRAME_BYTES_HANDSHAKE_MAX: usize = 512 * 1024;

/// Settings of a connection. The façade fills them from the user's settings.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionConfig {
    /// `client.id`: sent with every request, appears in broker logs, quotas and metrics.
    pub(crate) client_id: Str,
    /// Time that one address gets for TCP connect and handshake. Default 10 s (`socket.connection.setup.timeout.ms`).
    pub(crate) setup_timeout: Duration,
    /// A request without an answer for this long ends the connection. Default 30 s (`request.timeout.ms`).
    pub(crate) request_timeout: Duration,
    /// A connection without traffic for this long is closed. Default 9 min (`connections.max.idle.ms`).
    pub(crate) idle_timeout: Duration,
    /// Largest response frame accepted. Default 100 MiB (`receive.message.max.bytes`).
    pub(crate) frame_bytes_max: usize,
    /// A broker's wish to pause is honoured up to this long. Default 60 s.
    pub(crate) throttle_max: Duration,
    /// What each connection speaks TLS with; `None` where the listener is plaintext.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<ClientTls>,
    /// How each connection proves who we are; `None` where the listener does not ask.
    pub(crate) mechanism: Option<Arc<dyn Mechanism>>,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            client_id: Str::from_static("carafe"),
            setup_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(9 * 60),
            frame_bytes_max: 100 * 1024 * 1024,
            throttle_max: Duration::from_secs(60),
            #[cfg(feature = "tls")]
            tls: None,
            mechanism: None,
        }
    }
}
