//! Tokens of an OpenID Connect provider (KIP-768): `client_credentials` of OAuth 2 (RFC 6749, section 4.4).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::Method;

use super::http::{self, Ask, Response, Url, encoded};
use super::login::said;
use super::token::{Token, TokenProvider};
use crate::runtime::{BoxFuture, Runtime};
use crate::types::Secret;
use crate::{Error, ErrorKind, Result};

/// No token lives for longer, whatever a provider says.
const LIFE_MAX: f64 = 10.0 * 365.0 * 86_400.0;

/// Gets tokens from an identity provider, in exchange for a client's id and secret.
///
/// A request has 10 s and is not redirected; an answer of more than 1 MiB is refused. The token's end is what the provider
/// says (`expires_in`), or else what the token itself says, if it is a JWT.
///
/// ```
/// use carafe::client::sasl::{OAuthBearer, Oidc};
///
/// # fn main() -> carafe::Result<()> {
/// let provider = Oidc::client_credentials("http://127.0.0.1:8080/token", "kafka-client", "secret")?.scope("kafka");
/// let login = OAuthBearer::new(provider);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Oidc {
    endpoint: Url,
    client_id: String,
    client_secret: Secret,
    scope: Option<String>,
    encodes: bool,
}

impl Oidc {
    /// Of the token endpoint at `url`, such as `http://provider/oauth2/token`.
    ///
    /// # Errors
    ///
    /// `Config` if that is no such address.
    pub fn client_credentials(
        url: &str,
        client_id: impl Into<String>,
        client_secret: impl Into<Secret>,
    ) -> Result<Self> {
        let endpoint = Url::parse(url)
            .map_err(|problem| Error::new(ErrorKind::Config, format!("the token endpoint {problem}")))?;
        let (client_id, client_secret) = (client_id.into(), client_secret.into());
        Ok(Self { endpoint, client_id, client_secret, scope: None, encodes: false })
    }

    /// Asks for this scope; default: none.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = Some(scope.into()).filter(|scope| !scope.is_empty());
        self
    }

    /// Encodes id and secret as forms have it before they go into the header, as RFC 6749 wants and many providers do not
    /// (KIP-1025); default: no.
    #[must_use]
    pub fn encode_credentials(mut self, encode: bool) -> Self {
        self.encodes = encode;
        self
    }

    async fn ask(&self, runtime: &Arc<dyn Runtime>) -> Result<Token> {
        let (id, secret) = match self.encodes {
            true => (encoded(&self.client_id), encoded(self.client_secret.expose())),
            false => (self.client_id.clone(), self.client_secret.expose().to_owned()),
        };
        let authorization = Secret::from(format!("Basic {}", BASE64.encode(format!("{id}:{secret}"))));
        let scope = self.scope.as_ref().map(|scope| format!("&scope={}", encoded(scope))).unwrap_or_default();
        let form = Secret::from(format!("grant_type=client_credentials{scope}"));
        let json = Secret::from("application/json");
        let kind = Secret::from("application/x-www-form-urlencoded");
        let headers = [("accept", &json), ("content-type", &kind), ("authorization", &authorization)];
        let what = Ask { method: Method::POST, headers: &headers, body: &form };
        let response = http::ask(runtime, "the identity provider", &self.endpoint, what).await?;
        read(&response, runtime).map_err(|error| error.with_peer(self.endpoint.to_string()))
    }
}

impl TokenProvider for Oidc {
    fn token<'a>(&'a self, runtime: &'a Arc<dyn Runtime>) -> BoxFuture<'a, Result<Token>> {
        Box::pin(self.ask(runtime))
    }
}

/// The token in an answer. Nothing of an answer that may be one is shown.
fn read(response: &Response, runtime: &Arc<dyn Runtime>) -> Result<Token> {
    let json: Option<serde_json::Value> = serde_json::from_slice(&response.body).ok();
    let text = |name: &str| json.as_ref()?.get(name)?.as_str().map(said);
    if response.status != 200 {
        let why =
            [text("error"), text("error_description")].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        let error = |kind, advice: &str| {
            let message = format!("the identity provider answered with HTTP {}{why}", response.status);
            Error::new(kind, message).with_advice(advice)
        };
        return Err(match response.status {
            300..400 => error(
                ErrorKind::Config,
                "it redirects, which is not followed: give the address of the token endpoint itself",
            ),
            429 | 500.. => {
                error(ErrorKind::Network, "it is overloaded or broken; it is asked again after a while")
            }
            404 | 405 => error(ErrorKind::Config, "is this the address of its token endpoint?"),
            _ => error(ErrorKind::Authentication, "check the client's id, its secret and the scope"),
        });
    }
    let wrong =
        |what: &str| Error::new(ErrorKind::Protocol, format!("the identity provider's answer {what}"));
    let json = json
        .as_ref()
        .ok_or_else(|| wrong("is no JSON").with_advice("is this the address of its token endpoint?"))?;
    let token =
        json.get("access_token").and_then(serde_json::Value::as_str).filter(|token| !token.is_empty());
    let token = Token::new(token.ok_or_else(|| wrong("has no access_token"))?);
    let seconds = match json.get("expires_in") {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(text)) => Some(text.parse::<f64>().ok()),
        Some(other) => Some(other.as_f64()),
    };
    match seconds {
        Some(Some(seconds)) if (0.0..=LIFE_MAX).contains(&seconds) => {
            Ok(token.with_expires_at(runtime.wall_clock() + Duration::from_secs_f64(seconds)))
        }
        Some(_) => Err(wrong("has an expires_in that is no length of time")),
        None if token.expires_at().is_some() => Ok(token),
        None => Err(wrong("does not say when the token ends, and the token does not either")),
    }
}

