//! Certificates for tests, made when they are needed.

use graviola::hashing::Sha256;
use graviola::signing::ecdsa::{P256, SigningKey};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyIdMethod, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};

/// A key for signatures, with what rcgen wants of it.
struct Key {
    secret: SigningKey<P256>,
    public: Vec<u8>,
}

impl Key {
    fn generate() -> Self {
        let secret = SigningKey::<P256>::generate().expect("the system gives randomness");
        let mut buffer = [0; 256];
        let info = secret.to_spki_der(&mut buffer).expect("it has room");
        // The point is the last of it: 65 bytes, not compressed.
        let public = info[info.len() - 65..].to_vec();
        Self { secret, public }
    }

    fn der(&self) -> Vec<u8> {
        let mut buffer = [0; 512];
        self.secret.to_pkcs8_der(&mut buffer).expect("it has room").to_vec()
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let mut buffer = [0; 128];
        let signature = self.secret.sign_asn1::<Sha256>(&[message], &mut buffer);
        signature.map(<[u8]>::to_vec).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// A certificate and its key, as PEM.
pub(crate) struct Pair {
    /// The certificate.
    pub(crate) certificate: String,
    /// The key, as PKCS #8.
    pub(crate) key: String,
}

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, Key>,
    /// Its own certificate, as PEM.
    pub(crate) certificate: String,
}

impl Authority {
    /// A new one of this name.
    pub(crate) fn new(name: &str) -> Self {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = Key::generate();
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate for these hosts and addresses, valid now.
    pub(crate) fn issue(&self, name: &str, hosts: &[&str]) -> Pair {
        self.issue_for(name, hosts, (2020, 2090))
    }

    /// A certificate that is valid from and until the beginning of these years.
    pub(crate) fn issue_for(&self, name: &str, hosts: &[&str], (from, until): (i32, i32)) -> Pair {
        let mut params = named(name);
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.subject_alt_names = hosts
            .iter()
            .map(|host| match host.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*host).to_owned().try_into().expect("a name of ASCII")),
            })
            .collect();
        let key = Key::generate();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pair { certificate, key: pem("PRIVATE KEY", &key.der()) }
    }

    /// A certificate that vouches for itself and calls itself an authority's, as `openssl req -x509` makes it.
    pub(crate) fn itself(name: &str, hosts: &[&str]) -> Pair {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.subject_alt_names = hosts
            .iter()
            .map(|host| SanType::DnsName((*host).to_owned().try_into().expect("a name")))
            .collect();
        let key = Key::generate();
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Pair { certificate, key: pem("PRIVATE KEY", &key.der()) }
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(name.bytes().map(u64::from).sum::<u64>()));
    params.key_identifier_method = KeyIdMethod::PreSpecified(name.as_bytes().to_vec());
    params
}

/// A block of PEM.
pub(crate) fn pem(label: &str, bytes: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(bytes);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
