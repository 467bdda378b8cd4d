//! Signals, taken one at a time by a thread that waits for them, without a signal handler.
#![allow(unsafe_code)]

use std::time::Duration;

use crate::limits;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};

/// A signal of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: end.
    Terminate,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The signals are blocked in every thread started after this was made.
#[derive(Debug)]
pub struct Signals {
    set: libc::sigset_t,
    /// SIGHUP was ignored when the program was started, as `nohup` does it.
    hang_up_ignored: bool,
}

/// A thread that waits for a signal; dropping this ends it.
#[derive(Debug)]
pub struct Watch {
    stop: Stop,
    thread: Option<Thread>,
}

impl Signals {
    /// Blocks SIGTERM, SIGINT and SIGHUP. `main` must call it before any thread is started: threads inherit it.
    pub fn block() -> Self {
        // SAFETY: `sigset_t` is plain data, initialised by `sigemptyset` before anything reads it; the calls only
        // write to `set` and to this thread's signal mask.
        let set = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for number in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, number);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            set
        };
        Self { set, hang_up_ignored: is_ignored(libc::SIGHUP) }
    }

    /// Waits at most `wait` for the next signal.
    pub fn wait(&self, wait: Duration) -> Option<Signal> {
        wait_for(&self.set, wait)
    }

    /// Calls `act` at each SIGTERM, SIGINT or SIGHUP, on a separate thread, while the [`Watch`] lives: for a command that a
    /// person waits for. A SIGHUP that was ignored at the start stays ignored.
    pub fn on_termination(&self, act: impl Fn() + Send + 'static) -> std::io::Result<Watch> {
        let (stop, set, hang_up_ignored) = (Stop::new(), self.set, self.hang_up_ignored);
        let own = stop.clone();
        let thread = threads::spawn("signals", move || {
            while !own.is_set() {
                match wait_for(&set, limits::SIGNAL_TICK) {
                    Some(Signal::Terminate) => act(),
                    Some(Signal::Reload) if !hang_up_ignored => act(),
                    _ => {}
                }
            }
        })?;
        Ok(Watch { stop, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            thread.join_within(limits::THREAD_JOIN_WAIT);
        }
    }
}

/// Whether this program ignores the signal.
fn is_ignored(number: libc::c_int) -> bool {
    // SAFETY: `sigaction` is plain data that the call fills in; a null new action changes nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(number, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

fn wait_for(set: &libc::sigset_t, wait: Duration) -> Option<Signal> {
    let wait = libc::timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: libc::c_long::from(wait.subsec_nanos().cast_signed()),
    };
    // SAFETY: both pointers are to live values of the right type; no information is asked back (null).
    let number = unsafe { libc::sigtimedwait(set, std::ptr::null_mut(), &raw const wait) };
    match number {
        libc::SIGTERM | libc::SIGINT => Some(Signal::Terminate),
        libc::SIGHUP => Some(Signal::Reload),
        // Timed out, or interrupted: the caller's loop comes again.
        _ => None,
    }
}
