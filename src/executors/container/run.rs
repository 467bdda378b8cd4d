//! One container from its start to its end, as one straight page. The container outlives the run: the verdict goes to
//! disk first.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::types::ResourceSet;
use crate::docker::containers::{Attached, Inspect};
use crate::docker::{Deadline, Error};
use crate::executors::container::guard::Container;
use crate::executors::container::judge::{Evidence, judge};
use crate::executors::container::program::Program;
use crate::executors::container::reader::Reader;
use crate::executors::container::shared::Shared;
use crate::executors::container::usage::{Before, Meter};
use crate::executors::container::warm::Busy;
use crate::executors::control::Signal;
use crate::executors::ending::{ended_in_time, seconds, setup_verdict, stopped};
use crate::executors::{CleanupGuard, Control, End, Prepared, ReattachInfo, Task};
use crate::job::Output;
use crate::limits;
use crate::metrics::WarmUse;
use crate::os::cgroup::{self, Reading};
use crate::os::clock;
use crate::policy::stop::Reason;
use crate::signing::receipt::Facts;
use crate::verdict::{Outcome, Phase, Span, Timings, Usage, Verdict};

/// A moment by both clocks.
pub(super) type Moment = (SystemTime, Instant);

/// A container, what its verdict needs, and how far its output was read.
pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) container: Container,
    pub(super) control: Arc<Control>,
    pub(super) info: ReattachInfo,
    resources: ResourceSet,
    setup: Setup,
    pub(super) reader: Reader,
    /// The engine's copy has output that was not read.
    pub(super) has_gap: bool,
    /// The copy cannot be read.
    pub(super) is_unreadable: bool,
    /// Why the engine was out of reach, when it was for the first time.
    pub(super) away: Option<String>,
}

/// What is known before the container runs.
pub(super) struct Setup {
    pub(super) begun: Moment,
    /// Empty for an adopted container.
    pub(super) network: String,
    /// What the script's text may lead it into, for the verdict on its failure; empty without the text.
    pub(super) hint: String,
    /// Why an earlier agent ended it, and with what, where this one finds it ended.
    pub(super) ended_by: Option<(Reason, Signal)>,
    /// What a warm container had used before its job.
    pub(super) before: Before,
    /// Whether it was warm, and else why not, where such containers wait for scripts of its language.
    pub(super) way: Option<WarmUse>,
}

/// A container that is created and attached, and waits for the word to start. A warm one runs, and waits for the program.
pub(super) struct Ready {
    // Dropped in this order: the stream before the container.
    pub(super) attached: Attached,
    pub(super) run: Run,
    pub(super) program: Program,
    /// `jobs.setupTimeout`.
    pub(super) deadline: Deadline,
    /// Until the script starts, it waits for the engine.
    pub(super) busy: Option<Busy>,
}

/// The use of a running container is measured until this is dropped.
pub(super) struct Watch {
    meter: Arc<Meter>,
    /// The host's count of memory kills before.
    killed: Option<u64>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.meter.finish();
    }
}

impl Prepared for Ready {
    fn reattach_info(&self) -> ReattachInfo {
        self.run.info.clone()
    }

    fn walls(&self) -> Facts {
        self.run.shared.walls()
    }

    fn run(mut self: Box<Self>, _task: &Task, output: &mut dyn Output) -> End {
        if self.run.control.reason().is_some() {
            let outcome = self.run.never_ran(&Error::Stopped { doing: "start the container".to_owned() });
            return End::Outcome(outcome, CleanupGuard::of(self));
        }
        if !self.run.control.begin() {
            return End::NeverRan(CleanupGuard::of(self));
        }
        if self.run.info.warm.is_some() {
            // It ended meanwhile, and nothing was sent to it: another container, or another agent, can run the job.
            if !self.attached.is_open(limits::MARKER_BEFORE) {
                log::warn!("the warm container ended before it had the script");
                return End::NeverRan(CleanupGuard::of(self));
            }
        } else if let Err(error) = self.run.shared.docker.start(self.run.container.id(), self.deadline) {
            return End::Outcome(self.run.never_ran(&error), CleanupGuard::of(self));
        }
        self.busy = None;
        let setup = span(self.run.setup.begun);
        let begun = (SystemTime::now(), Instant::now());
        if let Some(warm) = &mut self.run.info.warm {
            warm.since = begun.0;
        }
        let watch = self.run.arm(self.run.info.timeout.0);
        let fed = self.feed();
        watch.meter.look(&self.run.shared.docker);
        let Self { mut attached, mut run, .. } = *self;
        let read = run.read_live(&mut attached, output);
        // Detached or ended: nothing more is read from it.
        drop(attached);
        run.finish(read.and(fed), &watch, (setup, begun), output)
    }
}

impl Ready {
    /// Sends the program to the waiting shell.
    fn feed(&mut self) -> Result<(), Error> {
        let deadline = Deadline::after(limits::DOCKER_WORK, "limits::DOCKER_WORK");
        self.attached.write(self.program.bytes(), deadline)?;
        self.attached.finish_writing()
    }
}

