//! The threads that offer the reports, and what becomes of each.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::offer::{Tried, is_refused, least_pause, offer};
use super::queue::{Begun, Next};
use super::{Known, Outbox, age};
use crate::api::{Error, Problem};
use crate::job::Id;
use crate::jobs::record::{Done, Ended, Entry, State as RecordState, now_ms};
use crate::limits;
use crate::metrics;
use crate::os::clock;
use crate::os::pulse;
use crate::os::random;
use crate::os::threads::{self, Thread};
use crate::telemetry;

/// What a thread does next.
enum Step {
    Try(Id, Begun),
    Ask,
}

impl Outbox {
    /// The backend has this report: remembers its job, then lets its entry go, unless a folder may be left.
    fn taken(&self, entry: &Entry) {
        self.remember(entry);
        let job = &entry.job;
        let mut known = self.lock();
        known.queue.answered(clock::now(), &self.0.terms, random::unit());
        known.last_error = None;
        if known.queue.get(job).is_some_and(|item| item.remains) {
            // From here on it is up to `cleared`.
            return self.leave(known, job);
        }
        drop(known);
        // While it is known here, nobody writes another entry of this job.
        self.0.records.forget(job);
        self.leave(self.lock(), job);
    }

    /// The thread `outbox`.
    pub(super) fn run(&self) {
        self.offer_all(true);
        let more = std::mem::take(&mut self.lock().more);
        let until = clock::now() + limits::THREAD_JOIN_WAIT;
        for thread in more {
            pulse::touch();
            thread.join_within(until.saturating_duration_since(clock::now()));
        }
        self.save_held();
    }

    /// Offers reports one after the other; where this thread `stays`, until the outbox ends.
    fn offer_all(&self, stays: bool) {
        while let Some(step) = self.next(stays) {
            match step {
                Step::Ask => self.ask(),
                Step::Try(job, begun) => self.work(&job, begun),
            }
            self.0.changed.notify_all();
        }
    }

    /// Waits for what is to be done next; `None` when the outbox ends, or when another thread waits in this one's place.
    fn next(&self, stays: bool) -> Option<Step> {
        let mut known = self.lock();
        while !known.ending {
            pulse::touch();
            let wait = match known.queue.next(clock::now()) {
                Next::Try(job) => {
                    let begun = known.queue.begin(&job)?;
                    self.call_more(&mut known);
                    return Some(Step::Try(job, begun));
                }
                Next::Ask => {
                    self.call_more(&mut known);
                    return Some(Step::Ask);
                }
                Next::Wait(wait) => wait,
            };
            if !stays && (known.idle > 0 || !known.queue.has_others()) {
                return None;
            }
            known.idle += 1;
            known = clock::wait(&self.0.known, &self.0.changed, known, wait);
            known.idle -= 1;
        }
        None
    }

    /// Sees to it that a thread waits for the reports that no thread is at.
    pub(super) fn call_more(&self, known: &mut Known) {
        if known.idle > 0 || known.ending || !known.queue.has_others() {
            return;
        }
        let (ended, there): (Vec<_>, Vec<_>) =
            std::mem::take(&mut known.more).into_iter().partition(Thread::is_finished);
        known.more = there;
        ended.into_iter().for_each(|thread| drop(thread.join_within(limits::THREAD_JOIN_WAIT)));
        if known.more.len() >= limits::OUTBOX_SENDERS {
            return;
        }
        let own = self.clone();
        match threads::spawn("outbox-more", move || own.offer_all(false)) {
            Ok(thread) => known.more.push(thread),
            Err(error) => {
                log::error!("cannot start a thread for reports, which wait for the one that is there: {error}")
            }
        }
    }

    /// Asks whether the backend is back. Where this call failed before, its success is heard by [`Outbox::returned`].
    fn ask(&self) {
        let asked = self.0.asking.health();
        if let Err(error) = &asked {
            log::debug!("{error}");
        }
        self.lock().queue.asked(asked.is_err(), clock::now(), &self.0.terms, random::unit());
    }

    /// One try with one report.
    fn work(&self, job: &Id, begun: Begun) {
        let Begun { mut tried, held, on_disk, earlier } = begun;
        let Some(mut entry) = self.entry(job, held, on_disk) else { return };
        let _context = telemetry::context(job, &entry.execution, &telemetry::own());
        if let Some(lines) = earlier.and_then(|earlier| earlier()) {
            let entry = Arc::make_mut(&mut entry);
            entry.set_live_lines_dropped(lines);
            if let Err(error) = self.0.records.put(entry) {
                log::warn!("{error}");
            }
        }
        let Some(Ended { report, since_ms }) = entry.ended() else { return };
        let since_ms = (*since_ms).min(now_ms());
        match offer(&self.0.client, (&entry, report), &mut tried, &self.0.list) {
            Ok(delivery) => {
                log::info!("reported as {} ({delivery:?}), {:.1?} after its end", report.status, age(since_ms));
                self.taken(&entry);
            }
            Err(error) if is_refused(&tried, &error) => {
                self.give_up(&entry, &error.to_string());
                let mut known = self.lock();
                known.queue.answered(clock::now(), &self.0.terms, random::unit());
                self.leave(known, job);
            }
            Err(error) => {
                let seen = self.failed(&mut self.lock(), job, tried, &error);
                let limit = self.retention();
                if age(since_ms) > limit && seen > self.0.terms.least_offer {
                    self.give_up(&entry, &format!("not taken for {limit:?} (jobs.reportRetention); at last: {error}"));
                    self.leave(self.lock(), job);
                }
            }
        }
    }

