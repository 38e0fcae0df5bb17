//! Settings of the client itself: connections, metadata, memory, security.

use std::time::Duration;

use super::words::{HostCheck, SslRoots, TlsVersions};
use super::{security, words};
use crate::backoff::Backoff;
use crate::client::bootstrap;
use crate::cluster::ClusterConfig;
use crate::net::sasl::Choice;
use crate::settings::{Kind, Problems, Row, settings};
use crate::types::SecurityProtocol;
use crate::wire;

settings! {
    /// Settings of a [`Client`](crate::client::Client).
    pub struct ClientConfig in "", others OTHERS;

    /// Brokers to begin with, separated by commas, each `host:port`; IPv6 addresses in brackets; a missing port is 9092. Only
    /// used to find the others. Required.
    bootstrap_servers: text = "" => "bootstrap.servers" | "metadata.broker.list";

    /// Name of this client in the brokers' logs, quotas and metrics; at most 255 bytes.
    client_id: text = "carafe" => "client.id";

    /// A request without an answer for this long ends its connection and is tried again. Below the time that the brokers
    /// need under load it makes things worse.
    request_timeout: ms = 30_000, 1..=2_147_483_648 => "request.timeout.ms" | "socket.timeout.ms";

    /// Deadline of an operation as a whole, retries included, where the operation has none of its own.
    api_timeout: ms = 60_000, 1..=2_147_483_648 => "default.api.timeout.ms";

    /// Time that one address of a broker gets for connecting and the handshake; doubled after failures, up to 30 s.
    connection_setup_timeout: ms = 10_000, 1..=2_147_483_648 => "socket.connection.setup.timeout.ms";

    /// A connection without traffic for this long is closed; keep it below the brokers' (10 min) and any load balancer's.
    connections_max_idle: ms = 540_000, 1..=2_147_483_648 => "connections.max.idle.ms";

    /// Largest response accepted. Must exceed the largest batch of any topic.
    receive_message_max_bytes: bytes = 104_857_600, 1024..=2_147_483_647 => "receive.message.max.bytes";

    /// Pause before a broker that could not be reached is dialled again, ±20 %; doubles with each failure.
    reconnect_backoff: ms = 50, 1..=2_147_483_648 => "reconnect.backoff.ms";

    /// Longest pause before a broker is dialled again.
    reconnect_backoff_max: ms = 5_000, 1..=2_147_483_648 => "reconnect.backoff.max.ms";

    /// Pause before a failed request is tried again, ±20 %; doubles with each failure.
    retry_backoff: ms = 100, 1..=2_147_483_648 => "retry.backoff.ms";

    /// Longest pause before a failed request is tried again.
    retry_backoff_max: ms = 1_000, 1..=2_147_483_648 => "retry.backoff.max.ms";

    /// Metadata is refreshed after this time even if nothing seems wrong: how late new partitions may be noticed.
    metadata_max_age: ms = 300_000, 1..=2_147_483_648
        => "metadata.max.age.ms" | "topic.metadata.refresh.interval.ms";

    /// Without metadata for this long the bootstrap servers are used again (KIP-1102).
    rebootstrap_after: ms = 300_000, 1..=2_147_483_648 => "metadata.recovery.rebootstrap.trigger.ms";

    /// What is spoken with the brokers below Kafka's own protocol.
    security_protocol: SecurityProtocol = Plaintext => "security.protocol";

    /// Authorities that brokers' certificates must come from: a file with any number of certificates as PEM, PKCS #12 or DER, or
    /// a directory of such files. Not set, those of `ssl.roots` count. Read again when it changes.
    ssl_ca_location: text = "" => "ssl.ca.location" | "ssl.truststore.location";

    /// The same, as the text of the certificates themselves: PEM.
    ssl_ca_pem: text = "" => "ssl.ca.pem" | "ssl.truststore.certificates";

    /// Password of the authorities' file where it is PKCS #12.
    ssl_ca_password: secret = "" => "ssl.truststore.password";

    /// Which authorities are trusted where none are named: those of the operating system (`system`), Mozilla's list
    /// (`bundled`), or the first that there is of the two (`default`).
    ssl_roots: SslRoots = Usual => "ssl.roots";

    /// Certificate of this client, and those between it and its authority behind it: a file of PEM. Read again when it
    /// changes.
    ssl_certificate_location: text = "" => "ssl.certificate.location";

    /// The same, as the text of the certificates themselves.
    ssl_certificate_pem: secret = "" => "ssl.certificate.pem" | "ssl.keystore.certificate.chain";

    /// Private key of this client: a file of PEM, as PKCS #8 (encrypted or not), PKCS #1 or SEC 1. Read again when it changes.
    ssl_key_location: text = "" => "ssl.key.location";

    /// The same, as the text of the key itself.
    ssl_key_pem: secret = "" => "ssl.key.pem" | "ssl.keystore.key";

    /// Password of the private key where it is encrypted.
    ssl_key_password: secret = "" => "ssl.key.password";

    /// Certificate and private key of this client in one file, as PKCS #12 or PEM. Read again when it changes.
    ssl_keystore_location: text = "" => "ssl.keystore.location";

    /// Password of that file.
    ssl_keystore_password: secret = "" => "ssl.keystore.password";

    /// Whether a broker's certificate must be for the host that is connected to. Without the check, whoever has any certificate
    /// of the trusted authorities can pose as the brokers; a warning says so.
    ssl_endpoint_identification: HostCheck = Https, read words::host_check
        => "ssl.endpoint.identification.algorithm";

    /// Whether brokers' certificates are checked at all. Without, anybody on the way can pose as the brokers; a warning says so.
    ssl_certificate_verification: flag = true => "enable.ssl.certificate.verification";

    /// Versions of TLS that are spoken; older ones than 1.2 never are.
    ssl_enabled_protocols: TlsVersions = Both, read words::tls_versions => "ssl.enabled.protocols";

    /// Cipher suites that are offered, by preference, with the names of Java or OpenSSL. Not set, all that the provider of
    /// cryptography has.
    ssl_cipher_suites: text = "" => "ssl.cipher.suites";

    /// How the client proves who it is where `security.protocol` begins with `SASL_`: `PLAIN`, `SCRAM-SHA-256`,
    /// `SCRAM-SHA-512`, `OAUTHBEARER` or `AWS_MSK_IAM`; as a setter also a [mechanism](crate::client::sasl::Mechanism). There is no default, and no other one is
    /// ever used.
    sasl_mechanism: Choice = NONE => "sasl.mechanism" | "sasl.mechanisms";

    /// User of PLAIN and SCRAM.
    sasl_username: text = "" => "sasl.username";

    /// Password of PLAIN and SCRAM.
    sasl_password: secret = "" => "sasl.password";

    /// Credentials in the form of Java's clients: a login module, `required`, `username="…"`, `password="…"` and a semicolon.
    /// Instead of the settings that have them one by one.
    sasl_jaas_config: secret = "" => "sasl.jaas.config";

    /// Most iterations that a broker may ask for with SCRAM; they are our work.
    sasl_scram_max_iterations: count = 100_000, 4_096..=10_000_000 => "sasl.scram.max.iterations";

    /// Where tokens of OAUTHBEARER come from: the token endpoint of an identity provider (`http://`), or a file that something
    /// else keeps up to date (`file:///var/run/token`).
    sasl_oauthbearer_token_endpoint_url: text = "" => "sasl.oauthbearer.token.endpoint.url";

    /// Id of this client at the identity provider.
    sasl_oauthbearer_client_id: text = ""
        => "sasl.oauthbearer.client.credentials.client.id" | "sasl.oauthbearer.client.id";

    /// Secret of this client at the identity provider.
    sasl_oauthbearer_client_secret: secret = ""
        => "sasl.oauthbearer.client.credentials.client.secret" | "sasl.oauthbearer.client.secret";

    /// Scope of the token that is asked for.
    sasl_oauthbearer_scope: text = "" => "sasl.oauthbearer.scope";

    /// What the broker is told beside the token: names and values such as `logicalCluster=lkc-1,identityPoolId=pool-1`.
    sasl_oauthbearer_extensions: text = "" => "sasl.oauthbearer.extensions";

    /// Whether id and secret are encoded as forms have it before they go into the header of the request.
    sasl_oauthbearer_header_urlencode: flag = false => "sasl.oauthbearer.header.urlencode";

    /// Memory that fetched data of all consumers of this client may take, unless the client is given a
    /// [budget](crate::client::ClientBuilder::memory_budget).
    memory_budget: bytes = 67_108_864, 1..=1_099_511_627_776 => "memory.budget.bytes";
}

