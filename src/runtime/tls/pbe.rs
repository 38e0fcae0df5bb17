//! What a password protects in key files: PBES2 (RFC 8018) and the older schemes of PKCS #12 (RFC 7292).

use aes::{Aes128, Aes192, Aes256};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, InnerIvInit, KeyInit};
use des::{TdesEde2, TdesEde3};
use hmac::{Hmac, Mac};
use pbkdf2::pbkdf2_hmac;
use rc2::Rc2;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::der::{Der, OCTET_STRING, OID, SEQUENCE};

/// More than any program asks for; more than this is an attack, or a damaged file.
const ITERATIONS_MAX: u32 = 10_000_000;

const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
/// Those of PKCS #12, by what comes behind.
const PKCS12_PBE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01];
/// HMAC with a digest, by what comes behind.
const HMAC_WITH: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02];
const AES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01];
const DES_EDE3_CBC: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x03, 0x07];
const SHA_1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
const SHA_2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// Why something stays closed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Closed {
    WrongPassword,
    /// In a way that we do not know.
    Unknown,
    /// What is said of the way makes no sense.
    Damaged,
}

impl Closed {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::WrongPassword => "is encrypted with another password",
            Self::Unknown => "is encrypted in a way that is not supported; AES and Triple DES are",
            Self::Damaged => "is damaged: what it says of its encryption makes no sense",
        }
    }
}

/// A digest.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// By its own identifier.
    pub(super) fn of(oid: &[u8]) -> Option<Self> {
        match oid {
            SHA_1 => Some(Self::Sha1),
            _ => match oid.strip_prefix(SHA_2)? {
                [1] => Some(Self::Sha256),
                [2] => Some(Self::Sha384),
                [3] => Some(Self::Sha512),
                [4] => Some(Self::Sha224),
                _ => None,
            },
        }
    }

    /// By the identifier of HMAC with it.
    fn of_hmac(oid: &[u8]) -> Option<Self> {
        match oid.strip_prefix(HMAC_WITH)? {
            [7] => Some(Self::Sha1),
            [8] => Some(Self::Sha224),
            [9] => Some(Self::Sha256),
            [10] => Some(Self::Sha384),
            [11] => Some(Self::Sha512),
            _ => None,
        }
    }

    fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        fn of<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
            let mut digest = D::new();
            parts.iter().for_each(|part| digest.update(part));
            digest.finalize().to_vec()
        }
        match self {
            Self::Sha1 => of::<Sha1>(parts),
            Self::Sha224 => of::<Sha224>(parts),
            Self::Sha256 => of::<Sha256>(parts),
            Self::Sha384 => of::<Sha384>(parts),
            Self::Sha512 => of::<Sha512>(parts),
        }
    }

    /// Bytes of a block that it works on.
    fn block(self) -> usize {
        match self {
            Self::Sha1 | Self::Sha224 | Self::Sha256 => 64,
            Self::Sha384 | Self::Sha512 => 128,
        }
    }

    fn output(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    fn pbkdf2(self, password: &[u8], salt: &[u8], iterations: u32, length: usize) -> Vec<u8> {
        let mut key = vec![0; length];
        match self {
            Self::Sha1 => pbkdf2_hmac::<Sha1>(password, salt, iterations, &mut key),
            Self::Sha224 => pbkdf2_hmac::<Sha224>(password, salt, iterations, &mut key),
            Self::Sha256 => pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut key),
            Self::Sha384 => pbkdf2_hmac::<Sha384>(password, salt, iterations, &mut key),
            Self::Sha512 => pbkdf2_hmac::<Sha512>(password, salt, iterations, &mut key),
        }
        key
    }

    /// Whether `expected` is the HMAC of `data` with `key`.
    fn verify(self, key: &[u8], data: &[u8], expected: &[u8]) -> bool {
        fn by<M: Mac + KeyInit>(key: &[u8], data: &[u8], expected: &[u8]) -> bool {
            M::new_from_slice(key).is_ok_and(|mac| mac.chain_update(data).verify_slice(expected).is_ok())
        }
        match self {
            Self::Sha1 => by::<Hmac<Sha1>>(key, data, expected),
            Self::Sha224 => by::<Hmac<Sha224>>(key, data, expected),
            Self::Sha256 => by::<Hmac<Sha256>>(key, data, expected),
            Self::Sha384 => by::<Hmac<Sha384>>(key, data, expected),
            Self::Sha512 => by::<Hmac<Sha512>>(key, data, expected),
        }
    }
}

