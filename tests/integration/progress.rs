//! Lines that are long in coming: prompts, dots and progress bars are live before they end, and what ends takes their place.

use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cronium_dev_backend::{DevBackend, JobLines, Line, LogSocket};

use crate::harness::{
    Agent, Folder, LONG, binary, eventually, finished, job, require_engine, shared, stdout, with_socket,
};
use crate::ssh_multi::{NAMES, Three};
use crate::ssh_rig::Rig;

/// Says when it has printed something that is no line yet, and waits for a file of this name before it goes on.
fn asks(question: &str, until: &str) -> String {
    format!(
        "echo first; printf '{question} %s' $(date +%s%N); echo beside >&2; \
         while [ ! -e {until} ]; do sleep 0.1; done; echo ' yes'; echo last"
    )
}

/// What is shown of lines that have not ended, once it is so much as wanted.
fn shown(backend: &DevBackend, id: &str, wanted: impl Fn(&[Line]) -> bool) -> Vec<Line> {
    let mut lines = Vec::new();
    eventually("an unfinished line is shown", || {
        lines = backend.partial_lines(id);
        wanted(&lines)
    });
    lines
}

/// All lines came once, whatever was shown of them before, and nothing is left unfinished.
fn all_came(backend: &DevBackend, id: &str) -> JobLines {
    let sums = backend.line_sums(id).expect("lines");
    assert_eq!((sums.gaps(), sums.duplicates, sums.out_of_order), (0, 0, 0));
    assert_eq!((sums.first, sums.last), (1, sums.count), "numbers without a gap");
    assert_eq!(backend.partial_lines(id), Vec::new());
    sums
}

fn numbered(backend: &DevBackend, id: &str, stream: &str) -> Vec<(u64, String)> {
    let lines = backend.lines(id).into_iter().filter(|line| line.stream == stream);
    lines.map(|line| (line.sequence, line.text)).collect()
}

#[test]
fn a_line_that_does_not_end_is_shown_and_its_end_takes_its_place() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let id =
        backend.enqueue(job("BASH", "echo first; printf 'Go on? %s' $(date +%s%N); sleep 3; echo ' yes'; echo last"));
    let id = id.expect("queued");
    let question = shown(&backend, &id, |lines| !lines.is_empty()).remove(0);
    let printed: i128 = question.text.strip_prefix("Go on? ").expect("the question").parse().expect("a time");
    let late = Duration::from_nanos(u64::try_from(question.received - printed).expect("after it was printed"));
    eprintln!("an unfinished line was live {late:.2?} after it was printed");
    assert!(late < Duration::from_millis(1300), "{late:?}");
    assert_eq!((question.sequence, question.stream), (2, "stdout"));
    finished(&backend, &id);
    let lines = numbered(&backend, &id, "stdout");
    assert_eq!(lines, [(1, "first".into()), (2, format!("{} yes", question.text)), (3, "last".into())]);
    assert_eq!(all_came(&backend, &id).replaced, 1);
    agent.stop();
}

#[test]
fn dots_are_shown_as_they_come_and_other_lines_pass_them() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    let script = "for n in $(seq 1 16); do printf .; [ $n != 8 ] || echo beside >&2; sleep 0.2; done; echo; echo end";
    let id = backend.enqueue(job("BASH", script)).expect("queued");
    let few = shown(&backend, &id, |lines| !lines.is_empty()).remove(0);
    let more = shown(&backend, &id, |lines| lines.first().is_some_and(|line| line.text.len() >= few.text.len() + 3));
    assert_eq!((few.sequence, more[0].sequence), (1, 1));
    assert!([&few, &more[0]].iter().all(|line| line.text.bytes().all(|b| b == b'.')), "{few:?} {more:?}");
    let row = finished(&backend, &id);
    assert_eq!(numbered(&backend, &id, "stdout"), [(1, ".".repeat(16)), (3, "end".into())]);
    assert_eq!(numbered(&backend, &id, "stderr"), [(2, "beside".into())]);
    let sums = all_came(&backend, &id);
    // 3.2 s of dots, shown twice a second at most.
    assert!((3..=8).contains(&sums.partials), "{} times", sums.partials);
    assert_eq!(stdout(&row), format!("{}\nend\n", ".".repeat(16)));
    agent.stop();
}

