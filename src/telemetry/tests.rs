//! The whole way of a record: into memory, and in another process through the global logger.

use super::context::ContextGuard;
use super::*;
use crate::job::Id;
use crate::redact::Redactor;
use crate::secret::Secret;

fn record(front: &Front, level: Level, target: &str, text: &str) {
    front.log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
}

fn memory(format: LogFormat) -> (Front, Sink) {
    let sink = Sink::new(Place::Memory(Vec::new()));
    (Front::new(format, sink.clone(), Lead::Time), sink)
}

fn ids() -> ContextGuard {
    context(&Id::parse("job_1").expect("id"), &Id::parse("exec-1").expect("id"), &Redactor::default())
}

const EVIL: &str = "name \"x\"\n2026-01-01T00:00:00.000Z [ERROR] forged\u{1b}[2K";

#[test]
fn json_lines_have_their_fields_and_cannot_be_forged() {
    let (front, sink) = memory(LogFormat::Json);
    record(&front, Level::Info, "cronium_agent::jobs::poller", "plain");
    {
        let _ids = ids();
        record(&front, Level::Warn, "cronium_agent::jobs::worker", EVIL);
    }
    let text = sink.text();
    let lines: Vec<&str> = text.lines().collect();
    let [plain, evil] = lines[..] else { panic!("two lines: {text}") };
    let time = plain.strip_prefix(r#"{"timestamp":""#).expect("timestamp first").split('"').next().expect("time");
    assert!(time.len() == 24 && crate::wire::time::parse_rfc3339(time).is_some(), "{time}");
    assert!(plain.contains(r#","level":"info","target":"jobs::poller","message":"plain","thread":""#), "{plain}");
    let evil: serde_json::Value = serde_json::from_str(evil).expect("json");
    assert_eq!(evil["message"], EVIL);
    assert_eq!((&evil["job"], &evil["execution"], &evil["level"]), (&"job_1".into(), &"exec-1".into(), &"warn".into()));
}

#[test]
fn text_lines_have_their_fields_and_cannot_be_forged() {
    let (front, sink) = memory(LogFormat::Text);
    {
        let _ids = ids();
        record(&front, Level::Warn, "cronium_agent::jobs::worker", EVIL);
    }
    record(&front, Level::Info, "cronium_agent", "plain");
    let text = sink.text();
    let lines: Vec<&str> = text.lines().collect();
    let [evil, plain] = lines[..] else { panic!("two lines: {text}") };
    let (time, rest) = evil.split_at(24);
    assert!(crate::wire::time::parse_rfc3339(time).is_some(), "{evil}");
    assert!(rest.starts_with(" [WARN] (") && rest.contains(") jobs::worker: name \"x\"\\n2026-"), "{evil}");
    assert!(rest.ends_with("forged\\u{1b}[2K job=job_1 execution=exec-1"), "{evil}");
    assert!(plain.ends_with(" cronium_agent: plain"), "{plain}");
}

#[test]
fn a_line_for_the_journal_has_its_level_where_the_time_would_be() {
    let sink = Sink::new(Place::Memory(Vec::new()));
    let front = Front::new(LogFormat::Text, sink.clone(), Lead::Level);
    for level in [Level::Error, Level::Warn, Level::Info, Level::Debug] {
        record(&front, level, "cronium_agent", EVIL);
    }
    let text = sink.text();
    let lines: Vec<_> = text.lines().map(|line| line.split(" (").next().expect("a beginning")).collect();
    assert_eq!(lines, ["<3>[ERROR]", "<4>[WARN]", "<6>[INFO]", "<7>[DEBUG]"], "{text}");
}

#[test]
fn other_crates_are_heard_from_warn_upwards() {
    let (front, sink) = memory(LogFormat::Json);
    for target in ["ureq::run", "rustls::client", "tungstenite::handshake", "cronium_agentx"] {
        for level in [Level::Trace, Level::Debug, Level::Info] {
            record(&front, level, target, "authorization: Bearer hunter2");
        }
    }
    assert_eq!(sink.text(), "");
    record(&front, Level::Warn, "rustls::client", "bad record");
    record(&front, Level::Trace, "cronium_agent::api", "fine");
    assert_eq!(sink.text().lines().count(), 2);
}

#[test]
fn a_message_is_bounded() {
    for format in [LogFormat::Json, LogFormat::Text] {
        let (front, sink) = memory(format);
        record(&front, Level::Error, "cronium_agent", &"y".repeat(1_000_000));
        assert!(sink.text().len() < crate::limits::LOG_MESSAGE + 300);
        assert!(sink.text().contains("bytes left out]"));
    }
}

#[test]
fn a_value_whose_formatting_logs_or_panics_does_no_harm() {
    struct Rude<'a>(&'a Front, bool);
    impl fmt::Display for Rude<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            record(self.0, Level::Info, "cronium_agent", "from inside");
            assert!(!self.1, "as planned");
            f.write_str("shown")
        }
    }
    let (front, sink) = memory(LogFormat::Text);
    record(&front, Level::Info, "cronium_agent", &Rude(&front, false).to_string());
    for panics in [false, true] {
        let logged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let rude = Rude(&front, panics);
            front.log(
                &Record::builder().level(Level::Info).target("cronium_agent").args(format_args!("{rude}")).build(),
            );
        }));
        assert_eq!(logged.is_err(), panics);
    }
    record(&front, Level::Info, "cronium_agent", "still here");
    assert!(sink.text().ends_with("cronium_agent: still here\n"));
    assert_eq!(sink.text().matches("from inside").count(), 3);
}

