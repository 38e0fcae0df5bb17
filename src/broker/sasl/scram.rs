//! The broker's side of SCRAM (RFC 5802): it keeps no password, and shows that it has what was derived of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use pbkdf2::pbkdf2_hmac_array;
use sha2::{Digest, Sha256, Sha512};

use super::SaslMechanism;
use super::users::Users;

/// What is kept of a password.
#[derive(Clone)]
pub(crate) struct Credential {
    salt: Vec<u8>,
    pub(crate) iterations: i32,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

impl Credential {
    pub(super) fn new(mechanism: SaslMechanism, salt: &[u8], salted: &[u8], iterations: i32) -> Self {
        Self {
            salt: salt.to_vec(),
            iterations,
            stored_key: digest(mechanism, &mac(mechanism, salted, &[b"Client Key"])),
            server_key: mac(mechanism, salted, &[b"Server Key"]),
        }
    }
}

/// Half of an exchange: the client was told nonce and salt.
pub(crate) struct Server {
    mechanism: SaslMechanism,
    user: String,
    credential: Credential,
    header: String,
    nonce: String,
    /// Both first messages, as they are signed.
    spoken: String,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Server {
    /// Answers the client's first message; `None` if it is wrong or there is no such user.
    pub(super) fn new(
        mechanism: SaslMechanism,
        users: &Users,
        message: &[u8],
        dice: &mut fastrand::Rng,
    ) -> Option<(Self, Vec<u8>)> {
        let text = std::str::from_utf8(message).ok()?;
        let rest = text.strip_prefix("n,")?;
        let (id, bare) = rest.split_once(',')?;
        let header = format!("n,{id},");
        let mut parts = bare.split(',');
        let name = parts.next()?.strip_prefix("n=")?;
        let theirs = parts.next()?.strip_prefix("r=").filter(|nonce| !nonce.is_empty())?;
        let user = name.replace("=2C", ",").replace("=3D", "=");
        if !id.is_empty() && id.strip_prefix("a=") != Some(name) {
            return None;
        }
        let credential = users.scram(&user, mechanism)?.clone();
        let nonce = format!("{theirs}{:032x}", dice.u128(..));
        let first = format!("r={nonce},s={},i={}", BASE64.encode(&credential.salt), credential.iterations);
        let spoken = format!("{bare},{first}");
        Some((Self { mechanism, user, credential, header, nonce, spoken }, first.into_bytes()))
    }

    /// Checks the client's proof: the user, and our own proof.
    pub(super) fn finish(self, message: &[u8]) -> Option<(String, Vec<u8>)> {
        let text = std::str::from_utf8(message).ok()?;
        let (bare, proof) = text.rsplit_once(",p=")?;
        let expected = format!("c={},r={}", BASE64.encode(&self.header), self.nonce);
        if bare != expected {
            return None;
        }
        let signed = [self.spoken.as_bytes(), b",", bare.as_bytes()];
        let signature = mac(self.mechanism, &self.credential.stored_key, &signed);
        let mut key = BASE64.decode(proof).ok().filter(|proof| proof.len() == signature.len())?;
        key.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
        if digest(self.mechanism, &key) != self.credential.stored_key {
            return None;
        }
        let ours = mac(self.mechanism, &self.credential.server_key, &signed);
        Some((self.user, format!("v={}", BASE64.encode(ours)).into_bytes()))
    }
}

fn mac(mechanism: SaslMechanism, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    fn with<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().to_vec()
    }
    match mechanism {
        SaslMechanism::ScramSha512 => with::<Hmac<Sha512>>(key, parts),
        _ => with::<Hmac<Sha256>>(key, parts),
    }
}

fn digest(mechanism: SaslMechanism, bytes: &[u8]) -> Vec<u8> {
    match mechanism {
        SaslMechanism::ScramSha512 => Sha512::digest(bytes).to_vec(),
        _ => Sha256::digest(bytes).to_vec(),
    }
}

/// `Hi` of the RFC: PBKDF2 with one block.
pub(super) fn salted(mechanism: SaslMechanism, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
    match mechanism {
        SaslMechanism::ScramSha512 => pbkdf2_hmac_array::<Sha512, 64>(password, salt, iterations).to_vec(),
        _ => pbkdf2_hmac_array::<Sha256, 32>(password, salt, iterations).to_vec(),
    }
}
