//! Certificates and keys, from files or texts, in whatever form they are: PEM, DER or PKCS #12. The content says which.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};

use super::pbe::{self, Closed};
use super::{pem, pkcs12};
use crate::types::Secret;

/// Larger files hold something else.
const FILE_MAX: u64 = 16 * 1024 * 1024;
/// Java's own key stores begin so.
const JKS: &[u8] = &[0xfe, 0xed, 0xfe, 0xed];
const JCEKS: &[u8] = &[0xce, 0xce, 0xce, 0xce];

/// Where something is read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    File(PathBuf),
    /// The content itself.
    Text(Secret),
}

/// Something to read, and the setting that names it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Input {
    pub(crate) setting: &'static str,
    pub(crate) source: Source,
}

/// What is wrong with an input: its setting, and what.
pub(crate) type Problem = (&'static str, String);

/// What a file looked like when it was read; another look means another content.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stamp {
    path: PathBuf,
    modified: Option<SystemTime>,
    length: u64,
}

impl Input {
    /// The files that are read, as they look now.
    pub(super) fn stamps(&self) -> Vec<Stamp> {
        let Source::File(path) = &self.source else { return Vec::new() };
        let files = if path.is_dir() { files_of(path).unwrap_or_default() } else { vec![path.clone()] };
        // What is not there looks like nothing.
        let stamp = |path: PathBuf| {
            let metadata = fs::metadata(&path).ok();
            let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
            Stamp { path, modified, length: metadata.map_or(0, |metadata| metadata.len()) }
        };
        files.into_iter().map(stamp).collect()
    }

    /// How the source is called in messages.
    fn place(&self) -> String {
        match &self.source {
            Source::File(path) => format!("{}: ", path.display()),
            Source::Text(_) => String::new(),
        }
    }

    fn problem(&self, what: impl AsRef<str>) -> Problem {
        (self.setting, format!("{}{}", self.place(), what.as_ref()))
    }

    fn read(&self) -> Result<Vec<u8>, Problem> {
        let bytes = match &self.source {
            Source::Text(text) => text.expose().as_bytes().to_vec(),
            Source::File(path) => read(path).map_err(|what| self.problem(what))?,
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(self.problem("is empty"));
        }
        if bytes.starts_with(JKS) || bytes.starts_with(JCEKS) {
            let path = self.place();
            let path = path.trim_end_matches(": ");
            let what = format!(
                "is a key store in Java's own format; convert it with: keytool -importkeystore -srckeystore {path} \
                 -destkeystore {path}.p12 -deststoretype PKCS12"
            );
            return Err(self.problem(what));
        }
        Ok(bytes)
    }

