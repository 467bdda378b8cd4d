//! Live lines in the pages of a backend without a WebSocket: updates of the execution that carry the output so far.
//!
//! The deployed pages show new lines in this way only. Such an update sets the job's status to `running`, which undoes a
//! cancel that came right before it, and one that arrives after the report would open the job again. So:
//!
//! - The job's row is asked for right before each update. After a cancel was seen there is none.
//! - One thread sends all updates, one at a time. Of one job, updates take at most a tenth of the time.
//! - A job whose page is shut gets no update any more, and [`Page::wait`] waits for one under way. No report goes out
//!   before it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use crate::api::{Client, ExecutionUpdate, RowStatus};
use crate::config::types::LiveWay;
use crate::executors::Control;
use crate::job::Id;
use crate::jobs::row_watch::BY_ROW;
use crate::limits;
use crate::logs::LogStreamer;
use crate::os::clock;
use crate::os::pulse::Pulse;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};
use crate::policy::stop::Reason;
use crate::wire::capture::Capture;

/// Sends the updates. Shared by clones.
#[derive(Debug, Clone)]
pub struct PageUpdates(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    way: LiveWay,
    streamer: LogStreamer,
    /// The longest that a call can last: `api.timeout`, and room.
    longest: Duration,
    pages: Mutex<Vec<Weak<Page>>>,
    stop: Stop,
}

/// What the page of one job shows while it runs.
#[derive(Debug)]
pub struct Page {
    job: Id,
    execution: Id,
    started: SystemTime,
    control: Arc<Control>,
    /// The longest that a call under way can last.
    longest: Duration,
    state: Mutex<State>,
    /// Rung when a call has ended.
    ended: Condvar,
    /// There is something that no update has carried yet.
    fresh: AtomicBool,
}

#[derive(Debug)]
struct State {
    output: Capture,
    /// No update before.
    next: Instant,
    calling: bool,
    closed: bool,
    /// When a call ended whose answer was lost: the backend may still be at it.
    unsure: Option<Instant>,
}

impl PageUpdates {
    /// None are sent.
    #[cfg(test)]
    pub(crate) fn off() -> Self {
        Self::of(LiveWay::Off, LogStreamer::disabled(), Duration::ZERO)
    }

    fn of(way: LiveWay, streamer: LogStreamer, longest: Duration) -> Self {
        Self(Arc::new(Shared { way, streamer, longest, pages: Mutex::default(), stop: Stop::new() }))
    }

    /// Starts the thread `page-updates`, unless `logging.live` never wants one.
    pub fn start(
        way: LiveWay,
        streamer: LogStreamer,
        longest: Duration,
        client: &Client,
        pulse: Pulse,
    ) -> std::io::Result<(Self, Option<Thread>)> {
        let updates = Self::of(way, streamer, longest);
        if !matches!(way, LiveWay::Auto | LiveWay::Updates) {
            return Ok((updates, None));
        }
        let (own, client) = (updates.clone(), client.separate());
        let thread = threads::spawn("page-updates", move || {
            let _watched = pulse.clone().enter();
            own.run(&client, &pulse);
        })?;
        Ok((updates, Some(thread)))
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.0.stop.set();
    }

    /// Whether lines go this way now: in `auto` where no WebSocket has ever answered.
    pub fn is_used(&self) -> bool {
        match self.0.way {
            LiveWay::Updates => true,
            LiveWay::Auto => self.0.streamer.connection().dialect.is_none(),
            LiveWay::Websocket | LiveWay::Off => false,
        }
    }

    /// The page of a job that starts now. `None` where no lines go this way.
    pub(in crate::jobs) fn open(&self, job: &Id, execution: &Id, control: &Arc<Control>) -> Option<Arc<Page>> {
        if !matches!(self.0.way, LiveWay::Auto | LiveWay::Updates) {
            return None;
        }
        let page = Arc::new(Page {
            job: job.clone(),
            execution: execution.clone(),
            started: clock::wall(),
            control: Arc::clone(control),
            longest: self.0.longest,
            state: Mutex::new(State {
                output: Capture::new(limits::PAGE_OUTPUT),
                next: clock::now() + limits::PAGE_FIRST,
                calling: false,
                closed: false,
                unsure: None,
            }),
            ended: Condvar::new(),
            fresh: AtomicBool::new(false),
        });
        self.pages().push(Arc::downgrade(&page));
        Some(page)
    }

