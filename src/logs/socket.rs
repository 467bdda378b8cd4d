//! The bytes below WebSocket: a non-blocking TCP socket, with or without TLS, with our outgoing buffer.
//!
//! tungstenite writes its frames into that buffer and never meets a full socket. So it is known to the byte what the
//! kernel has taken; in the dialect without acknowledgements that counts as sent.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;

use rustls::ClientConnection;

use crate::os::poll::Watch;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
    out: Vec<u8>,
    /// The first `gone` bytes of `out` were handed on.
    gone: usize,
    /// Bytes ever put into `out`.
    accepted: u64,
    /// Of those, the bytes that the kernel has taken (under TLS: in whole records).
    written: u64,
}

impl Socket {
    /// Wraps a connected, non-blocking socket.
    pub(super) fn new(tcp: TcpStream, tls: Option<ClientConnection>) -> Self {
        Self { tcp, tls: tls.map(Box::new), out: Vec::new(), gone: 0, accepted: 0, written: 0 }
    }

    /// Bytes ever written into this socket.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// The part of [`Socket::accepted`] that has left this process.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Bytes that wait here.
    pub(super) fn waiting(&self) -> usize {
        self.out.len() - self.gone
    }

    /// The events to wait for: readable always, writable if bytes wait.
    pub(super) fn watch(&self) -> Watch<'_> {
        let writable = self.waiting() > 0 || self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        Watch::new(self.tcp.as_fd(), writable)
    }

    /// Hands on as much as the kernel takes; true when it took some.
    pub(super) fn push(&mut self) -> io::Result<bool> {
        let before = self.written;
        match self.tls.take() {
            None => self.push_plain()?,
            Some(mut tls) => {
                let pushed = self.push_tls(&mut tls);
                self.tls = Some(tls);
                pushed?;
            }
        }
        if self.waiting() == 0 {
            self.out.clear();
            self.gone = 0;
        } else if self.gone > self.out.len() / 2 {
            self.out.drain(..self.gone);
            self.gone = 0;
        }
        Ok(self.written > before)
    }

    fn push_plain(&mut self) -> io::Result<()> {
        while self.waiting() > 0 {
            let Some(n) = unless_full(self.tcp.write(&self.out[self.gone..]))? else { break };
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.gone += n;
            self.written += n as u64;
        }
        Ok(())
    }

    fn push_tls(&mut self, tls: &mut ClientConnection) -> io::Result<()> {
        loop {
            while tls.wants_write() {
                if unless_full(tls.write_tls(&mut self.tcp))?.is_none() {
                    return Ok(());
                }
            }
            if !tls.is_handshaking() {
                self.written = self.accepted - self.waiting() as u64;
            }
            let n = if self.waiting() == 0 { 0 } else { tls.writer().write(&self.out[self.gone..])? };
            if n == 0 {
                return Ok(());
            }
            self.gone += n;
        }
    }
}

/// A TLS error, with the configuration key that may be the reason.
fn tls_problem(error: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, CertificateError, Error};
    let advice = match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "; name the authority that signed the backend's certificate in security.tls.caFile"
        }
        Error::InvalidCertificate(_) => "; check the backend's certificate, security.tls.caFile and the host's clock",
        Error::AlertReceived(
            Alert::CertificateRequired | Alert::BadCertificate | Alert::UnknownCA | Alert::HandshakeFailure,
        ) => "; the backend may want a client certificate: check security.tls.certFile and keyFile",
        _ => "",
    };
    format!("TLS: {error}{advice}")
}

/// `None` if the socket is full, or a signal interrupted.
fn unless_full(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = self.tls.as_mut() else { return self.tcp.read(buf) };
        loop {
            match tls.reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if tls.read_tls(&mut self.tcp)? == 0 {
                return Ok(0);
            }
            if let Err(e) = tls.process_new_packets() {
                // Sends the alert to the other side; the error stays the reason.
                let _ = tls.write_tls(&mut self.tcp);
                return Err(io::Error::new(io::ErrorKind::InvalidData, tls_problem(&e)));
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(buf);
        self.accepted += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
