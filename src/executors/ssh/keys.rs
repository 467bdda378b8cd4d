//! Reads a private key's text before libssh2 does.
//!
//! Keys come from forms, environment variables and YAML: with Windows line ends, with `\n` written out, wrapped in base64, on
//! one line. libssh2 answers all of that, and every unknown kind of key, with the same few words. So this module brings the
//! text into the form that the libraries expect, or refuses it by name. No error holds any of the text.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};

use crate::limits::PRIVATE_KEY_MAX;
use crate::secret::Secret;

const OPENSSH: &str = "OPENSSH PRIVATE KEY";
/// Supported private keys, by their BEGIN line.
const TAKEN: &[&str] = &[OPENSSH, "RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"];
const MAGIC: &[u8] = b"openssh-key-v1\0";
/// Characters in a line of base64, as PEM asks for.
const LINE: usize = 64;

/// Missing padding is accepted: it is often lost.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a text is not a usable private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    Empty,
    TooLong,
    Dsa,
    Putty,
    PublicKey,
    Certificate,
    X509,
    Fido,
    Ssh1,
    SshCom,
    /// An elliptic curve that is not one of the three that SSH has names for.
    Curve,
    /// A private key of a kind that SSH, or libssh2, does not know.
    Kind,
    /// A key's bytes in base64 without the lines around them.
    NoFrame,
    /// The name of a file.
    Path,
    /// A private key with this defect.
    Damaged(&'static str),
    Unknown,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the private key ")?;
        match self {
            Self::Damaged(what) => return write!(f, "is damaged: {what}; copy the whole file again"),
            Self::TooLong => return write!(f, "has more than {PRIVATE_KEY_MAX} bytes, which no key has"),
            _ => {}
        }
        f.write_str(match self {
            Self::Empty => "is empty",
            Self::Dsa => "is a DSA key, which servers no longer accept",
            Self::Putty => "is a PuTTY key (PPK); export it with `puttygen KEY.ppk -O private-openssh`",
            Self::PublicKey => "is a public key; the private one is in the file without `.pub`",
            Self::Certificate => "is an SSH certificate, not the private key that it belongs to",
            Self::X509 => "is an X.509 certificate, not the private key that it belongs to",
            Self::Fido => "needs a security key (FIDO), which an agent cannot touch",
            Self::Ssh1 => "is of SSH protocol 1",
            Self::SshCom => "is in the format of ssh.com; convert it with `ssh-keygen -i -f KEY`",
            Self::Curve => "is on an elliptic curve that SSH does not have",
            Self::Kind => "is of a kind that cannot be used for SSH here",
            Self::NoFrame => "lacks its BEGIN and END lines",
            Self::Path => "is the name of a file; what the file contains is needed",
            Self::Unknown | Self::Damaged(_) | Self::TooLong => "is not in any known format",
        })?;
        f.write_str("; supported are RSA, ECDSA (256, 384, 521) and Ed25519 as OpenSSH or PEM text, also in base64")
    }
}

impl std::error::Error for KeyError {}

/// A private key's properties that are visible without its passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyInfo {
    /// `RSA`, `ECDSA`, `Ed25519`, or `unknown` where the encryption hides it.
    pub kind: &'static str,
    /// `OpenSSH`, `PEM` or `PKCS#8`.
    pub format: &'static str,
    /// Whether it needs a passphrase.
    pub encrypted: bool,
}

/// The key alone, as clean PEM or OpenSSH text: short lines, LF, a newline at the end; surrounding text is left out.
pub fn normalize(text: &Secret) -> Result<Secret, KeyError> {
    let block = find(text.expose(), true)?;
    examine(&block)?;
    let mut out = format!("-----BEGIN {}-----\n", block.label);
    for header in &block.headers {
        out.push_str(header);
        out.push('\n');
    }
    if !block.headers.is_empty() {
        out.push('\n');
    }
    let body = STANDARD.encode(&block.bytes);
    for at in (0..body.len()).step_by(LINE) {
        out.push_str(&body[at..body.len().min(at + LINE)]);
        out.push('\n');
    }
    out.push_str(&format!("-----END {}-----\n", block.label));
    Ok(Secret::new(out))
}

/// The properties of any text that [`normalize`] accepts.
pub fn describe(text: &Secret) -> Result<KeyInfo, KeyError> {
    examine(&find(text.expose(), true)?)
}

