//! What is refused before anything is sent, and the words for each ending. Requests that are sent are tested beside real
//! servers, since no unit test may reach its own loopback by this way.

use std::net::TcpListener;

use super::*;
use crate::config;
use crate::config::types::Config;
use crate::executors::Reaper;
use crate::job::{Id, Job, Kind, Language, Request, Resources, Script, Stream};
use crate::os::net;
use crate::os::pulse::Pulse;
use crate::policy::stop::Pace;
use crate::secret::Secret;
use crate::verdict::Cause;

const LONG: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Heard(Vec<String>);

impl Output for Heard {
    fn bytes(&mut self, _: Stream, data: &[u8]) {
        self.0.push(String::from_utf8_lossy(data).into_owned());
    }
    fn system(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }
    fn settle(&mut self) {}
}

fn task(request: Option<Request>) -> Task {
    let id = Id::parse("exec-1").expect("an id");
    let job = Job {
        id: id.clone(),
        kind: Kind::Http,
        priority: 0,
        attempts: 0,
        script: Script { language: Language::Bash, content: String::new(), working_directory: String::new() },
        http: request,
        environment: Vec::new(),
        timeout: None,
        resources: Resources::default(),
        servers: Vec::new(),
        event: Default::default(),
        input: Default::default(),
        original_type: None,
        signature: None,
    };
    Task { job: Arc::new(job), server: None, execution: id, helpers: None }
}

fn get(url: &str, header: (&str, &str)) -> Request {
    let headers = vec![(header.0.to_owned(), Secret::new(header.1))];
    Request { method: "GET".to_owned(), url: Secret::new(url), headers, body: None }
}

fn enabled() -> Config {
    let mut config = config::defaults();
    config.http.enabled = true;
    config
}

/// Runs the job, whose control `before` sees when it is prepared.
fn run(config: Config, request: Option<Request>, before: impl FnOnce(&Arc<Control>)) -> (Result<Verdict, End>, Heard) {
    let (executor, mut heard) = (HttpExecutor::new(&Live::new(config)), Heard::default());
    let (reaper, thread) = Reaper::start(Pulse::unwatched()).expect("a thread");
    let control = reaper.control(Pace { grace: LONG, again: LONG, patience: LONG });
    let task = task(request);
    let verdict = match executor.prepare(&task, &control, &mut heard) {
        Ok(ready) => {
            before(&control);
            match ready.run(&task, &mut heard) {
                End::Outcome(outcome, _) => Ok(outcome.verdict),
                other => Err(other),
            }
        }
        Err(outcome) => Ok(outcome.verdict),
    };
    control.end();
    reaper.stop();
    thread.join_within(LONG);
    (verdict, heard)
}

fn refused(config: Config, request: Option<Request>) -> String {
    let (verdict, heard) = run(config, request, |_| {});
    let verdict = verdict.expect("an outcome");
    assert_eq!((&verdict.cause, verdict.exit_code), (&Cause::Refused, 125), "{verdict}");
    let all = format!("{verdict} {}", heard.0.join("\n"));
    assert!(!all.contains("hunter2"), "{all}");
    verdict.message
}

#[test]
fn requests_are_refused_until_the_operator_allows_them() {
    let why = refused(config::defaults(), Some(get("http://192.0.2.9/", ("X", "hunter2"))));
    assert!(why.contains("http.enabled"), "{why}");
    assert!(refused(enabled(), None).contains("no request"));
    let why = refused(enabled(), Some(get("http://a/hunter2?hunter2", ("X", "hunter2\nY: z"))));
    assert_eq!(
        why,
        "the request was not sent: its header x has a value with a line break or another control character"
    );
}

#[test]
fn nothing_connects_to_this_host_whatever_its_address_is_called() {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a listener");
    listener.set_nonblocking(true).expect("nonblocking");
    let port = listener.local_addr().expect("an address").port();
    let mut config = enabled();
    config.http.allow = ["*", "0.0.0.0/0", "::/0", "localhost"].map(str::to_owned).to_vec();
    for host in [
        "localhost",
        "LOCALHOST",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::]",
    ] {
        let why = refused(config.clone(), Some(get(&format!("http://{host}:{port}/hunter2"), ("X", "hunter2"))));
        assert!(why.contains("which no request may reach"), "{host}: {why}");
        assert_eq!(listener.accept().expect_err(host).kind(), std::io::ErrorKind::WouldBlock, "{host}");
    }
}