    /// The entry of a report that is due. `None` when it cannot be read now, or any more.
    fn entry(&self, job: &Id, held: Option<Arc<Entry>>, on_disk: bool) -> Option<Arc<Entry>> {
        if let Some(entry) = held {
            if !on_disk && self.0.records.put(&entry).is_ok() {
                self.lock().queue.let_go(job);
            }
            return Some(entry);
        }
        let why = match self.0.records.read(job) {
            Ok(Some(entry)) if entry.ended().is_some() => return Some(Arc::new(entry)),
            Ok(Some(_)) => "its entry is that of a job which runs".to_owned(),
            Ok(None) => "its entry is not on disk any more, or is in quarantine".to_owned(),
            Err(error) => {
                let mut known = self.lock();
                log::warn!("job {job}: {error}");
                known.last_error = Some(error.to_string());
                known.queue.failed(job, clock::now(), &self.0.terms, Duration::ZERO, random::unit());
                return None;
            }
        };
        log::error!("the report of job {job} is lost: {why}");
        metrics::REPORTS_SET_ASIDE.add(1);
        let mut known = self.lock();
        known.set_aside += 1;
        known.last_error = Some(format!("the report of job {job} is lost: {why}"));
        self.leave(known, job);
        None
    }

    /// Notes a failure; how long this run has known of the report.
    fn failed(&self, known: &mut Known, job: &Id, tried: Tried, error: &Error) -> Duration {
        let now = clock::now();
        known.last_error = Some(error.to_string());
        known.queue.set_tried(job, tried);
        let Some(item) = known.queue.get(job) else { return Duration::ZERO };
        let seen = now.saturating_duration_since(item.known_at);
        match error.problem {
            Problem::Unknown => known.queue.look_again(job, now, &self.0.terms, random::unit()),
            _ => {
                let (least, unit) = (least_pause(&tried, error), random::unit());
                let (failures, away) = known.queue.failed(job, now, &self.0.terms, least, unit);
                if error.is_outage() {
                    known.queue.ask_now(now);
                }
                if away {
                    log::warn!("{} reports wait for the backend: {error}", known.queue.len());
                } else if failures == 1 {
                    log::warn!("the result of job {job} is not delivered yet, the outbox goes on: {error}");
                } else if failures.is_power_of_two() {
                    log::warn!("the result of job {job} is not delivered after {failures} tries: {error}");
                }
            }
        }
        seen
    }

    /// A report that will not be taken: moves it to where a person finds it.
    fn give_up(&self, entry: &Entry, why: &str) {
        let job = &entry.job;
        self.remember(entry);
        let records = &self.0.records;
        // What is on disk may be an earlier stage, when the disk did not take the report.
        let kept =
            records.put(entry).is_ok() && records.quarantine(job, why) || records.write_to_quarantine(entry, why);
        if kept {
            log::error!("the report of job {job} moves to state.dir/aside: {why}");
        } else if let Some(Ended { report, .. }) = entry.ended() {
            let (status, code, words) = (&report.status, report.exit_code, &report.message);
            log::error!("the report of job {job} is lost ({why}); it was: {status}, exit code {code}, {words}");
        }
        records.forget(job);
        metrics::REPORTS_SET_ASIDE.add(1);
        let mut known = self.lock();
        known.set_aside += 1;
        known.last_error = Some(why.to_owned());
    }

    /// Ended → Delivered.
    fn remember(&self, entry: &Entry) {
        let Some(Ended { report, .. }) =
            entry.ended().filter(|_| entry.stage.state().may_become(RecordState::Delivered))
        else {
            return;
        };
        self.0.records.done().remember(Done {
            job: entry.job.clone(),
            attempts: entry.attempts,
            status: report.status.clone(),
            exit_code: report.exit_code,
            message: report.message.clone(),
            at_ms: now_ms(),
        });
    }

    fn leave(&self, mut known: MutexGuard<'_, Known>, job: &Id) {
        known.queue.remove(job);
        self.show(&known);
    }

    /// At the end: what is in memory alone gets a last chance.
    fn save_held(&self) {
        let held = self.lock().queue.held();
        for entry in held {
            pulse::touch();
            let Some(Ended { report, .. }) = entry.ended() else { continue };
            if let Err(error) = self.0.records.put(&entry) {
                let (job, status, code) = (&entry.job, &report.status, report.exit_code);
                log::error!("the report of job {job} ({status}, exit code {code}) is lost with the agent: {error}");
            }
        }
    }
}
