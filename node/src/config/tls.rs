//! TLS as the flags ask for it: which files, for which side of which port.

use std::path::PathBuf;

use quorate_tls::{Acceptor, Connector, Files, TlsError, Trust, Versions};

use super::flags::Flags;
use super::{Config, Refusal};
use crate::url::Url;

/// TLS on one of the two ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// What is shown to those who connect, and whom of them to believe.
    pub files: Files,
    /// What is shown to those it connects to, if not the same.
    pub client_files: Files,
    /// Whether those who connect must show a certificate. (etcd: `--client-cert-auth`)
    pub client_cert_auth: bool,
    /// The oldest version spoken.
    pub min: Versions,
    /// The newest.
    pub max: Versions,
}

impl Tls {
    pub(super) fn of_clients(flags: &Flags) -> Result<Self, Refusal> {
        Self::new(flags, "")
    }

    pub(super) fn of_peers(flags: &Flags) -> Result<Self, Refusal> {
        Self::new(flags, "peer-")
    }

    fn new(flags: &Flags, prefix: &str) -> Result<Self, Refusal> {
        let file = |name: &str| match flags.text(&format!("{prefix}{name}")) {
            "" => None,
            path => Some(PathBuf::from(path)),
        };
        let version = |name: &str, default: Versions| match flags.text(name) {
            "" => Ok(default),
            text => Versions::parse(text).ok_or_else(|| Refusal::invalid(format!("unexpected TLS version {text:?}"))),
        };
        let trusted_ca = file("trusted-ca-file");
        let files = Files { cert: file("cert-file"), key: file("key-file"), trusted_ca: trusted_ca.clone() };
        let client_files = Files { cert: file("client-cert-file"), key: file("client-key-file"), trusted_ca };
        if client_files.cert.is_some() != client_files.key.is_some() {
            let text = format!("--{prefix}client-cert-file and --{prefix}client-key-file must be given together");
            return Err(Refusal::invalid(text));
        }
        let client_cert_auth = flags.bool(&format!("{prefix}client-cert-auth"));
        let (min, max) = (version("tls-min-version", Versions::Tls12)?, version("tls-max-version", Versions::Tls13)?);
        if min > max {
            let (min, max) = (flags.text("tls-min-version"), flags.text("tls-max-version"));
            return Err(Refusal::invalid(format!("min version ({min}) is greater than max version ({max})")));
        }
        Ok(Self { files, client_files, client_cert_auth, min, max })
    }

    /// Refuses `https` without a certificate. (etcd's text)
    pub(super) fn check_client_urls(&self, urls: &[Url]) -> Result<(), Refusal> {
        match urls.iter().find(|url| url.is_secure() && self.files.is_empty()) {
            Some(url) => Err(Refusal::invalid(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
            ))),
            None => Ok(()),
        }
    }

    /// Refuses `https` without a certificate. (etcd's text)
    pub(super) fn check_peer_urls(&self, urls: &[Url]) -> Result<(), Refusal> {
        match urls.iter().find(|url| url.is_secure() && self.files.is_empty()) {
            Some(url) => {
                let address = url.authority();
                let text = format!("cannot listen on TLS for {address}: KeyFile and CertFile are not presented");
                Err(Refusal::invalid(text))
            }
            None => Ok(()),
        }
    }

    /// The accepting side, if any of `urls` needs one.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn acceptor(&self, urls: &[Url]) -> Result<Option<Acceptor>, TlsError> {
        if !urls.iter().any(Url::is_secure) {
            return Ok(None);
        }
        Acceptor::new(&self.files, self.client_cert_auth, self.min, self.max).map(Some)
    }

    /// The connecting side. It is plain unless files or any of `urls` ask for more.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn connector<'a>(&self, mut urls: impl Iterator<Item = &'a Url>) -> Result<Connector, TlsError> {
        let files = if self.client_files.is_empty() { &self.files } else { &self.client_files };
        if files == &Files::default() && !urls.any(Url::is_secure) {
            return Ok(Connector::plain());
        }
        Connector::new(files, Trust::Verified, self.min, self.max)
    }
}

/// What is asked for and has no effect.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let sides = [
        (&config.client_tls, &config.listen_client_urls, "--client-cert-auth"),
        (&config.peer_tls, &config.listen_peer_urls, "--peer-client-cert-auth"),
    ];
    let mut warnings = Vec::new();
    for (tls, urls, flag) in sides {
        for url in urls.iter().filter(|url| !url.is_secure()) {
            if !tls.files.is_empty() {
                warnings.push(format!("key and cert files are present and ignored: {url} is no https URL"));
            }
            if tls.client_cert_auth {
                warnings.push(format!("{flag} is ignored: {url} is no https URL"));
            }
        }
    }
    warnings
}
