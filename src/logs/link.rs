//! The thread `log-streamer`: keeps one connection up and sends all jobs' lines through it in turn.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tungstenite::Message;
use tungstenite::protocol::WebSocket;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::dial::Dialer;
use super::encode::{self, Dialect, Head};
use super::error::LinkError;
use super::job::Job;
use super::shared::Shared;
use super::socket::Socket;
use super::types::ServerEvent;
use crate::job::{ID_MAX, Id};
use crate::limits::{
    LOG_BACKOFF_ABSENT, LOG_BACKOFF_FIRST, LOG_BACKOFF_MOST, LOG_BACKOFF_REFUSED, LOG_MESSAGE_BYTES, LOG_OUT_HIGH,
    LOG_OUT_MOST, LOG_PING, LOG_READ_TURN, LOG_SILENCE, LOG_STEADY, LOG_STOP_CLOSE, LOG_STOP_FLUSH, LOG_WRITE_STALL,
    PULSE_SLICE,
};
use crate::os::{poll, pulse, random};
use crate::secret::Secret;
use crate::wire::scan::Json;

/// Called on this thread for each event of the server.
pub(super) type OnEvent = Box<dyn Fn(ServerEvent) + Send>;

/// Connects, streams, and connects again, until the agent stops.
pub(super) fn run(shared: &Shared, dialer: Dialer, on_event: &OnEvent) {
    let mut failures = 0;
    // Batches are numbered over all connections, so that a late acknowledgement cannot refer to another batch.
    let mut batch = 0;
    while !shared.stopping() {
        pulse::touch();
        let used = shared.settings.token.now();
        let error = match dialer.connect(shared) {
            Ok((socket, dialect)) => {
                shared.up(dialect);
                let begun = Instant::now();
                let mut link = Link::new(shared, socket, dialect, on_event, batch);
                let error = link.stream();
                batch = link.batch;
                shared.down(&error);
                if begun.elapsed() >= LOG_STEADY {
                    failures = 0;
                }
                error
            }
            Err(error) if error.is_refusal() && shared.settings.token.is_renewed_after(&used) => continue,
            Err(error) => {
                shared.failed(&error);
                error
            }
        };
        let most = if error.is_absent() { LOG_BACKOFF_ABSENT } else { LOG_BACKOFF_MOST };
        let pause = if error.is_refusal() { LOG_BACKOFF_REFUSED } else { backoff(failures, most, random::unit()) };
        failures = failures.saturating_add(1);
        pause_for(shared, pause, &used);
    }
}

/// Full jitter: a share `unit` (0 to 1) of a time that doubles with each failure, up to `most`.
fn backoff(failures: u32, most: Duration, unit: f64) -> Duration {
    LOG_BACKOFF_FIRST.saturating_mul(1 << failures.min(16)).min(most).mul_f64(unit)
}

/// Sleeps, unless the agent stops or gets another token than `used`. Ignores wake-ups about new lines.
fn pause_for(shared: &Shared, pause: Duration, used: &Secret) {
    let until = Instant::now() + pause;
    loop {
        pulse::touch();
        let left = until.saturating_duration_since(Instant::now());
        let slice = left.min(PULSE_SLICE);
        let is_over = left.is_zero() || shared.stopping() || shared.settings.token.now() != *used;
        if is_over || poll::wait(&mut [shared.waker.watch()], slice).is_err() {
            return;
        }
        shared.waker.take();
    }
}

/// When a job's unsent lines are to be sent.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Now,
    In(Duration),
    /// There are none.
    Never,
}

/// At once if the job has nothing in flight, a batch is full or a thread waits; else after `flushInterval`.
fn due(unsent: usize, quiet: bool, urgent: bool, full: usize, age: Duration, flush: Duration) -> Due {
    match unsent {
        0 => Due::Never,
        n if quiet || urgent || n >= full || age >= flush => Due::Now,
        _ => Due::In(flush - age),
    }
}

