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
    /// Per cent of the bytes that are used, or of the inodes where that is more; rounded up, as `df` does.
    pub used_percent: u8,
}

/// Of what others than root can have, how much is used.
fn percent(all: u64, free: u64, available: u64) -> u8 {
    let used = u128::from(all.saturating_sub(free));
    let whole = used + u128::from(available);
    let percent = (used * 100).div_ceil(whole.max(1));
    u8::try_from(percent).unwrap_or(100)
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
    let used_percent =
        percent(stat.f_blocks, stat.f_bfree, stat.f_bavail).max(percent(stat.f_files, stat.f_ffree, stat.f_favail));
    Ok(Free { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), inodes, used_percent })
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

    #[test]
    fn what_is_used_is_counted_as_df_does() {
        // Of 100 blocks 5 are root's alone.
        let shown = [(100, 100, 95), (100, 50, 45), (100, 5, 0), (100, 0, 0), (0, 0, 0), (1000, 999, 999)];
        assert_eq!(shown.map(|(all, free, available)| percent(all, free, available)), [0, 53, 100, 100, 0, 1]);
        assert_eq!(percent(u64::MAX, 0, u64::MAX), 50);
    }
}
