//! The scheduler of the simulation: real threads, one of which runs at a time, a clock that moves only while all wait, and
//! one seed for every choice. So a seed always does the same.
//!
//! A thread keeps the turn until it waits (see [`crate::os::clock`]). Then one thread is drawn among those that may go on: it
//! has not checked since another thread made a step, or its wait is over. If there is none, time jumps to the end of the
//! first wait. A kill unwinds every thread of the agent at its next step or wait; nothing that they do while unwinding
//! reaches the simulated world, which asks [`Sim::is_killed`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, TryRecvError, TrySendError};

/// Turns after which a seed counts as one that never ends.
const TURNS: u64 = 3_000_000;
/// Lines kept for the report of a failure.
const TRACE: usize = 400;

thread_local! {
    static HERE: RefCell<Option<(Sim, usize)>> = const { RefCell::new(None) };
}

/// The panic payload that unwinds a killed thread.
struct Killed;

/// One simulation, shared by clones.
#[derive(Debug, Clone)]
pub(crate) struct Sim(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    base: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    now: Duration,
    random: u64,
    threads: Vec<Member>,
    /// Whose turn it is.
    turn: usize,
    turns: u64,
    /// Rises with each step of a thread.
    changes: u64,
    steps: u64,
    kill_at: Option<u64>,
    /// Thousandths of writes that the disk does not take.
    disk_failing: u64,
    killed: bool,
    trace: VecDeque<String>,
    trouble: Option<String>,
}

#[derive(Debug)]
struct Member {
    name: String,
    /// Dies in a kill: all but the test's own thread.
    mortal: bool,
    state: At,
    /// Made a step since its last wait.
    active: bool,
    handle: Option<thread::Thread>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Working,
    Waiting { until: Duration, seen: u64 },
    Ended,
}

/// The simulation that this thread is part of.
pub(crate) fn here() -> Option<Sim> {
    HERE.with_borrow(|here| here.as_ref().map(|(sim, _)| sim.clone()))
}

fn me() -> usize {
    HERE.with_borrow(|here| here.as_ref().map_or(0, |(_, number)| *number))
}

/// A thread's place, for the thread that joins it.
#[derive(Debug)]
pub(crate) struct Seat(Sim, usize);

/// A thread's place, for itself.
pub(crate) struct Ticket(Sim, usize);

/// A place for a thread that is about to be started by one of a simulation.
pub(crate) fn enroll(name: &str) -> Option<(Seat, Ticket)> {
    let sim = here()?;
    sim.step("thread");
    let number = {
        let mut state = sim.lock();
        let mine = me();
        state.threads[mine].active = true;
        state.threads.push(Member {
            name: name.to_owned(),
            mortal: true,
            state: At::Working,
            active: true,
            handle: None,
        });
        state.threads.len() - 1
    };
    Some((Seat(sim.clone(), number), Ticket(sim, number)))
}

impl Seat {
    /// Waits for the thread's end; whether it came.
    pub(crate) fn ends_within(&self, wait: Duration) -> bool {
        let until = self.0.elapsed() + wait;
        loop {
            if self.0.lock().threads[self.1].state == At::Ended {
                return true;
            }
            if self.0.elapsed() >= until {
                return false;
            }
            self.0.pause_until(until);
        }
    }
}

/// Gives up the turn when the thread ends, also by a panic.
struct Leaving(Sim, usize);

impl Drop for Leaving {
    fn drop(&mut self) {
        HERE.set(None);
        let mut state = self.0.lock();
        state.threads[self.1].state = At::Ended;
        state.changes += 1;
        pass_on(&mut state);
    }
}

impl Ticket {
    /// Runs `body` as this thread's part of the simulation, if it is of one.
    pub(crate) fn use_up(ticket: Option<Self>, body: impl FnOnce()) {
        let Some(Self(sim, number)) = ticket else { return body() };
        HERE.set(Some((sim.clone(), number)));
        let _leaving = Leaving(sim.clone(), number);
        // A thread that is killed before its first step lets go of what it holds before it counts as ended: the next agent
        // wants the lock of the records.
        let body = body;
        sim.lock().threads[number].handle = Some(thread::current());
        sim.await_turn(number);
        sim.die_if_killed(number);
        body();
    }
}