/// Lines that were sent and have not arrived yet.
struct Flight {
    /// v2: the batch's number. Without acknowledgements: the byte count that the kernel must have taken.
    mark: u64,
    job: Arc<Job>,
    lines: usize,
    arrived: bool,
}

/// One connection.
struct Link<'a> {
    shared: &'a Shared,
    socket: WebSocket<Socket>,
    dialect: Dialect,
    on_event: &'a OnEvent,
    flights: VecDeque<Flight>,
    batch: u64,
    /// The next job in turn.
    turn: usize,
    head: Head,
    text: Vec<u8>,
    last_heard: Instant,
    last_ping: Instant,
    last_progress: Instant,
    warned: bool,
}

/// A message of the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Ack(u64),
    Event(ServerEvent),
    /// A type that this version does not know.
    Other,
    /// What is wrong with the message.
    Unusable(&'static str),
}

/// Reads a server's message: its `type`, and the fields of `payload` that this type needs.
pub(super) fn hear(text: &[u8]) -> Heard {
    let fields = Json::strict(text).ok().and_then(|message| message.fields(["type", "payload"]).ok());
    let Some([Some(kind), payload]) = fields else { return Heard::Unusable("a message that is no JSON envelope") };
    if kind.is("ack") {
        let batch = payload.and_then(|payload| payload.field("batch")).and_then(Json::count);
        batch.map_or(Heard::Unusable("an ack without a batch number"), Heard::Ack)
    } else if kind.is("cancel") {
        let id = payload.and_then(|payload| payload.field("jobId")).and_then(|id| id.text(ID_MAX).ok());
        let id = id.and_then(|id| Id::parse(&id).ok());
        id.map_or(Heard::Unusable("a cancel without a job's id"), |id| Heard::Event(ServerEvent::Cancel(id)))
    } else if kind.is("jobs") {
        Heard::Event(ServerEvent::JobsQueued)
    } else if kind.sort() == "text" {
        Heard::Other
    } else {
        Heard::Unusable("a message that is no JSON envelope")
    }
}

impl<'a> Link<'a> {
    fn new(shared: &'a Shared, socket: WebSocket<Socket>, dialect: Dialect, on_event: &'a OnEvent, batch: u64) -> Self {
        let now = Instant::now();
        Self {
            shared,
            socket,
            dialect,
            on_event,
            flights: VecDeque::new(),
            batch,
            turn: 0,
            head: Head::default(),
            text: Vec::new(),
            last_heard: now,
            last_ping: now,
            last_progress: now,
            warned: false,
        }
    }

    /// Streams until the connection is lost or the agent stops; returns the reason.
    fn stream(&mut self) -> LinkError {
        match self.stream_until_error() {
            Ok(()) => {
                self.close();
                LinkError::Stopped
            }
            Err(error) => error,
        }
    }

    fn stream_until_error(&mut self) -> Result<(), LinkError> {
        if self.dialect == Dialect::V2 {
            let settings = &self.shared.settings;
            self.text = encode::hello(&settings.orchestrator_id, &settings.version);
            self.write_text()?;
        }
        // Bytes that arrived with the answer to the upgrade are here already; `ppoll` does not see them.
        let (mut stop_at, mut more) = (None, true);
        loop {
            pulse::touch();
            let flush = self.fill()?;
            self.push()?;
            if self.shared.stopping() {
                let until = *stop_at.get_or_insert_with(|| Instant::now() + LOG_STOP_FLUSH);
                let idle = self.flights.is_empty() && self.socket.get_ref().waiting() == 0 && self.shared.all_empty();
                if idle || Instant::now() >= until {
                    return Ok(());
                }
            }
            let mut wait = self.timers(Instant::now())?;
            if let Some(flush) = flush {
                wait = wait.min(flush);
            }
            if let Some(until) = stop_at {
                wait = wait.min(until.saturating_duration_since(Instant::now()));
            }
            if more {
                wait = Duration::ZERO;
            }
            let mut watches = [self.socket.get_ref().watch(), self.shared.waker.watch()];
            poll::wait(&mut watches, wait)?;
            let [socket, waker] = watches.map(|w| w.readable());
            if waker {
                self.shared.waker.take();
            }
            if socket || more {
                more = self.read()?;
            }
        }
    }

