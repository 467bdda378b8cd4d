//! SIGTERM and SIGINT as something to wait for: blocked in all threads, taken by one.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

/// The signals that end the program, blocked since this was made.
pub(crate) struct Signals(libc::sigset_t);

impl Signals {
    /// Call before any thread starts: threads inherit the mask.
    pub(crate) fn block() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset writes the whole set before anything reads it; the other calls get a pointer to it.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
            libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            Self(set.assume_init())
        }
    }

    pub(crate) fn wait(&self) {
        let mut number = 0;
        // SAFETY: both pointers are to live values of the right types.
        unsafe { libc::sigwait(&raw const self.0, &raw mut number) };
    }

    /// Ends the wait from another thread, as if SIGTERM had come from outside.
    pub(crate) fn raise() {
        // SAFETY: plain calls without pointers; the signal is blocked, so it only wakes the waiter.
        unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
    }
}
