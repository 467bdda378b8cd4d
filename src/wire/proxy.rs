//! HTTP proxies on the way to the backend: their addresses, the hosts that need none, and the bytes of a tunnel.

use core::net::IpAddr;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::hosts::Pattern;
use crate::job::is_host;
use crate::secret::Secret;

/// The port of an address that names none.
const PORT: u16 = 80;

/// A proxy that is asked for tunnels (`CONNECT`). Its `Display` has no user and no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// `user:password`, decoded.
    login: Option<Secret>,
    /// Where it was named: `api.proxy`, or a variable of the environment.
    pub from: String,
}

impl Proxy {
    /// Reads `[http://][USER[:PASSWORD]@]HOST[:PORT][/]`, user and password percent-encoded. The error is a reason without
    /// any of the text, which may hold a password.
    pub fn parse(text: &str, from: &str) -> Result<Self, String> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err("its scheme is not http, and no other kind of proxy is spoken to".to_owned()),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(decoded_login(login)?), place),
            None => (None, rest),
        };
        if place.contains(['/', '?', '#']) {
            return Err("it holds a path, a query or a fragment, or a `/` that must be written as %2F".to_owned());
        }
        let (host, port) = host_and_port(place)?;
        if host.is_empty() || !is_host(host) || host.contains('%') {
            return Err("it names no host that can be connected to".to_owned());
        }
        Ok(Self { host: host.to_owned(), port: port.unwrap_or(PORT), login, from: from.to_owned() })
    }

    /// Whether it is asked with a user and a password.
    pub fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// What must be taken out of all that leaves the agent: the password, and both as the header has them.
    pub fn secrets(&self) -> Vec<Secret> {
        let Some(login) = &self.login else { return Vec::new() };
        let password = login.after(":").filter(|password| !password.is_empty());
        password.into_iter().chain([Secret::new(STANDARD.encode(login.expose()))]).collect()
    }

    /// The request for a tunnel to this host and port.
    pub fn request(&self, host: &str, port: u16) -> Secret {
        let target = authority(host, port);
        let login = self.login.as_ref().map_or(String::new(), |login| {
            format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(login.expose()))
        });
        Secret::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}User-Agent: cronium-agent\r\n\r\n"))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = if self.has_login() { "***@" } else { "" };
        write!(f, "http://{login}{}", authority(&self.host, self.port))
    }
}

/// Host and port, an IPv6 address in brackets.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// `user:password`, decoded. The header cannot carry a colon in the user.
fn decoded_login(text: &str) -> Result<Secret, String> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let (user, password) = (decoded(user)?, decoded(password)?);
    if user.contains(':') {
        return Err("its user holds a colon, which no proxy can be told".to_owned());
    }
    Ok(Secret::new(format!("{user}:{password}")))
}

fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let digit = |at: usize| rest.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err("its user or password holds a `%` without two digits; write %25 for a `%`".to_owned());
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or(0));
        rest = &rest[2..];
    }
    let text = String::from_utf8(bytes).map_err(|_| "its user or password is not UTF-8".to_owned())?;
    if text.chars().any(char::is_control) {
        return Err("its user or password holds a control character".to_owned());
    }
    Ok(text)
}

/// A host, without brackets, and a port. The host is not checked.
fn host_and_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(inner) => match inner.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, after)) => (host, Some(after.strip_prefix(':').unwrap_or(after))),
            None => return Err("the `[` of its IPv6 address is not closed".to_owned()),
        },
        // An IPv6 address without brackets has no port.
        None if text.matches(':').count() > 1 => (text, None),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let number = |port: &str| {
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        port.parse::<u16>().ok().filter(|port| digits && *port > 0)
    };
    match port {
        None => Ok((host, None)),
        Some(port) => match number(port) {
            Some(port) => Ok((host, Some(port))),
            None => Err("its port is no number from 1 to 65535".to_owned()),
        },
    }
}

/// The hosts that `NO_PROXY` names: they are connected to directly.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exceptions {
    entries: Vec<(String, Hosts, Option<u16>)>,
    /// Entries that cannot be read.
    pub unread: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// The name, unless only those below it are meant; and all names below it.
    Name {
        itself: bool,
        name: String,
    },
    Range(Pattern),
}

