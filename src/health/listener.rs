//! What comes into a server: the clients of its listeners, and what other threads tell its thread.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};

use super::http::{self, Page, Reply, refusal};
use super::socket::PrivateSocket;
use crate::os::local;
use crate::os::poll::{Waker, Watch};
use crate::secret::Secret;

/// Where clients come in, and what answers them there.
pub(super) struct Listener {
    pub(super) socket: Socket,
    pub(super) site: Site,
}

/// What answers the requests of a listener.
pub(super) enum Site {
    /// At once, without a look at a body.
    Pages(Vec<Page>),
    /// Whole requests, whose answers may take long.
    Calls(Arc<dyn Calls>),
}

pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(PrivateSocket),
    /// Who may connect is a matter of the folder that it stands in.
    Open(UnixListener),
}

impl Socket {
    pub(super) fn accept(&self) -> std::io::Result<(Box<dyn Stream>, Option<u32>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Box::new(stream), None))
            }
            Self::Unix(socket) => {
                let (stream, _) = socket.listener.accept()?;
                stream.set_nonblocking(true)?;
                let uid = local::peer_uid(&stream)?;
                Ok((Box::new(stream), Some(uid)))
            }
            Self::Open(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Box::new(stream), None))
            }
        }
    }
}

/// The server's end of a connection, over TCP or a Unix socket.
pub(super) trait Stream: Read + Write + AsFd {
    fn end_writing(&self) -> std::io::Result<()>;
}

impl Stream for TcpStream {
    fn end_writing(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn end_writing(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// One request, whole.
#[derive(Debug)]
pub struct Call {
    pub method: String,
    /// Path and query as they were sent.
    pub target: String,
    /// The value of the field `Authorization`.
    pub authorization: Option<Secret>,
    pub body: Vec<u8>,
}

/// Answers the requests of one listener.
pub trait Calls: Send + Sync {
    /// Largest body that is read, in bytes, and the name of this limit.
    fn body_max(&self) -> (usize, &'static str);
    /// Takes a request over. It is called on the server's thread, which must not wait for anything.
    fn take(&self, call: Call, answer: Answerer);
}

/// The way of one reply to its client. Dropped without a reply, it says that there is none.
pub struct Answerer {
    inbox: Inbox,
    client: Option<u64>,
}

impl Answerer {
    pub(super) fn new(inbox: &Inbox, client: u64) -> Self {
        Self { inbox: inbox.clone(), client: Some(client) }
    }

    /// Sends the reply.
    pub fn reply(mut self, reply: Reply) {
        self.send(reply);
    }

    fn send(&mut self, reply: Reply) {
        if let Some(client) = self.client.take() {
            self.inbox.tell(News::Answered(client, http::bytes(reply, None)));
        }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.send(refusal(500, "the agent could not answer the call"));
    }
}

/// What a thread tells the server: listeners that come and go, answers that took their time, and its end.
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
