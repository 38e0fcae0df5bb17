//! Where AWS puts credentials: variables, a file of profiles, and the endpoints of containers and instances.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use hyper::Method;

use super::http::{self, Ask, Response, Url};
use super::msk::{AwsCredentials, AwsCredentialsProvider};
use super::sigv4::parse_time;
use super::token::read_small;
use crate::runtime::{BoxFuture, Runtime};
use crate::types::Secret;
use crate::{Error, ErrorKind, Result};

/// Where the credentials of an instance are, unless a variable says otherwise.
const INSTANCE: &str = "http://169.254.169.254";
/// Where those of a container are.
const CONTAINER: &str = "http://169.254.170.2";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

/// Finds credentials where AWS's own tools do: in the variables `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and
/// `AWS_SESSION_TOKEN`; in a profile of `~/.aws/credentials`; at the endpoint of a container
/// (`AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` or `_FULL_URI`); at that of an instance (IMDSv2). The first place that has something is
/// used. Roles that need a call to STS (`AWS_ROLE_ARN`, `role_arn` in a profile) are refused with that reason.
///
/// ```no_run
/// use carafe::client::sasl::{AwsMskIam, AwsEnvironment};
///
/// let login = AwsMskIam::new(AwsEnvironment::new(std::env::vars()));
/// ```
#[derive(Clone)]
pub struct AwsEnvironment {
    variables: BTreeMap<String, Secret>,
    instance: String,
    container: String,
}

impl std::fmt::Debug for AwsEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsEnvironment").field("variables", &self.variables).finish_non_exhaustive()
    }
}

impl AwsEnvironment {
    /// With these variables of the environment, of which those of AWS and `HOME` matter.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables = variables
            .into_iter()
            .filter(|(name, value)| (name.starts_with("AWS_") || name == "HOME") && !value.is_empty())
            .map(|(name, value)| (name, Secret::from(value)))
            .collect();
        Self { variables, instance: INSTANCE.to_owned(), container: CONTAINER.to_owned() }
    }

    /// The profile of the file; default: `AWS_PROFILE`, or else `default`.
    #[must_use]
    pub fn profile(mut self, name: impl Into<String>) -> Self {
        self.variables.insert("AWS_PROFILE".to_owned(), Secret::from(name.into()));
        self
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(Secret::expose)
    }

    fn variables(&self) -> Option<AwsCredentials> {
        let credentials =
            AwsCredentials::new(self.get("AWS_ACCESS_KEY_ID")?, self.get("AWS_SECRET_ACCESS_KEY")?);
        Some(match self.get("AWS_SESSION_TOKEN") {
            Some(token) => credentials.with_session_token(token),
            None => credentials,
        })
    }

    async fn file(&self, runtime: &Arc<dyn Runtime>) -> Result<Option<AwsCredentials>> {
        let home = || Some(PathBuf::from(self.get("HOME")?).join(".aws").join("credentials"));
        let Some(path) = self.get("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or_else(home) else {
            return Ok(None);
        };
        let shown = path.display().to_string();
        let read = runtime.blocking("carafe-aws", move || read_small(&path)).await;
        let text = match read.map_err(std::io::Error::other).and_then(|read| read) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Error::new(ErrorKind::Io, format!("{shown} cannot be read")).with_source(error));
            }
        };
        let profile = self.get("AWS_PROFILE").unwrap_or("default");
        match profile_of(&text, profile) {
            Ok(None) if self.get("AWS_PROFILE").is_some() => {
                Err(Error::new(ErrorKind::Config, format!("{shown} has no profile {profile}")))
            }
            Ok(found) => Ok(found),
            Err(problem) => {
                Err(Error::new(ErrorKind::Config, format!("the profile {profile} in {shown} {problem}")))
            }
        }
    }

    async fn container(&self, runtime: &Arc<dyn Runtime>) -> Result<Option<AwsCredentials>> {
        let relative = self.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        let url = match (relative, self.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
            (Some(path), _) => format!("{}{path}", self.container),
            (None, Some(url)) => url.to_owned(),
            (None, None) => return Ok(None),
        };
        let token = match self.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(path) => {
                let path = PathBuf::from(path);
                let read = runtime.blocking("carafe-aws", move || read_small(&path)).await;
                let text = read.map_err(std::io::Error::other).and_then(|read| read).map_err(|error| {
                    Error::new(ErrorKind::Io, "the token of the container cannot be read").with_source(error)
                })?;
                Some(Secret::from(text.trim()))
            }
            None => self.get("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Secret::from),
        };
        let headers: Vec<_> = token.iter().map(|token| ("authorization", token)).collect();
        let response = get(runtime, &url, &headers).await?;
        good(&response).and_then(credentials_of).map(Some)
    }

    async fn instance(&self, runtime: &Arc<dyn Runtime>) -> Result<AwsCredentials> {
        let life = Secret::from("21600");
        let headers = [("x-aws-ec2-metadata-token-ttl-seconds", &life)];
        let what = Ask { method: Method::PUT, headers: &headers, body: &Secret::from("") };
        let url = url(&format!("{}/latest/api/token", self.instance))?;
        let response = http::ask(runtime, "the instance's metadata service", &url, what).await?;
        let token = Secret::from(String::from_utf8_lossy(good(&response)?).trim());
        let headers = [("x-aws-ec2-metadata-token", &token)];
        let response = get(runtime, &format!("{}{ROLES}", self.instance), &headers).await?;
        let roles = String::from_utf8_lossy(good(&response)?).into_owned();
        let role = roles.lines().next().map(str::trim).filter(|role| !role.is_empty()).ok_or_else(|| {
            Error::new(ErrorKind::Config, "the instance has no role")
                .with_advice("give it an instance profile")
        })?;
        let response = get(runtime, &format!("{}{ROLES}{role}", self.instance), &headers).await?;
        credentials_of(good(&response)?)
    }

    async fn find(&self, runtime: &Arc<dyn Runtime>) -> Result<AwsCredentials> {
        if let Some(credentials) = self.variables() {
            return Ok(credentials);
        }
        if self.get("AWS_ROLE_ARN").is_some() || self.get("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() {
            let message = "a role by web identity needs STS over HTTPS, which is not part of this version";
            return Err(Error::new(ErrorKind::Config, message)
                .with_advice("hand a provider of your own to AwsMskIam"));
        }
        if let Some(credentials) = self.file(runtime).await? {
            return Ok(credentials);
        }
        if let Some(credentials) = self.container(runtime).await? {
            return Ok(credentials);
        }
        let off = self.get("AWS_EC2_METADATA_DISABLED").is_some_and(|off| off.eq_ignore_ascii_case("true"));
        let nothing = || {
            Error::new(ErrorKind::Config, "no credentials of AWS were found").with_advice(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them to a profile of ~/.aws/credentials",
            )
        };
        if off {
            return Err(nothing());
        }
        self.instance(runtime).await.map_err(|error| match error.kind() {
            ErrorKind::Network => nothing().with_source(error),
            _ => error,
        })
    }
}

