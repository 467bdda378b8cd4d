//! Every decoder with random input: it does no harm, and pieces give what the whole gives.

use super::kexinit::Greeting;
use super::random::{Random, rounds};
use super::{capture, chunked, frames, http1, kexinit, lines, x509};

const ROUNDS: usize = rounds(3000);

/// Parts of what the decoders read, and of what they must not.
const PARTS: [&[u8]; 32] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"0\r\n",
    b"5\r\nhello\r\n",
    b"ffffffffffffffff\r\n",
    b"1;a=b\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 101 X\r\n",
    b"GET / HTTP/1.1\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 18446744073709551616\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b" folded\r\n",
    b":",
    b"\x01\0\0\0\0\0\0\x03abc",
    b"\x02\0\0\0\xff\xff\xff\xff",
    b"\x03\0\0\0\0\0\0\0",
    b"SSH-2.0-x\r\n",
    b"SSH-",
    b"\0\0\0\x0c\x0a\x14",
    b"\x7f\xff\xff\xff",
    b"\x30\x82\x01\x00",
    b"\x30\x80",
    b"\x02\x01\x01",
    "ä".as_bytes(),
    "€".as_bytes(),
    "😀".as_bytes(),
    b"word",
    b"\x80\xbf",
];

/// Random input, its pieces, and it up to a random place.
fn each(seed: u64, act: impl Fn(&[u8], &[&[u8]], &[u8])) {
    let mut random = Random::new(seed);
    for _ in 0..ROUNDS {
        let mut input = random.text(&PARTS, 12);
        if random.below(3) == 0 && !input.is_empty() {
            let at = random.below(input.len());
            input[at] = u8::try_from(random.below(256)).expect("a byte");
        }
        let cut = random.below(input.len() + 1);
        let pieces = random.pieces(&input);
        act(&input, &pieces, &input[..cut]);
    }
}

#[test]
fn frames_in_pieces() {
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
    each(21, |input, pieces, _| assert_eq!(read(pieces), read(&[input]), "{}", input.escape_ascii()));
}

#[test]
fn chunks_in_pieces() {
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
    each(22, |input, pieces, _| {
        let (out, used, done) = read(&[input]);
        assert_eq!(read(pieces), (out.clone(), used, done), "{}", input.escape_ascii());
        assert!(out.len() <= input.len());
    });
}

#[test]
fn heads_as_they_grow() {
    each(23, |input, _, begun| {
        let (whole, part) = (http1::parse_response(input), http1::parse_response(begun));
        // What is known of the beginning does not change with what follows.
        assert!(matches!(part, Ok(None)) || part == whole, "{} {}", input.escape_ascii(), begun.len());
        if let Ok(Some((head, used))) = whole {
            assert!(used <= input.len());
            let _ = http1::response_body(&head, false);
        }
    });
}

#[test]
fn offers_as_they_grow() {
    each(24, |input, _, begun| {
        let (whole, part) = (kexinit::read(input), kexinit::read(begun));
        assert!(part == Greeting::Partial || part == whole, "{} {}", input.escape_ascii(), begun.len());
    });
}

#[test]
fn lines_and_captures_in_pieces() {
    let split = |pieces: &[&[u8]], most| {
        let (mut splitter, mut out) = (lines::Splitter::new(most), Vec::new());
        let mut sink = |line: lines::Line<'_>| match line {
            lines::Line::Whole(line) => out.push((line.to_vec(), 0)),
            lines::Line::Cut { kept, dropped } | lines::Line::Last { kept, dropped } => {
                out.push((kept.to_vec(), dropped));
            }
        };
        pieces.iter().for_each(|piece| splitter.feed(piece, &mut sink));
        splitter.finish(&mut sink);
        out
    };
    let keep = |pieces: &[&[u8]], most| {
        let mut capture = capture::Capture::new(most);
        pieces.iter().for_each(|piece| capture.push(piece));
        capture.into_text()
    };
    each(25, |input, pieces, begun| {
        let most = begun.len();
        assert_eq!(split(pieces, most), split(&[input], most), "{} {most}", input.escape_ascii());
        let total: u64 = split(pieces, most).iter().map(|(kept, dropped)| kept.len() as u64 + dropped).sum();
        let ends = lines::newlines(input);
        assert!(total <= input.len() as u64 - ends, "{}", input.escape_ascii());
        assert_eq!(keep(pieces, most), keep(&[input], most), "{} {most}", input.escape_ascii());
    });
}

#[test]
fn certificates_do_no_harm() {
    each(26, |input, _, begun| {
        let _ = (x509::parse(input), x509::parse(begun));
    });
}
