//! What an SSH server offers: its version line and its first packet, KEXINIT (RFC 4253 sections 4.2, 6 and 7.1).
//!
//! When client and server have no algorithm in common, libssh2 says only that. The server's bytes until then are plain
//! text, so the transport keeps them and this decoder reads the server's lists from them. All of it comes from a
//! stranger: lines, packets and names are bounded, and only printable names are believed.

use std::fmt;

use crate::limits::{KEX_DESCRIPTION_MAX, KEX_LINE_MAX, KEX_LINES_MAX, KEX_NAME_MAX, KEX_PACKET_MAX, KEX_PACKETS_MAX};

const DISCONNECT: u8 = 1;
const IGNORE: u8 = 2;
const DEBUG: u8 = 4;
const KEXINIT: u8 = 20;
const COOKIE: usize = 16;
/// `packet_length` and `padding_length`.
const PACKET_HEAD: usize = 5;
const PADDING_LEAST: usize = 4;
const BLOCK: usize = 8;

/// Why the bytes are no offer. The decoder stays in error once it gave one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KexError {
    /// A line before the first packet is longer than [`KEX_LINE_MAX`].
    LineTooLong,
    /// More than [`KEX_LINES_MAX`] lines came and none began with `SSH-`.
    TooManyLines,
    /// The version line names another protocol than 2.0 or 1.99.
    Version(String),
    /// A packet announces this many bytes.
    PacketLength(u32),
    /// A packet of `packet` bytes announces `padding` bytes of padding.
    Padding { packet: usize, padding: usize },
    /// A packet is of this message number where KEXINIT (20) must be.
    Message(u8),
    /// More than [`KEX_PACKETS_MAX`] packets came before KEXINIT.
    TooManyPackets,
    /// The server ended the conversation; its reason's number and its words.
    Disconnected { reason: u32, description: String },
    /// The packet ends inside its cookie or this field.
    Cut(&'static str),
    /// A name-list holds an empty name, one longer than [`KEX_NAME_MAX`], or one that is not printable ASCII.
    Name(&'static str),
    /// The stream ended before the version line; the last other line says why, if the server said anything.
    EndInBanner { last: String },
    /// The stream ended after the version line and before the end of KEXINIT.
    EndBeforeOffer,
}

impl fmt::Display for KexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server's SSH greeting: ")?;
        match self {
            Self::LineTooLong => write!(f, "a line is longer than {KEX_LINE_MAX} bytes; is this an SSH server?"),
            Self::TooManyLines => write!(f, "none of {KEX_LINES_MAX} lines begins with SSH-; is this an SSH server?"),
            Self::Version(line) => write!(f, "it speaks {line:?}; versions 2.0 and 1.99 are supported"),
            Self::PacketLength(length) => {
                write!(f, "a packet announces {length} bytes; up to {KEX_PACKET_MAX} in blocks of {BLOCK} are believed")
            }
            Self::Padding { packet, padding } => {
                write!(f, "a packet of {packet} bytes cannot hold {padding} of padding")
            }
            Self::Message(number) => write!(f, "message {number} where the key exchange must begin with {KEXINIT}"),
            Self::TooManyPackets => write!(f, "more than {KEX_PACKETS_MAX} packets before the key exchange"),
            Self::Disconnected { reason, description } => {
                write!(f, "it ended the conversation with reason {reason}: {description:?}")
            }
            Self::Cut(field) => write!(f, "the key exchange packet ends inside its field {field}"),
            Self::Name(field) => write!(f, "its list {field} holds something that is no algorithm's name"),
            Self::EndInBanner { last } if last.is_empty() => f.write_str("it closed the connection without a word"),
            Self::EndInBanner { last } => write!(f, "it closed the connection after it said {last:?}"),
            Self::EndBeforeOffer => f.write_str("it closed the connection before it had said what it supports"),
        }
    }
}

impl std::error::Error for KexError {}

/// What a server offers, each list in the server's order; names are printable ASCII.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The version line without its line end, such as `SSH-2.0-OpenSSH_9.2p1`; printable ASCII, `?` for other bytes.
    pub version: String,
    /// Key exchanges, with markers such as `kex-strict-s-v00@openssh.com` that are none.
    pub kex: Vec<String>,
    pub host_keys: Vec<String>,
    pub ciphers_client_to_server: Vec<String>,
    pub ciphers_server_to_client: Vec<String>,
    pub macs_client_to_server: Vec<String>,
    pub macs_server_to_client: Vec<String>,
    pub compression_client_to_server: Vec<String>,
    pub compression_server_to_client: Vec<String>,
}

