//! Docker's attach stream: stdout and stderr of a container in one connection, cut into frames.
//!
//! A frame is `{stream, 0, 0, 0, length as 4 bytes big-endian}` and then `length` bytes of payload (Docker's API reference,
//! "Attach to a container"). Payload is handed on as it arrives and never gathered here: another decoder makes lines, and a
//! frame that announces 16 MiB must not cost 16 MiB.

use std::fmt;

use crate::job::Stream;
use crate::limits::FRAME_PAYLOAD_MAX;

const HEADER: usize = 8;

/// Why the bytes are no attach stream. The decoder stays in error once it gave one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The first byte of a header names no known stream.
    UnknownStream(u8),
    /// Bytes 1 to 3 of a header are not zero.
    Padding([u8; 3]),
    /// A header announces more than [`FRAME_PAYLOAD_MAX`] bytes.
    TooLong(u32),
    /// The stream ended inside a header, this many bytes before its end.
    EndInHeader {
        /// Bytes that were still to come.
        missing: usize,
    },
    /// The stream ended inside a payload, this many bytes before its end.
    EndInPayload {
        /// Bytes that were still to come.
        missing: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownStream(byte) => {
                write!(
                    f,
                    "attach stream: a frame names stream {byte}, known are 0 to 3; does the container have a tty?"
                )
            }
            Self::Padding(bytes) => {
                write!(f, "attach stream: bytes 1 to 3 of a frame's header are {bytes:?} and must be zero")
            }
            Self::TooLong(length) => {
                write!(f, "attach stream: a frame announces {length} bytes, at most {FRAME_PAYLOAD_MAX} are believed")
            }
            Self::EndInHeader { missing } => {
                write!(f, "attach stream: ended inside a frame's header, {missing} bytes before its end")
            }
            Self::EndInPayload { missing } => {
                write!(f, "attach stream: ended inside a frame's payload, {missing} bytes before its end")
            }
        }
    }
}

impl std::error::Error for FrameError {}

#[derive(Debug)]
enum State {
    Header { bytes: [u8; HEADER], filled: usize },
    Payload { stream: Stream, left: u32 },
    Failed(FrameError),
}

const START: State = State::Header { bytes: [0; HEADER], filled: 0 };

/// Takes the stream in pieces of any size and hands on payload in pieces of any size.
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
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self { state: START }
    }

    /// Decodes all of `input`. `sink` gets non-empty pieces of payload in their order; those before an error included.
    pub fn feed(&mut self, mut input: &[u8], sink: &mut dyn FnMut(Stream, &[u8])) -> Result<(), FrameError> {
        loop {
            match &mut self.state {
                State::Failed(error) => return Err(*error),
                _ if input.is_empty() => return Ok(()),
                State::Header { bytes, filled } => {
                    let (now, rest) = input.split_at(input.len().min(HEADER - *filled));
                    bytes[*filled..*filled + now.len()].copy_from_slice(now);
                    *filled += now.len();
                    input = rest;
                    if *filled == HEADER {
                        self.state = after_header(*bytes);
                    }
                }
                State::Payload { stream, left } => {
                    let take = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let (now, rest) = input.split_at(take);
                    sink(*stream, now);
                    input = rest;
                    // `take` is at most `left`, so the conversion cannot fail.
                    *left -= u32::try_from(take).unwrap_or(*left);
                    if *left == 0 {
                        self.state = START;
                    }
                }
            }
        }
    }

    /// To be called at the end of the stream: an error when that is inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.state {
            State::Header { filled: 0, .. } => Ok(()),
            State::Header { filled, .. } => Err(FrameError::EndInHeader { missing: HEADER - filled }),
            State::Payload { left, .. } => Err(FrameError::EndInPayload { missing: left }),
            State::Failed(error) => Err(error),
        }
    }
}

