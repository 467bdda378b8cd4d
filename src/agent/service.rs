//! The agent towards its service manager: that it is ready, what it does, that it gets on, that it ends.
//!
//! The main thread calls [`Service::tick`] between its waits. The watchdog is answered only while every watched part
//! has got on within its time; a part that is stuck stops the answers, and systemd starts the agent afresh.

use std::time::Instant;

use crate::limits;
use crate::os::notify::{Notify, State};
use crate::os::pulse::Pulses;

/// What is told, and when it was told last.
pub struct Service {
    notify: Notify,
    pulses: Pulses,
    ready: bool,
    next_ping: Instant,
    next_status: Instant,
    status: String,
    /// A part is stuck, and that was said.
    stuck: bool,
}

impl Service {
    /// From the environment that systemd gives.
    pub fn new(pulses: Pulses) -> Self {
        let notify = Notify::from_env(|name| std::env::var_os(name));
        let now = Instant::now();
        Self { notify, pulses, ready: false, next_ping: now, next_status: now, status: String::new(), stuck: false }
    }

    /// Says what is due: that the agent is ready, its status where that has changed, that it gets on.
    pub fn tick(&mut self, status: impl FnOnce() -> String) {
        if !self.notify.is_connected() {
            return;
        }
        if !self.ready {
            // Lost, it would leave the unit starting for ever: so it is said until it was taken.
            self.ready = self.notify.send(&[State::Ready]);
        }
        let now = Instant::now();
        if now >= self.next_status {
            self.next_status = now + limits::NOTIFY_EVERY;
            let status = status();
            if status != self.status && self.notify.send(&[State::Status(&status)]) {
                self.status = status;
            }
        }
        if let Some(interval) = self.notify.ping_interval()
            && now >= self.next_ping
        {
            self.next_ping = now + interval;
            match self.pulses.healthy(now) {
                Ok(()) => {
                    self.stuck = false;
                    self.notify.send(&[State::Watchdog]);
                }
                Err(stuck) if !self.stuck => {
                    self.stuck = true;
                    log::error!("{stuck}; the watchdog is not answered any more");
                }
                Err(_) => {}
            }
        }
    }

    /// The configuration is being read again; the next [`Service::tick`] says that it is over, and the status anew.
    pub fn reloading(&mut self) {
        let status = "reading the configuration again";
        self.notify.send(&[State::Reloading, State::Status(status)]);
        self.ready = false;
        status.clone_into(&mut self.status);
        self.next_status = Instant::now();
    }

    /// The agent ends.
    pub fn stopping(&mut self, why: &str) {
        self.notify.send(&[State::Stopping, State::Status(why)]);
    }
}