/// What a key of PKCS #12 is for.
const FOR_CIPHER: u8 = 1;
const FOR_IV: u8 = 2;
const FOR_MAC: u8 = 3;

/// RFC 7292, appendix B.2.
fn pkcs12_key(
    hash: Hash,
    purpose: u8,
    password: &str,
    salt: &[u8],
    iterations: u32,
    length: usize,
) -> Vec<u8> {
    let block = hash.block();
    let stretched = |bytes: &[u8]| -> Vec<u8> {
        bytes.iter().copied().cycle().take(bytes.len().div_ceil(block) * block).collect()
    };
    let password: Vec<u8> = password.encode_utf16().chain([0]).flat_map(u16::to_be_bytes).collect();
    let diversifier = vec![purpose; block];
    let mut input = [stretched(salt), stretched(&password)].concat();
    let mut key = Vec::new();
    while key.len() < length {
        let mut digest = hash.digest(&[&diversifier, &input]);
        for _ in 1..iterations {
            digest = hash.digest(&[&digest]);
        }
        key.extend_from_slice(&digest);
        let addend: Vec<u8> = digest.iter().copied().cycle().take(block).collect();
        for part in input.chunks_exact_mut(block) {
            let mut carry = 1u16;
            for (byte, add) in part.iter_mut().zip(&addend).rev() {
                let sum = u16::from(*byte) + u16::from(*add) + carry;
                *byte = (sum & 0xff) as u8;
                carry = sum >> 8;
            }
        }
    }
    key.truncate(length);
    key
}

/// Whether the password is that of the MAC over `data`.
pub(super) fn is_mac(
    hash: Hash,
    password: &str,
    (salt, iterations): (&[u8], u32),
    data: &[u8],
    expected: &[u8],
) -> Result<bool, Closed> {
    if !(1..=ITERATIONS_MAX).contains(&iterations) {
        return Err(Closed::Damaged);
    }
    let key = pkcs12_key(hash, FOR_MAC, password, salt, iterations, hash.output());
    Ok(hash.verify(&key, data, expected))
}

#[derive(Clone, Copy, Debug)]
enum Cipher {
    Aes128,
    Aes192,
    Aes256,
    TripleDes,
    /// With the first of two keys used twice.
    TripleDes2,
    Rc2 {
        bits: usize,
    },
}

impl Cipher {
    fn key_length(self) -> usize {
        match self {
            Self::Aes128 | Self::TripleDes2 => 16,
            Self::Aes192 | Self::TripleDes => 24,
            Self::Aes256 => 32,
            Self::Rc2 { bits } => bits / 8,
        }
    }

    fn open(self, key: &[u8], iv: &[u8], data: &[u8]) -> Result<Vec<u8>, Closed> {
        fn by<C: BlockCipherDecrypt>(cipher: Option<C>, iv: &[u8], data: &[u8]) -> Result<Vec<u8>, Closed> {
            let cipher = cipher.ok_or(Closed::Damaged)?;
            let mode = cbc::Decryptor::inner_iv_slice_init(cipher, iv).map_err(|_| Closed::Damaged)?;
            // With another password the padding is wrong, but for one in 256.
            mode.decrypt_padded_vec::<Pkcs7>(data).map_err(|_| Closed::WrongPassword)
        }
        match self {
            Self::Aes128 => by(Aes128::new_from_slice(key).ok(), iv, data),
            Self::Aes192 => by(Aes192::new_from_slice(key).ok(), iv, data),
            Self::Aes256 => by(Aes256::new_from_slice(key).ok(), iv, data),
            Self::TripleDes => by(TdesEde3::new_from_slice(key).ok(), iv, data),
            Self::TripleDes2 => by(TdesEde2::new_from_slice(key).ok(), iv, data),
            Self::Rc2 { bits } => by(Some(Rc2::new_with_eff_key_len(key, bits)), iv, data),
        }
    }
}

