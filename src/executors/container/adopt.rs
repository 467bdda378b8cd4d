//! A container that an earlier agent started. Its output is read from the engine's copy, from its first byte, so that the
//! result has its head too. Which lines were sent live before is the output's business.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::docker::containers::State;
use crate::executors::container::guard::Container;
use crate::executors::container::labels;
use crate::executors::container::run::{Run, Setup};
use crate::executors::container::shared::Shared;
use crate::executors::container::usage::Before;
use crate::executors::container::warm::Pool;
use crate::executors::control::Signal;
use crate::executors::{AdoptError, CleanupGuard, Control, End, Prepared, ReattachInfo, Task};
use crate::job::Output;
use crate::metrics::WarmUse;
use crate::policy::stop::Reason;
use crate::verdict::Span;

/// A container that is there, running or ended.
pub(super) struct Adopted {
    run: Run,
    /// Of its time limit.
    left: Duration,
    /// It had ended when it was found.
    ended: bool,
}

/// Finds the container by the name that it was given, a warm one by its id.
pub(super) fn find(
    (shared, pool): (&Arc<Shared>, &Pool),
    info: &ReattachInfo,
    left: Duration,
    control: &Arc<Control>,
) -> Result<Adopted, AdoptError> {
    let place = info.warm.as_ref().map_or(&info.place, |warm| &warm.id);
    let found = shared.docker.inspect(place, false).map_err(|error| match error.status() {
        Some(404) => AdoptError::Gone(format!("its container {} is not in the engine any more", info.place)),
        _ => AdoptError::Unreachable(error.to_string()),
    })?;
    let mut container = Container::new(shared.docker.clone(), found.id.clone());
    if info.warm.is_some() {
        container = container.with(pool.hold(&found.id));
        // The agent that took it may have been killed before it did.
        if let Err(error) = shared.docker.rename(&found.id, &info.place) {
            log::debug!("{error}");
        }
    }
    if found.state.status == "created" {
        return Err(AdoptError::NotStarted(CleanupGuard::of(container)));
    }
    let setup = Setup {
        begun: (SystemTime::now(), Instant::now()),
        network: String::new(),
        hint: String::new(),
        ended_by: ended_late(&found.state, info),
        before: Before::default(),
        way: info.warm.is_some().then_some(WarmUse::Warm),
    };
    let nonce = labels::nonce(&found.labels).unwrap_or_default();
    let info = ReattachInfo { limits: Some(info.limits.unwrap_or(shared.settings.limits)), ..info.clone() };
    let run = Run::new(shared, container, control, info, nonce, setup);
    Ok(Adopted { run, left, ended: !found.state.running })
}

/// Whether an earlier agent ended it for its time limit and did not live to say so: it ran that long, and it ended as
/// one does that was sent TERM or KILL.
fn ended_late(state: &State, info: &ReattachInfo) -> Option<(Reason, Signal)> {
    let (after, limit) = info.timeout;
    let signal = match state.exit_code {
        143 => Signal::Term,
        137 => Signal::Kill,
        _ => return None,
    };
    let ran = state.ran_for(info.warm.as_ref().map(|warm| warm.since));
    ran.filter(|ran| *ran >= after).map(|_| (Reason::Timeout { limit, after }, signal))
}

impl Prepared for Adopted {
    fn reattach_info(&self) -> ReattachInfo {
        self.run.info.clone()
    }

    fn run(mut self: Box<Self>, _task: &Task, output: &mut dyn Output) -> End {
        let begun = (SystemTime::now(), Instant::now());
        // What has ended has no deadline any more, even if that has passed since.
        let watch = if self.ended { self.run.watch() } else { self.run.arm(self.left) };
        let read = self.run.read_copy(true, output);
        if read.is_ok() && self.run.ended_before_its_start() {
            return End::NeverRan(CleanupGuard::of(self));
        }
        let setup = Span { started: begun.0, length: Duration::ZERO };
        self.run.finish(read, &watch, (setup, begun), output)
    }
}