#[derive(Debug)]
enum State {
    /// Before the version line, after this number of other lines.
    Lines(usize),
    /// After the version line, after this number of packets.
    Packets(usize),
    Done(Box<Offer>),
    Failed(KexError),
}

/// Takes the server's bytes in pieces of any size.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// The last line before the packets, at last the version line.
    line: String,
    /// A line or a packet that is not whole yet; both are bounded.
    held: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the start of a connection.
    pub fn new() -> Self {
        Self { state: State::Lines(0), line: String::new(), held: Vec::new() }
    }

    /// Reads `input` on; the offer as soon as it is whole. What follows it is ignored.
    pub fn feed(&mut self, mut input: &[u8]) -> Result<Option<&Offer>, KexError> {
        while !input.is_empty() && !matches!(self.state, State::Done(_) | State::Failed(_)) {
            let (taken, next) = match self.state {
                State::Packets(seen) => self.packet(input, seen),
                State::Lines(seen) => self.line(input, seen),
                State::Done(_) | State::Failed(_) => (input.len(), None),
            };
            input = &input[taken..];
            if let Some(next) = next {
                self.held.clear();
                self.state = next;
            }
        }
        match &self.state {
            State::Failed(error) => Err(error.clone()),
            _ => Ok(self.offer()),
        }
    }

    /// The offer, once it was whole.
    pub fn offer(&self) -> Option<&Offer> {
        match &self.state {
            State::Done(offer) => Some(offer),
            _ => None,
        }
    }

    /// To be called at the end of the stream: an error when that is before the offer.
    pub fn finish(&self) -> Result<&Offer, KexError> {
        match &self.state {
            State::Done(offer) => Ok(offer),
            State::Failed(error) => Err(error.clone()),
            State::Lines(_) => {
                let last = if self.held.is_empty() { self.line.clone() } else { printable(&self.held) };
                Err(KexError::EndInBanner { last })
            }
            State::Packets(_) => Err(KexError::EndBeforeOffer),
        }
    }

    /// One piece of a line before the packets.
    fn line(&mut self, input: &[u8], seen: usize) -> (usize, Option<State>) {
        let end = input.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(input.len(), |at| at + 1).min(KEX_LINE_MAX + 1 - self.held.len());
        self.held.extend_from_slice(&input[..taken]);
        if self.held.len() > KEX_LINE_MAX {
            return (taken, Some(State::Failed(KexError::LineTooLong)));
        }
        let Some(line) = self.held.strip_suffix(b"\n") else { return (taken, None) };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.line = printable(line);
        let next = if line.starts_with(b"SSH-") {
            let known = line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-");
            if known { State::Packets(0) } else { State::Failed(KexError::Version(printable(line))) }
        } else if seen + 1 > KEX_LINES_MAX {
            State::Failed(KexError::TooManyLines)
        } else {
            State::Lines(seen + 1)
        };
        (taken, Some(next))
    }

    /// One piece of a packet: its head first, so that a length is judged before anything is gathered for it.
    fn packet(&mut self, input: &[u8], seen: usize) -> (usize, Option<State>) {
        let whole = match self.held.first_chunk::<4>() {
            None => 4,
            Some(length) => 4 + usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX),
        };
        let taken = input.len().min(whole - self.held.len());
        self.held.extend_from_slice(&input[..taken]);
        if self.held.len() < whole {
            return (taken, None);
        }
        if let Ok(length) = <[u8; 4]>::try_from(&self.held[..]) {
            let length = u32::from_be_bytes(length);
            let bytes = usize::try_from(length).unwrap_or(usize::MAX);
            let believed = (BLOCK + PADDING_LEAST..=KEX_PACKET_MAX).contains(&bytes) && (bytes + 4) % BLOCK == 0;
            return (taken, (!believed).then_some(State::Failed(KexError::PacketLength(length))));
        }
        let next = match self.message() {
            Ok(Some(offer)) => State::Done(Box::new(offer)),
            Ok(None) if seen + 1 > KEX_PACKETS_MAX => State::Failed(KexError::TooManyPackets),
            Ok(None) => State::Packets(seen + 1),
            Err(error) => State::Failed(error),
        };
        (taken, Some(next))
    }

    /// The whole packet in `held`; nothing for a message that may come first and says nothing to us.
    fn message(&self) -> Result<Option<Offer>, KexError> {
        let (packet, padding) = (self.held.len() - 4, usize::from(self.held[4]));
        let end = (padding >= PADDING_LEAST).then(|| self.held.len().checked_sub(padding)).flatten();
        let payload = end.and_then(|end| self.held.get(PACKET_HEAD..end)).filter(|payload| !payload.is_empty());
        let Some((number, payload)) = payload.and_then(<[u8]>::split_first) else {
            return Err(KexError::Padding { packet, padding });
        };
        match *number {
            KEXINIT => offer(&self.line, payload).map(Some),
            IGNORE | DEBUG => Ok(None),
            DISCONNECT => Err(disconnected(payload)),
            other => Err(KexError::Message(other)),
        }
    }
}

