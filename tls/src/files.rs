//! The files that flags name, and what can be wrong with them.

use std::path::{Path, PathBuf};

use rustls::SupportedProtocolVersion;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Only one of two files that belong together.
    #[error("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]")]
    Pair {
        /// The key's file.
        key: String,
        /// The certificate's file.
        cert: String,
    },
    /// A file cannot be read.
    #[error("open {path}: {error}")]
    Open {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: String,
    },
    /// A file holds no such thing; the text is Go's.
    #[error("tls: failed to find any PEM data in {what} input")]
    Empty {
        /// What was looked for.
        what: &'static str,
    },
    /// Certificate, key or authorities that cannot be used.
    #[error("{path}: {error}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: String,
    },
    /// The system's certificate authorities, used where no file names any, cannot be read.
    #[error("the system's certificate authorities cannot be used: {0}")]
    System(String),
    /// No version is allowed.
    #[error("min version is {0} and greater than the max version {1}")]
    Versions(&'static str, &'static str),
}

/// The versions of TLS that are spoken. (etcd: `--tls-min-version`, `--tls-max-version`)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Versions {
    Tls12,
    Tls13,
}

impl Versions {
    /// `TLS1.2` or `TLS1.3`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "TLS1.2" => Some(Self::Tls12),
            "TLS1.3" => Some(Self::Tls13),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "TLS1.2",
            Self::Tls13 => "TLS1.3",
        }
    }

    /// Every version from `min` to `max`.
    pub(crate) fn between(min: Self, max: Self) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
        let all = [(Self::Tls12, &rustls::version::TLS12), (Self::Tls13, &rustls::version::TLS13)];
        let some: Vec<_> = all.iter().filter(|(it, _)| (min..=max).contains(it)).map(|(_, it)| *it).collect();
        if some.is_empty() { Err(TlsError::Versions(min.name(), max.name())) } else { Ok(some) }
    }
}

/// A certificate with its key, and whom to trust; each may be missing. (etcd: `TLSInfo`)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The certificate and what is above it, PEM.
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
    /// The authorities that the other side's certificate must come from, PEM.
    pub trusted_ca: Option<PathBuf>,
}

impl Files {
    /// Whether there is neither certificate nor key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cert.is_none() && self.key.is_none()
    }

    /// The certificate's chain with its key; `None` if there are neither.
    pub(crate) fn identity(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, TlsError> {
        match (&self.cert, &self.key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some((certificates(cert)?, private_key(key)?))),
            (cert, key) => {
                let text = |path: &Option<PathBuf>| path.as_ref().map_or(String::new(), |it| it.display().to_string());
                Err(TlsError::Pair { key: text(key), cert: text(cert) })
            }
        }
    }

    /// The authorities of the file, or the system's if there is none.
    pub(crate) fn roots(&self) -> Result<rustls::RootCertStore, TlsError> {
        let mut roots = rustls::RootCertStore::empty();
        let Some(path) = &self.trusted_ca else {
            let found = rustls_native_certs::load_native_certs();
            let (good, _) = roots.add_parsable_certificates(found.certs);
            let reason = || found.errors.first().map_or("there are none".to_owned(), ToString::to_string);
            return if good == 0 { Err(TlsError::System(reason())) } else { Ok(roots) };
        };
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| unusable(path, &error))?;
        }
        Ok(roots)
    }
}

pub(crate) fn unusable(path: &Path, error: &dyn std::error::Error) -> TlsError {
    TlsError::Unusable { path: path.to_owned(), error: error.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| {
        let error = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => error.to_string(),
        };
        TlsError::Open { path: path.to_owned(), error }
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| unusable(path, &error))?;
    if found.is_empty() {
        return Err(TlsError::Empty { what: "certificate" });
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    use rustls::pki_types::pem::Error;
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        Error::NoItemsFound => TlsError::Empty { what: "key" },
        error => unusable(path, &error),
    })
}
