//! TLS for `wss`: whom a client trusts, what a server shows. TLS is the outer wrapping only; who a node is, the
//! Noise handshake inside proves.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
pub use tokio_rustls::TlsAcceptor;

const ALPN: &[u8] = b"http/1.1";

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The system has no certificates to trust.
    #[error("no trusted certificates found on this system; set SSL_CERT_FILE to a file of them")]
    NoRoots,
    /// A certificate or key is not acceptable.
    #[error("certificate or key not acceptable: {0}")]
    Material(#[from] rustls::Error),
    /// A PEM file could not be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
}

/// The certificate authorities that a client trusts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsRoots(pub(crate) Arc<ClientConfig>);

impl TlsRoots {
    /// Those of the system, or of the file that `SSL_CERT_FILE` names. Read once in a process.
    ///
    /// # Errors
    /// [`TlsError::NoRoots`].
    pub fn native() -> Result<Self, TlsError> {
        static NATIVE: OnceLock<TlsRoots> = OnceLock::new();
        if let Some(known) = NATIVE.get() {
            return Ok(known.clone());
        }
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a trusted certificate could not be read");
        }
        let mut roots = RootCertStore::empty();
        let (usable, unusable) = roots.add_parsable_certificates(found.certs);
        tracing::debug!(usable, unusable, "trusted certificates read");
        if usable == 0 {
            return Err(TlsError::NoRoots);
        }
        let roots = Self::from_store(roots)?;
        Ok(NATIVE.get_or_init(|| roots).clone())
    }

    /// These alone.
    ///
    /// # Errors
    /// [`TlsError::Material`] for what is not a certificate; [`TlsError::NoRoots`] for none.
    pub fn only(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate)?;
        }
        if roots.is_empty() { Err(TlsError::NoRoots) } else { Self::from_store(roots) }
    }

    fn from_store(roots: RootCertStore) -> Result<Self, TlsError> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

/// A server that shows this certificate chain, its own certificate first.
///
/// # Errors
/// [`TlsError::Material`].
pub fn acceptor(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<TlsAcceptor, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A server that shows the chain of one PEM file, with the private key of another.
///
/// # Errors
/// [`TlsError::File`] and [`TlsError::Material`].
pub fn acceptor_from_files(chain: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let failed =
        |path: &Path, error| TlsError::File { path: path.to_owned(), source: io::Error::other(error) };
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .map_err(|error| failed(chain, error))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, error))?;
    acceptor(certificates, key)
}
