//! Threads for calls that wait: for the backend, or for the disk.
//!
//! A thread is there while there is work. What finds none free waits in line. The line is bounded by those who ask: each
//! script has a bounded number of calls under way.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::limits;
use crate::os::threads;

type Work = Box<dyn FnOnce() + Send>;

/// The threads `helper-call`. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Rings when a thread ends.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    threads: usize,
}

impl Pool {
    /// Has `work` done soon, on another thread.
    pub(super) fn run(&self, work: Work) {
        let mut state = self.lock();
        state.waiting.push_back(work);
        if state.threads == limits::HELPER_THREADS {
            return;
        }
        let own = self.clone();
        match threads::spawn("helper-call", move || own.work()) {
            Ok(_) => state.threads += 1,
            // Those that are there take it. Where there is none, what waits is dropped, and with it says so.
            Err(error) if state.threads == 0 => {
                log::error!("cannot start a thread for the call of a script: {error}");
                state.waiting.clear();
            }
            Err(_) => {}
        }
    }

    fn work(&self) {
        loop {
            let mut state = self.lock();
            let Some(work) = state.waiting.pop_front() else {
                state.threads -= 1;
                self.0.ended.notify_all();
                return;
            };
            drop(state);
            if let Err(panic) = threads::guarded(work) {
                log::error!("the call of a script broke the agent, please report this: {panic}");
            }
        }
    }

    /// Waits for the calls under way. What waits in line is dropped: its script asks the next agent.
    pub(super) fn stop(&self, wait: Duration) {
        let mut state = self.lock();
        let dropped = std::mem::take(&mut state.waiting);
        let (state, ended) = self
            .0
            .ended
            .wait_timeout_while(state, wait, |state| state.threads > 0)
            .unwrap_or_else(PoisonError::into_inner);
        drop((state, dropped));
        if ended.timed_out() {
            log::warn!("calls of scripts are still under way after {wait:?}; they end with the agent");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_finds_no_thread_waits_and_a_panic_ends_nothing() {
        let pool = Pool::default();
        let (begun, begins) = channel();
        let (end, ended) = channel::<()>();
        let ended = Arc::new(Mutex::new(ended));
        let count = limits::HELPER_THREADS + 10;
        for n in 0..count {
            let (begun, ended) = (begun.clone(), Arc::clone(&ended));
            pool.run(Box::new(move || {
                let _ = begun.send(n);
                let _ = ended.lock().expect("a lock").recv_timeout(Duration::from_secs(20));
                assert!(n % 2 == 0, "as planned");
            }));
        }
        for _ in 0..limits::HELPER_THREADS {
            begins.recv_timeout(Duration::from_secs(20)).expect("it begins");
        }
        assert!(begins.recv_timeout(Duration::from_millis(50)).is_err(), "more than there are threads");
        drop(begun);
        for _ in 0..count {
            let _ = end.send(());
        }
        assert_eq!(begins.iter().count(), 10);
        pool.stop(Duration::from_secs(20));
        assert_eq!(pool.lock().threads, 0, "the threads do not end");
    }
}
