//! The pool's way to a server: over the network, or through a jump host.
//!
//! The connection to a jump host is one of the pool's: it has seats, a limit for each login, a pace, a breaker, an idle time. Its
//! seats are connections to servers behind it. A job that has not begun reaches the jump host first, with the tries and the breaker
//! of a server. Then the thread of the server's connection takes a seat. So an error of the jump host is never one of the server:
//! it is an [`Error::Jump`], of which the server's breaker does not hear.

use std::cell::RefCell;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{Key, Pool, Serve, Wish};
use crate::config::types::HostRow;
use crate::executors::ssh::connection::{Connection, Times};
use crate::executors::ssh::dial::{Dial, Progress, Reached};
use crate::executors::ssh::driver::Driver;
use crate::executors::ssh::error::Error;
use crate::executors::ssh::pump::Pump;
use crate::executors::ssh::tries::Tries;
use crate::job::Server;
use crate::limits;
use crate::policy::breaker::Pass;

impl Pool {
    /// Waits until the jump host on the way, if there is one, has a seat, as a job that has not begun waits for a server.
    pub(super) fn reach_jump(&self, wish: &Wish<'_>, say: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let Some(jump) = wish.server.through() else { return Ok(()) };
        let tries = Tries::new(jump, Instant::now(), wish.until);
        let wish = Wish { server: jump, ..*wish };
        let looked = self.seek(&self.0.keys.of_jump(jump), &wish, Some(tries), say, &|connection, _| {
            connection.free_seat();
            Ok(())
        });
        looked.map(drop).map_err(|error| match error {
            Error::Stopped { .. } => error,
            error => error.of_jump(&jump.name),
        })
    }

    /// A socket to the server behind its jump host, within a moment; the jump host is reached again where its connection is gone.
    fn forward(&self, jump: &Server, server: &Server, until: Instant) -> Result<(Arc<Connection>, TcpStream), Error> {
        let wanted = || !self.lock().stopped;
        let wish = Wish { server: jump, until, wanted: &wanted };
        let found = self.seek(&self.0.keys.of_jump(jump), &wish, None, &mut |_| {}, &|connection, _| {
            connection.forward(server, until).map(|socket| (Arc::clone(connection), socket))
        });
        match found {
            Ok((found, _)) => Ok(found),
            Err(error @ Error::NoWay { .. }) => Err(error),
            // All steps there share the limit of one step here.
            Err(Error::Timeout { server, step, after, .. }) => {
                let limit = "ssh.connectionPool.connectionTimeout";
                Err(Error::Timeout { server, step, limit, after }.of_jump(&jump.name))
            }
            Err(error) => Err(error.of_jump(&jump.name)),
        }
    }

    /// All steps to the server; an error names the hop that failed.
    fn dial_to<T>(
        &self,
        server: &Server,
        row: Option<&HostRow>,
        progress: &Mutex<Progress>,
        steps: impl FnOnce(&Dial<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (settings, hosts) = (&self.0.settings, &self.0.hosts);
        let Some(jump) = server.through() else {
            return steps(&Dial { server, settings, row, hosts, progress, way: None });
        };
        let used = RefCell::new(None);
        let way = |until: Instant| {
            let (connection, socket) = self.forward(jump, server, until)?;
            used.replace(Some(connection));
            Ok(socket)
        };
        let made = steps(&Dial { server, settings, row, hosts, progress, way: Some(&way) });
        let why = used.take().and_then(|connection| connection.why());
        match (made, why) {
            // The server's connection ended because the jump host's did.
            (Err(error), Some(why)) if error.is_outage() => Err(why.of_jump(&jump.name)),
            (made, _) => made,
        }
    }

    /// The way to the server, on the connection's own thread; its outcome goes to the breaker.
    pub(super) fn reach(
        &self,
        key: &Key,
        server: &Server,
        progress: &Mutex<Progress>,
        pass: Option<Pass>,
    ) -> Result<(Arc<Connection>, Serve), Error> {
        let reached = self.dial_to(server, key.row.as_deref(), progress, |dial| dial.reach());
        if let Some(pass) = pass.filter(|_| !matches!(reached, Err(Error::Jump { .. }))) {
            let sound = !reached.as_ref().is_err_and(Error::is_outage);
            self.0.breakers.record(server, pass, sound);
        }
        let Reached { session, socket, host_key } = reached?;
        let settings = &self.0.settings;
        let times = Times {
            step: settings.connection_timeout,
            check: settings.health_check_interval,
            idle: settings.idle_timeout,
            close: limits::SSH_CLOSE,
        };
        let made: std::io::Result<(Arc<Connection>, Serve)> = if key.forwards {
            Pump::new(server.shown(), session, socket, host_key, times)
                .map(|(connection, pump)| (connection, Box::new(move || pump.run()) as Serve))
        } else {
            Driver::new(server.shown(), session, socket, host_key, times)
                .map(|(connection, driver)| (connection, Box::new(move || driver.run()) as Serve))
        };
        made.map_err(|error| Error::Local { server: server.shown(), what: error.to_string() })
    }

    /// The host key that a server shows, whether trusted or not: its type and the key.
    pub fn host_key(&self, server: &Server) -> Result<(String, Vec<u8>), Error> {
        let server = self.0.keys.on_its_way(server)?;
        let row = self.0.keys.row(&server);
        self.dial_to(&server, row.as_deref(), &Mutex::new(Progress::new()), |dial| dial.host_key())
    }
}
