//! The programs of `remote`, run by the shells of this machine.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

const NONCE: &str = "00ff";
const LONG: Duration = Duration::from_secs(20);

/// A folder that serves as `tempDir`, and what is done to a job in it.
struct Host {
    place: Place,
    execution: String,
    /// The login's shells: dash, bash and, where it is there, busybox.
    shell: Vec<&'static str>,
    _scratch: crate::os::scratch::Scratch,
}

impl Host {
    fn all(pty: bool) -> Vec<Self> {
        let shells = [vec!["/bin/sh"], vec!["bash", "--posix"], vec!["busybox", "sh"]];
        let there = shells.into_iter().filter(|shell| {
            Command::new(shell[0])
                .args(&shell[1..])
                .args(["-c", ":"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success())
        });
        there
            .map(|shell| {
                let word = crate::os::random::hex(8);
                let scratch = crate::os::scratch::Scratch::new();
                let temp_dir = scratch.join(format!("a place {word}'s"));
                let place = Place {
                    temp_dir: temp_dir.to_str().expect("text").to_owned(),
                    name: format!("exec-{word}"),
                    shell: "/bin/bash".to_owned(),
                    pty,
                };
                Self { place, execution: format!("exec-{word}"), shell, _scratch: scratch }
            })
            .collect()
    }

    fn run(&self, program: &[u8]) -> Run {
        let mut child = Command::new(self.shell[0])
            .args(&self.shell[1..])
            .arg("-s")
            .env("LANG", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut stdin = child.stdin.take().expect("stdin");
        stdin.write_all(program).expect("write");
        let (out, err) = (child.stdout.take().expect("out"), child.stderr.take().expect("err"));
        Run { child, stdin: Some(stdin), out: BufReader::new(out), err: BufReader::new(err) }
    }

    fn start(&self, text: &str, variables: &[(&str, &str)]) -> Run {
        let script = Script { language: Language::Bash, content: text.to_owned(), working_directory: String::new() };
        let mut variables: Vec<_> = variables.iter().map(|(n, v)| ((*n).to_owned(), Secret::new(*v))).collect();
        variables.push(("CRONIUM_EXECUTION_ID".to_owned(), Secret::new(self.execution.as_str())));
        self.begin(&script, &variables)
    }

    fn begin(&self, script: &Script, variables: &[(String, Secret)]) -> Run {
        let program = start(&self.place, &self.execution, script, (variables, None), NONCE).expect("a program");
        self.run(&[place::begin(&self.place, NONCE), program].concat())
    }

    fn collect(&self, taken: [u64; 2], kill: bool) -> (String, String, String) {
        let mut run = self.run(&collect(&self.place, &self.execution, NONCE, taken, kill));
        let status = run.word();
        assert_eq!(run.line(), status, "a word comes on both streams");
        run.followed();
        run.say("done\n");
        let (out, err) = run.rest();
        assert!(!std::path::Path::new(&self.place.directory()).exists());
        (status, out, err)
    }
}

struct Run {
    child: Child,
    stdin: Option<ChildStdin>,
    out: BufReader<std::process::ChildStdout>,
    err: BufReader<std::process::ChildStderr>,
}

impl Run {
    fn line_of_err(&mut self) -> String {
        let mut line = String::new();
        self.err.read_line(&mut line).expect("a line");
        line
    }

    /// The first line on stderr after the shell got ready, which it says on both streams.
    fn word(&mut self) -> String {
        let (out, err) = (self.line(), self.line_of_err());
        assert!(out.starts_with("cronium ready 00ff 1 /"), "{out}");
        assert!(err.starts_with("cronium ready 00ff 2 /"), "{err}");
        self.line_of_err()
    }

    fn started(&mut self) {
        assert_eq!(self.word(), "cronium follow 00ff 2\n");
        assert_eq!(self.line(), "cronium follow 00ff 1\n");
    }

    fn followed(&mut self) {
        assert_eq!(
            (self.line().as_str(), self.line_of_err().as_str()),
            ("cronium follow 00ff 1\n", "cronium follow 00ff 2\n")
        );
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a line");
        line
    }

    fn say(&mut self, command: &str) {
        self.stdin.as_mut().expect("stdin").write_all(command.as_bytes()).expect("write");
    }

    /// Reads both streams to their end.
    fn rest(mut self) -> (String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.out.read_to_string(&mut out).expect("out");
        self.err.read_to_string(&mut err).expect("err");
        self.child.wait().expect("an end");
        (out, err)
    }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_script_runs_and_all_of_it_is_collected() {
    for host in Host::all(false) {
        let text =
            "echo \"$A $i\"; echo again >/dev/stderr; echo and again >/dev/stderr; pwd; umask; printf end; exit 3";
        let mut run = host.start(text, &[("A", "it's \"$x\"\nü"), ("i", "mine"), ("a-b", "odd")]);
        run.started();
        let (out, err) = run.rest();
        let (status, more, more_err) = host.collect([out.len() as u64, err.len() as u64], false);
        let directory = host.place.directory();
        assert_eq!(out + &more, format!("it's \"$x\"\nü mine\n{directory}/work\n0022\nend"), "{:?}", host.shell);
        assert_eq!(err + &more_err, "again\nand again\n");
        assert!(
            status.starts_with("cronium status 00ff out=") && status.contains(" code=3 kept=0,0 cpu=0m0"),
            "{status}"
        );
        assert!(status.contains(" left=0 ") && status.contains("boot=same"), "{status}");
    }
}

#[test]
fn a_follower_goes_on_where_another_stopped_and_the_script_noticed_nothing() {
    for host in Host::all(false) {
        let mut run = host.start(
            "for n in 1 2 3; do echo $n; until [ -p go ]; do sleep 0.05; done; read x <go; done; echo over",
            &[],
        );
        run.started();
        let fifo = format!("{}/work/go", host.place.directory());
        assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
        let first = run.line();
        run.child.kill().expect("kill");
        drop(run);
        let mut again = host.run(&follow(&host.place, &host.execution, NONCE, [first.len() as u64, 0], true));
        again.started();
        until("the script's end", || {
            let _ = std::fs::OpenOptions::new()
                .write(true)
                .custom_flags_nonblocking()
                .open(&fifo)
                .map(|mut f| f.write_all(b"x\n"));
            std::path::Path::new(&format!("{}/status", host.place.directory())).exists()
        });
        let (out, _) = again.rest();
        let taken = (first.len() + out.len()) as u64;
        let (_, more, _) = host.collect([taken, 0], false);
        let all = first + &out + &more;
        let numbers: Vec<_> = all.lines().filter(|line| line.len() == 1).collect();
        assert_eq!((numbers, all.ends_with("over\n")), (vec!["1", "2", "3"], true), "{all}");
    }
}

/// `O_NONBLOCK`, so that a pipe without a reader is an error and no wait.
trait NonBlocking {
    fn custom_flags_nonblocking(&mut self) -> &mut Self;
}

impl NonBlocking for std::fs::OpenOptions {
    fn custom_flags_nonblocking(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        self.custom_flags(0o4000)
    }
}

#[test]
fn term_reaches_the_group_and_kill_everybody() {
    for host in Host::all(false) {
        let mut run = host.start(
            "trap 'echo got TERM' TERM\nsetsid sh -c 'trap \"\" TERM; sleep 300' &\nsh -c 'trap \"\" TERM; sleep 300' &\n\
             echo ready; while :; do sleep 0.1; done",
            &[],
        );
        run.started();
        assert_eq!(run.line(), "ready\n");
        run.say("TERM\n");
        assert_eq!(run.line(), "got TERM\n");
        run.say("KILL\n");
        let (out, err) = run.rest();
        let taken = ["ready\ngot TERM\n".len() + out.len(), err.len()].map(|n| n as u64);
        let (status, _, _) = host.collect(taken, true);
        assert!(status.contains("left=0") && status.contains("code=137"), "{status}");
        let left = Command::new("grep")
            .args(["-ls", &format!("CRONIUM_EXECUTION_ID={}", host.execution)])
            .args(environs())
            .output()
            .expect("grep");
        assert_eq!(String::from_utf8_lossy(&left.stdout), "", "{:?} {status}", host.shell);
    }
}

fn environs() -> Vec<std::path::PathBuf> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path().join("environ"));
    processes.filter(|path| path.exists()).collect()
}

#[test]
fn what_is_left_in_the_background_does_not_hold_the_job_up() {
    for host in Host::all(false) {
        let begun = Instant::now();
        let mut run = host.start("sleep 30 & echo $!; exit 0", &[]);
        run.started();
        let pid = run.line();
        let (_, err) = run.rest();
        let (status, ..) = host.collect([pid.len() as u64, err.len() as u64], false);
        assert!(begun.elapsed() < Duration::from_secs(15) && status.contains("code=0"), "{status}");
        assert!(Command::new("kill").arg(pid.trim()).status().expect("kill").success(), "it was left alone");
    }
}

#[test]
fn what_cannot_be_killed_is_counted_after_so_many_looks() {
    for host in Host::all(false) {
        let mut run = host.start("sleep 60 & echo $!", &[]);
        run.started();
        let pid = run.line();
        run.rest();
        let looks = format!("{}/looks", host.place.directory());
        // A shell in which nothing can be killed and no time passes.
        let odd = format!("kill() {{ :; }}; sleep() {{ echo >>{}; }}\n", quote(&looks));
        let program = collect(&host.place, &host.execution, NONCE, [pid.len() as u64, 0], true);
        // They would be taken away by what comes first.
        let begins = place::begin(&host.place, NONCE).len();
        let mut run = host.run(&[&program[..begins], odd.as_bytes(), &program[begins..]].concat());
        let status = run.word();
        run.stdin = None;
        run.rest();
        let count = std::fs::read_to_string(&looks).expect("looks").lines().count();
        assert!(Command::new("kill").args(["-s", "KILL", pid.trim()]).status().expect("kill").success());
        assert_eq!((count, status.contains(" left=1 ")), (limits::SSH_LEFTOVERS as usize, true), "{status}");
    }
}

#[test]
fn without_a_word_everything_stays_for_the_next_that_asks() {
    for host in Host::all(false) {
        let mut run = host.start("echo out; echo err >&2; exit 7", &[]);
        run.started();
        run.rest();
        let mut first = host.run(&collect(&host.place, &host.execution, NONCE, [0, 0], false));
        // Another look may find another number of free blocks.
        let told =
            |status: String| status.split(' ').filter(|word| !word.starts_with("free=")).collect::<Vec<_>>().join(" ");
        let before = told(first.word());
        first.line();
        first.followed();
        // The agent is killed.
        first.stdin = None;
        assert_eq!(first.rest(), ("out\n".to_owned(), "err\n".to_owned()));
        let (after, out, err) = host.collect([0, 0], false);
        assert_eq!((told(after), out.as_str(), err.as_str()), (before, "out\n", "err\n"), "{:?}", host.shell);
        // What is gone already is no failure.
        let mut gone = host.run(&remove(&host.place, std::slice::from_ref(&host.place.name), NONCE));
        assert_eq!(gone.child.wait().expect("an end").code(), Some(PROVEN));
    }
}

#[test]
fn a_terminal_can_be_had() {
    for host in Host::all(true) {
        let mut run = host.start("test -t 1 && echo yes; echo no >&2; exit 4", &[]);
        run.started();
        let (out, _) = run.rest();
        let (status, more, _) = host.collect([out.len() as u64, 0], false);
        assert_eq!(out + &more, "yes\r\nno\r\n");
        assert!(status.contains("code=4"), "{status}");
    }
}

#[test]
fn what_is_not_there_is_told() {
    for mut host in Host::all(false) {
        let mut run = host.run(&follow(&host.place, &host.execution, NONCE, [0, 0], false));
        assert_eq!(run.word(), "cronium vanished 00ff \n");
        let mut run = host.run(&follow(&host.place, &host.execution, NONCE, [0, 0], true));
        assert_eq!(run.word(), "cronium unstarted 00ff \n");
        // Now a start that comes late finds the folder taken.
        let mut run = host.start("echo never", &[]);
        let said = run.word();
        assert!(said.starts_with("cronium setup 00ff: cannot make a folder for the job:"), "{said}");
        host.place.shell = "/nowhere/bash".to_owned();
        host.place.name.push('x');
        let script = Script { language: Language::Node, content: String::new(), working_directory: String::new() };
        let program = start(&host.place, &host.execution, &script, (&[], None), NONCE).expect("a program");
        let without = b"command() { return 1; }\n".to_vec();
        let mut run = host.run(&[place::begin(&host.place, NONCE), without, program].concat());
        let said = run.word();
        assert!(said.contains("node (or nodejs) not found on its PATH"), "{said}");
        run.rest();
        assert!(!std::path::Path::new(&host.place.directory()).exists(), "a folder is left behind");
    }
}

#[test]
fn a_reboot_is_told_from_a_script_that_has_ended() {
    for host in Host::all(false) {
        let mut run = host.start("sleep 30", &[]);
        run.started();
        let directory = host.place.directory();
        std::fs::write(format!("{directory}/boot"), "another\n").expect("write");
        let mut again = host.run(&follow(&host.place, &host.execution, NONCE, [0, 0], false));
        assert_eq!(again.word(), "cronium rebooted 00ff \n");
        run.say("KILL\n");
        run.rest();
    }
}

#[test]
fn half_a_start_never_runs() {
    let host = Host::all(false).remove(0);
    let script = Script { language: Language::Bash, content: "touch ran".to_owned(), working_directory: String::new() };
    let whole = start(&host.place, &host.execution, &script, (&[], None), NONCE).expect("a program");
    for cut in (0..whole.len() - 2).step_by(97).chain([whole.len() - 3]) {
        let mut run = host.run(&[&place::begin(&host.place, NONCE), &whole[..cut]].concat());
        run.stdin = None;
        run.rest();
        assert!(!std::path::Path::new(&host.place.directory()).exists(), "after {cut} bytes");
    }
}

#[test]
fn a_start_that_comes_late_finds_that_a_follower_has_claimed_it() {
    for host in Host::all(false) {
        let script =
            Script { language: Language::Bash, content: "echo ran".to_owned(), working_directory: String::new() };
        let program = start(&host.place, &host.execution, &script, (&[], None), NONCE).expect("a program");
        // It has its folder, and then takes longer than a follower waits.
        let slow = format!("mkfifo() {{ sleep {}; command mkfifo \"$@\"; }}\n", limits::SSH_CLAIM / 10 + 3);
        let mut late = host.run(&[place::begin(&host.place, NONCE), slow.into_bytes(), program].concat());
        until("the folder", || std::path::Path::new(&host.place.directory()).exists());
        let mut claims = host.run(&follow(&host.place, &host.execution, NONCE, [0, 0], true));
        assert_eq!(claims.word(), "cronium unstarted 00ff \n", "{:?}", host.shell);
        assert_eq!(late.word(), "cronium unstarted 00ff \n", "{:?}", host.shell);
        assert!(!std::path::Path::new(&format!("{}/pid", host.place.directory())).exists());
    }
}

#[test]
fn a_start_of_which_nothing_shows_whether_it_began_is_called_lost() {
    let host = Host::all(false).remove(0);
    let directory = host.place.directory();
    std::fs::create_dir_all(&directory).expect("folder");
    std::fs::write(format!("{directory}/begun"), "").expect("write");
    let begun = Instant::now();
    let mut run = host.run(&follow(&host.place, &host.execution, NONCE, [0, 0], true));
    assert_eq!(run.word(), "cronium lost 00ff \n");
    assert!(begun.elapsed() >= Duration::from_secs(u64::from(limits::SSH_PID) / 10), "{:?}", begun.elapsed());
}

#[test]
fn a_script_that_runs_has_no_end_to_collect_and_its_folder_cannot_be_removed() {
    for host in Host::all(false) {
        let mut run = host.start("echo begun; sleep 20", &[]);
        run.started();
        run.line();
        let mut asks = host.run(&collect(&host.place, &host.execution, NONCE, [0, 0], false));
        assert_eq!(asks.word(), "cronium running 00ff \n", "{:?}", host.shell);
        let mut removes = host.run(&remove(&host.place, std::slice::from_ref(&host.place.name), NONCE));
        assert_eq!(removes.child.wait().expect("an end").code(), Some(SAID), "{:?}", host.shell);
        assert!(std::path::Path::new(&host.place.directory()).exists());
        let (status, ..) = host.collect([6, 0], true);
        assert!(status.contains(" killed=1 ") && status.contains("code=137"), "{status}");
    }
}

#[test]
fn processes_of_another_job_whose_name_goes_on_are_left_alone() {
    for host in Host::all(false) {
        let mut other = Command::new("sleep")
            .arg("60")
            .env("CRONIUM_EXECUTION_ID", format!("{}0", host.execution))
            .spawn()
            .expect("sleep");
        let mut run = host.start("sleep 60 & exit 0", &[]);
        run.started();
        run.rest();
        let (status, ..) = host.collect([0, 0], true);
        assert!(status.contains(" left=0 "), "{status}");
        assert!(other.try_wait().expect("wait").is_none(), "{:?}: a process of another job was killed", host.shell);
        other.kill().expect("kill");
        other.wait().expect("wait");
    }
}

/// `cd -` would lead to the folder before.
#[test]
fn a_working_directory_may_have_any_name() {
    for name in ["-", "-P", "~", "$HOME"] {
        for host in Host::all(false) {
            let content = "pwd".to_owned();
            let script = Script { language: Language::Bash, content, working_directory: name.to_owned() };
            let mut run = host.begin(&script, &[]);
            run.started();
            let (out, err) = run.rest();
            let (_, more, _) = host.collect([out.len() as u64, err.len() as u64], false);
            assert!((out.clone() + &more).ends_with(&format!("/work/{name}\n")), "{:?} {out:?}{more:?}", host.shell);
        }
    }
}

#[test]
fn words_of_the_run_file_are_told_and_are_not_in_the_output() {
    for host in Host::all(false) {
        let content = "echo ran".to_owned();
        let script = Script { language: Language::Bash, content, working_directory: "/nowhere/at all".to_owned() };
        let mut run = host.begin(&script, &[]);
        run.started();
        let (out, err) = run.rest();
        let (status, more, more_err) = host.collect([out.len() as u64, err.len() as u64], false);
        assert_eq!((out + &more, err + &more_err), (String::new(), String::new()), "{:?}", host.shell);
        assert!(
            status.contains(" code=125 ") && status.contains(" why=cannot enter the working directory"),
            "{status}"
        );
    }
}
