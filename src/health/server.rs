//! The sockets: one thread, at most `limits::HEALTH_CONNECTIONS` clients, each with a bounded head, a deadline and one
//! reply.
//!
//! tiny_http's own server reads heads without a timeout and without a cap, and starts a thread for each client that
//! waits: a thousand silent clients are a thousand threads. So the reading is done here and tiny_http is left to write
//! the reply. What a hostile client can hold is one of the places below until its deadline or until newer clients need
//! it; memory and threads do not grow.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::client::{Client, Next, State, Turn};
use super::error::Error;
use super::http::{bytes, refusal};
use super::listener::{Inbox, Listener, News, Site, Socket};
use crate::limits;
use crate::os::poll::{self, Watch};
use crate::os::threads::{self, Ended, Thread};

/// A running server. Dropping it ends the thread; [`Server::stop`] also waits for it.
#[derive(Debug)]
pub struct Server {
    inbox: Inbox,
    thread: Option<Thread>,
}

impl Server {
    pub(super) fn start(name: &'static str, listeners: Vec<Listener>) -> Result<Self, Error> {
        let inbox = Inbox::new().map_err(Error::Start)?;
        let own = inbox.clone();
        let thread = threads::spawn(name, move || Loop::new(name, own, listeners).serve()).map_err(Error::Start)?;
        Ok(Self { inbox, thread: Some(thread) })
    }

    pub(super) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Ends the server within `wait` and removes its Unix socket. Clients that are still served are cut off.
    pub fn stop(mut self, wait: Duration) -> Ended {
        self.inbox.tell(News::Stop);
        self.thread.take().map_or(Ended::Returned, |thread| thread.join_within(wait))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.inbox.tell(News::Stop);
    }
}

/// What the thread works on.
struct Loop {
    inbox: Inbox,
    listeners: Vec<(u64, Listener)>,
    clients: Vec<Client>,
    next_client: u64,
    complaints: Complaints,
}

/// What is ready, in the order of [`Loop`]'s lists.
struct Ready {
    news: bool,
    listeners: Vec<bool>,
    clients: Vec<bool>,
}

impl Loop {
    fn new(name: &'static str, inbox: Inbox, listeners: Vec<Listener>) -> Self {
        let complaints = Complaints { name, last: None };
        let listeners = (0..).zip(listeners).collect();
        Self { inbox, listeners, clients: Vec::new(), next_client: 1, complaints }
    }

