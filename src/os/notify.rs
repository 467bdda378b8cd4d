//! Reports the agent's state to systemd: `sd_notify(3)` by hand, since a library would be larger than these lines.
//!
//! A message is one datagram of `NAME=value` lines to the socket that `$NOTIFY_SOCKET` names, a path or an abstract name
//! that begins with `@`. Without that variable nothing is sent, so the agent behaves the same when a person starts it.
//! A send never waits: a service manager that does not read must not stop the agent, or the thread that answers its
//! watchdog.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::limits::{NOTIFY_STATUS, WATCHDOG_PINGS};

/// One line of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State<'a> {
    /// The start is over: `READY=1`. Also ends a reload.
    Ready,
    /// One line for `systemctl status`. Control characters become spaces, and what is longer than
    /// `limits::NOTIFY_STATUS` is cut.
    Status(&'a str),
    /// The configuration is read again: `RELOADING=1`, with the time that systemd requires.
    Reloading,
    /// The end has begun: `STOPPING=1`.
    Stopping,
    /// Proof of life: `WATCHDOG=1`.
    Watchdog,
}

/// Errors between the agent and its service manager. None of them ends the agent.
#[derive(Debug)]
pub enum NotifyError {
    /// `$NOTIFY_SOCKET` holds no valid address; the reason.
    Address(OsString, String),
    /// No socket could be made.
    Socket(io::Error),
    /// The message could not be sent.
    Send(OsString, io::Error),
}

impl fmt::Display for NotifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(value, why) => {
                write!(
                    f,
                    "NOTIFY_SOCKET={} is no address ({why}); start the agent as a unit of Type=notify",
                    show(value)
                )
            }
            Self::Socket(error) => write!(f, "cannot make a socket to tell systemd of the agent's state: {error}"),
            Self::Send(address, error) => write!(
                f,
                "systemd did not take a message about the agent's state on {}: {error}; see Type=notify and NotifyAccess= in the unit",
                show(address)
            ),
        }
    }
}

impl std::error::Error for NotifyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Address(..) => None,
            Self::Socket(error) | Self::Send(_, error) => Some(error),
        }
    }
}

/// The socket of the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notify {
    to: Option<Target>,
    watchdog: Option<Duration>,
    /// Set by the first failed send, which alone is logged.
    told: AtomicBool,
}

#[derive(Debug)]
struct Target {
    name: OsString,
    address: SocketAddr,
    socket: UnixDatagram,
}

