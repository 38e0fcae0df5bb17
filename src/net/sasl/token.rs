//! Tokens: where they come from, and how long one is used.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::runtime::{BoxFuture, Runtime};
use crate::types::Secret;
use crate::{Error, ErrorKind, Result};

/// So much of a token's life is used before another is asked for.
const WINDOW: f64 = 0.8;
/// How far the moments of several clients lie apart, as a part of a token's life.
const JITTER: f64 = 0.05;
/// Tokens are not asked for more often, unless they end before.
const PERIOD_MIN: Duration = Duration::from_secs(60);
/// A token that ends so soon is not used any more.
const MARGIN: Duration = Duration::from_secs(5);
/// Largest file with a token.
const FILE_MAX: u64 = 1024 * 1024;
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(10), jitter: 0.2 };

/// A token, and when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    value: Secret,
    expires_at: Option<SystemTime>,
}

impl Token {
    /// A token that ends when it says so itself, if it is a JWT with `exp`; else it has no end.
    pub fn new(value: impl Into<Secret>) -> Self {
        let value = value.into();
        let expires_at = expiry_of(value.expose());
        Self { value, expires_at }
    }

    /// When it ends.
    #[must_use]
    pub fn with_expires_at(mut self, time: SystemTime) -> Self {
        self.expires_at = Some(time);
        self
    }

    /// The token itself.
    pub fn value(&self) -> &Secret {
        &self.value
    }

    /// When it ends, if that is known.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }
}

/// `exp` of a JWT. Nothing else of it is looked at, and nothing is believed: a token that we use too long is refused.
fn expiry_of(token: &str) -> Option<SystemTime> {
    let payload = token.split('.').nth(1)?.trim_end_matches('=');
    let payload: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let seconds = payload.get("exp")?.as_f64().filter(|seconds| (0.0..1e11).contains(seconds))?;
    Some(UNIX_EPOCH + Duration::from_secs_f64(seconds))
}

/// Where tokens come from.
pub trait TokenProvider: fmt::Debug + Send + Sync + 'static {
    /// Gets a token. It is asked again when the token nears its end, and not while an answer is awaited. It has as long as
    /// connecting to a broker has (`socket.connection.setup.timeout.ms`), and is dropped when that is over.
    ///
    /// # Errors
    ///
    /// Whatever stands in the way; it is asked again after a back-off. The error is shown to users: it must not hold secrets.
    fn token<'a>(&'a self, runtime: &'a Arc<dyn Runtime>) -> BoxFuture<'a, Result<Token>>;
}

/// Always the same token.
impl TokenProvider for Token {
    fn token<'a>(&'a self, _: &'a Arc<dyn Runtime>) -> BoxFuture<'a, Result<Token>> {
        Box::pin(async move { Ok(self.clone()) })
    }
}

/// A token that something else writes to a file and renews there, such as Kubernetes; at most 1 MiB. White space around it is
/// ignored.
#[derive(Clone, Debug)]
pub struct FileToken(PathBuf);

impl FileToken {
    /// From the file `path`, which is read anew each time.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

impl TokenProvider for FileToken {
    fn token<'a>(&'a self, runtime: &'a Arc<dyn Runtime>) -> BoxFuture<'a, Result<Token>> {
        Box::pin(async move {
            let path = self.0.clone();
            let failed = |source: std::io::Error| {
                let message = format!("the token file {} cannot be read", self.0.display());
                Error::new(ErrorKind::Io, message)
                    .with_source(source)
                    .with_advice("who writes it, and may we read it?")
            };
            let read = runtime.blocking("carafe-token", move || read_small(&path)).await;
            let text = read.map_err(std::io::Error::other).and_then(|read| read).map_err(failed)?;
            Ok(Token::new(text.trim()))
        })
    }
}

/// The text of a file that has to be small.
pub(super) fn read_small(path: &std::path::Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX {
        return Err(std::io::Error::other(format!("it has more than {FILE_MAX} bytes")));
    }
    Ok(text)
}

/// A token in use.
#[derive(Debug)]
struct Kept {
    token: Token,
    /// When another is asked for.
    renew_at: Option<Instant>,
    /// When it is used no more.
    ends: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    kept: Option<Kept>,
    /// The latest failures of the provider in a row, when it is asked again, and why it failed.
    failed: Option<(u32, Instant, Error)>,
}

/// The token of one mechanism, for all its connections.
pub(super) struct Cache {
    provider: Arc<dyn TokenProvider>,
    /// Held while the provider is asked, so that it is asked once.
    state: Mutex<State>,
}

impl Cache {
    pub(super) fn new(provider: Arc<dyn TokenProvider>) -> Self {
        Self { provider, state: Mutex::default() }
    }

    pub(super) fn provider(&self) -> &dyn TokenProvider {
        &*self.provider
    }

    /// A token that is good for a while. Cancel-safe.
    pub(super) async fn token(&self, runtime: &Arc<dyn Runtime>) -> Result<Token> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        let good = state.kept.as_ref().filter(|kept| kept.ends.is_none_or(|ends| now < ends));
        if let Some(kept) = good.filter(|kept| kept.renew_at.is_none_or(|at| now < at)) {
            return Ok(kept.token.clone());
        }
        let good = good.map(|kept| kept.token.clone());
        if let Some((_, again, error)) = state.failed.as_ref().filter(|(_, again, _)| now < *again) {
            let wait = again.saturating_duration_since(now);
            return good.ok_or_else(|| error.clone().with_throttle(wait));
        }
        let result = self.provider.token(runtime).await.and_then(|token| keep(token, runtime));
        match result {
            Ok(kept) => {
                let token = kept.token.clone();
                *state = State { kept: Some(kept), failed: None };
                Ok(token)
            }
            Err(error) => {
                let failures = state.failed.as_ref().map_or(0, |(failures, ..)| failures.saturating_add(1));
                let again = Instant::now() + BACKOFF.delay(failures, runtime.random());
                state.failed = Some((failures, again, error.clone()));
                good.ok_or(error)
            }
        }
    }

