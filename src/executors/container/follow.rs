//! Reads the output of a container to its end, whatever the engine does meanwhile.
//!
//! Usually the live stream has all of it, and its end is the end of the container. But a stream may end before: the engine
//! was restarted and left the container running, or a connection broke. Then the output has a gap, which the engine's copy
//! fills: it is read from its first byte, and on to the container's end. An engine that is away is waited for as long as
//! the job may run; its time limit and a cancel hold meanwhile. An adopted container has no live stream, and is read from
//! the copy alone.

use std::time::Instant;

use crate::docker::containers::{Attached, Sink, short};
use crate::docker::{self, Deadline, Error};
use crate::executors::container::run::Run;
use crate::job::Output;
use crate::limits;
use crate::wire::frames::FrameError;

impl Run {
    /// Reads the live stream to its end.
    pub(super) fn read_live(&mut self, attached: &mut Attached, output: &mut dyn Output) -> Result<(), Error> {
        self.read(output, |_, _, sink| attached.follow(sink))
    }

    /// Reads the engine's copy, and on to the end of a container that `runs`. Afterwards there is no gap, unless it broke.
    pub(super) fn read_copy(&mut self, runs: bool, output: &mut dyn Output) -> Result<(), Error> {
        self.reader.rewind();
        self.has_gap = false;
        let deadline = match runs {
            // The end of its time limit ends the container, and with it this; after that the engine has had its time.
            true => Deadline::after(
                self.info.timeout.0 + limits::KILL_PATIENCE * 2 + limits::DOCKER_WORK,
                "the job's time limit",
            ),
            false => Deadline::after(limits::DOCKER_WORK, "limits::DOCKER_WORK"),
        };
        self.read(output, |docker, id, sink| docker.logs(id, runs, deadline, sink))?;
        let is_stopped = self.control.is_detached() || self.control.is_given_up();
        if !runs || is_stopped || !self.reader.is_whole_copy() {
            return Ok(());
        }
        // An engine that follows its copy ends before a last line without an end. The copy of what has ended has it.
        self.reader.rewind();
        let deadline = Deadline::after(limits::DOCKER_WORK, "limits::DOCKER_WORK");
        self.read(output, |docker, id, sink| docker.logs(id, false, deadline, sink))
    }

    /// Reads a source to its end. That the job is detached or given up is an end too.
    fn read(
        &mut self,
        output: &mut dyn Output,
        source: impl FnOnce(&docker::Client, &str, Sink<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Self { reader, control, shared, container, .. } = self;
        let (docker, id) = (&shared.docker, container.id());
        let doing = || format!("read the output of container {}", short(id));
        let broke = |error: FrameError| Error::Protocol { doing: doing(), what: error.to_string() };
        let mut heard = Instant::now();
        let read = source(docker, id, &mut |piece| {
            let (is_quiet, is_copy) = (piece.is_empty(), reader.is_copy());
            if !is_quiet {
                heard = Instant::now();
            }
            let is_given_up = control.is_given_up() && (is_quiet || is_copy);
            if control.is_detached() || is_given_up || !is_copy && is_over(docker, id, &mut heard) {
                return Err(Error::Stopped { doing: doing() });
            }
            let fed = reader.feed(piece, output);
            output.settle();
            fed.map_err(broke)
        });
        match read {
            Err(Error::Stopped { .. }) => Ok(()),
            read => read.and_then(|()| reader.end_of_source().map_err(broke)),
        }
    }

    /// Waits for the container's end, fills the gaps in its output, and gives its exit code. `read` is how the reading
    /// ended. Usually the container has ended with it.
    pub(super) fn wait_for_end(&mut self, read: Result<(), Error>, output: &mut dyn Output) -> Result<i64, Error> {
        let stopped = || Error::Stopped { doing: "wait for the container's end".to_owned() };
        // For an engine that answers, but not with the end of what does not run any more.
        let mut patience = None;
        if let Err(error) = read {
            self.note_gap(&error, output);
        }
        loop {
            if self.control.is_detached() {
                return Err(stopped());
            }
            let looked = if self.has_gap { self.fill_gap(&mut patience, output) } else { self.wait_a_slice() };
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
                self.note_gap(&error, output);
            } else if self.is_patience_over(&mut patience) {
                return Err(error);
            }
            std::thread::sleep(limits::FOLLOW_TICK);
        }
    }

    /// The exit code, if the container ends within a slice of time.
    fn wait_a_slice(&mut self) -> Result<Option<i64>, Error> {
        let slice = Deadline::after(limits::WAIT_SLICE, "limits::WAIT_SLICE");
        match self.shared.docker.wait(self.container.id(), slice) {
            // The stream has ended and the script has not, or the engine says nothing at all.
            Err(Error::Timeout { .. }) if self.runs()? => {
                self.has_gap = !self.is_unreadable;
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// Reads what the gap has, to the end of a container that runs. A copy that cannot be read is said once.
    fn fill_gap(&mut self, patience: &mut Option<Deadline>, output: &mut dyn Output) -> Result<Option<i64>, Error> {
        let runs = self.runs()?;
        let Err(error) = self.read_copy(runs, output) else { return Ok(None) };
        if is_away(&error) && (runs || !self.is_patience_over(patience)) {
            self.note_gap(&error, output);
            std::thread::sleep(limits::FOLLOW_TICK);
            return Ok(None);
        }
        log::warn!("{error}; going on without that output");
        output.system(&format!("the output was cut off, lines may be missing: {error}"));
        output.settle();
        self.is_unreadable = runs;
        Ok(None)
    }

    /// The output has a gap from here on, which the copy will fill.
    fn note_gap(&mut self, error: &Error, output: &mut dyn Output) {
        if !self.has_gap || self.away.is_none() {
            log::warn!("{error}; going on with the engine's copy of the output");
            output.system(&format!("the engine's stream broke, going on with its copy of the output: {error}"));
            output.settle();
        }
        self.has_gap = true;
        self.away.get_or_insert_with(|| error.to_string());
    }

    /// Whether the time of `jobs.cleanupTimeout`, which begins with the first call, is over.
    fn is_patience_over(&self, patience: &mut Option<Deadline>) -> bool {
        let whole = || Deadline::after(self.shared.jobs.cleanup_timeout, "jobs.cleanupTimeout");
        patience.get_or_insert_with(whole).left().is_none()
    }

    /// Whether the container runs.
    fn runs(&self) -> Result<bool, Error> {
        self.shared.docker.inspect(self.container.id(), false).map(|found| found.state.running)
    }

    /// Whether the container ended before the script began: its shell lost its stdin before it had the whole program.
    pub(super) fn ended_before_its_start(&self) -> bool {
        let is_stopped = self.control.is_detached() || self.control.is_given_up();
        !self.reader.has_started()
            && !is_stopped
            // Its own words why the script could not be started are an end.
            && self.reader.complaint().is_none()
            // Where the engine does not say so, it is not taken for that.
            && self.runs().is_ok_and(|runs| !runs)
    }
}

/// Whether nothing was `heard` for a while, and the container is over although its stream has not ended.
fn is_over(docker: &docker::Client, id: &str, heard: &mut Instant) -> bool {
    if heard.elapsed() < limits::SILENCE_CHECK {
        return false;
    }
    *heard = Instant::now();
    match docker.inspect(id, false) {
        Ok(found) => !found.state.running,
        Err(error) => error.status() == Some(404),
    }
}

/// Whether the engine is out of reach, and not only of another opinion.
fn is_away(error: &Error) -> bool {
    matches!(error, Error::Connect { .. } | Error::Io { .. } | Error::Timeout { .. } | Error::Protocol { .. })
}
