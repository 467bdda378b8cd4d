//! The one thread of a connection to a jump host, `ssh-jump`: it moves bytes between the connections to the servers behind it
//! and their channels.
//!
//! No call of libssh2 blocks here, so no server holds up another: what a channel does not take waits in its [`Forward`], and the
//! others go on. One exception is stated: the rest of a packet that the jump host's own socket took in part is awaited, within
//! the limit of a step, since no other packet can pass it. libssh2 opens one channel at a time. While one takes long, the pool
//! makes another connection for others.
//!
//! A jump host that hangs would look like servers that are silent. So the thread asks for a sign of life as soon as something
//! was sent and nothing came for a second, and breaks off before a server's step would have outlasted its limit.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;

use crate::executors::ssh::connection::{Command, Connection, Times, is_timeout, millis};
use crate::executors::ssh::error::{Error, NoWay, Step};
use crate::executors::ssh::forward::{Ask, Forward, Line, Turn};
use crate::limits;
use crate::metrics;
use crate::os::poll::{self, Watch};

/// The thread's side of a connection to a jump host.
pub struct Pump {
    line: Line,
    connection: Arc<Connection>,
    commands: Receiver<Command>,
    /// The first is being opened.
    asks: VecDeque<Ask>,
    /// When the first began to be.
    opening: Option<Instant>,
    open: VecDeque<Forward>,
    times: Times,
    life: Life,
}

/// Signs of life of the jump host.
struct Life {
    heard: Instant,
    /// Something was sent that it answers, unless it hangs.
    sent: Instant,
    /// It was asked for a sign of life, and has not answered.
    asked: Option<Instant>,
}

impl Life {
    fn new(now: Instant) -> Self {
        Self { heard: now, sent: now, asked: None }
    }

    fn hear(&mut self, now: Instant) {
        (self.heard, self.asked) = (now, None);
    }

    /// When it is to be asked, or, if it was, when it counts as gone.
    fn next(&self, times: &Times) -> Instant {
        match self.asked {
            Some(asked) => asked + times.step.saturating_sub(limits::SSH_JUMP_FIRST).max(times.step / 2),
            None if self.sent > self.heard => self.heard + limits::SSH_TICK.min(times.step / 4),
            None => self.heard + times.check,
        }
    }
}

impl Pump {
    /// Takes an authenticated session. To be called, and [`Pump::run`] too, on the thread that made it.
    pub fn new(
        server: String,
        session: ssh2::Session,
        socket: TcpStream,
        host_key: String,
        times: Times,
    ) -> std::io::Result<(Arc<Connection>, Self)> {
        let (connection, commands) =
            Connection::new(server, socket.try_clone()?, host_key, times.step, limits::SSH_FORWARDS)?;
        let (line, of_pump) = (Line::new(session, socket, times.step), Arc::clone(&connection));
        let life = Life::new(Instant::now());
        let (asks, open) = (VecDeque::new(), VecDeque::new());
        Ok((connection, Self { line, connection: of_pump, commands, asks, opening: None, open, times, life }))
    }

    /// Serves the connection to its end.
    pub fn run(mut self) {
        metrics::SSH_CONNECTIONS.add(1);
        let ended = self.serve();
        {
            // Before the servers' connections see their end: they look here for its reason.
            let mut seats = self.connection.seats();
            (seats.closed, seats.why) = (true, ended.as_ref().err().cloned());
        }
        metrics::SSH_CONNECTIONS.add(-1);
        if let Err(error) = ended {
            log::info!("jump host {}: {error}", self.connection.server);
            // A broken connection gets no goodbye: each call would wait for its limit.
            let _ = self.line.socket.shutdown(Shutdown::Both);
        }
        self.asks.clear();
        self.open.clear();
        self.line.session.set_blocking(true);
        self.line.session.set_timeout(millis(limits::SSH_TICK));
        let _ = self.line.session.disconnect(None, "done", None);
    }

    fn serve(&mut self) -> Result<(), Error> {
        self.line.session.set_keepalive(true, 1);
        self.line.session.set_timeout(millis(self.times.step));
        self.line.session.set_blocking(false);
        let mut used = Instant::now();
        loop {
            self.connection.waker.take();
            self.take_asks();
            // The opening last: whatever it reads for others is found by `has_more`.
            let turn = self.turns()?.max(self.admit()?);
            let now = Instant::now();
            if !(self.open.is_empty() && self.asks.is_empty()) {
                used = now;
            }
            if self.is_over(used) {
                return Ok(());
            }
            if !self.open.is_empty() && !self.listens() {
                self.life.hear(now);
            }
            if now >= self.life.next(&self.times) {
                self.check(now)?;
            }
            if turn == Turn::Quiet {
                self.sleep()?;
            }
        }
    }

