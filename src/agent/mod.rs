//! The composition root: builds the parts, starts their threads, waits for signals, and ends everything in order.
//!
//! Order of the end: the poller first (no more claims), then the jobs (drained, then left to the next start or
//! cancelled), then the workers, the heartbeat, the monitor, the live log, the outbox, the reaper and the sampler, the
//! control socket and the health server last, so that an operator can see the drain until it is over.

mod drain;
pub mod identity;
pub mod images;
pub mod keeper;
mod live;
pub mod monitor;
mod parts;
pub mod reload;
pub mod service;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use crate::cli::exit;
use crate::config::Live;
use crate::config::types::{Config, OnShutdown};
use crate::health::{self, Reason};
use crate::jobs::adopt::Adopter;
use crate::jobs::control;
use crate::jobs::overview;
use crate::jobs::record::outbox::Outbox;
use crate::jobs::status;
use crate::jobs::worker_pool::WorkerPool;
use crate::limits;
use crate::os::signals::{Signal, Signals};
use crate::os::stop::Stop;
use crate::os::threads::Thread;

use drain::Drained;
use images::ImageKeeper;
use keeper::Keeper;
use parts::{Failure, Parts, no_thread};
use service::{Service, status_line};

/// Everything that runs.
struct Agent {
    parts: Parts,
    service: Service,
    /// None where its socket could not be made.
    control: Option<health::Server>,
    live: Live,
    /// Of jobs of an earlier run.
    adopter: Adopter,
    proofs: Keeper,
    images: ImageKeeper,
    /// Ends the poller.
    no_more_claims: Stop,
    poller: Thread,
    pool: WorkerPool,
}

/// Runs until a signal ends it; gives the program's exit code.
pub fn run(config: Config, signals: &Signals, again: &reload::Source<'_>) -> u8 {
    match Agent::start(config) {
        Ok(agent) => agent.serve(signals, again),
        Err(failure) => {
            log::error!("{failure}");
            exit::FAILED
        }
    }
}

impl Agent {
    fn start(config: Config) -> Result<Self, Failure> {
        let (mut parts, id) = Parts::make(&config)?;
        let live = Live::new(config);
        let proofs = parts.proofs(&live, &id);
        let images = parts.images(&live);
        let sources = Arc::new(parts.sources(&id, &live, (&proofs, &images)));
        let control = open_control(&live.now().state.dir, Arc::clone(&sources))?;
        parts.shown.set(Box::new(move || overview::json(&sources)));
        let context = parts.context(&live, (&id, &proofs));
        let adopter = Adopter::new(&context, &parts.slots);
        let mut monitor = parts.monitor(&context, &id, adopter.clone(), (&proofs, &images));
        // Before the first poll, so that nothing is claimed which cannot run.
        monitor.look_first();
        parts.watch(&live, monitor).map_err(no_thread)?;
        parts.containers.keep_warm(parts.helpers.spare_folders());

        let no_more_claims = Stop::new();
        let (hand, taken) = bounded(0);
        let poller = parts.poller(&live, hand, &no_more_claims);
        let pool = WorkerPool::start(context, &parts.slots, taken).map_err(no_thread)?;
        let poller = poller.spawn().map_err(no_thread)?;
        let service = Service::new(parts.pulses.clone());
        Ok(Self { parts, service, control, live, adopter, proofs, images, no_more_claims, poller, pool })
    }

    /// Waits for a signal, or for a part that ended by itself, which none does.
    fn serve(mut self, signals: &Signals, again: &reload::Source<'_>) -> u8 {
        loop {
            let (health, running) = (&self.parts.health, &self.parts.running);
            self.service.tick(|| status_line(health, running));
            match signals.wait(self.service.pause()) {
                Some(Signal::Terminate) => return self.end(signals, exit::OK),
                Some(Signal::Reload) => self.reload(again),
                None if self.parts.reloads.is_wanted() => self.reload(again),
                None => {}
            }
            let lost = self.pool.look(limits::THREAD_JOIN_WAIT);
            let ended = lost.or_else(|| {
                let mut threads = self.parts.threads.iter().chain([&self.poller]);
                threads.find(|thread| thread.is_finished()).map(|thread| thread.name().to_owned())
            });
            if let Some(name) = ended {
                log::error!("thread {name} ended by itself; the agent ends too, to be started afresh");
                return self.end(signals, exit::FAILED);
            }
        }
    }

    /// Reads the configuration again; tells the parts that keep something of it for themselves.
    fn reload(&mut self, again: &reload::Source<'_>) {
        self.service.reloading();
        let asked = self.parts.reloads.asked();
        let (containers, servers, outbox) = (&self.parts.containers, &self.parts.servers, &self.parts.outbox);
        let pool = &mut self.pool;
        let outcome = reload::again(again, &self.live, |config| {
            containers.reload(config);
            servers.reload(config);
            outbox.keep_for(config.jobs.report_retention);
            if let Err(error) = pool.resize(config.jobs.max_concurrent) {
                log::error!("jobs.maxConcurrent: cannot start a thread: {error}; there are fewer workers than that");
            }
        });
        if let reload::Outcome::Taken(_) = outcome {
            self.parts.client.token().reload(&self.live.now().api);
        }
        self.parts.reloads.note(&outcome, asked, &self.parts.health);
    }

