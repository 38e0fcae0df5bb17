//! What settings say about SASL: which mechanism, with which credentials.

use std::sync::Arc;

use super::ClientConfig;
use super::jaas;
#[cfg(feature = "sasl")]
use crate::net::sasl::{AwsEnvironment, AwsMskIam, FileToken, OAuthBearer, Oidc, Scram, check_extension};
use crate::net::sasl::{Chosen, Mechanism, Plain};
use crate::settings::Problems;
use crate::types::{Secret, SecurityProtocol};

const MECHANISM: &str = "sasl.mechanism";
const NAMES: &[&str] = &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"];

/// What is spoken below Kafka's protocol; a mechanism that was handed over wants SASL.
pub(in crate::client) fn protocol(config: &ClientConfig) -> SecurityProtocol {
    let protocol = config.security_protocol;
    SecurityProtocol::new(protocol.uses_tls(), protocol.uses_sasl() || config.sasl_mechanism.is_given())
}

/// The mechanism that the settings describe, or nothing and what is wrong with them.
pub(super) fn mechanism(config: &ClientConfig, problems: &mut Problems) -> Option<Arc<dyn Mechanism>> {
    let name = match &config.sasl_mechanism.0 {
        Chosen::Nothing => {
            for (setting, is_set) in [
                ("sasl.username", !config.sasl_username.is_empty()),
                ("sasl.password", !config.sasl_password.expose().is_empty()),
                (
                    "sasl.oauthbearer.token.endpoint.url",
                    !config.sasl_oauthbearer_token_endpoint_url.is_empty(),
                ),
                ("sasl.jaas.config", !config.sasl_jaas_config.expose().is_empty()),
            ] {
                problems.check(!is_set, setting, format!("is set without {MECHANISM}"));
            }
            return None;
        }
        Chosen::Given(mechanism) => return Some(Arc::clone(mechanism)),
        Chosen::Named(name) => name.to_ascii_uppercase(),
    };
    if !config.security_protocol.uses_sasl() {
        let protocol = SecurityProtocol::new(config.security_protocol.uses_tls(), true);
        problems.add(
            MECHANISM,
            format!(
                "{name} is not used while security.protocol is {}; use {protocol}",
                config.security_protocol
            ),
        );
    }
    let mechanism: Arc<dyn Mechanism> = match name.as_str() {
        "PLAIN" => {
            let (username, password, _) = credentials(config, jaas::PLAIN, problems)?;
            Arc::new(Plain::new(username, password))
        }
        #[cfg(feature = "sasl")]
        "SCRAM-SHA-256" | "SCRAM-SHA-512" => {
            let (username, password, token) = credentials(config, jaas::SCRAM, problems)?;
            let scram = match name.as_str() {
                "SCRAM-SHA-256" => Scram::sha_256(username, password),
                _ => Scram::sha_512(username, password),
            };
            let most = u32::try_from(config.sasl_scram_max_iterations).unwrap_or(u32::MAX);
            let scram = scram.max_iterations(most);
            if token { Arc::new(scram.delegation_token()) } else { Arc::new(scram) }
        }
        #[cfg(feature = "sasl")]
        "OAUTHBEARER" => Arc::new(oauthbearer(config, problems)?),
        #[cfg(feature = "sasl")]
        "AWS_MSK_IAM" => Arc::new(msk_iam(config, problems)?),
        #[cfg(not(feature = "sasl"))]
        "SCRAM-SHA-256" | "SCRAM-SHA-512" | "OAUTHBEARER" | "AWS_MSK_IAM" => {
            problems.add(MECHANISM, format!("{name} needs the feature `sasl` of carafe"));
            return None;
        }
        "GSSAPI" => {
            let text =
                "GSSAPI (Kerberos) is not built in; hand over a Mechanism of your own to ClientBuilder::sasl";
            problems.add(MECHANISM, text);
            return None;
        }
        _ => {
            problems.add(MECHANISM, format!("{name:?} is not known: use one of {}", NAMES.join(", ")));
            return None;
        }
    };
    Some(mechanism)
}

