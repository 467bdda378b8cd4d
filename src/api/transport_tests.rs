//! One exchange: its bounds, its rate, its connections.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Barrier;

use super::*;
use crate::api::testing::{Act, Server, ok};
use crate::os::scratch::Scratch;
use crate::os::threads;
use crate::wire::time::parse_rfc3339;

#[test]
fn retry_after_in_seconds_or_as_a_date() {
    let now = parse_rfc3339("1994-11-06T08:49:07Z").expect("a moment");
    for (text, want) in [
        ("0", Some(0)),
        (" 7 ", Some(7)),
        ("300", Some(300)),
        ("99999999999999999999999", Some(300)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
        ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
        ("Sun, 06 Nov 1999 08:00:00 GMT", Some(300)),
        ("", None),
        ("+5", None),
        ("-1", None),
        ("soon", None),
        ("Sun, 06 Nov 1994 08:49:37 CET", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT x", None),
        ("Sun, 6 Nov 1994 08:49:37 GMT", None),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_str(text).expect("a header"));
        assert_eq!(retry_after(&headers, now), want.map(Duration::from_secs), "{text:?}");
    }
    assert_eq!(retry_after(&HeaderMap::new(), now), None);
}

fn transport(server: &Server) -> Transport {
    Transport::new(&server.api(), &Tls::default(), HeaderMap::new(), Stop::new()).expect("a transport")
}

fn ask(transport: &Transport) -> Result<Vec<u8>, Error> {
    transport.call(&Call {
        endpoint: Endpoint::Health,
        method: Method::GET,
        path: "/x".to_owned(),
        query: String::new(),
        body: None,
        limit: limits::ANSWER_MAX,
        needs_body: true,
        retry: false,
        urgent: false,
    })
}

#[test]
fn an_answer_of_the_longest_length_is_read_and_a_longer_one_is_not() {
    let server = Server::start(|_, n| match n {
        0 => ok(&"x".repeat(limits::ANSWER_MAX)),
        1 => ok(&"x".repeat(limits::ANSWER_MAX + 1)),
        2 => Act::Flood(limits::ANSWER_MAX + 1),
        3 => Act::Answer(400, "", "x".repeat(limits::ANSWER_MAX)),
        _ => Act::Answer(400, "", "x".repeat(limits::ANSWER_MAX + 1)),
    });
    let transport = transport(&server);
    assert_eq!(ask(&transport).expect("read").len(), limits::ANSWER_MAX);
    for _ in 0..2 {
        let problem = ask(&transport).expect_err("too long").problem;
        assert!(matches!(problem, Problem::TooLarge { limit: limits::ANSWER_MAX }), "{problem:?}");
    }
    // The text of an error is read within the same bound, or left out.
    for read in [true, false] {
        let problem = ask(&transport).expect_err("400").problem;
        let Problem::Http { status: 400, message, .. } = problem else { panic!("{problem:?}") };
        assert_eq!(message.starts_with('x'), read, "{message}");
    }
}

#[test]
fn an_answer_that_wants_fewer_calls_slows_all_of_them_down() {
    let server = Server::start(|_, n| if n < 3 { Act::Answer(429, "", String::new()) } else { ok("{}") });
    let limited = crate::config::types::RateLimit { enabled: true, requests_per_second: 1000.0 };
    let api = Api { rate_limit: limited, ..server.api() };
    let transport = Transport::new(&api, &Tls::default(), HeaderMap::new(), Stop::new()).expect("a transport");
    let rate = || transport.base.bucket.as_ref().expect("a limit").lock().expect("lock").per_second();
    let (other, full) = (transport.separate(), rate());
    for _ in 0..3 {
        ask(&other).expect_err("429");
    }
    assert!((full * 0.45..full * 0.6).contains(&rate()), "halved once for answers that come together: {}", rate());
    ask(&other).expect("an answer");
    assert!(rate() < full * 0.6, "one good answer does not bring it back: {}", rate());
}

#[test]
fn a_head_of_the_longest_length_is_read_and_a_longer_one_is_not() {
    let head = |length: usize| {
        let (begin, end) = ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: ", "\r\n\r\n");
        [begin, &"x".repeat(length - begin.len() - end.len()), end, "{}"].concat().into_bytes()
    };
    let server = Server::start(move |_, n| Act::Raw(head(limits::API_HEAD + n)));
    assert_eq!(ask(&transport(&server)).expect("read"), b"{}");
    let problem = ask(&transport(&server)).expect_err("too long").problem;
    assert!(matches!(problem, Problem::Protocol(_)), "{problem:?}");
}

#[test]
fn a_connection_that_was_idle_for_long_is_not_used_again() {
    let server = Server::start(|_, _| ok("{}"));
    let mut transport = transport(&server);
    let idle = Duration::from_millis(500);
    let tls = crate::api::tls::config(&Tls::default()).expect("TLS");
    transport.agent = build_agent(Duration::from_secs(5), idle, tls, None);
    for pause in [Duration::ZERO, idle + Duration::from_millis(50)] {
        ask(&transport).expect("an answer");
        std::thread::sleep(pause);
    }
    ask(&transport).expect("an answer");
    let connections: Vec<_> = server.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 1]);
}