    /// Drains; then leaves or cancels what still runs; then ends every thread in order.
    fn end(mut self, signals: &Signals, mut code: u8) -> u8 {
        let config = self.live.now();
        let drain = config.jobs.drain_timeout;
        self.service.stopping("draining");
        self.parts.health.not_ready(Reason::Draining, "the agent is draining: it was told to stop");
        self.no_more_claims.set();
        self.proofs.stop();
        self.images.stop();
        self.parts.slots.wake();
        self.parts.containers.stop_warm();
        log::info!(
            "stopping: {} jobs run; waiting for them at most {drain:?} (jobs.drainTimeout)",
            self.parts.running.len()
        );
        if self.wait_for_jobs(signals, drain) != Drained::All {
            code = exit::NOT_DRAINED;
            let count = self.parts.running.len();
            match config.jobs.on_shutdown {
                OnShutdown::Leave => {
                    log::warn!("leaving {count} jobs that still run to the next start (jobs.onShutdown: leave)");
                    self.parts.running.detach_all();
                }
                OnShutdown::Cancel => {
                    log::warn!("cancelling {count} jobs that still run (jobs.onShutdown: cancel)");
                    self.parts.running.stop_all("the agent's shutdown");
                }
            }
            match self.wait_for_jobs(signals, limits::CANCEL_WAIT) {
                Drained::All => {}
                Drained::Signal => {
                    log::error!("ending now with {} running jobs; the next start finds them", self.parts.running.len());
                    return exit::FORCED;
                }
                Drained::Late => {
                    log::error!("ending with {} running jobs; the next start finds them", self.parts.running.len())
                }
            }
        }
        // The poller owns the workers' channel: when it ends, they do.
        self.poller.join_within(self.parts.longest_call);
        self.parts.all.set();
        self.parts.running.wake();
        self.pool.join(limits::THREAD_JOIN_WAIT);
        self.adopter.join(limits::THREAD_JOIN_WAIT);
        wait_for_first_tries(&self.parts.outbox, signals);
        self.parts.removals.finish(limits::THREAD_JOIN_WAIT);
        self.parts.containers.join_warm(limits::WARM_EMPTY + limits::THREAD_JOIN_WAIT);
        // Its canaries need the reaper.
        self.proofs.join();
        self.images.join(limits::THREAD_JOIN_WAIT);
        self.parts.servers.stop();
        self.parts.outbox.stop();
        self.parts.checkpoints.stop();
        self.parts.streamer.stop();
        self.parts.pages.stop();
        self.parts.reaper.stop();
        self.parts.sampler.stop();
        for thread in self.parts.threads {
            thread.join_within(limits::THREAD_JOIN_WAIT);
        }
        self.parts.helpers.stop(limits::THREAD_JOIN_WAIT);
        if let Some(control) = self.control {
            control.stop(limits::THREAD_JOIN_WAIT);
        }
        if let Some(probes) = self.parts.probes {
            probes.stop(limits::THREAD_JOIN_WAIT);
        }
        log::info!("stopped");
        code
    }

    /// Waits until all jobs have ended, `wait` is over, or a further signal comes.
    fn wait_for_jobs(&mut self, signals: &Signals, wait: Duration) -> Drained {
        let (health, running, service) = (&self.parts.health, &self.parts.running, &mut self.service);
        let drained = drain::wait_for_jobs(running, wait, || {
            service.tick(|| status_line(health, running));
            signals.wait(Duration::ZERO) == Some(Signal::Terminate)
        });
        if drained == Drained::Signal {
            log::warn!("a further signal: not waiting any longer");
        }
        drained
    }
}

/// Waits until each report was tried once, `limits::OUTBOX_LAST` at most, or until a further signal comes. The next start
/// offers what is left.
fn wait_for_first_tries(outbox: &Outbox, signals: &Signals) {
    let until = Instant::now() + limits::OUTBOX_LAST;
    while !outbox.wait_for_first_tries(limits::DRAIN_TICK) {
        if Instant::now() >= until || signals.wait(Duration::ZERO) == Some(Signal::Terminate) {
            log::warn!("not waiting any longer for the backend to take the last reports; the next start offers them");
            return;
        }
    }
}

/// The control socket. An agent does its work without one, but not beside another agent.
fn open_control(dir: &Path, sources: Arc<status::Sources>) -> Result<Option<health::Server>, Failure> {
    match health::start_control(dir, control::pages(sources)) {
        Ok(server) => Ok(Some(server)),
        Err(error @ health::Error::InUse(_)) => Err(error.to_string()),
        Err(error) => {
            log::warn!("{error}; going on without `cronium-agent status`, `cancel` and `reload`");
            Ok(None)
        }
    }
}