const CALLBACKS: &str = "implement Mechanism and hand it to ClientBuilder::sasl";
const NO_KERBEROS: &str = "Kerberos is not built in; implement Mechanism and hand it to ClientBuilder::sasl";
const REFRESH: &str = "a token is renewed at 80 % of its life, at most once a minute";
const PROVIDER: &str = "an identity provider has 10 s, and is asked again after 100 ms to 10 s";
const OTHER_GRANTS: &str =
    "only client_credentials is built in; hand a TokenProvider to OAuthBearer for other ways";
const UNSECURED: &str = "tokens that nobody signed are not made; hand one to OAuthBearer";
const TYPES: &str = "files say themselves in which form they are";
const PROVIDER_OF_TLS: &str =
    "TLS is rustls, with the cryptography of graviola or of what is handed to ClientBuilder::crypto_provider";
const TYPED: &str = "payloads are encoded and decoded by Rust types";
const EVENTS: &str = "subscribe to tracing events instead";
const SYSTEM: &str = "socket buffers are left to the operating system";

const OTHERS: &[Row<ClientConfig>] = &[
    Row::other(
        "queued.max.messages.kbytes",
        Kind::Bytes(1, 1 << 30),
        "`memory.budget.bytes` in units of 1024 bytes",
        |config, text| match text.parse::<usize>() {
            Ok(kbytes) => {
                config.memory_budget = kbytes.saturating_mul(1024);
                true
            }
            Err(_) => false,
        },
    ),
    Row::refused(
        "socket.connection.setup.timeout.max.ms",
        &[],
        &["30000"],
        "the setup timeout doubles up to 30 s",
    ),
    Row::refused(
        "metadata.recovery.strategy",
        &[],
        &["rebootstrap"],
        "a client that lost its cluster looks for it again",
    ),
    Row::refused("metadata.max.idle.ms", &[], &[], "topics stay known as long as the client lives"),
    Row::refused(
        "topic.metadata.refresh.fast.interval.ms",
        &[],
        &[],
        "what changed is asked for at once, with a back-off of its own; see retry.backoff.ms",
    ),
    Row::refused(
        "topic.metadata.refresh.sparse",
        &[],
        &["true"],
        "metadata is always limited to the topics in use",
    ),
    Row::refused(
        "topic.metadata.propagation.max.ms",
        &[],
        &[],
        "see max.block.ms and default.api.timeout.ms",
    ),
    Row::refused("client.dns.lookup", &[], &["use_all_dns_ips"], "all addresses of a name are tried"),
    Row::refused("broker.address.family", &[], &["any"], "all addresses of a name are tried"),
    Row::refused("broker.address.ttl", &[], &[], "names are looked up anew for every connection"),
    Row::refused("socket.nagle.disable", &[], &["true"], "Nagle's algorithm is always off"),
    Row::refused("socket.keepalive.enable", &[], &["true"], "keep-alive is always on, after 60 s"),
    Row::refused("send.buffer.bytes", &["socket.send.buffer.bytes"], &["-1", "0"], SYSTEM),
    Row::refused("receive.buffer.bytes", &["socket.receive.buffer.bytes"], &["-1", "0"], SYSTEM),
    Row::refused("socket.max.fails", &[], &[], "one failure ends a connection; another is opened"),
    Row::refused("api.version.request", &[], &["true"], "versions are negotiated on every connection"),
    Row::refused("api.version.request.timeout.ms", &[], &[], "see socket.connection.setup.timeout.ms"),
    Row::refused("api.version.fallback.ms", &[], &[], "versions are negotiated on every connection"),
    Row::refused("broker.version.fallback", &[], &[], "versions are negotiated on every connection"),
    Row::refused("enable.metrics.push", &[], &["false"], "telemetry (KIP-714) is not part of this version"),
    Row::refused("statistics.interval.ms", &[], &["0"], "ask for snapshots instead"),
    Row::refused("metric.reporters", &[], &[], EVENTS),
    Row::refused("metrics.num.samples", &[], &[], EVENTS),
    Row::refused("metrics.sample.window.ms", &[], &[], EVENTS),
    Row::refused("metrics.recording.level", &[], &[], EVENTS),
    Row::refused("interceptor.classes", &[], &[], EVENTS),
    Row::refused("debug", &[], &[], EVENTS),
    Row::refused("log_level", &[], &[], EVENTS),
    Row::refused("log.connection.close", &[], &[], EVENTS),
    Row::refused("client.rack", &[], &[], "fetching from the nearest replica is not part of this version"),
    Row::refused("sasl.login.class", &[], &[], CALLBACKS),
    Row::refused(
        "sasl.login.callback.handler.class",
        &[],
        &[
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler",
            "org.apache.kafka.common.security.oauthbearer.secured.OAuthBearerLoginCallbackHandler",
        ],
        CALLBACKS,
    ),
    Row::refused(
        "sasl.client.callback.handler.class",
        &[],
        &["software.amazon.msk.auth.iam.IAMClientCallbackHandler"],
        CALLBACKS,
    ),
    Row::refused("sasl.kerberos.service.name", &[], &[], NO_KERBEROS),
    Row::refused("sasl.kerberos.principal", &[], &[], NO_KERBEROS),
    Row::refused("sasl.kerberos.kinit.cmd", &[], &[], NO_KERBEROS),
    Row::refused("sasl.kerberos.keytab", &[], &[], NO_KERBEROS),
    Row::refused("sasl.kerberos.min.time.before.relogin", &[], &[], NO_KERBEROS),
    Row::refused("sasl.kerberos.ticket.renew.jitter", &[], &[], NO_KERBEROS),
    Row::refused("sasl.kerberos.ticket.renew.window.factor", &[], &[], NO_KERBEROS),
    Row::refused("sasl.login.refresh.window.factor", &[], &["0.8"], REFRESH),
    Row::refused("sasl.login.refresh.window.jitter", &[], &["0.05"], REFRESH),
    Row::refused("sasl.login.refresh.min.period.seconds", &[], &["60"], REFRESH),
    Row::refused("sasl.login.refresh.buffer.seconds", &[], &[], REFRESH),
    Row::refused("sasl.login.connect.timeout.ms", &[], &[], PROVIDER),
    Row::refused("sasl.login.read.timeout.ms", &[], &[], PROVIDER),
    Row::refused("sasl.login.retry.backoff.ms", &[], &["100"], PROVIDER),
    Row::refused("sasl.login.retry.backoff.max.ms", &[], &["10000"], PROVIDER),
    Row::refused(
        "sasl.oauthbearer.method",
        &[],
        &["oidc"],
        "hand a TokenProvider to OAuthBearer for other ways",
    ),
    Row::refused("sasl.oauthbearer.grant.type", &[], &["client_credentials"], OTHER_GRANTS),
    Row::refused("sasl.oauthbearer.assertion.file", &[], &[], OTHER_GRANTS),
    Row::refused("sasl.oauthbearer.assertion.private.key.file", &[], &[], OTHER_GRANTS),
    Row::secret("sasl.oauthbearer.assertion.private.key.passphrase", OTHER_GRANTS),
    Row::secret("sasl.oauthbearer.assertion.private.key.pem", OTHER_GRANTS),
    Row::refused("enable.sasl.oauthbearer.unsecure.jwt", &[], &["false"], UNSECURED),
    Row::secret("sasl.oauthbearer.config", UNSECURED),
    Row::refused("ssl.truststore.type", &[], &["PEM", "PKCS12", "JKS"], TYPES),
    Row::refused("ssl.keystore.type", &[], &["PEM", "PKCS12", "JKS"], TYPES),
    Row::refused("ssl.protocol", &[], &["TLS", "TLSv1.2", "TLSv1.3"], "see ssl.enabled.protocols"),
    Row::refused("ssl.curves.list", &[], &[], PROVIDER_OF_TLS),
    Row::refused("ssl.sigalgs.list", &[], &[], PROVIDER_OF_TLS),
    Row::refused("ssl.engine.location", &[], &[], PROVIDER_OF_TLS),
    Row::refused("ssl.engine.id", &[], &[], PROVIDER_OF_TLS),
    Row::refused("ssl.engine.factory.class", &[], &[], PROVIDER_OF_TLS),
    Row::refused("ssl.provider", &["ssl.providers"], &[], PROVIDER_OF_TLS),
    Row::refused("ssl.secure.random.implementation", &[], &[], PROVIDER_OF_TLS),
    Row::refused("security.providers", &[], &[], PROVIDER_OF_TLS),
    Row::refused("ssl.keymanager.algorithm", &[], &["SunX509"], "there is one way to choose a certificate"),
    Row::refused(
        "ssl.trustmanager.algorithm",
        &[],
        &["PKIX"],
        "certificates are checked by the rules of PKIX",
    ),
    Row::refused("ssl.ca.certificate.stores", &[], &["Root"], "on Windows that is the store that is used"),
    Row::refused("ssl.crl.location", &[], &[], "lists of revoked certificates are not read"),
    Row::refused("key.serializer", &[], &[], TYPED),
    Row::refused("value.serializer", &[], &[], TYPED),
    Row::refused("key.deserializer", &[], &[], TYPED),
    Row::refused("value.deserializer", &[], &[], TYPED),
];

