//! The servers of a job: `execution.target.serverDetails`, or each of `metadata.servers`. A row of `ssh.hosts` fills in the
//! user and the port that an entry lacks. That comes first, so that a signature is checked against what is used.
//!
//! A wrong server among several costs that server alone; a wrong single server costs the job.

use super::json::{Raw, number, object, plain, shown, text};
use crate::config::types::HostTable;
use crate::job::{BadServer, Jump, Server, is_host, is_user};
use crate::limits;
use crate::secret::Secret;
use crate::wire::scan::Json;

const SSH_PORT: u16 = 22;
/// Bytes of a host, a user or a name that are read.
const NAME: usize = 1024;

/// All servers of a job of kind `ssh`, in the backend's order.
pub(super) fn servers(
    target: Raw<'_>,
    metadata: Raw<'_>,
    hosts: &HostTable,
) -> Result<Vec<Result<Server, BadServer>>, String> {
    if let Some(list) = several(metadata)? {
        let items = list.items().ok_or("metadata.servers is no array that can be read")?;
        // Counted before any is kept.
        let count = items.clone().count();
        if count == 0 {
            return Err("metadata.servers is empty: the job has no server to run on".into());
        }
        if count > limits::SSH_SERVERS_MAX {
            return Err(format!("metadata.servers has {count} servers, at most {} are taken", limits::SSH_SERVERS_MAX));
        }
        let mut all = Vec::with_capacity(count);
        for (at, raw) in items.enumerate() {
            let raw = raw.map_err(|why| format!("metadata.servers cannot be read: {why}"))?;
            let server = server(raw, &format!("metadata.servers[{at}]"), None, hosts);
            all.push(server.map_err(|why| unusable(raw, at, why)));
        }
        return Ok(all);
    }
    let path = "execution.target.serverDetails";
    let fields = target.map(|raw| object(raw, "execution.target", ["serverId", "serverDetails"])).transpose()?;
    let [outer_id, details] = fields.unwrap_or_default();
    let details = details.ok_or(format!("{path} is missing"))?;
    Ok(vec![Ok(server(details, path, outer_id.and_then(id), hosts)?)])
}

/// The list of a multi-server job; none for any other.
fn several(metadata: Raw<'_>) -> Result<Raw<'_>, String> {
    let Some(metadata) = metadata.filter(|raw| raw.sort() == "an object") else { return Ok(None) };
    let [multi_server, servers] = object(metadata, "metadata", ["multiServer", "servers"])?;
    match (servers, multi_server.is_some_and(Json::is_true)) {
        (Some(list), _) if list.sort() == "an array" => Ok(Some(list)),
        (Some(other), true) => Err(format!("metadata.servers must be an array, found {}", other.sort())),
        (None, true) => Err("metadata.servers is missing from a multi-server job".into()),
        _ => Ok(None),
    }
}

fn unusable(raw: Json<'_>, at: usize, why: String) -> BadServer {
    let name = raw.field("name").and_then(|name| name.beginning(NAME)).filter(|name| !name.is_empty());
    let name = name.map_or_else(|| format!("server {}", at + 1), |name| plain(&name));
    BadServer { id: raw.field("id").and_then(id), name, why }
}

fn server(raw: Json<'_>, path: &str, outer_id: Option<String>, hosts: &HostTable) -> Result<Server, String> {
    let names =
        ["id", "name", "host", "port", "username", "privateKey", "certificate", "passphrase", "password", "jump"];
    let [own_id, name, host, port_raw, user, private_key, certificate, passphrase, password, jump_raw] =
        object(raw, path, names)?;
    let host = text(host.ok_or(format!("{path}.host is missing"))?, &format!("{path}.host"), NAME)?;
    let host = host.trim().trim_start_matches('[').trim_end_matches(']').to_owned();
    if !is_host(&host) {
        return Err(format!("{path}.host is {}, no name or address of a host", shown(&host)));
    }
    let row = hosts.of(&host);
    let user = user.map(|raw| text(raw, &format!("{path}.username"), NAME)).transpose()?;
    let user = user.filter(|user| !user.is_empty()).or_else(|| row?.user.clone());
    let user = user.ok_or_else(|| format!("{path}.username is missing, and ssh.hosts gives no user for {host}"))?;
    if !is_user(&user) {
        return Err(format!("{path}.username is no name of a user"));
    }
    let port = port_raw.map(|raw| port(raw, &format!("{path}.port"))).transpose()?;
    let secret = |raw: Raw<'_>, name: &str| -> Result<Option<Secret>, String> {
        let Some(raw) = raw else { return Ok(None) };
        let value = text(raw, &format!("{path}.{name}"), limits::PRIVATE_KEY_MAX)?;
        if value.contains('\0') {
            return Err(format!("{path}.{name} holds a NUL byte"));
        }
        Ok(Some(value).filter(|value| !value.is_empty()).map(Secret::new))
    };
    let name = name.and_then(|raw| raw.beginning(NAME)).filter(|name| !name.trim().is_empty());
    Ok(Server {
        id: own_id.and_then(id).or(outer_id),
        name: name.map_or_else(|| host.clone(), |name| plain(name.trim())),
        port: port.or_else(|| row?.port).unwrap_or(SSH_PORT),
        user,
        private_key: secret(private_key, "privateKey")?,
        certificate: certificate
            .map(|raw| text(raw, &format!("{path}.certificate"), limits::PRIVATE_KEY_MAX))
            .transpose()?
            .filter(|text| !text.trim().is_empty()),
        passphrase: secret(passphrase, "passphrase")?,
        password: secret(password, "password")?,
        jump: jump_raw.map(|raw| jump(raw, &format!("{path}.jump"), hosts)).transpose()?.flatten(),
        host,
    })
}

