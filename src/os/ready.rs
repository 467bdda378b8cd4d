//! `poll(2)` over a handful of sockets, for the one thread that serves many: the health server.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// What is waited for on one descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Read,
    Write,
}

/// Waits until at least one of `set` is ready (or broken, which its next read or write will say) or `wait` is over;
/// without `wait`, for ever. The answer has one flag an entry. A signal ends the wait early with no flag set.
pub fn wait(set: &[(BorrowedFd<'_>, Want)], wait: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut fds: Vec<libc::pollfd> = set
        .iter()
        .map(|(fd, want)| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: match want {
                Want::Read => libc::POLLIN,
                Want::Write => libc::POLLOUT,
            },
            revents: 0,
        })
        .collect();
    // Rounded up: a wait that is rounded down to 0 would spin until its deadline.
    let millis = wait.map_or(-1, |w| i32::try_from(w.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    let count = libc::nfds_t::try_from(fds.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the pointer and the count describe `fds`, and every descriptor in it is borrowed for the whole call.
    if unsafe { libc::poll(fds.as_mut_ptr(), count, millis) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(fds.iter().map(|fd| fd.revents != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn only_what_is_ready_is_flagged() {
        let (mut a, b) = UnixStream::pair().expect("pair");
        let set = [(b.as_fd(), Want::Read), (b.as_fd(), Want::Write)];
        assert_eq!(wait(&set, Some(Duration::ZERO)).expect("poll"), [false, true]);
        assert_eq!(wait(&set[..1], Some(Duration::from_micros(1))).expect("poll"), [false]);
        a.write_all(b"x").expect("write");
        assert_eq!(wait(&set, None).expect("poll"), [true, true]);
    }
}
