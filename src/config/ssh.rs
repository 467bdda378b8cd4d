//! `ssh`: how the agent reaches servers, and the table of hosts for which other settings hold.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::jumps::JumpTable;
use super::parse;
use super::show::in_flow;
use super::yaml::{self, Entry, Node};
use crate::job::is_user;
use crate::limits::CONFIG_LIST_MAX;
use crate::policy::suggest::nearest;
use crate::wire::hosts::Pattern;

/// `ssh`, used by the SSH executor.
#[derive(Debug, Clone, Default)]
pub struct Ssh {
    pub max_per_server: usize,
    pub idle_timeout: Duration,
    pub health_check_interval: Duration,
    pub connection_timeout: Duration,
    pub default_shell: String,
    pub temp_dir: String,
    pub cleanup_after: bool,
    pub pty_mode: bool,
    /// How long a job's server may be out of reach before the job's end counts as unknown.
    pub reconnect_timeout: Duration,
    pub breaker_enabled: bool,
    pub failure_threshold: u32,
    pub success_threshold: u32,
    pub breaker_timeout: Duration,
    pub half_open_requests: u32,
    pub strict_host_key_checking: bool,
    pub known_hosts_file: PathBuf,
    pub allowed_ciphers: Vec<String>,
    pub allowed_key_exchanges: Vec<String>,
    pub allow_passwords: bool,
    pub hosts: HostTable,
    pub jumps: JumpTable,
}

/// `ssh.hosts`: the first row whose pattern fits a host counts for it, as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostTable(Arc<[Arc<HostRow>]>);

/// A row of `ssh.hosts`. `user` and `port` count where a job names none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRow {
    pattern: Pattern,
    /// The pattern as it was given.
    pub host: String,
    pub user: Option<String>,
    pub port: Option<u16>,
    /// In place of `ssh.security.allowedKeyExchanges`, unless empty.
    pub key_exchanges: Vec<String>,
    /// In place of `ssh.security.allowedCiphers`, unless empty.
    pub ciphers: Vec<String>,
    /// The name of the jump host on the way, one of `ssh.jumps`.
    pub jump: Option<String>,
}

impl HostTable {
    /// The row for a host, by the name or address that the job or the command gives. Nothing is resolved.
    pub fn of(&self, host: &str) -> Option<&Arc<HostRow>> {
        self.0.iter().find(|row| row.pattern.fits(host))
    }

    /// All rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = &HostRow> {
        self.0.iter().map(Arc::as_ref)
    }

    /// Reads YAML: a list of rows, or nothing. The error names the row.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let rows = match yaml::parse(text).map_err(|error| error.text)? {
            Node::Null => return Ok(Self::default()),
            Node::List(rows) if rows.len() <= CONFIG_LIST_MAX => rows,
            Node::List(_) => return Err(format!("at most {CONFIG_LIST_MAX} rows")),
            other => return Err(format!("it is {}", other.name())),
        };
        let read = |(at, node): (usize, &Node)| row(node).map(Arc::new).map_err(|why| format!("row {}: {why}", at + 1));
        rows.iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// As [`HostTable::parse`] reads it; empty without a row.
    pub(super) fn shown(&self) -> String {
        let rows: Vec<String> = self.rows().map(HostRow::shown).collect();
        if rows.is_empty() { String::new() } else { format!("[{}]", rows.join(", ")) }
    }

    /// The check of the key: the text in its final form.
    pub(super) fn check(text: &str) -> Result<String, String> {
        Self::parse(text).map(|table| table.shown())
    }
}

impl HostRow {
    fn shown(&self) -> String {
        let mut members = vec![format!("host: {}", in_flow(&self.host))];
        members.extend(self.user.iter().map(|user| format!("user: {}", in_flow(user))));
        members.extend(self.port.map(|port| format!("port: {port}")));
        let lists = [("keyExchanges", &self.key_exchanges), ("ciphers", &self.ciphers)];
        let lists = lists.into_iter().filter(|(_, names)| !names.is_empty()).map(|(name, names)| {
            format!("{name}: [{}]", names.iter().map(|name| in_flow(name)).collect::<Vec<_>>().join(", "))
        });
        let lists: Vec<String> = lists.collect();
        if !lists.is_empty() {
            members.push(format!("algorithms: {{{}}}", lists.join(", ")));
        }
        members.extend(self.jump.iter().map(|jump| format!("jump: {}", in_flow(jump))));
        format!("{{{}}}", members.join(", "))
    }
}

