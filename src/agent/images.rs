//! Sees to images beside the jobs: pulls those of the configuration before a job needs them, and when the engine's disk
//! fills, removes what this agent pulled and nobody uses.
//!
//! The monitor looks here each time it has looked at the engine. The work has a thread that lives as long as there is some.
//! It begins each step only at a moment when no job waits for the engine, and gives up a pull when a job needs another image.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Live;
use crate::config::images::Prune;
use crate::config::types::{Config, PullPolicy};
use crate::docker::{self, Error};
use crate::executors::container::ContainerExecutor;
use crate::executors::container::images::{Pulled, Unsaved, now_ms};
use crate::executors::container::prune::{self, Fate};
use crate::health::{Component, DetailValue, HealthState, shortened};
use crate::jobs::record::RecordStore;
use crate::jobs::status;
use crate::os::disk;
use crate::os::random;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};
use crate::policy::backoff::{Backoff, Growth};
use crate::{limits, metrics};

/// Pauses after failures to pull ahead.
const PAUSES: Backoff =
    Backoff { growth: Growth::Exponential, initial: limits::PRE_PULL_FIRST, max: limits::PRE_PULL_MOST };

/// What it works with.
#[derive(Debug)]
pub struct Means {
    pub config: Live,
    pub docker: docker::Client,
    pub containers: ContainerExecutor,
    pub records: RecordStore,
    pub health: Arc<HealthState>,
}

/// Shared by clones.
#[derive(Debug, Clone)]
pub struct ImageKeeper(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    means: Means,
    stop: Stop,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// The configuration whose images are pulled.
    config: Arc<Config>,
    /// Images that are still to be pulled ahead.
    ahead: Vec<String>,
    pulling: Option<String>,
    /// Of pulls ahead, in a row.
    failures: u32,
    not_before: Instant,
    /// Why images could not be pulled ahead.
    trouble: Option<String>,
    /// How much of the engine's file system is used, where it can be seen.
    used: Option<u8>,
    /// It came to the upper mark, and not below the lower one since then.
    is_full: bool,
    next_prune: Instant,
    /// Ids of images that could not be removed, and of which the log tells; empty for that nothing could be.
    told: BTreeSet<String>,
    removed: u64,
    written: Instant,
    flight: Option<Thread>,
}

impl ImageKeeper {
    /// Takes over what an earlier run wrote down.
    pub fn new(means: Means) -> Self {
        means.containers.images().remember(means.records.pulled_images());
        let (config, now) = (means.config.now(), Instant::now());
        let known = Known {
            ahead: ahead(&config),
            config,
            pulling: None,
            failures: 0,
            not_before: now,
            trouble: None,
            used: None,
            is_full: false,
            next_prune: now,
            told: BTreeSet::new(),
            removed: 0,
            written: now,
            flight: None,
        };
        Self(Arc::new(Shared { means, stop: Stop::new(), known: Mutex::new(known) }))
    }

    /// Starts what is due. `root` is where the engine keeps its data, if this host sees that. To be called while the engine
    /// answers.
    pub fn look(&self, root: Option<&Path>) {
        let shared = &self.0;
        // Without the lock, which `status` takes: a disk may hang.
        shared.write_down(false);
        let used = root.and_then(|root| disk::free(root).ok()).map(|free| free.used_percent);
        let mut known = shared.known();
        known.take_over(shared.means.config.now());
        known.used = used;
        known.judge_disk();
        shared.say(&known);
        let is_idle = known.flight.as_ref().is_none_or(Thread::is_finished);
        if !is_idle || shared.stop.is_set() || !(known.is_pull_due() || known.is_prune_due()) {
            return;
        }
        let (own, root) = (Arc::clone(shared), root.map(PathBuf::from));
        match threads::spawn("images", move || own.fly(root.as_deref())) {
            Ok(thread) => known.flight = Some(thread),
            Err(error) => log::error!("images are neither pulled ahead nor removed: cannot start a thread: {error}"),
        }
    }

    /// For `status`.
    pub fn shown(&self) -> status::Images {
        let known = self.0.known();
        let images = &known.config.container.images;
        status::Images {
            pre_pull: images.pre_pull,
            to_pull: known.ahead.len(),
            pulling: known.pulling.clone(),
            trouble: known.trouble.clone(),
            pulled: self.0.means.containers.images().pulled().len(),
            used_percent: known.used,
            prune_from_percent: images.prune.high.0,
            removed: known.removed,
        }
    }

