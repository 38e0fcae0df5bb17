//! AWS_MSK_IAM: a request to Amazon's API that is signed and never sent; the broker checks the signature.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::exchange::{Exchange, Mechanism};
use super::login::said;
use super::sigv4::{Scope, empty, presign};
use crate::error::Phase;
use crate::runtime::{BoxFuture, Runtime};
use crate::types::Secret;
use crate::{Error, ErrorKind, Result};

/// How long a signature is good. It is used at once.
const EXPIRES: u32 = 900;
/// Credentials that end so soon are asked for anew.
const MARGIN: Duration = Duration::from_secs(300);
const ACTION: &str = "kafka-cluster:Connect";

/// Credentials of AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsCredentials {
    pub(super) access_key: String,
    pub(super) secret_key: Secret,
    pub(super) session_token: Option<Secret>,
    pub(super) expires_at: Option<SystemTime>,
}

impl AwsCredentials {
    /// Those of an access key, without an end.
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<Secret>) -> Self {
        let (access_key, secret_key) = (access_key.into(), secret_key.into());
        Self { access_key, secret_key, session_token: None, expires_at: None }
    }

    /// The token that temporary credentials have.
    #[must_use]
    pub fn with_session_token(mut self, token: impl Into<Secret>) -> Self {
        self.session_token = Some(token.into());
        self
    }

    /// When they end.
    #[must_use]
    pub fn with_expires_at(mut self, time: SystemTime) -> Self {
        self.expires_at = Some(time);
        self
    }
}

/// Where credentials of AWS come from.
pub trait AwsCredentialsProvider: fmt::Debug + Send + Sync + 'static {
    /// Gets credentials. It is asked again when they near their end, and not while an answer is awaited.
    ///
    /// # Errors
    ///
    /// Whatever stands in the way. The error is shown to users: it must not hold secrets.
    fn credentials<'a>(&'a self, runtime: &'a Arc<dyn Runtime>) -> BoxFuture<'a, Result<AwsCredentials>>;
}

impl AwsCredentialsProvider for AwsCredentials {
    fn credentials<'a>(&'a self, _: &'a Arc<dyn Runtime>) -> BoxFuture<'a, Result<AwsCredentials>> {
        Box::pin(async move { Ok(self.clone()) })
    }
}

/// AWS_MSK_IAM: logs in to Amazon MSK with credentials of AWS.
///
/// ```no_run
/// # async fn example() -> carafe::Result<()> {
/// use carafe::client::{Client, sasl::{AwsCredentials, AwsMskIam}};
///
/// let login = AwsMskIam::new(AwsCredentials::new("AKIA…", "secret"));
/// let client = Client::builder().bootstrap_servers("b-1.x.kafka.eu-west-1.amazonaws.com:9098").sasl(login).build().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AwsMskIam {
    provider: Arc<dyn AwsCredentialsProvider>,
    region: Option<String>,
    /// Where names do not say it.
    fallback_region: Option<String>,
    /// Held while the provider is asked, so that it is asked once.
    kept: Arc<Mutex<Option<AwsCredentials>>>,
}

impl fmt::Debug for AwsMskIam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider, region, .. } = self;
        f.debug_struct("AwsMskIam")
            .field("provider", provider)
            .field("region", region)
            .finish_non_exhaustive()
    }
}

impl AwsMskIam {
    /// With credentials from `provider`.
    pub fn new(provider: impl AwsCredentialsProvider) -> Self {
        Self { provider: Arc::new(provider), region: None, fallback_region: None, kept: Arc::default() }
    }

