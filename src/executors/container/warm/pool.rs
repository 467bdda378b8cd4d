//! The containers that wait, and how a job takes one.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fit::{Fit, Shape};
use crate::config::types::{PullPolicy, Warm};
use crate::docker::Deadline;
use crate::docker::containers::{Attached, short};
use crate::executors::container::guard::Container;
use crate::executors::container::shared::Shared;
use crate::executors::container::spec::Spec;
use crate::executors::container::usage::Before;
use crate::executors::helpers::SOCKET;
use crate::job::Language;
use crate::limits;
use crate::metrics::{self, WarmEnd, WarmUse};
use crate::os::bell::Bell;
use crate::os::clock;
use crate::os::stop::Stop;
use crate::os::threads::Thread;

/// Makes a folder for the socket of a script that is not known yet, or says why there is none.
pub type Folders = Box<dyn Fn() -> Result<PathBuf, String> + Send + Sync>;

/// The containers that wait. Clones share them.
#[derive(Clone, Default)]
pub(in crate::executors::container) struct Pool(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    folders: Mutex<Option<Folders>>,
    bell: Bell,
    stop: Stop,
    /// Jobs that wait for the engine: nothing is made meanwhile.
    busy: AtomicUsize,
}

#[derive(Default)]
pub(super) struct State {
    /// The configuration that the pool is for; `None` before there is one.
    pub(super) shared: Option<Arc<Shared>>,
    pub(super) waiting: Vec<Waiting>,
    /// To be removed.
    pub(super) leaving: Vec<Waiting>,
    /// Containers that were taken, with the names that they get, and when.
    pub(super) renames: Vec<(Instant, String, String)>,
    /// The engine is left to jobs until then.
    rest_until: Option<Instant>,
    /// Why fewer wait than are wanted.
    pub(super) trouble: Option<String>,
    /// Names and ids of the containers that are the pool's, or that a job of this process has taken.
    held: BTreeSet<String>,
    thread: Option<Thread>,
}

/// A container that waits for its job.
pub(super) struct Waiting {
    // Dropped in this order: the stream before the container.
    pub(super) attached: Attached,
    pub(super) socket: Option<SocketFolder>,
    pub(super) container: Container,
    pub(super) nonce: String,
    pub(super) language: Language,
    pub(super) shape: Shape,
    /// The id of its image.
    pub(super) image: String,
    pub(super) before: Before,
    pub(super) since: Instant,
}

/// What a job has taken.
pub(in crate::executors::container) struct Taken {
    pub(in crate::executors::container) attached: Attached,
    pub(in crate::executors::container) container: Container,
    pub(in crate::executors::container) nonce: String,
    pub(in crate::executors::container) before: Before,
}

/// For `status`: how many wait and how many should, and why fewer do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolState {
    pub waiting: usize,
    pub wanted: usize,
    pub trouble: Option<String>,
}

/// The mounted folder of a container that waits; removed with it.
pub(super) struct SocketFolder(pub(super) PathBuf);

impl Drop for SocketFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

impl SocketFolder {
    /// Becomes the folder of a job, with the job's socket in it. A mount stays on its folder, whatever that is called.
    fn become_folder_of(self, job: &Path) -> io::Result<()> {
        std::fs::rename(job.join(SOCKET), self.0.join(SOCKET))?;
        std::fs::remove_dir(job)?;
        std::fs::rename(&self.0, job)
    }
}

/// While one is held, the pool makes nothing.
pub(in crate::executors::container) struct Busy(Pool);

impl Drop for Busy {
    fn drop(&mut self) {
        let is_last = self.0.0.busy.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last && self.0.is_kept() {
            self.0.state().rest_until = Some(clock::now() + limits::WARM_REST);
            self.0.ring();
        }
    }
}

/// Marks a container as one that somebody here sees to, until it is dropped.
struct Held(Pool, String);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state().held.remove(&self.1);
    }
}

pub(super) const LANGUAGES: [Language; 3] = [Language::Bash, Language::Python, Language::Node];

/// How many should wait for this language.
pub(super) fn wanted(shared: &Shared, language: Language) -> usize {
    let Warm { bash, python, nodejs, .. } = shared.settings.warm;
    match language {
        // Each job pulls its image first.
        _ if shared.settings.pull_policy == PullPolicy::Always => 0,
        Language::Bash => bash,
        Language::Python => python,
        Language::Node => nodejs,
    }
}