    fn take_asks(&mut self) {
        for command in self.commands.try_iter() {
            if let Command::Forward(ask) = command {
                self.asks.push_back(ask);
            }
        }
    }

    /// One turn for each server, as long as the jump host's socket takes what they send; the next round begins with the others.
    fn turns(&mut self) -> Result<Turn, Error> {
        let mut most = Turn::Quiet;
        for _ in 0..self.open.len() {
            if !self.can_send()? {
                break;
            }
            let Some(mut forward) = self.open.pop_front() else { break };
            let turn = forward.turn(&self.line);
            let is_stuck = self.line.is_stuck.get();
            if turn.as_ref().is_ok_and(|turn| *turn == Turn::Ended) {
                if forward.stuck {
                    // It does not end by itself: no new one is opened beside it.
                    self.connection.close();
                }
                drop(forward);
                most = most.max(Turn::Moved);
                continue;
            }
            self.open.push_back(forward);
            let turn = turn.map_err(|error| self.broken(&error))?;
            if is_stuck {
                return Err(self.silence());
            }
            if turn == Turn::Heard {
                self.life.hear(Instant::now());
            }
            if self.line.has_sent.take() {
                self.life.sent = Instant::now();
            }
            most = most.max(turn);
        }
        Ok(most)
    }

    /// Goes on with the channel that is being opened, or begins the next.
    fn admit(&mut self) -> Result<Turn, Error> {
        let now = Instant::now();
        if self.opening.is_none() {
            // Those whose time is up while others were opened.
            self.asks.retain(|ask| {
                let in_time = now < ask.until;
                if !in_time {
                    let server = self.connection.server.clone();
                    let _ = ask.answer.send(Err(Error::Busy { server, after: self.times.step }));
                }
                in_time
            });
        }
        if self.asks.is_empty() || !self.can_send()? {
            return Ok(Turn::Quiet);
        }
        if self.opening.is_none() {
            (self.opening, self.life.sent) = (Some(now), now);
        }
        let Some(ask) = self.asks.front() else { return Ok(Turn::Quiet) };
        let session = &self.line.session;
        let opened = self.line.whole(is_timeout, || session.channel_direct_tcpip(&ask.host, ask.port, None));
        if self.line.is_stuck.get() {
            return Err(self.silence());
        }
        let began = self.opening.unwrap_or(now);
        if opened.as_ref().is_err_and(is_timeout) && now < ask.until {
            self.connection.seats().held_up = began.elapsed() >= limits::SSH_TICK;
            return Ok(Turn::Quiet);
        }
        self.opening = None;
        self.connection.seats().held_up = false;
        self.life.hear(Instant::now());
        let Some(ask) = self.asks.pop_front() else { return Ok(Turn::Quiet) };
        self.opened(ask, opened)?;
        Ok(Turn::Heard)
    }

    /// The outcome of one request.
    fn opened(&mut self, ask: Ask, opened: Result<ssh2::Channel, ssh2::Error>) -> Result<(), Error> {
        let Ask { server, local, seat, answer, .. } = ask;
        let why = match opened {
            Ok(channel) => {
                self.open.push_back(Forward::new(channel, local, seat));
                let _ = answer.send(Ok(()));
                return Ok(());
            }
            Err(error) if is_timeout(&error) => {
                // libssh2 cannot forget it: nothing more is opened on this connection. What is open goes on.
                self.connection.close();
                NoWay::Silent(self.times.step)
            }
            // CHANNEL_FAILURE. Of the jump host's answer libssh2 keeps the number alone.
            Err(error) if matches!(error.code(), ssh2::ErrorCode::Session(-21)) => {
                let words = error.message().to_owned();
                let refuses = words.contains("prohibited") || words.contains("unknown channel type");
                if refuses { NoWay::Prohibited(words) } else { NoWay::Unreached(words) }
            }
            Err(error) => {
                let error = self.broken(&error.into());
                let _ = answer.send(Err(error.clone()));
                return Err(error);
            }
        };
        let _ = answer.send(Err(Error::NoWay { server, why }));
        Ok(())
    }

