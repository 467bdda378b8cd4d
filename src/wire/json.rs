//! JSON strings from bytes that a script printed, written straight into a buffer.
//!
//! The live log writes up to hundreds of thousands of lines a second: a value tree a line would cost more than the rest
//! of the path. What comes out is always valid JSON, whatever went in, and holds no `\u0000`, which the backend's
//! database refuses.

/// U+FFFD, written for NUL and for bytes that are no UTF-8.
const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();

/// Appends `bytes` as a JSON string with its quotes. Invalid UTF-8 becomes U+FFFD as `String::from_utf8_lossy` does it.
pub fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    if std::str::from_utf8(bytes).is_ok() {
        escape(out, bytes);
    } else {
        for chunk in bytes.utf8_chunks() {
            escape(out, chunk.valid().as_bytes());
            if !chunk.invalid().is_empty() {
                out.extend_from_slice(REPLACEMENT);
            }
        }
    }
    out.push(b'"');
}

/// JSON in which each `\\u0000`, and each half of a UTF-16 pair that stands alone, is `\\ufffd`: a database takes neither.
pub fn sound_text(json: String) -> String {
    let mut bytes = json.into_bytes();
    let unit = |bytes: &[u8], at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|&byte| byte == b'\\') {
        at += found;
        let pair = (unit(&bytes, at), unit(&bytes, at + 6));
        at += match pair {
            (Some(0xD800..0xDC00), Some(0xDC00..0xE000)) => 12,
            (Some(0 | 0xD800..0xE000), _) => {
                bytes[at + 2..at + 6].copy_from_slice(b"fffd");
                6
            }
            // The character after a backslash belongs to it, whatever it is.
            _ => 2,
        };
        at = at.min(bytes.len());
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// Appends `n` in decimal.
pub fn number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789"[usize::try_from(n % 10).unwrap_or(0)];
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends valid UTF-8 with what JSON forbids in a string escaped.
fn escape(out: &mut Vec<u8>, mut text: &[u8]) {
    out.reserve(text.len());
    loop {
        let clean = clean_prefix(text);
        out.extend_from_slice(&text[..clean]);
        let Some((&byte, rest)) = text[clean..].split_first() else { return };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0 => out.extend_from_slice(REPLACEMENT),
            _ => {
                out.extend_from_slice(b"\\u00");
                for nibble in [byte >> 4, byte & 15] {
                    out.push(b"0123456789abcdef"[usize::from(nibble)]);
                }
            }
        }
        text = rest;
    }
}

/// How many bytes at the start of `text` need no escape. Eight at a time: a byte is found by the borrow that the
/// subtraction leaves in its high bit. A borrow can also mark a clean byte above a dirty one, never the other way, and
/// the lowest mark, the only one used, is exact.
fn clean_prefix(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGH;
    let mut at = 0;
    while let Some(eight) = text.get(at..at + 8) {
        let word = u64::from_le_bytes(eight.try_into().unwrap_or_default());
        let quote = word ^ (ONES * u64::from(b'"'));
        let backslash = word ^ (ONES * u64::from(b'\\'));
        let dirty = below(word, 0x20) | below(quote, 1) | below(backslash, 1);
        if dirty != 0 {
            return at + dirty.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = &text[at..];
    at + rest.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\').unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::random::rounds;

    fn written(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        string(&mut out, bytes);
        String::from_utf8(out).expect("JSON text is UTF-8")
    }

    #[test]
    fn what_a_database_refuses_is_replaced_and_nothing_else() {
        for (json, want) in [
            (r#""a\u0000b""#, r#""a\ufffdb""#),
            (r#""\\u0000""#, r#""\\u0000""#),
            (r#""\ud83d\ude00 \ud83d \ude00 \ude00\ud83d""#, r#""\ud83d\ude00 \ufffd \ufffd \ufffd\ufffd""#),
            (r#""\uD83D\u0000""#, r#""\ufffd\ufffd""#),
            (r#"{"\n":"\"ü\u00e4"}"#, r#"{"\n":"\"ü\u00e4"}"#),
            ("7", "7"),
        ] {
            assert_eq!(sound_text(json.to_owned()), want);
            assert!(serde_json::from_str::<serde_json::Value>(want).is_ok(), "{want}");
        }
    }

    #[test]
    fn known_texts() {
        for (bytes, want) in [
            (&b""[..], r#""""#),
            (b"plain", r#""plain""#),
            (b"a\"b\\c", r#""a\"b\\c""#),
            (b"\x1b[31mred\t\r\n", r#""\u001b[31mred\t\r\n""#),
            (b"nul\0here", "\"nul\u{FFFD}here\""),
            (b"\x7f", "\"\x7f\""),
            ("grüße 🦀".as_bytes(), "\"grüße 🦀\""),
            (b"bad\xffbyte\xc3", "\"bad\u{FFFD}byte\u{FFFD}\""),
        ] {
            assert_eq!(written(bytes), want);
        }
    }

    #[test]
    fn every_byte_at_every_place_reads_back_as_what_it_was() {
        for byte in 0..=255u8 {
            for place in 0..18 {
                let mut bytes = *b"aaaaaaaaaaaaaaaaaa";
                bytes[place] = byte;
                let read: String = serde_json::from_str(&written(&bytes)).expect("valid JSON");
                assert_eq!(read, String::from_utf8_lossy(&bytes).replace('\0', "\u{FFFD}"), "{byte} at {place}");
            }
        }
    }

    #[test]
    fn random_bytes_always_make_valid_json() {
        let mut state = 1u64;
        for length in 0..rounds(2000) {
            let bytes: Vec<u8> = (0..length % 97)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    state.to_be_bytes()[0]
                })
                .collect();
            let read: String = serde_json::from_str(&written(&bytes)).expect("valid JSON");
            assert_eq!(read, String::from_utf8_lossy(&bytes).replace('\0', "\u{FFFD}"));
        }
    }

    #[test]
    fn numbers() {
        for n in [0, 1, 9, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, n);
            assert_eq!(out, n.to_string().as_bytes());
        }
    }
}