/// ASCII to show: anything else becomes `?`.
pub fn printable(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' }).collect()
}

/// Takes a string with its length before it (RFC 4251 section 5).
fn string<'a>(rest: &mut &'a [u8], field: &'static str) -> Result<&'a [u8], KexError> {
    let (length, after) = rest.split_first_chunk::<4>().ok_or(KexError::Cut(field))?;
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    let (bytes, after) = after.split_at_checked(length).ok_or(KexError::Cut(field))?;
    *rest = after;
    Ok(bytes)
}

fn names(rest: &mut &[u8], field: &'static str) -> Result<Vec<String>, KexError> {
    let list = string(rest, field)?;
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let name = |name: &[u8]| {
        let good = (1..=KEX_NAME_MAX).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic);
        if good { Ok(printable(name)) } else { Err(KexError::Name(field)) }
    };
    list.split(|&byte| byte == b',').map(name).collect()
}

fn offer(version: &str, payload: &[u8]) -> Result<Offer, KexError> {
    let mut rest = payload.get(COOKIE..).ok_or(KexError::Cut("cookie"))?;
    let rest = &mut rest;
    let offer = Offer {
        version: version.to_owned(),
        kex: names(rest, "kex_algorithms")?,
        host_keys: names(rest, "server_host_key_algorithms")?,
        ciphers_client_to_server: names(rest, "encryption_algorithms_client_to_server")?,
        ciphers_server_to_client: names(rest, "encryption_algorithms_server_to_client")?,
        macs_client_to_server: names(rest, "mac_algorithms_client_to_server")?,
        macs_server_to_client: names(rest, "mac_algorithms_server_to_client")?,
        compression_client_to_server: names(rest, "compression_algorithms_client_to_server")?,
        compression_server_to_client: names(rest, "compression_algorithms_server_to_client")?,
    };
    names(rest, "languages_client_to_server")?;
    names(rest, "languages_server_to_client")?;
    // first_kex_packet_follows and a reserved number: nothing to us, but a packet without them is cut.
    if rest.len() < 5 { Err(KexError::Cut("first_kex_packet_follows")) } else { Ok(offer) }
}