    fn pages(&self) -> MutexGuard<'_, Vec<Weak<Page>>> {
        self.0.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, client: &Client, pulse: &Pulse) {
        while !self.0.stop.wait(limits::PAGE_TICK) {
            pulse.touch();
            let all: Vec<Arc<Page>> = {
                let mut pages = self.pages();
                pages.retain(|page| page.strong_count() > 0);
                pages.iter().filter_map(Weak::upgrade).collect()
            };
            if !all.is_empty() && self.is_used() {
                for page in all {
                    pulse.touch();
                    page.update(client);
                }
            }
        }
    }
}

impl Page {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The script printed this.
    pub(in crate::jobs) fn push(&self, bytes: &[u8]) {
        self.lock().output.push(bytes);
        self.fresh.store(true, Ordering::Relaxed);
    }

    /// No update is sent from here on. Whether one is under way, or the backend may still be at a lost one.
    pub(in crate::jobs) fn shut(&self) -> bool {
        let mut state = self.lock();
        state.closed = true;
        state.calling || state.unsure.is_some_and(|unsure| clock::since(unsure) < limits::REPORT_SETTLE)
    }

    /// Waits for the update that is under way when the page is shut.
    pub(in crate::jobs) fn wait(&self) {
        let until = clock::now() + self.longest;
        let mut state = self.lock();
        while state.calling {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                log::warn!(
                    "an update of the job's page has not ended within {:?} (api.timeout and more)",
                    self.longest
                );
                return;
            }
            state = clock::wait(&self.state, &self.ended, state, left);
        }
        if let Some(unsure) = state.unsure {
            let settled = (unsure + limits::REPORT_SETTLE).saturating_duration_since(clock::now());
            drop(state);
            clock::sleep(settled);
        }
    }

    /// Sends an update if one is due.
    fn update(&self, client: &Client) {
        if !self.fresh.load(Ordering::Relaxed) || self.control.reason().is_some() {
            return;
        }
        {
            let mut state = self.lock();
            if state.closed || clock::now() < state.next {
                return;
            }
            state.calling = true;
        }
        let begun = clock::now();
        let unsure = self.call(client);
        let mut state = self.lock();
        state.calling = false;
        state.unsure = unsure.then(clock::now);
        state.next = clock::now() + limits::PAGE_EVERY.max(clock::since(begun) * 10);
        self.ended.notify_all();
    }

    /// One update; whether its answer was lost.
    fn call(&self, client: &Client) -> bool {
        self.fresh.store(false, Ordering::Relaxed);
        // Before the look at the row: what lies between the look and the update is what a cancel can fall into.
        let output = self.lock().output.clone().into_text();
        let json = self.body(&output);
        match client.row_status(&self.job) {
            Ok(RowStatus::Cancelled) => {
                self.control.request(Reason::Cancelled(BY_ROW));
                return false;
            }
            Ok(RowStatus::Claimed | RowStatus::Running | RowStatus::Untold) => {}
            // Somebody else ended it. An update would open the job again.
            Ok(RowStatus::Ended | RowStatus::Queued) => return false,
            Err(_) => {
                self.fresh.store(true, Ordering::Relaxed);
                return false;
            }
        }
        if self.lock().closed || self.control.reason().is_some() {
            return false;
        }
        match client.execution_update_json(&self.execution, &json) {
            Ok(()) => false,
            Err(error) => {
                self.fresh.store(true, Ordering::Relaxed);
                log::debug!("the page of job {} was not updated: {error}", self.job);
                error.is_ambiguous()
            }
        }
    }

    /// The body, small enough for the backend's own socket server.
    fn body(&self, output: &str) -> String {
        let mut room = limits::PAGE_OUTPUT;
        loop {
            let mut kept = Capture::new(room);
            kept.push(output.as_bytes());
            let text = kept.into_text();
            let update = ExecutionUpdate {
                started: Some(self.started),
                completed: Some(clock::wall()),
                output: Some(&text),
                ..ExecutionUpdate::default()
            };
            let json = update.to_json();
            // Escapes make JSON longer than its text.
            if json.len() <= limits::PAGE_BODY || room < 1024 {
                return json;
            }
            room = room * 2 / 3;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{Server, ok};

    fn id(text: &str) -> Id {
        Id::parse(text).expect("id")
    }

    fn page(updates: &PageUpdates) -> Arc<Page> {
        let page = updates.open(&id("a"), &id("exec-a"), &Control::new()).expect("a page");
        page.lock().next = clock::now();
        page
    }

    fn updates() -> PageUpdates {
        PageUpdates::of(LiveWay::Updates, LogStreamer::disabled(), Duration::from_secs(20))
    }

    #[test]
    fn an_update_says_running_and_when_and_carries_head_and_tail() {
        let server = Server::start(|_, _| ok(r#"{"job":{"status":"running"}}"#));
        let (client, page) = (server.client(), page(&updates()));
        page.update(&client);
        assert!(server.lines().is_empty(), "nothing new, nothing sent");
        for n in 0..20_000 {
            page.push(format!("line \u{1} {n}\n").as_bytes());
        }
        page.update(&client);
        page.push(b"more\n");
        page.update(&client);
        let lines = server.lines();
        assert_eq!(lines, ["POST /api/internal/jobs/a/acknowledge", "PUT /api/internal/executions/exec-a/update"]);
        let body = &server.seen()[1].body;
        assert!(body.len() <= limits::PAGE_BODY, "{}", body.len());
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let output = body["output"].as_str().expect("text");
        assert!(output.starts_with("line \u{1} 0\n") && output.ends_with("19999\n"), "head and tail");
        assert_eq!(body["status"], "running");
        assert!(body["completedAt"].is_string() && body["startedAt"].is_string());
    }

    #[test]
    fn a_row_that_is_cancelled_or_over_gets_no_update() {
        for (row, cancelled) in [("cancelled", true), ("failed", false), ("completed", false), ("queued", false)] {
            let row = format!(r#"{{"job":{{"status":"{row}"}}}}"#);
            let server = Server::start(move |_, _| ok(&row));
            let (client, page) = (server.client(), page(&updates()));
            page.push(b"x");
            page.update(&client);
            page.update(&client);
            assert_eq!(server.lines().iter().filter(|line| line.starts_with("PUT")).count(), 0);
            assert_eq!(page.control.reason().is_some(), cancelled);
        }
    }

    #[test]
    fn none_is_sent_after_the_page_was_closed_and_closing_waits_for_one_under_way() {
        let server = Server::start(|seen, _| {
            if seen.line.starts_with("PUT") {
                std::thread::sleep(Duration::from_millis(300));
            }
            ok("{}")
        });
        let (client, page) = (server.client(), page(&updates()));
        page.push(b"x");
        let (own, calling) = (Arc::clone(&page), client.separate());
        let thread = threads::spawn("t-page", move || own.update(&calling)).expect("a thread");
        while server.lines().len() < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(page.shut(), "one is under way");
        page.wait();
        assert!(!page.lock().calling && !page.shut(), "the update has ended");
        thread.join_within(Duration::from_secs(5));
        page.push(b"y");
        page.lock().next = clock::now();
        page.update(&client);
        assert_eq!(server.lines().len(), 2);
        let updates = PageUpdates::of(LiveWay::Websocket, LogStreamer::disabled(), Duration::ZERO);
        assert!(updates.open(&id("a"), &id("exec-a"), &Control::new()).is_none() && !updates.is_used());
    }
}