/// User and password of a mechanism, and whether they are those of a delegation token; from Java's form where that is given.
fn credentials(
    config: &ClientConfig,
    module: &str,
    problems: &mut Problems,
) -> Option<(String, Secret, bool)> {
    let (username, password) = (&config.sasl_username, &config.sasl_password);
    let plain = !username.is_empty() || !password.expose().is_empty();
    let jaas = config.sasl_jaas_config.expose();
    if !jaas.is_empty() {
        if plain {
            problems.add(
                "sasl.jaas.config",
                "is given beside sasl.username and sasl.password; use one of the two",
            );
            return None;
        }
        let options = match jaas::read(jaas, module) {
            Ok(options) => options,
            Err(problem) => {
                problems.add("sasl.jaas.config", problem);
                return None;
            }
        };
        let get = |name: &str| options.get(name).cloned();
        let token = options.get("tokenauth").is_some_and(|value| value.expose().eq_ignore_ascii_case("true"));
        return match (get("username"), get("password")) {
            (Some(username), Some(password)) => Some((username.expose().to_owned(), password, token)),
            _ => {
                problems.add("sasl.jaas.config", "has no username or no password");
                None
            }
        };
    }
    problems.check(!username.is_empty(), "sasl.username", "is needed by the mechanism");
    problems.check(!password.expose().is_empty(), "sasl.password", "is needed by the mechanism");
    plain.then(|| (username.clone(), password.clone(), false))
}

/// OAUTHBEARER with tokens from where the settings say.
#[cfg(feature = "sasl")]
fn oauthbearer(config: &ClientConfig, problems: &mut Problems) -> Option<OAuthBearer> {
    const ENDPOINT: &str = "sasl.oauthbearer.token.endpoint.url";
    let jaas = match config.sasl_jaas_config.expose() {
        "" => Default::default(),
        text => match jaas::read(text, jaas::OAUTH) {
            Ok(options) => options,
            Err(problem) => {
                problems.add("sasl.jaas.config", problem);
                return None;
            }
        },
    };
    // What has a setting of its own goes before Java's older form.
    let option = |setting: &str, name: &str| match jaas.get(name) {
        Some(value) if setting.is_empty() => value.expose().to_owned(),
        _ => setting.to_owned(),
    };
    let mut extensions: Vec<(String, String)> = Vec::new();
    for (name, value) in &jaas {
        if let Some(name) = name.strip_prefix("extension_") {
            extensions.push((name.to_owned(), value.expose().to_owned()));
        }
    }
    for pair in config.sasl_oauthbearer_extensions.split(',').filter(|pair| !pair.trim().is_empty()) {
        match pair.split_once('=') {
            Some((name, value)) => extensions.push((name.trim().to_owned(), value.trim().to_owned())),
            None => {
                problems.add("sasl.oauthbearer.extensions", format!("{pair:?} is not of the form name=value"))
            }
        }
    }
    for (name, value) in &extensions {
        if let Err(problem) = check_extension(name, value) {
            problems.add("sasl.oauthbearer.extensions", problem);
        }
    }
    let url = config.sasl_oauthbearer_token_endpoint_url.as_str();
    let login = if let Some(path) = url.strip_prefix("file://") {
        problems.check(path.starts_with('/'), ENDPOINT, "is not of the form file:///path");
        OAuthBearer::new(FileToken::new(path))
    } else if url.is_empty() {
        let text = "is needed by OAUTHBEARER; tokens from elsewhere come from a TokenProvider, handed to ClientBuilder::sasl";
        problems.add(ENDPOINT, text);
        return None;
    } else {
        let id = option(&config.sasl_oauthbearer_client_id, "clientId");
        let secret = option(config.sasl_oauthbearer_client_secret.expose(), "clientSecret");
        problems.check(!id.is_empty(), "sasl.oauthbearer.client.credentials.client.id", "is needed");
        problems.check(!secret.is_empty(), "sasl.oauthbearer.client.credentials.client.secret", "is needed");
        let provider = match Oidc::client_credentials(url, id, secret) {
            Ok(provider) => provider,
            Err(error) => {
                problems.add(ENDPOINT, error);
                return None;
            }
        };
        let scope = option(&config.sasl_oauthbearer_scope, "scope");
        let encodes = config.sasl_oauthbearer_header_urlencode;
        OAuthBearer::new(provider.scope(scope).encode_credentials(encodes))
    };
    Some(extensions.into_iter().fold(login, |login, (name, value)| login.extension(name, value)))
}

