//! The servers of a job: `execution.target.serverDetails`, or each of `metadata.servers`.
//!
//! One wrong server of several costs that server alone; a wrong only one costs the job.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{Raw, number, object, plain, shown, sort_of, text};
use crate::job::{BadServer, Server, is_host, is_user};
use crate::limits;
use crate::secret::Secret;

const SSH_PORT: u16 = 22;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target<'a> {
    #[serde(borrow)]
    server_id: Raw<'a>,
    #[serde(borrow)]
    server_details: Raw<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Several<'a> {
    #[serde(borrow)]
    multi_server: Raw<'a>,
    #[serde(borrow)]
    servers: Raw<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details<'a> {
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    host: Raw<'a>,
    #[serde(borrow)]
    port: Raw<'a>,
    #[serde(borrow)]
    username: Raw<'a>,
    #[serde(borrow)]
    private_key: Raw<'a>,
    #[serde(borrow)]
    passphrase: Raw<'a>,
    #[serde(borrow)]
    password: Raw<'a>,
}

/// All servers of a job of kind `ssh`, in the backend's order.
pub(super) fn servers(target: Raw<'_>, metadata: Raw<'_>) -> Result<Vec<Result<Server, BadServer>>, String> {
    if let Some(list) = several(metadata)? {
        if list.is_empty() {
            return Err("metadata.servers is empty: the job has no server to run on".into());
        }
        if list.len() > limits::SSH_SERVERS_MAX {
            return Err(format!(
                "metadata.servers has {} servers, at most {} are taken",
                list.len(),
                limits::SSH_SERVERS_MAX
            ));
        }
        let each = |(at, raw): (usize, &RawValue)| {
            let path = format!("metadata.servers[{at}]");
            server(raw, &path, None).map_err(|why| unusable(raw, at, why))
        };
        return Ok(list.into_iter().enumerate().map(each).collect());
    }
    let path = "execution.target.serverDetails";
    let target: Option<Target<'_>> = target.map(|raw| object(raw, "execution.target")).transpose()?;
    let details = target.as_ref().and_then(|target| target.server_details).ok_or(format!("{path} is missing"))?;
    let id = target.and_then(|target| target.server_id).and_then(id);
    Ok(vec![Ok(server(details, path, id)?)])
}

/// The list of a multi-server job; none for any other.
fn several<'a>(metadata: Raw<'a>) -> Result<Option<Vec<&'a RawValue>>, String> {
    let Some(metadata) = metadata else { return Ok(None) };
    let Ok(Several { multi_server, servers }) = serde_json::from_str::<Several<'a>>(metadata.get()) else {
        return Ok(None);
    };
    match (servers, multi_server.is_some_and(|raw| raw.get() == "true")) {
        (Some(list), _) if list.get().starts_with('[') => serde_json::from_str(list.get())
            .map(Some)
            .map_err(|_| "metadata.servers is no array that can be read".to_owned()),
        (Some(other), true) => Err(format!("metadata.servers must be an array, found {}", sort_of(other))),
        (None, true) => Err("metadata.servers is missing from a multi-server job".into()),
        _ => Ok(None),
    }
}

fn unusable(raw: &RawValue, at: usize, why: String) -> BadServer {
    let details: Option<Details<'_>> = serde_json::from_str(raw.get()).ok();
    let name = details.as_ref().and_then(|d| text(d.name?, "").ok()).filter(|name| !name.is_empty());
    let name = name.map_or_else(|| format!("server {}", at + 1), |name| plain(&name));
    BadServer { id: details.and_then(|d| d.id).and_then(id), name, why }
}

fn server(raw: &RawValue, path: &str, outer_id: Option<String>) -> Result<Server, String> {
    let details: Details<'_> = object(raw, path)?;
    let host = text(details.host.ok_or(format!("{path}.host is missing"))?, &format!("{path}.host"))?;
    let host = host.trim().trim_start_matches('[').trim_end_matches(']').to_owned();
    if !is_host(&host) {
        return Err(format!("{path}.host is {}, no name or address of a host", shown(&host)));
    }
    let user = text(details.username.ok_or(format!("{path}.username is missing"))?, &format!("{path}.username"))?;
    if !is_user(&user) {
        return Err(format!("{path}.username is empty or no name of a user"));
    }
    let secret = |raw: Raw<'_>, name: &str| -> Result<Option<Secret>, String> {
        let Some(raw) = raw else { return Ok(None) };
        let value = text(raw, &format!("{path}.{name}"))?;
        if value.contains('\0') {
            return Err(format!("{path}.{name} holds a NUL byte"));
        }
        Ok(Some(value).filter(|value| !value.is_empty()).map(Secret::new))
    };
    let name = details.name.and_then(|raw| text(raw, "").ok()).filter(|name| !name.trim().is_empty());
    Ok(Server {
        id: details.id.and_then(id).or(outer_id),
        name: name.map_or_else(|| host.clone(), |name| plain(name.trim())),
        port: details.port.map_or(Ok(SSH_PORT), |raw| port(raw, &format!("{path}.port")))?,
        user,
        private_key: secret(details.private_key, "privateKey")?,
        passphrase: secret(details.passphrase, "passphrase")?,
        password: secret(details.password, "password")?,
        host,
    })
}

