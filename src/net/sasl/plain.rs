//! PLAIN (RFC 4616): user and password as they are.

use super::exchange::{Exchange, Mechanism};
use crate::runtime::BoxFuture;
use crate::types::Secret;
use crate::{Error, ErrorKind, Result};

/// PLAIN: user and password are sent as they are, so only TLS keeps them from whoever listens on the way.
///
/// ```no_run
/// # async fn example() -> carafe::Result<()> {
/// use carafe::client::{Client, sasl::Plain};
///
/// let client = Client::builder().bootstrap_servers("kafka:9094").sasl(Plain::new("alice", "secret")).build().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Plain {
    username: String,
    password: Secret,
}

impl Plain {
    /// For one user.
    pub fn new(username: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self { username: username.into(), password: password.into() }
    }
}

impl Mechanism for Plain {
    fn name(&self) -> &str {
        "PLAIN"
    }

    fn authenticate<'a>(&'a self, exchange: &'a mut Exchange) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.username.contains('\0') || self.password.expose().contains('\0') {
                return Err(Error::new(ErrorKind::Config, "user and password cannot contain a zero byte"));
            }
            let message = format!("\0{}\0{}", self.username, self.password.expose());
            // Kafka answers with nothing; what others say behind their success means nothing.
            exchange.send(message).await.map(drop)
        })
    }
}