/// Draws the next thread; time moves if none can go on.
fn pass_on(state: &mut State) {
    state.turns += 1;
    loop {
        let (changes, now, killed) = (state.changes, state.now, state.killed);
        let may = |member: &Member| match member.state {
            At::Working => true,
            At::Waiting { until, seen } => seen < changes || until <= now || (killed && member.mortal),
            At::Ended => false,
        };
        let count = state.threads.iter().filter(|member| may(member)).count();
        if count > 0 {
            let drawn = usize::try_from(next(&mut state.random) % count as u64).unwrap_or(0);
            let chosen = state.threads.iter().enumerate().filter(|(_, member)| may(member)).nth(drawn);
            if let Some((number, member)) = chosen {
                if let Some(handle) = &member.handle {
                    handle.unpark();
                }
                state.turn = number;
            }
            return;
        }
        let first = state.threads.iter().filter_map(|member| match member.state {
            At::Waiting { until, .. } => Some(until),
            _ => None,
        });
        match first.min() {
            Some(until) => state.now = until,
            // All threads have ended.
            None => return,
        }
    }
}

/// splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Sim {
    /// Makes the calling thread the first of a simulation, for the time of `act`.
    pub(crate) fn run<T>(seed: u64, act: impl FnOnce(&Self) -> T) -> T {
        let mut random = seed;
        next(&mut random);
        let state = State {
            now: Duration::ZERO,
            random,
            threads: vec![Member {
                name: "test".to_owned(),
                mortal: false,
                state: At::Working,
                active: true,
                handle: Some(thread::current()),
            }],
            turn: 0,
            turns: 0,
            changes: 1,
            steps: 0,
            kill_at: None,
            disk_failing: 0,
            killed: false,
            trace: VecDeque::new(),
            trouble: None,
        };
        let sim = Self(Arc::new(Shared { base: Instant::now(), state: Mutex::new(state) }));
        HERE.set(Some((sim.clone(), 0)));
        let result = act(&sim);
        HERE.set(None);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the simulation began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.lock().now
    }

    pub(crate) fn now(&self) -> Instant {
        self.0.base + self.elapsed()
    }

    /// The same day for every seed.
    pub(crate) fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.elapsed()
    }

    /// A number below `bound`, which is above 0.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        next(&mut self.lock().random) % bound
    }

    /// Whether something of this chance in a thousand happens.
    pub(crate) fn chance(&self, thousandths: u64) -> bool {
        self.below(1000) < thousandths
    }

    pub(crate) fn fill(&self, out: &mut [u8]) {
        let mut state = self.lock();
        for piece in out.chunks_mut(8) {
            let bytes = next(&mut state.random).to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
    }

    /// Remembers a line for the report of a failure.
    pub(crate) fn trace(&self, text: impl AsRef<str>) {
        let mut state = self.lock();
        let line = format!("{:>9.3} {} {}", state.now.as_secs_f64(), state.threads[me()].name, text.as_ref());
        if state.trace.len() >= TRACE {
            state.trace.pop_front();
        }
        state.trace.push_back(line);
    }

    pub(crate) fn traced(&self) -> String {
        self.lock().trace.iter().fold(String::new(), |all, line| all + line + "\n")
    }

    /// A seed that never ends.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.lock().trouble.clone()
    }

    /// Kills at the step of this number, counted from now.
    pub(crate) fn kill_at(&self, steps: u64) {
        let mut state = self.lock();
        state.kill_at = Some(state.steps + steps);
    }

    /// From now on this share of writes fails, in thousandths.
    pub(crate) fn fail_disk(&self, thousandths: u64) {
        self.lock().disk_failing = thousandths;
    }

    pub(crate) fn disk_fails(&self) -> bool {
        let failing = self.lock().disk_failing;
        failing > 0 && self.chance(failing)
    }

    /// Kills now; to be called by the test's own thread.
    pub(crate) fn kill(&self) {
        let mut state = self.lock();
        state.killed = true;
        state.changes += 1;
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.lock().killed
    }

    /// Threads of the agent that have not ended.
    pub(crate) fn alive(&self) -> usize {
        self.lock().threads.iter().filter(|member| member.mortal && member.state != At::Ended).count()
    }

    /// After a kill, or a stop, when all threads of the agent have ended: the next agent may live.
    pub(crate) fn revive(&self) {
        let mut state = self.lock();
        state.killed = false;
        state.kill_at = None;
        state.threads.truncate(1);
    }

    /// A step of a thread, which may be killed right after it.
    pub(crate) fn step(&self, what: &'static str) {
        let number = me();
        {
            let mut state = self.lock();
            state.threads[number].active = true;
            if state.threads[number].mortal {
                state.steps += 1;
                if state.kill_at == Some(state.steps) {
                    state.killed = true;
                    state.changes += 1;
                    drop(state);
                    self.trace(format!("KILLED at {what}"));
                }
            }
        }
        self.die_if_killed(number);
    }

    fn die_if_killed(&self, number: usize) {
        let dies = {
            let state = self.lock();
            state.killed && state.threads[number].mortal
        };
        // A second panic would end the process.
        if dies && !thread::panicking() {
            resume_unwind(Box::new(Killed));
        }
    }

    /// Waits until a thread makes a step, at most `wait`.
    pub(crate) fn pause(&self, wait: Duration) {
        self.pause_until(self.elapsed() + wait);
    }

    /// Sleeps for the whole of `wait`.
    pub(crate) fn sleep(&self, wait: Duration) {
        let until = self.elapsed() + wait;
        while self.elapsed() < until {
            self.pause_until(until);
        }
    }

    fn pause_until(&self, until: Duration) {
        let number = me();
        self.die_if_killed(number);
        {
            let mut state = self.lock();
            if state.killed && state.threads[number].mortal {
                // Unwinding: no wait any more.
                state.now = state.now.max(until);
                return;
            }
            if std::mem::take(&mut state.threads[number].active) {
                state.changes += 1;
            }
            if state.turns > TURNS && state.trouble.is_none() {
                state.trouble = Some(format!("{TURNS} turns are over at {:?}", state.now));
                state.killed = true;
            }
            let seen = state.changes;
            state.threads[number].state = At::Waiting { until, seen };
            pass_on(&mut state);
        }
        self.await_turn(number);
        self.die_if_killed(number);
    }

    fn await_turn(&self, number: usize) {
        loop {
            {
                let mut state = self.lock();
                if state.turn == number {
                    state.threads[number].state = At::Working;
                    return;
                }
            }
            thread::park();
        }
    }

    pub(crate) fn receive<T>(&self, from: &Receiver<T>, wait: Duration) -> Result<T, RecvTimeoutError> {
        let until = self.elapsed() + wait;
        loop {
            match from.try_recv() {
                Ok(value) => {
                    self.lock().threads[me()].active = true;
                    return Ok(value);
                }
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) if self.elapsed() >= until => return Err(RecvTimeoutError::Timeout),
                Err(TryRecvError::Empty) => self.pause_until(until),
            }
        }
    }

    pub(crate) fn send<T>(&self, to: &Sender<T>, value: T, wait: Duration) -> Result<(), SendTimeoutError<T>> {
        let until = self.elapsed() + wait;
        let mut value = value;
        loop {
            value = match to.try_send(value) {
                Ok(()) => {
                    self.lock().threads[me()].active = true;
                    return Ok(());
                }
                Err(TrySendError::Disconnected(back)) => return Err(SendTimeoutError::Disconnected(back)),
                Err(TrySendError::Full(back)) if self.elapsed() >= until => {
                    return Err(SendTimeoutError::Timeout(back));
                }
                Err(TrySendError::Full(back)) => back,
            };
            self.pause_until(until);
        }
    }
}
