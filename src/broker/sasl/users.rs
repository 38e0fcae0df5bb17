//! Users with their passwords, SCRAM credentials and tokens.

use std::collections::BTreeMap;
use std::fmt;

use tokio::time::Instant;

use super::SaslMechanism;
use super::scram::{Credential, salted};
use crate::types::Secret;

/// Bounds of what Kafka stores.
pub(crate) const ITERATIONS_MIN: i32 = 4_096;
pub(crate) const ITERATIONS_MAX: i32 = 16_384;

/// What is known of those who may log in.
#[derive(Default)]
pub(crate) struct Users {
    passwords: BTreeMap<String, Secret>,
    scram: BTreeMap<(String, SaslMechanism), Credential>,
    tokens: BTreeMap<String, (String, Option<Instant>)>,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("passwords", &self.passwords.keys()).finish_non_exhaustive()
    }
}

impl Users {
    /// A user with a password for PLAIN and both kinds of SCRAM.
    pub(crate) fn set(&mut self, name: &str, password: &str, dice: &mut fastrand::Rng) {
        self.passwords.insert(name.to_owned(), Secret::from(password));
        for mechanism in [SaslMechanism::ScramSha256, SaslMechanism::ScramSha512] {
            let salt = dice.u128(..).to_be_bytes();
            let salted = salted(mechanism, password.as_bytes(), &salt, ITERATIONS_MIN as u32);
            self.set_scram(name, mechanism, &salt, &salted, ITERATIONS_MIN);
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.passwords.remove(name);
        self.scram.retain(|(user, _), _| user != name);
    }

    /// Credentials of one kind of SCRAM alone.
    pub(crate) fn set_scram(
        &mut self,
        name: &str,
        mechanism: SaslMechanism,
        salt: &[u8],
        salted: &[u8],
        iterations: i32,
    ) {
        let credential = Credential::new(mechanism, salt, salted, iterations);
        self.scram.insert((name.to_owned(), mechanism), credential);
    }

    /// False if there are none.
    pub(crate) fn remove_scram(&mut self, name: &str, mechanism: SaslMechanism) -> bool {
        self.scram.remove(&(name.to_owned(), mechanism)).is_some()
    }

    pub(crate) fn scram(&self, name: &str, mechanism: SaslMechanism) -> Option<&Credential> {
        self.scram.get(&(name.to_owned(), mechanism))
    }

    /// Users with credentials of SCRAM, and for each the kinds and their iterations.
    pub(crate) fn all_scram(&self) -> BTreeMap<&str, Vec<(SaslMechanism, i32)>> {
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for ((name, mechanism), credential) in &self.scram {
            all.entry(name.as_str()).or_default().push((*mechanism, credential.iterations));
        }
        all
    }

    pub(crate) fn set_token(&mut self, token: &str, user: &str, ends: Option<Instant>) {
        self.tokens.insert(token.to_owned(), (user.to_owned(), ends));
    }

    /// The user that a message of PLAIN proves: authorisation id, user and password between zero bytes.
    pub(super) fn plain(&self, message: &[u8]) -> Result<String, String> {
        let mut parts = message.split(|byte| *byte == 0).map(std::str::from_utf8);
        let (Some(Ok(id)), Some(Ok(user)), Some(Ok(password)), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("Invalid SASL/PLAIN response: expected 3 tokens".to_owned());
        };
        if user.is_empty() || password.is_empty() {
            return Err("Authentication failed: username or password not specified".to_owned());
        }
        if self.passwords.get(user) != Some(&Secret::from(password)) {
            return Err("Authentication failed: Invalid username or password".to_owned());
        }
        if !id.is_empty() && id != user {
            return Err(
                "Authentication failed: Client requested an authorization id that is different from \
                        username"
                    .to_owned(),
            );
        }
        Ok(user.to_owned())
    }

    /// The user that a message of OAUTHBEARER proves (RFC 7628), and when the token ends.
    pub(super) fn token(&self, message: &[u8], now: Instant) -> Option<(String, Option<Instant>)> {
        let text = std::str::from_utf8(message).ok()?;
        let mut parts = text.strip_suffix("\u{1}\u{1}")?.split('\u{1}');
        let header = parts.next()?;
        let id = header.strip_prefix("n,")?.strip_suffix(',')?;
        let token = parts.find_map(|part| part.strip_prefix("auth=Bearer "))?;
        let (user, ends) = self.tokens.get(token)?;
        let good = ends.is_none_or(|ends| now < ends) && (id.is_empty() || id == format!("a={user}"));
        good.then(|| (user.clone(), *ends))
    }
}
