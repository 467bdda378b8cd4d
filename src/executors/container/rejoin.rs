//! From the end of a container's stream to the end of the container, whatever the engine does meanwhile.
//!
//! A stream may end before its script: the engine was restarted and left the container running, or a connection broke.
//! Then the engine's own copy of the output is read: from its beginning, of which as much is passed over as had come, and
//! on to the container's end. An engine that is away is waited for as long as the job may run; its time limit and a
//! cancel hold meanwhile. An adopted container has no stream, and is read from the copy alone.
//!
//! The copy is capped and turns over: where its beginning is gone, the program's first word is missing, and the output is
//! told that its place in the copy is lost.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::docker::{Deadline, Error};
use crate::executors::container::marker::Marker;
use crate::executors::container::run::{Base, Followed};
use crate::job::{Output, Stream};
use crate::limits;
use crate::wire::frames;

impl Base {
    /// Waits for the container's end and gives its exit code. Usually it has ended already: the end of the stream is the
    /// end of its first process.
    pub(super) fn wait_for_end(&mut self, followed: &mut Followed, output: &mut dyn Output) -> Result<i64, Error> {
        // For an engine that answers, but not with the end of what does not run any more.
        let mut patience = None;
        let stopped = || Error::Stopped { doing: "wait for the container's end".to_owned() };
        loop {
            if self.control.is_detached() {
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
    pub(super) fn runs(&self) -> Result<bool, Error> {
        self.shared.docker.inspect(self.container.id(), false).map(|found| found.state.running)
    }

    /// Reads the missed output, to the end of a running script. Output that can never be read is reported in the job's log.
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
    pub(super) fn read_copy(&mut self, followed: &mut Followed, on: bool, output: &mut dyn Output) {
        let nonce = Some(self.nonce.as_str()).filter(|nonce| !nonce.is_empty());
        let mut copy = Copy {
            marker: Marker::new(nonce),
            nonce: self.nonce.clone(),
            passed: Passed(followed.taken),
            bytes: [0; 2],
            lost: false,
        };
        let mut decoder = frames::Decoder::new();
        let (base, control) = (&*self, Arc::clone(&self.control));
        let gone = || Error::Stopped { doing: "follow the container".to_owned() };
        let mut sink = |piece: &[u8]| {
            if control.is_detached() || control.is_given_up() {
                return Err(gone());
            }
            let fed = decoder.feed(piece, &mut |stream, bytes| copy.take(stream, bytes, followed, output));
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
        followed.started |= copy.shows_a_start();
        followed.missed = false;
        followed.broke = read.err().filter(|error| !matches!(error, Error::Stopped { .. }));
        if let Some(nonce) = copy.marker.nonce() {
            self.nonce = nonce.to_owned();
        }
        followed.held = copy.marker.give_up();
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

/// The engine's copy as it is read.
struct Copy {
    marker: Marker,
    /// The one that it should have; empty where it is not known.
    nonce: String,
    passed: Passed,
    /// Bytes of stdout and stderr that were read of it.
    bytes: [u64; 2],
    /// The program's first word is not at its beginning.
    lost: bool,
}

impl Copy {
    fn take(&mut self, stream: Stream, bytes: &[u8], followed: &mut Followed, output: &mut dyn Output) {
        let of = usize::from(stream == Stream::Stderr);
        self.bytes[of] += bytes.len() as u64;
        let bytes = match stream {
            Stream::Stderr => self.marker.take(bytes),
            _ => Cow::Borrowed(bytes),
        };
        // The word, which is the very first of all, comes before stdout or nearly so: the engine copies both side by side.
        let overdue = !self.marker.is_seen() && self.bytes[0] > limits::DOCKER_READ as u64;
        if !self.lost && (self.marker.is_missed() || overdue) {
            self.lost = true;
            let held = self.marker.give_up();
            // Nobody knows where in the output this copy begins: all of it counts as new, from its own beginning.
            let read = if of == 0 { bytes.len() as u64 } else { 0 };
            (self.passed, followed.taken) = (Passed([0; 2]), [self.bytes[0] - read, 0]);
            output.lost_beginning();
            self.hand_on(Stream::Stderr, &held, followed, output);
        }
        self.hand_on(stream, &bytes, followed, output);
    }

    fn hand_on(&mut self, stream: Stream, bytes: &[u8], followed: &mut Followed, output: &mut dyn Output) {
        let bytes = self.passed.over(stream, bytes);
        followed.taken[usize::from(stream == Stream::Stderr)] += bytes.len() as u64;
        if stream != Stream::Stderr {
            return output.bytes(stream, bytes);
        }
        let nonce = self.marker.nonce().unwrap_or(&self.nonce);
        followed.stderr.take(bytes, nonce, &mut |bytes| output.bytes(stream, bytes));
    }

    /// Whether the script has begun. A copy turns over when a lot was printed, which only a script does; a few words of a
    /// shell that never had the whole program are no start.
    fn shows_a_start(&self) -> bool {
        self.marker.is_seen() || self.lost && self.bytes.iter().sum::<u64>() >= limits::COPY_TURNED_OVER
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

    fn copy(taken: [u64; 2]) -> (Copy, Followed, Kept) {
        let (marker, nonce) = (Marker::new(None), String::new());
        let copy = Copy { marker, nonce, passed: Passed(taken), bytes: [0; 2], lost: false };
        (copy, Followed { taken, ..Followed::default() }, Kept::default())
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
                let (mut copy, mut followed, mut kept) = copy([0; 2]);
                for part in [&input[..split], &input[split..]] {
                    copy.take(Stream::Stderr, part, &mut followed, &mut kept);
                }
                assert_eq!((kept.0.as_slice(), kept.1), (through, lost), "split at {split}");
                assert_eq!(copy.marker.nonce(), nonce, "split at {split}");
                assert_eq!(copy.shows_a_start(), nonce.is_some(), "a few words are no start");
            }
        }
    }

    #[test]
    fn what_the_shell_said_before_the_first_word_is_passed_over_like_all_that_had_come() {
        let whole = b"sh: no such locale\ncronium ready 00ff\nerror\n";
        for (had, through) in [(0, "sh: no such locale\nerror\n"), (19, "error\n"), (21, "ror\n")] {
            for split in 0..=whole.len() {
                let (mut copy, mut followed, mut kept) = copy([0, had]);
                (copy.marker, copy.nonce) = (Marker::new(Some("00ff")), "00ff".to_owned());
                for part in [&whole[..split], &whole[split..]] {
                    copy.take(Stream::Stderr, part, &mut followed, &mut kept);
                }
                assert_eq!((kept.0.as_slice(), kept.1), (through.as_bytes(), false), "had {had}, split at {split}");
                assert!(copy.shows_a_start() && followed.taken[1] == 25);
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
    fn a_lost_beginning_passes_nothing_over_and_its_bytes_are_counted_anew() {
        let (mut copy, mut followed, mut kept) = copy([9, 9]);
        copy.take(Stream::Stderr, b"in the middle\n", &mut followed, &mut kept);
        copy.take(Stream::Stdout, b"and on\n", &mut followed, &mut kept);
        assert_eq!((kept.0.as_slice(), kept.1, copy.passed.0), (&b"in the middle\nand on\n"[..], true, [0, 0]));
        assert_eq!(followed.taken, [7, 14]);
    }

    #[test]
    fn a_copy_that_turned_over_shows_that_the_script_ran() {
        let (mut copy, mut followed, mut kept) = copy([0; 2]);
        assert!(copy.marker.take(b"cronium r").is_empty());
        let piece = vec![b'x'; limits::DOCKER_READ];
        while !copy.shows_a_start() {
            assert!(copy.bytes[0] < 2 * limits::COPY_TURNED_OVER);
            copy.take(Stream::Stdout, &piece, &mut followed, &mut kept);
        }
        assert!(copy.lost && kept.1);
        assert_eq!(followed.taken[1], 9, "what was held back for the word is not lost");
        assert_eq!(kept.0.len() as u64, followed.taken[0] + followed.taken[1]);
    }
}