    /// Encodes due lines, one batch a job in turn, until none is due or enough waits for the socket. Returns when the next
    /// lines are due.
    fn fill(&mut self) -> Result<Option<Duration>, LinkError> {
        let shared = self.shared;
        let mut registry = shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        while self.socket.get_ref().waiting() < LOG_OUT_HIGH
            && let Some(status) = registry.statuses.pop_front()
        {
            if self.dialect == Dialect::V2 {
                self.text = status;
                self.write_text()?;
            }
        }
        let jobs = registry.jobs.len();
        let mut next: Option<Duration> = None;
        let mut idle = 0;
        while idle < jobs && self.socket.get_ref().waiting() < LOG_OUT_HIGH {
            self.turn = (self.turn + 1) % jobs;
            match self.send_due(&registry.jobs[self.turn])? {
                Due::Now => idle = 0,
                Due::In(left) => {
                    idle += 1;
                    next = Some(next.map_or(left, |n| n.min(left)));
                }
                Due::Never => idle += 1,
            }
        }
        Ok(next)
    }

    /// Sends one batch of `job` if it is due.
    fn send_due(&mut self, job: &Arc<Job>) -> Result<Due, LinkError> {
        let live = &self.shared.settings.live;
        let now = Instant::now();
        let mut inner = job.lock();
        let age = inner.buffer.waiting_since().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let quiet = inner.buffer.in_flight() == 0;
        let due = due(inner.buffer.unsent(), quiet, inner.urgent(), live.batch_size, age, live.flush_interval);
        if due != Due::Now {
            return Ok(due);
        }
        let lines = inner.buffer.batch(live.batch_size.max(1), LOG_MESSAGE_BYTES);
        match self.dialect {
            Dialect::V2 => {
                self.batch += 1;
                self.text.clear();
                let entries = inner.buffer.next(lines);
                encode::batch(&mut self.text, &mut self.head, job.id.as_str(), self.batch, entries);
                self.write_text()?;
                self.flights.push_back(Flight { mark: self.batch, job: Arc::clone(job), lines, arrived: false });
            }
            Dialect::Lines => {
                // This dialect cannot replace a line: a line is sent when it has ended.
                for line in inner.buffer.next(lines).filter(|line| !line.partial) {
                    self.text.clear();
                    encode::line(&mut self.text, &mut self.head, job.id.as_str(), &line);
                    self.write_text()?;
                }
                let mark = self.socket.get_ref().accepted();
                self.flights.push_back(Flight { mark, job: Arc::clone(job), lines, arrived: false });
            }
        }
        inner.buffer.mark_sent(lines, now);
        Ok(Due::Now)
    }

    /// Puts `text` into the socket's buffer as one message. It is UTF-8, as [`encode`] writes it; a `Message::Text` would check
    /// that again.
    fn write_text(&mut self) -> Result<(), LinkError> {
        let next = Vec::with_capacity(self.text.len());
        let text = std::mem::replace(&mut self.text, next);
        debug_assert!(std::str::from_utf8(&text).is_ok(), "a text message that is no text");
        Ok(self.socket.write(Message::Frame(Frame::message(text, OpCode::Data(Data::Text), true)))?)
    }

    /// Hands bytes to the kernel, and releases the lines that are sent by that.
    fn push(&mut self) -> Result<(), LinkError> {
        if self.socket.get_mut().push()? {
            self.last_progress = Instant::now();
        }
        if self.dialect == Dialect::Lines {
            let written = self.socket.get_ref().written();
            for flight in self.flights.iter_mut().take_while(|f| f.mark <= written) {
                flight.arrived = true;
            }
            self.release();
        }
        Ok(())
    }