impl Pool {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This is the configuration from now on; whether it wants any container.
    pub(super) fn is_for(&self, shared: &Arc<Shared>) -> bool {
        self.state().shared = Some(Arc::clone(shared));
        self.ring();
        LANGUAGES.iter().any(|language| wanted(shared, *language) > 0)
    }

    /// Whether it has a configuration.
    pub(in crate::executors::container) fn is_kept(&self) -> bool {
        self.state().shared.is_some()
    }

    /// Starts its thread, unless it runs or the pool was stopped.
    pub(super) fn start_with(&self, start: fn(Self) -> io::Result<Thread>) -> io::Result<()> {
        let mut state = self.state();
        if state.thread.is_none() && !self.is_stopped() {
            state.thread = Some(start(self.clone())?);
        }
        Ok(())
    }

    /// Where the folders for sockets come from.
    pub(in crate::executors::container) fn set_folders(&self, folders: Folders) {
        *self.0.folders.lock().unwrap_or_else(PoisonError::into_inner) = Some(folders);
    }

    /// A new folder for a socket; `None` where there are none.
    pub(super) fn folder(&self) -> Option<SocketFolder> {
        let folders = self.0.folders.lock().unwrap_or_else(PoisonError::into_inner);
        folders.as_ref()?().map(SocketFolder).ok()
    }

    /// A job waits for the engine until this is dropped.
    pub(in crate::executors::container) fn busy(&self) -> Busy {
        self.0.busy.fetch_add(1, Ordering::SeqCst);
        Busy(self.clone())
    }

    /// Whether nothing may be made now.
    pub(in crate::executors::container) fn must_wait(&self) -> bool {
        let is_resting = self.state().rest_until.is_some_and(|until| clock::now() < until);
        self.is_stopped() || is_resting || self.0.busy.load(Ordering::SeqCst) > 0
    }