#[cfg(all(test, feature = "broker"))]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::runtime::sim::SimRuntime;

    /// What comes of a provider that answers with these bytes, and what it was asked.
    async fn asked(answer: &str) -> (Result<Token>, String) {
        let sim = SimRuntime::new(1);
        let listener = sim.listen("localhost", 0).await.unwrap();
        let url = format!("http://localhost:{}/token?x=1", listener.local_addr().port());
        let provider = Oidc::client_credentials(&url, "id", "canary").unwrap().scope("a b");
        let runtime: Arc<dyn Runtime> = sim;
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"scope=a%20b") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            let _ = stream.write_all(answer.as_bytes()).await;
            if answer.is_empty() {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            String::from_utf8(request).unwrap()
        };
        let (token, request) = tokio::join!(provider.token(&runtime), serve);
        (token, request)
    }

    fn http(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_gives_a_token_for_id_and_secret() {
        let (token, request) =
            asked(&http("200 OK", r#"{"access_token":"t-1","expires_in":3600,"token_type":"Bearer"}"#)).await;
        let token = token.unwrap();
        assert_eq!(token.value().expose(), "t-1");
        assert!(token.expires_at().is_some());
        let lower = request.to_lowercase();
        for part in [
            "post /token?x=1 http/1.1\r\n",
            "authorization: basic awq6y2fuyxj5\r\n",
            "grant_type=client_credentials&scope=",
        ] {
            assert!(lower.contains(part), "{part}: {request}");
        }
        // Chunked, and with a number in quotes.
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2a\r\n{\"access_token\":\"t-2\",\"expires_in\":\"3600\"}\r\n0\r\n\r\n";
        assert_eq!(asked(chunked).await.0.unwrap().value().expose(), "t-2");
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_else_it_answers_is_an_error_that_says_so() {
        let huge = "x".repeat(1024 * 1024 + 1);
        for (answer, expected) in [
            (http("200 OK", "<html>"), "is no JSON"),
            (http("200 OK", "{}"), "no access_token"),
            (http("200 OK", r#"{"access_token":7}"#), "no access_token"),
            (http("200 OK", r#"{"access_token":"secret-token"}"#), "when the token ends"),
            (http("200 OK", r#"{"access_token":"secret-token","expires_in":-1}"#), "no length of time"),
            (http("200 OK", r#"{"access_token":"secret-token","expires_in":1e300}"#), "no length of time"),
            (http("200 OK", r#"{"access_token":"secret-token","expires_in":"soon"}"#), "no length of time"),
            (
                http("401 Unauthorized", r#"{"error":"invalid_client","error_description":"who\u001b?"}"#),
                "HTTP 401 (invalid_client: who\u{fffd}?)",
            ),
            (http("302 Found", ""), "it redirects"),
            (http("503 Unavailable", "busy"), "it is overloaded"),
            (http("404 Not Found", ""), "is this the address"),
            (http("200 OK", &huge), "more than 1048576 bytes"),
            (format!("HTTP/1.1 200 OK\r\nx: {huge}\r\n\r\n"), "did not answer in HTTP"),
            ("SSH-2.0-x\r\n".to_owned(), "did not answer in HTTP"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned(), "broke off"),
            (String::new(), "did not answer within 10s"),
        ] {
            let error = asked(&answer).await.0.unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("http://localhost:"), "{expected}: {error}");
            assert!(!error.contains("canary") && !error.contains("secret-token"), "{error}");
        }
        let provider = Oidc::client_credentials("http://localhost:1/token", "id", "canary").unwrap();
        let runtime: Arc<dyn Runtime> = SimRuntime::new(1);
        let error = provider.token(&runtime).await.unwrap_err().to_string();
        assert!(error.contains("cannot be reached"), "{error}");
    }
}
