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