    /// When the next rest or the next wait for a name ends.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let state = self.state();
        let names = state.renames.iter().map(|(due, ..)| *due);
        names.chain(state.rest_until.filter(|until| clock::now() < *until)).min()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.0.stop.is_set()
    }

    /// Wakes its thread.
    fn ring(&self) {
        self.0.bell.ring();
    }

    /// Sleeps until rung or until `until`.
    pub(super) fn sleep(&self, until: Option<Instant>) {
        self.0.bell.wait(until);
    }

    /// Somebody here sees to the container of this id or name, until this is dropped.
    pub(in crate::executors::container) fn hold(&self, container: &str) -> impl Send + 'static {
        self.state().held.insert(container.to_owned());
        Held(self.clone(), container.to_owned())
    }

    /// Somebody here will [`Pool::hold`] it.
    pub(in crate::executors::container) fn expect(&self, container: &str) {
        self.state().held.insert(container.to_owned());
    }

    /// Whether somebody here sees to the container of this id or name.
    pub(in crate::executors::container) fn holds(&self, container: &str) -> bool {
        self.state().held.contains(container)
    }

    /// Takes the container that has waited longest and fits `spec`, for a job whose container is called `name`. `socket` is
    /// the folder of the job's socket. `None`: by configuration none waits for this language. The error says why the job is
    /// cold.
    pub(in crate::executors::container) fn take(
        &self,
        shared: &Shared,
        (spec, name): (&Spec<'_>, &str),
        deadline: Deadline,
    ) -> Option<Result<Taken, WarmUse>> {
        let language = spec.labels.language;
        self.state().shared.as_ref().filter(|shared| wanted(shared, language) > 0)?;
        let taken = self.pop(&Shape::of(spec), language, shared.settings.warm.max_idle).and_then(|(waiting, fit)| {
            self.adapt(shared, waiting, (&fit, spec), deadline).map_err(|(why, waiting)| {
                self.discard_one(*waiting, WarmEnd::Unfit);
                why
            })
        });
        if let Ok(taken) = &taken {
            let due = clock::now() + limits::WARM_REST;
            self.state().renames.push((due, taken.container.id().to_owned(), name.to_owned()));
        }
        metrics::warm_job(taken.as_ref().err().copied().unwrap_or(WarmUse::Warm));
        self.ring();
        Some(taken)
    }

    /// The oldest that fits and still waits. One whose limits need no change comes first.
    fn pop(&self, shape: &Shape, language: Language, max_idle: Duration) -> Result<(Waiting, Fit), WarmUse> {
        let mut cold = WarmUse::Empty;
        loop {
            let mut state = self.state();
            let fit_of = |waiting: &Waiting| {
                let is_young = waiting.language == language && clock::since(waiting.since) < max_idle;
                if is_young { waiting.shape.fit(shape) } else { Fit::Not }
            };
            let fits: Vec<Fit> = state.waiting.iter().map(fit_of).collect();
            let same = fits.iter().position(|fit| *fit == Fit::Same);
            let Some(at) = same.or_else(|| fits.iter().position(|fit| *fit != Fit::Not)) else {
                let is_there = state.waiting.iter().any(|waiting| waiting.language == language);
                return Err(if is_there { WarmUse::Limits } else { cold });
            };
            let mut waiting = state.waiting.remove(at);
            drop(state);
            if waiting.is_usable() {
                return Ok((waiting, fits.into_iter().nth(at).unwrap_or(Fit::Not)));
            }
            self.discard_one(waiting, WarmEnd::Ended);
            cold = WarmUse::Ended;
        }
    }

    /// Makes it the job's: the image is still the one of that name, the limits are the job's, the job's socket is in it.
    fn adapt(
        &self,
        shared: &Shared,
        mut waiting: Waiting,
        (fit, spec): (&Fit, &Spec<'_>),
        deadline: Deadline,
    ) -> Result<Taken, (WarmUse, Box<Waiting>)> {
        let id = waiting.container.id().to_owned();
        if !shared.docker.image_id(spec.image).is_ok_and(|now| now.as_ref() == Some(&waiting.image)) {
            return Err((WarmUse::Image, Box::new(waiting)));
        }
        if let Fit::Update(limits) = fit
            && let Err(error) = shared.docker.update(&id, limits.to_string().as_bytes(), deadline)
        {
            log::warn!("{error}; the job gets a container that is made for it");
            return Err((WarmUse::Update, Box::new(waiting)));
        }
        if let Some(job) = spec.helpers {
            match waiting.socket.take().map(|folder| folder.become_folder_of(job)) {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    log::warn!("the job's socket cannot be moved into container {}: {error}", short(&id));
                    return Err((WarmUse::Socket, Box::new(waiting)));
                }
                None => return Err((WarmUse::Socket, Box::new(waiting))),
            }
        }
        let Waiting { attached, container, nonce, before, .. } = waiting;
        Ok(Taken { attached, container, nonce, before })
    }

    pub(super) fn discard_one(&self, waiting: Waiting, why: WarmEnd) {
        metrics::warm_discarded(why);
        log::debug!("warm container {} is thrown away: {}", short(waiting.container.id()), why.as_str());
        self.state().leaving.push(waiting);
    }

    /// Throws away all that wait; others are made in their place.
    pub(in crate::executors::container) fn discard(&self, why: WarmEnd) {
        self.discard_where(why, |_| true);
        self.ring();
    }

    /// Throws away those that are `bad`.
    pub(super) fn discard_where(&self, why: WarmEnd, mut is_bad: impl FnMut(&mut Waiting) -> bool) {
        let mut bad = Vec::new();
        let mut state = self.state();
        for mut waiting in std::mem::take(&mut state.waiting) {
            if is_bad(&mut waiting) { bad.push(waiting) } else { state.waiting.push(waiting) }
        }
        drop(state);
        if !bad.is_empty() {
            log::info!("{} warm containers are thrown away: {}", bad.len(), why.as_str());
        }
        bad.into_iter().for_each(|waiting| self.discard_one(waiting, why));
    }

    /// For `status`; `None` where none is wanted.
    pub(in crate::executors::container) fn shown(&self) -> Option<PoolState> {
        let state = self.state();
        let shared = state.shared.as_ref()?;
        let wanted: usize = LANGUAGES.iter().map(|language| wanted(shared, *language)).sum();
        let shown = PoolState { waiting: state.waiting.len(), wanted, trouble: state.trouble.clone() };
        (wanted > 0).then_some(shown)
    }

    /// Makes nothing more, and removes what waits, beside the caller.
    pub(in crate::executors::container) fn stop(&self) {
        self.0.stop.set();
        self.ring();
    }

    /// Waits for the end of that, for so long at most.
    pub(in crate::executors::container) fn join(&self, wait: Duration) {
        self.stop();
        let thread = self.state().thread.take();
        if let Some(thread) = thread {
            thread.join_within(wait);
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} wait)", self.state().waiting.len())
    }
}

impl Waiting {
    /// Whether it still waits, as it did when it was made.
    pub(super) fn is_usable(&mut self) -> bool {
        self.attached.is_open(limits::MARKER_BEFORE) && self.before.look()
    }
}
