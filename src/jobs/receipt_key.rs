//! The agent's own key, with which it signs receipts: made once in `state.dir`, and never replaced by the agent. A receipt
//! that was made before counts only as long as its key is known.

use std::io;
use std::path::{Path, PathBuf};

use crate::limits;
use crate::os::files::{self, Folder};
use crate::os::private;
use crate::secret::Secret;
use crate::signing::sign::SigningKey;

/// The private key in PEM.
const FILE: &str = "receipt-key";

/// The key in `state_dir`, made where there is none. The caller holds the lock on the folder.
pub fn make_or_read(state_dir: &Path) -> Result<SigningKey, String> {
    if let Some(key) = known(state_dir)? {
        return Ok(key);
    }
    let (key, pem) = SigningKey::make()?;
    let path = path(state_dir);
    let written = Folder::existing(state_dir).and_then(|folder| folder.write(FILE, &[pem.expose().as_bytes()]));
    written.map_err(|error| format!("cannot write the key for receipts, {}: {error}", path.display()))?;
    log::info!("made the key for receipts, {}; `cronium-agent identity` prints its public half", path.display());
    Ok(key)
}

/// The same without making one; `None` where there is none.
pub fn known(state_dir: &Path) -> Result<Option<SigningKey>, String> {
    let path = path(state_dir);
    let text = match files::read_small(&path, limits::RECEIPT_KEY_FILE) {
        Ok(text) => Secret::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(&path, &error)),
    };
    private::look_at_file(&path).map_err(|why| refused(&path, &why))?;
    SigningKey::of_pem_file(&text).map(Some).map_err(|why| refused(&path, &why))
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

fn refused(path: &Path, why: &dyn std::fmt::Display) -> String {
    format!(
        "cannot use the key for receipts, {}: {why}; it is never replaced: put back the one that was there, or move it away \
         and list the new key where receipts are checked, or set security.receipts: false",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::os::scratch::Scratch;

    #[test]
    fn a_key_is_made_once_and_a_damaged_one_is_refused_and_kept() {
        let place = Scratch::new();
        assert!(known(&place).expect("none").is_none());
        let first = make_or_read(&place).expect("a key");
        let file = place.join(FILE);
        assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
        let again = make_or_read(&place).expect("the same");
        assert_eq!(again.public(), first.public());

        let good = fs::read_to_string(&file).expect("text");
        let body = good.lines().nth(1).expect("a body");
        for (text, words) in [
            (String::new(), "line 1: it is not -----BEGIN PRIVATE KEY-----"),
            (good.replacen("-----BEGIN", "----BEGIN", 1), "line 1: it is not -----BEGIN"),
            (good.replace(body, &format!("*{}", &body[1..])), "line 2: it is not base64"),
            (good.replace(body, &body[..40]), "it is no Ed25519 private key"),
            (good.replace(body, "AAAA"), "it is no Ed25519 private key"),
            (good.lines().take(2).collect::<Vec<_>>().join("\n"), "line 2: -----END PRIVATE KEY----- does not follow"),
            ("x".repeat(5000), "more than 4096 bytes"),
        ] {
            fs::write(&file, &text).expect("written");
            for result in [make_or_read(&place), known(&place).map(|key| key.expect("a file is there"))] {
                let why = result.map(drop).expect_err(words);
                assert!(why.contains(words) && why.contains("receipt-key") && why.contains("never replaced"), "{why}");
                assert!(!why.contains(body), "it quotes the key: {why}");
            }
            assert_eq!(fs::read_to_string(&file).expect("kept"), text);
        }
        fs::write(&file, &good).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o622)).expect("a mode");
        assert!(make_or_read(&place).map(drop).expect_err("open to others").contains("others may write"));
        fs::remove_file(&file).expect("removed");
        symlink(place.join("elsewhere"), &file).expect("a link");
        assert!(make_or_read(&place).is_err() && !place.join("elsewhere").exists(), "written through a link");
    }
}
