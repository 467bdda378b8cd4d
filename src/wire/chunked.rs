//! Bodies in chunks (RFC 9112 section 7.1), as Docker sends its pull progress and most JSON answers.
//!
//! As strict as [`super::http1`]: CRLF alone ends a line, a size is hex digits alone. Extensions and trailers mean
//! nothing to us and are skipped, up to a cap, so that a sender cannot keep us skipping for ever.

use std::fmt;

use crate::limits::{CHUNK_LINE_MAX, CHUNK_TRAILERS_MAX};

/// Why the bytes are no chunked body. The decoder stays in error once it gave one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// A size line starts with no hex digit, or has this byte where only a digit, `;`, blank or CRLF may be.
    Size(u8),
    /// A size does not fit into 64 bits.
    SizeOverflow,
    /// A size line is longer than [`CHUNK_LINE_MAX`].
    LineTooLong,
    /// Trailers are longer than [`CHUNK_TRAILERS_MAX`].
    TrailersTooLong,
    /// A chunk's data, a size line or a trailer does not end in CRLF but has this byte there.
    LineEnd(u8),
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("chunked body: ")?;
        match self {
            Self::Size(byte) => write!(f, "byte {byte:#04x} in a chunk's size, which must be hex digits"),
            Self::SizeOverflow => f.write_str("a chunk's size does not fit into 64 bits"),
            Self::LineTooLong => write!(f, "a chunk's size line is longer than {CHUNK_LINE_MAX} bytes"),
            Self::TrailersTooLong => write!(f, "trailers are longer than {CHUNK_TRAILERS_MAX} bytes"),
            Self::LineEnd(byte) => write!(f, "byte {byte:#04x} where a line's CRLF must be"),
        }
    }
}

impl std::error::Error for ChunkError {}

#[derive(Clone, Copy, Debug)]
enum State {
    /// In the digits of a size; `length` bytes of the line are read.
    Size {
        size: u64,
        length: usize,
    },
    /// Behind the digits, up to the carriage return.
    Extension {
        size: u64,
        length: usize,
    },
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// In a trailer line; `line` bytes of it and `total` of all are read.
    Trailer {
        line: usize,
        total: usize,
    },
    TrailerLf {
        line: usize,
        total: usize,
    },
    Done,
    Failed(ChunkError),
}

const START: State = State::Size { size: 0, length: 0 };

/// Takes the body in pieces of any size.
#[derive(Debug)]
pub struct Decoder {
    state: State,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the start of a body.
    pub fn new() -> Self {
        Self { state: START }
    }

    /// Appends the data in `input` to `out`; says how many bytes of `input` belong to the body. That is all of them until
    /// [`Self::is_done`]; what is behind the body is left to the caller.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, ChunkError> {
        let mut at = 0;
        while at < input.len() {
            match self.state {
                State::Done => break,
                State::Failed(error) => return Err(error),
                State::Data(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                    out.extend_from_slice(&input[at..at + take]);
                    at += take;
                    let left = left - take as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                }
                state => {
                    self.state = step(state, input[at]).unwrap_or_else(State::Failed);
                    // A byte that is wrong stays, so that the loop comes to the failure even at the end of the input.
                    at += usize::from(!matches!(self.state, State::Failed(_)));
                }
            }
        }
        Ok(at)
    }

    /// Whether the last chunk and the trailers are behind us. When the connection ends before, the body is cut short.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }
}

