//! The accepting side.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::files::unusable;
use crate::{Files, TlsError, Versions, common_name, provider};

/// A client that takes longer for its handshake has gone, or means harm.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Turns TCP connections into TLS ones.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

/// A connection whose handshake is done.
pub struct Accepted {
    /// The encrypted stream.
    pub stream: TlsStream<TcpStream>,
    /// The name in the client's certificate, which was verified.
    pub common_name: Option<String>,
}

impl Acceptor {
    /// Serves with the certificate of `files`. Clients must show one of their own that its authorities, or the system's,
    /// have signed, if `client_auth` is set or `files` name authorities. (etcd: TLSInfo.ServerConfig)
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(files: &Files, client_auth: bool, min: Versions, max: Versions) -> Result<Self, TlsError> {
        let Some((chain, key)) = files.identity()? else {
            return Err(TlsError::Pair { key: String::new(), cert: String::new() });
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&Versions::between(min, max)?)
            .expect("the provider's cipher suites cover every version");
        let builder = if client_auth || files.trusted_ca.is_some() {
            let roots: RootCertStore = files.roots()?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider())
                .build()
                .map_err(|error| unusable(files.trusted_ca.as_deref().unwrap_or("".as_ref()), &error))?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let path = files.cert.as_deref().expect("a certificate was read from it");
        let mut config = builder.with_single_cert(chain, key).map_err(|error| unusable(path, &error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// The client's certificate is missing or not good, it speaks no TLS, or it takes too long.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Accepted> {
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.0.accept(stream))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let common_name = certificates.first().and_then(|leaf| common_name(leaf));
        Ok(Accepted { stream, common_name })
    }
}
