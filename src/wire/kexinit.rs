//! What an SSH server offers: the lists of its first packet, KEXINIT (RFC 4253 sections 4.2, 6 and 7.1).
//!
//! When client and server have no algorithm in common, libssh2 says only that. What a server sends first is plain text,
//! so a second connection takes it, and this finds the lists in it. All of it comes from a stranger: its length is
//! bounded, and only printable names are believed.

use crate::limits::{KEX_BYTES_MAX, KEX_PACKET_MAX, KEX_WORDS_MAX};

const IGNORE: u8 = 2;
const DEBUG: u8 = 4;
const KEXINIT: u8 = 20;
const COOKIE: usize = 16;
/// A packet's bytes after its length.
const PACKET_LEAST: usize = 12;
const PADDING_LEAST: usize = 4;

/// The algorithms that a server offers, each list in the server's order. Names are printable ASCII. Of two lists the first
/// is for what goes to the server, the second for what comes from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Key exchanges, with markers such as `kex-strict-s-v00@openssh.com` that are none.
    pub kex: Vec<String>,
    pub host_keys: Vec<String>,
    pub ciphers: [Vec<String>; 2],
    pub macs: [Vec<String>; 2],
    pub compression: [Vec<String>; 2],
}

/// What the bytes that a server has sent so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// More is needed.
    Partial,
    Offer(Offer),
    /// No offer, whatever follows.
    Nonsense,
}

/// Reads all that a server has sent since it was connected to. What follows the offer is ignored.
pub fn read(bytes: &[u8]) -> Greeting {
    match read_within(&bytes[..bytes.len().min(KEX_BYTES_MAX)]) {
        Greeting::Partial if bytes.len() >= KEX_BYTES_MAX => Greeting::Nonsense,
        known => known,
    }
}

fn read_within(bytes: &[u8]) -> Greeting {
    let mut rest = bytes;
    // Lines of other text may come before the version.
    let version = loop {
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else { return Greeting::Partial };
        let (line, after) = rest.split_at(end + 1);
        rest = after;
        if line.starts_with(b"SSH-") {
            break line;
        }
    };
    if !version.starts_with(b"SSH-2.0-") && !version.starts_with(b"SSH-1.99-") {
        return Greeting::Nonsense;
    }
    loop {
        let Some((length, after)) = rest.split_first_chunk::<4>() else { return Greeting::Partial };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if !(PACKET_LEAST..=KEX_PACKET_MAX).contains(&length) {
            return Greeting::Nonsense;
        }
        let Some((packet, after)) = after.split_at_checked(length) else { return Greeting::Partial };
        rest = after;
        match payload(packet) {
            Some([IGNORE | DEBUG, ..]) => {}
            Some([KEXINIT, lists @ ..]) => return offer(lists).map_or(Greeting::Nonsense, Greeting::Offer),
            _ => return Greeting::Nonsense,
        }
    }
}

/// A packet without its padding.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let (padding, packet) = packet.split_first()?;
    let end = packet.len().checked_sub(usize::from(*padding))?;
    (usize::from(*padding) >= PADDING_LEAST).then(|| &packet[..end])
}

fn offer(payload: &[u8]) -> Option<Offer> {
    let mut rest = payload.get(COOKIE..)?;
    let mut next = || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (list, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        rest = after;
        names(list)
    };
    let (kex, host_keys) = (next()?, next()?);
    let [ciphers, macs, compression, _languages] =
        [[next()?, next()?], [next()?, next()?], [next()?, next()?], [next()?, next()?]];
    // A flag and a reserved number: nothing to us, but a packet without them is cut.
    (rest.len() >= 5).then_some(Offer { kex, host_keys, ciphers, macs, compression })
}

fn names(list: &[u8]) -> Option<Vec<String>> {
    let is_name = |name: &[u8]| !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    let names = list.split(|&byte| byte == b',').filter(|_| !list.is_empty());
    names.map(|name| is_name(name).then(|| printable(name))).collect()
}

