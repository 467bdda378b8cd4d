//! Which jobs may share a connection: those for the same server, with the same credential, under the same settings.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use ring::digest::{Context, SHA256};

use crate::config::types::{HostRow, HostTable, JumpTable, Ssh as Settings};
use crate::executors::ssh::error::Error;
use crate::job::{Jump, Server};
use crate::os::random;
use crate::secret::Secret;

/// Whom a connection is for. The credential is only known by its digest, which is salted anew in each process.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) credential: Vec<u8>,
    /// What `ssh.hosts` has for the host: how the connection is made.
    pub(super) row: Option<Arc<HostRow>>,
    /// The jump host on the way.
    pub(super) through: Option<Box<Self>>,
    /// To a jump host: it carries connections to others, and no sessions.
    pub(super) forwards: bool,
}

/// Makes keys.
#[derive(Debug)]
pub(super) struct Keys {
    salt: String,
    /// `ssh.hosts` and `ssh.jumps` as they are now.
    tables: RwLock<(HostTable, JumpTable)>,
}

impl Keys {
    pub(super) fn new(settings: &Settings) -> Self {
        let tables = RwLock::new((settings.hosts.clone(), settings.jumps.clone()));
        Self { salt: random::hex(16), tables }
    }

    fn tables(&self) -> RwLockReadGuard<'_, (HostTable, JumpTable)> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys that are made from now on follow these settings.
    pub(super) fn reload(&self, settings: &Settings) {
        let tables = (settings.hosts.clone(), settings.jumps.clone());
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = tables;
    }

    /// What `ssh.hosts` has for the server.
    pub(super) fn row(&self, server: &Server) -> Option<Arc<HostRow>> {
        self.tables().0.of(&server.host).cloned()
    }

    /// The server with the login of the jump host on the way: that of the job, else that of its row. A jump host is reached
    /// directly, also where its row is one of others.
    pub(super) fn on_its_way(&self, server: &Server) -> Result<Server, Error> {
        let (row, tables) = (self.row(server), self.tables());
        let name = match &server.jump {
            Some(Jump::Host(_)) => return Ok(server.clone()),
            Some(Jump::Named(name)) => Some(name),
            None => row.as_ref().and_then(|row| row.jump.as_ref()),
        };
        let Some(name) = name else { return Ok(server.clone()) };
        let no_jump = || Error::NoJump { server: server.shown(), name: name.clone() };
        let jump = tables.1.get(name).ok_or_else(no_jump)?;
        if server.jump.is_none() && (&jump.host, jump.port) == (&server.host, server.port) {
            return Ok(server.clone());
        }
        Ok(Server { jump: Some(Jump::Host(Box::new(jump.clone()))), ..server.clone() })
    }

    pub(super) fn of(&self, server: &Server) -> Key {
        let mut digest = Context::new(&SHA256);
        for part in [&server.private_key, &server.passphrase, &server.password] {
            let text = part.as_ref().map_or("", Secret::expose);
            digest.update(&(text.len() as u64).to_le_bytes());
            digest.update(text.as_bytes());
        }
        digest.update(server.certificate.as_deref().unwrap_or_default().as_bytes());
        digest.update(self.salt.as_bytes());
        let credential = digest.finish().as_ref().to_vec();
        let (host, user) = (server.host.clone(), server.user.clone());
        let through = server.through().map(|jump| Box::new(self.of_jump(jump)));
        Key { host, port: server.port, user, credential, row: self.row(server), through, forwards: false }
    }

    /// For the connection to a jump host that carries others.
    pub(super) fn of_jump(&self, jump: &Server) -> Key {
        Key { forwards: true, ..self.of(jump) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_connection_made_under_another_row_of_the_table_is_not_shared() {
        let mut config = config::defaults();
        let keys = Keys::new(&config.ssh);
        let server = |host: &str| Server {
            id: None,
            name: host.to_owned(),
            host: host.to_owned(),
            port: 22,
            user: "u".to_owned(),
            private_key: None,
            certificate: None,
            passphrase: None,
            password: None,
            jump: None,
        };
        let mut reload = |table: &str| {
            config::set(&mut config, "ssh.hosts", table).expect("a table");
            keys.reload(&config.ssh);
            (keys.of(&server("a.example")), keys.of(&server("b")))
        };
        let none = reload("");
        let row = "{host: a.example, algorithms: {ciphers: [aes128-ctr]}}";
        let first = reload(&format!("[{row}]"));
        assert!(none.0 != first.0 && none.1 == first.1, "{first:?}");
        assert_eq!(reload(&format!("[{{host: c, port: 1}}, {row}]")), first, "the row is the same");
        let second = reload("[{host: \"*.example\", algorithms: {ciphers: [aes256-ctr]}}]");
        assert!(second.0 != first.0 && second.1 == first.1, "{second:?}");
    }

    #[test]
    fn a_jump_host_comes_from_the_job_or_from_the_row_and_is_itself_reached_directly() {
        let scratch = crate::os::scratch::Scratch::new();
        let key = scratch.join("key");
        std::fs::write(&key, "k").expect("write");
        let login = format!("user: u, keyFile: {}", key.display());
        let jumps = format!("{{one: {{host: one, {login}}}, two: {{host: two, port: 7, {login}}}}}");
        let mut config = config::defaults();
        config::set(&mut config, "ssh.jumps", &jumps).expect("jump hosts");
        config::set(&mut config, "ssh.hosts", "[{host: b, user: x}, {host: \"*\", jump: one}]").expect("a table");
        let keys = Keys::new(&config.ssh);
        let server = |host: &str, port, jump: Option<&str>| Server {
            id: None,
            name: host.to_owned(),
            host: host.to_owned(),
            port,
            user: "u".to_owned(),
            private_key: None,
            certificate: None,
            passphrase: None,
            password: None,
            jump: jump.map(|name| Jump::Named(name.to_owned())),
        };
        let way = |server: &Server| keys.on_its_way(server).map(|server| server.route()).map_err(|e| e.to_string());
        for (server, want) in [
            (server("a", 22, None), "a:22 through one:22"),
            (server("a", 22, Some("two")), "a:22 through two:7"),
            (server("b", 22, None), "b:22"),
            (server("one", 22, None), "one:22"),
            (server("one", 2222, None), "one:2222 through one:22"),
            (server("one", 22, Some("two")), "one:22 through two:7"),
        ] {
            assert_eq!(way(&server).as_deref(), Ok(want));
        }
        assert!(way(&server("a", 22, Some("three"))).expect_err("none").contains("ssh.jumps has no \"three\""));
        let of = |jump| keys.of(&keys.on_its_way(&server("b", 22, jump)).expect("a way"));
        assert!(of(None) != of(Some("one")) && of(Some("one")) != of(Some("two")), "each way is another connection");
        let jump = server("one", 22, None);
        assert_ne!(keys.of(&jump), keys.of_jump(&jump), "jobs on the jump host have other connections");
    }
}