#[test]
fn the_global_log_levels_panics_and_a_second_init() {
    const MARK: &str = "CRONIUM_TEST_LOG";
    if std::env::var_os(MARK).is_some() {
        return in_a_process_of_its_own();
    }
    let name = "telemetry::tests::the_global_log_levels_panics_and_a_second_init";
    let run = std::process::Command::new(std::env::current_exe().expect("self"))
        .args(["--exact", name, "--nocapture"])
        .env(MARK, "1")
        .output()
        .expect("run");
    let out = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{out}{}", String::from_utf8_lossy(&run.stderr));
    // libtest may begin its own line on the same stdout just before ours.
    let lines: Vec<serde_json::Value> = out
        .lines()
        .filter_map(|line| line.find("{\"timestamp\"").map(|at| &line[at..]))
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let messages: Vec<&str> = lines.iter().filter_map(|line| line["message"].as_str()).collect();
    let [first, second, panic, caught] = messages[..] else { panic!("four lines: {out}") };
    assert_eq!((first, second), ("info is shown", "now debug too"));
    assert!(panic.starts_with("panic in thread t-hook at src/telemetry/tests.rs:"), "{panic}");
    assert!(panic.ends_with(": as planned"), "{panic}");
    assert_eq!(caught, "thread t-hook panicked: as planned");
    assert_eq!((&lines[2]["job"], &lines[2]["thread"]), (&"job_1".into(), &"t-hook".into()));
    assert_eq!(String::from_utf8_lossy(&run.stderr), "", "the log is the only voice");
}

fn in_a_process_of_its_own() {
    let config = Logging { level: LevelFilter::Error, format: LogFormat::Json, ..Logging::default() };
    let guard = init(&config, Some(LevelFilter::Info)).expect("init");
    log::debug!("debug is not shown");
    log::info!("info is shown");
    set_level(LevelFilter::Debug);
    log::debug!("now debug too");
    let thread = crate::os::threads::spawn("t-hook", || {
        let _ids = ids();
        panic!("as planned");
    });
    thread.expect("spawn").join_within(std::time::Duration::from_secs(5));
    assert!(matches!(init(&config, None), Err(Error::Again)));
    guard.reopen();
}

#[test]
fn no_line_holds_a_secret_of_the_agent_or_of_the_threads_job_also_where_it_is_cut() {
    let redactor = Redactor::default();
    redactor.add(&[Secret::new("s3cret-value")]);
    for format in [LogFormat::Json, LogFormat::Text] {
        let (front, sink) = memory(format);
        let long = "x".repeat(crate::limits::LOG_MESSAGE - 8);
        {
            let _ids = context(&Id::parse("job_1").expect("id"), &Id::parse("exec-1").expect("id"), &redactor);
            record(&front, Level::Warn, "cronium_agent", "the engine said s3cret-value, czNjcmV0LXZhbHVl");
            record(&front, Level::Warn, "cronium_agent", &format!("{long}s3cret-value"));
        }
        let text = sink.text();
        assert!(text.contains("said [redacted], [redacted]") && !text.contains("s3cret"), "{}", &text[..300]);
    }
}
