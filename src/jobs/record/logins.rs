//! The logins of servers and the secrets of jobs in the records, sealed.
//!
//! A script on a server outlives its agent, and the next agent needs the login to go on with it. The deployed backend tells a
//! login once, with the job. So it stands in the job's record until the report is taken, sealed (AES-256-GCM) with a key that
//! is made from the agent's token and is on no disk: who has a copy of `state.dir` but not the token reads nothing. After
//! a restart with another token an older login cannot be opened, and the script's end is unknown.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::job::{Id, Jump, Server};
use crate::jobs::record::entry;
use crate::limits;
use crate::os::random;
use crate::secret::Secret;

/// What the key is made for: another use of the token makes another key.
const PURPOSE: &[u8] = b"cronium-agent: logins of servers in records, 1";

/// Seals logins and opens them. Clones share the keys.
#[derive(Clone)]
pub struct Logins(Arc<RwLock<Vec<LessSafeKey>>>);

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Login {
    key: Option<String>,
    certificate: Option<String>,
    passphrase: Option<String>,
    password: Option<String>,
    /// The jump host that the job asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jump: Option<ByJump>,
}

#[derive(Serialize, Deserialize)]
enum ByJump {
    Named(String),
    Host { name: String, host: String, port: u16, user: String, login: Box<Login> },
}

impl Login {
    fn of(server: &Server) -> Self {
        let text = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
        let (key, passphrase) = (text(&server.private_key), text(&server.passphrase));
        let jump = server.jump.as_ref().map(|jump| match jump {
            Jump::Named(name) => ByJump::Named(name.clone()),
            Jump::Host(jump) => {
                let (name, host, user) = (jump.name.clone(), jump.host.clone(), jump.user.clone());
                ByJump::Host { name, host, port: jump.port, user, login: Box::new(Self::of(jump)) }
            }
        });
        Self { key, certificate: server.certificate.clone(), passphrase, password: text(&server.password), jump }
    }

    /// For the server of this name and address.
    fn server(self, name: String, host: String, port: u16, user: String) -> Server {
        let jump = self.jump.map(|jump| match jump {
            ByJump::Named(name) => Jump::Named(name),
            ByJump::Host { name, host, port, user, login } => {
                Jump::Host(Box::new(login.server(name, host, port, user)))
            }
        });
        Server {
            id: None,
            name,
            host,
            port,
            user,
            private_key: self.key.map(Secret::new),
            certificate: self.certificate,
            passphrase: self.passphrase.map(Secret::new),
            password: self.password.map(Secret::new),
            jump,
        }
    }
}

impl Logins {
    /// With the key of the agent's token.
    pub fn new(token: &Secret) -> Self {
        Self(Arc::new(RwLock::new(vec![key_of(token)])))
    }

    /// From now on seals with another token's key. What was sealed before still opens in this process.
    pub fn seal_with(&self, token: &Secret) {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(0, key_of(token));
        keys.truncate(limits::TOKENS_KEPT);
    }

    fn keys(&self) -> RwLockReadGuard<'_, Vec<LessSafeKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The login as text. `place` is what it is for: another place does not open it.
    pub fn seal(&self, server: &Server, place: &str) -> String {
        self.seal_bytes(serde_json::to_vec(&Login::of(server)).unwrap_or_default(), place)
    }

    /// The secrets of a job, for its execution alone.
    pub fn seal_values(&self, values: &[Secret], execution: &Id) -> String {
        let values: Vec<&str> = values.iter().map(Secret::expose).collect();
        self.seal_bytes(serde_json::to_vec(&values).unwrap_or_default(), &secrets_of(execution))
    }

    /// What [`Logins::seal_values`] sealed; `None` for another token or execution.
    pub fn open_values(&self, sealed: &str, execution: &Id) -> Option<Vec<Secret>> {
        let values: Vec<String> = serde_json::from_slice(&self.open_bytes(sealed, &secrets_of(execution))?).ok()?;
        Some(values.into_iter().map(Secret::new).collect())
    }

    fn seal_bytes(&self, mut sealed: Vec<u8>, place: &str) -> String {
        let mut nonce = [0; NONCE_LEN];
        random::fill(&mut nonce);
        let aad = Aad::from(place.as_bytes());
        let nonce_of_key = Nonce::assume_unique_for_key(nonce);
        if self.keys()[0].seal_in_place_append_tag(nonce_of_key, aad, &mut sealed).is_err() {
            return String::new();
        }
        STANDARD.encode([&nonce[..], &sealed].concat())
    }

    /// The server of a record's page with its login; `None` where it has none, or one of another token.
    pub fn open(&self, page: &entry::Server) -> Option<Server> {
        let login: Login = serde_json::from_slice(&self.open_bytes(&page.login, &place(page))?).ok()?;
        let server = login.server(page.name.clone(), page.host.clone(), page.port, page.user.clone());
        Some(Server { id: Some(page.server_id.clone()).filter(|id| !id.is_empty()), ..server })
    }

