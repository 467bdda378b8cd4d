//! From a host's name to its addresses, within a deadline.
//!
//! The C library's resolver cannot be interrupted, and may take minutes if the name server does not answer. So each lookup
//! has a thread, which is left behind when it is late. The number of those threads is bounded: a further lookup waits for a
//! place within its deadline.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Condvar, Mutex, PoisonError};

use super::clock::{self, Deadline};
use super::net::{self, Error};
use super::threads;
use crate::limits;

/// Lookups that share a bound.
#[derive(Debug)]
pub struct Names {
    running: Mutex<usize>,
    bell: Condvar,
    most: usize,
    /// The name of `most`, for errors.
    limit: &'static str,
}

/// Names in the agent's configuration.
pub static OWN: Names = Names::new(limits::LOOKUPS_OWN, "limits::LOOKUPS_OWN");
/// Names that come with jobs. They have separate places, so that they never block the way to the backend.
pub static SERVERS: Names = Names::new(limits::LOOKUPS_SERVERS, "limits::LOOKUPS_SERVERS");

/// A lookup's place, given back when the lookup ends.
struct Place(&'static Names);

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.bell.notify_one();
    }
}

impl Names {
    const fn new(most: usize, limit: &'static str) -> Self {
        Self { running: Mutex::new(0), bell: Condvar::new(), most, limit }
    }

    /// The addresses of `host`, which may be an address itself, in the resolver's order.
    pub fn find(&'static self, host: &str, port: u16, deadline: Deadline) -> Result<Vec<SocketAddr>, Error> {
        self.find_while(host, port, deadline, &|| true)
    }

    /// The same for as long as it is wanted, which is asked each [`limits::STOP_CHECK`].
    pub fn find_while(
        &'static self,
        host: &str,
        port: u16,
        deadline: Deadline,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<SocketAddr>, Error> {
        let ask = |host: &str, port| (host, port).to_socket_addrs().map(Iterator::collect);
        self.find_by(host, port, (deadline, wanted), ask)
    }

    /// Connects to the first address of `host` that answers.
    pub fn connect(&'static self, host: &str, port: u16, deadline: Deadline) -> Result<TcpStream, Error> {
        net::connect(&self.find(host, port, deadline)?, deadline)
    }

    /// [`Names::find`] with another resolver.
    pub(crate) fn find_by(
        &'static self,
        host: &str,
        port: u16,
        (deadline, wanted): (Deadline, &dyn Fn() -> bool),
        ask: impl FnOnce(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> Result<Vec<SocketAddr>, Error> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let failed = |source| Error::Name { host: host.to_owned(), source };
        let place = self.take_place(host, deadline, wanted)?;
        let (sender, answer) = sync_channel(1);
        let name = host.to_owned();
        // Not joined: it may be left behind.
        threads::spawn("resolve", move || {
            let found = ask(&name, port);
            drop(place);
            // There is no receiver if it took too long.
            let _ = sender.send(found);
        })
        .map_err(failed)?;
        let late = || Error::NameLate { host: host.to_owned(), deadline };
        let found = loop {
            match answer.recv_timeout(deadline.left().ok_or_else(late)?.min(limits::STOP_CHECK)) {
                Ok(found) => break found.map_err(failed)?,
                Err(RecvTimeoutError::Timeout) if !wanted() => return Err(Error::Unwanted),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(io::Error::other("the lookup's thread broke down")));
                }
            }
        };
        if found.is_empty() { Err(failed(io::Error::other("the resolver knows no address"))) } else { Ok(found) }
    }

    fn take_place(&'static self, host: &str, deadline: Deadline, wanted: &dyn Fn() -> bool) -> Result<Place, Error> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= self.most {
            let Some(left) = deadline.left() else {
                let (host, most) = (host.to_owned(), (self.most, self.limit));
                return Err(Error::NameBusy { host, most, deadline });
            };
            if !wanted() {
                return Err(Error::Unwanted);
            }
            running = clock::wait(&self.running, &self.bell, running, left.min(limits::STOP_CHECK));
        }
        *running += 1;
        Ok(Place(self))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::os::stop::Stop;

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(20);

    fn within(length: Duration) -> Deadline {
        Deadline::after(length, "the test's limit")
    }

