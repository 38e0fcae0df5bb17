//! What is spoken below Kafka's own protocol.

use std::fmt;
use std::str::FromStr;

use crate::settings::Words;
use crate::{Error, Result};

/// What a listener of a broker speaks below Kafka's own protocol, and what a client has to speak with it.
/// `security.protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum SecurityProtocol {
    /// Neither encrypted nor authenticated. `PLAINTEXT`.
    #[default]
    Plaintext,
    /// TLS. `SSL`.
    Ssl,
    /// Authenticated by SASL, not encrypted. `SASL_PLAINTEXT`.
    SaslPlaintext,
    /// TLS, and authenticated by SASL. `SASL_SSL`.
    SaslSsl,
}

impl SecurityProtocol {
    /// The protocol with or without each of the two.
    pub fn new(tls: bool, sasl: bool) -> Self {
        match (tls, sasl) {
            (false, false) => Self::Plaintext,
            (true, false) => Self::Ssl,
            (false, true) => Self::SaslPlaintext,
            (true, true) => Self::SaslSsl,
        }
    }

    /// True if everything is sent through TLS.
    pub fn uses_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    /// True if the client authenticates itself by SASL.
    pub fn uses_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

impl Words for SecurityProtocol {
    const SETTING: &'static str = "security.protocol";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("PLAINTEXT", Self::Plaintext),
        ("SSL", Self::Ssl),
        ("SASL_PLAINTEXT", Self::SaslPlaintext),
        ("SASL_SSL", Self::SaslSsl),
    ];
}

impl fmt::Display for SecurityProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The names that `security.protocol` has, in any case.
impl FromStr for SecurityProtocol {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        <Self as Words>::parse(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_what_it_uses() {
        for (word, protocol) in SecurityProtocol::WORDS {
            assert_eq!(SecurityProtocol::new(protocol.uses_tls(), protocol.uses_sasl()), *protocol);
            assert_eq!(word.to_lowercase().parse::<SecurityProtocol>().unwrap(), *protocol);
        }
        let error = "SSL_SASL".parse::<SecurityProtocol>().unwrap_err().to_string();
        assert!(error.starts_with("security.protocol: \"SSL_SASL\" is not valid"), "{error}");
    }
}
