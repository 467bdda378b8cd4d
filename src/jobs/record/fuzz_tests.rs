//! What holds for the files that survive an agent, whatever is in them. See [`crate::fuzzing`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::done::{self, Done};
use super::entry::{self, Entry, Part};
use super::file;
use super::logins::{self, Logins};
use crate::job::{Id, Server};
use crate::limits;
use crate::secret::Secret;
use crate::wire::crc32;
use crate::wire::fuzz::Dice;

pub fn record_entry(data: &[u8]) {
    let mut dice = Dice(data);
    let (raw, at, flip) = (dice.byte() & 1 == 1, dice.below(1 << 16), dice.byte());
    let body = dice.0;
    // As it is, or behind a first line that fits: no fuzzer guesses a checksum.
    let head = format!("cronium-journal 1 {:08x} {}\n", crc32::of(body), body.len());
    let bytes = if raw { body.to_vec() } else { [head.as_bytes(), body].concat() };
    let job = Id::parse("j1").expect("an id");
    let Ok(found) = file::decode(&job, &bytes) else { return };
    // What is written is read: no number and no text makes a record unreadable.
    let (head, body) = file::encode(&found).expect("JSON");
    let bytes = [head.as_bytes(), &body].concat();
    let read = |bytes: &[u8]| file::decode(&job, bytes);
    assert_eq!(read(&bytes).as_ref(), Ok(&found));
    // A torn entry is never read as a whole one, nor one with a changed byte as another.
    let at = at % bytes.len();
    assert!(read(&bytes[..at]).is_err(), "torn at {at}");
    let mut changed = bytes.clone();
    changed[at] ^= flip;
    assert!(read(&changed).is_ok_and(|entry| entry == found) || read(&changed).is_err(), "changed at {at}");
    let mut longer = bytes;
    longer.push(flip);
    assert!(read(&longer).is_err(), "with a byte more");
    let mut clamped: Entry = found;
    clamped.clamp_deadlines(1_700_000_000_000);
    assert!(!clamped.clamp_deadlines(1_700_000_000_000), "a deadline that stays too far away");
}

pub fn done_line(data: &[u8]) {
    let mut dice = Dice(data);
    let (raw, at, flip) = (dice.byte() & 1 == 1, dice.below(1 << 12), dice.byte());
    let line = [format!("{:08x} ", crc32::of(dice.0)).as_bytes(), dice.0, b"\n"].concat();
    let Some(found) = done::decode(if raw { dice.0 } else { &line }) else { return };
    let line = done::encode(&found);
    assert!(line.ends_with(b"\n") && !line[..line.len() - 1].contains(&b'\n'));
    let read = done::decode(&line).expect("what is written is read");
    let short = Done { status: String::new(), message: String::new(), ..found.clone() };
    // What is too long for a line goes without its texts. A message is cut before it is written.
    assert!(read == found || read == short);
    assert!(line.len() <= limits::DONE_LINE);
    let at = at % line.len();
    assert_eq!(done::decode(&line[..at]), None, "torn at {at}");
    let mut changed = line;
    changed[at] ^= flip;
    assert!(done::decode(&changed).is_none_or(|done| done == read), "changed at {at}");
}

fn page(login: String) -> entry::Server {
    entry::Server {
        name: "a".to_owned(),
        server_id: "7".to_owned(),
        host: "a.example".to_owned(),
        port: 22,
        user: "u".to_owned(),
        directory: "/d".to_owned(),
        execution: Id::parse("exec-j1").expect("an id"),
        part: Part::OfJob,
        remains: false,
        login,
    }
}

pub fn sealed_login(data: &[u8]) {
    thread_local! {
        static LOGINS: [Logins; 2] = ["token", "other"].map(|token| Logins::new(&Secret::new(token)));
    }
    let mut dice = Dice(data);
    let (at, flip, text) = (dice.below(1 << 16), dice.byte(), String::from_utf8_lossy(dice.0));
    LOGINS.with(|[own, other]| {
        // What we did not seal does not open, as base64 or as bytes.
        assert_eq!(own.open(&page(text.clone().into_owned())), None);
        assert_eq!(own.open(&page(STANDARD.encode(data))), None);
        let mut parts = text.splitn(3, '\n').map(|part| Some(part).filter(|part| !part.is_empty()).map(Secret::new));
        let mut next = || parts.next().flatten();
        let server = Server {
            id: Some("7".to_owned()),
            name: "a".to_owned(),
            host: "a.example".to_owned(),
            port: 22,
            user: "u".to_owned(),
            private_key: next(),
            certificate: Some("c".to_owned()),
            passphrase: next(),
            password: next(),
            jump: None,
        };
        let sealed = own.seal(&server, &logins::of("exec-j1", "u", "a.example", 22));
        assert_eq!(own.open(&page(sealed.clone())), Some(server));
        assert_eq!(other.open(&page(sealed.clone())), None, "the key of another token opens it");
        assert_eq!(own.open(&entry::Server { port: 2222, ..page(sealed.clone()) }), None, "another place opens it");
        let mut bytes = STANDARD.decode(&sealed).expect("base64");
        let at = at % bytes.len();
        bytes[at] ^= flip.max(1);
        assert_eq!(own.open(&page(STANDARD.encode(&bytes))), None, "changed at {at}");
        assert_eq!(own.open(&page(STANDARD.encode(&bytes[..at]))), None, "torn at {at}");
    });
}
