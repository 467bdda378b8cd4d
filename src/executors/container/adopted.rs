//! A container that an earlier agent started: read from the engine's own copy of its output, from the beginning, and
//! followed live to its end.
//!
//! The copy is read whole, so that the result has its head too; which lines were sent live before is the output's
//! business.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::docker::containers::State;
use crate::executors::complaint::complaint;
use crate::executors::container::run::{Base, Container, Followed};
use crate::executors::container::{Shared, labels};
use crate::executors::control::Signal;
use crate::executors::{AdoptError, CleanupGuard, Control, End, Prepared, ReattachInfo, Task};
use crate::job::Output;
use crate::policy::stop::Reason;
use crate::verdict::Span;

/// A container that is there, running or ended.
pub(super) struct Adopted {
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
    pub(super) fn find(
        shared: &Arc<Shared>,
        info: &ReattachInfo,
        left: Duration,
        control: &Arc<Control>,
    ) -> Result<Self, AdoptError> {
        let found = match shared.docker.inspect(&info.place, false) {
            Ok(found) => found,
            Err(error) if error.status() == Some(404) => {
                return Err(AdoptError::Gone(format!("its container {} is not in the engine any more", info.place)));
            }
            Err(error) => return Err(AdoptError::Unreachable(error.to_string())),
        };
        let container = Container::new(shared.docker.clone(), found.id.clone());
        if found.state.status == "created" {
            return Err(AdoptError::NotStarted(CleanupGuard::of(container)));
        }
        let base = Base {
            shared: Arc::clone(shared),
            container,
            control: Arc::clone(control),
            resources: info.limits.unwrap_or(shared.settings.limits),
            layer_limited: !shared.settings.security.readonly_rootfs,
            timeout: info.timeout,
            begun: (SystemTime::now(), Instant::now()),
            name: info.place.clone(),
            image: info.image.clone(),
            network: String::new(),
            nonce: labels::nonce(&found.labels).unwrap_or_default().to_owned(),
            hint: String::new(),
            ended_by: ended_late(&found.state, info.timeout),
        };
        Ok(Self { base, left, ended: !found.state.running })
    }
}

impl Prepared for Adopted {
    fn reattach_info(&self) -> ReattachInfo {
        self.base.reattach_info()
    }

    fn run(mut self: Box<Self>, _task: &Task, output: &mut dyn Output) -> End {
        let begun = self.base.begun;
        let killed_before = self.base.host_oom_kills();
        // What has ended has no deadline any more, even if that has passed since.
        let meter = if self.ended { self.base.measure() } else { self.base.arm(self.left) };
        let mut followed = Followed::default();
        self.base.read_copy(&mut followed, true, output);
        if !followed.started
            && followed.broke.is_none()
            && !self.base.control.is_detached()
            && !self.base.control.is_given_up()
            // Its own words why the script could not be started are an end.
            && complaint(&self.base.nonce, &[followed.stderr.tail(), &followed.held].concat()).is_none()
            // Where the engine does not say so, it is not taken for that.
            && self.base.runs().is_ok_and(|runs| !runs)
        {
            // The shell's stdin ended before the program had come: half of it never runs.
            let _ = meter.finish();
            return End::NeverRan(CleanupGuard::of(self));
        }
        let setup = Span { started: begun.0, length: Duration::ZERO };
        self.base.finish(followed, &meter, (setup, begun), killed_before, output)
    }
}