/// The parts of a private key's text.
struct Block {
    label: &'static str,
    /// `Proc-Type` and `DEK-Info` of an encrypted PEM key.
    headers: Vec<String>,
    bytes: Vec<u8>,
}

/// Finds the private key in a text; `wrapped` allows that all of it is base64 of such a text.
fn find(text: &str, wrapped: bool) -> Result<Block, KeyError> {
    if text.len() > PRIVATE_KEY_MAX {
        return Err(KeyError::TooLong);
    }
    let mut text = text.trim_start_matches('\u{feff}').to_owned();
    for (from, to) in [("\\r", ""), ("\\n", "\n"), ("\r\n", "\n"), ("\r", "\n")] {
        text = text.replace(from, to);
    }
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '"' || c == '\'' || c == '\0');
    if text.is_empty() {
        return Err(KeyError::Empty);
    }
    let labels = || text.split("-----BEGIN ").skip(1).filter_map(|after| Some(after.split_once("-----")?.0));
    if let Some(label) = labels().find_map(|label| TAKEN.iter().find(|taken| **taken == label)) {
        return block(text, label);
    }
    if let Some(error) = labels().find_map(refused_label).or_else(|| refused_text(text)) {
        return Err(error);
    }
    if wrapped { unwrap(text) } else { Err(KeyError::Unknown) }
}

fn refused_label(label: &str) -> Option<KeyError> {
    Some(match label {
        "DSA PRIVATE KEY" => KeyError::Dsa,
        "PUBLIC KEY" | "RSA PUBLIC KEY" | "EC PUBLIC KEY" | "DSA PUBLIC KEY" => KeyError::PublicKey,
        _ if label.contains("CERTIFICATE") => KeyError::X509,
        _ if label.ends_with("PRIVATE KEY") => KeyError::Kind,
        _ => return None,
    })
}

/// Formats without PEM's lines.
fn refused_text(text: &str) -> Option<KeyError> {
    for (start, error) in [
        ("PuTTY-User-Key-File-", KeyError::Putty),
        ("SSH PRIVATE KEY FILE FORMAT 1", KeyError::Ssh1),
        ("---- BEGIN SSH2 PUBLIC KEY", KeyError::PublicKey),
        ("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY", KeyError::SshCom),
    ] {
        if text.starts_with(start) {
            return Some(error);
        }
    }
    // A line of an authorized_keys file may have options before the type.
    let mut words = text.split_ascii_whitespace().skip_while(|word| !is_type(word));
    let name = words.next().filter(|_| words.next().is_some_and(|key| key.starts_with("AAAA")))?;
    Some(if name.contains("-cert-v") { KeyError::Certificate } else { KeyError::PublicKey })
}

fn is_type(word: &str) -> bool {
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "rsa-sha2-"].iter().any(|start| word.starts_with(start))
}

/// A text that is base64 as a whole.
fn unwrap(text: &str) -> Result<Block, KeyError> {
    let packed: String = text.split_ascii_whitespace().collect();
    let Ok(bytes) = LENIENT.decode(&packed) else {
        let path = text.lines().count() == 1 && ["/", "~", "./", "../"].iter().any(|start| text.starts_with(start));
        return Err(if path { KeyError::Path } else { KeyError::Unknown });
    };
    if bytes.starts_with(MAGIC) || der(&bytes, SEQUENCE).is_some() {
        return Err(KeyError::NoFrame);
    }
    // The format of SSH protocol 1 is not text behind its first line.
    find(&String::from_utf8_lossy(&bytes), false)
}

/// Splits the block with this label into its parts.
fn block(text: &str, label: &'static str) -> Result<Block, KeyError> {
    let inside = text.split_once(&format!("-----BEGIN {label}-----")).map(|(_, after)| after).unwrap_or_default();
    let inside = inside.split_once(&format!("-----END {label}-----")).map(|(inside, _)| inside);
    let inside = inside.ok_or(KeyError::Damaged("its END line is missing"))?;
    let lines = inside.lines().map(str::trim).filter(|line| !line.is_empty());
    let headers: Vec<String> = lines.clone().take_while(|line| line.contains(':')).map(str::to_owned).collect();
    let body: String = lines.skip(headers.len()).flat_map(str::split_ascii_whitespace).collect();
    if body.is_empty() {
        return Err(KeyError::Damaged("nothing is between its BEGIN and END lines, or its line breaks are lost"));
    }
    let bytes = LENIENT.decode(body).map_err(|_| KeyError::Damaged("what is between its lines is not base64"))?;
    Ok(Block { label, headers, bytes })
}