/// The jump host on the way: the name of one that the agent knows, or a server with its login.
fn jump(raw: Json<'_>, path: &str, hosts: &HostTable) -> Result<Option<Jump>, String> {
    if raw.sort() == "text" {
        let name = text(raw, path, NAME)?;
        let name = name.trim();
        if name.chars().any(char::is_control) {
            return Err(format!("{path} is {}, no name of a jump host", shown(name)));
        }
        return Ok((!name.is_empty()).then(|| Jump::Named(name.to_owned())));
    }
    let host = server(raw, path, None, hosts)?;
    if host.jump.is_some() {
        return Err(format!("{path}.jump: a server is reached through one jump host, not through two"));
    }
    Ok(Some(Jump::Host(Box::new(host))))
}

/// A number or its text, as backends differ.
fn port(raw: Json<'_>, path: &str) -> Result<u16, String> {
    let value = match raw.sort() {
        "text" => raw.text(NAME).ok().and_then(|text| text.trim().parse::<u16>().ok()),
        _ => {
            let value = number(raw, path)?;
            // A port is whole and in range.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            (value.fract() == 0.0 && (1.0..=65535.0).contains(&value)).then_some(value as u16)
        }
    };
    value.filter(|port| *port > 0).ok_or_else(|| format!("{path} is no port from 1 to 65535"))
}