    /// The region of the cluster; default: what the names of its brokers say.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into()).filter(|region| !region.is_empty());
        self
    }

    /// The region of a cluster whose brokers have names of your own, which do not say it; default: none.
    #[must_use]
    pub fn fallback_region(mut self, region: impl Into<String>) -> Self {
        self.fallback_region = Some(region.into()).filter(|region| !region.is_empty());
        self
    }

    async fn credentials(&self, runtime: &Arc<dyn Runtime>) -> Result<AwsCredentials> {
        let mut kept = self.kept.lock().await;
        let soon = runtime.wall_clock() + MARGIN;
        match &*kept {
            Some(known) if known.expires_at.is_none_or(|end| soon < end) => Ok(known.clone()),
            _ => Ok(kept.insert(self.provider.credentials(runtime).await?).clone()),
        }
    }

    fn message(&self, host: &str, credentials: &AwsCredentials, now: SystemTime) -> Result<Secret> {
        let known = self.region.as_deref().or_else(|| region_of(host));
        let region = known.or(self.fallback_region.as_deref()).ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                format!("the name {host} does not say in which region of AWS the broker is"),
            )
            .with_phase(Phase::Sasl)
            .with_advice("say it with AwsMskIam::region")
        })?;
        let scope = Scope {
            region,
            service: "kafka-cluster",
            access_key: &credentials.access_key,
            secret_key: credentials.secret_key.expose(),
            session_token: credentials.session_token.as_ref().map(Secret::expose),
        };
        let signed = presign(&scope, host, "/", &[("Action", ACTION)], EXPIRES, &empty(), now);
        let mut fields = Map::new();
        let mut set = |name: &str, value: &str| fields.insert(name.to_owned(), Value::from(value));
        set("version", "2020_10_22");
        set("host", host);
        set("user-agent", concat!("carafe/", env!("CARGO_PKG_VERSION")));
        set("action", ACTION);
        set("x-amz-algorithm", "AWS4-HMAC-SHA256");
        set("x-amz-credential", &signed.credential);
        set("x-amz-date", &signed.date);
        if let Some(token) = scope.session_token {
            set("x-amz-security-token", token);
        }
        set("x-amz-signedheaders", "host");
        set("x-amz-expires", &EXPIRES.to_string());
        set("x-amz-signature", &signed.signature);
        Ok(Secret::from(Value::Object(fields).to_string()))
    }
}

/// The label before `amazonaws.com` or another of its domains.
fn region_of(host: &str) -> Option<&str> {
    let host = host.trim_end_matches('.');
    let inside =
        [".amazonaws.com", ".amazonaws.com.cn"].iter().find_map(|domain| host.strip_suffix(domain))?;
    inside.rsplit('.').next().filter(|label| label.contains('-'))
}

impl Mechanism for AwsMskIam {
    fn name(&self) -> &str {
        "AWS_MSK_IAM"
    }

    fn authenticate<'a>(&'a self, exchange: &'a mut Exchange) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let credentials = self.credentials(exchange.runtime()).await?;
            let now = exchange.runtime().wall_clock();
            let message = self.message(exchange.host(), &credentials, now)?;
            let answer = exchange.send(message.expose().to_owned()).await?;
            let json: Option<Value> = serde_json::from_slice(&answer).ok();
            if json.is_some_and(|json| json.get("version").is_some()) {
                return Ok(());
            }
            let shown = said(&String::from_utf8_lossy(&answer));
            let message = format!("the broker did not confirm who we are: {shown:?}");
            Err(Error::new(ErrorKind::Authentication, message).with_phase(Phase::Sasl))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::sasl::sigv4::parse_time;

    #[test]
    fn regions_come_from_names() {
        for (host, expected) in [
            ("b-1.x.abc123.c2.kafka.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("boot-x.c3.kafka-serverless.us-east-1.amazonaws.com.", Some("us-east-1")),
            ("b-1.x.kafka.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("kafka.example", None),
            ("amazonaws.com", None),
            ("x.amazonaws.com", None),
        ] {
            assert_eq!(region_of(host), expected, "{host}");
        }
    }

    /// The fields that a broker of MSK reads; the signature itself is held to AWS's examples in `sigv4`.
    #[test]
    fn messages_have_what_brokers_read_and_no_secret() {
        let login = AwsMskIam::new(AwsCredentials::new("AKIA", "canary"));
        let credentials = AwsCredentials::new("AKIA", "canary").with_session_token("session");
        let now = parse_time("2026-01-02T03:04:05Z").unwrap();
        let host = "b-1.x.kafka.eu-west-1.amazonaws.com";
        let message = login.message(host, &credentials, now).unwrap();
        let json: Value = serde_json::from_str(message.expose()).unwrap();
        let text = |name: &str| json[name].as_str().unwrap_or_default();
        for (name, expected) in [
            ("version", "2020_10_22"),
            ("host", host),
            ("action", "kafka-cluster:Connect"),
            ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
            ("x-amz-credential", "AKIA/20260102/eu-west-1/kafka-cluster/aws4_request"),
            ("x-amz-date", "20260102T030405Z"),
            ("x-amz-security-token", "session"),
            ("x-amz-signedheaders", "host"),
            ("x-amz-expires", "900"),
        ] {
            assert_eq!(text(name), expected);
        }
        assert_eq!(text("x-amz-signature").len(), 64);
        assert!(!message.expose().contains("canary") && !format!("{login:?}").contains("canary"));
        let plain = login.message(host, &AwsCredentials::new("AKIA", "canary"), now).unwrap();
        assert!(!plain.expose().contains("security-token"));
        let error = login.message("kafka.example", &credentials, now).unwrap_err().to_string();
        assert!(error.contains("region"), "{error}");
        assert!(login.region("eu-west-1").message("kafka.example", &credentials, now).is_ok());
    }
}
