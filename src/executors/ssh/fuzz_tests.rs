//! What holds for what servers say, and for keys and known hosts that people write. See [`crate::fuzzing`].

use super::certificate::Certificate;
use super::helper_calls::Calls;
use super::judge::Ending;
use super::keys;
use super::known_hosts::{self, Check, KnownHosts};
use super::preamble::Preamble;
use crate::job::Stream;
use crate::limits;
use crate::os::scratch::Scratch;
use crate::secret::Secret;
use crate::wire::fuzz::{Dice, pieces};

pub fn ssh_preamble(data: &[u8]) {
    const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];
    let mut dice = Dice(data);
    let first = usize::from(dice.byte() & 1);
    let (before, lengths) = (3 * dice.below(limits::SSH_NOISE), dice.lengths());
    let all = [&vec![b'x'; before], dice.0].concat();
    // One stream speaks after the other; where a piece ends means nothing.
    let half = all.len() / 2;
    let take = |pieces: &[&[u8]]| {
        let (mut preamble, mut out) = (Preamble::new("00ff"), [Vec::new(), Vec::new()]);
        let mut at = 0;
        for piece in pieces {
            let (before, after) = piece.split_at(half.saturating_sub(at).min(piece.len()));
            for (bytes, stream) in [(before, first), (after, 1 - first)] {
                preamble.take(STREAMS[stream], bytes, &mut |bytes| out[stream].extend_from_slice(bytes));
            }
            at += piece.len();
        }
        let state = (preamble.is_ready(), preamble.is_over(), preamble.is_crossed(), preamble.missing());
        let word = preamble.word().cloned();
        (state, word, preamble.place().map(str::to_owned), preamble.noise(), out)
    };
    let whole = take(&[&all]);
    assert!(take(&pieces(&all, lengths)) == whole, "in pieces of {lengths:?} something else was heard");
    assert!(whole.4.iter().map(Vec::len).sum::<usize>() <= all.len());
}

pub fn ssh_status(data: &[u8]) {
    let ending = Ending::read(&String::from_utf8_lossy(data));
    assert!(ending.cpu_seconds.is_finite() && ending.cpu_seconds >= 0.0, "{}", ending.cpu_seconds);
    assert!(ending.why.is_none_or(|why| !why.is_empty() && why.chars().count() <= limits::SSH_WHY));
}

pub fn ssh_helper_calls(data: &[u8]) {
    const MOST: usize = 400;
    let (all, pieces) = Dice(data).pieces();
    let read = |pieces: &[&[u8]]| {
        let (mut calls, mut found) = (Calls::new(MOST), Vec::new());
        for piece in pieces {
            calls.feed(piece);
            loop {
                match calls.peek() {
                    Err(()) => return (found, true),
                    Ok(None) => break,
                    Ok(Some(length)) => {
                        assert!(length <= MOST);
                        found.push(calls.take().expect("it is whole"));
                    }
                }
            }
        }
        (found, false)
    };
    let whole = read(&[all]);
    assert_eq!(read(&pieces), whole);
    for call in &whole.0 {
        assert!(call.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "a name is a file's");
    }
}

pub fn private_key(data: &[u8]) {
    let text = Secret::new(String::from_utf8_lossy(data));
    let about = keys::describe(&text);
    match keys::normalize(&text) {
        Ok(clean) => {
            assert_eq!(keys::describe(&clean), about);
            assert_eq!(keys::normalize(&clean).expect("clean").expose(), clean.expose());
            assert!(clean.expose().ends_with("-----\n") && !clean.expose().contains('\r'));
        }
        Err(error) => assert_eq!(about, Err(error)),
    }
}

pub fn user_certificate(data: &[u8]) {
    let Ok(certificate) = Certificate::read(&String::from_utf8_lossy(data)) else { return };
    assert_eq!(Certificate::read(certificate.line()).as_ref(), Ok(&certificate));
    let said = certificate.likely_reason("root", std::time::UNIX_EPOCH);
    assert!(!said.contains(char::is_control) && said.len() < 4096, "{said:?}");
}

pub fn known_hosts_file(data: &[u8]) {
    thread_local! {
        static FOLDER: Scratch = Scratch::in_memory();
    }
    const TYPE: &str = "ssh-ed25519";
    const HOST: &str = "a.example";
    let blob = [&11u32.to_be_bytes(), TYPE.as_bytes(), b"key"].concat();
    let path = FOLDER.with(|folder| folder.join("known_hosts"));
    std::fs::write(&path, data).expect("written");
    let Ok(counts) = KnownHosts::count(&path).map(|known| known.counts()) else { return };
    let lines = data.split(|&byte| byte == b'\n').count();
    assert!(counts.keys + counts.authorities + counts.skipped <= lines);
    if let Ok(known) = KnownHosts::load(&path, HOST, 22) {
        assert_eq!(known.counts(), counts);
        assert!(known.skipped().len() <= limits::KNOWN_HOSTS_SKIPPED_SHOWN);
        let _ = (known.types_for(HOST, 22), known.authority_for(HOST, 22));
        assert!(known.check(HOST, 22, "ssh-other", b"other") != Check::Known { line: 0 });
    }
    // A line that is added makes the key known, whatever stands in the file, unless it is revoked there.
    let line = known_hosts::line(HOST, 22, TYPE, &blob);
    if known_hosts::append(&path, &line).is_ok()
        && let Ok(known) = KnownHosts::load(&path, HOST, 22)
    {
        let check = known.check(HOST, 22, TYPE, &blob);
        assert!(matches!(check, Check::Known { .. } | Check::Revoked { .. }), "{check:?}");
    }
}
