//! The backend as a place outside this host: a container without a way out must not reach it.

use std::net::{IpAddr, SocketAddr, TcpListener};

use crate::config::types::Api;
use crate::config::url;
use crate::limits;
use crate::os::clock::Deadline;
use crate::os::{names, net};

/// The parts of an endpoint.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether it speaks TLS.
    pub secure: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
}

/// Reads an endpoint that the configuration has checked.
pub fn target(endpoint: &str) -> Target {
    let default = |secure| if secure { 443 } else { 80 };
    match url::parse(endpoint, &["http", "https"]) {
        Ok(url) => {
            let secure = url.scheme == "https";
            Target { secure, host: url.host.to_owned(), port: url.port.unwrap_or(default(secure)) }
        }
        Err(_) => Target { secure: false, host: endpoint.to_owned(), port: default(false) },
    }
}

impl Target {
    /// The host as an address, where it is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// All addresses of the host.
    pub fn find(&self) -> Result<Vec<SocketAddr>, net::Error> {
        match self.address() {
            Some(address) => Ok(vec![SocketAddr::new(address, self.port)]),
            None => {
                let deadline = Deadline::after(limits::DOCTOR_DNS, "limits::DOCTOR_DNS");
                names::OWN.find(&self.host, self.port, deadline)
            }
        }
    }
}

/// An address of the backend, or of the proxy on the way there, that is not on this host.
pub(super) fn of_backend(api: &Api) -> Option<SocketAddr> {
    // An address that this process can listen on belongs to this host, which a container may reach.
    let own = |address: &SocketAddr| TcpListener::bind((address.ip(), 0)).is_ok();
    // Where a proxy resolves the backend's name, the proxy is what this host reaches.
    let place = match &api.way.proxy {
        Some(proxy) => Target { secure: false, host: proxy.host.clone(), port: proxy.port },
        None => target(&api.endpoint),
    };
    let all = place.find().unwrap_or_default();
    all.into_iter().find(|address| address.is_ipv4() && !own(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_taken_apart() {
        for (text, secure, host, port) in [
            ("http://localhost:5001/api/internal", false, "localhost", 5001),
            ("https://backend.example/api/internal", true, "backend.example", 443),
            ("http://10.0.0.1", false, "10.0.0.1", 80),
            ("https://[fe80::1]:8443/x", true, "fe80::1", 8443),
            ("https://[::1]/x", true, "::1", 443),
        ] {
            assert_eq!(target(text), Target { secure, host: host.to_owned(), port }, "{text}");
        }
    }
}