#[test]
fn idle_connections_are_kept_up_to_a_number() {
    const MORE: usize = limits::API_IDLE_CONNECTIONS + 4;
    // No request is answered before all have arrived, so each needs a connection.
    let all = Arc::new(Barrier::new(MORE));
    let held = Arc::clone(&all);
    let server = Server::start(move |_, _| {
        held.wait();
        ok("{}")
    });
    let transport = transport(&server);
    for _ in 0..2 {
        let calls: Vec<_> = (0..MORE)
            .map(|_| {
                let transport = transport.clone();
                threads::spawn("t-call", move || drop(ask(&transport).expect("an answer"))).expect("a thread")
            })
            .collect();
        for call in calls {
            assert_eq!(call.join_within(Duration::from_secs(10)), threads::Ended::Returned);
        }
    }
    let mut connections: Vec<_> = server.seen().iter().map(|seen| seen.connection).collect();
    connections.sort_unstable();
    connections.dedup();
    assert_eq!(connections.len(), MORE + 4, "of the first ones, the maximum was kept");
}

#[test]
fn a_connection_is_waited_for_within_a_bound_of_its_own() {
    let hour = Duration::from_secs(3600);
    assert_eq!(limit_of(Wait::Resolve, hour), limits::API_CONNECT_WAIT);
    assert_eq!(limit_of(Wait::Connect, hour), limits::API_CONNECT_WAIT);
    let (length, limit) = asking_limits(hour).connect;
    assert_eq!((length, limit), (limits::OUTBOX_ASK_CONNECT, "limits::OUTBOX_ASK_CONNECT"));
    assert!(asking_limits(Duration::from_secs(1)).connect.0 < Duration::from_secs(1));
    // A shorter api.timeout leaves time for the rest of the call.
    let short = Duration::from_secs(2);
    assert!(limit_of(Wait::Resolve, short) < short && limit_of(Wait::Connect, short) < short);
}

/// A backend that takes the token `new` alone, and an agent that has `old` and a file with `holds`.
fn rotated(holds: &str) -> (Server, Transport, Scratch) {
    let server = Server::start(|seen, _| match seen.headers.iter().any(|(_, value)| value == "Bearer new-token") {
        true => ok("{}"),
        false => Act::Answer(401, "", r#"{"error":"old-token is unknown"}"#.to_owned()),
    });
    let folder = Scratch::new();
    let file = folder.join("token");
    std::fs::write(&file, holds).expect("write");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let api = Api { token: Secret::new("old-token"), token_file: Some(file), ..server.api() };
    let transport = Transport::new(&api, &Tls::default(), HeaderMap::new(), Stop::new()).expect("a transport");
    (server, transport, folder)
}

#[test]
fn a_refused_call_is_made_again_with_the_token_that_its_file_holds_by_now() {
    let (server, transport, _folder) = rotated("new-token\n");
    assert_eq!(ask(&transport).expect("an answer"), b"{}");
    assert_eq!(server.seen().len(), 2);
    assert_eq!(ask(&transport).expect("an answer"), b"{}");
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn a_refused_call_whose_token_is_the_same_or_wrong_again_fails_as_before() {
    for (holds, calls) in [("old-token", 1), ("", 1), ("third-token", 2)] {
        let (server, transport, _folder) = rotated(holds);
        let error = ask(&transport).expect_err("refused");
        assert_eq!((error.status(), server.seen().len()), (Some(401), calls), "{holds}");
        // Within the limit the file is not read again.
        let said = ask(&transport).expect_err("refused").to_string();
        assert_eq!(server.seen().len(), calls + 1, "{holds}");
        assert!(said.contains("check api.token") && !said.contains("third-token"), "{said}");
    }
}
