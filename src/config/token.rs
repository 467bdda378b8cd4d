//! The backend's token, which may be replaced while the agent works: its file is read again when the backend refuses it.
//!
//! | when | what |
//! | --- | --- |
//! | the backend answers 401 | the file is read again, at most once in [`limits::TOKEN_REREAD`]; with another token the call is made again |
//! | a reload | the same, and `api.token` of the configuration counts too |
//! | the file cannot be read, is empty, or others may read it | an error in the log, once; the token in use stays |

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::files;
use super::types::Api;
use crate::limits;
use crate::os::clock;
use crate::secret::Secret;

/// Called with each token before it is used.
pub type OnNew = Box<dyn Fn(&Secret) + Send + Sync>;

/// The token in use. Clones share it.
#[derive(Clone)]
pub struct Token(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    on_new: Mutex<Option<OnNew>>,
}

struct State {
    token: Secret,
    /// `api.tokenFile`, or systemd's credential.
    file: Option<PathBuf>,
    read: Option<Instant>,
    /// What is wrong with the file, as the log has it.
    said: Option<String>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Token {
    pub fn new(api: &Api) -> Self {
        let state = State { token: api.token.clone(), file: api.token_file.clone(), read: None, said: None };
        Self(Arc::new(Shared { state: Mutex::new(state), on_new: Mutex::new(None) }))
    }

    /// The token in use.
    pub fn now(&self) -> Secret {
        self.state().token.clone()
    }

    /// Calls `tell`, which must not wait, with each further token before it is used.
    pub fn on_new(&self, tell: OnNew) {
        *self.0.on_new.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
    }

    /// The backend refused `used`: whether another token is in use by now.
    pub fn is_renewed_after(&self, used: &Secret) -> bool {
        let mut state = self.state();
        let since = state.read.map_or(limits::TOKEN_REREAD, clock::since);
        if state.token == *used && since >= limits::TOKEN_REREAD {
            self.read(&mut state);
        }
        state.token != *used
    }

    /// A reload: the file is read again now, whatever was configured before; without a file the configured token counts.
    pub fn reload(&self, api: &Api) {
        let mut state = self.state();
        state.file.clone_from(&api.token_file);
        state.said = None;
        match state.file {
            Some(_) => self.read(&mut state),
            None if state.token != api.token => self.replace(&mut state, api.token.clone(), "the configuration"),
            None => {}
        }
    }

    fn read(&self, state: &mut State) {
        state.read = Some(clock::now());
        let Some(path) = state.file.clone() else { return };
        match read(&path) {
            Ok((token, false)) if token != state.token => {
                self.replace(state, token, &path.display().to_string());
            }
            Ok((token, true)) if token != state.token => {
                let path = path.display();
                complain(state, format!("everyone on this machine can read {path}; give it mode 0600, and reload"));
            }
            Ok(_) => state.said = None,
            Err(why) => complain(state, why),
        }
    }

    fn replace(&self, state: &mut State, token: Secret, whence: &str) {
        if let Some(tell) = &*self.0.on_new.lock().unwrap_or_else(PoisonError::into_inner) {
            tell(&token);
        }
        state.token = token;
        state.said = None;
        log::info!("{whence} holds another token for the backend, which is used from now on");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Once for each reason.
fn complain(state: &mut State, why: String) {
    if state.said.as_ref() != Some(&why) {
        log::error!("api.tokenFile: {why}; the token in use stays");
        state.said = Some(why);
    }
}

/// The token that a file holds, and whether everyone on this machine may read it.
pub(super) fn read(path: &Path) -> Result<(Secret, bool), String> {
    let (text, world_readable) = files::read_text(path)?;
    let token = Secret::new(text.trim_end_matches(['\r', '\n']));
    check(&token).map_err(|why| format!("{}: {why}", path.display()))?;
    Ok((token, world_readable))
}

/// The token travels in an HTTP header.
pub(super) fn check(token: &Secret) -> Result<(), String> {
    if token.is_empty() {
        return Err("the token is empty".to_owned());
    }
    if !token.expose().bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the token holds a space, a line break or another character that no HTTP header takes".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::os::scratch::Scratch;

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).expect("write");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    }

    fn forget(token: &Token) {
        token.state().read = None;
    }

    #[test]
    fn a_refused_token_is_read_again_and_only_a_sound_one_takes_its_place() {
        let folder = Scratch::new();
        let path = folder.join("token");
        write(&path, "old-token\n", 0o600);
        let api = Api { token: Secret::new("old-token"), token_file: Some(path.clone()), ..Api::default() };
        let token = Token::new(&api);
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        token.on_new(Box::new(move |new| {
            assert_eq!(new.expose(), "new-token");
            count.fetch_add(1, Ordering::SeqCst);
        }));
        let old = token.now();
        assert!(!token.is_renewed_after(&old), "the same token");
        for (text, mode) in [("", 0o600), ("\n", 0o600), ("a b", 0o600), ("new-token", 0o644), ("\u{e9}", 0o600)] {
            write(&path, text, mode);
            forget(&token);
            assert!(!token.is_renewed_after(&old), "{text:?}");
            assert!(token.state().said.is_some(), "{text:?}");
        }
        std::fs::remove_file(&path).expect("remove");
        forget(&token);
        assert!(!token.is_renewed_after(&old) && token.state().said.is_some(), "no file");
        write(&path, "new-token\r\n", 0o600);
        assert!(!token.is_renewed_after(&old), "not again within the limit");
        forget(&token);
        assert!(token.is_renewed_after(&old));
        assert_eq!((token.now().expose(), told.load(Ordering::SeqCst)), ("new-token", 1));
        assert!(token.is_renewed_after(&old), "another thread's call with the old one");
        assert!(token.state().said.is_none());
        assert_eq!(format!("{token:?}"), "***");
    }

    #[test]
    fn a_reload_reads_the_file_at_once_and_without_one_takes_the_configured_token() {
        let folder = Scratch::new();
        let path = folder.join("token");
        write(&path, "one", 0o600);
        let of = |token: &str, file: Option<&PathBuf>| Api {
            token: Secret::new(token),
            token_file: file.cloned(),
            ..Api::default()
        };
        let token = Token::new(&of("one", Some(&path)));
        let old = token.now();
        assert!(!token.is_renewed_after(&old));
        write(&path, "two", 0o600);
        token.reload(&of("two", Some(&path)));
        assert_eq!(token.now().expose(), "two");
        write(&path, "three", 0o604);
        token.reload(&of("three", Some(&path)));
        assert_eq!(token.now().expose(), "two", "a file that all can read");
        token.reload(&of("four", None));
        assert_eq!(token.now().expose(), "four");
    }
}
