//! `ssh.hosts`: users, ports and algorithms of servers, as the operator's table has them.

use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{Agent, Folder, binary, eventually, finish, report, shared, stdout, with_socket};
use crate::ssh_rig::{HOST, Rig, details, has_words, said, server_job};
use crate::sshd::{Options, Sshd, make_key};

/// The entry of a server without these members.
fn lacking(sshd: &Sshd, members: &[&str]) -> Value {
    let mut details = details(sshd, "web-1");
    members.iter().for_each(|name| details[*name] = Value::Null);
    details
}

fn ciphers_spoken(sshd: &Sshd) -> Vec<String> {
    let log = sshd.log();
    let lines = log.lines().filter(|line| line.contains("kex: client->server cipher:"));
    lines
        .map(|line| line.split("cipher: ").nth(1).expect("a cipher").split(' ').next().unwrap_or("").to_owned())
        .collect()
}

#[test]
fn the_table_fills_in_the_user_and_the_port_that_a_job_lacks() {
    let _machine = shared();
    let sshd = Sshd::with_config(&[]);
    let table = format!(
        "[{{host: other.example, user: nobody}}, {{host: \"127.0.0.0/8\", user: {}, port: {}}}, {{host: \"*\", port: 1}}]",
        sshd.user, sshd.port
    );
    let rig = Rig::with(sshd, &[("ssh.hosts", &table)]);
    for members in [&["port", "username"][..], &["port"], &["username"], &[]] {
        let row = finish(&rig.backend, server_job(&lacking(&rig.sshd, members), "BASH", "id -un"));
        assert_eq!(stdout(&row), format!("{}\n", rig.sshd.user), "{members:?}: {}", rig.said(&row));
    }
    assert_eq!(rig.sshd.accepted(), 1, "they are the same login, over one connection");
    // What the job names counts.
    let mut other = lacking(&rig.sshd, &["port"]);
    other["username"] = json!("cs-no-such-user");
    let words = ["cannot log in to", "as cs-no-such-user", HOST];
    rig.refused(server_job(&other, "BASH", "id -un"), &words);
    // Each of several servers by itself.
    let mut job = rig.job("BASH", "id -un");
    let servers = [lacking(&rig.sshd, &["port", "username"]), details(&rig.sshd, "web-2")];
    job["metadata"] = json!({"eventId": 1, "multiServer": true, "serverCount": 2, "servers": servers});
    let row = finish(&rig.backend, job);
    assert_eq!(report(&row)["status"], "completed", "{}", rig.said(&row));
    rig.stop();
}

#[test]
fn a_job_without_a_user_for_a_host_that_is_in_no_row_is_refused_with_both_places_to_look() {
    let _machine = shared();
    let rig = Rig::start(&[("ssh.hosts", "[{host: \"*.example\", user: deploy}]")]);
    let row = finish(&rig.backend, server_job(&lacking(&rig.sshd, &["username"]), "BASH", "id -un"));
    assert_eq!(report(&row)["status"], "failed");
    has_words(&rig.said(&row), &["username is missing", "ssh.hosts gives no user for 127.0.0.1"]);
    assert_eq!(rig.sshd.accepted(), 0);
    rig.stop();
}

#[test]
fn the_table_decides_on_the_algorithms_of_a_host_and_its_row_is_named_when_they_do_not_fit() {
    let _machine = shared();
    // The row is wider than the list for all, and narrower.
    for (server, cipher) in [("Ciphers aes128-ctr", "aes128-ctr"), ("LogLevel DEBUG1", "aes192-ctr")] {
        let sshd = Sshd::with_config(&["LogLevel DEBUG1", server]);
        let table = format!("[{{host: 127.0.0.1, algorithms: {{ciphers: [{cipher}]}}}}]");
        let rig = Rig::with(sshd, &[("ssh.hosts", &table), ("ssh.security.allowedCiphers", "aes256-ctr")]);
        let row = rig.bash("echo fine");
        assert_eq!(stdout(&row), "fine\n", "{}", rig.said(&row));
        assert_eq!(ciphers_spoken(&rig.sshd), [cipher]);
        rig.stop();
    }
    let sshd = Sshd::with_config(&["KexAlgorithms ecdh-sha2-nistp521"]);
    let table = "[{host: 127.0.0.1, algorithms: {keyExchanges: [curve25519-sha256]}}]";
    let rig = Rig::with(sshd, &[("ssh.hosts", table)]);
    let words = ["ecdh-sha2-nistp521", "algorithms.keyExchanges of 127.0.0.1 in ssh.hosts", HOST];
    rig.refused(rig.job("BASH", "echo ran"), &words);
    rig.stop();
}

