//! TLS of the live log over `wss`: trusted authorities, and the client certificate.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::types::Tls;

/// Why no TLS configuration could be made.
#[derive(Debug)]
pub enum TlsError {
    /// A file could not be read, or holds no such PEM section; the configuration key, the file.
    Pem { key: &'static str, path: PathBuf, source: pem::Error },
    /// A file was read and holds no certificate.
    Empty { key: &'static str, path: PathBuf },
    /// A certificate of `security.tls.caFile` is not usable as a root.
    Root { path: PathBuf, source: rustls::Error },
    /// `certFile` and `keyFile` do not make a client certificate, or only one of them is given.
    Client(Option<rustls::Error>),
    /// The library refuses its defaults.
    Library(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem { key, path, source } => {
                write!(f, "security.tls.{key}: cannot read PEM from {}: {source}", path.display())
            }
            Self::Empty { key, path } => {
                write!(f, "security.tls.{key}: {} holds no certificate in PEM form", path.display())
            }
            Self::Root { path, source } => {
                write!(f, "security.tls.caFile: {} holds a certificate that is no root: {source}", path.display())
            }
            Self::Client(Some(source)) => write!(
                f,
                "security.tls.certFile and keyFile do not make a client certificate: {source}; do they belong together?"
            ),
            Self::Client(None) => {
                f.write_str("security.tls.certFile and keyFile go together, and only one of them is given")
            }
            Self::Library(source) => write!(f, "TLS cannot be set up: {source}"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Pem { source, .. } => Some(source),
            Self::Root { source, .. } | Self::Client(Some(source)) | Self::Library(source) => Some(source),
            Self::Empty { .. } | Self::Client(None) => None,
        }
    }
}

/// The client side of TLS by `security.tls`. With a `caFile`, its certificates are the only roots: no other authority may
/// vouch for the backend. Without one, the bundled public roots.
pub fn tls_config(tls: &Tls) -> Result<Arc<ClientConfig>, TlsError> {
    let given = |file: &Option<PathBuf>| file.clone().filter(|_| tls.enabled);
    let mut roots = RootCertStore::empty();
    match given(&tls.ca_file) {
        Some(path) => {
            for certificate in certificates("caFile", &path)? {
                roots.add(certificate).map_err(|source| TlsError::Root { path: path.clone(), source })?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Library)?
        .with_root_certificates(roots);
    let config = match (given(&tls.cert_file), given(&tls.key_file)) {
        (Some(certificate), Some(path)) => {
            let chain = certificates("certFile", &certificate)?;
            let key =
                PrivateKeyDer::from_pem_file(&path).map_err(|source| TlsError::Pem { key: "keyFile", path, source })?;
            builder.with_client_auth_cert(chain, key).map_err(|e| TlsError::Client(Some(e)))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(TlsError::Client(None)),
    };
    Ok(Arc::new(config))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::Pem { key, path: path.to_owned(), source };
    let found: Vec<_> = CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if found.is_empty() {
        return Err(TlsError::Empty { key, path: path.to_owned() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_name_the_key_and_the_file() {
        let tls = |ca: &str| Tls { enabled: true, ca_file: Some(ca.into()), ..Tls::default() };
        let missing = tls_config(&tls("/nonexistent/ca.pem")).map(drop).expect_err("no such file").to_string();
        assert!(missing.contains("caFile") && missing.contains("/nonexistent/ca.pem"), "{missing}");
        let empty = tls_config(&tls("/dev/null")).map(drop).expect_err("no certificate").to_string();
        assert!(empty.contains("/dev/null holds no certificate"), "{empty}");
        let half = Tls { enabled: true, cert_file: Some("/dev/null".into()), ..Tls::default() };
        assert!(matches!(tls_config(&half), Err(TlsError::Client(None))));
        let off = Tls { enabled: false, ca_file: Some("/nonexistent".into()), ..Tls::default() };
        assert!(tls_config(&off).is_ok(), "what is switched off is not read");
    }
}
