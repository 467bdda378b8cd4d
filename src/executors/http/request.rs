//! From what the backend sent to what may be sent on: method, address, headers and body, each checked; and where a
//! redirect leads.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::Agent;
use ureq::http::header::{HeaderMap, HeaderName, HeaderValue};
use ureq::http::{Method, Response, Uri};

use crate::job::Request;
use crate::limits;
use crate::secret::Secret;

/// The methods that a job may use. TRACE and CONNECT are for proxies.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// Headers that belong to the connection, which the agent makes. A job's are left out, as browsers do.
const LEFT_OUT: [&str; 15] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// The headers that a redirect to another origin keeps: no other is known to hold no secret.
const KEPT: [&str; 4] = ["accept", "accept-language", "content-type", "user-agent"];

/// One request, ready to be sent. A redirect makes the next of it.
#[derive(Clone)]
pub(super) struct Hop {
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// Marked as secrets.
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Secret>,
}

impl Hop {
    /// Checks a job's request. Also the names of the headers that are left out. The error says what is wrong, and quotes
    /// neither address nor value.
    pub(super) fn new(request: &Request) -> Result<(Self, Vec<String>), String> {
        let method = METHODS.iter().find(|known| known.as_str().eq_ignore_ascii_case(request.method.trim()));
        let method = method.ok_or_else(|| {
            let known: Vec<&str> = METHODS.iter().map(Method::as_str).collect();
            format!("its method is {:?}; requests use {}", shortened(&request.method), known.join(", "))
        })?;
        let (uri, login) = address(request.url.expose()).map_err(|why| format!("its URL cannot be used: {why}"))?;
        let (mut headers, left_out) = headers(request)?;
        if let Some(login) = login
            && !headers.contains_key("authorization")
        {
            headers.insert("authorization", login);
        }
        let body = request.body.clone().filter(|_| *method != Method::HEAD);
        Ok((Self { method: method.clone(), uri, headers, body }, left_out))
    }

    /// Where it goes, without path and query, which may hold keys.
    pub(super) fn origin(&self) -> String {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        format!("{scheme}://{}", self.uri.authority().map_or("", |authority| authority.as_str()))
    }

    /// The next request after an answer with this status and this `Location`. The error says why there is none.
    pub(super) fn follow(&self, status: u16, location: &str) -> Result<Self, String> {
        let target = target(&self.uri, location)?;
        let (uri, _) = address(&target)?;
        if self.uri.scheme_str() == Some("https") && uri.scheme_str() != Some("https") {
            return Err("it leads from https to http".to_owned());
        }
        let mut next = Self { uri, ..self.clone() };
        let keeps_method = matches!(status, 307 | 308) || matches!(self.method, Method::GET | Method::HEAD);
        if !keeps_method {
            next.method = Method::GET;
            next.body = None;
            next.headers.remove("content-type");
        }
        if next.place() != self.place() {
            if next.body.is_some() {
                return Err("it leads to another host, which would get the body".to_owned());
            }
            let others: Vec<HeaderName> =
                next.headers.keys().filter(|name| !KEPT.contains(&name.as_str())).cloned().collect();
            others.iter().for_each(|name| drop(next.headers.remove(name)));
        }
        Ok(next)
    }

    /// Sends it.
    pub(super) fn send_by(&self, agent: &Agent) -> Result<Response<ureq::Body>, ureq::Error> {
        let mut request = ureq::http::Request::builder().method(self.method.clone()).uri(self.uri.clone());
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.headers.clone());
        }
        let takes_body = matches!(self.method, Method::POST | Method::PUT | Method::PATCH);
        match &self.body {
            Some(body) => agent.run(request.body(body.expose().as_bytes())?),
            // With its length, which is zero.
            None if takes_body => agent.run(request.body(&[][..])?),
            None => agent.run(request.body(())?),
        }
    }

    /// Scheme, host and port: the same for requests that go to the same server.
    fn place(&self) -> (String, String, u16) {
        let scheme = self.uri.scheme_str().unwrap_or_default().to_owned();
        let port = self.uri.port_u16().unwrap_or(standard_port(&scheme));
        (scheme, self.uri.host().unwrap_or_default().to_ascii_lowercase(), port)
    }
}

impl fmt::Debug for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hop({} {})", self.method, self.origin())
    }
}

pub(super) fn standard_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

fn shortened(text: &str) -> String {
    text.chars().take(20).collect()
}