fn disconnected(payload: &[u8]) -> KexError {
    let Some((reason, mut rest)) = payload.split_first_chunk::<4>() else { return KexError::Cut("reason") };
    let words = string(&mut rest, "description").unwrap_or_default();
    let description = printable(&words[..words.len().min(KEX_DESCRIPTION_MAX)]);
    KexError::Disconnected { reason: u32::from_be_bytes(*reason), description }
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

    fn decode(pieces: &[&[u8]]) -> Result<Offer, KexError> {
        let mut decoder = Decoder::new();
        for piece in pieces {
            let fed = decoder.feed(piece).map(Option::<&Offer>::cloned);
            assert!(decoder.held.len() <= KEX_PACKET_MAX + 4, "it holds more than a packet");
            match fed {
                Err(error) => {
                    assert_eq!(decoder.feed(REAL), Err(error.clone()), "it forgot its error");
                    assert_eq!(decoder.finish(), Err(error.clone()));
                    return Err(error);
                }
                Ok(offer) => assert_eq!(offer.as_ref(), decoder.offer()),
            }
        }
        decoder.finish().cloned()
    }

    /// Whole, byte by byte and at every split.
    fn check(name: &str, input: &[u8], want: &Result<Offer, KexError>) {
        for at in 0..=input.len() {
            assert_eq!(&decode(&[&input[..at], &input[at..]]), want, "{name}: split at {at}");
        }
        assert_eq!(&decode(&input.chunks(1).collect::<Vec<_>>()), want, "{name}: byte by byte");
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn packet(payload: &[u8]) -> Vec<u8> {
        let padding = 8 + 4 - (PACKET_HEAD + payload.len() + 4) % 8;
        let length = u32::try_from(1 + payload.len() + padding).expect("short").to_be_bytes();
        let padding_length = u8::try_from(padding).expect("short");
        [&length[..], &[padding_length], payload, &vec![0xAA; padding]].concat()
    }

    /// The payload of a KEXINIT with these ten lists.
    fn payload(lists: [&str; 10]) -> Vec<u8> {
        let mut out = [&[KEXINIT][..], &[7; COOKIE]].concat();
        for list in lists {
            out.extend(u32::try_from(list.len()).expect("short").to_be_bytes());
            out.extend(list.as_bytes());
        }
        out.extend([0; 5]);
        out
    }

    const LISTS: [&str; 10] = ["k1,k2", "h", "c", "s1,s2,s3", "m", "n", "z", "", "", "de,fr"];

    fn told(version: &str) -> Offer {
        Offer {
            version: version.to_owned(),
            kex: owned(&["k1", "k2"]),
            host_keys: owned(&["h"]),
            ciphers_client_to_server: owned(&["c"]),
            ciphers_server_to_client: owned(&["s1", "s2", "s3"]),
            macs_client_to_server: owned(&["m"]),
            macs_server_to_client: owned(&["n"]),
            compression_client_to_server: owned(&["z"]),
            compression_server_to_client: Vec::new(),
        }
    }

    #[test]
    fn a_real_server() {
        let ciphers = owned(&["aes128-ctr", "chacha20-poly1305@openssh.com"]);
        let macs = owned(&["hmac-sha2-256-etm@openssh.com"]);
        let compression = owned(&["none", "zlib@openssh.com"]);
        let want = Offer {
            version: "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u10".to_owned(),
            kex: owned(&["curve25519-sha256", "ecdh-sha2-nistp256", "kex-strict-s-v00@openssh.com"]),
            host_keys: owned(&["ssh-ed25519"]),
            ciphers_client_to_server: ciphers.clone(),
            ciphers_server_to_client: ciphers,
            macs_client_to_server: macs.clone(),
            macs_server_to_client: macs,
            compression_client_to_server: compression.clone(),
            compression_server_to_client: compression,
        };
        check("real", REAL, &Ok(want.clone()));
        check("with what follows", &[REAL, b"\0\0\0"].concat(), &Ok(want));
        let line = REAL.iter().position(|&byte| byte == b'\n').expect("a line") + 1;
        for end in 1..REAL.len() {
            let last = printable(&REAL[..end]);
            let want = if end < line { KexError::EndInBanner { last } } else { KexError::EndBeforeOffer };
            assert_eq!(decode(&[&REAL[..end]]), Err(want), "cut at {end}");
        }
    }

    #[test]
    fn greetings() {
        let body = packet(&payload(LISTS));
        let with = |head: &[u8]| [head, &body].concat();
        check("no carriage return", &with(b"SSH-2.0-a\n"), &Ok(told("SSH-2.0-a")));
        check("1.99", &with(b"SSH-1.99-Cisco-1.25\r\n"), &Ok(told("SSH-1.99-Cisco-1.25")));
        check("lines before", &with(b"Welcome\r\n\r\nNo SSH- here\nSSH-2.0-b c\r\n"), &Ok(told("SSH-2.0-b c")));
        check("odd bytes are not shown", &with(b"SSH-2.0-\x1b[2J\xff\r\n"), &Ok(told("SSH-2.0-?[2J?")));
        let early = [packet(&[IGNORE, 0, 0, 0, 0]), packet(&[DEBUG, 0]), body.clone()].concat();
        check("packets before", &[b"SSH-2.0-c\r\n", &early[..]].concat(), &Ok(told("SSH-2.0-c")));
        let lines = b"x\n".repeat(KEX_LINES_MAX);
        assert_eq!(decode(&[&lines, &with(b"SSH-2.0-d\r\n")]), Ok(told("SSH-2.0-d")));
        assert_eq!(decode(&[&lines, b"x\n"]), Err(KexError::TooManyLines));
        let long = [&b"SSH-2.0-"[..], &[b'v'; KEX_LINE_MAX - 10]].concat();
        let version = String::from_utf8(long.clone()).expect("text");
        check("the longest line", &with(&[&long[..], b"\r\n"].concat()), &Ok(told(&version)));
        check("one byte more", &with(&[&long[..], b"v\r\n"].concat()), &Err(KexError::LineTooLong));
    }

    #[test]
    fn what_is_no_greeting() {
        for (head, error) in [
            (&b""[..], KexError::EndInBanner { last: String::new() }),
            (b"Not allowed at this time\r\n", KexError::EndInBanner { last: "Not allowed at this time".to_owned() }),
            (b"a\r\nbusy", KexError::EndInBanner { last: "busy".to_owned() }),
            (b"SSH-1.5-old\n", KexError::Version("SSH-1.5-old".to_owned())),
            (b"SSH-2.00-x\n", KexError::Version("SSH-2.00-x".to_owned())),
            (b"SSH-2.0-x\n", KexError::EndBeforeOffer),
            (&[b'x'; KEX_LINE_MAX + 1], KexError::LineTooLong),
        ] {
            check("greeting", head, &Err(error));
        }
    }

    #[test]
    fn packets_of_nonsense() {
        let name = "n".repeat(KEX_NAME_MAX);
        let lists = |at: usize, list: &str| {
            let mut lists = LISTS;
            lists[at] = list;
            packet(&payload(lists))
        };
        let whole = payload(LISTS);
        let head = |length: u32, rest: &[u8]| [&length.to_be_bytes()[..], rest].concat();
        let most = u32::try_from(KEX_PACKET_MAX).expect("a number");
        for (name, bytes, error) in [
            ("tiny", head(4, &[]), KexError::PacketLength(4)),
            ("zero", head(0, &[]), KexError::PacketLength(0)),
            ("no block", head(13, &[]), KexError::PacketLength(13)),
            ("huge", head(most / 8 * 8 + 12, &[]), KexError::PacketLength(most / 8 * 8 + 12)),
            ("text", b"HTTP/1.1".to_vec(), KexError::PacketLength(u32::from_be_bytes(*b"HTTP"))),
            ("little padding", head(12, &[3; 12]), KexError::Padding { packet: 12, padding: 3 }),
            ("all padding", head(12, &[11; 12]), KexError::Padding { packet: 12, padding: 11 }),
            ("more padding", head(12, &[255; 12]), KexError::Padding { packet: 12, padding: 255 }),
            ("another message", packet(&[21]), KexError::Message(21)),
            ("no cookie", packet(&[KEXINIT, 1, 2]), KexError::Cut("cookie")),
            ("half a list", packet(&whole[..20]), KexError::Cut("kex_algorithms")),
            ("no end", packet(&whole[..whole.len() - 1]), KexError::Cut("first_kex_packet_follows")),
            ("no languages", packet(&whole[..whole.len() - 10]), KexError::Cut("languages_server_to_client")),
            ("an empty name", lists(2, "a,,b"), KexError::Name("encryption_algorithms_client_to_server")),
            ("a comma at the end", lists(1, "a,"), KexError::Name("server_host_key_algorithms")),
            ("an escape", lists(4, "a\x1b[2J"), KexError::Name("mac_algorithms_client_to_server")),
            ("a long name", lists(0, &format!("{name}n")), KexError::Name("kex_algorithms")),
            (
                "an early end",
                packet(b"\x01\0\0\0\x0b\0\0\0\x08no\x07thank\0\0\0\0"),
                KexError::Disconnected { reason: 11, description: "no?thank".to_owned() },
            ),
            ("too much chatter", packet(&[IGNORE]).repeat(KEX_PACKETS_MAX + 1), KexError::TooManyPackets),
        ] {
            check(name, &[b"SSH-2.0-x\r\n", &bytes[..]].concat(), &Err(error));
        }
        let fits = decode(&[b"SSH-2.0-x\r\n", &lists(0, &name)]).expect("the longest name");
        assert_eq!(fits.kex, [name]);
    }

    #[test]
    fn a_servers_last_words_are_cut() {
        let length = u32::try_from(KEX_DESCRIPTION_MAX + 1).expect("a number");
        let words =
            [&[DISCONNECT, 0, 0, 0, 2][..], &length.to_be_bytes(), &vec![b'w'; KEX_DESCRIPTION_MAX + 1]].concat();
        let want = KexError::Disconnected { reason: 2, description: "w".repeat(KEX_DESCRIPTION_MAX) };
        assert_eq!(decode(&[b"SSH-2.0-x\r\n", &packet(&words)]), Err(want));
    }

    #[test]
    fn a_length_that_lies_is_cut() {
        let mut lists = payload(LISTS);
        lists[1 + COOKIE..][..4].copy_from_slice(&u32::MAX.to_be_bytes());
        check("list", &[b"SSH-2.0-x\n", &packet(&lists)[..]].concat(), &Err(KexError::Cut("kex_algorithms")));
    }
}
