//! What holds for the search for secrets, whatever they are and however a script prints them. See [`crate::fuzzing`].

use super::*;
use crate::wire::fuzz::Dice;

/// Each byte that a needle covers is marked; so is an unfinished one at the end.
pub(super) fn model(needles: &[Vec<u8>], text: &[u8]) -> Vec<u8> {
    let mut covered = vec![false; text.len()];
    for at in 0..text.len() {
        for needle in needles {
            let rest = &text[at..];
            let unfinished = rest.len() >= limits::REDACT_SHORTEST && needle.starts_with(rest);
            if rest.starts_with(needle) || unfinished {
                covered[at..(at + needle.len()).min(text.len())].fill(true);
            }
        }
    }
    let mut out = Vec::new();
    for (at, &byte) in text.iter().enumerate() {
        match covered[at] {
            false => out.push(byte),
            true if at > 0 && covered[at - 1] => {}
            true => out.extend_from_slice(MARK.as_bytes()),
        }
    }
    out
}

/// Up to four secrets of at most 48 bytes.
fn values(dice: &mut Dice<'_>) -> Vec<Secret> {
    let count = 1 + dice.below(4);
    let one = |dice: &mut Dice<'_>| {
        let length = dice.below(48).min(dice.0.len());
        let (value, rest) = dice.0.split_at(length);
        dice.0 = rest;
        Secret::new(String::from_utf8_lossy(value).into_owned())
    };
    (0..count).map(|_| one(dice)).collect()
}

/// What a script prints: bytes, and after 0xfN a spelling or the beginning of one.
fn printed(data: &[u8], needles: &[Vec<u8>]) -> Vec<u8> {
    let mut dice = Dice(data);
    let mut text = Vec::new();
    // Each step takes a byte or more, and adds a needle at most so often that the text stays a multiple of the input.
    while !dice.0.is_empty() {
        match dice.byte() {
            byte @ 0xf0..=0xff if !needles.is_empty() => {
                let needle = &needles[dice.below(needles.len())];
                let length = if byte < 0xf8 { needle.len() } else { dice.below(needle.len() + 1) };
                text.extend_from_slice(&needle[..length]);
            }
            byte => text.push(byte),
        }
    }
    text
}

fn through(redactor: &Redactor, pieces: &[&[u8]], with_pauses: bool) -> Vec<u8> {
    let (mut stream, mut out, mut stood_for) = (redactor.stream(), Vec::new(), 0);
    let sink: Sink<'_> = &mut |bytes, raw| {
        out.extend_from_slice(bytes);
        stood_for += raw;
    };
    for piece in pieces {
        stream.feed(piece, sink);
        if with_pauses {
            stream.pause(sink);
        }
    }
    stream.finish(sink);
    assert_eq!(stood_for, pieces.iter().map(|piece| piece.len()).sum::<usize>(), "bytes that stand for nothing");
    out
}

/// No needle stands in a part between two marks.
fn holds_none(what: &str, out: &[u8], needles: &[Vec<u8>]) {
    let mut parts = vec![Vec::new()];
    let mut at = 0;
    while at < out.len() {
        if out[at..].starts_with(MARK.as_bytes()) {
            parts.push(Vec::new());
            at += MARK.len();
        } else {
            parts.last_mut().expect("one at least").push(out[at]);
            at += 1;
        }
    }
    for needle in needles {
        let is_in = |part: &Vec<u8>| part.windows(needle.len()).any(|window| window == needle);
        assert!(!parts.iter().any(is_in), "{what}: {:?} left", String::from_utf8_lossy(needle));
    }
}

pub fn redacted_output(data: &[u8]) {
    let mut dice = Dice(data);
    let values = values(&mut dice);
    let redactor = Redactor::default();
    redactor.add(&values);
    let fit: Vec<&str> = values.iter().filter_map(|value| needles::fit(value.expose()).ok()).collect();
    let (needles, whole) = needles::of(&fit);
    assert!(whole, "four short values fit");
    let lengths = dice.lengths();
    let text = printed(dice.0, &needles);
    let got = through(&redactor, &[&text], false);
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(shown(&got), shown(&model(&needles, &text)), "the model says otherwise");
    let pieces = crate::wire::fuzz::pieces(&text, lengths);
    assert_eq!(got, through(&redactor, &pieces, false), "where it is cut decides");
    holds_none("a stream", &got, &needles);
    holds_none("a stream with pauses", &through(&redactor, &pieces, true), &needles);
    let text = String::from_utf8_lossy(&text);
    holds_none("a text", redactor.text(&text).as_bytes(), &needles);
    let json = redactor.json(&serde_json::json!({ "a": [text] }).to_string());
    let inner: serde_json::Value = serde_json::from_str(&json).expect("it stays JSON");
    holds_none("JSON", inner["a"][0].as_str().unwrap_or_default().as_bytes(), &needles);
}