impl Exceptions {
    /// Reads entries with commas or spaces between them.
    pub fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for entry in text.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()) {
            match hosts(entry) {
                Some((hosts, port)) => read.entries.push((entry.to_owned(), hosts, port)),
                None => read.unread += 1,
            }
        }
        read
    }

    /// The entry that names this host and port. No name is looked up: a range names hosts that are written as addresses.
    pub fn find(&self, host: &str, port: u16) -> Option<&str> {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok();
        let is_of = |hosts: &Hosts| match hosts {
            Hosts::All => true,
            Hosts::Name { itself, name: known } => {
                let front = name.strip_suffix(known.as_str());
                (*itself && name == *known) || front.is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }
            Hosts::Range(range) => address.is_some_and(|address| range.covers(address)),
        };
        let found = self.entries.iter().find(|(_, hosts, on)| on.is_none_or(|on| on == port) && is_of(hosts));
        found.map(|(entry, ..)| entry.as_str())
    }
}

/// One entry: `*`, a name, `.name` or `*.name` for what is below it, an address, a range; all but a range with a port.
fn hosts(entry: &str) -> Option<(Hosts, Option<u16>)> {
    if let Some((address, bits)) = entry.split_once('/') {
        let address = address.parse::<IpAddr>().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.parse::<u8>().ok().filter(|bits| *bits <= most)?;
        return Some((Hosts::Range(Pattern::Range(address, bits)), None));
    }
    let (host, port) = host_and_port(entry).ok()?;
    if host == "*" {
        return Some((Hosts::All, port));
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        let address = address.to_canonical();
        let bits = if address.is_ipv4() { 32 } else { 128 };
        return Some((Hosts::Range(Pattern::Range(address, bits)), port));
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let below = name.strip_prefix('*').unwrap_or(&name);
    let (itself, name) = match below.strip_prefix('.') {
        Some(below) => (false, below),
        None if below.len() == name.len() => (true, below),
        None => return None,
    };
    is_host(name).then(|| (Hosts::Name { itself, name: name.to_owned() }, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_shown_without_its_login() {
        for (text, shown, login) in [
            ("http://proxy.example:3128", "http://proxy.example:3128", None),
            ("HTTP://proxy.example:3128/", "http://proxy.example:3128", None),
            ("proxy", "http://proxy:80", None),
            ("10.0.0.1:8080", "http://10.0.0.1:8080", None),
            ("http://[fd00::1]:3128", "http://[fd00::1]:3128", None),
            ("http://me:hunter2@proxy:1", "http://***@proxy:1", Some("me:hunter2")),
            ("me@proxy:1", "http://***@proxy:1", Some("me:")),
            ("http://m%40e:p%3Aa%2Fs%25@proxy", "http://***@proxy:80", Some("m@e:p:a/s%")),
            ("http://m@e:hunter2@proxy", "http://***@proxy:80", Some("m@e:hunter2")),
        ] {
            let proxy = Proxy::parse(text, "api.proxy").expect(text);
            assert_eq!(proxy.to_string(), shown, "{text}");
            assert_eq!(proxy.login, login.map(Secret::new), "{text}");
            assert!(!format!("{proxy:?}").contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_being_repeated() {
        for text in [
            "",
            "http://",
            "https://hunter2:x@proxy",
            "socks5://hunter2@proxy",
            "http://hunter2@",
            "http://me:hunter2@proxy:0",
            "http://me:hunter2@proxy:99999",
            "http://me:hunter2@proxy:+1",
            "http://me:hunter2@proxy/x",
            "http://me:hunter2@proxy?x",
            "http://me:hunter2%@proxy",
            "http://me:hunter2%zz@proxy",
            "http://me:hunter2%0d%0a@proxy",
            "http://m%3Ae:hunter2@proxy",
            "http://me:hunter2%ff@proxy",
            "http://[::1",
            "http://pro xy",
            "http://pröxy",
        ] {
            let why = Proxy::parse(text, "api.proxy").expect_err(text);
            assert!(!why.contains("hunter2") && !why.is_empty(), "{text}: {why}");
        }
    }

    #[test]
    fn a_request_names_the_target_twice_and_the_login_as_a_header() {
        let plain = Proxy::parse("proxy", "x").expect("a proxy");
        assert_eq!(
            plain.request("fd00::1", 443).expose(),
            "CONNECT [fd00::1]:443 HTTP/1.1\r\nHost: [fd00::1]:443\r\nUser-Agent: cronium-agent\r\n\r\n"
        );
        let login = Proxy::parse("http://Aladdin:open%20sesame@proxy", "x").expect("a proxy");
        let head = login.request("backend.example", 5001);
        assert!(head.expose().starts_with("CONNECT backend.example:5001 HTTP/1.1\r\n"));
        assert!(head.expose().contains("\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"));
        let secrets: Vec<String> = login.secrets().iter().map(|secret| secret.expose().to_owned()).collect();
        assert_eq!(secrets, ["open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]);
        assert!(plain.secrets().is_empty());
    }

    #[test]
    fn exceptions_name_hosts_ports_and_ranges() {
        for (list, host, port, named) in [
            ("", "a.example", 443, false),
            ("*", "a.example", 443, true),
            ("a.example", "A.Example.", 443, true),
            ("a.example", "b.a.example", 443, true),
            ("a.example", "ba.example", 443, false),
            (".a.example", "a.example", 443, false),
            (".a.example", "b.a.example", 443, true),
            ("*.a.example", "c.b.a.example", 443, true),
            ("*.a.example", "a.example", 443, false),
            ("x,a.example", "a.example", 443, true),
            ("x a.example", "a.example", 443, true),
            ("a.example:5001", "a.example", 5001, true),
            ("a.example:5001", "a.example", 443, false),
            ("*:443", "a.example", 443, true),
            ("*:443", "a.example", 80, false),
            ("10.1.2.3", "10.1.2.3", 443, true),
            ("10.1.2.3", "10.1.2.4", 443, false),
            ("10.1.2.3:80", "10.1.2.3", 443, false),
            ("10.0.0.0/8", "10.9.9.9", 443, true),
            ("10.1.2.3/8", "10.9.9.9", 443, true),
            ("10.0.0.0/8", "11.0.0.1", 443, false),
            ("10.0.0.0/8", "ten.example", 443, false),
            ("0.0.0.0/0", "8.8.8.8", 443, true),
            ("fd00::/8", "fd12::1", 443, true),
            ("fd00::1", "fd00::1", 443, true),
            ("[fd00::1]:443", "fd00::1", 443, true),
            ("[fd00::1]:443", "fd00::1", 80, false),
            ("::ffff:10.0.0.1", "10.0.0.1", 443, true),
            ("a.example", "example", 443, false),
            ("example", "", 443, false),
        ] {
            assert_eq!(Exceptions::parse(list).find(host, port).is_some(), named, "{list} {host}:{port}");
        }
    }

    #[test]
    fn entries_that_cannot_be_read_are_counted_and_name_nothing() {
        let read =
            Exceptions::parse("10.0.0.0/99, 10.0.0.0/x, a.example:x, a*b, *x.example, ä, [::1, x/8, good.example");
        assert_eq!(read.unread, 8);
        assert!(read.find("good.example", 1).is_some() && read.find("a.example", 1).is_none());
    }

    #[test]
    fn any_text_is_read_without_a_panic() {
        let mut random = crate::wire::random::Random::new(7);
        let parts =
            ["http://", "@", ":", "[", "]", "%", "%4", "%41", "/", "*", ".", ",", "a", "1", "::1", "ä", "\0", "-"];
        let parts = parts.map(str::as_bytes);
        for _ in 0..20_000 {
            let text = String::from_utf8(random.text(&parts, 9)).expect("text");
            let _ = Proxy::parse(&text, "x").map(|proxy| proxy.request("h", 1));
            let _ = Exceptions::parse(&text).find(&text, 1);
        }
    }
}