/// A number or its text, as backends differ.
fn port(raw: &RawValue, path: &str) -> Result<u16, String> {
    let value = match text(raw, path) {
        Ok(text) => text.trim().parse::<u16>().ok(),
        Err(_) => {
            let value = number(raw, path)?;
            // Whole and in range, or it is no port.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            (value.fract() == 0.0 && (1.0..=65535.0).contains(&value)).then_some(value as u16)
        }
    };
    value.filter(|port| *port > 0).ok_or_else(|| format!("{path} is no port from 1 to 65535"))
}

fn id(raw: &RawValue) -> Option<String> {
    let id = text(raw, "").unwrap_or_else(|_| raw.get().to_owned());
    (!id.is_empty() && id.len() <= crate::job::ID_MAX).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(target: &Value, metadata: &Value) -> Result<Vec<Result<Server, BadServer>>, String> {
        let (target, metadata) = (target.to_string(), metadata.to_string());
        let raw = |text: &str| -> Box<RawValue> { serde_json::from_str(text).expect("JSON") };
        let (target, metadata) = (raw(&target), raw(&metadata));
        servers(Some(&target), Some(&metadata))
    }

    fn details() -> Value {
        json!({"id": 3, "name": "web-1", "host": "h.example", "port": 2222, "username": "deploy", "privateKey": "KEY",
               "password": null, "passphrase": ""})
    }

    #[test]
    fn one_server() {
        let target = json!({"type": "server", "serverId": "3", "serverDetails": details()});
        let read = read(&target, &json!({"eventId": 1})).expect("sound");
        let [Ok(server)] = read.as_slice() else { panic!("{read:?}") };
        assert_eq!((server.shown().as_str(), server.user.as_str()), ("web-1 (h.example:2222)", "deploy"));
        assert_eq!((server.id.as_deref(), server.private_key.is_some()), (Some("3"), true));
        assert!(server.password.is_none() && server.passphrase.is_none());
        assert!(!format!("{server:?}").contains("KEY"));
    }

    #[test]
    fn what_is_missing_has_a_default_and_what_is_wrong_is_named() {
        let with = |key: &str, value: Value| {
            let mut all = details();
            all[key] = value;
            read(&json!({"serverDetails": all}), &json!({})).map(|mut list| list.remove(0).expect("sound"))
        };
        assert_eq!(with("port", Value::Null).expect("sound").port, 22);
        assert_eq!(with("port", json!("2200")).expect("sound").port, 2200);
        assert_eq!(with("host", json!("[::1]")).expect("sound").address(), "[::1]:2222");
        assert_eq!(with("name", json!("")).expect("sound").shown(), "h.example:2222");
        for (key, value, want) in [
            ("host", json!("a b"), "serverDetails.host"),
            ("host", json!("-oProxyCommand=x"), "serverDetails.host"),
            ("host", json!(7), "must be text"),
            ("port", json!(0), "serverDetails.port"),
            ("port", json!(70000), "serverDetails.port"),
            ("port", json!(22.5), "serverDetails.port"),
            ("username", json!(""), "serverDetails.username"),
            ("username", json!("a\nb"), "serverDetails.username"),
            ("privateKey", json!({"hunter2": 1}), "serverDetails.privateKey must be text"),
            ("password", json!("hunter2\u{0}"), "NUL"),
        ] {
            let error = with(key, value).expect_err(want);
            assert!(error.contains(want) && !error.contains("hunter2"), "{error}");
        }
        assert!(read(&json!({}), &json!({})).expect_err("none").contains("serverDetails is missing"));
    }

    #[test]
    fn a_job_for_more_servers_than_are_taken_is_refused_as_a_whole() {
        let with = |count| {
            let all: Vec<Value> = (0..count).map(|_| details()).collect();
            read(&json!({"type": "server"}), &json!({"multiServer": true, "servers": all}))
        };
        assert_eq!(with(limits::SSH_SERVERS_MAX).expect("so many are taken").len(), limits::SSH_SERVERS_MAX);
        let error = with(limits::SSH_SERVERS_MAX + 1).expect_err("one more is refused");
        assert_eq!(error, "metadata.servers has 201 servers, at most 200 are taken");
    }

    #[test]
    fn a_bad_one_of_several_is_alone_in_its_failure() {
        let metadata =
            json!({"multiServer": true, "serverCount": 3, "servers": [details(), {"name": "broken", "id": "9"}, 7]});
        let read = read(&json!({"type": "server"}), &metadata).expect("sound");
        assert!(read[0].is_ok());
        let bad: Vec<_> = read[1..].iter().map(|server| server.as_ref().expect_err("bad")).collect();
        assert_eq!((bad[0].name.as_str(), bad[0].id.as_deref()), ("broken", Some("9")));
        assert!(bad[0].why.contains("metadata.servers[1].host is missing"));
        assert_eq!(bad[1].name, "server 3");
        let empty = json!({"multiServer": true, "servers": []});
        assert!(
            super::servers(None, Some(&serde_json::from_str::<Box<RawValue>>(&empty.to_string()).expect("JSON")))
                .is_err()
        );
    }
}
