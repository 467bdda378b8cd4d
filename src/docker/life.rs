//! Whether the engine is still the one that was there before: a restart between two pings is seen by nobody else.
//!
//! The engine keeps a stream of events open for as long as it lives, and nothing ever comes on this one. Where something
//! between agent and engine closes it early, that counts as a restart.

use std::io::Read as _;
use std::time::Duration;

use crate::docker::call::{Opened, Request};
use crate::docker::client::{Client, quick};
use crate::docker::conn::is_timeout;
use crate::docker::error::Error;
use crate::limits;
use crate::metrics::DockerOperation;

/// No event has this label.
const NOTHING: &str = "/events?filters=%7B%22label%22%3A%5B%22cronium.no-such-label%22%5D%7D";

/// The life of an engine.
#[derive(Debug)]
pub struct Life(Opened);

impl Client {
    /// Begins to look at the life of the engine.
    pub fn life(&self) -> Result<Life, Error> {
        let request = Request {
            operation: DockerOperation::Info,
            doing: "watch the engine".to_owned(),
            method: "GET",
            target: NOTHING.to_owned(),
            headers: &[],
            body: None,
            cap: limits::DOCKER_ANSWER,
        };
        self.open(request, quick()).map(Life)
    }
}

impl Life {
    /// Whether it is over. Does not wait.
    pub fn is_over(&mut self) -> bool {
        // The last chunk of a stream that ends in order.
        let is_end = |bytes: &[u8]| bytes.starts_with(b"0\r\n");
        let conn = &mut self.0.conn;
        if is_end(&self.0.rest) || conn.set_read_timeout(Duration::ZERO).is_err() {
            return true;
        }
        let mut piece = [0; limits::LIFE_READ];
        match conn.read(&mut piece) {
            Ok(read) => read == 0 || is_end(&piece[..read]),
            Err(error) => !is_timeout(&error) && error.kind() != std::io::ErrorKind::Interrupted,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::docker::testing::{Act, Engine};
    use crate::os::stop::Stop;

    #[test]
    fn an_engine_lives_until_its_stream_ends() {
        let gone = Stop::new();
        for last in ["", "0\r\n\r\n"] {
            let (end, head) = (gone.clone(), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec());
            let engine = Engine::start(move |_| match last {
                "" => Act::Until(head.clone(), end.clone()),
                _ => Act::Stall([&head[..], last.as_bytes()].concat()),
            });
            let mut life = engine.client().life().expect("a stream");
            if last.is_empty() {
                assert!(!life.is_over() && !life.is_over());
                gone.set();
            }
            let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while !life.is_over() {
                assert!(std::time::Instant::now() < until, "it still lives");
            }
        }
        let refusing = Engine::start(|_| Act::Answer(403, "{}".to_owned()));
        assert!(refusing.client().life().is_err());
    }
}