#[test]
fn of_a_bar_that_is_drawn_over_and_over_the_last_state_is_kept() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[("jobs.maxOutput", "64KiB")]);
    // 4 MB of states in some seconds, none of which is a line.
    let script = "perl -e '$| = 1; for (1..200_000) { printf \"\\r%9d of 200000\", $_; select(undef, undef, undef, 0.01) \
                  unless $_ % 1000 } print \"\\ndone\\n\"'";
    let id = backend.enqueue(job("BASH", script)).expect("queued");
    let state = shown(&backend, &id, |lines| !lines.is_empty()).remove(0);
    let number: String = state.text.trim_start().chars().take_while(char::is_ascii_digit).collect();
    assert!(state.text.len() <= 19 && !number.is_empty(), "one state of many, or its rest: {:?}", state.text);
    let row = finished(&backend, &id);
    let lines = numbered(&backend, &id, "stdout");
    let left_out = 200_000 * 20 - 19;
    assert_eq!(
        lines,
        [(1, format!("[…{left_out} bytes of this line were left out]    200000 of 200000")), (2, "done".into())]
    );
    all_came(&backend, &id);
    // The result: its beginning, the mark between two states, and its end.
    let (head, tail) = stdout(&row).split_once("\n[... ").expect("a mark");
    let (_, tail) = tail.split_once(" left out ...]\n").expect("a whole mark");
    let is_state = |text: &str| text.len() == 19 && text.ends_with(" of 200000");
    assert!(head.split('\r').skip(1).all(is_state), "{:?}", &head[head.len() - 40..]);
    assert!(tail.ends_with("\r   200000 of 200000\ndone\n"), "{:?}", &tail[tail.len() - 60..]);
    assert!(is_state(tail.split('\r').next().expect("a state")), "{:?}", &tail[..40]);
    let peak = agent.memory_kb("VmHWM");
    assert!(peak < 32 * 1024, "{peak} kB");
    agent.stop();
}

#[test]
fn the_deployed_dialect_gets_a_line_when_it_has_ended() {
    let _machine = shared();
    let backend = with_socket();
    let mut settings = backend.settings();
    settings.log_socket = LogSocket::Lines;
    backend.set_settings(settings);
    let agent = Agent::start(&backend, &[]);
    let id = backend.enqueue(job("BASH", "printf half; echo beside >&2; sleep 2.5; echo ' and half'")).expect("queued");
    finished(&backend, &id);
    let sums = all_came(&backend, &id);
    assert_eq!((sums.partials, sums.replaced), (0, 0));
    // No number was kept for it: they are in the order in which lines came.
    assert_eq!(numbered(&backend, &id, "stderr"), [(1, "beside".into())]);
    assert_eq!(numbered(&backend, &id, "stdout"), [(2, "half and half".into())]);
    agent.stop();
}

#[test]
fn an_unfinished_line_is_shown_again_after_a_lost_connection() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    let script = "printf one; sleep 2; printf ' two'; sleep 3; echo ' three'; echo end";
    let id = backend.enqueue(job("BASH", script)).expect("queued");
    shown(&backend, &id, |lines| lines.first().is_some_and(|line| line.text == "one"));
    backend.drop_sockets();
    let again = shown(&backend, &id, |lines| lines.first().is_some_and(|line| line.text == "one two"));
    assert_eq!(again[0].sequence, 1);
    finished(&backend, &id);
    assert_eq!(numbered(&backend, &id, "stdout"), [(1, "one two three".into()), (2, "end".into())]);
    let sums = backend.line_sums(&id).expect("lines");
    assert_eq!((sums.gaps(), sums.out_of_order, sums.replaced), (0, 0, 1));
    agent.stop();
}

/// A file appears: whatever waits for it goes on.
fn answer(path: &std::path::Path) {
    std::fs::write(path, "").expect("a file");
}

