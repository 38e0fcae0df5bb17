//! SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, 7677): the password never travels, and the broker has to know it too.
//!
//! Kafka offers no channel binding, so the header is always `n,,`. Names and passwords go as they are, without SASLprep, as
//! Java does.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use pbkdf2::pbkdf2_hmac_array;
use sha2::{Digest, Sha256, Sha512};

use super::exchange::{Exchange, Mechanism};
use super::login::said;
use crate::error::Phase;
use crate::runtime::BoxFuture;
use crate::sync::{Mutex, lock};
use crate::types::{Secret, is_same};
use crate::{Error, ErrorKind, Result};

/// Fewer make a stolen verifier cheap to guess (RFC 7677).
const ITERATIONS_MIN: u32 = 4_096;
/// More would let a peer burn our time.
const ITERATIONS_MAX: u32 = 100_000;
const MESSAGE_MAX: usize = 4_096;
const SALT_MAX: usize = 1_024;

/// SCRAM: proves that both sides know the password, without sending it.
///
/// A broker that asks for fewer than 4,096 iterations, or for more than 100,000 (unless
/// [`max_iterations`](Self::max_iterations) says otherwise), is refused, as is one that cannot show that it knows the
/// password.
///
/// ```no_run
/// # async fn example() -> carafe::Result<()> {
/// use carafe::client::{Client, sasl::Scram};
///
/// let scram = Scram::sha_512("alice", "secret");
/// let client = Client::builder().bootstrap_servers("kafka:9094").sasl(scram).build().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Scram {
    hash: Hash,
    username: String,
    password: Secret,
    token: bool,
    max_iterations: u32,
    /// What was derived of the password last: a reconnect costs no derivation.
    derived: Arc<Mutex<Option<Derived>>>,
}

impl fmt::Debug for Scram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hash, username, token, max_iterations, .. } = self;
        f.debug_struct("Scram")
            .field("mechanism", &hash.name())
            .field("username", username)
            .field("token", token)
            .field("max_iterations", max_iterations)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha512,
}

/// The password, salted and stretched.
#[derive(Clone)]
struct Derived {
    salt: Vec<u8>,
    iterations: u32,
    salted: Vec<u8>,
}

impl Scram {
    /// SCRAM-SHA-256 for one user.
    pub fn sha_256(username: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self::new(Hash::Sha256, username.into(), password.into())
    }

    /// SCRAM-SHA-512 for one user.
    pub fn sha_512(username: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self::new(Hash::Sha512, username.into(), password.into())
    }

    fn new(hash: Hash, username: String, password: Secret) -> Self {
        let derived = Arc::new(Mutex::new(None));
        Self { hash, username, password, token: false, max_iterations: ITERATIONS_MAX, derived }
    }

    /// User and password are the id and the HMAC of a delegation token (KIP-48).
    #[must_use]
    pub fn delegation_token(mut self) -> Self {
        self.token = true;
        self
    }

    /// Most iterations that a broker may ask for; default 100,000, at least 4,096.
    #[must_use]
    pub fn max_iterations(mut self, iterations: u32) -> Self {
        self.max_iterations = iterations.max(ITERATIONS_MIN);
        self
    }

    /// The password for this salt, from what was derived before where it fits.
    async fn salted(&self, exchange: &Exchange, salt: Vec<u8>, iterations: u32) -> Result<Vec<u8>> {
        let known = lock(&self.derived).clone();
        if let Some(known) = known.filter(|known| known.salt == salt && known.iterations == iterations) {
            return Ok(known.salted);
        }
        let (hash, password, for_salt) = (self.hash, self.password.clone(), salt.clone());
        let work = move || hash.stretch(password.expose().as_bytes(), &for_salt, iterations);
        let salted = exchange.runtime().blocking("carafe-scram", work).await.map_err(|error| {
            Error::new(ErrorKind::Internal, "the password could not be derived").with_source(error)
        })?;
        *lock(&self.derived) = Some(Derived { salt, iterations, salted: salted.clone() });
        Ok(salted)
    }

    /// The first message without its header.
    fn first(&self, nonce: &str) -> String {
        let name = self.username.replace('=', "=3D").replace(',', "=2C");
        format!("n={name},r={nonce}{}", if self.token { ",tokenauth=true" } else { "" })
    }
}

impl Mechanism for Scram {
    fn name(&self) -> &str {
        self.hash.name()
    }