    /// Releases arrived lines in order: an early acknowledgement waits for those before it.
    fn release(&mut self) {
        while self.flights.front().is_some_and(|f| f.arrived) {
            if let Some(flight) = self.flights.pop_front() {
                self.last_progress = Instant::now();
                flight.job.arrived(flight.lines, SystemTime::now(), self.last_progress);
            }
        }
    }

    /// Pings, and gives up a dead connection. Returns the time until the next action.
    fn timers(&mut self, now: Instant) -> Result<Duration, LinkError> {
        let busy = self.socket.get_ref().waiting() > 0 || !self.flights.is_empty();
        if !busy {
            self.last_progress = now;
        }
        let since = |then: Instant| now.saturating_duration_since(then);
        if since(self.last_progress) >= LOG_WRITE_STALL {
            return Err(LinkError::Stalled);
        }
        if since(self.last_heard) >= LOG_SILENCE {
            return Err(LinkError::Silent);
        }
        if since(self.last_ping) >= LOG_PING {
            self.last_ping = now;
            self.socket.write(Message::Ping(Vec::new().into()))?;
            self.push()?;
        }
        let stall = if busy { LOG_WRITE_STALL - since(self.last_progress) } else { LOG_SILENCE };
        let heard = LOG_SILENCE.saturating_sub(since(self.last_heard));
        Ok(stall.min(heard).min(LOG_PING.saturating_sub(since(self.last_ping))).min(PULSE_SLICE))
    }

    /// Reads one turn of incoming messages; true if there may be more, which `ppoll` need not see.
    fn read(&mut self) -> Result<bool, LinkError> {
        for _ in 0..LOG_READ_TURN {
            let message = match self.socket.read() {
                Ok(message) => message,
                Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            self.last_heard = Instant::now();
            match message {
                Message::Text(text) => self.heard(text.as_str()),
                Message::Binary(_) => self.warn_once("a binary message"),
                Message::Close(frame) => {
                    // tungstenite has queued the answer; send as much as the socket takes.
                    let _ = self.socket.flush();
                    let _ = self.socket.get_mut().push();
                    let reason = frame.map(|f| format!("code {}, {:?}", u16::from(f.code), f.reason.as_str()));
                    return Err(LinkError::Closed(reason));
                }
                // tungstenite has queued the answer behind the waiting bytes.
                Message::Ping(_) if self.socket.get_ref().waiting() > LOG_OUT_MOST => return Err(LinkError::Flooded),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        Ok(true)
    }

    /// Acts on a server's message. Ignores an unreadable one: the live log must not break.
    fn heard(&mut self, text: &str) {
        match hear(text.as_bytes()) {
            Heard::Ack(batch) => self.acknowledged(batch),
            Heard::Event(event) => (self.on_event)(event),
            Heard::Other => log::debug!("live log: a message of an unknown type is ignored"),
            Heard::Unusable(what) => self.warn_once(what),
        }
    }

    fn acknowledged(&mut self, batch: u64) {
        let found = (self.dialect == Dialect::V2).then(|| self.flights.binary_search_by_key(&batch, |f| f.mark));
        match found {
            Some(Ok(n)) => {
                self.flights[n].arrived = true;
                self.release();
            }
            _ => log::debug!("live log: an acknowledgement of batch {batch}, which is not in flight, is ignored"),
        }
    }

    /// Logs once per connection, or a hostile server would fill the agent's log.
    fn warn_once(&mut self, what: &str) {
        if !self.warned {
            self.warned = true;
            log::warn!("live log: the server sent {what}; it and others like it are ignored");
        }
    }

    /// Closes the connection, and waits briefly for the answer, so that a reset does not cut off the last lines.
    fn close(&mut self) {
        let until = Instant::now() + LOG_STOP_CLOSE;
        let _ = self.socket.close(None);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let pushed = self.socket.get_mut().push();
            if left.is_zero() || pushed.is_err() {
                return;
            }
            match self.read() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(_) => return,
            }
            if poll::wait(&mut [self.socket.get_ref().watch()], left).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
