//! Where lines go: stdout, or the rotating file. One lock, one write a line.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::rotate::Rotating;
use crate::os::proc::stdout_is_stream;
use crate::wire::time::rfc3339;

/// The place that all lines go to, shared by clones.
#[derive(Clone)]
pub(super) struct Sink(Arc<Mutex<Place>>);

pub(super) enum Place {
    Stdout,
    File(Rotating),
    #[cfg(test)]
    Memory(Vec<u8>),
}

impl Sink {
    pub(super) fn new(place: Place) -> Self {
        Self(Arc::new(Mutex::new(place)))
    }

    /// Writes one whole line. Blocks while a reader of stdout takes nothing; a stdout that is gone is no error.
    pub(super) fn line(&self, line: &[u8]) {
        match &mut *self.lock() {
            Place::Stdout => {
                let mut out = io::stdout().lock();
                let _ = out.write_all(line).and_then(|()| out.flush());
            }
            Place::File(file) => file.line(line, Instant::now()),
            #[cfg(test)]
            Place::Memory(bytes) => bytes.extend_from_slice(line),
        }
    }

    pub(super) fn reopen(&self) {
        if let Place::File(file) = &mut *self.lock() {
            file.reopen(Instant::now());
        }
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        match &*self.lock() {
            Place::Memory(bytes) => String::from_utf8(bytes.clone()).expect("utf-8"),
            _ => String::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands in front of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lead {
    /// The time.
    Time,
    /// The level in systemd's digits: its journal takes them off again, and has the time by itself.
    Level,
}

impl Lead {
    /// For stdout: what its reader needs.
    pub(super) fn of_stdout() -> Self {
        let stream = std::env::var("JOURNAL_STREAM").ok();
        if stream.is_some_and(|stream| stdout_is_stream(&stream)) { Self::Level } else { Self::Time }
    }

    fn write(self, line: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Time => {
                out.extend_from_slice(rfc3339(SystemTime::now(), 3).as_bytes());
                out.push(b' ');
            }
            Self::Level => out.extend_from_slice(match line {
                [b'[', b'E', ..] => b"<3>",
                [b'[', b'W', ..] => b"<4>",
                [b'[', b'I', ..] => b"<6>",
                _ => b"<7>",
            }),
        }
    }
}

/// Gathers what simplelog writes in pieces into whole lines, each with its lead.
pub(super) struct Lines {
    sink: Sink,
    lead: Lead,
    line: Vec<u8>,
}

impl Lines {
    pub(super) fn new(sink: Sink, lead: Lead) -> Self {
        Self { sink, lead, line: Vec::new() }
    }
}

impl Write for Lines {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        // A message holds no newline and is bounded, so the buffer is.
        self.line.extend_from_slice(piece);
        if self.line.ends_with(b"\n") {
            let mut whole = Vec::new();
            self.lead.write(&self.line, &mut whole);
            whole.append(&mut self.line);
            self.sink.line(&whole);
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
