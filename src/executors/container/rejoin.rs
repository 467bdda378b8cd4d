//! From the end of a container's stream to the end of the container, whatever the engine does meanwhile.
//!
//! A stream may end before its script: the engine was restarted and left the container running, or a connection broke.
//! Then the engine's own copy of the output is read: from its beginning, of which as much is passed over as had come, and
//! on to the container's end. An engine that is away is waited for as long as the job may run; its time limit and a
//! cancel hold meanwhile. An adopted container has no stream, and is read from the copy alone.
//!
//! The copy is capped and turns over: where its beginning is gone, the program's first word is missing, and the output is
//! told that its place in the copy is lost.

use std::sync::Arc;
use std::time::Duration;

use crate::docker::{Deadline, Error};
use crate::executors::container::run::{Base, Followed};
use crate::job::{Output, Stream};
use crate::limits;
use crate::wire::frames;

impl Base {
    /// Waits for the container's end and gives its exit code. Usually it has ended already: the end of the stream is the
    /// end of its first process.
    pub(in crate::executors::container) fn wait_for_end(
        &mut self,
        followed: &mut Followed,
        output: &mut dyn Output,
    ) -> Result<i64, Error> {
        // For an engine that answers, but not with the end of what does not run any more.
        let mut patience = None;
        let stopped = || Error::Stopped { doing: "wait for the container's end".to_owned() };
        loop {
            if self.control.is_left() {
                return Err(stopped());
            }
            if let Some(error) = followed.broke.take() {
                self.miss(followed, &error, output);
            }
            let looked = match followed.missed {
                true => self.fill(followed, &mut patience, output),
                false => self.wait_a_slice(followed),
            };
            let error = match looked {
                Ok(Some(code)) => return Ok(code),
                // It runs on, whatever was sent to end it.
                Ok(None) if self.control.is_given_up() => return Err(stopped()),
                Ok(None) => continue,
                Err(error) => error,
            };
            if self.control.is_given_up() || error.status() == Some(404) {
                return Err(error);
            }
            if is_away(&error) {
                // As long as the job may run: then it is given up.
                self.miss(followed, &error, output);
            } else if self.over(&mut patience) {
                return Err(error);
            }
            std::thread::sleep(limits::FOLLOW_TICK);
        }
    }

