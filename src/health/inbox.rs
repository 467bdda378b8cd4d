//! What other threads tell a server's thread: listeners that come and go, answers that took their time, and its end.

use std::sync::{Arc, Mutex, PoisonError};

use super::server::Listener;
use crate::os::poll::{Waker, Watch};

/// One piece of it.
pub(super) enum News {
    Listen(u64, Listener),
    /// The listener goes, and its clients with it.
    Close(u64),
    /// The whole reply for this client.
    Answered(u64, Vec<u8>),
    Stop,
}

/// The way to one server's thread. Clones share it.
#[derive(Clone)]
pub(super) struct Inbox(Arc<Shared>);

struct Shared {
    news: Mutex<Vec<News>>,
    waker: Waker,
}

impl Inbox {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self(Arc::new(Shared { news: Mutex::default(), waker: Waker::new()? })))
    }

    pub(super) fn tell(&self, news: News) {
        self.0.news.lock().unwrap_or_else(PoisonError::into_inner).push(news);
        self.0.waker.wake();
    }

    /// All that was told since the last time.
    pub(super) fn take(&self) -> Vec<News> {
        self.0.waker.take();
        std::mem::take(&mut *self.0.news.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn watch(&self) -> Watch<'_> {
        self.0.waker.watch()
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inbox")
    }
}