    /// Begins nothing more, and gives up a pull that is under way.
    pub fn stop(&self) {
        self.0.stop.set();
    }

    /// Waits for the end of the thread, for so long at most; writes down what is not on disk.
    pub fn join(&self, wait: Duration) {
        self.stop();
        let flight = self.0.known().flight.take();
        if let Some(thread) = flight {
            thread.join_within(wait);
        }
        self.0.write_down(true);
    }
}

/// What is to be pulled ahead.
fn ahead(config: &Config) -> Vec<String> {
    let container = &config.container;
    let is_wanted = container.images.pre_pull && container.pull_policy != PullPolicy::Never;
    let all = container.images.all().into_iter().filter(|_| is_wanted);
    all.map(str::to_owned).collect()
}

impl Known {
    /// After a reload that says something else of images, all of them are looked at again.
    fn take_over(&mut self, now: Arc<Config>) {
        let (old, new) = (&self.config.container, &now.container);
        if old.images != new.images || old.pull_policy != new.pull_policy {
            self.ahead = ahead(&now);
            (self.failures, self.not_before, self.trouble) = (0, Instant::now(), None);
            self.next_prune = Instant::now();
        }
        self.config = now;
    }

    fn prune(&self) -> Prune {
        self.config.container.images.prune
    }

    /// Between the marks it counts what was passed last.
    fn judge_disk(&mut self) {
        match (self.used, self.prune().high.0, self.prune().low.0) {
            (Some(used), Some(high), _) if used >= high => self.is_full = true,
            (Some(used), Some(_), Some(low)) if used >= low => {}
            _ => {
                self.is_full = false;
                self.told.clear();
            }
        }
    }

    fn is_pull_due(&self) -> bool {
        !self.ahead.is_empty() && Instant::now() >= self.not_before
    }

    fn is_prune_due(&self) -> bool {
        self.is_full && Instant::now() >= self.next_prune
    }