#[test]
fn a_host_that_is_not_listed_is_refused_without_a_lookup() {
    let mut config = enabled();
    config.http.allow = vec!["a.example".to_owned()];
    let why = refused(config, Some(get("http://nowhere.invalid/hunter2", ("X", "hunter2"))));
    assert_eq!(why, "the request was not sent: nowhere.invalid is not listed in http.allow");
}

#[test]
fn a_request_that_is_to_end_before_it_is_sent_is_not_sent() {
    let request = || Some(get("http://192.0.2.9/", ("X", "hunter2")));
    let (verdict, _) = run(enabled(), request(), |control| control.request(Reason::Cancelled("user")));
    let verdict = verdict.expect("an outcome");
    assert_eq!((verdict.cause, verdict.exit_code), (Cause::Cancelled("user"), 143));
    let (end, heard) = run(enabled(), request(), |control| control.detach());
    assert!(matches!(end, Err(End::NeverRan(_))), "{end:?}");
    assert!(heard.0.is_empty(), "{:?}", heard.0);
}

#[test]
fn a_request_of_an_earlier_agent_is_never_sent_again() {
    let executor = HttpExecutor::new(&Live::new(enabled()));
    let info =
        ReattachInfo { place: String::new(), image: String::new(), limits: None, timeout: (LONG, "limit"), warm: None };
    let task = task(Some(get("http://192.0.2.9/", ("X", "y"))));
    let found = executor.adopt(&task, &info, LONG, &Control::new()).err().expect("nothing to adopt");
    assert!(matches!(&found, AdoptError::Gone(why) if why.contains("nothing shows")), "{found:?}");
}

#[test]
fn each_ending_says_what_is_known_of_the_request() {
    let broken = || ureq::Error::Io(std::io::ErrorKind::ConnectionReset.into());
    let unwanted = || ureq::Error::from(dial::Unreached::Unwanted);
    let control = Control::new();
    let line = Line::new(&Rules::new(&enabled()), &control);
    let said = |failure: Failure, control: &Control| failure.verdict(control);
    for (failure, exit_code, words) in [
        (Failure::new(broken(), &line, ""), 125, ["the request was not sent: the connection broke", ""]),
        (
            Failure::new(broken(), &line, "http://a answered 302, and "),
            125,
            ["no whole answer came: http://a answered 302", "unknown"],
        ),
        (Failure::new(unwanted(), &line, ""), 125, ["the agent was stopped", "had not been sent"]),
        (Failure::new(unwanted(), &line, "x"), 125, ["the agent was stopped", "is unknown"]),
        (Failure::redirect("it was odd".to_owned()), 125, ["a redirect was not followed: it was odd", ""]),
        (
            Failure::new(dial::Unreached::Refused("no".to_owned()).into(), &line, ""),
            125,
            ["the request was not sent: no", ""],
        ),
        (
            Failure::new(dial::Unreached::Failed(net::Error::Tcp(Vec::new())).into(), &line, ""),
            125,
            ["not sent: no connection", ""],
        ),
        (Failure::new(ureq::Error::BadUri("hunter2".to_owned()), &line, ""), 125, ["its URL cannot be used", ""]),
    ] {
        let verdict = said(failure, &control);
        assert_eq!(verdict.exit_code, exit_code, "{verdict}");
        assert!(words.iter().all(|word| verdict.message.contains(word)), "{verdict}");
        assert!(!verdict.message.contains("hunter2"), "{verdict}");
    }
    control.request(Reason::Timeout { limit: "the job's timeout", after: Duration::from_secs(5) });
    let verdict = said(Failure::new(unwanted(), &line, ""), &control);
    assert_eq!((verdict.reason(), verdict.exit_code), ("timeout", -1));
    assert!(verdict.message.starts_with("the request took longer than its limit of 5 s (the job's timeout)"));
    let control = Control::new();
    control.request(Reason::Cancelled("the user"));
    let verdict = said(Failure::new(unwanted(), &line, "x"), &control);
    assert_eq!((verdict.reason(), verdict.exit_code), ("cancelled", 143));
    for (status, text, reason, exit_code) in [
        (200, "OK", "success", 0),
        (302, "Found", "success", 0),
        (404, "Not Found", "script", 1),
        (599, "", "script", 1),
    ] {
        let verdict = words::answered(status, text);
        assert_eq!((verdict.reason(), verdict.exit_code), (reason, exit_code));
        assert_eq!(verdict.message, format!("the server answered {status} {text}").trim_end());
    }
}
