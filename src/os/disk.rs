//! Free room of a file system, for `state.minFreeDisk`, `/health` and `/metrics`.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Free room on a file system for users other than root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    pub bytes: u64,
    /// Files that can still be made. `None` where the file system makes inodes as it needs them (btrfs says 0 of 0).
    pub inodes: Option<u64>,
}

/// Asks `statvfs(3)` about the file system that holds `path`. May block for as long as that file system does.
pub fn free(path: &Path) -> io::Result<Free> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `name` ends in NUL and `stat` has room for one statvfs; both live through the call.
    if unsafe { libc::statvfs(name.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call returned 0, so it filled the whole structure.
    let stat = unsafe { stat.assume_init() };
    let inodes = (stat.f_files > 0).then_some(stat.f_favail);
    Ok(Free { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), inodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_has_a_figure_and_nowhere_has_an_error() {
        assert!(free(Path::new("/")).expect("statvfs").bytes > 0);
        assert_eq!(free(Path::new("/no/such/place")).expect_err("none").kind(), io::ErrorKind::NotFound);
        assert!(free(Path::new("a\0b")).is_err());
    }
}
