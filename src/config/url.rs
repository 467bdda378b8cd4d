//! The little of a URL that an endpoint needs: scheme, host, port and path, and a refusal of everything else.

use std::net::IpAddr;

/// A checked address. No text of it is ever taken from a URL that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url<'a> {
    /// Lower case in the file; compared as written.
    pub scheme: &'a str,
    /// Without the brackets of an IPv6 address.
    pub host: &'a str,
    pub port: Option<u16>,
    /// Host and port as written.
    pub authority: &'a str,
    /// From the first `/` on, or empty.
    pub path: &'a str,
}

/// Reads `SCHEME://HOST[:PORT][/PATH]`. The error is a reason without any of the text, which may hold a password.
pub fn parse<'a>(text: &'a str, schemes: &[&str]) -> Result<Url<'a>, String> {
    let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("it does not begin with {}", list(schemes)))?;
    if !schemes.contains(&scheme) {
        return Err(format!("it does not begin with {}", list(schemes)));
    }
    if rest.chars().any(|c| c.is_whitespace() || c.is_control() || !c.is_ascii()) {
        return Err("it holds a space or another character that must be %-encoded".to_owned());
    }
    if rest.contains(['?', '#']) {
        return Err("it holds a query or a fragment".to_owned());
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err("it holds credentials; a secret has its own key and does not belong into an address".to_owned());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(inner) => {
            let (host, after) = inner.split_once(']').ok_or("the `[` of its IPv6 address is not closed")?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| "what stands in `[…]` is no IPv6 address")?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or("its port is no number")?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err("it names no host".to_owned());
    }
    if !host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':')) {
        return Err("its host holds a character that no host name has".to_owned());
    }
    let port = port.map(parse_port).transpose()?;
    Ok(Url { scheme, host, port, authority, path })
}

fn parse_port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err("its port is no number from 1 to 65535".to_owned()),
    }
}

fn list(schemes: &[&str]) -> String {
    schemes.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(" or ")
}

/// Whether what is sent to `host` stays on this machine.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{is_loopback, parse};

    #[test]
    fn addresses_are_taken_apart() {
        let table = [
            ("http://h", ("h", None, "")),
            ("http://h/", ("h", None, "/")),
            ("https://h:5001/api/internal/", ("h", Some(5001), "/api/internal/")),
            ("http://[::1]:80/x", ("::1", Some(80), "/x")),
            ("http://[::1]", ("::1", None, "")),
        ];
        for (text, (host, port, path)) in table {
            let url = parse(text, &["http", "https"]).expect(text);
            assert_eq!((url.host, url.port, url.path), (host, port, path), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_repeated() {
        let bad = [
            "",
            "h",
            "h:80",
            "ftp://h",
            "HTTP//h",
            "http://",
            "http:///x",
            "http://:80",
            "http://h:",
            "http://h:0",
            "http://h:+1",
            "http://h:65536",
            "http://h:80:80",
            "http://hunter2@h",
            "http://u:hunter2@h:80/x",
            "http://h/?hunter2",
            "http://h#x",
            "http://h x",
            "http://h\n",
            "http://[::1",
            "http://[zz]",
            "http://[::1]80",
            "http://h%41",
            "http://ä",
        ];
        for text in bad {
            let reason = parse(text, &["http", "https"]).expect_err(text);
            assert!(!reason.contains("hunter2"), "{text}: {reason}");
        }
    }

    #[test]
    fn loopback_is_known() {
        let table = [
            ("localhost", true),
            ("LOCALHOST", true),
            ("a.localhost", true),
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("localhost.example", false),
            ("127.0.0.1.example", false),
            ("10.0.0.1", false),
        ];
        for (host, expected) in table {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }
}
