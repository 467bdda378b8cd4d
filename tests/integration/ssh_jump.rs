//! Jobs on a server behind a jump host: a server that listens inside of the jump host's network alone.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use cronium_dev_backend::{JobRow, Via};
use serde_json::{Value, json};

use crate::harness::{Folder, alone, binary, eventually, finish, finished, report, shared, stderr, stdout};
use crate::ssh::{all_numbered, numbered};
use crate::ssh_faults::{FOUR_SECONDS, TWO_SECONDS, worker_was_held};
use crate::ssh_rig::{NAME, Rig, details, has_words, server_job};
use crate::sshd::{Options, Sshd, list};

const JUMP: &str = "bastion";

// The agent and its server end before the network in which the server is.
struct Behind {
    rig: Rig,
    jump: Sshd,
    /// Where jobs have their folders, for each login another one.
    place: Folder,
}

impl Behind {
    fn start(settings: &[(&str, &str)]) -> Self {
        Self::with(&Options::default(), &Options::default(), settings)
    }

    fn with(jump: &Options<'_>, server: &Options<'_>, settings: &[(&str, &str)]) -> Self {
        let jump = Sshd::start(&Options { network: true, ..jump.clone() });
        let sshd = Sshd::start(&Options { inside: Some(inside(&jump)), ..server.clone() });
        let known = jump.known_hosts() + &sshd.known_hosts();
        let place = Folder::new();
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o1777)).expect("a mode");
        let temp_dir = place.path().join("{uid}").display().to_string();
        let mut all = vec![("ssh.execution.tempDir", temp_dir.as_str())];
        all.extend_from_slice(settings);
        Self { rig: Rig::knowing(sshd, &known, &all), jump, place }
    }

    /// A second server there.
    fn another(&self) -> Sshd {
        let sshd = Sshd::start(&Options { inside: Some(inside(&self.jump)), ..Options::default() });
        let known = std::fs::read_to_string(&self.rig.known_hosts).expect("known hosts");
        std::fs::write(&self.rig.known_hosts, known + &sshd.known_hosts()).expect("known hosts");
        sshd
    }

    fn details(&self, sshd: &Sshd, name: &str) -> Value {
        let mut all = details(sshd, name);
        all["jump"] = details(&self.jump, JUMP);
        all
    }

    fn job(&self, script: &str) -> Value {
        server_job(&self.details(&self.rig.sshd, NAME), "BASH", script)
    }

    fn bash(&self, script: &str) -> JobRow {
        finish(&self.rig.backend, self.job(script))
    }

    /// The breaker's figure for each server that has one: 0 closed, 1 half-open, 2 open.
    fn breakers(&self) -> Vec<(String, String)> {
        let page = self.rig.agent.get("/metrics").1;
        let lines = page.lines().filter_map(|line| line.strip_prefix("cronium_ssh_breaker_state{server=\""));
        let pairs = lines.filter_map(|line| line.split_once("\"} "));
        pairs.map(|(server, state)| (server.to_owned(), state.to_owned())).collect()
    }

    fn breaker_of(&self, sshd: &Sshd) -> Option<String> {
        let begins = format!("{}:{}", sshd.host, sshd.port);
        self.breakers().into_iter().find(|(server, _)| server.starts_with(&begins)).map(|(_, state)| state)
    }

    fn stop(self) {
        self.rig.stop();
        eventually("the connections are closed", || self.jump.open_connections() == 0);
        let left: Vec<_> = list(self.place.path()).iter().flat_map(|login| list(login)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The namespace of a jump host.
fn inside(jump: &Sshd) -> &str {
    &jump.network.as_ref().expect("a network").name
}

/// Prints numbered lines on both streams.
fn counting(count: u32, pause: f32) -> String {
    format!("for i in $(seq 1 {count}); do echo line $i; echo err $i >&2; sleep {pause}; done; exit 7")
}

/// Asserts that each line of [`counting`] came once, live and in the result.
fn counted(rig: &Rig, row: &JobRow, count: u32) {
    let text = |word: &str| (1..=count).map(|n| format!("{word} {n}\n")).collect::<String>();
    assert_eq!(row.exit_code, Some(7), "{}", rig.said(row));
    assert_eq!(stdout(row), text("line"));
    assert!(stderr(row).starts_with(&text("err")), "{}", stderr(row));
    assert_eq!(rig.live(&row.id, "stdout"), text("line"));
    assert_eq!(rig.live(&row.id, "stderr"), text("err"));
    assert_eq!(row.claims, 1);
}

fn lines(rig: &Rig, id: &str, count: u64) {
    eventually("lines arrive", || rig.backend.line_sums(id).is_some_and(|sums| sums.counts[0] >= count));
}

/// The names of the agent's threads.
fn threads(rig: &Rig) -> Vec<String> {
    let all = std::fs::read_dir(format!("/proc/{}/task", rig.agent.pid())).expect("tasks");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        Some(std::fs::read_to_string(entry.ok()?.path().join("comm")).ok()?.trim().to_owned())
    };
    all.filter_map(name).collect()
}

#[test]
fn jobs_run_as_directly_and_two_servers_share_one_connection_to_the_jump_host() {
    let _machine = shared();
    let behind = Behind::start(&[("ssh.connectionPool.idleTimeout", "2s")]);
    let direct = std::net::TcpStream::connect((behind.jump.host.as_str(), behind.rig.sshd.port));
    assert!(direct.is_err(), "the server can be reached without the jump host");
    let row = behind.bash("echo one; echo two >&2; exit 3");
    assert_eq!((stdout(&row), row.exit_code), ("one\n", Some(3)), "{}", behind.rig.said(&row));
    let other = behind.another();
    let mut job = server_job(&behind.details(&other, "web-2"), "BASH", "id -un");
    job["execution"]["target"]["serverDetails"]["id"] = json!("4");
    let row = finish(&behind.rig.backend, job);
    assert_eq!(stdout(&row), format!("{}\n", other.user), "{}", behind.rig.said(&row));
    assert_eq!(stdout(&behind.bash("echo again")), "again\n");
    let logins = [&behind.jump, &behind.rig.sshd, &other].map(Sshd::logins);
    assert_eq!(logins, [1, 1, 1], "{}", behind.jump.log());
    let names = threads(&behind.rig);
    assert_eq!(names.iter().filter(|name| *name == "ssh-jump").count(), 1, "{names:?}");
    // First the servers' connections idle away, then the jump host's.
    eventually("all are closed", || behind.jump.open_connections() + behind.rig.sshd.open_connections() == 0);
    assert!(!threads(&behind.rig).contains(&"ssh-jump".to_owned()));
    assert_eq!(stdout(&behind.bash("echo anew")), "anew\n");
    drop(other);
    behind.stop();
}

#[test]
fn a_million_lines_come_through_a_jump_host_and_memory_does_not_move() {
    let _machine = alone();
    let behind = Behind::start(&[]);
    behind.bash("echo warm");
    let before = behind.rig.agent.memory_kb("VmRSS");
    let begun = Instant::now();
    let mut job = behind.job(&numbered(1_000_000));
    job["execution"]["timeout"] = json!(600);
    let id = behind.rig.queue(job);
    let done = behind
        .rig
        .backend
        .wait_for(Duration::from_secs(300), |b| b.job(&id).is_some_and(|row| row.terminal_reports() > 0));
    let (took, peak) = (begun.elapsed(), behind.rig.agent.memory_kb("VmHWM"));
    eprintln!("1,000,000 lines of 80 bytes through a jump host in {took:.1?}; agent RSS {before} kB, then {peak} kB");
    assert!(done, "not within {took:?}");
    all_numbered(&behind.rig, &finished(&behind.rig.backend, &id), 1_000_000);
    assert!(peak < before + 24 * 1024, "{before} kB, then {peak} kB");
    behind.stop();
}

#[test]
fn a_script_of_megabytes_goes_there_and_new_keys_are_agreed_on_meanwhile() {
    let _machine = shared();
    let rekey: &[&str] = &["RekeyLimit 2M"];
    let often = Options { config: rekey, ..Options::default() };
    let behind = Behind::with(&often, &often, &[]);
    let script = format!("cat >/dev/null <<'EOF'\n{}EOF\n{}", "0123456789abcde\n".repeat(5 << 16), numbered(100_000));
    let row = behind.bash(&script);
    all_numbered(&behind.rig, &row, 100_000);
    behind.stop();
}

#[test]
fn a_jump_host_that_is_killed_or_frozen_costs_a_running_job_nothing() {
    let _machine = shared();
    let settings = [TWO_SECONDS, ("ssh.connectionPool.healthCheckInterval", "1s")];
    let mut behind = Behind::start(&settings);
    let id = behind.rig.begin(behind.job(&counting(400, 0.03)));
    for cut in 1..=2 {
        lines(&behind.rig, &id, cut * 60);
        assert!(behind.jump.kill_sessions() >= 1, "there was no connection to kill");
    }
    lines(&behind.rig, &id, 180);
    behind.jump.freeze();
    std::thread::sleep(Duration::from_secs(5));
    behind.jump.thaw();
    lines(&behind.rig, &id, 240);
    behind.jump.stop();
    std::thread::sleep(Duration::from_secs(2));
    behind.jump.start_again();
    let row = finished(&behind.rig.backend, &id);
    counted(&behind.rig, &row, 400);
    // The server stood all the time.
    assert_ne!(behind.breaker_of(&behind.rig.sshd).as_deref(), Some("2"), "{:?}", behind.breakers());
    behind.stop();
}

#[test]
fn a_jump_host_that_is_away_or_frozen_is_named_and_opens_its_own_breaker_alone() {
    let _machine = shared();
    let settings =
        [TWO_SECONDS, FOUR_SECONDS, ("ssh.circuitBreaker.failureThreshold", "2"), ("ssh.circuitBreaker.timeout", "4s")];
    let mut behind = Behind::start(&settings);
    assert_eq!(stdout(&behind.bash("echo fine")), "fine\n");
    behind.jump.freeze();
    // Over a kept connection, which looks alive, then over a new one.
    let job = || behind.job("echo ran");
    for _ in 0..2 {
        let row = behind.rig.refused(job(), &["jump host bastion: "]);
        let held = worker_was_held(&row);
        assert!(held < Duration::from_secs(10), "{held:?}");
    }
    behind.jump.thaw();
    behind.jump.stop();
    behind.rig.refused(behind.job("echo ran"), &["jump host bastion: "]);
    eventually("its breaker opens", || {
        behind.bash("echo ran");
        behind.breaker_of(&behind.jump).as_deref() == Some("2")
    });
    let row =
        behind.rig.refused(behind.job("echo ran"), &["jump host bastion: the circuit breaker of bastion", "is open"]);
    assert!(worker_was_held(&row) < Duration::from_secs(1), "{:?}", worker_was_held(&row));
    assert_eq!(behind.breaker_of(&behind.rig.sshd).as_deref(), Some("0"), "{:?}", behind.breakers());
    behind.jump.start_again();
    eventually("it closes again", || behind.bash("echo again").exit_code == Some(0));
    behind.stop();
}

#[test]
fn a_server_that_is_away_is_named_with_its_jump_host_and_opens_its_own_breaker_alone() {
    let _machine = shared();
    let settings =
        [TWO_SECONDS, FOUR_SECONDS, ("ssh.circuitBreaker.failureThreshold", "2"), ("ssh.circuitBreaker.timeout", "3s")];
    let mut behind = Behind::start(&settings);
    let other = behind.another();
    assert_eq!(stdout(&behind.bash("echo fine")), "fine\n");
    behind.rig.sshd.stop();
    behind.rig.refused(behind.job("echo ran"), &["through jump host bastion: the jump host could not", "web-1"]);
    eventually("its breaker opens", || {
        behind.bash("echo ran");
        behind.breaker_of(&behind.rig.sshd).as_deref() == Some("2")
    });
    let row = finish(&behind.rig.backend, server_job(&behind.details(&other, "web-2"), "BASH", "echo beside"));
    assert_eq!(stdout(&row), "beside\n", "{}", behind.rig.said(&row));
    assert_eq!((behind.jump.logins(), behind.breaker_of(&behind.jump).as_deref()), (1, Some("0")));
    behind.rig.sshd.start_again();
    eventually("it closes again", || behind.bash("echo again").exit_code == Some(0));
    // A name that the jump host cannot resolve. It gives no reason.
    let mut unknown = behind.job("echo ran");
    unknown["execution"]["target"]["serverDetails"]["host"] = json!("nowhere.invalid");
    behind.rig.refused(unknown, &["nowhere.invalid", "through jump host bastion", "does its name have an address"]);
    drop(other);
    behind.stop();
}

#[test]
fn a_jump_host_that_does_not_forward_or_does_not_let_in_is_named_at_once() {
    let _machine = shared();
    let closed: &[&str] = &["AllowTcpForwarding no"];
    let behind =
        Behind::with(&Options { config: closed, forgiving: true, ..Options::default() }, &Options::default(), &[]);
    let row = behind.rig.refused(
        behind.job("echo ran"),
        &["web-1", "through jump host bastion: the jump host does not forward there", "AllowTcpForwarding"],
    );
    assert!(worker_was_held(&row) < Duration::from_secs(5), "{:?}", worker_was_held(&row));
    let mut job = behind.job("echo ran");
    job["execution"]["target"]["serverDetails"]["jump"]["username"] = json!("nobody-there");
    behind.rig.refused(job, &["jump host bastion: cannot log in to bastion"]);
    let mut job = behind.job("echo ran");
    job["execution"]["target"]["serverDetails"]["jump"] = json!("unknown-one");
    behind.rig.refused(job, &["ssh.jumps has no \"unknown-one\""]);
    behind.stop();
}

#[test]
fn the_host_key_of_either_hop_must_be_known_under_its_own_name() {
    let _machine = shared();
    let behind = Behind::start(&[]);
    let (jump, server) = (behind.jump.known_hosts(), behind.rig.sshd.known_hosts());
    let job = || behind.job("echo ran");
    std::fs::write(&behind.rig.known_hosts, &server).expect("known hosts");
    let words = ["jump host bastion: the host key of bastion", &behind.jump.known_hosts_line("ed25519")];
    behind.rig.refused(job(), &words);
    assert_eq!(behind.rig.sshd.accepted(), 0, "no byte went to the server");
    std::fs::write(&behind.rig.known_hosts, &jump).expect("known hosts");
    let words = [
        "the host key of web-1",
        "through jump host bastion is not trusted",
        &behind.rig.sshd.known_hosts_line("ed25519"),
    ];
    behind.rig.refused(job(), &words);
    // The jump host's own key does not stand for the server.
    let (_, key) = jump.trim().split_once(' ').expect("a line");
    let wrong = format!("{} {key}\n", behind.rig.sshd.known_name());
    std::fs::write(&behind.rig.known_hosts, jump.clone() + &wrong).expect("known hosts");
    behind.rig.refused(job(), &["the host key of web-1", "somebody may be in between"]);
    assert_eq!(behind.rig.sshd.logins(), 0);
    std::fs::write(&behind.rig.known_hosts, jump + &server).expect("known hosts");
    assert_eq!(stdout(&finish(&behind.rig.backend, job())), "ran\n");
    behind.stop();
}

#[test]
fn the_next_agent_goes_on_through_the_jump_host() {
    let _machine = shared();
    let behind = Behind::start(&[]);
    let id = behind.rig.begin(behind.job(&counting(200, 0.05)));
    lines(&behind.rig, &id, 60);
    let Behind { rig, jump, place } = behind;
    let behind = Behind { rig: rig.again(), jump, place };
    let row = finished(&behind.rig.backend, &id);
    assert_eq!((stdout(&row).lines().count(), row.exit_code), (200, Some(7)), "{}", behind.rig.said(&row));
    assert_eq!(behind.jump.logins(), 2);
    behind.stop();
}

/// The settings by which an agent, or a command, knows this jump host and reaches all hosts through it.
fn settings(jump: &Sshd) -> [(&'static str, String); 2] {
    let Sshd { host, port, user, key, .. } = jump;
    let login = format!("host: \"{host}\", port: {port}, user: {user}, keyFile: \"{}\"", key.path.display());
    [("ssh.jumps", format!("{{{JUMP}: {{{login}}}}}")), ("ssh.hosts", format!("[{{host: \"*\", jump: {JUMP}}}]"))]
}

#[test]
fn a_jump_host_of_the_configuration_is_chosen_by_the_hosts_name_or_by_the_job() {
    let _machine = shared();
    let jump = Sshd::start(&Options { network: true, ..Options::default() });
    let sshd = Sshd::start(&Options { inside: Some(inside(&jump)), ..Options::default() });
    let known = jump.known_hosts() + &sshd.known_hosts();
    let [jumps, hosts] = settings(&jump);
    let with = |hosts: &str| vec![(jumps.0, jumps.1.clone()), ("ssh.hosts", hosts.to_owned())];
    let (by_host, by_job) = (with(&hosts.1), with(""));
    let [by_host, by_job] = [&by_host, &by_job]
        .map(|all| all.iter().map(|(key, value)| (*key, value.as_str())).collect::<Vec<(&str, &str)>>());
    let rig = Rig::knowing(sshd, &known, &by_host);
    let id = rig.begin(rig.job("BASH", &counting(200, 0.05)));
    lines(&rig, &id, 60);
    assert_eq!((jump.logins(), rig.sshd.logins()), (1, 1));
    let token = rig.backend.token().to_owned();
    let rig = rig.again_and(&token, &by_host);
    let row = finished(&rig.backend, &id);
    assert_eq!((stdout(&row).lines().count(), row.exit_code), (200, Some(7)), "{}", rig.said(&row));
    // A job that names it. The record has the name.
    let rig = rig.again_and(&token, &by_job);
    let mut job = rig.job("BASH", &counting(200, 0.05));
    job["execution"]["target"]["serverDetails"]["jump"] = json!(JUMP);
    let id = rig.begin(job);
    lines(&rig, &id, 60);
    let rig = rig.again_and(&token, &by_job);
    let row = finished(&rig.backend, &id);
    assert_eq!((stdout(&row).lines().count(), row.exit_code), (200, Some(7)), "{}", rig.said(&row));
    assert_eq!(jump.logins(), 4);
    rig.stop();
}

#[test]
fn commands_go_through_a_jump_host_too() {
    let _machine = shared();
    let jump = Sshd::start(&Options { network: true, ..Options::default() });
    let sshd = Sshd::start(&Options { inside: Some(inside(&jump)), ..Options::default() });
    sshd.authorize(&jump.key.public);
    let (known, [jumps, hosts]) = (sshd.path("known"), settings(&jump));
    std::fs::write(&known, jump.known_hosts()).expect("known hosts");
    let run = |with_row: bool, words: &[&str]| {
        let mut command = binary();
        command.args(words).arg("--set").arg(format!("{}={}", jumps.0, jumps.1));
        if with_row {
            command.arg("--set").arg(format!("{}={}", hosts.0, hosts.1));
        }
        command.arg("--set").arg(format!("ssh.security.knownHostsFile={}", known.display()));
        command.arg("--set").arg(format!("ssh.execution.tempDir={}", sshd.temp_dir().display()));
        let output = command.output().expect("the command");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let address = format!("{}:{}", sshd.host, sshd.port);
    let (code, said) = run(true, &["known-hosts", "add", &address, "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&sshd.fingerprint("ed25519")) && jump.logins() == 1, "{said}");

    let script = sshd.path("a.sh");
    std::fs::write(&script, "id -un").expect("a script");
    let (server, key) = (format!("{}@{address}", sshd.user), jump.key.path.display().to_string());
    let exec = ["exec", "--server", &server, "--identity", &key, script.to_str().expect("text")];
    let login = format!("{}@{}:{}", jump.user, jump.host, jump.port);
    for (with_row, more) in [(true, &[][..]), (false, &["--jump", JUMP]), (false, &["--jump", login.as_str()])] {
        let (code, said) = run(with_row, &[&exec[..], more].concat());
        assert_eq!(code, Some(0), "{said}");
        assert!(said.starts_with(&format!("{}\n", sshd.user)), "{said}");
    }
    let (code, said) = run(false, &[&exec[..], &["--jump", "another"]].concat());
    assert_eq!(code, Some(125), "{said}");
    has_words(&said, &["ssh.jumps has no \"another\""]);
    for (words, want) in [
        (&["exec", "--jump", JUMP, "x.sh"][..], "--jump is the way to --server"),
        (&["exec", "--server", &server, "--identity", &key, "--jump", "@h", "x.sh"], "--jump takes a name, user@host"),
    ] {
        let (code, said) = run(false, words);
        assert!(code == Some(2) && said.contains(want), "{code:?} {said}");
    }
    let (_, said) = run(true, &["doctor", "--set", "api.endpoint=http://127.0.0.1:9", "--set", "api.token=x"]);
    has_words(&said, &["jump-hosts", "bastion"]);
}

#[test]
fn a_cancel_and_a_limit_end_a_script_behind_a_jump_host() {
    let _machine = shared();
    let behind = Behind::start(&[]);
    let id = behind.rig.begin(behind.job("echo begun; sleep 60"));
    let begun = Instant::now();
    assert!(behind.rig.backend.cancel(&id, Via::WebSocket));
    let row = finished(&behind.rig.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("cancelled"), "begun\n"));
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let mut job = behind.job("echo begun; sleep 60");
    job["execution"]["timeout"] = json!(2);
    let row = finish(&behind.rig.backend, job);
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("timeout"), "begun\n"));
    behind.stop();
}

#[test]
fn helpers_and_several_servers_work_through_a_jump_host() {
    let _machine = shared();
    let behind = Behind::start(&[]);
    let mut job = behind.job("cronium_input; cronium_output '{\"a\":1}'");
    job["execution"]["inputData"] = json!({"x": 7});
    let row = finish(&behind.rig.backend, job);
    assert_eq!(row.exit_code, Some(0), "{}", behind.rig.said(&row));
    assert!(stdout(&row).contains("\"x\"") && report(&row)["scriptOutput"] == json!({"a": 1}), "{row:?}");

    let other = behind.another();
    let mut servers = [behind.details(&behind.rig.sshd, "alpha"), behind.details(&other, "beta")];
    servers[1]["id"] = json!("4");
    let mut job = server_job(&servers[0], "BASH", "id -un");
    job["metadata"]["multiServer"] = json!(true);
    job["metadata"]["serverCount"] = json!(2);
    job["metadata"]["servers"] = json!(servers);
    let row = finish(&behind.rig.backend, job);
    assert_eq!(row.exit_code, Some(0), "{}", behind.rig.said(&row));
    let users = [("alpha", &behind.rig.sshd.user), ("beta", &other.user)];
    has_words(stdout(&row), &users.map(|(name, user)| format!("[{name}] {user}")).each_ref().map(String::as_str));
    assert_eq!(behind.jump.logins(), 1);
    drop(other);
    behind.stop();
}
