//! Settings of the client itself: connections, metadata, security.

use super::table::{Kind, Scope, Setting};

const MAX_MS: u64 = 1 << 31;

const fn row(
    name: &'static str,
    aliases: &'static [&'static str],
    default: &'static str,
    kind: Kind,
) -> Setting {
    Setting { scope: Scope::Client, name, aliases, default, kind, note: "" }
}

const fn noted(
    name: &'static str,
    aliases: &'static [&'static str],
    default: &'static str,
    kind: Kind,
    note: &'static str,
) -> Setting {
    Setting { scope: Scope::Client, name, aliases, default, kind, note }
}

const fn refused(
    name: &'static str,
    aliases: &'static [&'static str],
    accepted: &'static [&'static str],
    note: &'static str,
) -> Setting {
    Setting { scope: Scope::Client, name, aliases, default: "", kind: Kind::Refused(accepted), note }
}

const fn secret(name: &'static str, note: &'static str) -> Setting {
    Setting { scope: Scope::Client, name, aliases: &[], default: "", kind: Kind::Secret, note }
}

const NO_SASL: &str = "SASL is not part of this version";
const NO_TLS: &str = "TLS is not part of this version";
const TYPED: &str = "payloads are encoded and decoded by Rust types";
const EVENTS: &str = "subscribe to tracing events instead";
const SYSTEM: &str = "socket buffers are left to the operating system";