    /// The exit code, if the container ends within a slice of time.
    fn wait_a_slice(&mut self, followed: &mut Followed) -> Result<Option<i64>, Error> {
        let slice = Deadline::after(limits::WAIT_SLICE, "limits::WAIT_SLICE");
        match self.shared.docker.wait(self.container.id(), slice) {
            // The stream has ended and the script has not, or the engine says nothing at all.
            Err(Error::Timeout { .. }) if self.runs()? => {
                followed.missed = !followed.unreadable;
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// Whether the container runs.
    pub(in crate::executors::container) fn runs(&self) -> Result<bool, Error> {
        self.shared.docker.inspect(self.container.id(), false).map(|found| found.state.running)
    }

    /// Reads what was missed, to the end of a script that runs. What cannot be read for good is told.
    fn fill(
        &mut self,
        followed: &mut Followed,
        patience: &mut Option<Deadline>,
        output: &mut dyn Output,
    ) -> Result<Option<i64>, Error> {
        let running = self.runs()?;
        self.read_copy(followed, running, output);
        if let Some(error) = &followed.broke {
            if is_away(error) && (running || !self.over(patience)) {
                std::thread::sleep(limits::FOLLOW_TICK);
                return Ok(None);
            }
            log::warn!("{error}; going on without that output");
            output.system(&format!("the output was cut off, lines may be missing: {error}"));
            output.settle();
            followed.broke = None;
            // Told once: it would not be otherwise the next time.
            followed.unreadable = running;
        }
        Ok(None)
    }

    /// Whether the time of `jobs.cleanupTimeout`, which begins with the first call, is over.
    fn over(&self, patience: &mut Option<Deadline>) -> bool {
        let whole = || Deadline::after(self.shared.jobs.cleanup_timeout, "jobs.cleanupTimeout");
        patience.get_or_insert_with(whole).left().is_none()
    }

    /// The output has a hole from here on, which the copy will fill.
    fn miss(&self, followed: &mut Followed, error: &Error, output: &mut dyn Output) {
        if !followed.missed || followed.away.is_none() {
            log::warn!("{error}; going on with the engine's copy of the output");
            output.system(&format!("the engine's stream broke, going on with its copy of the output: {error}"));
            output.settle();
        }
        followed.missed = true;
        followed.away.get_or_insert_with(|| error.to_string());
    }

    /// Reads the copy, from which as much is passed over as had come; on to the container's end if `on`. Afterwards
    /// nothing is missed, unless it broke.
    pub(in crate::executors::container) fn read_copy(
        &mut self,
        followed: &mut Followed,
        on: bool,
        output: &mut dyn Output,
    ) {
        let (mut first, mut decoder) = (First::default(), frames::Decoder::new());
        let mut passed = Passed(followed.taken);
        let (base, control) = (&*self, Arc::clone(&self.control));
        let gone = || Error::Stopped { doing: "follow the container".to_owned() };
        let mut sink = |piece: &[u8]| {
            if control.is_left() || control.is_given_up() {
                return Err(gone());
            }
            let fed = decoder.feed(piece, &mut |stream, bytes| {
                if stream != Stream::Stderr {
                    first.other_came(bytes.len(), &mut passed, output);
                    let bytes = passed.over(stream, bytes);
                    followed.taken[0] += bytes.len() as u64;
                    return output.bytes(stream, bytes);
                }
                first.take(bytes, &mut passed, output, &mut |bytes, passed, output| {
                    let bytes = passed.over(stream, bytes);
                    followed.taken[1] += bytes.len() as u64;
                    followed.stderr.take(bytes, &base.nonce, &mut |bytes| output.bytes(stream, bytes));
                });
            });
            output.settle();
            fed.map_err(|error| base.nonsense(error.to_string()))
        };
        let id = self.container.id();
        let read = if on {
            // The end of its time limit ends the container, and with it this; after that the engine has had its time.
            let patience = self.copy_patience();
            self.shared.docker.follow_logs(id, Deadline::after(patience, "the job's time limit"), &mut sink)
        } else {
            self.shared.docker.logs(id, Deadline::after(limits::DOCKER_WORK, "limits::DOCKER_WORK"), &mut sink)
        };
        // A copy whose beginning is lost belongs to a script that printed a lot: it was started.
        followed.started |= first.nonce.is_some() || first.lost;
        followed.missed = false;
        followed.broke = read.err().filter(|error| !matches!(error, Error::Stopped { .. }));
        if let Some(nonce) = first.nonce {
            self.nonce = nonce;
        }
    }

    fn copy_patience(&self) -> Duration {
        self.timeout.0 + limits::KILL_PATIENCE * 2 + limits::DOCKER_WORK
    }
}

/// Whether the engine is out of reach, and not only of another opinion.
fn is_away(error: &Error) -> bool {
    matches!(error, Error::Connect { .. } | Error::Io { .. } | Error::Timeout { .. } | Error::Protocol { .. })
}

/// How many bytes of each stream are still to be passed over.
struct Passed([u64; 2]);

impl Passed {
    fn over<'a>(&mut self, stream: Stream, bytes: &'a [u8]) -> &'a [u8] {
        let left = &mut self.0[usize::from(stream == Stream::Stderr)];
        let over = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
        *left -= over as u64;
        &bytes[over..]
    }
}

/// The program's first word, whatever its nonce is.
#[derive(Default)]
struct First {
    line: Vec<u8>,
    nonce: Option<String>,
    /// Bytes of stdout before it: the engine copies both streams side by side.
    before: usize,
    /// The copy begins with something else.
    lost: bool,
}

type Sink<'a> = dyn FnMut(&[u8], &mut Passed, &mut dyn Output) + 'a;

const WORD: &[u8] = b"cronium ready ";
/// The word, 32 characters of nonce, and some room.
const WORD_MAX: usize = 64;

impl First {
    /// So much of stdout came: the word, which is the very first of all, must have come before, or nearly so.
    fn other_came(&mut self, bytes: usize, passed: &mut Passed, output: &mut dyn Output) {
        self.before = self.before.saturating_add(bytes);
        if self.nonce.is_none() && !self.lost && self.before > limits::DOCKER_READ {
            self.lose(passed, output);
        }
    }

