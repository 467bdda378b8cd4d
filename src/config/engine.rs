//! The way to the container engine: what goes together, what is open, and the files of TLS.

use std::path::Path;

use super::draft::Draft;
use super::files;
use super::types::{Docker, DockerEndpoint};
use super::url;

pub(super) fn check(draft: &mut Draft<'_>) {
    let DockerEndpoint::Tcp(host, _) = &draft.config.container.docker.endpoint else {
        if draft.config.container.docker.tls_verify {
            draft.warn("container.docker.tlsVerify", "not used, since container.docker.endpoint is a Unix socket");
        }
        return;
    };
    if !draft.good(&["container.docker.endpoint"]) {
        return;
    }
    let is_open = !url::is_loopback(host);
    let Docker { tls_verify, cert_path, .. } = draft.config.container.docker.clone();
    let text = "scripts in containers cannot use their helpers, such as cronium.getVariable: an engine behind tcp:// cannot \
                mount the agent's sockets. Use a Unix socket of an engine on this host";
    draft.warn("container.docker.endpoint", text);
    match (tls_verify, cert_path) {
        (true, Some(dir)) => tls_files(draft, &dir),
        (true, None) => {
            let text = "container.docker.certPath is missing: the folder of ca.pem, cert.pem and key.pem";
            draft.refuse("container.docker.tlsVerify", text);
        }
        (false, Some(_)) => {
            let text = "given without container.docker.tlsVerify: true, so that the connection would be without TLS";
            draft.refuse("container.docker.certPath", text);
        }
        (false, None) if is_open => {
            let text = "plain TCP to another machine: anyone who reaches that port is root there, and scripts travel \
                        unencrypted; use TLS (container.docker.tlsVerify and certPath)";
            draft.warn("container.docker.endpoint", text);
        }
        (false, None) => {}
    }
}

/// The files of TLS to the engine. Whether they fit each other is known at the first call.
fn tls_files(draft: &mut Draft<'_>, dir: &Path) {
    let key = "container.docker.certPath";
    let there = |name: &str| dir.join(name).exists();
    if there("cert.pem") != there("key.pem") {
        let missing = if there("cert.pem") { "key.pem" } else { "cert.pem" };
        draft.refuse(key, format!("{} is missing; a client certificate needs both", dir.join(missing).display()));
    }
    for (name, part) in
        [("ca.pem", "CERTIFICATE-----"), ("cert.pem", "CERTIFICATE-----"), ("key.pem", "PRIVATE KEY-----")]
    {
        let path = dir.join(name);
        if name != "ca.pem" && !there(name) {
            continue;
        }
        match files::read_text(&path) {
            Err(text) => draft.refuse(key, text),
            Ok((text, _)) if !(text.contains("-----BEGIN ") && text.contains(part)) => {
                let what = if part.starts_with('P') { "private key" } else { "certificate" };
                draft.refuse(key, format!("{} holds no {what} in PEM form", path.display()));
            }
            Ok((_, true)) if name == "key.pem" => {
                draft.warn(key, format!("everyone on this machine can read {}; give it mode 0600", path.display()));
            }
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Sources, load};

    /// The problems and warnings of a configuration with these keys and variables.
    fn said(keys: &[(&str, &str)], variables: &[(&str, &str)]) -> String {
        let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let overrides = keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let sources = Sources { search: Vec::new(), overrides, need_backend: false, ..Sources::new(&env) };
        match load(&sources) {
            Ok(loaded) => loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect(),
            Err(problems) => format!("refused: {problems}"),
        }
    }

    #[test]
    fn half_a_way_over_tls_is_refused_and_a_way_without_it_is_warned_of() {
        let at = ("container.docker.endpoint", "tcp://engine.example:2376");
        let (verify, files) = (("container.docker.tlsVerify", "true"), ("container.docker.certPath", "/nowhere"));
        for (keys, variables, words) in [
            (&[at][..], &[][..], "anyone who reaches that port is root there"),
            (&[at, verify], &[], "certPath is missing: the folder of ca.pem"),
            (&[at, files], &[], "without TLS"),
            (&[at, verify, files], &[], "/nowhere/ca.pem"),
            (&[at], &[("DOCKER_TLS_VERIFY", "1")], "certPath is missing"),
            (&[at], &[("DOCKER_TLS_VERIFY", "0"), ("DOCKER_CERT_PATH", "/nowhere")], "/nowhere/ca.pem"),
            (&[verify], &[], "is a Unix socket"),
        ] {
            let said = said(keys, variables);
            assert!(said.contains(words), "{words}: {said}");
        }
        assert_eq!(said(&[files], &[]), "", "the folder alone, as DOCKER_CERT_PATH may name it, does no harm");
    }
}
