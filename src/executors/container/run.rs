//! One container from its start to its removal, as one straight page.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::types::ResourceSet;
use crate::docker::containers::{Attached, Inspect, Piece, short};
use crate::docker::{self, Deadline, Error};
use crate::executors::container::judge::{Evidence, judge};
use crate::executors::container::marker::Marker;
use crate::executors::container::program::Program;
use crate::executors::container::usage::Meter;
use crate::executors::container::{Shared, setup_verdict};
use crate::executors::control::{Signal, Target};
use crate::executors::ending::{seconds, stopped};
use crate::executors::{Control, Prepared, Task, shell};
use crate::job::{Output, Stream};
use crate::limits;
use crate::os::cgroup::Reading;
use crate::policy::stop::Reason;
use crate::verdict::{Outcome, Phase, Span, Timings, Usage, Verdict};
use crate::wire::frames;

/// A container that is removed when this is dropped, whatever happened.
pub(in crate::executors::container) struct Container {
    docker: docker::Client,
    id: String,
    removed: bool,
}

impl Container {
    pub(in crate::executors::container) fn new(docker: docker::Client, id: String) -> Self {
        Self { docker, id, removed: false }
    }

    pub(in crate::executors::container) fn id(&self) -> &str {
        &self.id
    }

    /// Removes it; tries again a few times, since an engine under load may refuse once.
    fn remove(&mut self) -> Result<(), Error> {
        self.removed = true;
        let mut attempt = 1;
        loop {
            match self.docker.remove(&self.id) {
                Err(error) if attempt < limits::REMOVE_ATTEMPTS => {
                    log::warn!("{error}; trying again");
                    std::thread::sleep(limits::REMOVE_DELAY);
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

/// A container that is created and attached, and waits for the word to start.
pub(in crate::executors::container) struct Ready {
    pub(in crate::executors::container) shared: Arc<Shared>,
    // Dropped in this order: the stream before the container.
    pub(in crate::executors::container) attached: Attached,
    pub(in crate::executors::container) container: Container,
    pub(in crate::executors::container) program: Program,
    pub(in crate::executors::container) control: Arc<Control>,
    pub(in crate::executors::container) resources: ResourceSet,
    pub(in crate::executors::container) layer_limited: bool,
    pub(in crate::executors::container) timeout: (Duration, &'static str),
    /// `jobs.setupTimeout`.
    pub(in crate::executors::container) deadline: Deadline,
    pub(in crate::executors::container) begun: (SystemTime, Instant),
    pub(in crate::executors::container) image: String,
    pub(in crate::executors::container) network: String,
}

/// What is known when the stream has ended.
#[derive(Default)]
struct Followed {
    /// The end of stderr, for the program's own words and for hints.
    stderr_tail: Vec<u8>,
    /// Why the stream ended before the container did, if it did.
    broke: Option<Error>,
    /// The program was seen to start.
    started: bool,
    /// The host's count of memory kills rose meanwhile.
    host_killed: bool,
}

impl Prepared for Ready {
    fn run(mut self: Box<Self>, _task: &Task, output: &mut dyn Output) -> Outcome {
        if self.control.reason().is_some() {
            return self.never_ran(&Error::Stopped { doing: "start the container".to_owned() });
        }
        if let Err(error) = self.shared.docker.start(self.container.id(), self.deadline) {
            return self.never_ran(&error);
        }
        let setup = Span { started: self.begun.0, length: self.begun.1.elapsed() };
        let execution = (SystemTime::now(), Instant::now());
        let killed_before = self.host_oom_kills();
        let meter = self.arm();
        let fed = self.feed();
        meter.look(&self.shared.docker);
        let mut followed = self.follow(output);
        // The last look, while the kernel still has the counters.
        meter.look(&self.shared.docker);
        let (usage, reading) = meter.finish();
        followed.broke = followed.broke.or(fed.err());
        followed.host_killed = self.host_oom_kills() > killed_before;
        let waited = self.wait_for_end(&followed, output);
        let execution = Span { started: execution.0, length: execution.1.elapsed() };

        let cleanup = (SystemTime::now(), Instant::now());
        let (verdict, evidence) = self.conclude(waited, &reading, &followed);
        self.control.end();
        if let Err(error) = self.container.remove() {
            log::error!("container {} is left behind: {error}", short(self.container.id()));
        }
        let cleanup = Span { started: cleanup.0, length: cleanup.1.elapsed() };
        let timings = Timings { setup: Some(setup), execution: Some(execution), cleanup: Some(cleanup) };
        Outcome { verdict, timings, usage, evidence }
    }
}

impl Ready {
    /// The outcome of a container that was not started; dropping `self` removes it.
    fn never_ran(&self, error: &Error) -> Outcome {
        let setup = Some(Span { started: self.begun.0, length: self.begun.1.elapsed() });
        let verdict = setup_verdict(error, &self.control);
        self.control.end();
        let evidence = vec![("containerId", self.container.id().to_owned()), ("image", self.image.clone())];
        Outcome { verdict, timings: Timings { setup, ..Timings::default() }, usage: Usage::default(), evidence }
    }

    /// From here on the deadline runs, a cancel finds something to signal, and use is measured.
    fn arm(&self) -> Arc<Meter> {
        let (after, limit) = self.timeout;
        self.control.set_deadline(Instant::now() + after, Reason::Timeout { limit, after });
        let id = self.container.id().to_owned();
        self.control.set_target(Arc::new(Signalled { docker: self.shared.docker.clone(), id }));
        let layer_limit = self.layer_limited.then_some(self.resources.disk);
        self.shared.sampler.watch(self.container.id(), Arc::clone(&self.control), layer_limit)
    }

    /// The host's count, where the engine is on this host.
    fn host_oom_kills(&self) -> Option<u64> {
        if self.shared.docker.is_local() { crate::os::cgroup::host_oom_kills() } else { None }
    }

    /// Sends the program to the waiting shell.
    fn feed(&mut self) -> Result<(), Error> {
        let deadline = Deadline::after(limits::DOCKER_WORK, "limits::DOCKER_WORK");
        self.attached.write(self.program.bytes(), deadline)?;
        self.attached.finish_writing()
    }

    /// Reads the stream to its end and hands every byte on.
    fn follow(&mut self, output: &mut dyn Output) -> Followed {
        let mut buffer = vec![0; limits::DOCKER_READ];
        let mut frames = frames::Decoder::new();
        let mut marker = Marker::new(self.program.nonce());
        let mut followed = Followed::default();
        let mut heard = Instant::now();
        loop {
            match self.attached.read(&mut buffer, limits::FOLLOW_TICK) {
                Ok(Piece::Bytes(n)) => {
                    heard = Instant::now();
                    let taken = frames.feed(&buffer[..n], &mut |stream, bytes| {
                        if stream != Stream::Stderr {
                            return output.bytes(stream, bytes);
                        }
                        marker.take(bytes, &mut |bytes| {
                            shell::keep_tail(&mut followed.stderr_tail, bytes);
                            output.bytes(stream, bytes);
                        });
                    });
                    followed.started = marker.is_seen();
                    output.settle();
                    if let Err(error) = taken {
                        followed.broke = Some(self.nonsense(error.to_string()));
                        return followed;
                    }
                }
                Ok(Piece::End) => {
                    followed.broke = frames.finish().err().map(|error| self.nonsense(error.to_string()));
                    return followed;
                }
                Ok(Piece::Quiet) if self.control.is_given_up() => return followed,
                Ok(Piece::Quiet) if heard.elapsed() >= limits::SILENCE_CHECK => {
                    heard = Instant::now();
                    if self.has_ended_silently() {
                        return followed;
                    }
                }
                Ok(Piece::Quiet) => {}
                Err(error) => {
                    followed.broke = Some(error);
                    return followed;
                }
            }
        }
    }

    fn nonsense(&self, what: String) -> Error {
        Error::Protocol { doing: format!("read the output of container {}", short(self.container.id())), what }
    }

    /// Whether the container is over although its stream has not ended: then nothing more will come.
    fn has_ended_silently(&self) -> bool {
        match self.shared.docker.inspect(self.container.id(), false) {
            Ok(found) => !found.state.running,
            Err(error) => error.status() == Some(404),
        }
    }

    /// Waits for the container's end and gives its exit code. Usually it has ended already: the end of the stream is
    /// the end of its first process. Where the stream broke, this waits as long as the job may run.
    fn wait_for_end(&self, followed: &Followed, output: &mut dyn Output) -> Result<i64, Error> {
        if let Some(error) = &followed.broke {
            log::warn!("{error}; waiting for the container's end without its output");
            output.system(&format!("the output was cut off, lines may be missing: {error}"));
            output.settle();
        }
        let patience = Deadline::after(self.shared.cleanup_timeout, "jobs.cleanupTimeout");
        loop {
            let slice = Deadline::after(limits::WAIT_SLICE, "limits::WAIT_SLICE");
            let error = match self.shared.docker.wait(self.container.id(), slice) {
                Ok(code) => return Ok(code),
                Err(error) => error,
            };
            if self.control.is_given_up() || error.status() == Some(404) {
                return Err(error);
            }
            // A wait that timed out on a container that runs is no fault; anything else has its bound.
            let running = self.shared.docker.inspect(self.container.id(), false).is_ok_and(|found| found.state.running);
            if !running && patience.left().is_none() {
                return Err(error);
            }
            if !matches!(error, Error::Timeout { .. }) {
                std::thread::sleep(limits::FOLLOW_TICK);
            }
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
        let sent = self.control.sent();
        Evidence {
            exit_code,
            started: followed.started,
            broke: followed.broke.as_ref().map(ToString::to_string),
            reason: self.control.reason().filter(|_| sent.is_some()),
            sent,
            oom_killed: found.state.oom_killed,
            oom_kills: reading.oom_kills,
            host_killed: followed.host_killed,
            pids_refused: reading.pids_refused,
            memory_limit: self.resources.memory,
            pids_limit: self.resources.pids,
            disk_limit: self.resources.disk,
            complaint: shell::complaint(self.program.nonce(), &followed.stderr_tail),
            engine_error: found.state.error.clone(),
            image: self.image.clone(),
            no_space: shell::tells_of_full_device(&followed.stderr_tail),
            no_fork: tells_of_refused_fork(&followed.stderr_tail),
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

/// The C library's words for EAGAIN where they are about a process or thread.
fn tells_of_refused_fork(stderr: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stderr);
    let words = ["fork", "spawn", "thread", "clone", "BlockingIOError"];
    (text.contains("Resource temporarily unavailable") || text.contains("EAGAIN"))
        && words.iter().any(|word| text.contains(word))
}
