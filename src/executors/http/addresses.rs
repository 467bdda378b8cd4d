//! Which addresses a request of a job may reach: the wall between the backend and the operator's network.
//!
//! An address is public, private, or one that no request ever reaches. Private ones need an entry in `http.allow`. The
//! check is of the address that is connected to, after the name was resolved, for each connection anew.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::types::{Config, DockerEndpoint};
use crate::wire::hosts::Pattern;

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Public,
    /// Reached if it is listed.
    Private(&'static str),
    /// Never reached.
    Never(&'static str),
}

use Class::{Never, Private, Public};

const LOOPBACK: Class = Never("this host's loopback");
const LINK_LOCAL: Class = Never("link-local, where clouds serve their metadata");
const METADATA: Class = Never("a cloud's metadata service");
const RESERVED: Class = Never("no address of a single host");
const RANGE: Class = Private("in a private range");
const OWN: Class = Private("this host's own");
const SPECIAL: Class = Private("in a range for examples and tests");

/// Ranges of IPv4, the first that fits counts: first address, bits, class. The rest is public.
const V4: &[(Ipv4Addr, u8, Class)] = &[
    // Azure, Alibaba, Oracle; the others' lie in the link-local range.
    (Ipv4Addr::new(168, 63, 129, 16), 32, METADATA),
    (Ipv4Addr::new(100, 100, 100, 200), 32, METADATA),
    (Ipv4Addr::new(192, 0, 0, 192), 32, METADATA),
    (Ipv4Addr::new(0, 0, 0, 0), 8, RESERVED),
    (Ipv4Addr::new(10, 0, 0, 0), 8, RANGE),
    (Ipv4Addr::new(100, 64, 0, 0), 10, RANGE),
    (Ipv4Addr::new(127, 0, 0, 0), 8, LOOPBACK),
    (Ipv4Addr::new(169, 254, 0, 0), 16, LINK_LOCAL),
    (Ipv4Addr::new(172, 16, 0, 0), 12, RANGE),
    (Ipv4Addr::new(192, 0, 0, 0), 24, RESERVED),
    (Ipv4Addr::new(192, 0, 2, 0), 24, SPECIAL),
    (Ipv4Addr::new(192, 88, 99, 0), 24, RESERVED),
    (Ipv4Addr::new(192, 168, 0, 0), 16, RANGE),
    (Ipv4Addr::new(198, 18, 0, 0), 15, SPECIAL),
    (Ipv4Addr::new(198, 51, 100, 0), 24, SPECIAL),
    (Ipv4Addr::new(203, 0, 113, 0), 24, SPECIAL),
    // Multicast, reserved, broadcast.
    (Ipv4Addr::new(224, 0, 0, 0), 3, RESERVED),
];

/// The same of IPv6. The rest is reserved.
const V6: &[(Ipv6Addr, u8, Class)] = &[
    // Amazon, Google.
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32, METADATA),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0), 32, METADATA),
    (Ipv6Addr::LOCALHOST, 128, LOOPBACK),
    // Protocols and tunnels: Teredo, ORCHID and others.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, RESERVED),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, SPECIAL),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, SPECIAL),
    (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3, Public),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, RANGE),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, RANGE),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, LINK_LOCAL),
];

/// What the address is for.
pub(super) fn class(address: IpAddr) -> Class {
    let found = |first, bits, address| Pattern::Range(first, bits).covers(address);
    match address {
        IpAddr::V4(v4) => {
            let row = V4.iter().find(|(first, bits, _)| found(IpAddr::V4(*first), *bits, v4.into()));
            row.map_or(Public, |(.., class)| *class)
        }
        IpAddr::V6(v6) => match within(v6) {
            Some(v4) => class(v4.into()),
            None => {
                let row = V6.iter().find(|(first, bits, _)| found(IpAddr::V6(*first), *bits, address));
                row.map_or(RESERVED, |(.., class)| *class)
            }
        },
    }
}

/// The IPv4 address that this one stands for: mapped, NAT64 or 6to4.
fn within(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., a, b] = v6.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(of(a, b)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

/// The operator's rules.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    allow: Vec<Pattern>,
    /// Where the engine listens, if that is a TCP port.
    engine: Option<u16>,
    /// Where the agent listens.
    own: Vec<u16>,
}

impl Rules {
    /// Those of a configuration, whose entries were checked.
    pub(super) fn new(config: &Config) -> Self {
        let engine = match config.container.docker.endpoint {
            DockerEndpoint::Tcp(_, port) => Some(port),
            DockerEndpoint::Unix(_) => None,
        };
        let ports = [config.monitoring.health_port, config.monitoring.metrics_port];
        let own = if config.monitoring.enabled { ports.to_vec() } else { Vec::new() };
        Self { allow: config.http.allow.iter().filter_map(|entry| Pattern::parse(entry).ok()).collect(), engine, own }
    }

    /// Whether the name may be looked up: only where the answer can open it. What a lookup asks goes to name servers of
    /// others. The error is a sentence that says why not.
    pub(super) fn may_look_up(&self, host: &str) -> Result<(), String> {
        let opens = |entry: &Pattern| matches!(entry, Pattern::Any | Pattern::Range(..)) || entry.names(host);
        if self.allow.iter().any(opens) { Ok(()) } else { Err(format!("{host} is not listed in http.allow")) }
    }

    /// Whether a request to `host` may connect to this address; the error is a sentence that says why not. `is_own` says
    /// whether an address is this host's.
    pub(super) fn check(&self, host: &str, at: SocketAddr, is_own: impl Fn(IpAddr) -> bool) -> Result<(), String> {
        let (address, port) = (at.ip(), at.port());
        let shown = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(_) => address.to_string(),
            Err(_) => format!("{address}, an address of {host},"),
        };
        let listed = self.allow.iter().any(|entry| entry.names(host) || entry.covers(address));
        // What listens here may count on the firewall before it, which such a connection would not pass.
        let own = is_own(address);
        let class = if own && class(address) == Public { OWN } else { class(address) };
        match class {
            Never(what) => return Err(format!("{shown} is {what}, which no request may reach")),
            Private(what) if !listed => {
                return Err(format!("{shown} is {what}; to allow it, the operator lists it or the host in http.allow"));
            }
            Public if !listed && !self.allow.contains(&Pattern::Any) => {
                return Err(format!("{shown} is not listed in http.allow"));
            }
            Public | Private(_) => {}
        }
        if self.engine == Some(port) {
            return Err(format!(
                "port {port} is the container engine's (container.docker.endpoint), which no request may reach"
            ));
        }
        if own && self.own.contains(&port) {
            return Err(format!("{shown} with port {port} is this agent's own, which no request may reach"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
