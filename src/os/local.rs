//! Unix sockets: the user and the process at the other end.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// Bytes of a path that the kernel's `sun_path` takes: its last of 108 is the NUL.
pub const PATH_MAX: usize = 107;

/// The user id of the process that connected, or made the pair, at that time.
pub fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    Ok(peer(stream)?.uid)
}

/// The id of the process that connected or listens, as this process sees it; 0 for one that it cannot see.
pub fn peer_pid(stream: &UnixStream) -> io::Result<u32> {
    Ok(u32::try_from(peer(stream)?.pid).unwrap_or(0))
}

fn peer(stream: &UnixStream) -> io::Result<libc::ucred> {
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
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(found) }
}

/// This process's user id, as a peer sees it.
pub fn own_uid() -> io::Result<u32> {
    peer_uid(&UnixStream::pair()?.0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;
    use crate::os::clock::Deadline;
    use crate::os::{net, scratch};

    #[test]
    fn a_peer_is_known_by_its_user() {
        let own = std::fs::metadata("/proc/self").expect("proc").uid();
        assert_eq!(own_uid().expect("own"), own);
        let place = scratch::Scratch::new();
        let path = place.join("socket");
        let listener = UnixListener::bind(&path).expect("bind");
        let connect = || net::unix(&path, Deadline::after(Duration::from_secs(20), "the test's limit"));
        let client = connect().expect("connect");
        let (served, _) = listener.accept().expect("accept");
        assert_eq!((peer_uid(&served).expect("peer"), peer_uid(&client).expect("peer")), (own, own));
        let own = std::process::id();
        assert_eq!((peer_pid(&served).expect("peer"), peer_pid(&client).expect("peer")), (own, own));
        drop(listener);
        let refused = connect().expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
