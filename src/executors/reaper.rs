//! The thread that ends jobs: it watches the deadlines of all of them and sends TERM, then KILL.
//!
//! One thread for all jobs, since each step is one short call to the engine. It holds no lock while it makes one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::executors::control::Control;
use crate::os::bell::Bell;
use crate::os::clock;
use crate::os::pulse::{self, Pulse};
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};
use crate::policy::stop::Pace;

/// A handle to the reaper.
#[derive(Debug, Clone)]
pub struct Reaper {
    bell: Bell,
    watched: Arc<Mutex<Vec<Arc<Control>>>>,
    stop: Stop,
}

impl Reaper {
    /// Starts the thread, which touches `pulse` before each of its steps.
    pub fn start(pulse: Pulse) -> std::io::Result<(Self, Thread)> {
        let reaper = Self { bell: Bell::default(), watched: Arc::default(), stop: Stop::new() };
        let own = reaper.clone();
        let thread = threads::spawn("reaper", move || {
            let _watched = pulse.enter();
            own.run();
        })?;
        Ok((reaper, thread))
    }

    /// Watches one more job; `pace` is how hard it is ended.
    pub fn control(&self, pace: Pace) -> Arc<Control> {
        let control = Control::new();
        self.watch(&control, pace);
        control
    }

    /// The same for a job that has its handle already.
    pub fn watch(&self, control: &Arc<Control>, pace: Pace) {
        control.watched_by(self.bell.clone(), pace);
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(control));
    }

    /// Ends the thread; jobs that still run are not watched any more.
    pub fn stop(&self) {
        self.stop.set();
        self.bell.ring();
    }

    fn run(&self) {
        while !self.stop.is_set() {
            pulse::touch();
            let watched = {
                let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
                watched.retain(|control| !control.has_ended());
                watched.clone()
            };
            let next = watched.iter().filter_map(|control| reap(control)).min();
            self.bell.wait(next);
        }
    }
}

/// Does what is due for one job; gives the moment of its next step.
fn reap(control: &Control) -> Option<Instant> {
    pulse::touch();
    let (signal, next) = control.step(clock::now());
    if let Some((signal, target)) = signal
        && let Err(error) = target.signal(signal)
    {
        log::warn!("could not send {} to end a job: {error}", signal.as_str());
    }
    next
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::executors::control::{Signal, Target};
    use crate::os::pulse::Pulses;
    use crate::policy::stop::Reason;

    struct Recorder(crossbeam_channel::Sender<(Signal, Instant)>);

    impl Target for Recorder {
        fn signal(&self, signal: Signal) -> Result<(), String> {
            self.0.send((signal, Instant::now())).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn a_cancel_is_term_then_kill_then_given_up() {
        let (reaper, thread) = Reaper::start(Pulse::unwatched()).expect("start");
        let (sender, seen) = crossbeam_channel::bounded(10);
        let step = Duration::from_millis(40);
        let control = reaper.control(Pace { grace: step, again: step * 10, patience: step * 2 });
        control.set_deadline(
            Instant::now() + Duration::from_secs(60),
            Reason::Timeout { limit: "timeout", after: Duration::from_secs(60) },
        );
        control.request(Reason::Cancelled("user"));
        assert!(seen.recv_timeout(step).is_err(), "nothing to signal yet");
        control.set_target(Arc::new(Recorder(sender)));
        let wait = Duration::from_secs(5);
        let (first, at) = seen.recv_timeout(wait).expect("term");
        let (second, later) = seen.recv_timeout(wait).expect("kill");
        assert_eq!((first, second), (Signal::Term, Signal::Kill));
        assert!(later - at >= step);
        let until = Instant::now() + wait;
        while !control.is_given_up() && Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(control.is_given_up());
        assert_eq!(control.reason(), Some(Reason::Cancelled("user")));
        control.end();
        reaper.stop();
        assert_eq!(thread.join_within(wait), threads::Ended::Returned);
    }
    /// Does not come back from its step until told to.
    struct Hanging(crossbeam_channel::Sender<()>, crossbeam_channel::Receiver<()>);

    impl Target for Hanging {
        fn signal(&self, _: Signal) -> Result<(), String> {
            self.0.send(()).map_err(|error| error.to_string())?;
            self.1.recv_timeout(Duration::from_secs(20)).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn one_that_hangs_in_a_step_is_noticed_and_one_that_waits_for_work_is_not() {
        let (pulses, longest) = (Pulses::new(), Duration::from_millis(300));
        let (reaper, thread) = Reaper::start(pulses.part("reaper", longest)).expect("start");
        let pace = Pace { grace: longest, again: longest, patience: longest };
        let control = reaper.control(pace);
        // Each ring is a turn of the loop.
        let turn = |for_so_long| {
            let until = Instant::now() + for_so_long;
            while Instant::now() < until {
                reaper.bell.ring();
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        turn(longest * 2);
        assert_eq!(pulses.healthy(Instant::now()), Ok(()));
        let ((began, begun), (go, went)) = (crossbeam_channel::bounded(10), crossbeam_channel::bounded(10));
        control.set_target(Arc::new(Hanging(began, went)));
        control.request(Reason::Cancelled("user"));
        begun.recv_timeout(Duration::from_secs(10)).expect("it is in its step");
        turn(longest + longest / 10);
        assert_eq!(pulses.healthy(Instant::now()).expect_err("it hangs").part, "reaper");
        for _ in 0..10 {
            go.send(()).expect("room");
        }
        turn(longest / 2);
        assert_eq!(pulses.healthy(Instant::now()), Ok(()), "it makes progress again");
        control.end();
        reaper.stop();
        assert_eq!(thread.join_within(Duration::from_secs(5)), threads::Ended::Returned);
        assert_eq!(pulses.healthy(Instant::now() + longest * 2), Ok(()), "what has ended is not stuck");
    }
}
