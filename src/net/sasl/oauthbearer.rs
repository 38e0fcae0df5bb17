//! OAUTHBEARER (RFC 7628, KIP-255): a token of an identity provider, with extensions (KIP-342).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::exchange::{Exchange, Mechanism};
use super::login::said;
use super::token::{Cache, Token, TokenProvider};
use crate::error::Phase;
use crate::runtime::BoxFuture;
use crate::types::Secret;
use crate::{Error, ErrorKind, Result};

/// OAUTHBEARER: proves who we are by a token.
///
/// The token is kept and used for every connection. At 80 % of its life (±5 %) a new one is asked for, at most once a minute; where
/// none can be had, the old one is used until it ends. A provider that fails is asked again after 100 ms, and then ever more
/// rarely, up to once in ten seconds, however many connections want a token.
///
/// ```no_run
/// # async fn example() -> carafe::Result<()> {
/// use carafe::client::{Client, sasl::{FileToken, OAuthBearer}};
///
/// let login = OAuthBearer::new(FileToken::new("/var/run/secrets/kafka/token")).extension("logicalCluster", "lkc-1");
/// let client = Client::builder().bootstrap_servers("kafka:9094").sasl(login).build().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct OAuthBearer {
    cache: Arc<Cache>,
    extensions: BTreeMap<String, String>,
}

impl fmt::Debug for OAuthBearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthBearer")
            .field("provider", self.cache.provider())
            .field("extensions", &self.extensions)
            .finish()
    }
}

impl OAuthBearer {
    /// With tokens from `provider`.
    pub fn new(provider: impl TokenProvider) -> Self {
        Self { cache: Arc::new(Cache::new(Arc::new(provider))), extensions: BTreeMap::new() }
    }

    /// Tells the broker something beside the token, as Confluent Cloud's `logicalCluster` and `identityPoolId`. A name is made of
    /// letters and is not `auth`; a value is made of printable ASCII and white space.
    #[must_use]
    pub fn extension(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.extensions.insert(name.into(), value.into());
        self
    }

    fn message(&self, token: &Token) -> Result<Secret> {
        let value = token.value().expose();
        // As RFC 6750 has it; anything else could smuggle a field.
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
        if value.is_empty() || !value.chars().all(fits) {
            let advice = "hand over the token alone, without `Bearer` and without line ends";
            return Err(wrong("the token is empty or has characters that no token has").with_advice(advice));
        }
        let mut message = format!("n,,\u{1}auth=Bearer {value}\u{1}");
        for (name, value) in &self.extensions {
            check_extension(name, value).map_err(wrong)?;
            message.extend([name, "=", value, "\u{1}"]);
        }
        message.push('\u{1}');
        Ok(Secret::from(message))
    }
}

/// What is wrong with an extension.
pub(crate) fn check_extension(name: &str, value: &str) -> Result<(), String> {
    if name.is_empty() || name == "auth" || !name.chars().all(|c| c.is_ascii_alphabetic()) {
        return Err(format!(
            "the extension {name:?} is not valid: its name is made of letters, and not `auth`"
        ));
    }
    if !value.chars().all(|c| c.is_ascii_graphic() || matches!(c, ' ' | '\t' | '\r' | '\n')) {
        return Err(format!("the value of the extension {name} has characters that are not allowed"));
    }
    Ok(())
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message).with_phase(Phase::Sasl)
}

impl Mechanism for OAuthBearer {
    fn name(&self) -> &str {
        "OAUTHBEARER"
    }

    fn authenticate<'a>(&'a self, exchange: &'a mut Exchange) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let token = self.cache.token(exchange.runtime()).await?;
            let message = self.message(&token)?;
            let answer = exchange.send(message.expose().to_owned()).await?;
            if answer.is_empty() {
                return Ok(());
            }
            // The token was refused, and the answer says why. The protocol wants an empty word before the broker says so.
            self.cache.refused(&token).await;
            let why = said(&String::from_utf8_lossy(&answer));
            exchange.send("\u{1}").await?;
            Err(Error::new(ErrorKind::Authentication, format!("the broker refused the token: {why}"))
                .with_phase(Phase::Sasl)
                .with_advice(
                    "check issuer, audience, scope and clock of the token against the broker's settings",
                ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_extensions_and_nothing_is_smuggled() {
        let token = |text: &str| Token::new(text);
        let login =
            OAuthBearer::new(Token::new("x")).extension("logicalCluster", "lkc 1").extension("a", "b");
        let message = login.message(&token("ey.J-_~+/=")).unwrap();
        assert_eq!(
            message.expose(),
            "n,,\u{1}auth=Bearer ey.J-_~+/=\u{1}a=b\u{1}logicalCluster=lkc 1\u{1}\u{1}"
        );
        for text in ["", "a b", "a\u{1}b", "a\r\nb", "ä"] {
            let error = login.message(&token(text)).unwrap_err().to_string();
            assert!(error.contains("the token is empty"), "{error}");
        }
        for (name, value) in
            [("auth", "x"), ("", "x"), ("a1", "x"), ("a\u{1}", "x"), ("a", "x\u{1}y"), ("a", "ü")]
        {
            let login = OAuthBearer::new(Token::new("x")).extension(name, value);
            assert!(login.message(&token("x")).is_err(), "{name} {value}");
        }
        assert!(!format!("{:?}", OAuthBearer::new(Token::new("canary"))).contains("canary"));
    }
}
