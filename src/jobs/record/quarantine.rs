//! Quarantine: files that cannot be used and must not be lost, such as torn ones, foreign ones and refused reports. Their
//! number is bounded, and each has its reason beside it.

use std::fs;
use std::io;
use std::path::Path;

use super::file::Encoded;
use crate::job::Id;
use crate::limits;
use crate::os::files::Folder;

/// The end of the file that says why.
const WHY: &str = ".why";
/// Bytes of the old name that are kept: those of a job's file fit.
const NAME_MAX: usize = 120;

/// A file in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its name in the folder.
    pub name: String,
    /// The job that it belongs to, by its name.
    pub job: Option<Id>,
    /// When it was moved there: wall clock, milliseconds since 1970.
    pub at_ms: u64,
    pub bytes: u64,
    pub why: String,
}

/// Moves `from` into the folder under its time and old name, and makes room.
pub(super) fn take_in(folder: &Folder, from: &Path, now_ms: u64, why: &str) -> io::Result<()> {
    let name = name_for(folder, from, now_ms);
    fs::rename(from, folder.path().join(&name))?;
    finish(folder, &name, why)
}

/// The same with an entry that is not on disk.
pub(super) fn write(folder: &Folder, file: &str, entry: &Encoded, now_ms: u64, why: &str) -> io::Result<()> {
    let name = name_for(folder, Path::new(file), now_ms);
    folder.write_with(&name, &|file| entry.write_to(file))?;
    finish(folder, &name, why)
}

fn finish(folder: &Folder, name: &str, why: &str) -> io::Result<()> {
    // The reason is for people; without room for it, the file itself still tells what it is.
    let end = (0..=limits::QUARANTINE_REASON.min(why.len())).rev().find(|&at| why.is_char_boundary(at)).unwrap_or(0);
    if let Err(error) = fs::write(folder.path().join(format!("{name}{WHY}")), &why[..end]) {
        log::debug!("cannot write down why {name} is in quarantine: {error}");
    }
    make_room(folder);
    folder.sync()
}

/// A name that no file has yet.
fn name_for(folder: &Folder, from: &Path, now_ms: u64) -> String {
    let old = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '-') { c } else { '_' };
    let old: String = old.chars().map(safe).take(NAME_MAX).collect();
    let mut at = now_ms;
    loop {
        let name = format!("{at:013}-{old}");
        if fs::symlink_metadata(folder.path().join(&name)).is_err() {
            return name;
        }
        at += 1;
    }
}

/// All that is there, oldest first.
pub(super) fn list(folder: &Folder) -> io::Result<Vec<Quarantined>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder.path())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((at, old)) = name.split_once('-').filter(|_| !name.ends_with(WHY)) else { continue };
        let Ok(at_ms) = at.parse() else { continue };
        let job = super::file::job_of(old);
        let bytes = entry.metadata().map_or(0, |data| data.len());
        let why = fs::read_to_string(folder.path().join(format!("{name}{WHY}"))).unwrap_or_default();
        all.push(Quarantined { name, job, at_ms, bytes, why });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Removes the oldest until count and size are within their limits; the newest stays. A file too large for a record
/// is not the agent's: it was there before, and no report gives way to it.
fn make_room(folder: &Folder) {
    let all = list(folder).unwrap_or_default();
    let counted = |file: &Quarantined| if file.bytes > limits::QUARANTINE_BYTES { 0 } else { file.bytes };
    let (mut count, mut bytes) = (all.len(), all.iter().map(counted).sum::<u64>());
    for old in &all[..all.len().saturating_sub(1)] {
        if count <= limits::QUARANTINE_FILES && bytes <= limits::QUARANTINE_BYTES {
            break;
        }
        log::warn!("removing {} from the quarantine, to make room: {}", old.name, old.why);
        let path = folder.path().join(&old.name);
        let gone = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = gone {
            log::warn!("cannot remove {}: {error}", path.display());
        }
        let _ = folder.remove(&format!("{}{WHY}", old.name));
        count -= 1;
        bytes -= counted(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::scratch::Scratch;

    /// The files are sparse: they have the size, and cost nothing.
    #[test]
    fn the_oldest_give_way_when_all_together_are_too_large() {
        let path = Scratch::new();
        let folder = Folder::open(&path).expect("a folder");
        let set_aside = |name: &str, bytes: u64, at: u64| {
            let from = path.join(name);
            fs::File::create(&from).and_then(|file| file.set_len(bytes)).expect("a file");
            take_in(&folder, &from, at, "as planned").expect("in quarantine");
            list(&folder).expect("list").into_iter().map(|aside| (aside.at_ms, aside.bytes)).collect::<Vec<_>>()
        };
        let half = limits::QUARANTINE_BYTES / 2;
        set_aside("a.job", half, 1);
        assert_eq!(set_aside("b.job", half, 2), [(1, half), (2, half)], "exactly as much as may be");
        assert_eq!(set_aside("c.job", 1, 3), [(2, half), (3, 1)]);
        assert_eq!(set_aside("d.job", limits::QUARANTINE_BYTES, 4), [(4, limits::QUARANTINE_BYTES)]);
        // One that is not a record file takes no room from the others, which take none from it.
        let huge = limits::QUARANTINE_BYTES + 1;
        assert_eq!(set_aside("foreign", huge, 5), [(4, limits::QUARANTINE_BYTES), (5, huge)]);
    }
}