    fn authenticate<'a>(&'a self, exchange: &'a mut Exchange) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let runtime = exchange.runtime();
            let random = [runtime.random(), runtime.random(), runtime.random()].map(u64::to_be_bytes);
            let nonce = BASE64.encode(random.as_flattened());
            let first = self.first(&nonce);
            let answer = exchange.send(format!("n,,{first}")).await?;
            let challenge = Challenge::read(&answer, &nonce, self.max_iterations)?;
            let salted = self.salted(exchange, challenge.salt, challenge.iterations).await?;
            let bare = format!("c=biws,r={}", challenge.nonce);
            let spoken = format!("{first},{},{bare}", challenge.text);
            let (proof, signature) = self.hash.prove(&salted, spoken.as_bytes());
            let answer = exchange.send(format!("{bare},p={}", BASE64.encode(proof))).await?;
            check_signature(&answer, &signature)
        })
    }
}

/// What the broker says first.
#[derive(Debug, PartialEq)]
struct Challenge {
    /// The message as it came.
    text: String,
    nonce: String,
    salt: Vec<u8>,
    iterations: u32,
}

impl Challenge {
    fn read(bytes: &Bytes, ours: &str, max_iterations: u32) -> Result<Self> {
        let text = text(bytes)?;
        let mut parts = text.split(',');
        let mut part = |name: &str| {
            let part = parts.next().unwrap_or_default();
            match part.split_once('=') {
                Some((key, value)) if key == name => Ok(value),
                Some(("m", _)) => Err(wrong("the broker asks for an extension that carafe does not know")),
                Some(("e", why)) => Err(wrong(format!("the broker says {:?}", said(why)))),
                _ => Err(wrong(format!("the broker's first message has no `{name}=` where it belongs"))),
            }
        };
        let (nonce, salt, iterations) = (part("r")?, part("s")?, part("i")?);
        if !nonce.starts_with(ours) || nonce.len() == ours.len() {
            return Err(wrong("the broker's nonce does not extend ours"));
        }
        let salt = BASE64.decode(salt).map_err(|_| wrong("the broker's salt is no base64"))?;
        if salt.is_empty() || salt.len() > SALT_MAX {
            return Err(wrong(format!("the broker's salt has {} bytes, not 1 to {SALT_MAX}", salt.len())));
        }
        let iterations = iterations.parse().map_err(|_| wrong("the broker's iterations are no number"))?;
        if !(ITERATIONS_MIN..=max_iterations).contains(&iterations) {
            let message = format!(
                "the broker asks for {iterations} iterations, not {ITERATIONS_MIN} to {max_iterations}"
            );
            let advice = if iterations < ITERATIONS_MIN {
                "store the user's credentials anew with at least 4096 iterations"
            } else {
                "raise sasl.scram.max.iterations if the broker is right"
            };
            return Err(wrong(message).with_advice(advice));
        }
        Ok(Self { nonce: nonce.to_owned(), salt, iterations, text: text.to_owned() })
    }
}

/// The broker's last message must show that it knows the password, too.
fn check_signature(bytes: &Bytes, expected: &[u8]) -> Result<()> {
    let text = text(bytes)?;
    let first = text.split(',').next().unwrap_or_default();
    match first.split_once('=') {
        Some(("v", signature)) => {
            let signature =
                BASE64.decode(signature).map_err(|_| wrong("the broker's signature is no base64"))?;
            if is_same(expected, &signature) {
                return Ok(());
            }
            let advice =
                "it may not be the broker that it claims to be; check the address and its certificate";
            Err(wrong("the broker's signature is wrong: it does not know the password").with_advice(advice))
        }
        Some(("e", why)) => Err(wrong(format!("the broker says {:?}", said(why)))),
        _ => Err(wrong("the broker's last message has no signature")),
    }
}

fn text(bytes: &Bytes) -> Result<&str> {
    if bytes.len() > MESSAGE_MAX {
        return Err(wrong(format!(
            "the broker's message has {} bytes, more than {MESSAGE_MAX}",
            bytes.len()
        )));
    }
    std::str::from_utf8(bytes).map_err(|_| wrong("the broker's message is no text"))
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Authentication, message).with_phase(Phase::Sasl)
}

impl Hash {
    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha512 => "SCRAM-SHA-512",
        }
    }

    /// `Hi` of the RFC: PBKDF2 with one block.
    fn stretch(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        match self {
            Self::Sha256 => pbkdf2_hmac_array::<Sha256, 32>(password, salt, iterations).to_vec(),
            Self::Sha512 => pbkdf2_hmac_array::<Sha512, 64>(password, salt, iterations).to_vec(),
        }
    }

    fn mac(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => mac::<Hmac<Sha256>>(key, message),
            Self::Sha512 => mac::<Hmac<Sha512>>(key, message),
        }
    }

    fn digest(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(message).to_vec(),
            Self::Sha512 => Sha512::digest(message).to_vec(),
        }
    }

    /// Our proof, and the signature that the broker must answer it with.
    fn prove(self, salted: &[u8], spoken: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut proof = self.mac(salted, b"Client Key");
        let stored = self.digest(&proof);
        for (byte, mask) in proof.iter_mut().zip(self.mac(&stored, spoken)) {
            *byte ^= mask;
        }
        let server = self.mac(salted, b"Server Key");
        (proof, self.mac(&server, spoken))
    }
}

