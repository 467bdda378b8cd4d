//! The client against an engine that is silent, floods, or sends nonsense.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::conn::{Conn, Place};
use super::images::Progress;
use super::testing::{Act, Engine, chunked};
use super::{Client, Deadline, Error};
use crate::config::types::{Docker, DockerEndpoint};
use crate::limits;
use crate::os::ahead::Ahead;
use crate::os::net::tests::Frozen;

/// Longer than any call here has to wait.
fn far() -> Deadline {
    Deadline::after(Duration::from_secs(86_400), "the test's own")
}

/// An engine that takes nearly `limit` is heard; one that has not answered by then is given up.
fn is_asked_for(limit: Duration, name: &str, answer: &str, call: impl Fn(&Client) -> Result<(), Error>) {
    let (nearly, answer) = (limit - Duration::from_secs(5), answer.to_owned());
    let ask = |time: Duration, act: fn(&str) -> Act| {
        Ahead::run(|ahead| {
            let (later, answer) = (ahead.clone(), answer.clone());
            let engine = Engine::start(move |_| {
                later.put(time);
                act(&answer)
            });
            call(&engine.client())
        })
    };
    ask(nearly, |answer| Act::Answer(200, answer.to_owned())).expect("an answer in time");
    let error = ask(limit, |_| Act::Stall(Vec::new())).expect_err("no answer");
    assert!(matches!(&error, Error::Timeout { limit, .. } if *limit == name), "{error}");
    assert!(error.to_string().contains(&format!("within {limit:?}")), "{error}");
}

#[test]
fn an_engine_that_does_not_answer_from_memory_is_given_up() {
    let call = |docker: &Client| docker.inspect("abc", false).map(drop);
    is_asked_for(
        limits::DOCKER_QUICK,
        "limits::DOCKER_QUICK",
        r#"{"Id":"abc","State":{"Running":true,"ExitCode":0}}"#,
        call,
    );
}

#[test]
fn an_engine_that_does_not_get_on_with_its_work_is_given_up() {
    let call = |docker: &Client| docker.create("a", b"{}", far()).map(drop);
    is_asked_for(limits::DOCKER_WORK, "limits::DOCKER_WORK", r#"{"Id":"abc"}"#, call);
}

fn at(endpoint: DockerEndpoint) -> Place {
    Place::new(&Docker { endpoint, ..Docker::default() })
}

/// Whether an engine behind `endpoint` is given up after `limits::DOCKER_CONNECT`, with an error that has all of `words`.
fn is_not_reached(endpoint: &DockerEndpoint, words: &[&str]) {
    let begun = Instant::now();
    let error = Conn::open(&at(endpoint.clone()), far()).expect_err("nobody takes it");
    assert!(error.is_unreachable(), "{error}");
    let took = begun.elapsed();
    assert!((limits::DOCKER_CONNECT..limits::DOCKER_CONNECT * 2).contains(&took), "{took:?}");
    let said = error.to_string();
    for word in words.iter().chain(&["within 5s (limits::DOCKER_CONNECT)", "systemctl status docker"]) {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
}

#[test]
fn a_host_that_does_not_take_a_connection_is_given_up() {
    // A full backlog makes the kernel drop further connection requests.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut full = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
        full.push(stream);
        assert!(full.len() < 10_000, "the backlog never fills");
    }
    is_not_reached(&DockerEndpoint::Tcp("127.0.0.1".to_owned(), address.port()), &[&address.to_string()]);
}

#[test]
fn an_engine_whose_queue_is_full_is_given_up() {
    let frozen = Frozen::listen();
    let path = frozen.path().display().to_string();
    is_not_reached(&DockerEndpoint::Unix(frozen.path().to_owned()), &[&path, "its queue was full"]);
    // A call with a shorter limit ends by that one.
    let short = Deadline::after(Duration::from_millis(100), "the call's limit");
    let error = Conn::open(&at(DockerEndpoint::Unix(frozen.path().to_owned())), short).expect_err("nobody takes it");
    assert!(error.to_string().contains("within 100ms (the call's limit)"), "{error}");
}

#[test]
fn an_answer_is_read_up_to_its_cap_and_no_further() {
    for more in [0, 1] {
        let engine = Engine::start(move |_| Act::Answer(200, "x".repeat(limits::DOCKER_ANSWER + more)));
        match engine.client().stats("abc") {
            Ok(body) => assert_eq!((more, body.len()), (0, limits::DOCKER_ANSWER)),
            Err(error) => assert!(more == 1 && matches!(error, Error::TooLarge { .. }), "{error}"),
        }
    }
    // Without a length, and without an end.
    let engine = Engine::start(|_| Act::Flood(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b' '; 1 << 20]));
    let error = engine.client().stats("abc").expect_err("too much");
    assert!(matches!(error, Error::TooLarge { cap: limits::DOCKER_ANSWER, .. }), "{error}");
}