    /// A broker refused it: another is asked for the next time, though not at once.
    pub(super) async fn refused(&self, token: &Token) {
        let mut state = self.state.lock().await;
        if let Some(kept) = state.kept.as_mut().filter(|kept| kept.token == *token) {
            kept.renew_at = kept.renew_at.map(|at| at.min(Instant::now()));
        }
    }
}

/// How long a token is used.
fn keep(token: Token, runtime: &Arc<dyn Runtime>) -> Result<Kept> {
    let (now, wall) = (Instant::now(), runtime.wall_clock());
    let Some(expires_at) = token.expires_at else { return Ok(Kept { token, renew_at: None, ends: None }) };
    let life = expires_at.duration_since(wall).unwrap_or_default();
    if life <= MARGIN {
        return Err(Error::new(
            ErrorKind::Authentication,
            "the token from the provider has expired already, or does at once",
        )
        .with_advice("check the clocks of this machine and of the provider"));
    }
    let draw = f64::from(u32::try_from(runtime.random() >> 32).unwrap_or(0)) / f64::from(u32::MAX);
    let used = life.mul_f64(WINDOW + JITTER * (2.0 * draw - 1.0));
    let used = if PERIOD_MIN < life - MARGIN { used.max(PERIOD_MIN) } else { used };
    let ends = life - MARGIN;
    Ok(Kept { token, renew_at: Some(now + used.min(ends)), ends: Some(now + ends) })
}

#[cfg(all(test, feature = "broker"))]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::time::{advance, sleep};

    use super::*;
    use crate::runtime::sim::SimRuntime;

    /// Gives tokens that live for so long, unless it is down.
    #[derive(Debug, Default)]
    struct Office {
        life: AtomicU64,
        asked: AtomicU64,
    }

    impl TokenProvider for Arc<Office> {
        fn token<'a>(&'a self, runtime: &'a Arc<dyn Runtime>) -> BoxFuture<'a, Result<Token>> {
            Box::pin(async move {
                let number = self.asked.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(50)).await;
                match self.life.load(Ordering::Relaxed) {
                    0 => Err(Error::new(ErrorKind::Network, "the office is closed")),
                    life => {
                        let expires_at = runtime.wall_clock() + Duration::from_secs(life);
                        Ok(Token::new(format!("token-{number}")).with_expires_at(expires_at))
                    }
                }
            })
        }
    }

    fn bench(life: u64) -> (Arc<Office>, Cache, Arc<dyn Runtime>) {
        let office = Arc::new(Office::default());
        office.life.store(life, Ordering::Relaxed);
        let cache = Cache::new(Arc::new(Arc::clone(&office)));
        (office, cache, SimRuntime::new(3))
    }

    #[tokio::test(start_paused = true)]
    async fn one_token_serves_all_until_it_nears_its_end() {
        let (office, cache, runtime) = bench(1_000);
        let asked = || office.asked.load(Ordering::Relaxed);
        let (a, b, c) = tokio::join!(cache.token(&runtime), cache.token(&runtime), cache.token(&runtime));
        let first = a.unwrap();
        assert_eq!((&b.unwrap(), &c.unwrap(), asked()), (&first, &first, 1));
        advance(Duration::from_secs(745)).await;
        assert_eq!((cache.token(&runtime).await.unwrap(), asked()), (first.clone(), 1));
        advance(Duration::from_secs(110)).await;
        // The provider is away: the old one is still good.
        office.life.store(0, Ordering::Relaxed);
        assert_eq!((cache.token(&runtime).await.unwrap(), asked()), (first.clone(), 2));
        office.life.store(1_000, Ordering::Relaxed);
        advance(Duration::from_secs(1)).await;
        assert_ne!((cache.token(&runtime).await.unwrap(), asked()), (first, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_fails_is_not_stormed() {
        let (office, cache, runtime) = bench(0);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            let error = cache.token(&runtime).await.unwrap_err();
            assert!(error.to_string().contains("the office is closed"), "{error}");
            sleep(Duration::from_millis(10)).await;
        }
        let asked = office.asked.load(Ordering::Relaxed);
        assert!((8..16).contains(&asked), "{asked}");
        // Tokens that have expired, or do at once, are none.
        office.life.store(5, Ordering::Relaxed);
        sleep(Duration::from_secs(20)).await;
        let error = cache.token(&runtime).await.unwrap_err();
        assert!(error.to_string().contains("expired"), "{error}");
        // Short ones are used for the greater part of their life.
        office.life.store(30, Ordering::Relaxed);
        sleep(Duration::from_secs(20)).await;
        let first = cache.token(&runtime).await.unwrap();
        advance(Duration::from_secs(20)).await;
        assert_eq!(cache.token(&runtime).await.unwrap(), first);
        advance(Duration::from_secs(6)).await;
        assert_ne!(cache.token(&runtime).await.unwrap(), first);
    }

    #[test]
    fn the_end_of_a_jwt_is_read_and_nothing_else() {
        let jwt = |payload: &str| format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(payload));
        let end = |token: &str| Token::new(token).expires_at();
        assert_eq!(end(&jwt(r#"{"exp":1700000000}"#)), Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
        for token in [
            "",
            "a.b",
            "opaque",
            "a.!.c",
            &jwt("{}"),
            &jwt(r#"{"exp":-1}"#),
            &jwt(r#"{"exp":1e300}"#),
            &jwt("["),
        ] {
            assert_eq!(end(token), None, "{token}");
        }
    }
}