    /// Serves until the news say stop.
    fn serve(mut self) {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    // Out of kernel memory: all that can be done is to let go and try again.
                    self.complaints.say(&format!("poll failed: {error}"));
                    self.clients.clear();
                    std::thread::sleep(limits::HEALTH_ACCEPT_PAUSE);
                    continue;
                }
            };
            self.turn(&ready.clients);
            self.accept_all(&ready.listeners);
            if ready.news && self.read_news() == Next::Close {
                return;
            }
        }
    }

    /// Waits for news, clients and listeners; at most to the earliest deadline of a client.
    fn wait(&self) -> std::io::Result<Ready> {
        let mut watches = vec![self.inbox.watch()];
        let open: Vec<bool> = self.listeners.iter().map(|(id, listener)| self.takes(*id, listener)).collect();
        let sockets = self.listeners.iter().zip(&open).filter(|(_, open)| **open);
        watches.extend(sockets.map(|((_, listener), _)| match &listener.socket {
            Socket::Tcp(socket) => Watch::new(socket.as_fd(), false),
            Socket::Unix(socket) => Watch::new(socket.listener.as_fd(), false),
            Socket::Open(socket) => Watch::new(socket.as_fd(), false),
        }));
        let waits = |client: &Client| matches!(client.state, State::Queued(..) | State::Waiting);
        watches.extend(self.clients.iter().filter(|client| !waits(client)).map(|client| match client.state {
            State::Reply(..) => Watch::to_write(client.stream().as_fd()),
            _ => Watch::new(client.stream().as_fd(), false),
        }));
        let deadline = self.clients.iter().map(|client| client.until).min();
        let room = self.room();
        let left = match deadline {
            // What waited for room goes on at once.
            Some(_) if self.clients.iter().any(|client| client.fits(room)) => Duration::ZERO,
            Some(at) => at.saturating_duration_since(Instant::now()),
            None => Duration::MAX,
        };
        poll::wait(&mut watches, left)?;
        let mut ready = watches.iter().map(|watch| watch.readable() || watch.writable());
        let mut next = |is_watched: bool| is_watched && ready.next().unwrap_or(false);
        let news = next(true);
        let listeners = open.into_iter().map(&mut next).collect();
        let clients = self.clients.iter().map(|client| next(!waits(client))).collect();
        Ok(Ready { news, listeners, clients })
    }

    /// Whether a listener's next client is let in. Where calls are answered, a client waits its turn in the kernel's queue.
    fn takes(&self, id: u64, listener: &Listener) -> bool {
        let count = || self.clients.iter().filter(|client| client.listener == id).count();
        matches!(listener.site, Site::Pages(_)) || count() < limits::HELPER_CONNECTIONS
    }

    /// Bytes of large bodies for which there is room.
    fn room(&self) -> usize {
        limits::HELPER_BODIES.saturating_sub(self.clients.iter().map(Client::held).sum())
    }

    /// Every client does what it can.
    fn turn(&mut self, ready: &[bool]) {
        let mut room = self.room();
        let (listeners, inbox, mut ready) = (&self.listeners, &self.inbox, ready.iter());
        self.clients.retain_mut(|client| {
            let ready = ready.next().copied().unwrap_or(false);
            let Some((_, listener)) = listeners.iter().find(|(id, _)| *id == client.listener) else { return false };
            let before = client.held();
            let next = client.turn(ready, &Turn { site: &listener.site, inbox, room, now: Instant::now() });
            room = (room + before).saturating_sub(client.held());
            next == Next::Keep
        });
    }

    fn accept_all(&mut self, ready: &[bool]) {
        for at in ready.iter().enumerate().filter_map(|(at, ready)| ready.then_some(at)) {
            if let Err(error) = self.accept(at) {
                self.complaints.say(&format!("cannot accept a connection: {error}; clients are refused meanwhile"));
                // Most likely there is no descriptor left: the oldest client gives its own back.
                self.clients.drain(..self.clients.len().min(1));
                std::thread::sleep(limits::HEALTH_ACCEPT_PAUSE);
            }
        }
    }

    /// Takes in the clients that wait at a listener. When all places for pages are taken the oldest client gives way: it has
    /// had the most time. An error is the kernel's refusal of one.
    fn accept(&mut self, at: usize) -> std::io::Result<()> {
        // Bounded, so that a flood of new clients does not keep the thread from those that are in.
        for _ in 0..limits::HEALTH_CONNECTIONS / 2 {
            let Some((id, listener)) = self.listeners.get(at).filter(|(id, one)| self.takes(*id, one)) else { break };
            let is_page = matches!(listener.site, Site::Pages(_));
            let mut client = match listener.socket.accept() {
                Ok((stream, uid)) => Client::new((self.next_client, *id), stream, uid, Instant::now()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => continue,
                Err(error) => return Err(error),
            };
            self.next_client += 1;
            if let (Socket::Unix(socket), Some(uid)) = (&listener.socket, client.uid)
                && !socket.lets_in(uid)
            {
                self.complaints.say(&format!("user {uid} was turned away"));
                let why = format!("user {uid} may not ask: only the agent's user, {}, and root may", socket.own);
                client.state = State::Reply(bytes(refusal(403, &why), None), 0);
            }
            if is_page && self.clients.len() >= limits::HEALTH_CONNECTIONS {
                self.clients.remove(0);
            }
            self.clients.push(client);
        }
        Ok(())
    }

    /// Does what other threads have told.
    fn read_news(&mut self) -> Next {
        for news in self.inbox.take() {
            match news {
                News::Listen(id, listener) => self.listeners.push((id, listener)),
                News::Close(id) => {
                    self.listeners.retain(|(one, _)| *one != id);
                    self.clients.retain(|client| client.listener != id);
                }
                News::Answered(id, bytes) => {
                    let Some(at) = self.clients.iter().position(|client| client.id == id) else { continue };
                    if self.clients[at].reply(bytes, Instant::now()) == Next::Close {
                        self.clients.remove(at);
                    }
                }
                News::Stop => return Next::Close,
            }
        }
        Next::Keep
    }
}

/// Lines in the log about clients, one in a while: nobody must be able to fill the log.
struct Complaints {
    name: &'static str,
    last: Option<Instant>,
}

impl Complaints {
    fn say(&mut self, what: &str) {
        let now = Instant::now();
        if self.last.is_none_or(|last| now.saturating_duration_since(last) >= limits::HEALTH_COMPLAINT) {
            self.last = Some(now);
            log::warn!("{}: {what}", self.name);
        }
    }
}