const ROW: &[&str] = &["host", "user", "port", "algorithms", "jump"];
const ALGORITHMS: &[&str] = &["keyExchanges", "ciphers"];

fn row(node: &Node) -> Result<HostRow, String> {
    let members = members(node, ROW)?;
    let host = text(member(members, "host").unwrap_or(&Node::Null), "host")?;
    let pattern = Pattern::parse(host).map_err(|why| {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        format!("its host {} is no `*`, name, *.domain, address or range of addresses{why}", in_flow(host))
    })?;
    let user = member(members, "user").map(|node| text(node, "user")).transpose()?;
    if user.is_some_and(|user| !is_user(user)) {
        return Err("its user is empty or no name of a user".to_owned());
    }
    let port = member(members, "port").map(port).transpose()?;
    let jump = member(members, "jump").map(|node| text(node, "jump")).transpose()?;
    if jump.is_some_and(str::is_empty) {
        return Err("its jump is empty".to_owned());
    }
    let lists = member(members, "algorithms").map(|node| members_of_algorithms(node)).transpose()?.unwrap_or_default();
    let names = |name: &str| member(lists, name).map_or(Ok(Vec::new()), |node| algorithms(node, name));
    let (key_exchanges, ciphers) = (names("keyExchanges")?, names("ciphers")?);
    let is_empty = key_exchanges.is_empty() && ciphers.is_empty() && jump.is_none();
    if user.is_none() && port.is_none() && is_empty {
        return Err(format!("it says nothing about {}; give it a user, a port, algorithms or a jump", in_flow(host)));
    }
    let (host, user, jump) = (host.to_owned(), user.map(str::to_owned), jump.map(str::to_owned));
    Ok(HostRow { pattern, host, user, port, key_exchanges, ciphers, jump })
}

pub(super) fn port(node: &Node) -> Result<u16, String> {
    match node {
        Node::Number(digits) | Node::Text(digits) => parse::whole(digits)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port > 0)
            .ok_or_else(|| "its port is no number from 1 to 65535".to_owned()),
        other => Err(format!("its port is {}, not a number", other.name())),
    }
}

fn members_of_algorithms(node: &Node) -> Result<&[Entry], String> {
    members(node, ALGORITHMS).map_err(|why| format!("its algorithms: {why}"))
}

/// The members of a section that has these names alone, each once.
pub(super) fn members<'a>(node: &'a Node, known: &[&str]) -> Result<&'a [Entry], String> {
    let Node::Map(entries) = node else {
        return Err(format!("it is {}, not a section with {}", node.name(), known.join(", ")));
    };
    for (at, Entry { name, .. }) in entries.iter().enumerate() {
        let shown = in_flow(name);
        if !known.contains(&name.as_str()) {
            let near = nearest(name, known.iter().copied()).map(|near| format!("did you mean {near}?"));
            let hint = near.unwrap_or_else(|| format!("it may have {}", known.join(", ")));
            return Err(format!("it has {shown}, which is not known; {hint}"));
        }
        if entries[..at].iter().any(|before| before.name == *name) {
            return Err(format!("it has {shown} twice"));
        }
    }
    Ok(entries)
}

/// The value of this name, unless it is null.
pub(super) fn member<'a>(entries: &'a [Entry], name: &str) -> Option<&'a Node> {
    let entry = entries.iter().find(|entry| entry.name == name)?;
    Some(&entry.value).filter(|value| **value != Node::Null)
}

pub(super) fn text<'a>(node: &'a Node, name: &str) -> Result<&'a str, String> {
    match node {
        Node::Text(text) => Ok(text),
        Node::Null => Err(format!("it has no {name}")),
        other => Err(format!("its {name} is {}; put it in quotes", other.name())),
    }
}

