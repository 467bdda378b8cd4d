//! The parts of a certificate that an operator asks for: subject, issuer, end (RFC 5280, 4.1).
//!
//! Nothing here decides on trust: rustls has checked the chain before. The reader takes DER, checks every length against
//! the input, and returns `None` for anything that it does not understand.

use std::time::SystemTime;

use crate::wire::time::parse_rfc3339;

/// The parts of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The common name, or empty.
    pub subject: String,
    /// The issuer's common name, or empty.
    pub issuer: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
/// 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// Reads a certificate in DER.
pub fn parse(der: &[u8]) -> Option<Certificate> {
    let (certificate, _) = expect(der, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    if let Some((_, after)) = expect(rest, VERSION) {
        rest = after;
    }
    let (_serial, rest) = expect(rest, INTEGER)?;
    let (_algorithm, rest) = expect(rest, SEQUENCE)?;
    let (issuer, rest) = expect(rest, SEQUENCE)?;
    let (validity, rest) = expect(rest, SEQUENCE)?;
    let (subject, _) = expect(rest, SEQUENCE)?;
    let (not_before, validity) = time(validity)?;
    let (not_after, _) = time(validity)?;
    Some(Certificate { subject: common_name(subject), issuer: common_name(issuer), not_before, not_after })
}

/// The next element's tag and content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // One to three bytes of length: 16 MiB, more than any handshake carries. 0x80 is no length in DER.
        0x81..=0x83 => {
            let count = usize::from(first & 0x7f);
            let bytes = rest.get(..count)?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), &rest[count..])
        }
        _ => return None,
    };
    (length <= rest.len()).then(|| (tag, &rest[..length], &rest[length..]))
}

fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(der)?;
    (found == tag).then_some((content, rest))
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`, as RFC 5280 wants both.
fn time(der: &[u8]) -> Option<(SystemTime, &[u8])> {
    let (tag, content, rest) = element(der)?;
    let text = std::str::from_utf8(content).ok().filter(|text| text.is_ascii())?;
    let digits = text.strip_suffix('Z')?;
    let full = match (tag, digits.len()) {
        (UTC_TIME, 12) => format!("{}{digits}", if digits < "50" { "20" } else { "19" }),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| &full[from..to];
    let written =
        format!("{}-{}-{}T{}:{}:{}Z", part(0, 4), part(4, 6), part(6, 8), part(8, 10), part(10, 12), part(12, 14));
    Some((parse_rfc3339(&written)?, rest))
}

/// The first common name of a distinguished name.
fn common_name(mut name: &[u8]) -> String {
    while let Some((set, after)) = expect(name, SET) {
        name = after;
        let pair = expect(set, SEQUENCE).and_then(|(pair, _)| expect(pair, OID));
        if let Some((COMMON_NAME, value)) = pair
            && let Some((_, text, _)) = element(value)
        {
            return String::from_utf8_lossy(text).into_owned();
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::time::rfc3339;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        match content.len() {
            length @ 0..128 => out.push(u8::try_from(length).expect("short")),
            length => out.extend([
                0x82,
                u8::try_from(length >> 8).expect("short"),
                u8::try_from(length & 0xff).expect("a byte"),
            ]),
        }
        out.extend_from_slice(content);
        out
    }

    fn name(text: &str) -> Vec<u8> {
        let pair =
            |oid: &[u8], text: &str| der(SET, &der(SEQUENCE, &[der(OID, oid), der(0x0c, text.as_bytes())].concat()));
        der(SEQUENCE, &[pair(&[0x55, 0x04, 0x0a], "an organisation"), pair(COMMON_NAME, text)].concat())
    }

    fn certificate(version: bool, from: (u8, &str), to: (u8, &str)) -> Vec<u8> {
        let validity = [der(from.0, from.1.as_bytes()), der(to.0, to.1.as_bytes())].concat();
        let version = if version { der(VERSION, &der(INTEGER, &[2])) } else { Vec::new() };
        let parts = [
            version,
            der(INTEGER, &[7; 20]),
            der(SEQUENCE, &der(OID, &[1, 2])),
            name("the issuer"),
            der(SEQUENCE, &validity),
            name("backend.example"),
            der(SEQUENCE, &[0; 300]),
        ];
        der(SEQUENCE, &[der(SEQUENCE, &parts.concat()), der(SEQUENCE, &[1])].concat())
    }

    #[test]
    fn names_and_times_are_found() {
        for version in [true, false] {
            let read = parse(&certificate(version, (UTC_TIME, "991231235959Z"), (GENERALIZED_TIME, "20500102030405Z")));
            let read = read.expect("a certificate");
            assert_eq!((read.subject.as_str(), read.issuer.as_str()), ("backend.example", "the issuer"));
            assert_eq!(rfc3339(read.not_before, 0), "1999-12-31T23:59:59Z");
            assert_eq!(rfc3339(read.not_after, 0), "2050-01-02T03:04:05Z");
        }
        let read = parse(&certificate(true, (UTC_TIME, "700101000000Z"), (UTC_TIME, "491231235959Z"))).expect("read");
        assert_eq!(rfc3339(read.not_before, 0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(read.not_after, 0), "2049-12-31T23:59:59Z");
    }

    #[test]
    fn a_cut_or_changed_certificate_is_none_and_never_a_panic() {
        let whole = certificate(true, (UTC_TIME, "240101000000Z"), (UTC_TIME, "250101000000Z"));
        assert!(parse(&whole).is_some());
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), None, "{cut}");
        }
        for at in 0..whole.len() {
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut changed = whole.clone();
                changed[at] = byte;
                let _ = parse(&changed);
            }
        }
        for odd in ["2401010000Z", "240101000000", "24010100000éZ", "241301000000Z"] {
            assert_eq!(parse(&certificate(true, (UTC_TIME, odd), (UTC_TIME, "250101000000Z"))), None, "{odd}");
        }
    }
}
