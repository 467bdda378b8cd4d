//! The signature of a job: `signature` beside `execution` or in it.
//!
//! Only its shape is read here. A member of `execution` that this version does not know may say to a later one what is to
//! be run, and no signature that this version understands covers it: such a job counts as not signed.

use super::json::{Raw, object, plain, text};
use crate::job::Signature;
use crate::limits;
use crate::wire::scan::Json;

const PATH: &str = "signature";
const EXECUTION: &[&str] =
    &["target", "script", "http", "environment", "timeout", "resources", "inputData", "variables", "retryPolicy", PATH];
const SERVER: &[&str] =
    &["id", "name", "host", "port", "username", "privateKey", "certificate", "passphrase", "password"];
/// The members of `execution` whose own members decide what runs.
const INNER: &[(&str, &[&str])] = &[
    ("target", &["type", "serverId", "serverDetails"]),
    ("script", &["type", "content", "workingDirectory"]),
    ("http", &["method", "url", "headers", "body"]),
    ("resources", &["cpuLimit", "memoryLimit", "diskLimit", "pidsLimit"]),
];

/// The signature, if there is one; the error says why it cannot count.
pub(super) fn read(beside: Raw<'_>, execution: Json<'_>, metadata: Raw<'_>) -> Option<Result<Signature, String>> {
    let inside = match object(execution, "execution", [PATH]) {
        Ok([inside]) => inside,
        Err(why) => return Some(Err(why)),
    };
    let raw = match (beside, inside) {
        (None, None) => return None,
        (Some(_), Some(_)) => return Some(Err("it has two signatures, beside execution and in it".to_owned())),
        (Some(raw), None) | (None, Some(raw)) => raw,
    };
    Some(known_alone(execution, metadata).and_then(|()| signature(raw)))
}

fn signature(raw: Json<'_>) -> Result<Signature, String> {
    let names = ["version", "algorithm", "keyId", "signedAt", "expiresAt", "value"];
    let [version, algorithm, key, signed, expires, value] = object(raw, PATH, names)?;
    if version.is_some_and(|version| version.count() != Some(1)) {
        return Err("its signature has a version that is not known; 1 is".to_owned());
    }
    if algorithm.is_some_and(|algorithm| !algorithm.is("ed25519")) {
        return Err("its signature has an algorithm that is not known; ed25519 is".to_owned());
    }
    covered(raw, PATH, &names)?;
    let word = |raw: Raw<'_>, name: &str| {
        let path = format!("{PATH}.{name}");
        text(raw.ok_or_else(|| format!("{path} is missing"))?, &path, limits::SIGNATURE_TEXT_MAX)
    };
    Ok(Signature {
        key_id: word(key, "keyId")?,
        signed_at: word(signed, "signedAt")?,
        expires_at: expires.map(|raw| word(Some(raw), "expiresAt")).transpose()?,
        value: word(value, "value")?,
    })
}

/// Whether each member that may decide what runs is one that this version reads.
fn known_alone(execution: Json<'_>, metadata: Raw<'_>) -> Result<(), String> {
    covered(execution, "execution", EXECUTION)?;
    for (name, members) in INNER {
        let Some(inner) = execution.field(name) else { continue };
        covered(inner, &format!("execution.{name}"), members)?;
        if let Some(details) = inner.field("serverDetails") {
            covered(details, "execution.target.serverDetails", SERVER)?;
        }
    }
    let servers = metadata.and_then(|metadata| metadata.field("servers")).and_then(Json::items);
    for server in servers.into_iter().flatten() {
        covered(server.map_err(|why| why.to_string())?, "an entry of metadata.servers", SERVER)?;
    }
    Ok(())
}

