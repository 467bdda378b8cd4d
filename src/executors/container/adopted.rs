//! A container that an earlier agent started: read from the engine's own copy of its output, from the beginning, and
//! followed live to its end.
//!
//! The copy is read whole, so that the result has its head too; which lines were sent live before is the output's
//! business. The copy is capped and turns over: where its beginning is gone, the program's first word is missing, and
//! the output is told that its place in the copy is lost.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::docker::containers::State;
use crate::docker::{Deadline, Error};
use crate::executors::container::Shared;
use crate::executors::container::run::{Base, Container, Followed};
use crate::executors::control::Signal;
use crate::executors::{Control, End, Facts, Lost, Prepared, Remains, Task, shell};
use crate::job::{Output, Stream};
use crate::limits;
use crate::policy::stop::Reason;
use crate::verdict::Span;
use crate::wire::frames;

/// A container that is there, running or ended.
pub(in crate::executors::container) struct Adopted {
    base: Base,
    left: Duration,
    /// It had ended when it was found.
    ended: bool,
}

/// Whether an earlier agent ended it for its time limit and did not live to say so: it ran that long, and it ended as
/// one does that was sent TERM or KILL.
fn ended_late(state: &State, (after, limit): (Duration, &'static str)) -> Option<(Reason, Signal)> {
    let signal = match state.exit_code {
        143 => Signal::Term,
        137 => Signal::Kill,
        _ => return None,
    };
    state.ran_for().filter(|ran| *ran >= after).map(|_| (Reason::Timeout { limit, after }, signal))
}

impl Adopted {
    /// Looks for it by the name that it was given.
    pub(in crate::executors::container) fn find(
        shared: &Arc<Shared>,
        facts: &Facts,
        left: Duration,
        control: &Arc<Control>,
    ) -> Result<Self, Lost> {
        let found = match shared.docker.inspect(&facts.place, false) {
            Ok(found) => found,
            Err(error) if error.status() == Some(404) => {
                return Err(Lost::Gone(format!("its container {} is not in the engine any more", facts.place)));
            }
            Err(error) => return Err(Lost::OutOfReach(error.to_string())),
        };
        let container = Container::new(shared.docker.clone(), found.id);
        if found.state.status == "created" {
            return Err(Lost::NeverStarted(Remains::of(container)));
        }
        let base = Base {
            shared: Arc::clone(shared),
            container,
            control: Arc::clone(control),
            resources: facts.limits.unwrap_or(shared.settings.limits),
            layer_limited: !shared.settings.security.readonly_rootfs,
            timeout: facts.timeout,
            begun: (SystemTime::now(), Instant::now()),
            name: facts.place.clone(),
            image: facts.image.clone(),
            network: String::new(),
            nonce: String::new(),
            ended_by: ended_late(&found.state, facts.timeout),
        };
        Ok(Self { base, left, ended: !found.state.running })
    }

    /// Reads the copy to its end, which is the container's.
    fn follow(&mut self, output: &mut dyn Output) -> Followed {
        let (mut followed, mut first) = (Followed::default(), First::default());
        let mut decoder = frames::Decoder::new();
        let (base, control) = (&self.base, Arc::clone(&self.base.control));
        let patience = self.left + limits::KILL_PATIENCE * 2 + limits::DOCKER_WORK;
        let deadline = Deadline::after(patience, "the job's deadline");
        let gone = || Error::Stopped { doing: "follow the container".to_owned() };
        let read = base.shared.docker.follow_logs(base.container.id(), deadline, &mut |piece| {
            if control.is_left() || control.is_given_up() {
                return Err(gone());
            }
            let taken = decoder.feed(piece, &mut |stream, bytes| {
                if stream != Stream::Stderr {
                    first.other_came(bytes.len(), output);
                    return output.bytes(stream, bytes);
                }
                first.take(bytes, output, &mut |bytes, output| {
                    shell::keep_tail(&mut followed.stderr_tail, bytes);
                    output.bytes(stream, bytes);
                });
            });
            output.settle();
            taken.map_err(|error| base.nonsense(error.to_string()))
        });
        // A copy whose beginning is lost belongs to a script that printed a lot: it was started.
        followed.started = first.nonce.is_some() || first.lost;
        followed.broke = read.err().filter(|error| !matches!(error, Error::Stopped { .. }));
        self.base.nonce = first.nonce.unwrap_or_default();
        followed
    }
}

impl Prepared for Adopted {
    fn facts(&self) -> Facts {
        self.base.facts()
    }

    fn run(mut self: Box<Self>, _task: &Task, output: &mut dyn Output) -> End {
        let begun = self.base.begun;
        let killed_before = self.base.host_oom_kills();
        // What has ended has no deadline any more, even if that has passed since.
        let meter = if self.ended { self.base.measure() } else { self.base.arm(self.left) };
        let followed = self.follow(output);
        if !followed.started
            && followed.broke.is_none()
            && !self.base.control.is_left()
            && !self.base.control.is_given_up()
        {
            // The shell's stdin ended before the program had come: half of it never runs.
            let _ = meter.finish();
            return End::NeverRan(Remains::of(self));
        }
        let setup = Span { started: begun.0, length: Duration::ZERO };
        self.base.finish(followed, &meter, (setup, begun), killed_before, output)
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

const WORD: &[u8] = b"cronium ready ";
/// The word, 32 characters of nonce, and some room.
const WORD_MAX: usize = 64;

impl First {
    /// So much of stdout came: the word, which is the very first of all, must have come before, or nearly so.
    fn other_came(&mut self, bytes: usize, output: &mut dyn Output) {
        self.before = self.before.saturating_add(bytes);
        if self.nonce.is_none() && !self.lost && self.before > limits::DOCKER_READ {
            self.lost = true;
            output.lost_beginning();
        }
    }

    fn take(&mut self, bytes: &[u8], output: &mut dyn Output, sink: &mut dyn FnMut(&[u8], &mut dyn Output)) {
        if self.nonce.is_some() || self.lost {
            return sink(bytes, output);
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
                if line.len() > end + 1 {
                    sink(&line[end + 1..], output);
                }
            }
            None => {
                self.lost = true;
                output.lost_beginning();
                sink(&line, output);
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
                let (mut first, mut kept) = (First::default(), Kept::default());
                for part in [&input[..split], &input[split..]] {
                    first.take(part, &mut kept, &mut |bytes, output| output.bytes(Stream::Stderr, bytes));
                }
                assert_eq!((kept.0.as_slice(), kept.1), (through, lost), "split at {split}");
                assert_eq!(first.nonce.as_deref(), nonce, "split at {split}");
            }
        }
    }
}
