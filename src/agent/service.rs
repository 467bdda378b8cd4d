//! The agent's reports to its service manager: ready, status, watchdog, stopping.
//!
//! The main thread calls [`Service::tick`] between its waits. It answers the watchdog only while every watched part makes
//! progress within its time; a stuck part stops the answers, and systemd restarts the agent.

use std::time::{Duration, Instant};

use crate::health::HealthState;
use crate::jobs::running::Running;
use crate::limits;
use crate::metrics;
use crate::os::notify::{Notify, State};
use crate::os::pulse::Pulses;
use crate::wire::time::rfc3339;

/// The last reports and their times.
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
        Self::over(Notify::from_env(|name| std::env::var_os(name)), pulses)
    }

    fn over(notify: Notify, pulses: Pulses) -> Self {
        let now = Instant::now();
        Self { notify, pulses, ready: false, next_ping: now, next_status: now, status: String::new(), stuck: false }
    }

    /// Sends what is due: ready, a changed status, an answer to the watchdog.
    pub fn tick(&mut self, status: impl FnOnce() -> String) {
        if !self.notify.is_connected() {
            return;
        }
        if !self.ready {
            // A lost message would leave the unit starting forever, so it is sent until it is taken.
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

    /// How long the main thread may wait until the next [`Service::tick`].
    pub fn pause(&self) -> Duration {
        let ping = self.notify.ping_interval().unwrap_or(limits::NOTIFY_EVERY);
        ping.min(limits::NOTIFY_EVERY)
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

/// What `systemctl status` shows in one line.
pub fn status_line(health: &HealthState, running: &Running) -> String {
    let jobs = match running.len() {
        1 => "1 job running".to_owned(),
        count => format!("{count} jobs running"),
    };
    let contact = match metrics::last_contact() {
        Some(at) => format!("last contact {}", rfc3339(at, 0)),
        None => "no contact yet".to_owned(),
    };
    match health.why_not_ready() {
        None => format!("claiming; {jobs}; {contact}"),
        Some(why) => format!("not claiming: {why}; {jobs}; {contact}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::sync::mpsc::channel;

    use super::*;
    use crate::os::{pulse, threads};

    /// A service manager with a watchdog of 300 ms.
    struct Manager(UnixDatagram, Service);

    impl Manager {
        fn new(name: &str, pulses: &Pulses) -> Self {
            let name = format!("cronium-service-{}-{name}", std::process::id());
            let address = SocketAddr::from_abstract_name(&name).expect("a name");
            let socket = UnixDatagram::bind_addr(&address).expect("a socket");
            socket.set_nonblocking(true).expect("non-blocking");
            let notify = Notify::from_env(|key| match key {
                "NOTIFY_SOCKET" => Some(format!("@{name}").into()),
                "WATCHDOG_USEC" => Some("300000".into()),
                _ => None,
            });
            Self(socket, Service::over(notify, pulses.clone()))
        }

        /// How often the watchdog was answered while the main thread ticked for `time`.
        fn pings(&mut self, time: Duration) -> usize {
            let (until, mut buffer, mut pings) = (Instant::now() + time, [0; 4096], 0);
            while Instant::now() < until {
                self.1.tick(|| "as ever".to_owned());
                while let Ok(n) = self.0.recv(&mut buffer) {
                    pings += usize::from(buffer[..n].starts_with(b"WATCHDOG=1"));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            pings
        }
    }

    #[test]
    fn one_stuck_worker_among_several_stops_the_pings_until_it_gets_on() {
        let (pulses, second) = (Pulses::new(), Duration::from_secs(1));
        let mut manager = Manager::new("worker", &pulses);
        let (works, all): (Vec<_>, Vec<_>) = (0..3)
            .map(|_| {
                let (work, jobs) = channel::<Duration>();
                let pulse = pulses.part("worker", Duration::from_millis(200));
                let thread = threads::spawn("t-worker", move || {
                    let _watched = pulse.enter();
                    loop {
                        pulse::touch();
                        match jobs.recv_timeout(Duration::from_millis(20)) {
                            Ok(stuck) => std::thread::sleep(stuck),
                            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                            Err(_) => return,
                        }
                    }
                });
                (work, thread.expect("a thread"))
            })
            .unzip();
        assert!(manager.pings(second) >= 5, "all get on");
        works[1].send(second * 2).expect("it listens");
        manager.pings(second / 2);
        assert_eq!(manager.pings(second), 0, "one is stuck");
        manager.pings(second);
        assert!(manager.pings(second) >= 5, "it makes progress again");
        drop(works);
        for thread in all {
            thread.join_within(second * 5);
        }
        assert!(manager.pings(second) >= 5, "what has ended is not stuck");
    }
}