const CUT: KeyError = KeyError::Damaged("it ends too early or holds something else than it says");

fn examine(block: &Block) -> Result<KeyInfo, KeyError> {
    let locked = block.headers.iter().any(|header| header.starts_with("Proc-Type:") && header.contains("ENCRYPTED"));
    match block.label {
        OPENSSH => openssh(&block.bytes).ok_or(CUT)?,
        "ENCRYPTED PRIVATE KEY" => {
            der(&block.bytes, SEQUENCE).ok_or(CUT)?;
            Ok(KeyInfo { kind: "unknown", format: "PKCS#8", encrypted: true })
        }
        "PRIVATE KEY" => {
            let kind = pkcs8(&block.bytes).ok_or(CUT)??;
            Ok(KeyInfo { kind, format: "PKCS#8", encrypted: false })
        }
        label => {
            let kind = if label.starts_with("EC") { "ECDSA" } else { "RSA" };
            if !locked {
                let inside = der(&block.bytes, SEQUENCE).ok_or(CUT)?.0;
                if kind == "ECDSA" {
                    sec1(inside).ok_or(CUT)??;
                }
            }
            Ok(KeyInfo { kind, format: "PEM", encrypted: locked })
        }
    }
}

/// The outer structure of OpenSSH's own format (PROTOCOL.key); nothing when it is cut short.
fn openssh(bytes: &[u8]) -> Option<Result<KeyInfo, KeyError>> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let cipher = string(&mut rest)?;
    let (_kdf, _options) = (string(&mut rest)?, string(&mut rest)?);
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    if u32::from_be_bytes(*count) != 1 {
        return Some(Err(KeyError::Damaged("it must hold one key, not several")));
    }
    let mut public = string(&mut rest)?;
    string(&mut rest).filter(|private| !private.is_empty())?;
    let kind = match string(&mut public)? {
        b"ssh-rsa" => "RSA",
        b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384" | b"ecdsa-sha2-nistp521" => "ECDSA",
        b"ssh-ed25519" => "Ed25519",
        b"ssh-dss" => return Some(Err(KeyError::Dsa)),
        name if name.starts_with(b"sk-") => return Some(Err(KeyError::Fido)),
        _ => return Some(Err(KeyError::Kind)),
    };
    Some(Ok(KeyInfo { kind, format: "OpenSSH", encrypted: cipher != b"none" }))
}

/// Takes a string with its length before it (RFC 4251 section 5).
pub(super) fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (bytes, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *rest = after;
    Some(bytes)
}