    /// Whether the thread must end: no server's connection uses this one, and none will.
    fn is_over(&self, used: Instant) -> bool {
        if !(self.open.is_empty() && self.asks.is_empty()) {
            return false;
        }
        let mut seats = self.connection.seats();
        if seats.taken == 0 && used.elapsed() >= self.times.idle {
            seats.closed = true;
        }
        seats.closed && seats.taken == 0
    }

    /// Whether anybody reads what the jump host sends.
    fn listens(&self) -> bool {
        !self.asks.is_empty() || self.open.iter().any(Forward::listens)
    }

    /// Asks the jump host for a sign of life, or finds that it gave none.
    fn check(&mut self, now: Instant) -> Result<(), Error> {
        if self.life.asked.is_some() {
            return Err(self.silence());
        }
        if self.open.is_empty() && self.asks.is_empty() {
            return self.check_idle();
        }
        self.life.asked = Some(now);
        // A socket that takes nothing is as silent as one that gives nothing.
        if self.can_send()? {
            self.line.session.keepalive_send().map_err(|error| self.broken(&error.into()))?;
        }
        Ok(())
    }

    /// Without a channel nobody reads an answer, so a session is opened and closed. That it is refused, as by a jump host that
    /// only forwards, is a sign of life too.
    fn check_idle(&mut self) -> Result<(), Error> {
        self.line.session.set_blocking(true);
        let asked = self.line.session.channel_session().map(|mut channel| drop(channel.close()));
        self.line.session.set_blocking(false);
        match asked {
            Err(error) if is_timeout(&error) => return Err(self.silence()),
            Err(error) if !matches!(error.code(), ssh2::ErrorCode::Session(-21 | -22)) => {
                return Err(self.broken(&error.into()));
            }
            _ => self.life.hear(Instant::now()),
        }
        Ok(())
    }

    /// Sleeps until there is work.
    fn sleep(&mut self) -> Result<(), Error> {
        if self.open.iter().any(Forward::has_more) {
            return Ok(());
        }
        let left = self.life.next(&self.times).saturating_duration_since(Instant::now());
        let wait = limits::SSH_TICK.min(self.times.idle).min(left);
        let (can_send, listens) = (self.can_send()?, self.listens());
        let mut watches = vec![self.connection.waker.watch()];
        match (can_send, listens) {
            (false, _) => watches.push(Watch::to_write(self.line.socket.as_fd())),
            (true, true) => watches.push(Watch::new(self.line.socket.as_fd(), false)),
            (true, false) => {}
        }
        if can_send {
            watches.extend(self.open.iter().filter_map(Forward::watch));
        }
        poll::wait(&mut watches, wait).map_err(|error| self.broken(&error))?;
        let heard = can_send && listens && watches[1].readable();
        drop(watches);
        if heard {
            self.life.hear(Instant::now());
        }
        Ok(())
    }

    fn can_send(&self) -> Result<bool, Error> {
        self.line.can_send().map_err(|error| self.broken(&error))
    }

    fn silence(&self) -> Error {
        let (server, step) = (self.connection.server.clone(), Step::Talk);
        Error::Timeout { server, step, limit: "ssh.connectionPool.connectionTimeout", after: self.times.step }
    }

    fn broken(&self, error: &std::io::Error) -> Error {
        let server = self.connection.server.clone();
        Error::Broken { server, step: Step::Talk, what: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_jump_host_that_hangs_is_found_before_the_servers_behind_it_are_blamed() {
        let second = Duration::from_secs(1);
        for step in [2, 4, 10, 300].map(|n| n * second) {
            let times = Times { step, check: 30 * second, idle: 300 * second, close: second };
            let start = Instant::now();
            let mut life = Life::new(start);
            assert_eq!(life.next(&times), start + times.check, "nothing was sent");
            life.sent = start + Duration::from_millis(1);
            let ask = life.next(&times);
            life.asked = Some(ask);
            let gone = life.next(&times);
            assert!(gone < life.sent + step, "{step:?}: gone after {:?}", gone - start);
            assert!(gone - ask >= step / 2, "{step:?}: it had {:?} to answer", gone - ask);
            life.hear(gone);
            assert_eq!(life.next(&times), gone + times.check);
        }
    }
}