    /// All certificates; those of all files if it is a directory.
    pub(crate) fn certificates(
        &self,
        password: Option<&Secret>,
    ) -> Result<Vec<CertificateDer<'static>>, Problem> {
        if let Source::File(directory) = &self.source
            && directory.is_dir()
        {
            let files = files_of(directory).map_err(|error| self.problem(error.to_string()))?;
            let each = |path| Self { setting: self.setting, source: Source::File(path) };
            // As in OpenSSL's directories, not every file needs to hold certificates.
            let found = files.into_iter().filter_map(|path| each(path).certificates(password).ok());
            let found: Vec<_> = found.flatten().collect();
            if found.is_empty() {
                return Err(self.problem("is a directory without certificates"));
            }
            return Ok(found);
        }
        let bytes = self.read()?;
        let found: Vec<Vec<u8>> = if pem::is_pem(&bytes) {
            let blocks = pem::blocks(&bytes).map_err(|what| self.problem(what))?;
            let certificates = blocks.into_iter().filter(|block| block.label == "CERTIFICATE");
            certificates.map(|block| block.bytes).collect()
        } else if pkcs12::is_store(&bytes) {
            self.open(&bytes, password)?.certificates()
        } else if is_der(&bytes) {
            vec![bytes]
        } else {
            return Err(self.problem("is neither PEM nor PKCS #12 nor a certificate in DER"));
        };
        if found.is_empty() {
            return Err(self.problem("holds no certificate"));
        }
        let count = found.len();
        for (number, certificate) in (1..).zip(&found) {
            if webpki_reads(certificate) {
                continue;
            }
            let which = if count == 1 { String::new() } else { format!(" number {number} of {count}") };
            return Err(self.problem(format!("is damaged: its certificate{which} cannot be read")));
        }
        Ok(found.into_iter().map(CertificateDer::from).collect())
    }

    /// The private key. `password` is that of the key, and names its setting.
    pub(crate) fn key(&self, password: Option<&Secret>) -> Result<PrivateKeyDer<'static>, Problem> {
        if let Source::File(path) = &self.source
            && path.is_dir()
        {
            return Err(self.problem("is a directory; name a file"));
        }
        let bytes = self.read()?;
        if !pem::is_pem(&bytes) {
            if pkcs12::is_store(&bytes) {
                let what = "is a PKCS #12 store; name it as ssl.keystore.location";
                return Err(self.problem(what));
            }
            return PrivateKeyDer::try_from(bytes)
                .map_err(|_| self.problem("is neither PEM nor a private key in DER"));
        }
        let blocks = pem::blocks(&bytes).map_err(|what| self.problem(what))?;
        for block in blocks {
            if block.has_headers && block.label.ends_with("PRIVATE KEY") {
                let what = "is encrypted in OpenSSL's old format; convert it with: openssl pkcs8 -topk8 -in OLD -out NEW";
                return Err(self.problem(what));
            }
            return Ok(match block.label.as_str() {
                "PRIVATE KEY" => PrivatePkcs8KeyDer::from(block.bytes).into(),
                "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(block.bytes).into(),
                "EC PRIVATE KEY" => PrivateSec1KeyDer::from(block.bytes).into(),
                "ENCRYPTED PRIVATE KEY" => {
                    let Some(password) = password else {
                        return Err(self.problem("is encrypted, and ssl.key.password is not set"));
                    };
                    let key = pbe::open_key(&block.bytes, password.expose());
                    PrivatePkcs8KeyDer::from(key.map_err(|why| self.problem(why.reason()))?).into()
                }
                _ => continue,
            });
        }
        Err(self.problem("holds no private key"))
    }

    /// Key and certificates of one file or text: PKCS #12, or PEM with both.
    pub(crate) fn identity(
        &self,
        store_password: Option<&Secret>,
        key_password: Option<&Secret>,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Problem> {
        if let Source::File(path) = &self.source
            && path.is_dir()
        {
            return Err(self.problem("is a directory; name a file"));
        }
        let bytes = self.read()?;
        if pem::is_pem(&bytes) {
            return Ok((self.certificates(None)?, self.key(key_password.or(store_password))?));
        }
        if !pkcs12::is_store(&bytes) {
            return Err(self.problem("is neither PEM nor PKCS #12"));
        }
        let store = self.open(&bytes, store_password)?;
        let Some((key, chain)) = store.identity() else {
            return Err(self.problem("holds no private key; is it a trust store?"));
        };
        if chain.is_empty() {
            return Err(self.problem("holds no certificate"));
        }
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Ok((chain, PrivatePkcs8KeyDer::from(key).into()))
    }

    fn open(&self, store: &[u8], password: Option<&Secret>) -> Result<pkcs12::Store, Problem> {
        let given = password.map_or("", Secret::expose);
        pkcs12::open(store, given).map_err(|why| match (why, password) {
            (Closed::WrongPassword, None) => self.problem("is encrypted, and its password is not set"),
            _ => self.problem(why.reason()),
        })
    }
}

/// The plain files of a directory, in their order.
fn files_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<_> = fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "may not be read by this process".to_owned(),
        _ => error.to_string(),
    };
    let file = fs::File::open(path).map_err(told)?;
    if file.metadata().map_err(told)?.is_dir() {
        return Err("is a directory; name a file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(told)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("is larger than {FILE_MAX} bytes"));
    }
    Ok(bytes)
}

fn is_der(bytes: &[u8]) -> bool {
    super::der::issuer_and_subject(bytes).is_some()
}

/// Whether the verifier will be able to read it at all.
fn webpki_reads(certificate: &[u8]) -> bool {
    super::der::issuer_and_subject(certificate).is_some()
}