#[test]
fn a_reload_takes_another_table_and_no_connection_of_the_old_one_serves_it() {
    let _machine = shared();
    let sshd = Sshd::with_config(&["LogLevel DEBUG1"]);
    std::fs::write(sshd.path("known_hosts"), sshd.known_hosts()).expect("known_hosts");
    let (backend, folder) = (with_socket(), Arc::new(Folder::new()));
    let (token, file) = (folder.path().join("token"), folder.path().join("agent.yaml"));
    std::fs::write(&token, backend.token()).expect("token");
    let write = |hosts: &str| {
        let text = format!(
            "api:\n  endpoint: {}\n  tokenFile: {}\njobs: {{pollInterval: 100ms, maxPollInterval: 500ms, stopGrace: 1s}}\n\
             ssh:\n  security:\n    knownHostsFile: {}\n  execution:\n    tempDir: {}\n  hosts:\n{hosts}",
            backend.url(),
            token.display(),
            sshd.path("known_hosts").display(),
            sshd.temp_dir().display()
        );
        std::fs::write(&file, text).expect("the configuration");
    };
    write("    []\n");
    let agent = Agent::start_by_file(Arc::clone(&folder), &file);
    agent.wait_ready();
    let job = || server_job(&lacking(&sshd, &["port", "username"]), "BASH", "id -un");
    let row = finish(&backend, job());
    has_words(&said(&backend, &row), &["username is missing"]);
    let rows = |cipher: &str| {
        format!(
            "    - host: 127.0.0.1\n      user: {}\n      port: {}\n      algorithms:\n        ciphers: [{cipher}]\n",
            sshd.user, sshd.port
        )
    };
    // The log's line comes a moment before the configuration is in effect.
    let reloads = || agent.metric("cronium_config_reloads_total{result=\"changed\"}").unwrap_or_default();
    for (nth, cipher) in ["aes128-ctr", "aes256-ctr"].into_iter().enumerate() {
        let before = reloads();
        write(&rows(cipher));
        agent.signal("HUP");
        eventually("the reload", || reloads() > before);
        assert!(agent.log().contains(&format!("ciphers: [{cipher}]")), "the log has the new table");
        for _ in 0..2 {
            let row = finish(&backend, job());
            assert_eq!(stdout(&row), format!("{}\n", sshd.user), "{}", said(&backend, &row));
        }
        assert_eq!(ciphers_spoken(&sshd), ["aes128-ctr", "aes256-ctr"][..=nth], "one connection for each table");
    }
    // A table that is wrong changes nothing.
    write("    - {host: 127.0.0.1, port: 70000}\n");
    let before = agent.log().len();
    agent.signal("HUP");
    eventually("the refusal", || agent.log()[before..].contains("nothing was changed"));
    assert!(
        agent.log()[before..].contains("row 1: its port is no number from 1 to 65535"),
        "{}",
        &agent.log()[before..]
    );
    assert_eq!(stdout(&finish(&backend, job())), format!("{}\n", sshd.user));
    agent.stop();
    assert_eq!(backend.problems(), Vec::<String>::new());
}

#[test]
fn commands_use_the_table_too() {
    let _machine = shared();
    let sshd = Sshd::start(&Options::default());
    let known = sshd.path("known_hosts");
    let table = format!("[{{host: 127.0.0.1, user: {}, port: {}}}]", sshd.user, sshd.port);
    let run = |arguments: &[&str], hosts: &str| {
        let mut command: Command = binary();
        command.args(arguments).arg("--set").arg(format!("ssh.hosts={hosts}"));
        command.arg("--set").arg(format!("ssh.security.knownHostsFile={}", known.display()));
        command.arg("--set").arg(format!("ssh.execution.tempDir={}", sshd.temp_dir().display()));
        let output = command.stdin(Stdio::null()).output().expect("the binary");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, _, error) = run(&["known-hosts", "add", "127.0.0.1", "--yes"], &table);
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(std::fs::read_to_string(&known).expect("added"), sshd.known_hosts());
    let script = sshd.path("a.sh");
    std::fs::write(&script, "id -un").expect("write");
    let (script, key) = (script.display().to_string(), sshd.key.path.display().to_string());
    let exec = ["exec", "--server", "127.0.0.1", "--identity", &key, &script];
    let (code, out, error) = run(&exec, &table);
    assert_eq!((code, out), (Some(0), format!("{}\n", sshd.user)), "{error}");
    let (code, _, error) = run(&exec, "");
    assert_eq!(code, Some(125), "{error}");
    has_words(&error, &["--server 127.0.0.1 names no user", "ssh.hosts", "USER@127.0.0.1"]);
    // A user that is typed counts.
    let stranger = make_key(&sshd.path(""), "stranger", &["-t", "ed25519"], "").path.display().to_string();
    let (_, _, error) = run(&["exec", "--server", "nobody@127.0.0.1", "--identity", &stranger, &script], &table);
    has_words(&error, &["as nobody", &format!("127.0.0.1:{}", sshd.port)]);
}

#[test]
fn validate_tells_which_row_has_algorithms_that_this_agent_lacks() {
    let _machine = shared();
    let validate = |ciphers: &str| {
        let mut command = binary();
        command.args(["validate", "--set", "api.endpoint=http://127.0.0.1:1", "--set"]);
        command.arg(format!("ssh.hosts=[{{host: \"*.old.example\", algorithms: {{ciphers: [{ciphers}]}}}}]"));
        let output = command.env("CRONIUM_API_TOKEN", "x").output().expect("validate");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let key = "ssh.hosts: algorithms.ciphers of *.old.example: this agent's SSH library has no rot13-ctr";
    for (ciphers, code, warned) in
        [("aes256-ctr", 0, false), ("aes256-ctr, rot13-ctr", 0, true), ("rot13-ctr", 2, true)]
    {
        let (found, said) = validate(ciphers);
        assert_eq!((found, said.contains(key)), (Some(code), warned), "{said}");
    }
}
