//! PKCS #12 (RFC 7292), as OpenSSL and `keytool` write it: certificates, and a key that may belong to them.

use super::der::{self, Der, EXPLICIT_0, IMPLICIT_0, OCTET_STRING, OID, SEQUENCE, SET};
use super::pbe::{self, Closed, Hash};

const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x06];
/// Bags, by what comes behind.
const BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01];
const X509: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x16, 0x01];
const LOCAL_KEY_ID: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x15];
/// Bags of bags are as deep as this at most.
const DEPTH_MAX: u8 = 4;

/// What is in a store.
#[derive(Debug, Default)]
pub(super) struct Store {
    certificates: Vec<(Option<Vec<u8>>, Vec<u8>)>,
    keys: Vec<(Option<Vec<u8>>, Vec<u8>)>,
}

impl Store {
    /// All certificates.
    pub(super) fn certificates(self) -> Vec<Vec<u8>> {
        self.certificates.into_iter().map(|(_, certificate)| certificate).collect()
    }

    /// The first key, as a PrivateKeyInfo, and its certificates from its own to that of an authority.
    pub(super) fn identity(mut self) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
        if self.keys.is_empty() {
            return None;
        }
        let (id, key) = self.keys.swap_remove(0);
        let own = self.certificates.iter().position(|(of, _)| id.is_some() && *of == id).unwrap_or(0);
        let mut others = self.certificates();
        let mut chain = Vec::new();
        if own < others.len() {
            chain.push(others.swap_remove(own));
        }
        while let Some((issuer, subject)) = chain.last().and_then(|last| der::issuer_and_subject(last)) {
            let issued = |other: &Vec<u8>| {
                issuer != subject
                    && der::issuer_and_subject(other).is_some_and(|(_, subject)| subject == issuer)
            };
            let Some(next) = others.iter().position(issued) else { break };
            chain.push(others.swap_remove(next));
        }
        Some((key, chain))
    }
}

/// True if the bytes begin as a store does: a version, where a certificate has a sequence.
pub(super) fn is_store(bytes: &[u8]) -> bool {
    Der::new(bytes).enter(SEQUENCE).and_then(|mut fields| fields.number()) == Some(3)
}

/// Opens a store, or says why it stays closed.
pub(super) fn open(bytes: &[u8], password: &str) -> Result<Store, Closed> {
    let mut fields = Der::new(bytes).enter(SEQUENCE).ok_or(Closed::Damaged)?;
    fields.number().ok_or(Closed::Damaged)?;
    let mut content = fields.enter(SEQUENCE).ok_or(Closed::Damaged)?;
    if content.take(OID) != Some(DATA) {
        return Err(Closed::Unknown);
    }
    let safe =
        content.enter(EXPLICIT_0).and_then(|mut safe| safe.take(OCTET_STRING)).ok_or(Closed::Damaged)?;
    if let Some(mac) = fields.enter(SEQUENCE) {
        check(mac, password, safe)?;
    }
    let mut store = Store::default();
    let mut parts = Der::new(safe).enter(SEQUENCE).ok_or(Closed::Damaged)?;
    while !parts.is_empty() {
        let mut part = parts.enter(SEQUENCE).ok_or(Closed::Damaged)?;
        let kind = part.take(OID).ok_or(Closed::Damaged)?;
        let mut content = part.enter(EXPLICIT_0).ok_or(Closed::Damaged)?;
        match kind {
            DATA => {
                let bags = content.take(OCTET_STRING).ok_or(Closed::Damaged)?;
                store.take(Der::new(bags), password, 0)?;
            }
            ENCRYPTED_DATA => {
                let mut fields = content.enter(SEQUENCE).ok_or(Closed::Damaged)?;
                fields.number().ok_or(Closed::Damaged)?;
                let mut fields = fields.enter(SEQUENCE).ok_or(Closed::Damaged)?;
                fields.take(OID).ok_or(Closed::Damaged)?;
                let algorithm = fields.enter(SEQUENCE).ok_or(Closed::Damaged)?;
                let data = fields.take(IMPLICIT_0).ok_or(Closed::Damaged)?;
                let bags = pbe::open(algorithm, password, data)?;
                store.take(Der::new(&bags), password, 0)?;
            }
            _ => return Err(Closed::Unknown),
        }
    }
    Ok(store)
}

/// Whether the store is whole and the password is its own.
fn check(mut mac: Der<'_>, password: &str, safe: &[u8]) -> Result<(), Closed> {
    let mut digest = mac.enter(SEQUENCE).ok_or(Closed::Damaged)?;
    let hash = digest.enter(SEQUENCE).and_then(|mut algorithm| algorithm.take(OID)).ok_or(Closed::Damaged)?;
    let hash = Hash::of(hash).ok_or(Closed::Unknown)?;
    let expected = digest.take(OCTET_STRING).ok_or(Closed::Damaged)?;
    let salt = mac.take(OCTET_STRING).ok_or(Closed::Damaged)?;
    let iterations = if mac.is_empty() { 1 } else { mac.number().ok_or(Closed::Damaged)? };
    if pbe::is_mac(hash, password, (salt, iterations), safe, expected)? {
        Ok(())
    } else {
        Err(Closed::WrongPassword)
    }
}

impl Store {
    fn take(&mut self, bags: Der<'_>, password: &str, depth: u8) -> Result<(), Closed> {
        let mut bags = { bags }.enter(SEQUENCE).ok_or(Closed::Damaged)?;
        while !bags.is_empty() {
            let mut bag = bags.enter(SEQUENCE).ok_or(Closed::Damaged)?;
            let kind = bag.take(OID).ok_or(Closed::Damaged)?;
            let mut value = bag.enter(EXPLICIT_0).ok_or(Closed::Damaged)?;
            let id = bag.enter(SET).and_then(local_key_id);
            match kind.strip_prefix(BAG) {
                Some([1]) => self.keys.push((id, value.whole().ok_or(Closed::Damaged)?.to_vec())),
                Some([2]) => {
                    let encrypted = value.whole().ok_or(Closed::Damaged)?;
                    self.keys.push((id, pbe::open_key(encrypted, password)?));
                }
                Some([3]) => {
                    let mut fields = value.enter(SEQUENCE).ok_or(Closed::Damaged)?;
                    if fields.take(OID) == Some(X509) {
                        let certificate = fields.enter(EXPLICIT_0).and_then(|mut v| v.take(OCTET_STRING));
                        self.certificates.push((id, certificate.ok_or(Closed::Damaged)?.to_vec()));
                    }
                }
                Some([6]) if depth < DEPTH_MAX => self.take(value, password, depth + 1)?,
                // Lists of what was revoked, secrets: nothing that is asked for.
                _ => {}
            }
        }
        Ok(())
    }
}

fn local_key_id(mut attributes: Der<'_>) -> Option<Vec<u8>> {
    while let Some(mut attribute) = attributes.enter(SEQUENCE) {
        if attribute.take(OID) == Some(LOCAL_KEY_ID) {
            return attribute.enter(SET)?.take(OCTET_STRING).map(<[u8]>::to_vec);
        }
    }
    None
}