/// The next agent took the unfinished line over: it has ended under its old number, and no other line had that.
fn went_on(backend: &DevBackend, id: &str, before: &Line, prefix: &str) {
    let lines = backend.lines(id);
    let ended: Vec<&Line> = lines.iter().filter(|line| line.text.starts_with(&before.text)).collect();
    let [whole] = ended.as_slice() else { panic!("{before:?} in {lines:#?}") };
    let want = (before.sequence, format!("{} yes", before.text));
    assert_eq!((whole.sequence, whole.text.clone()), want, "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.text == format!("{prefix}last")).count(), 1, "{lines:#?}");
}

/// Until the page of the journal, which is written every two seconds, has the numbers of this many unfinished lines.
fn noted(agent: &Agent, lines: usize) {
    let folder = agent.state().join("jobs");
    // Not what is being written beside them: it is no page yet.
    let is_page = |path: &std::path::PathBuf| path.extension().is_some_and(|ending| ending == "job");
    let pages = || std::fs::read_dir(&folder).expect("pages").flatten().map(|entry| entry.path()).filter(is_page);
    let open = |text: &str| text.split("\"open\":[").skip(1).filter(|rest| !rest.starts_with("0,0]")).count();
    eventually("the journal has the numbers", || {
        pages().any(|page| std::fs::read(page).is_ok_and(|text| open(&String::from_utf8_lossy(&text)) == lines))
    });
}

#[test]
fn the_next_agent_ends_a_line_that_the_killed_one_had_shown() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    let script = "echo first; printf 'Go on?'; echo beside >&2; sleep 8; echo ' yes'; echo last";
    let id = backend.enqueue(job("BASH", script)).expect("queued");
    let before = shown(&backend, &id, |lines| !lines.is_empty()).remove(0);
    noted(&agent, 1);
    let agent = agent.again(&backend, &[]);
    finished(&backend, &id);
    went_on(&backend, &id, &before, "");
    all_came(&backend, &id);
    agent.stop();
}

#[test]
fn the_next_agent_ends_a_line_of_a_server_that_the_killed_one_had_shown() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let go = rig.sshd.path("home").join("go");
    let id = rig.queue(rig.job("BASH", &asks("Go on?", go.to_str().expect("text"))));
    let before = shown(&rig.backend, &id, |lines| !lines.is_empty()).remove(0);
    noted(&rig.agent, 1);
    let Rig { agent, backend, sshd, known_hosts } = rig;
    let temp_dir = sshd.temp_dir();
    let settings = [
        ("ssh.security.knownHostsFile", known_hosts.to_str().expect("text")),
        ("ssh.execution.tempDir", temp_dir.to_str().expect("text")),
    ];
    let agent = agent.again(&backend, &settings);
    eventually("it goes on", || backend.lines(&id).iter().any(|line| line.text.contains("going on with the script")));
    answer(&go);
    finished(&backend, &id);
    went_on(&backend, &id, &before, "");
    all_came(&backend, &id);
    Rig { agent, backend, sshd, known_hosts }.stop();
}

#[test]
fn each_of_several_servers_has_its_unfinished_line_also_for_the_next_agent() {
    let _machine = shared();
    let three = Three::start(&[]);
    let id = three.backend.enqueue(three.job(&asks("Go on?", "\"$HOME/go\""))).expect("queued");
    let before = shown(&three.backend, &id, |lines| lines.len() == NAMES.len());
    for name in NAMES {
        assert!(before.iter().any(|line| line.text.starts_with(&format!("[{name}] Go on? "))), "{name} in {before:?}");
    }
    noted(&three.agent, NAMES.len());
    let three = three.again(&[]);
    let goes_on = |line: &Line| line.text.ends_with("going on with the script");
    eventually("all go on", || three.backend.lines(&id).iter().filter(|line| goes_on(line)).count() == NAMES.len());
    three.servers.iter().for_each(|sshd| answer(&sshd.path("home").join("go")));
    finished(&three.backend, &id);
    for (name, line) in NAMES.iter().flat_map(|name| before.iter().map(move |line| (name, line))) {
        if line.text.starts_with(&format!("[{name}] ")) {
            went_on(&three.backend, &id, line, &format!("[{name}] "));
        }
    }
    assert_eq!(three.backend.partial_lines(&id), Vec::new());
    three.stop();
}

#[test]
fn exec_shows_a_line_before_it_ends() {
    let _machine = shared();
    require_engine();
    let folder = Folder::new();
    let script = folder.path().join("a.sh");
    std::fs::write(&script, "printf 'Go on? '; printf 'err ' >&2; sleep 5; echo yes").expect("written");
    let mut child = binary()
        .args(["exec", script.to_str().expect("text")])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    let (mut out, mut bytes) = (child.stdout.take().expect("stdout"), [0; 7]);
    out.read_exact(&mut bytes).expect("bytes");
    let begun = Instant::now();
    assert_eq!(&bytes, b"Go on? ");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("the rest");
    let waited = begun.elapsed();
    assert_eq!(rest, "yes\n");
    assert!(waited > Duration::from_secs(4) && waited < LONG, "it came {waited:?} before the line's end");
    assert_eq!(child.wait_with_output().expect("its end").status.code(), Some(0));
}
