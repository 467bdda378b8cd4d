//! Credentials for registries, from a Docker `config.json` (`container.registryAuthFile`).
//!
//! The file is read at each pull, since tokens in it are renewed by others. Helpers (`credsStore`) are programs and are
//! not run: an entry must hold `auth`, or `username` and `password`, or `identitytoken`.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::Deserialize;

use crate::docker::error::Error;
use crate::secret::Secret;

#[derive(Deserialize, Default)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
}

/// The registry that an image's name points to, as in the reference grammar: a first part with a dot, a colon or
/// `localhost` is a host, anything else is Docker Hub.
pub fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// The value of `X-Registry-Auth` for `image`; `None` when the file has nothing for its registry.
pub fn header_for(file: &Path, image: &str) -> Result<Option<Secret>, Error> {
    let failed = |what: String| Error::Credentials { path: file.display().to_string(), what };
    let text = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    // serde_json's messages can hold a piece of the input: say only where.
    let parsed: File = serde_json::from_slice(&text).map_err(|error| {
        failed(format!("no valid JSON of this form at line {} column {}", error.line(), error.column()))
    })?;
    let registry = registry_of(image);
    let Some((key, entry)) = parsed.auths.iter().find(|(key, _)| same_registry(key, registry)) else {
        return Ok(None);
    };
    let (username, password) = if entry.auth.is_empty() {
        (entry.username.clone(), entry.password.clone())
    } else {
        let pair = STANDARD.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = pair.ok_or_else(|| failed(format!("auths.{key}.auth is no base64 text")))?;
        let (user, password) =
            pair.split_once(':').ok_or_else(|| failed(format!("auths.{key}.auth holds no user:password")))?;
        (user.to_owned(), password.trim_end_matches('\0').to_owned())
    };
    let body = if entry.identitytoken.is_empty() {
        serde_json::json!({ "username": username, "password": password, "serveraddress": registry })
    } else {
        serde_json::json!({ "identitytoken": entry.identitytoken, "serveraddress": registry })
    };
    Ok(Some(Secret::new(URL_SAFE.encode(body.to_string()))))
}

/// Whether a key of `auths` (`https://index.docker.io/v1/`, `host:5000`, `https://host/v2`) means this registry.
fn same_registry(key: &str, registry: &str) -> bool {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = key.split('/').next().unwrap_or(key);
    host == registry || (registry == "docker.io" && matches!(host, "index.docker.io" | "registry-1.docker.io"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(json: &str, image: &str) -> Result<Option<String>, String> {
        let path =
            std::env::temp_dir().join(format!("cronium-auth-{}-{}", std::process::id(), crate::os::random::hex(4)));
        std::fs::write(&path, json).expect("write");
        let result = header_for(&path, image);
        std::fs::remove_file(&path).expect("remove");
        let decode =
            |secret: Secret| String::from_utf8(URL_SAFE.decode(secret.expose()).expect("base64")).expect("text");
        result.map(|found| found.map(decode)).map_err(|error| error.to_string())
    }

    #[test]
    fn registries_of_image_names() {
        for (image, want) in [
            ("alpine", "docker.io"),
            ("cronium/runner:bash-alpine", "docker.io"),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000"),
            ("localhost/a", "localhost"),
            ("ghcr.io/x/y@sha256:00", "ghcr.io"),
        ] {
            assert_eq!(registry_of(image), want);
        }
    }

    #[test]
    fn the_right_entry_is_found_and_decoded() {
        let file = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnB3"},"127.0.0.1:5000":{"username":"u","password":"p:w"}}}"#;
        let hub = header(file, "cronium/runner:x").expect("ok").expect("some");
        assert!(hub.contains(r#""username":"hub""#) && hub.contains(r#""password":"pw""#), "{hub}");
        let own = header(file, "127.0.0.1:5000/x").expect("ok").expect("some");
        assert!(own.contains(r#""password":"p:w""#), "{own}");
        assert_eq!(header(file, "ghcr.io/x"), Ok(None));
    }

    #[test]
    fn a_broken_file_is_told_without_its_content() {
        let error = header(r#"{"auths":{"a.b":{"auth":"hunter2!"}}}"#, "a.b/c").expect_err("must fail");
        assert!(error.contains("no base64") && !error.contains("hunter2"), "{error}");
        let error = header(r#"{"auths":{"a.b":"hunter2"}}"#, "a.b/c").expect_err("must fail");
        assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
    }
}