fn id(raw: Json<'_>) -> Option<String> {
    let id = match raw.sort() {
        "text" => raw.text(crate::job::ID_MAX).ok()?,
        _ => std::str::from_utf8(raw.bytes()).ok().filter(|id| id.len() <= crate::job::ID_MAX)?.to_owned(),
    };
    (!id.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(target: &Value, metadata: &Value) -> Result<Vec<Result<Server, BadServer>>, String> {
        let (target, metadata) = (target.to_string(), metadata.to_string());
        let raw = |text| Json::strict(str::as_bytes(text)).expect("JSON");
        servers(Some(raw(&target)), Some(raw(&metadata)), &HostTable::default())
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
        assert_eq!(with("certificate", json!(" x ")).expect("sound").certificate.as_deref(), Some(" x "));
        assert_eq!(with("certificate", json!(" ")).expect("sound").certificate, None);
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
            ("certificate", json!(7), "serverDetails.certificate must be text"),
            ("certificate", json!("A".repeat(limits::PRIVATE_KEY_MAX + 1)), "serverDetails.certificate"),
        ] {
            let error = with(key, value).expect_err(want);
            assert!(error.contains(want) && !error.contains("hunter2"), "{error}");
        }
        assert!(read(&json!({}), &json!({})).expect_err("none").contains("serverDetails is missing"));
    }

    #[test]
    fn the_table_of_hosts_fills_in_what_an_entry_lacks_and_no_more() {
        let mut config = crate::config::defaults();
        let table = "[{host: h.example, user: ops, port: 2200}, {host: \"*\", port: 22022}]";
        crate::config::set(&mut config, "ssh.hosts", table).expect("a table");
        let with = |changes: &[(&str, Value)]| {
            let mut all = details();
            changes.iter().for_each(|(key, value)| all[*key] = value.clone());
            let target = json!({"serverDetails": all}).to_string();
            let target = Json::strict(target.as_bytes()).expect("JSON");
            let mut list = servers(Some(target), None, &config.ssh.hosts)?;
            let server = list.remove(0).expect("sound");
            Ok::<_, String>((server.user, server.port))
        };
        let of = |user: &str, port| Ok((user.to_owned(), port));
        assert_eq!(with(&[]), of("deploy", 2222));
        assert_eq!(with(&[("port", Value::Null)]), of("deploy", 2200));
        assert_eq!(with(&[("username", json!("")), ("port", json!(22))]), of("ops", 22), "a given port is given");
        assert_eq!(with(&[("username", Value::Null), ("port", Value::Null)]), of("ops", 2200));
        assert_eq!(with(&[("host", json!("other")), ("port", Value::Null)]), of("deploy", 22022));
        let error = with(&[("host", json!("other")), ("username", Value::Null)]).expect_err("no user");
        assert!(error.ends_with("username is missing, and ssh.hosts gives no user for other"), "{error}");
    }

    #[test]
    fn a_jump_host_is_named_or_comes_with_its_login() {
        let with = |jump: Value| {
            let mut all = details();
            all["jump"] = jump;
            read(&json!({"serverDetails": all}), &json!({})).map(|mut list| list.remove(0).expect("sound"))
        };
        assert_eq!(with(json!(" bastion ")).expect("a name").jump, Some(Jump::Named("bastion".to_owned())));
        for nothing in [Value::Null, json!(""), json!("  ")] {
            assert_eq!(with(nothing).expect("none").jump, None);
        }
        let mut bastion = details();
        (bastion["host"], bastion["name"]) = (json!("b.example"), Value::Null);
        let server = with(bastion.clone()).expect("a server");
        assert_eq!(server.through().map(|jump| jump.address()).as_deref(), Some("b.example:2222"));
        assert_eq!(server.shown(), "web-1 (h.example:2222) through jump host b.example");
        assert!(!format!("{server:?}").contains("KEY"));
        let mut second = bastion;
        second["jump"] = json!("another");
        for (jump, want) in [
            (second, "serverDetails.jump.jump: a server is reached through one jump host"),
            (json!({"host": "h"}), "serverDetails.jump.username is missing"),
            (json!({"host": "-oX", "username": "u"}), "serverDetails.jump.host"),
            (json!(7), "serverDetails.jump"),
            (json!("a\nb"), "no name of a jump host"),
            (json!("b".repeat(NAME + 1)), "serverDetails.jump"),
        ] {
            let error = with(jump).expect_err(want);
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn a_job_for_more_servers_than_are_taken_is_refused_as_a_whole() {
        let with = |count| {
            let all: Vec<Value> = (0..count).map(|_| details()).collect();
            read(&json!({"type": "server"}), &json!({"multiServer": true, "servers": all}))
        };
        assert_eq!(with(limits::SSH_SERVERS_MAX).expect("the maximum is taken").len(), limits::SSH_SERVERS_MAX);
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
        assert!(self::read(&json!({}), &empty).is_err());
    }
}
