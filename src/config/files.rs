//! Reads the small files that a configuration names. No message holds any of their content.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::limits::CONFIG_FILE_MAX;

/// A file that was read.
pub(super) struct Small {
    pub(super) bytes: Vec<u8>,
    /// Everyone on this machine may read it.
    pub(super) world_readable: bool,
}

/// Reads a regular file of at most [`CONFIG_FILE_MAX`] bytes. `Ok(None)` when there is none. Anything else at that path
/// (a pipe would wait for ever) is refused before it is opened.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Small>, String> {
    let tell = |what: &str| format!("cannot read {}: {what}", path.display());
    let about = match path.metadata() {
        Ok(about) => about,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(tell("permission denied; a folder above it does not let this user through"));
        }
        Err(error) => return Err(tell(&error.to_string())),
    };
    if !about.is_file() {
        return Err(tell("it is not a regular file"));
    }
    let limit = u64::try_from(CONFIG_FILE_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut bytes)).map_err(|error| {
        match error.kind() {
            ErrorKind::PermissionDenied => tell("permission denied; its owner or mode does not let this user read it"),
            _ => tell(&error.to_string()),
        }
    })?;
    if bytes.len() > CONFIG_FILE_MAX {
        return Err(tell(&format!("it is larger than {CONFIG_FILE_MAX} bytes")));
    }
    Ok(Some(Small { bytes, world_readable: about.permissions().mode() & 0o004 != 0 }))
}

/// As [`read_if_there`]; a missing file is an error.
pub(super) fn read(path: &Path) -> Result<Small, String> {
    read_if_there(path)?.ok_or_else(|| format!("cannot read {}: there is no such file", path.display()))
}

/// As [`read`], for text.
pub(super) fn read_text(path: &Path) -> Result<(String, bool), String> {
    let small = read(path)?;
    let text = String::from_utf8(small.bytes).map_err(|_| format!("{} is not UTF-8 text", path.display()))?;
    Ok((text, small.world_readable))
}
