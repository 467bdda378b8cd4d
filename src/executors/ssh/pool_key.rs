//! Which jobs may share a connection: those for the same server, with the same credential, under the same settings.

use std::sync::{Arc, PoisonError, RwLock};

use ring::digest::{Context, SHA256};

use crate::config::types::{HostRow, HostTable};
use crate::job::Server;
use crate::os::random;
use crate::secret::Secret;

/// Whom a connection is for. The credential is only known by its digest, which is salted anew in each process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) credential: Vec<u8>,
    /// What `ssh.hosts` has for the host: how the connection is made.
    pub(super) row: Option<Arc<HostRow>>,
}

/// Makes keys.
#[derive(Debug)]
pub(super) struct Keys {
    salt: String,
    /// `ssh.hosts` as it is now.
    table: RwLock<HostTable>,
}

impl Keys {
    pub(super) fn new(table: &HostTable) -> Self {
        Self { salt: random::hex(16), table: RwLock::new(table.clone()) }
    }

    /// Keys that are made from now on follow this `ssh.hosts`.
    pub(super) fn reload(&self, table: &HostTable) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).clone_from(table);
    }

    /// What `ssh.hosts` has for the server.
    pub(super) fn row(&self, server: &Server) -> Option<Arc<HostRow>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).of(&server.host).cloned()
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
        Key { host, port: server.port, user, credential, row: self.row(server) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_connection_made_under_another_row_of_the_table_is_not_shared() {
        let mut config = config::defaults();
        let keys = Keys::new(&config.ssh.hosts);
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
        };
        let mut reload = |table: &str| {
            config::set(&mut config, "ssh.hosts", table).expect("a table");
            keys.reload(&config.ssh.hosts);
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
}