    /// The pulls ahead are over for now; why they failed, if they did. Told when it begins.
    fn pulled(&mut self, failed: Option<String>) {
        match failed {
            None => (self.failures, self.trouble) = (0, None),
            Some(why) => {
                self.failures = self.failures.saturating_add(1);
                // Between half of the bound and all of it.
                self.not_before = Instant::now() + PAUSES.delay(self.failures, 0.5 + random::unit() / 2.0);
                if self.trouble.is_none() {
                    log::warn!("not pulled ahead, tried again until it works (container.images.prePull): {why}");
                }
                self.trouble = Some(shortened(why));
            }
        }
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fly(&self, root: Option<&Path>) {
        if self.known().is_pull_due() {
            self.pull_ahead();
        }
        if let Some(root) = root.filter(|_| self.known().is_prune_due()) {
            self.prune(root);
        }
    }

    /// Waits for a moment in which no job waits for the engine; false where none comes soon, or the agent ends.
    fn is_idle_soon(&self) -> bool {
        let until = Instant::now() + limits::IMAGES_PATIENCE;
        while self.means.containers.is_busy() {
            if Instant::now() >= until || self.stop.wait(limits::IMAGES_TICK) {
                return false;
            }
        }
        !self.stop.is_set()
    }

    fn pull_ahead(&self) {
        let all = self.known().ahead.clone();
        let mut failed = None;
        for image in all {
            if !self.is_idle_soon() {
                return;
            }
            self.known().pulling = Some(image.clone());
            let pulled = self.pull(&image);
            self.known().pulling = None;
            match pulled {
                Ok(()) => self.known().ahead.retain(|other| *other != image),
                // A job or the agent's end comes first, or a reload named others.
                Err(Error::Stopped { .. }) => return,
                Err(error) => failed = failed.or(Some(error.to_string())),
            }
        }
        self.known().pulled(failed);
    }

    fn pull(&self, image: &str) -> Result<(), Error> {
        let config = self.means.config.now();
        if config.container.pull_policy == PullPolicy::IfNotPresent && self.means.docker.has_image(image)? {
            return Ok(());
        }
        let is_wanted = || !self.stop.is_set() && self.known().ahead.iter().any(|wanted| wanted == image);
        self.means.containers.pull_ahead(image, &is_wanted)?;
        log::info!("pulled image {image} ahead of jobs");
        Ok(())
    }

    /// Removes images, the one used longest ago first, until less than the lower mark is used.
    fn prune(&self, root: &Path) {
        let config = self.means.config.now();
        let (images, settings) = (self.means.containers.images(), &config.container.images);
        let pulled = images.pulled();
        let count = pulled.len();
        let seen = prune::look(&self.means.docker, pulled, &settings.all(), (settings.prune.keep, now_ms()));
        let (mut free, mut removed) = (Vec::new(), 0);
        match seen {
            Ok(seen) => free.extend(seen.into_iter().filter(|one| matches!(one.fate, Fate::Free | Fate::Gone))),
            Err(error) => self.tell("", &format!("it cannot be seen which images may be removed: {error}")),
        }
        let more = free.len().saturating_sub(limits::IMAGES_ROUND);
        for one in free.into_iter().take(limits::IMAGES_ROUND) {
            let low = settings.prune.low.0.unwrap_or(100);
            if used(root) < low || !self.is_idle_soon() {
                return;
            }
            removed += u64::from(self.remove(&one.image, root));
        }
        let mut known = self.known();
        if more == 0 || removed == 0 {
            known.next_prune = Instant::now() + limits::IMAGES_AGAIN;
        }
        let used = used(root);
        if settings.prune.high.0.is_some_and(|high| used >= high) && more == 0 && count > 0 && removed == 0 {
            drop(known);
            let root = root.display();
            let why = "containers have them, container.images names them, or they were used within prune.keep";
            self.tell("", &format!("{used} % of {root} are used, and no image can be removed: {why}"));
        }
    }

    /// Whether it is gone by this.
    fn remove(&self, image: &Pulled, root: &Path) -> bool {
        // A reload may have named it meanwhile.
        if self.means.config.now().container.images.all().contains(&image.name.as_str()) {
            return false;
        }
        let before = used(root);
        let result = prune::remove(&self.means.docker, &self.means.containers.images(), image);
        let (name, id) = (&image.name, short(&image.id));
        match result {
            Ok(Fate::Gone) => {
                metrics::image_removal(true);
                self.known().removed += 1;
                let unused = now_ms().saturating_sub(image.used_ms) / 3_600_000;
                let (root, after) = (root.display(), used(root));
                log::info!(
                    "removed image {name} ({id}), unused for {unused} h: of {root} {before} % were used, now {after} %"
                );
                return true;
            }
            Ok(fate) => log::debug!("image {name} ({id}) stays: {fate:?}"),
            Err(error) => {
                metrics::image_removal(false);
                self.tell(&image.id, &format!("image {name} ({id}) stays: {error}"));
            }
        }
        false
    }

    /// Tells it once for as long as the disk is full.
    fn tell(&self, id: &str, what: &str) {
        if self.known().told.insert(id.to_owned()) {
            log::warn!("{what} (container.images.prune)");
        }
    }

    /// Writes down which images were pulled, and their last uses: those when it is time, or `all` now.
    fn write_down(&self, all: bool) {
        let images = self.means.containers.images();
        let unsaved = images.unsaved();
        let is_due = all || unsaved == Some(Unsaved::Images);
        if unsaved.is_none() || !(is_due || self.known().written.elapsed() >= limits::IMAGES_WRITE) {
            return;
        }
        images.set_unsaved(None);
        self.known().written = Instant::now();
        if let Err(error) = self.means.records.put_pulled_images(&images.pulled()) {
            images.set_unsaved(Some(Unsaved::Uses));
            log::debug!("cannot write down which images were pulled, trying again: {error}");
        }
    }

    /// Writes what is known to the health state.
    fn say(&self, known: &Known) {
        let images = &known.config.container.images;
        let mut component = match &known.trouble {
            Some(why) => Component::degraded(format!("images are not pulled ahead: {why}")),
            None => Component::healthy(),
        };
        if images.pre_pull {
            let text = match (&known.pulling, known.ahead.len()) {
                (Some(image), _) => format!("pulls {image}"),
                (None, 0) => "done".to_owned(),
                (None, count) => format!("{count} to pull"),
            };
            component = component.with("prePull", DetailValue::Text(text));
        }
        if let (Some(used), Some(_)) = (known.used, images.prune.high.0) {
            component = component.with("usedPercent", DetailValue::Number(used.into()));
            component = component.with("removed", DetailValue::Number(known.removed));
        }
        self.means.health.set("images", component);
    }
}

/// What cannot be seen counts as full: then the engine's answers end the removals.
fn used(root: &Path) -> u8 {
    disk::free(root).map_or(100, |free| free.used_percent)
}

/// The beginning of an image's id.
fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}