pub(super) static TABLE: &[Setting] = &[
    row(
        "bootstrap.servers",
        &["metadata.broker.list"],
        "",
        Kind::Text(|s, v| s.client.bootstrap_servers = v.into()),
    ),
    row("client.id", &[], "carafe", Kind::Text(|s, v| s.client.client_id = v.into())),
    row(
        "request.timeout.ms",
        &["socket.timeout.ms"],
        "30000",
        Kind::Millis(1, MAX_MS, |s, v| {
            s.client.config.connection.request_timeout = v;
        }),
    ),
    row(
        "default.api.timeout.ms",
        &[],
        "60000",
        Kind::Millis(1, MAX_MS, |s, v| s.client.config.api_timeout = v),
    ),
    noted(
        "socket.connection.setup.timeout.ms",
        &[],
        "10000",
        Kind::Millis(1, MAX_MS, |s, v| s.client.config.connection.setup_timeout = v),
        "for each address of a broker",
    ),
    refused(
        "socket.connection.setup.timeout.max.ms",
        &[],
        &["30000"],
        "the setup timeout doubles up to 30 s",
    ),
    row(
        "connections.max.idle.ms",
        &[],
        "540000",
        Kind::Millis(1, MAX_MS, |s, v| s.client.config.connection.idle_timeout = v),
    ),
    row(
        "receive.message.max.bytes",
        &[],
        "104857600",
        Kind::Bytes(1024, i32::MAX as u64, |s, v| s.client.config.connection.frame_bytes_max = v),
    ),
    row(
        "reconnect.backoff.ms",
        &[],
        "50",
        Kind::Millis(1, MAX_MS, |s, v| s.client.config.reconnect_backoff.first = v),
    ),
    row(
        "reconnect.backoff.max.ms",
        &[],
        "5000",
        Kind::Millis(1, MAX_MS, |s, v| s.client.config.reconnect_backoff.max = v),
    ),
    row(
        "retry.backoff.ms",
        &[],
        "100",
        Kind::Millis(1, MAX_MS, |s, v| {
            s.client.config.retry_backoff.first = v;
            s.producer.retry_backoff = v;
        }),
    ),
    row(
        "retry.backoff.max.ms",
        &[],
        "1000",
        Kind::Millis(1, MAX_MS, |s, v| {
            s.client.config.retry_backoff.max = v;
            s.producer.retry_backoff_max = v;
        }),
    ),
    noted(
        "metadata.max.age.ms",
        &["topic.metadata.refresh.interval.ms"],
        "300000",
        Kind::Millis(1, MAX_MS, |s, v| s.client.config.metadata_max_age = v),
        "how often metadata is refreshed when nothing seems wrong",
    ),
    row(
        "metadata.recovery.rebootstrap.trigger.ms",
        &[],
        "300000",
        Kind::Millis(1, MAX_MS, |s, v| s.client.config.rebootstrap_after = v),
    ),
    refused(
        "metadata.recovery.strategy",
        &[],
        &["rebootstrap"],
        "a client that lost its cluster looks for it again",
    ),
    refused("metadata.max.idle.ms", &[], &[], "topics stay known as long as the client lives"),
    refused(
        "topic.metadata.refresh.fast.interval.ms",
        &[],
        &[],
        "what changed is asked for at once, with a back-off of its own; see retry.backoff.ms",
    ),
    refused(
        "topic.metadata.refresh.sparse",
        &[],
        &["true"],
        "metadata is always limited to the topics in use",
    ),
    refused("topic.metadata.propagation.max.ms", &[], &[], "see max.block.ms and default.api.timeout.ms"),
    refused("client.dns.lookup", &[], &["use_all_dns_ips"], "all addresses of a name are tried"),
    refused("broker.address.family", &[], &["any"], "all addresses of a name are tried"),
    refused("broker.address.ttl", &[], &[], "names are looked up anew for every connection"),
    refused("socket.nagle.disable", &[], &["true"], "Nagle's algorithm is always off"),
    refused("socket.keepalive.enable", &[], &["true"], "keep-alive is always on, after 60 s"),
    refused("send.buffer.bytes", &["socket.send.buffer.bytes"], &["-1", "0"], SYSTEM),
    refused("receive.buffer.bytes", &["socket.receive.buffer.bytes"], &["-1", "0"], SYSTEM),
    refused("socket.max.fails", &[], &[], "one failure ends a connection; another is opened"),
    refused("api.version.request", &[], &["true"], "versions are negotiated on every connection"),
    refused("api.version.request.timeout.ms", &[], &[], "see socket.connection.setup.timeout.ms"),
    refused("api.version.fallback.ms", &[], &[], "versions are negotiated on every connection"),
    refused("broker.version.fallback", &[], &[], "versions are negotiated on every connection"),
    refused("enable.metrics.push", &[], &["false"], "telemetry (KIP-714) is not part of this version"),
    refused("statistics.interval.ms", &[], &["0"], "ask for snapshots instead"),
    refused("metric.reporters", &[], &[], EVENTS),
    refused("metrics.num.samples", &[], &[], EVENTS),
    refused("metrics.sample.window.ms", &[], &[], EVENTS),
    refused("metrics.recording.level", &[], &[], EVENTS),
    refused("interceptor.classes", &[], &[], EVENTS),
    refused("debug", &[], &[], EVENTS),
    refused("log_level", &[], &[], EVENTS),
    refused("log.connection.close", &[], &[], EVENTS),
    refused("client.rack", &[], &[], "fetching from the nearest replica is not part of this version"),
    refused("security.protocol", &[], &["PLAINTEXT"], "TLS and SASL are not part of this version"),
    refused("sasl.mechanism", &["sasl.mechanisms"], &[], NO_SASL),
    refused("sasl.username", &[], &[], NO_SASL),
    secret("sasl.password", NO_SASL),
    secret("sasl.jaas.config", NO_SASL),
    refused("sasl.login.callback.handler.class", &[], &[], NO_SASL),
    refused("sasl.client.callback.handler.class", &[], &[], NO_SASL),
    refused("sasl.kerberos.service.name", &[], &[], NO_SASL),
    refused("sasl.oauthbearer.token.endpoint.url", &[], &[], NO_SASL),
    secret("sasl.oauthbearer.client.secret", NO_SASL),
    secret("sasl.oauthbearer.config", NO_SASL),
    refused("ssl.ca.location", &["ssl.truststore.location"], &[], NO_TLS),
    refused("ssl.truststore.type", &[], &[], NO_TLS),
    secret("ssl.truststore.password", NO_TLS),
    secret("ssl.truststore.certificates", NO_TLS),
    refused("ssl.certificate.location", &[], &[], NO_TLS),
    refused("ssl.key.location", &[], &[], NO_TLS),
    secret("ssl.key.password", NO_TLS),
    refused("ssl.keystore.location", &[], &[], NO_TLS),
    refused("ssl.keystore.type", &[], &[], NO_TLS),
    secret("ssl.keystore.password", NO_TLS),
    secret("ssl.keystore.key", NO_TLS),
    refused("ssl.endpoint.identification.algorithm", &[], &["https"], NO_TLS),
    refused("enable.ssl.certificate.verification", &[], &["true"], NO_TLS),
    refused("key.serializer", &[], &[], TYPED),
    refused("value.serializer", &[], &[], TYPED),
    refused("key.deserializer", &[], &[], TYPED),
    refused("value.deserializer", &[], &[], TYPED),
];
