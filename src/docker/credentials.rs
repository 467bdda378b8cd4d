//! Credentials for registries, from a Docker `config.json` (`container.registryAuthFile`).
//!
//! The file is read at each pull, since other programs renew its tokens. Helpers (`credsStore`) are programs, and the agent
//! does not run them: an entry must hold `auth`, or `username` and `password`, or `identitytoken`.

use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use crate::docker::error::Error;
use crate::limits;
use crate::secret::Secret;
use crate::wire::scan::Json;

/// The registry that an image's name points to, as in the reference grammar: a first part with a dot, a colon or
/// `localhost` is a host, anything else is Docker Hub.
pub fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// The value of `X-Registry-Auth` for `image`; `None` if the file has no entry for its registry.
pub fn header_for(file: &Path, image: &str) -> Result<Option<Secret>, Error> {
    let failed = |what: String| Error::Credentials { path: file.display().to_string(), what };
    let text = read(file).map_err(failed)?;
    // The place of the error, never the value there.
    let parsed = Json::strict(&text).map_err(|why| failed(format!("no valid JSON: {why}")))?;
    let wrong = |what: &str| failed(format!("{what} is not of the form that docker login writes"));
    let [auths] = parsed.fields(["auths"]).map_err(|_| wrong("the file"))?;
    let Some(auths) = auths else { return Ok(None) };
    let registry = registry_of(image);
    let mut found = None;
    for member in auths.members().ok_or_else(|| wrong("auths"))? {
        let (key, entry) = member.map_err(|_| wrong("auths"))?;
        let key = key.text(limits::ENGINE_TEXT).map_err(|_| wrong("a name in auths"))?;
        if same_registry(&key, registry) {
            found = Some((key, entry));
            break;
        }
    }
    let Some((key, entry)) = found else { return Ok(None) };
    let [auth, username, password, token] = entry
        .fields(["auth", "username", "password", "identitytoken"])
        .map_err(|_| wrong(&format!("auths.{key}")))?
        .map(|value| value.map_or(Ok(String::new()), |value| value.text(limits::CONFIG_FILE_MAX)));
    let text = |value: Result<String, _>, name: &str| value.map_err(|_| wrong(&format!("auths.{key}.{name}")));
    let (auth, token) = (text(auth, "auth")?, text(token, "identitytoken")?);
    let (username, password) = if auth.is_empty() {
        (text(username, "username")?, text(password, "password")?)
    } else {
        let pair = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = pair.ok_or_else(|| failed(format!("auths.{key}.auth is no base64 text")))?;
        let (user, password) =
            pair.split_once(':').ok_or_else(|| failed(format!("auths.{key}.auth holds no user:password")))?;
        (user.to_owned(), password.trim_end_matches('\0').to_owned())
    };
    let body = if token.is_empty() {
        serde_json::json!({ "username": username, "password": password, "serveraddress": registry })
    } else {
        serde_json::json!({ "identitytoken": token, "serveraddress": registry })
    };
    Ok(Some(Secret::new(URL_SAFE.encode(body.to_string()))))
}

/// Every secret in the file, as far as it can be read: passwords, tokens, and `auth` with the password in it.
pub fn secrets(file: &Path) -> Vec<Secret> {
    let text = read(file).unwrap_or_default();
    let auths = Json::strict(&text).ok().and_then(|parsed| parsed.field("auths")).and_then(Json::members);
    let entries = auths.into_iter().flatten().flatten().map(|(_, entry)| entry);
    let mut all = Vec::new();
    for entry in entries {
        for name in ["auth", "password", "identitytoken"] {
            let Some(value) = entry.field(name).and_then(|value| value.text(limits::CONFIG_FILE_MAX).ok()) else {
                continue;
            };
            let pair = STANDARD.decode(value.trim()).ok().filter(|_| name == "auth");
            let pair = pair.and_then(|pair| String::from_utf8(pair).ok());
            all.extend(pair.and_then(|pair| Some(Secret::new(pair.split_once(':')?.1.trim_end_matches('\0')))));
            all.push(Secret::new(value));
        }
    }
    all
}

/// The file, up to [`limits::CONFIG_FILE_MAX`].
fn read(file: &Path) -> Result<Vec<u8>, String> {
    let most = limits::CONFIG_FILE_MAX;
    let open = std::fs::File::open(file).map_err(|error| error.to_string())?;
    // A device or a pipe would never end.
    if !open.metadata().is_ok_and(|about| about.is_file()) {
        return Err("it is not a regular file".to_owned());
    }
    let mut text = Vec::new();
    let wanted = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    open.take(wanted).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() > most { Err(format!("it is larger than {most} bytes (limits::CONFIG_FILE_MAX)")) } else { Ok(text) }
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
        let folder = crate::os::scratch::Scratch::new();
        let path = folder.join("config.json");
        std::fs::write(&path, json).expect("write");
        let result = header_for(&path, image);
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
        assert!(error.contains("auths.a.b is not") && !error.contains("hunter2"), "{error}");
        let error = header(r#"{"auths":{"a.b":hunter2}}"#, "a.b/c").expect_err("must fail");
        assert!(error.contains("no JSON at byte") && !error.contains("hunter2"), "{error}");
        let error = header(&" ".repeat(crate::limits::CONFIG_FILE_MAX + 1), "a.b/c").expect_err("must fail");
        assert!(error.contains("limits::CONFIG_FILE_MAX"), "{error}");
    }
}
