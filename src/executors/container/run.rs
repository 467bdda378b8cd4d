//! One container from its start to its end, as one straight page. It is removed by its [`Container`], which outlives the
//! run: the verdict goes to disk first.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::types::ResourceSet;
use crate::docker::containers::{Attached, Inspect, Piece, short};
use crate::docker::{self, Deadline, Error};
use crate::executors::complaint::{Stderr, complaint};
use crate::executors::container::Shared;
use crate::executors::container::judge::{Evidence, judge};
use crate::executors::container::marker::Marker;
use crate::executors::container::program::Program;
use crate::executors::container::usage::Meter;
use crate::executors::control::{Signal, Target};
use crate::executors::ending::{ended_in_time, seconds, setup_verdict, stopped};
use crate::executors::{CleanupGuard, Control, End, Prepared, ReattachInfo, Task, shell};
use crate::job::{Output, Stream};
use crate::limits;
use crate::os::cgroup::Reading;
use crate::os::clock;
use crate::policy::stop::Reason;
use crate::verdict::{Outcome, Phase, Span, Timings, Usage, Verdict};
use crate::wire::frames;

/// A container that is removed when this is dropped, whatever happened.
pub(super) struct Container {
    docker: docker::Client,
    id: String,
    removed: bool,
}

impl Container {
    pub(super) fn new(docker: docker::Client, id: String) -> Self {
        Self { docker, id, removed: false }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Gives it up to the next agent.
    fn detach(&mut self) {
        self.removed = true;
    }

    /// Removes it; tries again a few times, since an engine under load may refuse once.
    fn remove(&mut self) -> Result<(), Error> {
        self.removed = true;
        let mut attempt = 1;
        loop {
            match self.docker.remove(&self.id) {
                Err(error) if attempt < limits::REMOVE_ATTEMPTS => {
                    log::warn!("{error}; trying again");
                    clock::sleep(limits::REMOVE_DELAY);
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = self.remove()
        {
            log::error!("container {} is left behind: {error}", short(&self.id));
        }
    }
}

/// What the reaper signals.
struct Signalled {
    docker: docker::Client,
    id: String,
}

impl Target for Signalled {
    fn signal(&self, signal: Signal) -> Result<(), String> {
        self.docker.kill(&self.id, signal.as_str()).map_err(|error| error.to_string())
    }
}

/// A container with all that its verdict needs; what is prepared and what is adopted stand on it.
pub(super) struct Base {
    pub(super) shared: Arc<Shared>,
    pub(super) container: Container,
    pub(super) control: Arc<Control>,
    pub(super) resources: ResourceSet,
    pub(super) layer_limited: bool,
    pub(super) timeout: (Duration, &'static str),
    pub(super) begun: (SystemTime, Instant),
    pub(super) name: String,
    pub(super) image: String,
    pub(super) network: String,
    /// The program's random word; empty where it is not known.
    pub(super) nonce: String,
    /// What the script's text may lead it into, for the verdict on its failure; empty where the text is not at hand.
    pub(super) hint: String,
    /// Why an earlier agent ended it, and with what, where this one finds it ended.
    pub(super) ended_by: Option<(Reason, Signal)>,
}

/// A container that is created and attached, and waits for the word to start.
pub(super) struct Ready {
    // Dropped in this order: the stream before the container.
    pub(super) attached: Attached,
    pub(super) base: Base,
    pub(super) program: Program,
    /// `jobs.setupTimeout`.
    pub(super) deadline: Deadline,
}

/// What is known when the stream has ended.
#[derive(Default)]
pub(super) struct Followed {
    /// The end of stderr, for the program's own words and for hints.
    pub(super) stderr: Stderr,
    /// The beginning of stderr, where the program's first word was still looked for when the stream ended.
    pub(super) held: Vec<u8>,
    /// Why the stream ended before the container did, if it did.
    pub(super) broke: Option<Error>,
    /// Bytes of stdout and stderr that have come.
    pub(super) taken: [u64; 2],
    /// There may be more, which the engine's copy has.
    pub(super) missed: bool,
    /// The engine does not give its copy.
    pub(super) unreadable: bool,
    /// Why the engine was out of reach, when it was for the first time.
    pub(super) away: Option<String>,
    /// The program was seen to start.
    pub(super) started: bool,
    /// The host's count of memory kills rose meanwhile.
    pub(super) host_killed: bool,
}

impl Prepared for Ready {
    fn reattach_info(&self) -> ReattachInfo {
        self.base.reattach_info()
    }

    fn run(mut self: Box<Self>, _task: &Task, output: &mut dyn Output) -> End {
        if self.base.control.reason().is_some() {
            let outcome = self.base.never_ran(&Error::Stopped { doing: "start the container".to_owned() });
            return End::Outcome(outcome, CleanupGuard::of(self));
        }
        if !self.base.control.begin() {
            return End::NeverRan(CleanupGuard::of(self));
        }
        if let Err(error) = self.base.shared.docker.start(self.base.container.id(), self.deadline) {
            return End::Outcome(self.base.never_ran(&error), CleanupGuard::of(self));
        }
        let begun = self.base.begun;
        let setup = Span { started: begun.0, length: begun.1.elapsed() };
        let execution = (SystemTime::now(), Instant::now());
        let killed_before = self.base.host_oom_kills();
        let meter = self.base.arm(self.base.timeout.0);
        let fed = self.feed();
        meter.look(&self.base.shared.docker);
        let mut followed = self.follow(output);
        followed.broke = followed.broke.or(fed.err());
        let Self { attached, base, .. } = *self;
        // Detached or ended: nothing more is read from it.
        drop(attached);
        base.finish(followed, &meter, (setup, execution), killed_before, output)
    }
}

impl Ready {
    /// Sends the program to the waiting shell.
    fn feed(&mut self) -> Result<(), Error> {
        let deadline = Deadline::after(limits::DOCKER_WORK, "limits::DOCKER_WORK");
        self.attached.write(self.program.bytes(), deadline)?;
        self.attached.finish_writing()
    }

    /// Reads the stream to its end and hands every byte on.
    fn follow(&mut self, output: &mut dyn Output) -> Followed {
        let mut marker = Marker::new(Some(self.program.nonce()));
        let mut followed = self.follow_behind(&mut marker, output);
        followed.held = marker.give_up();
        followed
    }

    fn follow_behind(&mut self, marker: &mut Marker, output: &mut dyn Output) -> Followed {
        let mut buffer = vec![0; limits::DOCKER_READ];
        let mut frames = frames::Decoder::new();
        let mut followed = Followed::default();
        let mut heard = Instant::now();
        loop {
            if self.base.control.is_detached() {
                return followed;
            }
            match self.attached.read(&mut buffer, limits::FOLLOW_TICK) {
                Ok(Piece::Bytes(n)) => {
                    heard = Instant::now();
                    let taken = frames.feed(&buffer[..n], &mut |stream, bytes| {
                        if stream != Stream::Stderr {
                            followed.taken[0] += bytes.len() as u64;
                            return output.bytes(stream, bytes);
                        }
                        let bytes = marker.take(bytes);
                        followed.taken[1] += bytes.len() as u64;
                        followed.stderr.take(&bytes, self.program.nonce(), &mut |bytes| output.bytes(stream, bytes));
                    });
                    followed.started = marker.is_seen();
                    output.settle();
                    if let Err(error) = taken {
                        followed.broke = Some(self.base.nonsense(error.to_string()));
                        return followed;
                    }
                }
                Ok(Piece::End) => {
                    followed.broke = frames.finish().err().map(|error| self.base.nonsense(error.to_string()));
                    return followed;
                }
                Ok(Piece::Quiet) if self.base.control.is_given_up() => return followed,
                Ok(Piece::Quiet) if heard.elapsed() >= limits::SILENCE_CHECK => {
                    heard = Instant::now();
                    if self.base.has_ended_silently() {
                        return followed;
                    }
                }
                Ok(Piece::Quiet) => output.settle(),
                Err(error) => {
                    followed.broke = Some(error);
                    return followed;
                }
            }
        }
    }
}

impl Base {
    pub(super) fn reattach_info(&self) -> ReattachInfo {
        ReattachInfo {
            place: self.name.clone(),
            image: self.image.clone(),
            limits: Some(self.resources),
            timeout: self.timeout,
        }
    }

    /// From the end of the stream to the end of the container, unless it is left to the next agent.
    pub(super) fn finish(
        mut self,
        mut followed: Followed,
        meter: &Meter,
        (setup, execution): (Span, (SystemTime, Instant)),
        killed_before: Option<u64>,
        output: &mut dyn Output,
    ) -> End {
        if self.control.is_detached() {
            let _ = meter.finish();
            self.container.detach();
            return End::Detached;
        }
        // The last look, while the kernel still has the counters. The watch on its disk goes on: the script may too.
        meter.look(&self.shared.docker);
        let waited = self.wait_for_end(&mut followed, output);
        let (usage, reading) = meter.finish();
        followed.host_killed = crate::os::cgroup::rose(killed_before, self.host_oom_kills());
        if self.control.is_detached() {
            self.container.detach();
            return End::Detached;
        }
        let held = std::mem::take(&mut followed.held);
        followed.stderr.take(&held, &self.nonce, &mut |bytes| output.bytes(Stream::Stderr, bytes));
        followed.stderr.finish(&mut |bytes| output.bytes(Stream::Stderr, bytes));
        output.settle();
        let execution = Span { started: execution.0, length: execution.1.elapsed() };

        let cleanup = (SystemTime::now(), Instant::now());
        let (verdict, evidence) = self.conclude(waited, &reading, &followed);
        self.control.end();
        let cleanup = Span { started: cleanup.0, length: cleanup.1.elapsed() };
        let timings = Timings { setup: Some(setup), execution: Some(execution), cleanup: Some(cleanup) };
        End::Outcome(Box::new(Outcome { verdict, timings, usage, evidence }), CleanupGuard::of(self.container))
    }

    /// The outcome of a container that was not started; dropping `self` removes it.
    pub(super) fn never_ran(&self, error: &Error) -> Box<Outcome> {
        let setup = Some(Span { started: self.begun.0, length: self.begun.1.elapsed() });
        let verdict = setup_verdict(error, &self.control);
        self.control.end();
        let evidence = vec![("containerId", self.container.id().to_owned()), ("image", self.image.clone())];
        let timings = Timings { setup, ..Timings::default() };
        Box::new(Outcome { verdict, timings, usage: Usage::default(), evidence })
    }

    /// From here on the deadline runs, a cancel finds something to signal, and use is measured.
    pub(super) fn arm(&self, left: Duration) -> Arc<Meter> {
        let (after, limit) = self.timeout;
        self.control.set_deadline(clock::now() + left, Reason::Timeout { limit, after });
        let id = self.container.id().to_owned();
        self.control.set_target(Arc::new(Signalled { docker: self.shared.docker.clone(), id }));
        self.measure()
    }

    /// Its use is measured from here on.
    pub(super) fn measure(&self) -> Arc<Meter> {
        let layer_limit = self.layer_limited.then_some(self.resources.disk);
        self.shared.sampler.watch(self.container.id(), Arc::clone(&self.control), layer_limit)
    }

    /// The host's count, where the engine is on this host.
    pub(super) fn host_oom_kills(&self) -> Option<u64> {
        if self.shared.docker.is_local() { crate::os::cgroup::host_oom_kills() } else { None }
    }

    pub(super) fn nonsense(&self, what: String) -> Error {
        Error::Protocol { doing: format!("read the output of container {}", short(self.container.id())), what }
    }

    /// Whether the container is over although its stream has not ended: then nothing more will come.
    fn has_ended_silently(&self) -> bool {
        match self.shared.docker.inspect(self.container.id(), false) {
            Ok(found) => !found.state.running,
            Err(error) => error.status() == Some(404),
        }
    }

    /// The verdict and the facts for the execution's record.
    fn conclude(
        &self,
        waited: Result<i64, Error>,
        reading: &Reading,
        followed: &Followed,
    ) -> (Verdict, Vec<(&'static str, String)>) {
        let found = self.shared.docker.inspect(self.container.id(), false);
        let verdict = match (waited, &found) {
            (Ok(exit_code), Ok(found)) => judge(&self.all_evidence(exit_code, found, reading, followed)),
            (Ok(exit_code), Err(error)) => Verdict::infrastructure(
                Phase::Cleanup,
                format!(
                    "the script ended with exit code {exit_code}, but its container could not be examined: {error}"
                ),
            ),
            (Err(error), _) => self.lost(&error),
        };
        let mut facts = vec![
            ("containerId", self.container.id().to_owned()),
            ("image", self.image.clone()),
            ("network", self.network.clone()),
            ("memoryLimit", self.resources.memory.to_string()),
            ("cpuLimit", self.resources.cpu.to_string()),
            ("pidsLimit", self.resources.pids.to_string()),
            ("diskLimit", self.resources.disk.to_string()),
            ("timeout", seconds(self.timeout.0)),
        ];
        if let Ok(Inspect { state, .. }) = found {
            facts.push(("oomKilled", state.oom_killed.to_string()));
            facts.push(("containerExitCode", state.exit_code.to_string()));
        }
        if let Some(kills) = reading.oom_kills {
            facts.push(("oomKills", kills.to_string()));
        }
        if let Some(signal) = self.control.sent() {
            facts.push(("signalSent", signal.as_str().to_owned()));
        }
        (verdict, facts)
    }

    fn all_evidence(&self, exit_code: i64, found: &Inspect, reading: &Reading, followed: &Followed) -> Evidence {
        // A reason that came up after the last signal could be sent did not end the script.
        let (reason, sent) = match (&self.ended_by, self.control.sent()) {
            (Some((reason, signal)), _) => (Some(reason.clone()), Some(*signal)),
            (None, sent) => {
                let ran_less = |than| found.state.ran_for().is_some_and(|ran| ran < than);
                let in_time = |reason: &Reason| ended_in_time(reason, exit_code, followed.away.is_some(), ran_less);
                (self.control.reason().filter(|reason| sent.is_some() && !in_time(reason)), sent)
            }
        };
        Evidence {
            exit_code,
            started: followed.started,
            away: followed.away.clone(),
            reason,
            sent,
            oom_killed: found.state.oom_killed,
            oom_kills: reading.oom_kills,
            host_killed: followed.host_killed,
            pids_refused: reading.pids_refused,
            memory_limit: self.resources.memory,
            pids_limit: self.resources.pids,
            disk_limit: self.resources.disk,
            complaint: complaint(&self.nonce, followed.stderr.tail()),
            engine_error: found.state.error.clone(),
            image: self.image.clone(),
            no_space: shell::tells_of_full_device(followed.stderr.tail()),
            noexec: tells_of_noexec(followed.stderr.tail()),
            last_line: followed.stderr.last_line(),
            hint: self.hint.clone(),
            no_fork: tells_of_refused_fork(followed.stderr.tail()),
        }
    }

    /// The verdict on a container whose end could not be learned.
    fn lost(&self, error: &Error) -> Verdict {
        let told = match self.control.reason() {
            Some(reason) if self.control.is_given_up() => format!(
                "{}, but the engine did not end the container within {}: {error}",
                stopped(&reason, self.control.sent()).message,
                seconds(limits::KILL_PATIENCE)
            ),
            _ => format!("the container's end is unknown: {error}"),
        };
        Verdict::infrastructure(Phase::Execution, told)
    }
}

/// The C library's words for EACCES, in a line about a file in `/tmp`.
fn tells_of_noexec(stderr: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stderr);
    text.lines().any(|line| line.contains("/tmp/") && (line.contains("ermission denied") || line.contains("EACCES")))
}

/// The C library's words for EAGAIN where they are about a process or thread.
fn tells_of_refused_fork(stderr: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stderr);
    let words = ["fork", "spawn", "thread", "clone", "BlockingIOError"];
    (text.contains("Resource temporarily unavailable") || text.contains("EAGAIN"))
        && words.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::testing::{Act, Engine};
    use crate::os::ahead::Ahead;

    #[test]
    fn a_removal_that_is_refused_is_tried_a_few_times_and_no_more() {
        Ahead::run(|ahead| {
            let engine = Engine::start(|_| Act::Answer(500, "{}".to_owned()));
            let error = Container::new(engine.client(), "abc".to_owned()).remove().expect_err("it refuses");
            assert_eq!(error.status(), Some(500));
            assert_eq!(engine.seen(), vec!["DELETE /containers/abc?force=1&v=1"; limits::REMOVE_ATTEMPTS as usize]);
            assert_eq!(ahead.by(), limits::REMOVE_DELAY * (limits::REMOVE_ATTEMPTS - 1));
        });
    }
}