#[test]
fn of_the_engines_own_words_the_beginning_is_kept() {
    for (length, kept) in [(limits::ENGINE_MESSAGE, limits::ENGINE_MESSAGE), (100_000, limits::ENGINE_MESSAGE)] {
        let engine = Engine::start(move |_| Act::Answer(500, format!(r#"{{"message":"{}"}}"#, "é".repeat(length))));
        match engine.client().inspect("abc", false) {
            Err(Error::Refused { status: 500, message, .. }) => assert_eq!(message.chars().count(), kept),
            other => panic!("{other:?}"),
        }
    }
}

/// Pulls from an engine with this answer; returns the last progress and the result.
fn pull(answer: Vec<u8>) -> (Progress, Result<(), Error>) {
    let engine = Engine::start(move |_| Act::Raw(answer.clone()));
    let mut last = Progress::default();
    let result = engine.client().pull("a/b", None, far(), &mut |progress| {
        last = progress.clone();
        true
    });
    (last, result)
}

#[test]
fn an_image_has_the_digest_of_its_own_repository() {
    let digest = |answer: String, name: &str| {
        let engine = Engine::start(move |_| Act::Answer(200, answer.clone()));
        engine.client().image_digest("sha256:ab", name).expect("an answer")
    };
    let answer = |digests: &[&str]| format!(r#"{{"Id":"sha256:ab","RepoDigests":{digests:?}}}"#);
    let two = answer(&["other/x@sha256:1", "registry:5000/a/b@sha256:2", "python@sha256:3"]);
    for (name, want) in [
        ("registry:5000/a/b:3", "registry:5000/a/b@sha256:2"),
        ("registry:5000/a/b", "registry:5000/a/b@sha256:2"),
        ("docker.io/library/python:3-slim@sha256:3", "python@sha256:3"),
        ("not/there:1", "other/x@sha256:1"),
    ] {
        assert_eq!(digest(two.clone(), name).as_deref(), Some(want), "{name}");
    }
    let far: Vec<String> = (0..=limits::IMAGE_DIGESTS).map(|at| format!("r{at}@sha256:1")).collect();
    let far = answer(&far.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(digest(far, &format!("r{}", limits::IMAGE_DIGESTS)).as_deref(), Some("r0@sha256:1"), "beyond the bound");
    for none in [answer(&[]), r#"{"Id":"sha256:ab","RepoDigests":null}"#.to_owned(), "{}".to_owned()] {
        assert_eq!(digest(none, "a"), None);
    }
}

#[test]
fn of_a_pull_a_bounded_number_of_layers_is_told_apart() {
    use std::fmt::Write as _;
    let lines = (0..limits::PULL_LAYERS + 100).fold(String::new(), |mut lines, layer| {
        let _ = writeln!(lines, r#"{{"status":"Already exists","id":"l{layer}"}}"#);
        lines
    });
    let (progress, result) = pull([chunked(&lines), b"0\r\n\r\n".to_vec()].concat());
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(progress.layers, (limits::PULL_LAYERS, limits::PULL_LAYERS));
}

#[test]
fn a_pull_whose_line_has_no_end_is_broken_off() {
    for (length, whole) in [(limits::PULL_LINE, true), (limits::PULL_LINE + 1, false)] {
        let frame = r#"{"error":""}"#.len();
        let line = format!("{{\"error\":\"{}\"}}\n", "x".repeat(length - frame));
        let (_, result) = pull([chunked(&line), b"0\r\n\r\n".to_vec()].concat());
        match result {
            Err(Error::Pull { message, .. }) => assert!(whole && message.len() == limits::ENGINE_TEXT, "{length}"),
            Err(Error::Protocol { what, .. }) => assert!(!whole && what.contains("limits::PULL_LINE"), "{what}"),
            other => panic!("{length}: {other:?}"),
        }
    }
    let engine = Engine::start(|_| Act::Flood(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b' '; 1 << 16]));
    let mut pieces = 0;
    let result = engine.client().pull("a/b", None, far(), &mut |_| {
        pieces += 1;
        true
    });
    assert!(matches!(result, Err(Error::Protocol { .. })), "{result:?}");
    assert!(pieces < 100, "{pieces} pieces were read of one line");
}

#[test]
fn a_pull_that_says_nothing_any_more_is_given_up() {
    let result = Ahead::run(|ahead| {
        let engine = Engine::start(|_| Act::Stall(chunked("{\"status\":\"Waiting\",\"id\":\"l1\"}\n")));
        let mut looks = 0;
        let result = engine.client().pull("a/b", None, far(), &mut |progress| {
            looks += usize::from(progress.layers.1 == 1);
            match looks {
                // Silence from here on; a little less than the limit is accepted.
                1 => ahead.put(limits::PULL_SILENCE - Duration::from_secs(5)),
                2 => ahead.put(Duration::from_secs(5)),
                _ => {}
            }
            true
        });
        assert_eq!(looks, 2);
        result
    });
    let error = result.expect_err("it hangs");
    assert!(matches!(error, Error::Timeout { limit: "limits::PULL_SILENCE", .. }), "{error}");
}

#[test]
fn an_engine_that_ends_a_pull_without_the_image_has_not_pulled_it() {
    let progress = "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":1,\"total\":-1},\"id\":\"l1\"}\n";
    for (lines, has, want) in [
        (progress, 200, Ok(())),
        (progress, 404, Err("does not have the image")),
        ("", 404, Err("does not have the image")),
        ("what is that\n", 404, Err("it said: what is that")),
        ("what is that\n", 200, Ok(())),
        ("{\"error\":\"boom\",\"progressDetail\":{\"total\":-1}}\n", 200, Err("boom")),
        ("{\"errorDetail\":{\"message\":\"boom\"}}\n", 200, Err("boom")),
        // The last line has no end.
        ("{\"errorDetail\":{\"message\":\"boom\"}}", 200, Err("boom")),
    ] {
        let stream = if lines.is_empty() {
            b"HTTP/1.1 200 OK\r\n\r\n".to_vec()
        } else {
            [chunked(lines), b"0\r\n\r\n".to_vec()].concat()
        };
        let engine = Engine::start(move |call| match call {
            "GET /images/a/b/json" => Act::Answer(has, "{}".to_owned()),
            _ => Act::Raw(stream.clone()),
        });
        let result = engine.client().pull("a/b", None, far(), &mut |_| true);
        match (&result, want) {
            (Ok(()), Ok(())) => {}
            (Err(error @ Error::Pull { .. }), Err(part)) => {
                assert!(error.to_string().contains(part), "{lines}: {error}")
            }
            _ => panic!("{lines} {has}: {result:?}"),
        }
    }
}

#[test]
fn a_wait_that_speaks_of_an_error_gives_no_exit_code() {
    for (answer, want) in [
        (r#"{"StatusCode":7}"#, Ok(7)),
        (r#"{"StatusCode":7,"Error":null}"#, Ok(7)),
        (r#"{"StatusCode":0,"Error":{"Message":"boom"}}"#, Err("boom")),
        (r#"{"StatusCode":0,"Error":"boom"}"#, Err("boom")),
        (r#"{"StatusCode":0,"Error":{}}"#, Err("gave no exit code")),
        (r#"{"StatusCode":null}"#, Err("no exit code")),
        (r#"{"StatusCode":"0"}"#, Err("no exit code")),
        ("{}", Err("no exit code")),
        ("[]", Err("an object must be")),
    ] {
        let engine = Engine::start(move |_| Act::Answer(200, answer.to_owned()));
        match (engine.client().wait("abc", far()), want) {
            (Ok(code), Ok(want)) => assert_eq!(code, want, "{answer}"),
            (Err(Error::Protocol { what, .. }), Err(part)) => assert!(what.contains(part), "{answer}: {what}"),
            (result, _) => panic!("{answer}: {result:?}"),
        }
    }
}

#[test]
fn whether_a_container_runs_is_never_guessed() {
    for (state, want) in [
        (r#"{"Running":true,"ExitCode":0}"#, Some((true, 0))),
        (r#"{"Running":false,"ExitCode":137,"OOMKilled":7,"Error":[]}"#, Some((false, 137))),
        (r#"{"ExitCode":0}"#, None),
        (r#"{"Running":null,"ExitCode":0}"#, None),
        (r#"{"Running":0,"ExitCode":0}"#, None),
        (r#"{"Running":false}"#, None),
        (r#"{"Running":false,"ExitCode":"0"}"#, None),
        (r#"{"Running":false,"Running":true,"ExitCode":0}"#, None),
        ("{}", None),
        ("null", None),
    ] {
        let answer = format!(r#"{{"Id":"abc","State":{state}}}"#);
        let engine = Engine::start(move |_| Act::Answer(200, answer.clone()));
        let found = engine.client().inspect("abc", false);
        assert_eq!(found.as_ref().ok().map(|found| (found.state.running, found.state.exit_code)), want, "{state}");
        assert!(want.is_some() || matches!(found, Err(Error::Protocol { .. })), "{found:?}");
    }
}

#[test]
fn a_container_that_was_made_has_its_id_whatever_the_warnings_are() {
    for warnings in ["null", "[]", r#"["a","b"]"#, r#""a""#, "7", r#"[{"a":1}]"#] {
        let answer = format!(r#"{{"Id":"abc","Warnings":{warnings}}}"#);
        let engine = Engine::start(move |_| Act::Answer(201, answer.clone()));
        assert_eq!(engine.client().create("x", b"{}", far()).expect(warnings), "abc");
    }
}

/// `begin`, as many of `part` as the cap of an answer has room for, `end`.
fn filled(begin: &str, part: &str, end: &str) -> Vec<u8> {
    let count = (limits::DOCKER_ANSWER - begin.len() - end.len() - 1) / part.len();
    format!("{begin}{}1{end}", part.repeat(count)).into_bytes()
}

#[test]
fn no_answer_of_the_engine_costs_more_than_twice_its_limit() {
    use crate::os::heap_tests::peak;
    for (begin, part, end) in [
        ("[", "0,", "]"),
        (r#"{"Id":"a","State":"#, "[", "}"),
        (r#"{"Id":"a","State":{"Running":true,"ExitCode":0,"Error":""#, r"\n", "\"}}"),
        (r#"{"Warnings":["#, r#""","#, r#"],"Id":"a"}"#),
        (r#"{"SecurityOptions":["#, r#""","#, "]}"),
        (r#"{"networks":{"#, r#""a":{},"#, r#""b":7}}"#),
        (r#"{"blkio_stats":{"io_service_bytes_recursive":["#, r#"{},"#, "]}}"),
        (r#"[{"Id":"a","Names":["#, r#""a","#, "]}]"),
        (r#"[{"Id":"a","Labels":{"#, r#""cronium.a":"","#, r#""b":""}}]"#),
        (r"[", r#"{"Id":""},"#, "]"),
        (r"[", r#"{"Id":"a","Labels":{"cronium.a":"","cronium.b":"","cronium.c":""}},"#, "]"),
        (r#"{"message":""#, r"\n", "\"}"),
    ] {
        for status in [200, 500] {
            let body = filled(begin, part, end);
            let engine = Engine::start(move |_| Act::Answer(status, String::from_utf8(body.clone()).expect("text")));
            let docker = engine.client();
            let calls: [&dyn Fn(); 5] = [
                &|| drop(docker.inspect("abc", true)),
                &|| drop(docker.list(&[])),
                &|| drop(docker.create("x", b"{}", far())),
                &|| drop(docker.info()),
                &|| drop(docker.wait("abc", far())),
            ];
            for (n, call) in calls.into_iter().enumerate() {
                let ((), most) = peak(call);
                // The answer's bytes are among them.
                let slack = 2 * limits::DOCKER_READ + 64 * 1024;
                assert!(most <= 2 * limits::DOCKER_ANSWER + slack, "{begin} {status} call {n}: {} KiB", most >> 10);
            }
        }
    }
}

#[test]
fn of_more_containers_than_are_taken_none_is_forgotten() {
    for (count, good) in [(limits::ENGINE_ROWS, true), (limits::ENGINE_ROWS + 1, false)] {
        let rows = vec![r#"{"Id":"a"}"#; count].join(",");
        let engine = Engine::start(move |_| Act::Answer(200, format!("[{rows}]")));
        match engine.client().list(&[]) {
            Ok(rows) => assert_eq!((good, rows.len()), (true, count)),
            Err(error) => assert!(!good && error.to_string().contains("limits::ENGINE_ROWS"), "{error}"),
        }
    }
}
