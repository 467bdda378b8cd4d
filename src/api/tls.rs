//! Trust and client certificate towards the backend, from `security.tls`.
//!
//! A configured CA replaces the bundled roots: no other authority may vouch for the backend.

use std::path::Path;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::error::{Error, Problem};
use crate::config::types::Tls;

/// The HTTP library's TLS settings for `tls`.
pub(super) fn config(tls: &Tls) -> Result<TlsConfig, Error> {
    let mut config = TlsConfig::builder().root_certs(RootCerts::WebPki);
    if !tls.enabled {
        return Ok(config.build());
    }
    if let Some(path) = &tls.ca_file {
        config = config.root_certs(RootCerts::from(certificates("security.tls.caFile", path)?));
    }
    match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => {
            let chain = certificates("security.tls.certFile", cert)?;
            config = config.client_cert(Some(ClientCert::new_with_certs(&chain, private_key(key)?)));
        }
        (Some(_), None) => return Err(setup("security.tls.keyFile", "it is missing, certFile is given".into())),
        (None, Some(_)) => return Err(setup("security.tls.certFile", "it is missing, keyFile is given".into())),
        (None, None) => {}
    }
    Ok(config.build())
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let pem = read(key, path)?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(e) => return Err(setup(key, format!("{} is no valid PEM: {e}", path.display()))),
        }
    }
    if found.is_empty() {
        return Err(setup(key, format!("{} holds no certificate", path.display())));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKey<'static>, Error> {
    let key = "security.tls.keyFile";
    PrivateKey::from_pem(&read(key, path)?)
        .map_err(|_| setup(key, format!("{} holds no private key in PEM that can be read", path.display())))
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|e| setup(key, format!("cannot read {}: {e}", path.display())))
}

fn setup(key: &'static str, why: String) -> Error {
    Error { call: Box::from(""), host: Box::from(""), attempts: 0, problem: Problem::Setup { key, why } }
}