fn covered(raw: Json<'_>, path: &str, known: &[&str]) -> Result<(), String> {
    for member in raw.members().into_iter().flatten() {
        let (name, value) = member.map_err(|why| format!("{path} cannot be read: {why}"))?;
        if name.is("jump") && path.contains("server") && !value.is_null() {
            return Err(format!(
                "{path}.jump is covered by no signature of this version; let ssh.hosts choose the jump host of a signed job"
            ));
        }
        if !value.is_null() && !known.iter().any(|known| name.is(known)) {
            let name = name.beginning(limits::SIGNATURE_TEXT_MAX).unwrap_or_default();
            return Err(format!(
                "{path}.{} is not known to this agent, and no signature of this version covers it",
                plain(&name)
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read_of(beside: Option<Value>, execution: &Value, metadata: &Value) -> Option<Result<Signature, String>> {
        let texts =
            [beside.map_or(String::new(), |beside| beside.to_string()), execution.to_string(), metadata.to_string()];
        let json = |text| Json::strict(str::as_bytes(text)).expect("JSON");
        let beside = (!texts[0].is_empty()).then(|| json(&texts[0]));
        read(beside, json(&texts[1]), Some(json(&texts[2])))
    }

    fn sound() -> Value {
        json!({"keyId": "ci", "signedAt": "2026-11-30T12:00:00Z", "value": "AAAA"})
    }

    #[test]
    fn it_stands_beside_execution_or_in_it() {
        let want = Some(Ok(Signature {
            key_id: "ci".into(),
            signed_at: "2026-11-30T12:00:00Z".into(),
            expires_at: None,
            value: "AAAA".into(),
        }));
        assert_eq!(read_of(Some(sound()), &json!({}), &json!({})), want);
        assert_eq!(read_of(None, &json!({"signature": sound()}), &json!({})), want);
        assert_eq!(read_of(None, &json!({"signature": null}), &json!({})), None);
        let error = read_of(Some(sound()), &json!({"signature": sound()}), &json!({})).expect("two").expect_err("two");
        assert!(error.contains("two signatures"), "{error}");
    }

    #[test]
    fn what_cannot_count_is_named() {
        for (key, value, want) in [
            ("version", json!(2), "version"),
            ("version", json!("1"), "version"),
            ("algorithm", json!("rsa"), "algorithm"),
            ("keyId", Value::Null, "signature.keyId is missing"),
            ("signedAt", json!(7), "signature.signedAt must be text"),
            ("value", json!("A".repeat(1000)), "at most"),
            ("nonce", json!(1), "signature.nonce is not known"),
        ] {
            let mut all = sound();
            all[key] = value;
            let error = read_of(Some(all), &json!({}), &json!({})).expect("one").expect_err(want);
            assert!(error.contains(want), "{error}");
        }
        let twice = r#"{"keyId":"a","keyId":"b","signedAt":"x","value":"y"}"#;
        let error = read(Some(Json::strict(twice.as_bytes()).expect("JSON")), Json::strict(b"{}").expect("JSON"), None);
        assert_eq!(error, Some(Err("keyId is given twice in signature".into())));
    }

    #[test]
    fn a_member_that_this_version_does_not_know_is_not_covered() {
        let server = json!({"host": "h", "username": "u", "become": "root"});
        for (execution, metadata, want) in [
            (json!({"image": "evil"}), json!({}), "execution.image"),
            (json!({"script": {"interpreter": "perl"}}), json!({}), "execution.script.interpreter"),
            (json!({"target": {"jump": "h"}}), json!({}), "execution.target.jump"),
            (json!({"target": {"serverDetails": server}}), json!({}), "serverDetails.become"),
            (json!({}), json!({"servers": [{"host": "h"}, server]}), "metadata.servers.become"),
            (json!({"http": {"proxy": "h"}}), json!({}), "execution.http.proxy"),
            (json!({"resources": {"gpu": 1}}), json!({}), "execution.resources.gpu"),
        ] {
            let error = read_of(Some(sound()), &execution, &metadata).expect("one").expect_err(want);
            assert!(error.contains(want) && error.contains("not known"), "{error}");
        }
        let behind = json!({"host": "h", "username": "u", "jump": "bastion"});
        for (execution, metadata) in [
            (json!({"target": {"serverDetails": behind}}), json!({})),
            (json!({}), json!({"servers": [{"host": "h"}, behind]})),
        ] {
            let error = read_of(Some(sound()), &execution, &metadata).expect("one").expect_err("a jump host");
            assert!(error.contains(".jump is covered by no signature") && error.contains("ssh.hosts"), "{error}");
        }
        let known = json!({"variables": {}, "retryPolicy": {"maxAttempts": 3}, "inputData": {"x": 1}, "image": null});
        assert!(read_of(Some(sound()), &known, &json!({"logId": 7})).expect("one").is_ok());
    }
}