fn after_header([byte, p1, p2, p3, length @ ..]: [u8; HEADER]) -> State {
    let stream = match byte {
        0 | 1 => Stream::Stdout,
        2 => Stream::Stderr,
        3 => Stream::System,
        other => return State::Failed(FrameError::UnknownStream(other)),
    };
    if [p1, p2, p3] != [0; 3] {
        return State::Failed(FrameError::Padding([p1, p2, p3]));
    }
    match u32::from_be_bytes(length) {
        0 => START,
        left if left <= FRAME_PAYLOAD_MAX => State::Payload { stream, left },
        length => State::Failed(FrameError::TooLong(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Runs = Vec<(Stream, Vec<u8>)>;

    /// Feeds `pieces` and joins what arrives for the same stream in a row.
    fn decode(pieces: &[&[u8]]) -> (Runs, Result<(), FrameError>) {
        let (mut decoder, mut runs) = (Decoder::new(), Runs::new());
        for piece in pieces {
            let fed = decoder.feed(piece, &mut |stream, bytes| {
                assert!(!bytes.is_empty(), "the sink got an empty piece");
                match runs.last_mut() {
                    Some((last, run)) if *last == stream => run.extend_from_slice(bytes),
                    _ => runs.push((stream, bytes.to_vec())),
                }
            });
            if let Err(error) = fed {
                assert_eq!(decoder.finish(), Err(error));
                assert_eq!(decoder.feed(&[1], &mut |_, _| panic!("output after an error")), Err(error));
                return (runs, Err(error));
            }
        }
        (runs, decoder.finish())
    }

    /// Whole, byte by byte, and at every split: `input` gives `runs` and ends with `end`.
    fn check(input: &[u8], runs: &[(Stream, &[u8])], end: Result<(), FrameError>) {
        let runs: Runs = runs.iter().map(|(stream, bytes)| (*stream, bytes.to_vec())).collect();
        let expected = (runs, end);
        for at in 0..=input.len() {
            assert_eq!(decode(&[&input[..at], &input[at..]]), expected, "split at {at}");
        }
        assert_eq!(decode(&input.chunks(1).collect::<Vec<_>>()), expected, "byte by byte");
    }

    fn frame(stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
        [&[stream, 0, 0, 0], &length[..], payload].concat()
    }

    #[test]
    fn frames_of_every_stream() {
        check(b"", &[], Ok(()));
        check(&frame(1, b""), &[], Ok(()));
        check(&frame(1, b"hello\n"), &[(Stream::Stdout, b"hello\n")], Ok(()));
        let all =
            [frame(0, b"echo"), frame(2, b"err"), frame(1, b""), frame(3, b"\0\x01\0"), frame(1, &[7; 300])].concat();
        let runs: [(Stream, &[u8]); 4] = [
            (Stream::Stdout, b"echo"),
            (Stream::Stderr, b"err"),
            (Stream::System, b"\0\x01\0"),
            (Stream::Stdout, &[7; 300]),
        ];
        check(&all, &runs, Ok(()));
    }

    #[test]
    fn what_is_no_frame() {
        let ok: &[(Stream, &[u8])] = &[(Stream::Stdout, b"ok")];
        let after_ok = |bad: &[u8]| [&frame(1, b"ok")[..], bad].concat();
        check(&after_ok(b"HTTP/1.1"), ok, Err(FrameError::UnknownStream(b'H')));
        check(&after_ok(&[4, 0, 0, 0, 0, 0, 0, 1]), ok, Err(FrameError::UnknownStream(4)));
        check(&after_ok(&[1, 0, 9, 0, 0, 0, 0, 1]), ok, Err(FrameError::Padding([0, 9, 0])));
        check(&after_ok(&[1, 0, 0, 0, 1, 0, 0, 1]), ok, Err(FrameError::TooLong(FRAME_PAYLOAD_MAX + 1)));
        check(&after_ok(&[2, 0, 0, 0, 255, 255, 255, 255]), ok, Err(FrameError::TooLong(u32::MAX)));
        check(&after_ok(&[1, 0, 0]), ok, Err(FrameError::EndInHeader { missing: 5 }));
        check(&after_ok(&[1, 0, 0, 0, 1, 0, 0, 0]), ok, Err(FrameError::EndInPayload { missing: FRAME_PAYLOAD_MAX }));
        check(&frame(2, b"abcdef")[..10], &[(Stream::Stderr, b"ab")], Err(FrameError::EndInPayload { missing: 4 }));
    }

    #[test]
    fn random_frames_in_random_pieces_match_what_was_written() {
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed >> 33).expect("31 bits") % below
        };
        for round in 0..300 {
            let (mut input, mut runs) = (Vec::new(), Runs::new());
            for _ in 0..random(12) {
                let (byte, stream) =
                    [(0, Stream::Stdout), (1, Stream::Stdout), (2, Stream::Stderr), (3, Stream::System)][random(4)];
                let payload: Vec<u8> = (0..random(40)).map(|i| [0, 1, 2, b'x', b'\n'][(i + round) % 5]).collect();
                input.extend(frame(byte, &payload));
                match runs.last_mut() {
                    _ if payload.is_empty() => {}
                    Some((last, run)) if *last == stream => run.extend(payload),
                    _ => runs.push((stream, payload)),
                }
            }
            let (mut pieces, mut rest) = (Vec::new(), &input[..]);
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(1 + random(rest.len()).min(20));
                pieces.push(piece);
                rest = after;
            }
            assert_eq!(decode(&pieces), (runs, Ok(())), "round {round}");
        }
    }
}