impl Notify {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` through `get`. A value that cannot be used is logged,
    /// and then counts as absent.
    pub fn from_env(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let to = get("NOTIFY_SOCKET")
            .filter(|value| !value.is_empty())
            .and_then(|name| Target::open(name).map_err(|error| log::warn!("{error}")).ok());
        // Without a socket no ping can be sent, so there is no interval.
        let watchdog = to.as_ref().and_then(|_| watchdog(&get, std::process::id()));
        Self { to, watchdog, told: AtomicBool::new(false) }
    }

    /// Whether there is a service manager.
    pub fn is_connected(&self) -> bool {
        self.to.is_some()
    }

    /// How often to send [`State::Watchdog`]: `limits::WATCHDOG_PINGS` times in that time.
    pub fn ping_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / WATCHDOG_PINGS)
    }

    /// Sends all of `states` in one message. True when it was taken, or when there is nobody to tell; a caller for whom
    /// the message matters, as `READY=1` does, sends it again after false. The first failure is logged.
    pub fn send(&self, states: &[State]) -> bool {
        let Some(to) = &self.to else { return true };
        let sent = to.socket.send_to_addr(message(states, monotonic_micros()).as_bytes(), &to.address);
        let Err(error) = sent else { return true };
        if !self.told.swap(true, Ordering::Relaxed) {
            log::warn!("{}", NotifyError::Send(to.name.clone(), error));
        }
        false
    }
}

impl Target {
    fn open(name: OsString) -> Result<Self, NotifyError> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] if !rest.is_empty() => SocketAddr::from_abstract_name(rest),
            [b'/', ..] => SocketAddr::from_pathname(&name),
            _ => {
                let why = "it begins neither with / nor with @ and a name".to_owned();
                return Err(NotifyError::Address(name, why));
            }
        };
        let address = match address {
            Ok(address) => address,
            Err(error) => return Err(NotifyError::Address(name, error.to_string())),
        };
        let socket = UnixDatagram::unbound().map_err(NotifyError::Socket)?;
        socket.set_nonblocking(true).map_err(NotifyError::Socket)?;
        Ok(Self { name, address, socket })
    }
}

fn message(states: &[State], now_micros: u64) -> String {
    let line = |state: &State| match state {
        State::Ready => "READY=1".to_owned(),
        State::Status(text) => format!("STATUS={}", one_line(text)),
        State::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={now_micros}"),
        State::Stopping => "STOPPING=1".to_owned(),
        State::Watchdog => "WATCHDOG=1".to_owned(),
    };
    states.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A line break in a status would start another line, such as `STOPPING=1`.
fn one_line(text: &str) -> String {
    let cut = (0..=text.len().min(NOTIFY_STATUS)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text[..cut].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The watchdog's time, if it is set, is meant for process `own` and is more than nothing.
fn watchdog(get: &impl Fn(&str) -> Option<OsString>, own: u32) -> Option<Duration> {
    let text = |name| get(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
    let micros = text("WATCHDOG_USEC")?;
    if text("WATCHDOG_PID").is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    match micros.parse() {
        Ok(0) => None,
        Ok(micros) => Some(Duration::from_micros(micros)),
        Err(_) => {
            log::warn!("WATCHDOG_USEC={micros:?} is no number of microseconds; no watchdog is answered");
            None
        }
    }
}

/// `CLOCK_MONOTONIC` in microseconds: systemd compares it with its own, and `Instant` does not show it.
fn monotonic_micros() -> u64 {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `now` has room for the one timespec that the call writes.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr()) } != 0 {
        return 0;
    }
    // SAFETY: the call returned 0, so it filled the whole structure.
    let now = unsafe { now.assume_init() };
    let part = |n: i64, scale: u64| u64::try_from(n).unwrap_or(0).saturating_mul(scale);
    part(now.tv_sec, 1_000_000).saturating_add(part(now.tv_nsec, 1) / 1_000)
}

fn show(value: &OsString) -> std::borrow::Cow<'_, str> {
    value.to_string_lossy()
}

#[cfg(test)]
mod tests {

    use super::*;

    fn environment<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    }

    fn to(socket: &str) -> Notify {
        Notify::from_env(environment(&[("NOTIFY_SOCKET", socket)]))
    }

    fn read(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        let mut bytes = [0; 8192];
        let n = socket.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..n].to_vec()).expect("UTF-8")
    }

    #[test]
    fn messages_arrive_on_a_path_and_on_an_abstract_name() {
        let place = crate::os::scratch::Scratch::new();
        let file = place.join("both");
        let by_path = UnixDatagram::bind(&file).expect("bind");
        let word = format!("cronium-notify-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&word).expect("name")).expect("bind");
        for (socket, address) in [(&by_path, file.to_str().expect("text").to_owned()), (&by_name, format!("@{word}"))] {
            let notify = to(&address);
            assert!(notify.is_connected());
            assert!(notify.send(&[State::Ready, State::Status("running 2 jobs")]));
            assert!(notify.send(&[State::Stopping]));
            assert!(notify.send(&[State::Watchdog]));
            assert!(notify.send(&[State::Reloading]));
            assert_eq!(read(socket), "READY=1\nSTATUS=running 2 jobs");
            assert_eq!(read(socket), "STOPPING=1");
            assert_eq!(read(socket), "WATCHDOG=1");
            let reloading = read(socket);
            let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("both lines").parse::<u64>();
            let uptime = std::fs::read_to_string("/proc/uptime").expect("uptime");
            let uptime: f64 = uptime.split(' ').next().expect("a number").parse().expect("a number");
            let away = uptime - std::time::Duration::from_micros(at.expect("a number")).as_secs_f64();
            // The uptime counts time asleep too, so it may be ahead, never behind.
            assert!(away > -2.0 && away < 86_400.0 * 365.0, "{reloading} against {uptime}");
        }
    }

    #[test]
    fn a_status_stays_one_bounded_line() {
        let long = "é".repeat(NOTIFY_STATUS);
        for (text, want) in [
            ("two\nlines\rand\ttabs\0", "STATUS=two lines and tabs ".to_owned()),
            ("x\nSTOPPING=1", "STATUS=x STOPPING=1".to_owned()),
            ("", "STATUS=".to_owned()),
            (&format!("x{long}"), format!("STATUS=x{}", "é".repeat(NOTIFY_STATUS / 2 - 1))),
            (&long, format!("STATUS={}", "é".repeat(NOTIFY_STATUS / 2))),
        ] {
            assert_eq!(message(&[State::Status(text)], 0), want);
        }
    }

    #[test]
    fn without_a_usable_socket_nothing_is_sent_and_nothing_fails() {
        let long = format!("/{}", "x".repeat(200));
        for socket in ["", "@", "relative", "vsock:2:1234", &long] {
            let notify = to(socket);
            assert!(!notify.is_connected() && notify.send(&[State::Ready]), "{socket}");
        }
        assert!(!Notify::from_env(|_| None).is_connected());
        assert!(Notify::default().send(&[State::Watchdog]));
        let error = Target::open(OsString::from("relative")).expect_err("no address").to_string();
        assert!(error.starts_with("NOTIFY_SOCKET=relative is no address"), "{error}");
    }

    #[test]
    fn a_reader_that_does_not_read_stops_nobody_and_is_told_once() {
        let place = crate::os::scratch::Scratch::new();
        let file = place.join("full");
        let reader = UnixDatagram::bind(&file).expect("bind");
        let notify = to(file.to_str().expect("text"));
        let begun = std::time::Instant::now();
        // The kernel queues a few hundred datagrams at most.
        let taken = (0..5_000).take_while(|_| notify.send(&[State::Watchdog])).count();
        assert!(taken < 5_000, "the queue never filled");
        assert!(!notify.send(&[State::Watchdog]) && notify.told.load(Ordering::Relaxed));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        while read(&reader) != "WATCHDOG=1" {}
        assert!(notify.send(&[State::Ready]), "there is room again");
        drop(reader);
        assert!(!notify.send(&[State::Ready]), "nobody is there");
    }

    #[test]
    fn the_watchdogs_time_is_read_for_this_process_only() {
        let own = std::process::id().to_string();
        for (pairs, want) in [
            (vec![], None),
            (vec![("WATCHDOG_USEC", "30000000")], Some(30_000_000)),
            (vec![("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", own.as_str())], Some(30_000_000)),
            (vec![("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "")], Some(30_000_000)),
            (vec![("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "1")], None),
            (vec![("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "x")], None),
            (vec![("WATCHDOG_USEC", "0")], None),
            (vec![("WATCHDOG_USEC", "-1")], None),
            (vec![("WATCHDOG_USEC", "30s")], None),
            (vec![("WATCHDOG_PID", own.as_str())], None),
        ] {
            let want = want.map(Duration::from_micros);
            assert_eq!(watchdog(&environment(&pairs), std::process::id()), want, "{pairs:?}");
            assert_eq!(Notify::from_env(environment(&pairs)).watchdog, None, "without a socket: {pairs:?}");
            let with = [pairs.as_slice(), &[("NOTIFY_SOCKET", "@x")]].concat();
            let notify = Notify::from_env(environment(&with));
            assert_eq!(notify.watchdog, want);
            assert_eq!(notify.ping_interval(), want.map(|limit| limit / WATCHDOG_PINGS));
        }
    }
}
