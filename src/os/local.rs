//! Unix sockets: who is at the other end, and a connect that cannot hang.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use crate::os::threads;

/// Bytes of a path that the kernel's `sun_path` takes: its last of 108 is the NUL.
pub const PATH_MAX: usize = 107;

/// The user id of the process that connected, or that made the pair, at the time when it did so.
pub fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    let mut found = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: the two pointers are to live values of this stack, and `length` says how much room the first one has; the
    // descriptor is open for as long as `stream` is borrowed.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(found.uid) }
}

/// This process's own user id, as a peer would see it.
pub fn own_uid() -> io::Result<u32> {
    peer_uid(&UnixStream::pair()?.0)
}

/// Connects within `wait`. The kernel lets a connect wait for as long as the listener's queue is full, so it is made on
/// a thread of its own, which is left behind when it hangs.
pub fn connect(path: &Path, wait: Duration) -> io::Result<UnixStream> {
    let path = path.to_owned();
    within(wait, move || UnixStream::connect(path))
}

fn within<T: Send + 'static>(wait: Duration, act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (done, result) = sync_channel(1);
    // The receiver may have stopped waiting.
    let thread = threads::spawn("connect", move || drop(done.send(act())))?;
    match result.recv_timeout(wait) {
        Ok(result) => {
            thread.join_within(wait);
            result
        }
        Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the connecting thread ended without a word")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    use super::*;
    use crate::os::random;

    #[test]
    fn a_peer_is_known_by_its_user() {
        let own = std::fs::metadata("/proc/self").expect("proc").uid();
        assert_eq!(own_uid().expect("own"), own);
        let path = std::env::temp_dir().join(format!("cronium-local-{}", random::hex(6)));
        let listener = UnixListener::bind(&path).expect("bind");
        let client = connect(&path, Duration::from_secs(20)).expect("connect");
        let (served, _) = listener.accept().expect("accept");
        assert_eq!((peer_uid(&served).expect("peer"), peer_uid(&client).expect("peer")), (own, own));
        drop(listener);
        let refused = connect(&path, Duration::from_secs(20)).expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        std::fs::remove_file(&path).expect("remove");
    }

    #[test]
    fn what_hangs_does_not_hold_us() {
        let begun = Instant::now();
        let hung = within(Duration::from_millis(20), || {
            std::thread::sleep(Duration::from_secs(2));
            Ok(())
        });
        assert_eq!(hung.expect_err("must fail").kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
