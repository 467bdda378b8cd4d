//! Patterns of hosts, as an operator lists them: `*`, a name, the names below a domain, an address, a range of addresses.

use core::net::{IpAddr, Ipv6Addr};

use crate::job::is_host;

/// One entry of a list of hosts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// `*`: each host.
    Any,
    /// A name, in lower case.
    Name(String),
    /// `*.example.com`: the names below a domain, which is kept with its first dot.
    Below(String),
    /// An address or a range: the addresses whose first bits are these.
    Range(IpAddr, u8),
}

impl Pattern {
    /// Reads an entry. The error, which may be empty, is what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        if let Ok(address) = address.trim_matches(['[', ']']).parse::<IpAddr>() {
            return range(address, bits);
        }
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        match name.strip_prefix('*') {
            Some(domain) if domain.starts_with('.') && is_name(&domain[1..]) => Ok(Self::Below(domain.to_owned())),
            None if is_name(&name) => Ok(Self::Name(name)),
            _ => Err(String::new()),
        }
    }

    /// Whether this names the host: never for `*` and for addresses.
    pub fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match self {
            Self::Name(name) => *name == host,
            Self::Below(domain) => host.ends_with(domain) && host.len() > domain.len(),
            Self::Any | Self::Range(..) => false,
        }
    }

    /// Whether this is the host as it is written: its name, or its address. Nothing is resolved.
    pub fn fits(&self, host: &str) -> bool {
        *self == Self::Any || self.names(host) || host.parse().is_ok_and(|address| self.covers(address))
    }

    /// Whether the address is in this range. One of IPv4 is the same within IPv6.
    pub fn covers(&self, address: IpAddr) -> bool {
        let Self::Range(first, bits) = *self else { return false };
        match (first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                first.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => masked(first, bits) == masked(address, bits),
            _ => false,
        }
    }
}

fn masked(address: Ipv6Addr, bits: u8) -> u128 {
    address.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

fn range(address: IpAddr, bits: Option<&str>) -> Result<Pattern, String> {
    let most = if address.is_ipv4() { 32 } else { 128 };
    let digits = bits.filter(|bits| !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()));
    let bits = match (bits, digits.and_then(|bits| bits.parse::<u8>().ok())) {
        (None, _) => most,
        (_, Some(bits)) if bits <= most => bits,
        _ => return Err(format!("the bits of its range are no number from 0 to {most}")),
    };
    let range = match address {
        // Addresses of IPv4 within IPv6 are looked up as those of IPv4.
        IpAddr::V6(v6) if bits >= 96 && v6.to_ipv4_mapped().is_some() => {
            Pattern::Range(address.to_canonical(), bits - 96)
        }
        _ => Pattern::Range(address, bits),
    };
    let ends = match address {
        IpAddr::V4(address) => address.to_bits().trailing_zeros() >= u32::from(most - bits),
        IpAddr::V6(address) => address.to_bits().trailing_zeros() >= u32::from(most - bits),
    };
    if ends { Ok(range) } else { Err("its range does not begin at this address".to_owned()) }
}

/// Not a number either, which a resolver would take for an address.
fn is_name(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    is_host(name)
        && !name.contains([':', '%'])
        && !name.contains("..")
        && !last.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_names_hosts_or_covers_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().expect(text);
        for (entry, host, address, named, covered) in [
            ("*", "a.example", "10.0.0.1", false, false),
            ("A.Example.", "a.example", "10.0.0.1", true, false),
            ("a.example", "a.EXAMPLE.", "10.0.0.1", true, false),
            ("a.example", "b.a.example", "10.0.0.1", false, false),
            ("*.example", "a.b.example", "10.0.0.1", true, false),
            ("*.example", "example", "10.0.0.1", false, false),
            ("*.example", "badexample", "10.0.0.1", false, false),
            ("*.example", ".example", "10.0.0.1", false, false),
            ("10.0.0.0/8", "10.0.0.0/8", "10.255.0.1", false, true),
            ("10.0.0.0/8", "x", "11.0.0.1", false, false),
            ("10.0.0.0/8", "x", "::ffff:10.0.0.1", false, true),
            ("10.0.0.0/8", "x", "2002:a00:1::", false, false),
            ("10.1.2.3", "10.1.2.3", "10.1.2.3", false, true),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4", false, false),
            ("0.0.0.0/0", "x", "8.8.8.8", false, true),
            ("0.0.0.0/0", "x", "2001:db8::1", false, false),
            ("fd00::/8", "x", "fd12::1", false, true),
            ("fd00::/8", "x", "fe80::1", false, false),
            ("[fd00::1]", "x", "fd00::1", false, true),
            ("::/0", "x", "fd00::1", false, true),
            ("::ffff:10.1.2.3", "x", "10.1.2.3", false, true),
            ("::ffff:10.1.2.3", "x", "::ffff:10.1.2.3", false, true),
            ("::ffff:10.0.0.0/104", "x", "10.9.0.1", false, true),
            ("::ffff:10.0.0.0/104", "x", "11.0.0.1", false, false),
        ] {
            let pattern = Pattern::parse(entry).unwrap_or_else(|why| panic!("{entry}: {why}"));
            assert_eq!(pattern.names(host), named, "{entry} {host}");
            assert_eq!(pattern.covers(ip(address)), covered, "{entry} {address}");
            let any = pattern == Pattern::Any;
            assert_eq!(pattern.fits(host), any || named || host == entry && host != "10.0.0.0/8", "{entry} {host}");
            assert_eq!(pattern.fits(address), any || covered, "{entry} {address}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "",
            ".",
            "*.",
            "**",
            "*a.example",
            "a.*.example",
            "a b",
            "a..b",
            "http://a",
            "a:80",
            "a/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.1/8",
            "fd00::1/8",
            "::/129",
            "10.1",
            "2130706433",
            "0x7f.1",
            "1e3",
            "ä.example",
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }
}