fn algorithms(node: &Node, name: &str) -> Result<Vec<String>, String> {
    let Node::List(items) = node else { return Err(format!("its {name} is {}, not a list", node.name())) };
    let good = |node: &Node| match node {
        Node::Text(text) if !text.is_empty() => parse::algorithm(text).ok(),
        _ => None,
    };
    let names: Option<Vec<String>> = items.iter().take(CONFIG_LIST_MAX).map(good).collect();
    names.ok_or_else(|| format!("its {name} holds what is no name of an algorithm such as aes256-ctr"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_and_shown_as_it_reads_back() {
        let text = r#"
- {host: db.example, user: postgres}
- host: "*.dmz.example"
  port: "2222"
  algorithms:
    keyExchanges: [curve25519-sha256@libssh.org]
    ciphers:
      - aes128-ctr
- {host: "10.1.0.0/16", user: "a b$c", port: 22, algorithms: {}}
- {host: "*", port: 2200, user: null}
"#;
        let table = HostTable::parse(text).expect("sound");
        assert_eq!(HostTable::parse(&table.shown()).expect("shown"), table);
        assert_eq!(HostTable::check(&table.shown()), Ok(table.shown()));
        let port = |host: &str| table.of(host).expect(host).port;
        let cases = [("DB.example.", None), ("a.dmz.example", Some(2222)), ("10.1.2.3", Some(22)), ("x", Some(2200))];
        for (host, want) in cases {
            assert_eq!(port(host), want, "{host}");
        }
        let row = table.of("a.dmz.example").expect("a row");
        assert_eq!(row.key_exchanges, ["curve25519-sha256@libssh.org"]);
        assert_eq!((row.ciphers.as_slice(), &row.user), (&["aes128-ctr".to_owned()][..], &None));
        assert_eq!(table.of("10.1.0.9").and_then(|row| row.user.clone()).as_deref(), Some("a b$c"));
        for none in ["", "[]", "null"] {
            assert_eq!(HostTable::parse(none), Ok(HostTable::default()), "{none}");
        }
        assert_eq!(HostTable::default().shown(), "");
    }

    #[test]
    fn what_is_wrong_with_a_row_is_said_with_its_number() {
        for (row, want) in [
            ("7", "it is a number, not a section with host, user"),
            ("{user: a}", "it has no host"),
            ("{host: 10, user: a}", "its host is a number; put it in quotes"),
            ("{host: 'a b', user: a}", r#"its host "a b" is no `*`, name"#),
            ("{host: 10.0.0.1/8, user: a}", "range does not begin at this address"),
            ("{host: a, user: ''}", "its user is empty"),
            ("{host: a, user: [b]}", "its user is a list"),
            ("{host: a, port: 0}", "its port is no number from 1 to 65535"),
            ("{host: a, port: 65536}", "its port is no number"),
            ("{host: a, port: -1}", "its port is no number"),
            ("{host: a, port: true}", "its port is true or false"),
            ("{host: a, prot: 1}", "it has prot, which is not known; did you mean port?"),
            ("{host: a, identityFile: x}", "it may have host, user"),
            ("{host: a, port: 1, port: 2}", "it has port twice"),
            ("{host: a}", "it says nothing about a"),
            ("{host: a, algorithms: {macs: []}}", "its algorithms: it has macs"),
            ("{host: a, algorithms: {ciphers: aes256-ctr}}", "its ciphers is text, not a list"),
            ("{host: a, algorithms: {ciphers: ['a b']}}", "its ciphers holds what is no name"),
            ("{host: a, algorithms: {keyExchanges: ['']}}", "its keyExchanges holds"),
        ] {
            let error = HostTable::parse(&format!("[{{host: b, port: 1}}, {row}]")).expect_err(row);
            assert!(error.starts_with("row 2: ") && error.contains(want), "{row}: {error}");
        }
        assert!(HostTable::parse("a: b").is_err_and(|error| error.contains("a section")));
        let many = "{host: a, port: 1},".repeat(CONFIG_LIST_MAX + 1);
        assert!(HostTable::parse(&format!("[{many}]")).is_err_and(|error| error.contains("at most")));
    }
}
