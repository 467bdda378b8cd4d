//! Whose certificates the servers of requests may show: those of `http.caFile`, else the system's, else the bundled ones.
//!
//! Read for each request, so that an exchanged file counts from then on.

use std::path::Path;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// Where systems keep their trusted certificates: Debian and Alpine, Fedora, openSUSE, others.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The TLS settings of a request; the error says why `ca_file` cannot be used.
pub(super) fn config(ca_file: Option<&Path>) -> Result<TlsConfig, String> {
    let roots = match ca_file {
        Some(path) => RootCerts::from(certificates(path).map_err(|why| format!("http.caFile: {why}"))?),
        None => {
            SYSTEM.iter().find_map(|path| certificates(Path::new(path)).ok()).map_or(RootCerts::WebPki, RootCerts::from)
        }
    };
    Ok(TlsConfig::builder().root_certs(roots).build())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let found: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() { Err(format!("{} holds no certificate in PEM form", path.display())) } else { Ok(found) }
}

/// What to do about an error of TLS.
pub(super) fn advice(error: &rustls::Error) -> &'static str {
    use rustls::{CertificateError as C, Error as E};
    match error {
        E::InvalidCertificate(C::UnknownIssuer) => {
            "; nobody whom this host trusts has issued the certificate: the operator may name its CA in http.caFile"
        }
        E::InvalidCertificate(
            C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. },
        ) => "; check the certificate's dates and this host's clock",
        E::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "; the certificate is for another name than the URL has"
        }
        E::InvalidMessage(_) => "; the server may speak plain http on this port",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::scratch::Scratch;

    #[test]
    fn a_file_without_a_certificate_is_an_error_with_its_key() {
        let scratch = Scratch::new();
        let path = scratch.join("ca.pem");
        assert!(config(Some(&path)).expect_err("missing").starts_with("http.caFile: cannot read "));
        std::fs::write(&path, "nothing").expect("write");
        assert!(config(Some(&path)).expect_err("empty").ends_with("holds no certificate in PEM form"));
        assert!(config(None).is_ok());
    }
}
