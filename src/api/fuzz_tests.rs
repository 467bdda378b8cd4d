//! What holds for the backend's answers, whatever they are. See [`crate::fuzzing`].

use std::time::{Duration, UNIX_EPOCH};

use super::job_row::held;
use super::{answer, job_of, server_row};
use crate::config::types::HostTable;
use crate::job::{Claim, is_host, is_user};
use crate::limits;
use crate::secret::Secret;
use crate::signing::check::{Terms, verify};
use crate::signing::sign::SigningKey;
use crate::signing::{canonical, keys};
use crate::wire::scan::Json;

pub fn queue_answer(data: &[u8]) {
    let Ok(queue) = answer::queue(data, &HostTable::default()) else { return };
    assert!(queue.claims.len() <= limits::QUEUE_ROWS_MAX);
    assert!(queue.claims.iter().map(held).sum::<usize>() <= limits::QUEUE_HELD_MAX);
    assert!(queue.unusable.len() <= limits::UNUSABLE_ROWS_SHOWN + 3, "{:?}", queue.unusable);
    for claim in &queue.claims {
        let Claim::Run(job) = claim else { continue };
        assert!(job.environment.len() <= limits::JOB_ENVIRONMENT_MAX);
        assert!(job.environment.iter().all(|(name, _)| !name.is_empty() && !name.contains(['=', '\0'])));
        assert!(job.resources.cpu.is_none_or(|cpu| cpu.is_finite() && cpu > 0.0));
        assert!(Json::strict(job.input.as_json().as_bytes()).is_ok(), "an input is JSON");
    }
    // A row means the same alone: a bad neighbour costs it nothing.
    let frame = Json::outline(data).expect("it was read");
    let rows = frame.field("jobs").and_then(Json::items).into_iter().flatten().map_while(Result::ok);
    let mut claims = queue.claims.iter();
    for row in rows.take(20) {
        let alone = [b"{\"jobs\":[", row.bytes(), b"]}"].concat();
        if let Some(claim) = answer::queue(&alone, &HostTable::default()).expect("a list of one row").claims.first() {
            assert_eq!(claims.next(), Some(claim));
        }
    }
}

pub fn server_rows(data: &[u8]) {
    let Ok(job) = Json::strict(data) else { return };
    let part = |name: &'static str| job.field(name);
    let Ok(servers) = server_row::servers(part("target"), part("metadata"), &HostTable::default()) else { return };
    assert!((1..=limits::SSH_SERVERS_MAX).contains(&servers.len()));
    for server in servers.iter().flatten() {
        assert!(is_host(&server.host) && is_user(&server.user) && server.port > 0 && !server.name.is_empty());
        assert!(!server.name.contains(char::is_control), "{:?}", server.name);
        for secret in [&server.private_key, &server.passphrase, &server.password].into_iter().flatten() {
            assert!(!secret.is_empty() && secret.len() <= limits::PRIVATE_KEY_MAX);
        }
    }
}

pub fn backend_answers(data: &[u8]) {
    const TOKEN: &str = "tok3n";
    if let Ok(orphans) = answer::orphans(data) {
        assert!(orphans.rows.len() <= limits::QUEUE_ROWS_MAX);
        assert!(!orphans.whole || orphans.rows.len() < limits::ORPHANED_LIST_MAX);
    }
    if let Ok(beat) = answer::heartbeat(data) {
        assert!(beat.cancel_jobs.len() <= limits::QUEUE_ROWS_MAX);
    }
    let _ = answer::acknowledged(data);
    let id = crate::job::Id::parse("j1").expect("an id");
    if let Some(claim) = answer::stored(data, &id, &HostTable::default()) {
        assert_eq!(claim.id(), &id);
    }
    let (message, details) = answer::error_text(data, &Secret::new(TOKEN));
    for text in std::iter::once(&message).chain(&details) {
        assert!(!text.contains(TOKEN), "a message quotes the token");
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(text.chars().count() <= 3 * limits::ERROR_TEXT_MAX);
    }
}

pub fn signed_row(data: &[u8]) {
    thread_local! {
        static KEY: SigningKey = crate::signing::fuzz::own_key();
    }
    let id = crate::job::Id::parse("j1").expect("an id");
    let Claim::Run(mut job) = job_of(id, data, &HostTable::default()) else { return };
    KEY.with(|key| {
        let trusted = keys::parse(&key.line("ci")).expect("a key");
        let terms = Terms { keys: &trusted, max_age: Duration::ZERO, now: UNIX_EPOCH };
        let unsigned = verify(&job, &terms).expect_err("a signature that nobody made");
        assert!(!unsigned.contains(char::is_control), "{unsigned:?}");
        let Ok(signature) = key.sign(&job, "ci", (UNIX_EPOCH, None)) else {
            assert!(canonical::sum(&job).is_none() || job.signature.is_some());
            return;
        };
        assert!(canonical::sum(&job).is_some());
        job.signature = Some(Ok(signature));
        assert_eq!(verify(&job, &terms), Ok("ci"));
        // Whatever decides what runs: one changed, the signature does not fit.
        let mut other = job.clone();
        other.script.content.push(' ');
        let mut more = job.clone();
        more.environment.push(("ANOTHER_NAME_X".to_owned(), Secret::new("")));
        let mut late = job.clone();
        late.timeout = Some(late.timeout.unwrap_or_default() + Duration::from_millis(1));
        let mut event = job.clone();
        event.event.id = Some(format!("{}1", event.event.id.unwrap_or_default()));
        for (what, changed) in [("script", other), ("variables", more), ("timeout", late), ("event", event)] {
            assert!(verify(&changed, &terms).is_err(), "another {what}");
        }
    });
}