    fn lose(&mut self, passed: &mut Passed, output: &mut dyn Output) {
        self.lost = true;
        *passed = Passed([0, 0]);
        output.lost_beginning();
    }

    fn take(&mut self, bytes: &[u8], passed: &mut Passed, output: &mut dyn Output, sink: &mut Sink<'_>) {
        if self.nonce.is_some() || self.lost {
            return sink(bytes, passed, output);
        }
        self.line.extend_from_slice(bytes);
        let common = self.line.len().min(WORD.len());
        let end = self.line.iter().position(|&b| b == b'\n');
        if self.line[..common] == WORD[..common] && end.is_none() && self.line.len() < WORD_MAX {
            return;
        }
        let line = std::mem::take(&mut self.line);
        match end.filter(|&end| end > WORD.len() && line.starts_with(WORD)) {
            Some(end) => {
                self.nonce = Some(String::from_utf8_lossy(&line[WORD.len()..end]).into_owned());
                // Also where nothing follows yet: it shows that the program has come.
                sink(&line[end + 1..], passed, output);
            }
            None => {
                self.lose(passed, output);
                sink(&line, passed, output);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Vec<u8>, bool);

    impl Output for Kept {
        fn bytes(&mut self, _stream: Stream, data: &[u8]) {
            self.0.extend_from_slice(data);
        }
        fn system(&mut self, _text: &str) {}
        fn lost_beginning(&mut self) {
            self.1 = true;
        }
        fn settle(&mut self) {}
    }

    #[test]
    fn the_first_word_is_taken_out_at_every_split_and_missed_where_it_is_not() {
        for (input, through, nonce, lost) in [
            (&b"cronium ready 00ff\nabc"[..], &b"abc"[..], Some("00ff"), false),
            (b"cronium ready 00ff\n", b"", Some("00ff"), false),
            (b"abc\n", b"abc\n", None, true),
            (b"cronium rea\n", b"cronium rea\n", None, true),
            (b"cronium ready", b"", None, false),
        ] {
            for split in 0..=input.len() {
                let (mut first, mut kept, mut passed) = (First::default(), Kept::default(), Passed([0, 0]));
                for part in [&input[..split], &input[split..]] {
                    first.take(part, &mut passed, &mut kept, &mut |bytes, _, output| {
                        output.bytes(Stream::Stderr, bytes);
                    });
                }
                assert_eq!((kept.0.as_slice(), kept.1), (through, lost), "split at {split}");
                assert_eq!(first.nonce.as_deref(), nonce, "split at {split}");
            }
        }
    }

    #[test]
    fn what_had_come_is_passed_over_at_every_split_and_streams_do_not_mix() {
        let text = b"one\ntwo\nthree\n";
        for had in 0..=text.len() {
            for split in 0..=text.len() {
                let mut passed = Passed([had as u64, 3]);
                let mut kept = passed.over(Stream::Stdout, &text[..split]).to_vec();
                kept.extend_from_slice(passed.over(Stream::Stdout, &text[split..]));
                assert_eq!(kept, &text[had..], "had {had}, split at {split}");
                assert_eq!(passed.over(Stream::Stderr, b"abcde"), b"de");
            }
        }
    }

    #[test]
    fn a_lost_beginning_passes_nothing_over() {
        let (mut first, mut kept, mut passed) = (First::default(), Kept::default(), Passed([9, 9]));
        first.take(b"in the middle\n", &mut passed, &mut kept, &mut |bytes, passed, output| {
            output.bytes(Stream::Stderr, passed.over(Stream::Stderr, bytes));
        });
        assert_eq!((kept.0.as_slice(), kept.1, passed.0), (&b"in the middle\n"[..], true, [0, 0]));
    }
}