/// Decrypts `data`, which was encrypted as `algorithm` says: the content of an AlgorithmIdentifier.
pub(super) fn open(mut algorithm: Der<'_>, password: &str, data: &[u8]) -> Result<Vec<u8>, Closed> {
    let oid = algorithm.take(OID).ok_or(Closed::Damaged)?;
    let parameters = algorithm.enter(SEQUENCE).ok_or(Closed::Damaged)?;
    if oid == PBES2 {
        return pbes2(parameters, password, data);
    }
    let cipher = match oid.strip_prefix(PKCS12_PBE) {
        Some([3]) => Cipher::TripleDes,
        Some([4]) => Cipher::TripleDes2,
        Some([5]) => Cipher::Rc2 { bits: 128 },
        Some([6]) => Cipher::Rc2 { bits: 40 },
        _ => return Err(Closed::Unknown),
    };
    let mut parameters = parameters;
    let salt = parameters.take(OCTET_STRING).ok_or(Closed::Damaged)?;
    let iterations = iterations(&mut parameters)?;
    let key = |purpose, length| pkcs12_key(Hash::Sha1, purpose, password, salt, iterations, length);
    cipher.open(&key(FOR_CIPHER, cipher.key_length()), &key(FOR_IV, 8), data)
}

fn iterations(parameters: &mut Der<'_>) -> Result<u32, Closed> {
    parameters.number().filter(|count| (1..=ITERATIONS_MAX).contains(count)).ok_or(Closed::Damaged)
}

fn pbes2(mut parameters: Der<'_>, password: &str, data: &[u8]) -> Result<Vec<u8>, Closed> {
    let mut derivation = parameters.enter(SEQUENCE).ok_or(Closed::Damaged)?;
    let mut scheme = parameters.enter(SEQUENCE).ok_or(Closed::Damaged)?;
    if derivation.take(OID) != Some(PBKDF2) {
        return Err(Closed::Unknown);
    }
    let mut derivation = derivation.enter(SEQUENCE).ok_or(Closed::Damaged)?;
    let salt = derivation.take(OCTET_STRING).ok_or(Closed::Damaged)?;
    let iterations = iterations(&mut derivation)?;
    // The length of the key, which the cipher has anyway.
    derivation.number();
    let hash = match derivation.enter(SEQUENCE) {
        None => Hash::Sha1,
        Some(mut hmac) => hmac.take(OID).and_then(Hash::of_hmac).ok_or(Closed::Unknown)?,
    };
    let cipher = match scheme.take(OID).ok_or(Closed::Damaged)? {
        DES_EDE3_CBC => Cipher::TripleDes,
        oid => match oid.strip_prefix(AES) {
            Some([0x02]) => Cipher::Aes128,
            Some([0x16]) => Cipher::Aes192,
            Some([0x2a]) => Cipher::Aes256,
            _ => return Err(Closed::Unknown),
        },
    };
    let iv = scheme.take(OCTET_STRING).ok_or(Closed::Damaged)?;
    let key = hash.pbkdf2(password.as_bytes(), salt, iterations, cipher.key_length());
    cipher.open(&key, iv, data)
}

/// The key in an EncryptedPrivateKeyInfo: a PrivateKeyInfo.
pub(super) fn open_key(encrypted: &[u8], password: &str) -> Result<Vec<u8>, Closed> {
    let mut fields = Der::new(encrypted).enter(SEQUENCE).ok_or(Closed::Damaged)?;
    let algorithm = fields.enter(SEQUENCE).ok_or(Closed::Damaged)?;
    let data = fields.take(OCTET_STRING).ok_or(Closed::Damaged)?;
    let key = open(algorithm, password, data)?;
    // One wrong password in 256 leaves a padding behind that seems right, and noise before it.
    let is_key = Der::new(&key).enter(SEQUENCE).and_then(|mut fields| fields.number()).is_some();
    if is_key { Ok(key) } else { Err(Closed::WrongPassword) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn keys_are_those_of_the_standards() {
        // RFC 6070, and RFC 7914 section 11.
        let key = Hash::Sha1.pbkdf2(b"password", b"salt", 4096, 20);
        assert_eq!(hex(&key), "4b007901b765489abead49d926f721d065a429c1");
        let key = Hash::Sha256.pbkdf2(b"passwd", b"salt", 1, 64);
        assert_eq!(
            hex(&key),
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc\
             49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783"
        );
        // OpenSSL's tests of PKCS12KDF.
        let salt = [0x0a, 0x58, 0xcf, 0x64, 0x53, 0x0d, 0x82, 0x3f];
        assert_eq!(
            hex(&pkcs12_key(Hash::Sha1, FOR_CIPHER, "smeg", &salt, 1, 24)),
            "8aaae6297b6cb04642ab5b077851284eb7128f1a2a7fbca3"
        );
        assert_eq!(hex(&pkcs12_key(Hash::Sha1, FOR_IV, "smeg", &salt, 1, 8)), "79993dfe048d3b76");
    }
}