/// One byte of the framing.
fn step(state: State, byte: u8) -> Result<State, ChunkError> {
    Ok(match (state, byte) {
        (State::Size { size, length: 1.. } | State::Extension { size, .. }, b'\r') => State::SizeLf(size),
        (State::Size { length: CHUNK_LINE_MAX, .. } | State::Extension { length: CHUNK_LINE_MAX, .. }, _) => {
            return Err(ChunkError::LineTooLong);
        }
        (State::Size { size, length }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
            let digit = u64::from(if byte.is_ascii_digit() { byte - b'0' } else { (byte | 0x20) - b'a' + 10 });
            let size = size.checked_mul(16).ok_or(ChunkError::SizeOverflow)? | digit;
            State::Size { size, length: length + 1 }
        }
        (State::Size { length: 0, .. }, _) => return Err(ChunkError::Size(byte)),
        (State::Size { size, length }, b';' | b' ' | b'\t') => State::Extension { size, length: length + 1 },
        (State::Size { .. }, _) => return Err(ChunkError::Size(byte)),
        (State::Extension { size, length }, _) if byte != b'\n' => State::Extension { size, length: length + 1 },
        (State::SizeLf(0), b'\n') => State::Trailer { line: 0, total: 0 },
        (State::SizeLf(size), b'\n') => State::Data(size),
        (State::DataCr, b'\r') => State::DataLf,
        (State::DataLf, b'\n') => START,
        (State::Trailer { line, total }, b'\r') => State::TrailerLf { line, total },
        (State::TrailerLf { line: 0, .. }, b'\n') => State::Done,
        (State::TrailerLf { total, .. }, b'\n') => State::Trailer { line: 0, total },
        (State::Trailer { total: CHUNK_TRAILERS_MAX, .. }, _) => return Err(ChunkError::TrailersTooLong),
        (State::Trailer { line, total }, _) if byte != b'\n' => State::Trailer { line: line + 1, total: total + 1 },
        _ => return Err(ChunkError::LineEnd(byte)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data, bytes consumed and whether done; or the error and the data before it.
    type Outcome = (Vec<u8>, Result<(usize, bool), ChunkError>);

    fn decode(pieces: &[&[u8]]) -> Outcome {
        let (mut decoder, mut out, mut used) = (Decoder::new(), Vec::new(), 0);
        for piece in pieces {
            match decoder.decode(piece, &mut out) {
                Ok(now) => {
                    assert!(now == piece.len() || decoder.is_done(), "input left over before the end");
                    used += now;
                }
                Err(error) => {
                    assert_eq!(decoder.decode(b"0\r\n\r\n", &mut out), Err(error));
                    assert!(!decoder.is_done());
                    return (out, Err(error));
                }
            }
        }
        (out, Ok((used, decoder.is_done())))
    }

    /// Whole, byte by byte, and at every split.
    fn check(input: &[u8], data: &[u8], end: Result<(usize, bool), ChunkError>) {
        let expected = (data.to_vec(), end);
        for at in 0..=input.len() {
            assert_eq!(decode(&[&input[..at], &input[at..]]), expected, "split at {at} of {:?}", input.escape_ascii());
        }
        assert_eq!(decode(&input.chunks(1).collect::<Vec<_>>()), expected, "byte by byte");
    }

    #[test]
    fn bodies() {
        for (input, data) in [
            ("0\r\n\r\n", ""),
            ("5\r\nhello\r\n0\r\n\r\n", "hello"),
            ("005\r\nhello\r\n1\r\n\n\r\n000\r\n\r\n", "hello\n"),
            ("a\r\n0123456789\r\nA\r\n0\r\n\r\n56789\r\n0\r\n\r\n", "01234567890\r\n\r\n56789"),
            ("1;name=\"v;\"\r\nx\r\n1 \t;a\r\ny\r\n0;last\r\nA: b\r\nC:\r\n\r\n", "xy"),
        ] {
            check(input.as_bytes(), data.as_bytes(), Ok((input.len(), true)));
            check(format!("{input}HTTP/1.1 ").as_bytes(), data.as_bytes(), Ok((input.len(), true)));
        }
    }

    #[test]
    fn cut_short() {
        let whole = b"3;x\r\nabc\r\n0\r\nT: u\r\n\r\n";
        for end in 0..whole.len() {
            check(&whole[..end], &b"abc"[..end.saturating_sub(5).min(3)], Ok((end, false)));
        }
        check(b"FFFFFFFFFFFFFFFF\r\nabc", b"abc", Ok((21, false)));
    }

    #[cfg_attr(miri, ignore = "megabytes take Miri hours")]
    #[test]
    fn what_is_no_chunk() {
        let long = |count| "x".repeat(count);
        for (input, data, error) in [
            ("\r\n", "", ChunkError::Size(b'\r')),
            ("+5\r\nhello", "", ChunkError::Size(b'+')),
            ("0x5\r\n", "", ChunkError::Size(b'x')),
            ("-1\r\n", "", ChunkError::Size(b'-')),
            (" 5\r\n", "", ChunkError::Size(b' ')),
            (";a\r\n", "", ChunkError::Size(b';')),
            ("5g\r\n", "", ChunkError::Size(b'g')),
            ("5\nhello", "", ChunkError::Size(b'\n')),
            ("5;a\nhello", "", ChunkError::LineEnd(b'\n')),
            ("5\rhello", "", ChunkError::LineEnd(b'h')),
            ("10000000000000000\r\n", "", ChunkError::SizeOverflow),
            ("2\r\nabc\r\n", "ab", ChunkError::LineEnd(b'c')),
            ("2\r\nab\n", "ab", ChunkError::LineEnd(b'\n')),
            ("2\r\nab\rx", "ab", ChunkError::LineEnd(b'x')),
            ("0\r\n\n", "", ChunkError::LineEnd(b'\n')),
            ("0\r\nA: b\n", "", ChunkError::LineEnd(b'\n')),
            ("0\r\nA\rb", "", ChunkError::LineEnd(b'b')),
            (
                &format!("1;{}\r\nx\r\n1;{}", long(CHUNK_LINE_MAX - 2), long(CHUNK_LINE_MAX)),
                "x",
                ChunkError::LineTooLong,
            ),
            (&"0".repeat(CHUNK_LINE_MAX + 1), "", ChunkError::LineTooLong),
        ] {
            check(input.as_bytes(), data.as_bytes(), Err(error));
        }
    }

    #[cfg_attr(miri, ignore = "megabytes take Miri hours")]
    #[test]
    fn trailers_have_a_cap() {
        let line = format!("{}\r\n", "t".repeat(CHUNK_TRAILERS_MAX / 4));
        let fits = format!("0\r\n{}\r\n", line.repeat(4));
        assert_eq!(decode(&[fits.as_bytes()]), (vec![], Ok((fits.len(), true))));
        let more = format!("0\r\n{}t", line.repeat(4));
        assert_eq!(decode(&[more.as_bytes()]), (vec![], Err(ChunkError::TrailersTooLong)));
        assert_eq!(decode(&more.as_bytes().chunks(1).collect::<Vec<_>>()).1, Err(ChunkError::TrailersTooLong));
    }
}
