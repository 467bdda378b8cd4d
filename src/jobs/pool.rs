//! Threads for work that waits: for the backend, the disk or the engine.
//!
//! A thread is there while there is work. What finds none free waits in line. The line is bounded by those who ask.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::os::{clock, threads};

type Work = Box<dyn FnOnce() + Send>;

/// Threads of one kind. Clones share them.
#[derive(Clone)]
pub(in crate::jobs) struct Pool(Arc<Shared>);

struct Shared {
    /// The threads' name.
    name: &'static str,
    /// How many there may be.
    most: usize,
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
    /// At most `most` threads called `name`.
    pub(in crate::jobs) fn new(name: &'static str, most: usize) -> Self {
        Self(Arc::new(Shared { name, most, state: Mutex::default(), ended: Condvar::new() }))
    }

    /// Has `work` done soon, on another thread.
    pub(in crate::jobs) fn run(&self, work: Work) {
        self.run_within(work, usize::MAX);
    }

    /// The same if fewer than `line` others wait in line; else on this thread.
    pub(in crate::jobs) fn run_within(&self, work: Work, line: usize) {
        let mut state = self.lock();
        if state.waiting.len() >= line {
            drop(state);
            return work();
        }
        state.waiting.push_back(work);
        if state.threads == self.0.most {
            return;
        }
        let own = self.clone();
        match threads::spawn(self.0.name, move || own.work()) {
            Ok(_) => state.threads += 1,
            // Those that are there take it. Where there is none, what waits is dropped, and with it says so.
            Err(error) if state.threads == 0 => {
                log::error!("cannot start a thread {}: {error}", self.0.name);
                let dropped = std::mem::take(&mut state.waiting);
                drop((state, dropped));
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
                log::error!("{} broke the agent, please report this: {panic}", self.0.name);
            }
        }
    }

    /// Drops what waits in line, and waits for what is under way.
    pub(in crate::jobs) fn stop(&self, wait: Duration) {
        let dropped = std::mem::take(&mut self.lock().waiting);
        drop(dropped);
        self.finish(wait);
    }

    /// Waits at most `wait` until all is done.
    pub(in crate::jobs) fn finish(&self, wait: Duration) {
        let until = clock::now() + wait;
        let mut state = self.lock();
        while state.threads > 0 {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                log::warn!("{} is still under way after {wait:?}; it ends with the agent", self.0.name);
                return;
            }
            state = clock::wait(&self.0.state, &self.0.ended, state, left);
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
    use crate::limits;

    #[test]
    fn beyond_the_line_the_caller_does_it_itself() {
        let pool = Pool::new("t-pool", 1);
        let (end, ended) = channel::<()>();
        let (done, dones) = channel();
        pool.run(Box::new(move || {
            let _ = ended.recv_timeout(Duration::from_secs(20));
        }));
        let wait = || std::thread::sleep(Duration::from_millis(1));
        while !pool.lock().waiting.is_empty() {
            wait();
        }
        for n in 0..3 {
            let done = done.clone();
            let by = move || std::thread::current().name().map(str::to_owned);
            pool.run_within(Box::new(move || drop(done.send((n, by())))), 2);
        }
        let (n, by) = dones.try_recv().expect("done on this thread");
        assert!(n == 2 && by.as_deref() != Some("t-pool"), "{n} by {by:?}");
        assert!(dones.try_recv().is_err(), "the others wait");
        drop(end);
        pool.finish(Duration::from_secs(20));
        assert_eq!(dones.try_iter().map(|(n, _)| n).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn what_finds_no_thread_waits_and_a_panic_ends_nothing() {
        let pool = Pool::new("t-pool", limits::HELPER_THREADS);
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