/// Reads an address, `http` or `https` alone. Its login becomes a header.
fn address(text: &str) -> Result<(Uri, Option<HeaderValue>), String> {
    let text = text.trim();
    let (scheme, rest) = text.split_once("://").ok_or("it does not begin with http:// or https://")?;
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") {
        return Err("it does not begin with http:// or https://".to_owned());
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?', '\\']).unwrap_or(rest.len()));
    let (login, host) = authority.rsplit_once('@').map_or((None, authority), |(login, host)| (Some(login), host));
    // What follows the host is escaped, as browsers do; a host is never changed.
    let path = if path.starts_with('/') { escaped(path) } else { format!("/{}", escaped(path)) };
    let uri: Uri = format!("{scheme}://{host}{path}").parse().map_err(|_| "it is no address of a host".to_owned())?;
    let name = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_odd = host.starts_with('[') && name.parse::<std::net::Ipv6Addr>().is_err();
    if is_odd || !crate::job::is_host(name) || uri.authority().is_none_or(|authority| authority.as_str() != host) {
        return Err("it names no host, or one with a character that no host has".to_owned());
    }
    if host.ends_with(':')
        || uri.port_u16() == Some(0)
        || (uri.port().is_none() && host.rsplit(']').next().is_some_and(|after| after.contains(':')))
    {
        return Err("its port is no number from 1 to 65535".to_owned());
    }
    Ok((uri, login.map(basic)))
}

/// `user:password` of an address as a header.
fn basic(login: &str) -> HeaderValue {
    let plain = unescaped(login);
    let plain = if plain.contains(&b':') { plain } else { [&plain[..], b":"].concat() };
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(plain)))
        .unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// `%XX` as bytes.
fn unescaped(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| bytes[at] == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

/// A path and query in which what may not stand there is `%XX`. Control characters too: they could end the request's line.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The address that `location` means, seen from `base` (RFC 3986, 5.2).
fn target(base: &Uri, location: &str) -> Result<String, String> {
    let location = location.trim();
    let scheme = base.scheme_str().unwrap_or_default();
    let origin = format!("{scheme}://{}", base.authority().map_or("", |authority| authority.as_str()));
    let before_colon = location.split(['/', '?', '#']).next().unwrap_or_default();
    if location.is_empty() {
        Err("its Location is empty".to_owned())
    } else if before_colon.contains(':') {
        Ok(location.to_owned())
    } else if let Some(rest) = location.strip_prefix("//") {
        Ok(format!("{scheme}://{rest}"))
    } else if location.starts_with('/') {
        Ok(format!("{origin}{}", without_dots(location)))
    } else if location.starts_with(['?', '#']) {
        Ok(format!("{origin}{}{location}", base.path()))
    } else {
        let folder = &base.path()[..base.path().rfind('/').map_or(0, |at| at + 1)];
        Ok(format!("{origin}{}", without_dots(&format!("{folder}{location}"))))
    }
}

/// A path without its `.` and `..`; a query stays as it is.
fn without_dots(text: &str) -> String {
    let (path, query) = text.split_at(text.find(['?', '#']).unwrap_or(text.len()));
    let mut kept: Vec<&str> = Vec::new();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    for (at, part) in parts.iter().enumerate() {
        let last = at + 1 == parts.len();
        match *part {
            "." | ".." => {
                if *part == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            part => kept.push(part),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

/// The job's headers as they are sent, and the names of those that are not.
fn headers(request: &Request) -> Result<(HeaderMap, Vec<String>), String> {
    let (mut headers, mut left_out, mut size) = (HeaderMap::new(), Vec::new(), 0);
    for (at, (name, value)) in request.headers.iter().enumerate() {
        let bad = |what: &str| format!("its header {} {what}", at + 1);
        let name = HeaderName::from_bytes(name.trim().as_bytes())
            .map_err(|_| bad("has a name with a character that no header's name may hold"))?;
        if LEFT_OUT.contains(&name.as_str()) {
            left_out.push(name.as_str().to_owned());
            continue;
        }
        // A line break would begin another header, or another request.
        let mut value = HeaderValue::from_bytes(value.expose().trim().as_bytes())
            .map_err(|_| format!("its header {name} has a value with a line break or another control character"))?;
        value.set_sensitive(true);
        size += name.as_str().len() + value.len();
        if size > limits::REQUEST_HEAD_MAX {
            return Err(format!(
                "its headers have more than {} bytes (limits::REQUEST_HEAD_MAX)",
                limits::REQUEST_HEAD_MAX
            ));
        }
        headers.append(name, value);
    }
    Ok((headers, left_out))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