/// What a server said before it closed the connection, to be shown: [`KEX_WORDS_MAX`] bytes at most.
pub fn words(said: &[u8]) -> String {
    printable(&said[..said.len().min(KEX_WORDS_MAX)])
}

/// ASCII to show: anything else becomes `?`.
fn printable(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OpenSSH 9.2 sent, its configuration cut to a few algorithms.
    const REAL: &[u8] = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u10\r\n\
        \0\0\x01D\x05\x14\x9e\xca{\x04\xd0\xb0\x8a\x92o\xc4\x98\xc7\x0f\xed<\xf6\
        \0\0\0Acurve25519-sha256,ecdh-sha2-nistp256,kex-strict-s-v00@openssh.com\
        \0\0\0\x0bssh-ed25519\
        \0\0\0(aes128-ctr,chacha20-poly1305@openssh.com\0\0\0(aes128-ctr,chacha20-poly1305@openssh.com\
        \0\0\0\x1dhmac-sha2-256-etm@openssh.com\0\0\0\x1dhmac-sha2-256-etm@openssh.com\
        \0\0\0\x15none,zlib@openssh.com\0\0\0\x15none,zlib@openssh.com\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

    /// `want` of `input` and whatever follows it; of each beginning nothing, or the same nonsense.
    fn check(name: &str, input: &[u8], want: &Greeting) {
        for end in 0..input.len() {
            let got = read(&input[..end]);
            let early = got == Greeting::Partial || (got == Greeting::Nonsense && *want == Greeting::Nonsense);
            assert!(early, "{name}: cut at {end}: {got:?}");
        }
        for behind in [&b""[..], b"\0", b"SSH-2.0-x\r\n"] {
            assert_eq!(&read(&[input, behind].concat()), want, "{name}");
        }
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn packet(payload: &[u8]) -> Vec<u8> {
        let padding = 8 + 4 - (5 + payload.len() + 4) % 8;
        let length = u32::try_from(1 + payload.len() + padding).expect("short").to_be_bytes();
        let padding_length = u8::try_from(padding).expect("short");
        [&length[..], &[padding_length], payload, &vec![0xAA; padding]].concat()
    }

    /// The payload of a KEXINIT with these ten lists.
    fn lists(lists: [&str; 10]) -> Vec<u8> {
        let mut out = [&[KEXINIT][..], &[7; COOKIE]].concat();
        for list in lists {
            out.extend(u32::try_from(list.len()).expect("short").to_be_bytes());
            out.extend(list.as_bytes());
        }
        out.extend([0; 5]);
        out
    }

    const LISTS: [&str; 10] = ["k1,k2", "h", "c", "s1,s2,s3", "m", "n", "z", "", "", "de,fr"];

    fn told() -> Greeting {
        Greeting::Offer(Offer {
            kex: owned(&["k1", "k2"]),
            host_keys: owned(&["h"]),
            ciphers: [owned(&["c"]), owned(&["s1", "s2", "s3"])],
            macs: [owned(&["m"]), owned(&["n"])],
            compression: [owned(&["z"]), Vec::new()],
        })
    }

    #[test]
    fn a_real_server() {
        let both = |names: &[&str]| [owned(names), owned(names)];
        let want = Offer {
            kex: owned(&["curve25519-sha256", "ecdh-sha2-nistp256", "kex-strict-s-v00@openssh.com"]),
            host_keys: owned(&["ssh-ed25519"]),
            ciphers: both(&["aes128-ctr", "chacha20-poly1305@openssh.com"]),
            macs: both(&["hmac-sha2-256-etm@openssh.com"]),
            compression: both(&["none", "zlib@openssh.com"]),
        };
        check("real", REAL, &Greeting::Offer(want));
    }

    #[test]
    fn greetings() {
        let body = packet(&lists(LISTS));
        let with = |head: &[u8]| [head, &body].concat();
        check("no carriage return", &with(b"SSH-2.0-a\n"), &told());
        check("1.99", &with(b"SSH-1.99-Cisco-1.25\r\n"), &told());
        check("lines before", &with(b"Welcome\r\n\r\nNo SSH- here\nSSH-2.0-b c\r\n"), &told());
        check("odd bytes", &with(b"SSH-2.0-\x1b[2J\xff\r\n"), &told());
        let early = [packet(&[IGNORE, 0, 0, 0, 0]), packet(&[DEBUG, 0]), body.clone()].concat();
        check("packets before", &[b"SSH-2.0-c\r\n", &early[..]].concat(), &told());
        check("an old version", b"SSH-1.5-old\n", &Greeting::Nonsense);
        check("an odd version", b"SSH-2.00-x\n", &Greeting::Nonsense);
        assert_eq!(read(b"Not allowed at this time\r\n"), Greeting::Partial);
    }

    #[cfg_attr(miri, ignore = "megabytes take Miri hours")]
    #[test]
    fn a_greeting_without_an_end() {
        let body = [b"SSH-2.0-x\n", &packet(&lists(LISTS))[..]].concat();
        let most = KEX_BYTES_MAX - body.len();
        check("the longest", &[&vec![b'\n'; most][..], &body].concat(), &told());
        for line in [&b"\n"[..], b"x"] {
            assert_eq!(read(&line.repeat(KEX_BYTES_MAX - 1)), Greeting::Partial);
            assert_eq!(read(&line.repeat(KEX_BYTES_MAX)), Greeting::Nonsense);
        }
        assert_eq!(read(&[&vec![b'\n'; most + 1][..], &body].concat()), Greeting::Nonsense, "one byte more");
        let chatter = packet(&[IGNORE]).repeat(KEX_BYTES_MAX / 16);
        assert_eq!(read(&[b"SSH-2.0-x\n", &chatter[..]].concat()), Greeting::Nonsense);
    }

    #[test]
    fn a_servers_words_are_cut_and_made_plain() {
        assert_eq!(words(b"no\x1b[2J \xff\r\n"), "no?[2J ???");
        assert_eq!(words(&[b'w'; KEX_WORDS_MAX + 1]), "w".repeat(KEX_WORDS_MAX));
    }

    #[test]
    fn packets_of_nonsense() {
        let with = |at: usize, list: &str| {
            let mut all = LISTS;
            all[at] = list;
            packet(&lists(all))
        };
        let whole = lists(LISTS);
        let mut lie = whole.clone();
        lie[1 + COOKIE..][..4].copy_from_slice(&u32::MAX.to_be_bytes());
        let head = |length: u32, rest: &[u8]| [&length.to_be_bytes()[..], rest].concat();
        for (name, bytes) in [
            ("tiny", head(11, &[])),
            ("zero", head(0, &[])),
            ("huge", head(u32::try_from(KEX_PACKET_MAX).expect("a number") + 1, &[])),
            ("text", b"HTTP/1.1".to_vec()),
            ("little padding", head(12, &[3; 12])),
            ("more padding", head(12, &[12; 12])),
            ("all padding", head(12, &[11; 12])),
            ("another message", packet(&[21])),
            ("an early end", packet(b"\x01\0\0\0\x0b\0\0\0\x08no\x07thank\0\0\0\0")),
            ("no cookie", packet(&[KEXINIT, 1, 2])),
            ("half a list", packet(&whole[..20])),
            ("no end", packet(&whole[..whole.len() - 1])),
            ("no languages", packet(&whole[..whole.len() - 10])),
            ("a length that lies", packet(&lie)),
            ("an empty name", with(2, "a,,b")),
            ("a comma at the end", with(1, "a,")),
            ("an escape", with(4, "a\x1b[2J")),
        ] {
            check(name, &[b"SSH-2.0-x\r\n", &bytes[..]].concat(), &Greeting::Nonsense);
        }
    }
}
