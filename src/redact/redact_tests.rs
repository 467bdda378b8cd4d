//! All of it together: any needles, any text, any cuts.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use super::fuzz::model;
use super::*;
use crate::wire::random::Random;

fn knowing(values: &[&str]) -> Redactor {
    let redactor = Redactor::default();
    let values: Vec<Secret> = values.iter().map(|value| Secret::new(*value)).collect();
    redactor.add(&values);
    redactor
}

/// All that goes on, which must stand for all that came.
fn through(redactor: &Redactor, pieces: &[&[u8]]) -> Vec<u8> {
    let (mut stream, mut out, mut stood_for) = (redactor.stream(), Vec::new(), 0);
    let sink: Sink<'_> = &mut |bytes, raw| {
        out.extend_from_slice(bytes);
        stood_for += raw;
    };
    pieces.iter().for_each(|piece| stream.feed(piece, sink));
    stream.finish(sink);
    assert_eq!(stood_for, pieces.iter().map(|piece| piece.len()).sum::<usize>());
    out
}

fn random_values(random: &mut Random) -> Vec<String> {
    let alphabet: &[&[u8]] =
        &[b"ab", b"a", b"b", b"\n", b"'", b"\"", b"$", b" ", b"/", "ö".as_bytes(), b"s3cret", b"Z9"];
    let count = 1 + random.below(4);
    let values = (0..count).map(|_| String::from_utf8(random.text(alphabet, 12)).expect("text"));
    values.filter(|value| needles::fit(value).is_ok()).collect()
}

/// Some way in which a script may print a value.
fn printed(random: &mut Random, value: &str) -> Vec<u8> {
    let before = ["", "u", "us", "user:"][random.below(4)];
    match random.below(9) {
        0 => value.replace('\n', "\r\n").into_bytes(),
        1 => STANDARD.encode(format!("{before}{value}")).into_bytes(),
        2 => URL_SAFE.encode(format!("{before}{value}")).into_bytes(),
        3 => serde_json::to_vec(value).expect("JSON"),
        4 => value.bytes().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect(),
        5 => value.bytes().flat_map(|byte| format!("%{byte:02X}").into_bytes()).collect(),
        6 => format!("'{}'", value.replace('\'', "'\\''")).into_bytes(),
        7 => format!("{value}{value}").into_bytes(),
        _ => value.as_bytes().to_vec(),
    }
}

#[test]
fn no_needle_leaves_and_all_else_goes_on_byte_for_byte_however_it_is_cut() {
    let mut random = Random::new(18);
    for round in 0..1500 {
        let values = random_values(&mut random);
        let redactor = knowing(&values.iter().map(String::as_str).collect::<Vec<_>>());
        let fit: Vec<&str> = values.iter().filter_map(|value| needles::fit(value).ok()).collect();
        let (needles, whole) = needles::of(&fit);
        assert!(whole);
        let (mut text, filling): (_, &[&[u8]]) =
            (Vec::new(), &[b"ab", b"x", b"\n", b" ", b"s3cre", b"61", b"%61", b"YWI"]);
        for _ in 0..random.below(8) {
            text.extend(random.text(filling, 10));
            if !values.is_empty() {
                let value = random.one(&values).clone();
                text.extend(printed(&mut random, &value));
            }
        }
        let want = model(&needles, &text);
        let pieces = random.pieces(&text);
        let got = through(&redactor, &pieces);
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(shown(&got), shown(&want), "round {round}, {values:?}, {:?}", shown(&text));
        let each: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(through(&redactor, &each), want, "round {round}, byte by byte");
        assert_eq!(through(&redactor, &[&text]), want, "round {round}, at once");
        for needle in &needles {
            assert!(!got.windows(needle.len()).any(|part| part == needle), "round {round}: {:?} left", shown(needle));
        }
    }
}

#[test]
fn the_longest_wins_and_what_overlaps_or_touches_is_one() {
    for (values, text, want) in [
        (&["secret-one", "secret-one-two"][..], "a secret-one-two b secret-one- c", "a [redacted] b [redacted]- c"),
        (&["abcdefgh", "efghijkl"], "xabcdefghijklx", "x[redacted]x"),
        (&["s3cret-value"], "s3cret-values3cret-value,s3cret-value", "[redacted],[redacted]"),
        (&["aaaaaa"], "aaaaaaaaaaaaab", "[redacted]b"),
        (
            &["line-one\nline-two\nxy"],
            "line-two\nline-one\r\nline-two\nxy\n",
            "[redacted]\n[redacted]\r\n[redacted]\nxy\n",
        ),
        (&["line-one\nline-two\nxy"], "=line-one\nline-two\nxy\n", "=[redacted]\n"),
        (&["short", "production"], "short production", "short production"),
    ] {
        assert_eq!(knowing(values).text(text), want, "{text:?}");
    }
}

