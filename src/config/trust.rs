//! The files behind `security.signatures` and `security.allowedScripts`.
//!
//! Who can write them decides what runs here, so their owner and mode are checked, and the folders above them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::draft::Draft;
use super::files;
use super::types::SignatureMode;
use crate::os::private;
use crate::signing::keys::{self, TrustedKey};
use crate::signing::scripts::Scripts;

/// `security.signatures` and `security.allowedScripts`: which jobs may run, whatever the backend says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    pub signatures: SignatureMode,
    pub keys: FromFile<Vec<TrustedKey>>,
    /// Zero: any age.
    pub max_age: Duration,
    pub scripts: FromFile<Scripts>,
}

/// A file that a key names, and what it held when the configuration was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FromFile<T> {
    pub path: Option<PathBuf>,
    pub content: T,
}

const MODE: &str = "security.signatures.mode";
const KEYS: &str = "security.signatures.keys";
const SCRIPTS: &str = "security.allowedScripts";

pub(super) fn check(draft: &mut Draft<'_>) {
    if let Some(path) = draft.config.trust.keys.path.clone().filter(|_| draft.good(&[KEYS])) {
        match read(&path, keys::parse) {
            Ok(keys) => draft.config.trust.keys.content = keys,
            Err(text) => draft.refuse(KEYS, text),
        }
    }
    if let Some(path) = draft.config.trust.scripts.path.clone().filter(|_| draft.good(&[SCRIPTS])) {
        match read(&path, Scripts::parse) {
            Ok(scripts) => draft.config.trust.scripts.content = scripts,
            Err(text) => draft.refuse(SCRIPTS, text),
        }
    }
    let trust = &draft.config.trust;
    let is_on = trust.signatures != SignatureMode::Off;
    if is_on && trust.keys.path.is_none() && draft.good(&[MODE, KEYS]) {
        draft.refuse(MODE, format!("found {}, and no key is trusted: name a file in {KEYS}", draft.shown(MODE)));
    } else if !is_on && draft.config.trust.keys.path.is_some() && draft.config.trust.scripts.path.is_none() {
        draft.warn(KEYS, format!("no signature is looked at, since {MODE} is off"));
    }
}

fn read<T>(path: &Path, parse: fn(&str) -> Result<T, String>) -> Result<T, String> {
    let (text, _) = files::read_text(path)?;
    private::look_at_file(path).map_err(|refused| format!("it decides what may run here, and {refused}"))?;
    parse(&text).map_err(|why| format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;

    use crate::config::{Loaded, Problems, Sources, load};
    use crate::os::scratch::Scratch;

    fn with(key: &str, value: &str) -> Result<Loaded, Problems> {
        let overrides = vec![(key.to_owned(), value.to_owned())];
        load(&Sources { search: Vec::new(), overrides, need_backend: false, ..Sources::new(&|_| None) })
    }

    #[test]
    fn a_file_that_decides_what_runs_is_refused_with_its_line_and_where_others_can_write_it() {
        let scratch = Scratch::new();
        let path = scratch.join("file");
        let shown = path.display().to_string();
        for (key, text, words) in [
            ("security.signatures.keys", "", "it holds no key"),
            ("security.signatures.keys", "# none\nx rsa y\n", "line 2: the algorithm is \"rsa\""),
            ("security.allowedScripts", "\nabc  x.sh\n", "line 2: \"abc\" is no SHA-256 sum"),
        ] {
            write(&path, text).expect("a file");
            let problems = with(key, &shown).map(drop).expect_err(text).to_string();
            assert!(problems.contains(words) && problems.contains(&shown), "{text}: {problems}");
        }
        let keys = "security.signatures.keys";
        write(&path, format!("a ed25519 {}=\n", "A".repeat(43))).expect("a file");
        set_permissions(&path, Permissions::from_mode(0o666)).expect("a mode");
        let problems = with(keys, &shown).map(drop).expect_err("open").to_string();
        assert!(problems.contains("others may write"), "{problems}");
        set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
        let warnings = with(keys, &shown).map_err(|problems| problems.to_string()).expect("off").warnings;
        assert!(warnings.iter().any(|warning| warning.text.contains("no signature is looked at")), "{warnings:?}");
        let problems = with("security.signatures.mode", "require").map(drop).expect_err("no keys").to_string();
        assert!(problems.contains("no key is trusted: name a file in security.signatures.keys"), "{problems}");
        let problems = with(keys, "/none/of/this").map(drop).expect_err("missing").to_string();
        assert!(problems.contains("there is no such file"), "{problems}");
    }
}
