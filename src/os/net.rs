//! TCP to a host that has several addresses.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// Connects to the first of `addresses` that answers before `until`. An address that swallows packets costs its share
/// of the time, so that the next one, IPv4 after IPv6, still gets its try.
pub fn connect(addresses: &[SocketAddr], until: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (at, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let rest = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        match TcpStream::connect_timeout(address, left / rest) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_address_that_does_not_answer_leaves_time_for_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let here = listener.local_addr().expect("address");
        // Nothing listens on port 1, and 192.0.2.1 (RFC 5737) is nobody's.
        let dead: SocketAddr = "127.0.0.1:1".parse().expect("address");
        let nobody: SocketAddr = "192.0.2.1:22".parse().expect("address");
        let until = Instant::now() + Duration::from_secs(2);
        let tcp = connect(&[nobody, dead, here], until).expect("the third");
        assert_eq!(tcp.peer_addr().expect("peer"), here);
        assert!(connect(&[dead], until).is_err() && connect(&[], until).is_err());
        assert!(connect(&[here], Instant::now()).is_err());
    }
}
