//! What an SSH server offers: its version line and its first packet, KEXINIT (RFC 4253 sections 4.2, 6 and 7.1).
//!
//! When client and server have no algorithm in common, libssh2 says only that. The bytes that the server sent before
//! are plain text, so the transport keeps them and this decoder reads out of them what the server would have taken.
//! All of it comes from a stranger: lines, packets and names are bounded, and only printable names are believed.

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
    /// The stream ended before the version line, after this many other lines.
    EndInBanner { lines: usize },
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
            Self::EndInBanner { lines: 0 } => f.write_str("it closed the connection without a word"),
            Self::EndInBanner { lines } => write!(f, "it closed the connection after {lines} lines that are not SSH"),
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
    /// Before the version line; so many others are behind us.
    Lines(usize),
    /// After the version line; so many packets are behind us.
    Packets(usize),
    Done(Box<Offer>),
    Failed(KexError),
}

/// Takes the server's bytes in pieces of any size.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    version: String,
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
        Self { state: State::Lines(0), version: String::new(), held: Vec::new() }
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
            State::Lines(lines) => Err(KexError::EndInBanner { lines: lines + usize::from(!self.held.is_empty()) }),
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
        let next = if line.starts_with(b"SSH-") {
            self.version = printable(line);
            let known = line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-");
            if known { State::Packets(0) } else { State::Failed(KexError::Version(self.version.clone())) }
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
            KEXINIT => offer(&self.version, payload).map(Some),
            IGNORE | DEBUG => Ok(None),
            DISCONNECT => Err(disconnected(payload)),
            other => Err(KexError::Message(other)),
        }
    }
}

/// ASCII to show: anything else becomes `?`.
fn printable(bytes: &[u8]) -> String {
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