impl ClientConfig {
    /// Notes what does not go together.
    fn check_together(&self, problems: &mut Problems) {
        let length = self.client_id.len();
        problems.check(length <= 255, "client.id", format!("{length} bytes are more than 255"));
        for (setting, first, max) in [
            ("reconnect.backoff.max.ms", self.reconnect_backoff, self.reconnect_backoff_max),
            ("retry.backoff.max.ms", self.retry_backoff, self.retry_backoff_max),
        ] {
            let text = format!("is {}; use at least the first pause, {}", max.as_millis(), first.as_millis());
            problems.check(first <= max, setting, text);
        }
        let protocol = self.security_protocol;
        #[cfg(feature = "tls")]
        super::tls::settings(self, problems);
        let text = format!("{protocol} needs the feature `tls` of carafe");
        problems.check(cfg!(feature = "tls") || !protocol.uses_tls(), "security.protocol", text);
        security::mechanism(self, problems);
        // Which are required is known when a client is made of it.
        if !self.bootstrap_servers.is_empty() {
            bootstrap::parse(&self.bootstrap_servers, self.security_protocol, problems);
        }
    }

    /// What the layers below make of it; `problems` gets those of the list of servers.
    pub(in crate::client) fn cluster(&self, problems: &mut Problems) -> ClusterConfig {
        let mut cluster = ClusterConfig {
            bootstrap: bootstrap::parse(&self.bootstrap_servers, self.security_protocol, problems),
            api_timeout: self.api_timeout,
            metadata_max_age: self.metadata_max_age,
            rebootstrap_after: self.rebootstrap_after,
            retry_backoff: pauses(self.retry_backoff, self.retry_backoff_max),
            reconnect_backoff: pauses(self.reconnect_backoff, self.reconnect_backoff_max),
            ..ClusterConfig::default()
        };
        cluster.connection.client_id = wire::Str::from(self.client_id.as_str());
        cluster.connection.request_timeout = self.request_timeout;
        cluster.connection.setup_timeout = self.connection_setup_timeout;
        cluster.connection.idle_timeout = self.connections_max_idle;
        cluster.connection.frame_bytes_max = self.receive_message_max_bytes;
        if security::protocol(self).uses_sasl() {
            let named = self.sasl_mechanism != Choice::NONE;
            let text = format!("{} needs sasl.mechanism, such as SCRAM-SHA-512", self.security_protocol);
            problems.check(named, "security.protocol", text);
            cluster.connection.mechanism = security::mechanism(self, problems);
        }
        cluster
    }
}

fn pauses(first: Duration, max: Duration) -> Backoff {
    Backoff { first, max, jitter: 0.2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests of the layers below begin with defaults of their own.
    #[test]
    fn the_layers_below_have_the_same_defaults() {
        let cluster = ClientConfig::new().bootstrap_servers("a:1").cluster(&mut Problems::default());
        let below = ClusterConfig { bootstrap: vec![("a".to_owned(), 1)], ..ClusterConfig::default() };
        assert_eq!(format!("{cluster:?}"), format!("{below:?}"));
        let budget = crate::consumer::MemoryBudget::default();
        assert_eq!(budget.limit(), ClientConfig::default().memory_budget);
    }
}
