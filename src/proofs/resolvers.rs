//! The name servers of this host, and whether one of them answers it: where none does, their silence towards a job shows
//! nothing.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;

use crate::limits;
use crate::os::{files, random};

const CONFIGURATION: &str = "/etc/resolv.conf";
const PORT: u16 = 53;

/// A name that nobody has (RFC 6761). A name server that is asked says so, and that is an answer.
pub(super) fn name() -> String {
    format!("proof-{}.invalid", random::hex(6))
}

/// The host's name servers with an IPv4 address.
pub(super) fn of_host() -> Vec<Ipv4Addr> {
    // It may be a link, as of systemd-resolved.
    let text = Path::new(CONFIGURATION).canonicalize().and_then(|path| files::read_small(&path, limits::RESOLVER_FILE));
    read(&text.unwrap_or_default())
}

fn read(text: &str) -> Vec<Ipv4Addr> {
    let server = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse().ok();
    text.lines().filter_map(server).take(limits::RESOLVERS).collect()
}

/// The first of `servers` that answers this host a question for `name`.
pub(super) fn that_answers(servers: &[Ipv4Addr], name: &str) -> Option<Ipv4Addr> {
    servers.iter().copied().find(|server| answers(SocketAddr::from((*server, PORT)), name).unwrap_or(false))
}

fn answers(server: SocketAddr, name: &str) -> std::io::Result<bool> {
    let question = question(name);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(limits::PROOF_REACH))?;
    socket.send_to(&question, server)?;
    let mut answer = [0; limits::RESOLVER_ANSWER];
    let (length, from) = socket.recv_from(&mut answer)?;
    Ok(from == server && is_answer(&question, &answer[..length]))
}

/// A question for the IPv4 address of `name`.
fn question(name: &str) -> Vec<u8> {
    let mut all = vec![0; 2];
    random::fill(&mut all);
    all.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        all.push(u8::try_from(label.len()).unwrap_or(0));
        all.extend_from_slice(label.as_bytes());
    }
    all.extend([0, 0, 1, 0, 1]);
    all
}

/// Whether it answers that question: with what was asked for, or that it does not exist.
fn is_answer(question: &[u8], answer: &[u8]) -> bool {
    answer.len() >= 12 && answer[..2] == question[..2] && answer[2] & 0x80 != 0 && matches!(answer[3] & 15, 0 | 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::threads;

    #[test]
    fn servers_are_read_and_others_left_out() {
        let text = "# x\nsearch a.example\nnameserver 127.0.0.53\n nameserver\t10.0.0.2 \nnameserver ::1\nnameserver x\nnameservers 1.1.1.1\n";
        assert_eq!(read(text), [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(10, 0, 0, 2)]);
        assert_eq!(read(&"nameserver 10.0.0.1\n".repeat(1000)).len(), limits::RESOLVERS);
        assert!(name().ends_with(".invalid") && name() != name());
    }

    /// What a server that answers each question by `change` is taken for.
    fn asked_of(change: fn(&mut Vec<u8>)) -> bool {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = server.local_addr().expect("an address");
        let thread = threads::spawn("t-names", move || {
            let mut question = [0; 512];
            let (length, from) = server.recv_from(&mut question).expect("a question");
            let mut answer = question[..length].to_vec();
            answer[2] |= 0x80;
            change(&mut answer);
            server.send_to(&answer, from).expect("an answer");
        });
        let is_answered = answers(address, "a.invalid").unwrap_or(false);
        thread.expect("a thread").join_within(limits::THREAD_JOIN_WAIT);
        is_answered
    }

    #[test]
    fn only_an_answer_is_an_answer() {
        assert!(asked_of(|_| {}));
        assert!(asked_of(|answer| answer[3] |= 3), "a name that does not exist");
        assert!(!asked_of(|answer| answer[3] |= 2), "the server has failed");
        assert!(!asked_of(|answer| answer[2] = 0), "a question");
        assert!(!asked_of(|answer| answer[0] ^= 1), "to another question");
        assert!(!asked_of(|answer| answer.truncate(11)));
        // Nobody is there, and nobody answers.
        assert!(!answers("127.0.0.1:9".parse().expect("an address"), "a.invalid").unwrap_or(false));
        let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let begun = std::time::Instant::now();
        assert!(answers(silent.local_addr().expect("an address"), "a.invalid").is_err());
        assert!(begun.elapsed() < limits::PROOF_REACH * 3, "{:?}", begun.elapsed());
    }
}