/// AWS_MSK_IAM with credentials from where AWS's own tools find them.
#[cfg(feature = "sasl")]
fn msk_iam(config: &ClientConfig, problems: &mut Problems) -> Option<AwsMskIam> {
    let jaas = match config.sasl_jaas_config.expose() {
        "" => Default::default(),
        text => match jaas::read(text, jaas::MSK) {
            Ok(options) => options,
            Err(problem) => {
                problems.add("sasl.jaas.config", problem);
                return None;
            }
        },
    };
    for name in jaas.keys().filter(|name| *name != "awsProfileName" && !name.ends_with("DebugCreds")) {
        problems.add("sasl.jaas.config", format!("has the option {name}, which is not supported"));
    }
    let variables = || {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
    };
    let region = ["AWS_REGION", "AWS_DEFAULT_REGION"]
        .iter()
        .find_map(|wanted| variables().find(|(name, value)| name == wanted && !value.is_empty()));
    let mut environment = AwsEnvironment::new(variables());
    if let Some(profile) = jaas.get("awsProfileName") {
        environment = environment.profile(profile.expose());
    }
    let login = AwsMskIam::new(environment);
    Some(match region {
        Some((_, region)) => login.fallback_region(region),
        None => login,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientSettings;

    fn problem(text: &str) -> String {
        ClientSettings::from_text(text).unwrap_err().to_string()
    }

    fn chosen(text: &str) -> String {
        let settings = ClientSettings::from_text(text).unwrap();
        let mut problems = Problems::default();
        let mechanism = mechanism(&settings.client, &mut problems);
        assert_eq!(problems.into_vec(), Vec::<String>::new(), "{text}");
        format!("{mechanism:?}")
    }

    #[test]
    fn mechanisms_come_from_names_of_java_and_librdkafka() {
        let plain =
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanisms=plain\nsasl.username=u\nsasl.password=p\n";
        assert_eq!(chosen(plain), r#"Some(Plain { username: "u", password: [hidden] })"#);
        let jaas = "security.protocol=sasl_plaintext\nsasl.mechanism=PLAIN\nsasl.jaas.config=\
                    org.apache.kafka.common.security.plain.PlainLoginModule required username=\"a\\\"b\" password='c;d';\n";
        assert_eq!(chosen(jaas), r#"Some(Plain { username: "a\"b", password: [hidden] })"#);
    }

    #[cfg(feature = "sasl")]
    #[test]
    fn scram_has_bounds_and_tokens() {
        let scram = "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-512\nsasl.scram.max.iterations=200000\n\
                     sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=t \
                     password=\"hunter2\" tokenauth=\"true\";";
        let shown = chosen(scram);
        for part in ["SCRAM-SHA-512", "username: \"t\"", "token: true", "200000"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains("hunter2"));
    }

    #[cfg(feature = "sasl")]
    #[test]
    fn tokens_come_from_providers_and_files() {
        let base =
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.method=oidc\n";
        let shown = chosen(&format!(
            "{base}sasl.oauthbearer.token.endpoint.url=http://idp:8080/token\nsasl.oauthbearer.client.id=me\n\
             sasl.oauthbearer.client.secret=hunter2\nsasl.oauthbearer.scope=kafka\n\
             sasl.oauthbearer.extensions=logicalCluster=lkc-1, identityPoolId=p"
        ));
        for part in
            ["idp", "\"me\"", "Some(\"kafka\")", "\"logicalCluster\": \"lkc-1\"", "\"identityPoolId\": \"p\""]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let java = chosen(&format!(
            "{base}sasl.oauthbearer.token.endpoint.url=http://idp/token\nsasl.jaas.config=\
             org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required clientId=me \
             clientSecret=hunter2 scope=kafka extension_pool=\"p 1\";"
        ));
        for part in ["\"me\"", "Some(\"kafka\")", "\"pool\": \"p 1\""] {
            assert!(java.contains(part), "{part}: {java}");
        }
        assert!(!shown.contains("hunter2") && !java.contains("hunter2"));
        assert!(
            chosen(&format!("{base}sasl.oauthbearer.token.endpoint.url=file:///run/token"))
                .contains("/run/token")
        );
        for (text, expected) in [
            ("", "endpoint.url: is needed"),
            ("sasl.oauthbearer.token.endpoint.url=idp/token", "does not begin with https://"),
            ("sasl.oauthbearer.token.endpoint.url=http://idp/token", "client.id: is needed"),
            ("sasl.oauthbearer.token.endpoint.url=file://run", "file:///path"),
            (
                "sasl.oauthbearer.token.endpoint.url=file:///run\nsasl.oauthbearer.extensions=auth=x",
                "not `auth`",
            ),
            ("sasl.oauthbearer.token.endpoint.url=file:///run\nsasl.oauthbearer.extensions=x", "name=value"),
        ] {
            let error = problem(&format!("{base}{text}"));
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[cfg(feature = "sasl")]
    #[test]
    fn msk_takes_the_lines_of_its_own_library() {
        let base = "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=AWS_MSK_IAM\n\
                    sasl.client.callback.handler.class=software.amazon.msk.auth.iam.IAMClientCallbackHandler\n";
        assert!(chosen(base).contains("AwsMskIam"));
        let jaas = "sasl.jaas.config=software.amazon.msk.auth.iam.IAMLoginModule required";
        assert!(chosen(&format!("{base}{jaas} awsProfileName=\"shop\";")).contains("AWS_PROFILE"));
        assert!(
            problem(&format!("{base}{jaas} awsRoleArn=\"x\";"))
                .contains("awsRoleArn, which is not supported")
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused_without_showing_secrets() {
        let sasl = "security.protocol=SASL_PLAINTEXT\n";
        for (text, expected) in [
            (
                "sasl.mechanism=PLAIN\nsasl.username=u\nsasl.password=hunter2",
                "while security.protocol is PLAINTEXT; use SASL_PLAINTEXT",
            ),
            ("sasl.password=hunter2", "sasl.password: is set without sasl.mechanism"),
            (&format!("{sasl}sasl.mechanism=GSSAPI"), "Kerberos"),
            (&format!("{sasl}sasl.mechanism=CRAM-MD5"), "use one of PLAIN, "),
            (&format!("{sasl}sasl.mechanism=PLAIN\nsasl.password=hunter2"), "sasl.username: is needed"),
            (&format!("{sasl}sasl.mechanism=PLAIN\nsasl.username=u"), "sasl.password: is needed"),
            (
                &format!(
                    "{sasl}sasl.mechanism=PLAIN\nsasl.username=u\nsasl.password=hunter2\nsasl.jaas.config=x"
                ),
                "use one of the two",
            ),
            (
                &format!(
                    "{sasl}sasl.mechanism=PLAIN\nsasl.jaas.config=com.sun.security.auth.module.Krb5LoginModule required password=hunter2;"
                ),
                "sasl.jaas.config: names the module com.sun.security.auth.module.Krb5LoginModule",
            ),
            (
                &format!(
                    "{sasl}sasl.mechanism=PLAIN\nsasl.jaas.config=a.PlainLoginModule required username=\"hunter2;"
                ),
                "quote",
            ),
        ] {
            let error = problem(text);
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