impl AwsCredentialsProvider for AwsEnvironment {
    fn credentials<'a>(&'a self, runtime: &'a Arc<dyn Runtime>) -> BoxFuture<'a, Result<AwsCredentials>> {
        Box::pin(self.find(runtime))
    }
}

fn url(text: &str) -> Result<Url> {
    let wrong =
        |problem| Error::new(ErrorKind::Config, format!("the address of AWS's credentials {problem}"));
    Url::parse(text).map_err(wrong)
}

async fn get(runtime: &Arc<dyn Runtime>, text: &str, headers: &[(&str, &Secret)]) -> Result<Response> {
    let what = Ask { method: Method::GET, headers, body: &Secret::from("") };
    http::ask(runtime, "AWS's credentials service", &url(text)?, what).await
}

fn good(response: &Response) -> Result<&[u8]> {
    match response.status {
        200 => Ok(&response.body),
        status => {
            let message = format!("AWS's credentials service answered with HTTP {status}");
            Err(Error::new(ErrorKind::Authentication, message))
        }
    }
}

/// The credentials in an answer of an endpoint. Nothing of it is shown.
fn credentials_of(body: &[u8]) -> Result<AwsCredentials> {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let text = |name: &str| json.as_ref()?.get(name)?.as_str();
    let (Some(key), Some(secret)) = (text("AccessKeyId"), text("SecretAccessKey")) else {
        return Err(Error::new(
            ErrorKind::Protocol,
            "the answer of AWS's credentials service has no credentials",
        ));
    };
    let mut credentials = AwsCredentials::new(key, secret);
    if let Some(token) = text("Token") {
        credentials = credentials.with_session_token(token);
    }
    if let Some(end) = text("Expiration") {
        let wrong = || Error::new(ErrorKind::Protocol, "the end of AWS's credentials is no time");
        credentials = credentials.with_expires_at(parse_time(end).ok_or_else(wrong)?);
    }
    Ok(credentials)
}