    fn open_bytes(&self, text: &str, place: &str) -> Option<Vec<u8>> {
        let bytes = STANDARD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        self.keys().iter().find_map(|key| {
            let (nonce, mut sealed) = (Nonce::try_assume_unique_for_key(nonce).ok()?, sealed.to_vec());
            key.open_in_place(nonce, Aad::from(place.as_bytes()), &mut sealed).ok().map(|plain| plain.to_vec())
        })
    }
}

/// The key that is made from a token.
fn key_of(token: &Secret) -> LessSafeKey {
    let made = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, token.expose().as_bytes()), PURPOSE);
    let key = UnboundKey::new(&AES_256_GCM, made.as_ref());
    // A key of this cipher has as many bytes as that tag.
    LessSafeKey::new(key.unwrap_or_else(|_| unreachable!("32 bytes are a key")))
}

/// Secrets open for their own execution alone.
fn secrets_of(execution: &Id) -> String {
    format!("{execution} secrets")
}

/// A login opens for its own execution and its own server alone.
fn place(page: &entry::Server) -> String {
    of(page.execution.as_str(), &page.user, &page.host, page.port)
}

/// See [`Logins::seal`].
pub(super) fn of(execution: &str, user: &str, host: &str, port: u16) -> String {
    format!("{execution} {user}@{host}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Id;
    use crate::jobs::record::page_of;

    fn server() -> Server {
        let secret = |text: &str| Some(Secret::new(text));
        Server {
            id: Some("3".into()),
            name: "web-1".into(),
            host: "h".into(),
            port: 22,
            user: "u".into(),
            private_key: secret("PEM"),
            certificate: Some("ssh-ed25519-cert".into()),
            passphrase: None,
            password: secret("pässword"),
            jump: None,
        }
    }

    #[test]
    fn a_login_opens_with_the_same_token_for_the_same_place_alone() {
        let (logins, execution) = (Logins::new(&Secret::new("token")), Id::parse("exec-a-1").expect("id"));
        let page = page_of(&server(), String::new(), &execution, &logins);
        for secret in ["PEM", "pässword", "UEVN"] {
            assert!(!serde_json::to_string(&page).expect("JSON").contains(secret), "{secret}");
        }
        let opened = Logins::new(&Secret::new("token")).open(&page).expect("the login");
        assert_eq!((opened.id.as_deref(), opened.user.as_str(), opened.port), (Some("3"), "u", 22));
        let text = |secret: Option<Secret>| secret.map(|secret| secret.expose().to_owned());
        let all = (text(opened.private_key), text(opened.passphrase), text(opened.password));
        assert_eq!(all, (Some("PEM".into()), None, Some("pässword".into())));
        assert_eq!(opened.certificate.as_deref(), Some("ssh-ed25519-cert"));

        let jump = Server { id: None, host: "j".into(), name: "bastion".into(), ..server() };
        for jump in [Jump::Named("bastion".into()), Jump::Host(Box::new(jump))] {
            let behind = Server { jump: Some(jump), ..server() };
            let page = page_of(&behind, String::new(), &execution, &logins);
            assert!(!serde_json::to_string(&page).expect("JSON").contains("bastion"), "sealed with the login");
            assert_eq!(logins.open(&page).expect("the login"), behind);
        }
        let before = logins.seal_bytes(br#"{"key":"PEM","passphrase":null,"password":null}"#.to_vec(), &place(&page));
        let before = entry::Server { login: before, ..page.clone() };
        assert_eq!(logins.open(&before).expect("of an older agent").jump, None);

        assert!(Logins::new(&Secret::new("another")).open(&page).is_none(), "another token");
        let rotated = logins.clone();
        rotated.seal_with(&Secret::new("another"));
        let later = page_of(&server(), String::new(), &execution, &rotated);
        assert!(rotated.open(&page).is_some() && logins.open(&later).is_some(), "both in the process that was told");
        assert!(Logins::new(&Secret::new("another")).open(&later).is_some(), "the next start has the new one");
        for changed in [
            entry::Server { host: "evil".into(), ..page.clone() },
            entry::Server { port: 23, ..page.clone() },
            entry::Server { user: "root".into(), ..page.clone() },
            entry::Server { execution: Id::parse("exec-b-1").expect("id"), ..page.clone() },
            entry::Server { login: String::new(), ..page.clone() },
            entry::Server { login: "AAAA".into(), ..page.clone() },
            entry::Server { login: "no base64".into(), ..page.clone() },
        ] {
            assert!(logins.open(&changed).is_none(), "{changed:?}");
        }
        let again = page_of(&server(), String::new(), &execution, &logins);
        assert_ne!(again.login, page.login, "each has a nonce");
    }
}