/// The HMAC of a message.
pub(super) fn mac<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> Vec<u8> {
    let keyed = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    keyed.chain_update(message).finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677.
    #[test]
    fn a_published_exchange() {
        let first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let scram = Scram::sha_256("user", "pencil");
        let challenge = Challenge::read(&Bytes::from(first), "rOprNGfwEbeRWgbNEkqO", 4096).unwrap();
        let salted = Hash::Sha256.stretch(b"pencil", &challenge.salt, challenge.iterations);
        let bare = format!("c=biws,r={}", challenge.nonce);
        let spoken = format!("{},{first},{bare}", scram.first("rOprNGfwEbeRWgbNEkqO"));
        let (proof, expected) = Hash::Sha256.prove(&salted, spoken.as_bytes());
        assert_eq!(BASE64.encode(proof), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let last = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert!(check_signature(&Bytes::from(last), &expected).is_ok());
        assert!(check_signature(&Bytes::from(format!("{last},x=y")), &expected).is_ok());
    }

    /// Vectors of PBKDF2 with HMAC-SHA-256 (RFC 7914) and HMAC-SHA-512.
    #[test]
    fn published_derivations() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(&Hash::Sha256.stretch(b"passwd", b"salt", 1)),
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
        );
        assert_eq!(
            hex(&Hash::Sha512.stretch(b"password", b"salt", 4096)),
            "d197b1b33db0143e018b12f3d1d1479e6cdebdcc97c5c0f87f6902e072f457b5\
             143f30602641b3d55cd335988cb36b84376060ecd532e039b742a239434af2d5"
        );
    }

    #[test]
    fn what_a_broker_must_not_say_first() {
        let read = |text: &str| Challenge::read(&Bytes::copy_from_slice(text.as_bytes()), "abc", 100_000);
        let good = "r=abcdef,s=c2FsdA==,i=4096";
        assert_eq!(read(good).unwrap().salt, b"salt");
        assert!(read(&format!("{good},x=y")).is_ok(), "what is unknown is ignored behind the rest");
        assert!(read("r=abcdef,s=c2FsdA==,i=100000").is_ok());
        let huge = BASE64.encode([1; SALT_MAX + 1]);
        for (text, expected) in [
            ("r=abc,s=c2FsdA==,i=4096", "nonce"),
            ("r=xbcdef,s=c2FsdA==,i=4096", "nonce"),
            ("r=abcdef,s=,i=4096", "salt has 0 bytes"),
            (&format!("r=abcdef,s={huge},i=4096"), "salt has 1025 bytes"),
            ("r=abcdef,s=!!!,i=4096", "no base64"),
            ("r=abcdef,s=c2FsdA==,i=4095", "4095 iterations"),
            ("r=abcdef,s=c2FsdA==,i=1", "store the user"),
            ("r=abcdef,s=c2FsdA==,i=100001", "sasl.scram.max.iterations"),
            ("r=abcdef,s=c2FsdA==,i=10000000000", "no number"),
            ("r=abcdef,s=c2FsdA==,i=-4096", "no number"),
            ("r=abcdef,s=c2FsdA==", "`i=`"),
            ("m=x,r=abcdef,s=c2FsdA==,i=4096", "extension"),
            ("e=unknown-user", "unknown-user"),
            ("s=c2FsdA==,r=abcdef,i=4096", "`r=`"),
            ("", "`r=`"),
            (&format!("{good}{}", "x".repeat(MESSAGE_MAX)), "more than 4096"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(Challenge::read(&Bytes::from_static(&[0xff]), "abc", 4096).is_err());
    }

    #[test]
    fn a_broker_that_does_not_know_the_password_is_found_out() {
        let (_, expected) = Hash::Sha256.prove(b"salted", b"spoken");
        for (text, why) in [
            ("v=AAAA", "does not know the password"),
            ("v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "does not know the password"),
            ("v=", "does not know the password"),
            ("v=?", "base64"),
            ("e=invalid-proof", "invalid-proof"),
            ("", "no signature"),
            ("x", "no signature"),
        ] {
            let error = check_signature(&Bytes::from_static(text.as_bytes()), &expected).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn names_are_escaped_and_nothing_prints_a_password() {
        let scram = Scram::sha_256("a=b,c=2Cü", "hunter2").delegation_token();
        assert_eq!(scram.first("N"), "n=a=3Db=2Cc=3D2Cü,r=N,tokenauth=true");
        assert!(!format!("{scram:?} {scram:#?}").contains("hunter2"));
    }
}