/// A profile of a file such as `~/.aws/credentials`.
fn profile_of(text: &str, profile: &str) -> Result<Option<AwsCredentials>, String> {
    let mut fields = BTreeMap::new();
    let (mut inside, mut found) = (false, false);
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let name = name.trim();
            inside = name == profile || name.strip_prefix("profile ").map(str::trim) == Some(profile);
            found |= inside;
        } else if let Some((name, value)) = line.split_once('=').filter(|_| inside) {
            fields.insert(name.trim().to_ascii_lowercase(), value.trim());
        }
    }
    match (fields.get("aws_access_key_id"), fields.get("aws_secret_access_key")) {
        (Some(key), Some(secret)) => {
            let credentials = AwsCredentials::new(*key, *secret);
            Ok(Some(match fields.get("aws_session_token") {
                Some(token) => credentials.with_session_token(*token),
                None => credentials,
            }))
        }
        _ if fields.contains_key("role_arn") => {
            Err("names a role, which needs STS over HTTPS and is not part of this version".to_owned())
        }
        _ if found => Err("has no aws_access_key_id or no aws_secret_access_key".to_owned()),
        _ => Ok(None),
    }
}

#[cfg(all(test, feature = "broker"))]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::runtime::sim::SimRuntime;

    const JSON: &str =
        r#"{"AccessKeyId":"AK","SecretAccessKey":"canary","Token":"t","Expiration":"2030-01-01T00:00:00Z"}"#;

    fn found(variables: &[(&str, &str)]) -> AwsEnvironment {
        AwsEnvironment::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn variables_and_profiles_have_credentials() {
        let variables =
            [("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "canary"), ("AWS_SESSION_TOKEN", "t")];
        let expected = AwsCredentials::new("AK", "canary").with_session_token("t");
        let environment = found(&variables);
        assert_eq!(environment.variables(), Some(expected.clone()));
        assert!(!format!("{environment:?}").contains("canary"));
        let text = "# mine\n[default]\naws_access_key_id = D\naws_secret_access_key=canary\n\n[profile shop]\n\
                    AWS_ACCESS_KEY_ID=AK\naws_secret_access_key = canary\naws_session_token=t\n[half]\n\
                    aws_access_key_id=x\n[role]\nrole_arn=arn:x\n";
        assert_eq!(profile_of(text, "shop"), Ok(Some(expected)));
        assert_eq!(profile_of(text, "default").unwrap().unwrap().access_key, "D");
        assert_eq!(profile_of(text, "nobody"), Ok(None));
        assert!(profile_of(text, "half").unwrap_err().contains("no aws_access_key_id or no"));
        assert!(profile_of(text, "role").unwrap_err().contains("STS"));
    }

    /// Answers requests in order; returns what was asked.
    async fn serve(listener: Box<dyn crate::runtime::Listener>, answers: &[&str]) -> Vec<String> {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            asked.push(String::from_utf8(request).unwrap());
        }
        asked
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_have_credentials() {
        let sim = SimRuntime::new(1);
        let runtime: Arc<dyn Runtime> = sim.clone();
        let listener = sim.listen("localhost", 0).await.unwrap();
        let base = format!("http://localhost:{}", listener.local_addr().port());
        let mut environment = found(&[]);
        environment.instance.clone_from(&base);
        let (credentials, asked) =
            tokio::join!(environment.credentials(&runtime), serve(listener, &["token-1", "role-1\n", JSON]));
        let credentials = credentials.unwrap();
        assert_eq!(
            (credentials.access_key.as_str(), credentials.expires_at),
            ("AK", parse_time("2030-01-01T00:00:00Z"))
        );
        assert!(asked[0].starts_with("PUT /latest/api/token "), "{asked:?}");
        assert!(asked[2].starts_with("GET /latest/meta-data/iam/security-credentials/role-1 "), "{asked:?}");
        assert!(asked[2].contains("x-aws-ec2-metadata-token: token-1\r\n"), "{asked:?}");

        let listener = sim.listen("localhost", 0).await.unwrap();
        let full = format!("http://localhost:{}/creds", listener.local_addr().port());
        let environment = found(&[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &full),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "auth-1"),
        ]);
        let (credentials, asked) = tokio::join!(environment.credentials(&runtime), serve(listener, &[JSON]));
        assert_eq!(credentials.unwrap().session_token, Some(Secret::from("t")));
        assert!(
            asked[0].starts_with("GET /creds ") && asked[0].contains("authorization: auth-1\r\n"),
            "{asked:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_used_says_so() {
        let runtime: Arc<dyn Runtime> = SimRuntime::new(1);
        for (variables, expected) in [
            (
                &[("AWS_EC2_METADATA_DISABLED", "true")][..],
                "no credentials of AWS were found; set AWS_ACCESS_KEY_ID",
            ),
            (&[("AWS_ROLE_ARN", "arn:x")], "web identity"),
            (&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "https://localhost/x")], "https is not spoken"),
            (&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "x")], "does not begin with"),
        ] {
            let error = found(variables).credentials(&runtime).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for body in ["", "{}", "[]", r#"{"AccessKeyId":"x"}"#, &JSON.replace("2030", "soon")] {
            let error = credentials_of(body.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