#[test]
fn a_pause_within_a_secret_shows_neither_half() {
    let redactor = knowing(&["s3cret-value"]);
    for split in 0.."s3cret-value".len() {
        let (mut stream, mut out) = (redactor.stream(), String::new());
        let sink: Sink<'_> = &mut |bytes, _| out.push_str(std::str::from_utf8(bytes).expect("text"));
        stream.feed(b"pass: ", sink);
        let (first, second) = "s3cret-value".split_at(split);
        stream.feed(first.as_bytes(), sink);
        stream.pause(sink);
        stream.pause(sink);
        assert_eq!(stream.is_waiting(), (3..6).contains(&split), "split at {split}");
        stream.feed(second.as_bytes(), sink);
        stream.feed(b" done", sink);
        stream.finish(sink);
        let shown = if split > limits::REDACT_SHOWN { "" } else { first };
        assert_eq!(out, format!("pass: {shown}[redacted] done"), "split at {split}");
    }
    // A pause in what only begins like one: what came before the pause stays covered.
    for (first, second, want) in [("s3cr", "eam", "s3cream"), ("s3cret-", "ion", "[redacted]ion")] {
        let (mut stream, mut out) = (redactor.stream(), String::new());
        let sink: Sink<'_> = &mut |bytes, _| out.push_str(std::str::from_utf8(bytes).expect("text"));
        stream.feed(first.as_bytes(), sink);
        stream.pause(sink);
        stream.feed(second.as_bytes(), sink);
        stream.finish(sink);
        assert_eq!(out, want);
    }
}

#[test]
fn a_value_that_is_added_counts_from_then_on_and_for_what_waits() {
    let redactor = knowing(&["first-secret"]);
    let (mut stream, mut out) = (redactor.stream(), String::new());
    let sink: Sink<'_> = &mut |bytes, _| out.push_str(std::str::from_utf8(bytes).expect("text"));
    stream.feed(b"second-one first-", sink);
    assert_eq!(redactor.add(&[Secret::new("first-hit"), Secret::new("second-one"), Secret::new("abc")]).short, 1);
    stream.feed(b"hit second-one", sink);
    stream.finish(sink);
    assert_eq!(out, "second-one [redacted] [redacted]");
    let mut late = Redactor::default().stream();
    late.feed(b"none", &mut |bytes, _| assert_eq!(bytes, b"none"));
}

#[test]
fn a_lost_beginning_hides_the_rest_of_its_line_and_a_blind_one_hides_all() {
    let redactor = knowing(&["s3cret-value"]);
    let (mut stream, mut out) = (redactor.stream(), String::new());
    let sink: Sink<'_> = &mut |bytes, _| out.push_str(std::str::from_utf8(bytes).expect("text"));
    stream.feed(b"one s3", sink);
    stream.lose_place(sink);
    stream.feed(b"-va", sink);
    stream.feed(b"lue\nnext s3cret-value\n", sink);
    stream.finish(sink);
    assert_eq!(out, "one s3[redacted]\nnext [redacted]\n");

    let blind = Redactor::default();
    blind.go_blind();
    assert_eq!(through(&blind, &[b"a", b"b\n\nc", b"\r\n"]), b"[redacted]\n\n[redacted]\n");
    blind.add(&[Secret::new("known-value")]);
    assert_eq!(blind.text("a known-value"), "a [redacted]", "words of the agent");
    assert_eq!(blind.json("{\"a\":1}"), "\"[redacted]\"");
}

#[test]
fn a_list_over_its_cap_is_cut_and_told() {
    let values: Vec<Secret> = (0..limits::REDACT_VALUES + 5).map(|n| Secret::new(format!("value-{n:05}"))).collect();
    let redactor = Redactor::default();
    assert_eq!(redactor.add(&values), Left { over_count: 5, ..Left::default() });
    assert_eq!(redactor.text("value-00999 value-01000"), "[redacted] value-01000");
    assert_eq!(redactor.add(&[Secret::new("value-00001")]), Left::default(), "known already");
    let long = Secret::new("0123456789abcdef-".repeat(20_000));
    assert!(knowing(&["x"]).add([&long]).spellings);
}

#[test]
fn text_that_is_all_beginnings_costs_no_more_than_a_multiple_of_its_length() {
    let values: Vec<String> = (1..60).map(|n| format!("{}b", "a".repeat(n * 16))).collect();
    let redactor = knowing(&values.iter().map(String::as_str).collect::<Vec<_>>());
    let took = |bytes: usize| {
        let text = vec![b'a'; bytes];
        let begun = Instant::now();
        let (mut stream, mut out) = (redactor.stream(), 0);
        text.chunks(4096).for_each(|piece| stream.feed(piece, &mut |_, raw| out += raw));
        (begun.elapsed(), out)
    };
    let (short, _) = (0..3).map(|_| took(1 << 18)).min().expect("three");
    let (long, out) = took(1 << 21);
    assert!(out > (1 << 21) - 1000);
    assert!(long < short * 8 * 6, "{long:?} for eight times what took {short:?}");
}

#[test]
fn twenty_secrets_take_less_than_a_megabyte() {
    let values: Vec<String> = (0..20).map(|n| STANDARD.encode([n; 30])).collect();
    let redactor = knowing(&values.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(redactor.size() < 1 << 20, "{} bytes", redactor.size());
}
