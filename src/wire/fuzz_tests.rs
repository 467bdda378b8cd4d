//! What holds for each decoder of this layer, whatever bytes come. See [`crate::fuzzing`].

use std::time::SystemTime;

use super::kexinit::Greeting;
use super::lines::{self, Line};
use super::scan::{Broken, Json};
use super::{capture, chunked, frames, hosts, http1, json, kexinit, time, x509};
use crate::job::Stream;
use crate::limits::HTTP_HEAD_MAX;

/// Takes from the input what is not the reader's own.
pub(crate) struct Dice<'a>(pub(crate) &'a [u8]);

impl<'a> Dice<'a> {
    /// The next byte; 0 at the end.
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `bound`, which is above 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()])) % bound
    }

    /// Two lengths of pieces, the second up to 4 KiB.
    pub(crate) fn lengths(&mut self) -> [usize; 2] {
        [usize::from(self.byte()) + 1, usize::from(self.byte()) * 16 + 1]
    }

    /// The rest, and the pieces in which it arrives.
    pub(crate) fn pieces(mut self) -> (&'a [u8], Vec<&'a [u8]>) {
        let lengths = self.lengths();
        (self.0, pieces(self.0, lengths))
    }
}

/// All of it in pieces of two lengths in turn.
pub(crate) fn pieces(all: &[u8], lengths: [usize; 2]) -> Vec<&[u8]> {
    let (mut pieces, mut rest) = (Vec::new(), all);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(lengths[pieces.len() % 2].min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// Whether an escape stands in this JSON that a database refuses.
pub(crate) fn holds_nul(json: &str) -> bool {
    json.replace("\\\\", "").contains("\\u0000")
}

pub fn http_head(data: &[u8]) {
    let mut dice = Dice(data);
    let cut = dice.below(HTTP_HEAD_MAX);
    let all = dice.0;
    let (whole, part) = (http1::parse_response(all), http1::parse_response(&all[..cut.min(all.len())]));
    assert!(matches!(part, Ok(None)) || part == whole, "what is known of a beginning changed with what followed");
    let Ok(Some((head, used))) = whole else { return };
    assert!((100..600).contains(&head.status) && used <= all.len().min(HTTP_HEAD_MAX));
    assert_eq!(http1::parse_response(&all[..used]), Ok(Some((head.clone(), used))));
    assert_eq!(http1::response_body(&head, true), Ok(http1::BodyLength::Empty));
    let body = http1::response_body(&head, false);
    // Written again, it means the same: no head can be understood in two ways.
    let fields: String = head.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let again = format!("HTTP/1.1 {} {}\r\n{fields}\r\n", head.status, head.reason);
    if again.len() <= HTTP_HEAD_MAX {
        let (read, length) = http1::parse_response(again.as_bytes()).expect("a head").expect("a whole one");
        assert_eq!((&read, length), (&head, again.len()));
        assert_eq!(http1::response_body(&read, false), body);
    }
}

pub fn chunked_body(data: &[u8]) {
    let read = |pieces: &[&[u8]]| {
        let (mut decoder, mut out, mut used) = (chunked::Decoder::new(), Vec::new(), 0);
        for piece in pieces {
            match decoder.decode(piece, &mut out) {
                Ok(taken) => used += taken,
                Err(error) => return (out, Err(error), false),
            }
        }
        (out, Ok(used), decoder.is_done())
    };
    let (all, pieces) = Dice(data).pieces();
    let whole = read(&[all]);
    assert!(whole.0.len() <= all.len());
    assert_eq!(read(&pieces), whole);
    // A sender's chunks of any size give back its bytes; what follows the body is left.
    let mut body = Vec::new();
    for piece in &pieces {
        body.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        body.extend_from_slice(piece);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let length = body.len();
    body.extend_from_slice(b"next");
    assert_eq!(read(&[&body]), (all.to_vec(), Ok(length), true));
}

pub fn docker_frames(data: &[u8]) {
    let read = |pieces: &[&[u8]]| {
        let (mut decoder, mut out) = (frames::Decoder::new(), Vec::new());
        let mut result = Ok(());
        for piece in pieces {
            result = result.and(decoder.feed(piece, &mut |stream, bytes| {
                out.extend(bytes.iter().map(|byte| (stream, *byte)));
            }));
        }
        (out, result, decoder.finish())
    };
    let (all, pieces) = Dice(data).pieces();
    let whole = read(&[all]);
    assert!(whole.0.len() <= all.len());
    assert_eq!(read(&pieces), whole);
    let streams = [Stream::Stdout, Stream::Stderr];
    let (mut sent, mut framed) = (Vec::new(), Vec::new());
    for (piece, number) in pieces.iter().zip([0, 1].into_iter().cycle()) {
        let length = u32::try_from(piece.len()).expect("a short piece");
        framed.extend([number + 1, 0, 0, 0].into_iter().chain(length.to_be_bytes()));
        framed.extend_from_slice(piece);
        sent.extend(piece.iter().map(|byte| (streams[usize::from(number)], *byte)));
    }
    assert_eq!(read(&[&framed]), (sent, Ok(()), Ok(())));
}

pub fn script_lines(data: &[u8]) {
    let mut dice = Dice(data);
    let most = dice.below(300);
    let (all, pieces) = dice.pieces();
    let split = |pieces: &[&[u8]]| {
        let (mut splitter, mut out) = (lines::Splitter::new(most), Vec::new());
        let mut sink = |line: Line<'_>| match line {
            Line::Whole(line) => out.push((line.to_vec(), 0, false)),
            Line::Cut { kept, dropped } => out.push((kept.to_vec(), dropped, false)),
            Line::Last { kept, dropped } => out.push((kept.to_vec(), dropped, true)),
        };
        pieces.iter().for_each(|piece| splitter.feed(piece, &mut sink));
        splitter.finish(&mut sink);
        out
    };
    let whole = split(&[all]);
    assert_eq!(split(&pieces), whole);
    let ends = lines::newlines(all);
    let total: u64 = whole.iter().map(|(kept, dropped, _)| kept.len() as u64 + dropped).sum();
    assert!(whole.iter().all(|(kept, ..)| kept.len() <= most));
    let returns = u64::try_from(all.windows(2).filter(|pair| pair == b"\r\n").count()).expect("few");
    assert_eq!(total, all.len() as u64 - ends - returns, "a byte was lost or counted twice");
}

pub fn output_capture(data: &[u8]) {
    let mut dice = Dice(data);
    let most = dice.below(600);
    let (all, pieces) = dice.pieces();
    let keep = |pieces: &[&[u8]]| {
        let mut capture = capture::Capture::new(most);
        pieces.iter().for_each(|piece| capture.push(piece));
        (capture.total(), capture.is_cut(), capture.into_text())
    };
    let (total, is_cut, text) = keep(&[all]);
    assert_eq!(keep(&pieces), (total, is_cut, text.clone()));
    assert_eq!((total, is_cut), (all.len() as u64, all.len() > most));
    assert!(!text.contains('\0') && text.len() <= 3 * most + 80, "{} bytes of {most}", text.len());
    if !is_cut {
        assert_eq!(text, String::from_utf8_lossy(all).replace('\0', "\u{fffd}"));
    }
}

/// The value as serde_json has it; an error where a text or a name is no Unicode.
fn tree(of: Json<'_>) -> Result<serde_json::Value, ()> {
    match of.sort() {
        "an array" => of.items().ok_or(())?.map(|item| tree(item.map_err(drop)?)).collect(),
        "an object" => {
            let members = of.members().ok_or(())?.map(|member| member.map_err(drop));
            members.map(|member| member.and_then(|(key, value)| Ok((text(key)?, tree(value)?)))).collect()
        }
        "text" => Ok(serde_json::Value::String(text(of)?)),
        _ => serde_json::from_slice(of.bytes()).map_err(drop),
    }
}

fn text(of: Json<'_>) -> Result<String, ()> {
    of.text(usize::MAX).map_err(drop)
}

pub fn json_text(data: &[u8]) {
    let ours = Json::strict(data);
    let theirs = serde_json::from_slice::<serde_json::Value>(data).ok();
    match (&ours, theirs) {
        // Halves of UTF-16 pairs and numbers beyond f64 are refused where they are asked for.
        (Ok(json), theirs) => assert_eq!(tree(*json).ok(), theirs),
        (Err(Broken::Deep), _) => {}
        (Err(why), Some(_)) => panic!("serde_json reads it, this does not: {why}"),
        (Err(_), None) => {}
    }
    if let Ok(json) = Json::outline(data) {
        let short = json.beginning(7);
        assert!(short.is_none_or(|short| short.len() <= 7));
        assert!(json.number().is_none_or(f64::is_finite));
        let _ = (json.fields(["a", "b"]), json.whole(), json.count(), json.is("a"), tree(json));
    }
    // What scripts print becomes JSON that says the same, without a NUL.
    let mut written = Vec::new();
    json::string(&mut written, data);
    let read: String = serde_json::from_slice(&written).expect("always JSON");
    assert_eq!(read, String::from_utf8_lossy(data).replace('\0', "\u{fffd}"));
    if let Ok(json) = ours {
        let sound = json::sound_text(String::from_utf8_lossy(json.bytes()).into_owned());
        assert!(
            tree(Json::strict(sound.as_bytes()).expect("still JSON")).is_ok_and(|tree| !has_nul(&tree))
                || has_huge(json)
        );
    }
}

fn has_nul(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether a number stands in it that no f64 holds.
fn has_huge(of: Json<'_>) -> bool {
    match of.sort() {
        "a number" => of.number().is_none(),
        "an array" => of.items().into_iter().flatten().flatten().any(has_huge),
        "an object" => of.members().into_iter().flatten().flatten().any(|(_, value)| has_huge(value)),
        _ => false,
    }
}

pub fn ssh_kexinit(data: &[u8]) {
    let mut dice = Dice(data);
    let cut = dice.below(1 << 16);
    let all = dice.0;
    let (whole, part) = (kexinit::read(all), kexinit::read(&all[..cut.min(all.len())]));
    assert!(part == Greeting::Partial || part == whole, "what is known of a beginning changed with what followed");
    if let Greeting::Offer(offer) = &whole {
        let lists = [&offer.kex, &offer.host_keys].into_iter().chain(&offer.ciphers).chain(&offer.macs);
        let printable = |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(lists.chain(&offer.compression).flatten().all(printable));
    }
    assert!(kexinit::words(all).bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
}

pub fn x509_certificate(data: &[u8]) {
    let mut dice = Dice(data);
    let cut = dice.below(1 << 16);
    let all = dice.0;
    let (whole, part) = (x509::parse(all), x509::parse(&all[..cut.min(all.len())]));
    // Its length stands at its start: what follows it is nothing to it.
    assert!(part.is_none() || part == whole);
}

pub fn times(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(at) = time::parse_rfc3339(&text) {
        assert!(at >= SystemTime::UNIX_EPOCH);
        let written = time::rfc3339(at, 9);
        let again = time::parse_rfc3339(&written).expect("what is written is read");
        assert!(again == at || written.starts_with("9999-12-31T23:59:59"), "{written}");
    }
    if let Some(at) = time::parse_http_date(&text) {
        assert!(time::parse_rfc3339(&time::rfc3339(at, 0)) == Some(at));
    }
}

pub fn host_patterns(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (entry, host) = text.split_once('\n').unwrap_or((&text, "a.example"));
    let Ok(pattern) = hosts::Pattern::parse(entry) else { return };
    let _ = pattern.names(host);
    // An address that is an entry is covered by it.
    if let Ok(address) = entry.parse::<std::net::IpAddr>() {
        assert!(pattern.covers(address), "{entry}");
    }
}