impl Run {
    /// Nothing was read yet. Without a `nonce`, the start marker is looked for at the very start alone.
    pub(super) fn new(
        shared: &Arc<Shared>,
        container: Container,
        control: &Arc<Control>,
        info: ReattachInfo,
        nonce: &str,
        setup: Setup,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            container,
            control: Arc::clone(control),
            resources: info.limits.unwrap_or(shared.settings.limits),
            info,
            setup,
            reader: Reader::new(nonce),
            has_gap: false,
            is_unreadable: false,
            away: None,
        }
    }

    /// From here on the deadline runs, a cancel finds something to signal, and use is measured.
    pub(super) fn arm(&self, left: Duration) -> Watch {
        let (after, limit) = self.info.timeout;
        self.control.set_deadline(clock::now() + left, Reason::Timeout { limit, after });
        self.control.set_target(self.container.target());
        self.watch()
    }

    /// Its use is measured from here on.
    pub(super) fn watch(&self) -> Watch {
        let killed = self.host_oom_kills();
        let layer_limit = (!self.shared.settings.security.readonly_rootfs).then_some(self.resources.disk);
        let meter =
            self.shared.sampler.watch(self.container.id(), Arc::clone(&self.control), layer_limit, &self.setup.before);
        Watch { meter, killed }
    }

    /// The host's count, where the engine is on this host.
    fn host_oom_kills(&self) -> Option<u64> {
        if self.shared.docker.is_local() { cgroup::host_oom_kills() } else { None }
    }

    /// The outcome of a container that was not started; dropping `self` removes it.
    fn never_ran(&self, error: &Error) -> Box<Outcome> {
        let verdict = setup_verdict(error, &self.control);
        self.control.end();
        let evidence = vec![("containerId", self.container.id().to_owned()), ("image", self.info.image.clone())];
        let timings = Timings { setup: Some(span(self.setup.begun)), ..Timings::default() };
        Box::new(Outcome { verdict, timings, usage: Usage::default(), evidence, script_output: None })
    }

    /// From the end of what was `read` to the end of the container, unless it is left to the next agent.
    pub(super) fn finish(
        mut self,
        read: Result<(), Error>,
        watch: &Watch,
        (setup, begun): (Span, Moment),
        output: &mut dyn Output,
    ) -> End {
        if self.control.is_detached() {
            self.container.detach();
            return End::Detached;
        }
        // The last look, while the kernel still has the counters. The watch on its disk goes on: the script may too.
        watch.meter.look(&self.shared.docker);
        let waited = self.wait_for_end(read, output);
        let (usage, reading) = watch.meter.finish();
        let host_killed = cgroup::rose(watch.killed, self.host_oom_kills());
        if self.control.is_detached() {
            self.container.detach();
            return End::Detached;
        }
        self.reader.finish(output);
        let execution = span(begun);

        let begun = (SystemTime::now(), Instant::now());
        let (verdict, evidence) = self.conclude(waited, &reading, host_killed);
        self.control.end();
        let timings = Timings { setup: Some(setup), execution: Some(execution), cleanup: Some(span(begun)) };
        End::Outcome(
            Box::new(Outcome { verdict, timings, usage, evidence, script_output: None }),
            CleanupGuard::of(self.container),
        )
    }

    /// The verdict and the named facts for the execution's record.
    fn conclude(
        &self,
        waited: Result<i64, Error>,
        reading: &Reading,
        host_killed: bool,
    ) -> (Verdict, Vec<(&'static str, String)>) {
        let found = self.shared.docker.inspect(self.container.id(), false);
        let verdict = match (waited, &found) {
            (Ok(exit_code), Ok(found)) => judge(&self.evidence(exit_code, found, reading, host_killed)),
            (Ok(exit_code), Err(error)) => Verdict::infrastructure(
                Phase::Cleanup,
                format!(
                    "the script ended with exit code {exit_code}, but its container could not be examined: {error}"
                ),
            ),
            (Err(error), _) => self.unknown(&error),
        };
        let mut facts = vec![
            ("containerId", self.container.id().to_owned()),
            ("image", self.info.image.clone()),
            ("network", self.setup.network.clone()),
            ("memoryLimit", self.resources.memory.to_string()),
            ("cpuLimit", self.resources.cpu.to_string()),
            ("pidsLimit", self.resources.pids.to_string()),
            ("diskLimit", self.resources.disk.to_string()),
            ("timeout", seconds(self.info.timeout.0)),
        ];
        if let Some(way) = self.setup.way {
            facts.push(("warm", way.as_str().to_owned()));
        }
        if let Ok(Inspect { image, state, .. }) = found {
            facts.extend(self.shared.image_facts(&image, &self.info.image));
            self.shared.images.note_use(&image);
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

    fn evidence(&self, exit_code: i64, found: &Inspect, reading: &Reading, host_killed: bool) -> Evidence {
        // A reason that came up after the last signal could be sent did not end the script.
        let (reason, sent) = match (&self.setup.ended_by, self.control.sent()) {
            (Some((reason, signal)), _) => (Some(reason.clone()), Some(*signal)),
            (None, sent) => {
                let since = self.info.warm.as_ref().map(|warm| warm.since);
                let ran_less = |than| found.state.ran_for(since).is_some_and(|ran| ran < than);
                let in_time = |reason: &Reason| ended_in_time(reason, exit_code, self.away.is_some(), ran_less);
                (self.control.reason().filter(|reason| sent.is_some() && !in_time(reason)), sent)
            }
        };
        Evidence {
            exit_code,
            started: self.reader.has_started(),
            away: self.away.clone(),
            reason,
            sent,
            oom_killed: found.state.oom_killed,
            oom_kills: reading.oom_kills,
            host_killed,
            pids_refused: reading.pids_refused,
            memory_limit: self.resources.memory,
            pids_limit: self.resources.pids,
            disk_limit: self.resources.disk,
            complaint: self.reader.complaint(),
            stderr: self.reader.stderr_tail().to_vec(),
            hint: self.setup.hint.clone(),
            engine_error: found.state.error.clone(),
            image: self.info.image.clone(),
        }
    }

    /// The verdict on a container whose end could not be learned.
    fn unknown(&self, error: &Error) -> Verdict {
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

fn span(begun: Moment) -> Span {
    Span { started: begun.0, length: begun.1.elapsed() }
}