/// The same for writing. `bytes` are a part of a text that is bounded.
pub(super) fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// The public key of any text that [`normalize`] accepts, in the protocol's encoding. `None` where the text does not show
/// it: encrypted PEM, and Ed25519 as PKCS#8.
pub fn public_of(text: &Secret) -> Option<Vec<u8>> {
    let block = find(text.expose(), true).ok()?;
    match block.label {
        OPENSSH => {
            let mut rest = block.bytes.strip_prefix(MAGIC)?;
            for _ in ["cipher", "kdf", "its options"] {
                string(&mut rest)?;
            }
            let (_count, mut rest) = rest.split_first_chunk::<4>()?;
            string(&mut rest).map(<[u8]>::to_vec)
        }
        _ if !block.headers.is_empty() => None,
        "RSA PRIVATE KEY" => rsa(&block.bytes),
        "EC PRIVATE KEY" => elliptic(&block.bytes, None),
        "PRIVATE KEY" => {
            let kind = pkcs8(&block.bytes)?.ok()?;
            let (inside, _) = der(&block.bytes, SEQUENCE)?;
            let (_version, inside) = der(inside, INTEGER)?;
            let (algorithm, inside) = der(inside, SEQUENCE)?;
            let (_, parameters) = der(algorithm, OID)?;
            let (key, _) = der(inside, OCTETS)?;
            match kind {
                "RSA" => rsa(key),
                "ECDSA" => elliptic(key, Some(parameters)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The public key in an `RSA PRIVATE KEY` (RFC 8017, A.1.2). Both encodings write a number alike.
fn rsa(bytes: &[u8]) -> Option<Vec<u8>> {
    let (inside, _) = der(bytes, SEQUENCE)?;
    let (_version, inside) = der(inside, INTEGER)?;
    let (modulus, inside) = der(inside, INTEGER)?;
    let (exponent, _) = der(inside, INTEGER)?;
    Some([b"ssh-rsa", exponent, modulus].map(with_length).concat())
}

/// The public key in an `EC PRIVATE KEY` (RFC 5915), whose curve may stand outside of it.
fn elliptic(bytes: &[u8], outside: Option<&[u8]>) -> Option<Vec<u8>> {
    let (inside, _) = der(bytes, SEQUENCE)?;
    let (_version, inside) = der(inside, INTEGER)?;
    let (_private, inside) = der(inside, OCTETS)?;
    let (own, inside) = der(inside, PARAMETERS).map_or((None, inside), |(own, inside)| (Some(own), inside));
    let (curve, _) = der(own.or(outside)?, OID)?;
    let at = CURVES.iter().position(|known| *known == curve)?;
    let (bits, _) = der(der(inside, PUBLIC)?.0, BITS)?;
    let (kind, name) = CURVE_NAMES[at];
    Some([kind.as_bytes(), name.as_bytes(), bits.strip_prefix(&[0])?].map(with_length).concat())
}

const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `[0]`, the curve of an EC key.
const PARAMETERS: u8 = 0xA0;
/// `[1]`, the public half of an EC key.
const PUBLIC: u8 = 0xA1;

/// secp256r1, secp384r1 and secp521r1.
const CURVES: [&[u8]; 3] = [b"\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x2b\x81\x04\x00\x22", b"\x2b\x81\x04\x00\x23"];

/// Their keys and themselves, as SSH names them.
const CURVE_NAMES: [(&str, &str); 3] =
    [("ecdsa-sha2-nistp256", "nistp256"), ("ecdsa-sha2-nistp384", "nistp384"), ("ecdsa-sha2-nistp521", "nistp521")];

/// The content of the DER value of this tag that `bytes` begins with, and what is behind it.
fn der(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(&[tag])?;
    let (&first, rest) = rest.split_first()?;
    if first < 0x80 {
        return rest.split_at_checked(usize::from(first));
    }
    let count = usize::from(first & 0x7F);
    if !(1..=4).contains(&count) {
        return None;
    }
    let (length, rest) = rest.split_at_checked(count)?;
    rest.split_at_checked(length.iter().fold(0, |all, &byte| all << 8 | usize::from(byte)))
}

/// The kind of a PKCS#8 key (RFC 5208), by its algorithm; nothing when it is cut short.
fn pkcs8(bytes: &[u8]) -> Option<Result<&'static str, KeyError>> {
    let (inside, _) = der(bytes, SEQUENCE)?;
    let (_version, inside) = der(inside, INTEGER)?;
    let (algorithm, inside) = der(inside, SEQUENCE)?;
    der(inside, OCTETS)?;
    let (algorithm, parameters) = der(algorithm, OID)?;
    Some(match algorithm {
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01" => Ok("RSA"),
        b"\x2b\x65\x70" => Ok("Ed25519"),
        b"\x2a\x86\x48\xce\x38\x04\x01" => Err(KeyError::Dsa),
        b"\x2a\x86\x48\xce\x3d\x02\x01" => curve(parameters).map(|()| "ECDSA"),
        _ => Err(KeyError::Kind),
    })
}

/// An `EC PRIVATE KEY` (RFC 5915): its curve may be left out.
fn sec1(inside: &[u8]) -> Option<Result<(), KeyError>> {
    let (_version, inside) = der(inside, INTEGER)?;
    let (_private, inside) = der(inside, OCTETS)?;
    Some(der(inside, PARAMETERS).map_or(Ok(()), |(parameters, _)| curve(parameters)))
}

fn curve(parameters: &[u8]) -> Result<(), KeyError> {
    let known = der(parameters, OID).is_some_and(|(name, _)| CURVES.contains(&name));
    if known { Ok(()) } else { Err(KeyError::Curve) }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