    /// A resolver that answers only when the test lets it.
    fn hangs(until: &Stop) -> impl FnOnce(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + 'static {
        let until = until.clone();
        move |_, port| {
            until.wait(LONG);
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
        }
    }

    fn at_most(most: usize) -> &'static Names {
        Box::leak(Box::new(Names::new(most, "limits::MOST")))
    }

    #[test]
    fn an_address_needs_no_resolver() {
        let never = |_: &str, _| -> io::Result<Vec<SocketAddr>> { panic!("asked") };
        for (host, shown) in [("192.0.2.1", "192.0.2.1:7"), ("2001:db8::1", "[2001:db8::1]:7")] {
            let found = OWN.find_by(host, 7, (within(LONG), &|| true), never).expect("an address");
            assert_eq!(found, [shown.parse().expect("an address")]);
        }
        let found = OWN.find("localhost", 7, within(LONG)).expect("this host knows itself");
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 7), "{found:?}");
    }

    #[test]
    fn a_resolver_that_hangs_is_left_behind_by_name() {
        let (names, over, begun) = (at_most(1), Stop::new(), Instant::now());
        let error = names.find_by("db.example", 1, (within(SHORT), &|| true), hangs(&over)).expect_err("no answer");
        assert!(begun.elapsed() < LONG / 2 && error.is_late(), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("db.example") && said.contains("within 200ms (the test's limit)"), "{said}");
        over.set();
    }

    #[test]
    fn a_lookup_that_nobody_waits_for_any_more_is_given_up_also_before_its_turn() {
        let (names, over, begun) = (at_most(1), Stop::new(), Instant::now());
        let unwanted = || false;
        for _ in 0..2 {
            let found = names.find_by("a.example", 1, (within(LONG), &unwanted), hangs(&over));
            assert!(matches!(found, Err(Error::Unwanted)), "{found:?}");
        }
        assert!(begun.elapsed() < LONG / 2);
        over.set();
    }

    #[test]
    fn lookups_that_hang_are_bounded_and_a_place_that_comes_free_is_taken() {
        let (names, over) = (at_most(3), Stop::new());
        for _ in 0..3 {
            assert!(names.find_by("a.example", 1, (within(SHORT), &|| true), hangs(&over)).is_err());
        }
        // No fourth thread: the error names the blocking lookups.
        let never = |_: &str, _| -> io::Result<Vec<SocketAddr>> { panic!("asked") };
        let error = names.find_by("b.example", 1, (within(SHORT), &|| true), never).expect_err("no place");
        let said = error.to_string();
        assert!(said.contains("b.example") && said.contains("3 lookups") && said.contains("limits::MOST"), "{said}");
        // The resolver recovers while a lookup waits.
        let ends = over.clone();
        let later = threads::spawn("t-later", move || {
            std::thread::sleep(SHORT);
            ends.set();
        });
        let found = names.find_by("b.example", 1, (within(LONG), &|| true), hangs(&over)).expect("an address");
        assert_eq!(found.len(), 1);
        later.expect("a thread").join_within(LONG);
    }

    #[test]
    fn a_healthy_resolver_serves_more_than_may_ask_at_once() {
        let names = at_most(2);
        let served = Arc::new(Mutex::new(0));
        let all: Vec<_> = (0..40)
            .map(|_| {
                let served = Arc::clone(&served);
                threads::spawn("t-ask", move || {
                    let slow = |_: &str, port| {
                        std::thread::sleep(Duration::from_millis(2));
                        Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
                    };
                    names.find_by("c.example", 1, (within(LONG), &|| true), slow).expect("an address");
                    *served.lock().expect("a lock") += 1;
                })
            })
            .collect();
        for one in all {
            one.expect("a thread").join_within(LONG);
        }
        assert_eq!(*served.lock().expect("a lock"), 40);
    }

    #[test]
    fn what_the_resolver_says_is_passed_on() {
        let no = |_: &str, _| Err(io::Error::other("no such name"));
        let error = OWN.find_by("d.example", 1, (within(LONG), &|| true), no).expect_err("unknown");
        assert!(error.to_string().contains("d.example has no address: no such name"), "{error}");
        let none = |_: &str, _| Ok(Vec::new());
        let error = OWN.find_by("d.example", 1, (within(LONG), &|| true), none).expect_err("no address");
        assert!(!error.is_late() && error.to_string().contains("knows no address"), "{error}");
    }
}
