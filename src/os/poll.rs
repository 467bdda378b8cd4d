//! Waits for several sockets at once; another thread can end the wait.
//!
//! `ppoll(2)` and an `eventfd(2)`: the live log's thread waits for its socket and for new lines together, so a line leaves at
//! once and an idle agent does not tick.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One descriptor to wait for, and afterwards what happened to it.
#[repr(transparent)]
pub struct Watch<'fd> {
    raw: libc::pollfd,
    borrowed: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> Watch<'fd> {
    /// Waits for `fd` to be readable, and writable too where asked.
    pub fn new(fd: BorrowedFd<'fd>, writable: bool) -> Self {
        let events = if writable { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
        Self { raw: libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }, borrowed: PhantomData }
    }

    /// Waits for `fd` to be writable alone: bytes from its peer do not end the wait.
    pub fn to_write(fd: BorrowedFd<'fd>) -> Self {
        Self { raw: libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 }, borrowed: PhantomData }
    }

    /// Waits for the peer to be gone alone; [`Watch::readable`] says it.
    pub fn to_end(fd: BorrowedFd<'fd>) -> Self {
        Self { raw: libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 }, borrowed: PhantomData }
    }

    /// A read would not block: data, the end, or an error that the read returns.
    pub fn readable(&self) -> bool {
        self.raw.revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// A write would not block, or would return an error.
    pub fn writable(&self) -> bool {
        self.raw.revents & (libc::POLLOUT | libc::POLLERR | libc::POLLNVAL) != 0
    }
}

/// Waits until one of `watches` is ready or `timeout` is over; `Duration::MAX` waits forever. A signal ends the wait early,
/// as if by timeout.
pub fn wait(watches: &mut [Watch<'_>], timeout: Duration) -> io::Result<()> {
    let limit = libc::timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos().cast_signed()),
    };
    let count = libc::nfds_t::try_from(watches.len()).unwrap_or(0);
    // SAFETY: `Watch` is a transparent `pollfd`, so pointer and count describe the slice, which is writable for the whole
    // call; the descriptors are borrowed for as long; `limit` lives on this stack; a null mask leaves signals alone.
    let n = unsafe { libc::ppoll(watches.as_mut_ptr().cast(), count, &raw const limit, std::ptr::null()) };
    if n < 0 {
        let error = io::Error::last_os_error();
        for watch in watches {
            watch.raw.revents = 0;
        }
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}

/// Wakes a thread that sits in [`wait`]. Clones share one `eventfd`.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    /// Set from the first wake until the sleeper takes it, so that a busy writer makes one system call only.
    pending: AtomicBool,
}

impl Waker {
    /// Makes the `eventfd`.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so `fd` is open and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self(Arc::new(Inner { fd, pending: AtomicBool::new(false) })))
    }

    /// Ends the sleeper's present or next [`wait`]. Writes before this call are visible to it afterwards.
    pub fn wake(&self) {
        if !self.0.pending.swap(true, Ordering::AcqRel) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: pointer and length describe `one`. It can only fail on a full counter, which wakes as well.
            unsafe { libc::write(self.0.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }

    /// Takes the wake-up. Call it before reading the shared state, or news could be missed.
    pub fn take(&self) {
        let mut count = [0; 8];
        // SAFETY: pointer and length describe `count`, writable for the whole call; an empty counter is no harm.
        unsafe { libc::read(self.0.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        self.0.pending.swap(false, Ordering::AcqRel);
    }

    /// The watch to wait for.
    pub fn watch(&self) -> Watch<'_> {
        Watch::new(self.0.fd.as_fd(), false)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_waker_ends_a_wait_and_is_used_up() {
        let waker = Waker::new().expect("eventfd");
        let other = waker.clone();
        let begun = Instant::now();
        let t = crate::os::threads::spawn("t-wake", move || {
            other.wake();
            other.wake();
        })
        .expect("spawn");
        wait(&mut [waker.watch()], Duration::from_secs(20)).expect("poll");
        assert!(begun.elapsed() < Duration::from_secs(10));
        t.join_within(Duration::from_secs(5));
        waker.take();
        let mut again = [waker.watch()];
        wait(&mut again, Duration::from_millis(1)).expect("poll");
        assert!(!again[0].readable());
    }

    #[test]
    fn sockets_say_what_they_are_ready_for() {
        let (mut a, b) = UnixStream::pair().expect("pair");
        let mut watches = [Watch::new(a.as_fd(), true), Watch::new(b.as_fd(), false)];
        wait(&mut watches, Duration::from_secs(5)).expect("poll");
        assert!(watches[0].writable() && !watches[0].readable() && !watches[1].readable());
        a.write_all(b"x").expect("write");
        let mut watches = [Watch::new(b.as_fd(), false), Watch::to_write(b.as_fd())];
        wait(&mut watches, Duration::MAX).expect("poll");
        assert!(watches[0].readable() && !watches[0].writable());
        assert!(watches[1].writable() && !watches[1].readable(), "what the peer sent is not looked at");
        let gone = |fd: &UnixStream| {
            let mut watches = [Watch::to_end(fd.as_fd())];
            wait(&mut watches, Duration::ZERO).expect("poll");
            watches[0].readable()
        };
        assert!(!gone(&b), "what the peer sent is not looked at");
        drop(a);
        assert!(gone(&b));
    }
}
