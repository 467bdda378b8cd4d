//! `doctor`: all proofs on the real engine, each thing broken on purpose, nothing left behind, and Podman.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cronium_dev_backend::{Action, DevBackend, Fault};
use serde_json::{Value, json};

use crate::engine_proxy::{Break, Proxy};
use crate::harness::{Folder, LONG, alone, binary, deployed, docker, eventually, free_port, require_engine, unique};
use crate::podman::Podman;

const NOWHERE: (&str, &str) = ("container.docker.endpoint", "unix:///nowhere/docker.sock");

/// Runs it to its end; `settings` as for `--set`, the last of a key wins.
pub fn run(url: &str, token: &str, settings: &[(&str, &str)], flags: &[&str]) -> Output {
    let folder = Folder::new();
    let state = folder.path().join("state");
    let mut pairs = vec![("api.endpoint", url), ("state.dir", state.to_str().expect("text"))];
    pairs.extend_from_slice(settings);
    let mut command = binary();
    command.arg("doctor").args(flags).env("CRONIUM_API_TOKEN", token).current_dir(folder.path());
    for (key, value) in pairs {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command.env("HOME", folder.path()).output().expect("the binary")
}

/// What it found, by name, and its exit code.
pub struct Report {
    pub code: Option<i32>,
    pub all: Value,
}

impl Report {
    pub fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        let all = serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text}{error}"));
        Self { code: output.status.code(), all }
    }

    pub fn check(&self, name: &str) -> &Value {
        let checks = self.all["checks"].as_array().expect("checks");
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {:#}", self.all))
    }

    /// The check of this name has this result and these words.
    pub fn expect(&self, name: &str, result: &str, words: &str) {
        let check = self.check(name);
        assert_eq!(check["result"], result, "{check:#}");
        let measured = check["measured"].as_str().expect("text");
        assert!(measured.contains(words), "{check:#} does not say {words:?}");
        assert_eq!(check["hint"] == "", result == "ok", "{check:#}");
    }

    fn proofs(&self) -> Vec<&Value> {
        let all = self.all["checks"].as_array().expect("checks").iter();
        all.filter(|check| check["name"].as_str().expect("name").starts_with("proof-")).collect()
    }
}

pub fn json(backend: &DevBackend, settings: &[(&str, &str)]) -> Report {
    Report::of(&run(&backend.url(), backend.token(), settings, &["--json"]))
}

/// Without an engine: only what is looked at on this host and at the backend.
pub fn without_engine(url: &str, token: &str, settings: &[(&str, &str)]) -> Report {
    let mut all = vec![NOWHERE];
    all.extend_from_slice(settings);
    Report::of(&run(url, token, &all, &["--json"]))
}

fn canaries() -> BTreeSet<String> {
    docker(&["ps", "-aq", "--filter", "label=cronium.agent.id=doctor"]).lines().map(str::to_owned).collect()
}

/// Those of somebody else's `doctor` on the same engine go within a minute: what stays was left behind.
fn none_is_left() {
    eventually("no canary is left", || canaries().is_empty());
}

/// Removes a network with its owner.
struct Network(String);

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["network", "rm", &self.0]).output();
    }
}

#[test]
fn a_good_host_is_proven_within_ten_seconds() {
    let _machine = alone();
    require_engine();
    let backend = deployed();
    let _network = Network("cronium1".to_owned());
    let begun = Instant::now();
    let report = json(&backend, &[("container.network.internal", "true")]);
    let took = begun.elapsed();
    assert_eq!(report.code, Some(0), "{:#}", report.all);
    assert_ne!(report.all["verdict"], "fail");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let told = report.all["seconds"].as_f64().expect("seconds");
    assert!(told > 0.5 && told <= took.as_secs_f64(), "{told} {took:?}");
    for (name, words) in [
        ("proof-root", "mounted read-only"),
        ("proof-privilege", "denied: mount, user-namespace, chroot, device, owner"),
        ("proof-kernel", "calls refused: io_uring, ptrace"),
        ("proof-processes", "then a fork was refused; the limit is 32"),
        ("proof-memory", "beyond it the kernel killed the script"),
        ("proof-cores", "the kernel held them up"),
        ("proof-disk", "then /workspace was full"),
        ("proof-end", "cannot stop, kill or trace process 1"),
        ("proof-other-job", "which listens: this host reaches it"),
        ("proof-engine-socket", "no socket of an engine"),
        ("cleanup", "removed"),
        ("configuration", "valid"),
        ("state-dir", "the first start makes it"),
        ("dns", "127.0.0.1"),
        ("tls", "does not leave this host"),
        ("backend", "answered in"),
        ("token", "accepted"),
        ("engine", "Docker "),
        ("engine-api", "is spoken"),
        ("limits", "memory yes, processes yes, cores yes"),
        ("images", "all 3 are there"),
        ("speed", "what would make a job's start shorter: container.warm"),
    ] {
        report.expect(name, "ok", words);
    }
    // Where no cloud answers this host either, its silence shows nothing.
    let cloud = "169.254.169.254:80".parse().expect("address");
    let answers = std::net::TcpStream::connect_timeout(&cloud, Duration::from_secs(1)).is_ok();
    report.expect("proof-metadata", if answers { "ok" } else { "warn" }, "does not answer a job");
    report.expect("proof-host", "warn", "by its gateway");
    // As with the cloud's address.
    let resolves =
        report.check("proof-dns")["measured"].as_str().is_some_and(|text| text.contains("does answer this host"));
    report.expect("proof-dns", if resolves { "ok" } else { "warn" }, "no name server answers a job");
    assert_eq!(report.proofs().len(), 13);
    // It left nothing, and it did run containers.
    none_is_left();
    eventually("the engine tells of six that were made and removed", || {
        let since = format!("{}s", begun.elapsed().as_secs() + 1);
        let label = "label=cronium.agent.id=doctor";
        let all = ["events", "--since", &since, "--until", "0s", "--filter", "event=destroy", "--filter", label];
        docker(&all).lines().count() >= 6
    });

    let text = run(&backend.url(), backend.token(), &[("container.network.mode", "none"), NOWHERE], &[]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let line = |start: &str| text.lines().any(|line| line.starts_with(start));
    assert!(line("ok    backend  ") && line("fail  engine  ") && line("fail  proof-root  "), "{text}");
    assert!(text.contains("-> start the engine"), "{text}");
}

#[test]
fn what_is_wrong_with_host_or_backend_has_a_line() {
    let (backend, folder) = (deployed(), Folder::new());
    let (url, token) = (backend.url(), backend.token().to_owned());
    let report = without_engine(&url, "wrong-t0ken", &[]);
    assert_eq!((report.code, &report.all["verdict"]), (Some(1), &json!("fail")));
    report.expect("token", "fail", "401");
    assert!(!report.all.to_string().contains("wrong-t0ken"));
    report.expect("engine", "fail", "cannot reach the container engine");
    report.expect("cgroup", "fail", "the engine does not answer");
    report.expect("proof-root", "fail", "not proven: the engine does not answer");
    report.expect("proof-metadata", "fail", "not proven");
    report.expect("cleanup", "ok", "no container was made");
    // The same with what is right: the engine alone is missing.
    let report = without_engine(&url, &token, &[]);
    report.expect("token", "ok", "accepted");
    report.expect("known-hosts", "ok", "is not there");

    let away = format!("http://127.0.0.1:{}", free_port());
    let report = without_engine(&away, &token, &[]);
    report.expect("backend", "fail", "Connection refused");
    report.expect("token", "fail", "not known");
    report.expect("clock", "warn", "not known");
    let report = without_engine("http://nothing.invalid:5001", &token, &[]);
    report.expect("dns", "fail", "nothing.invalid");

    let path = folder.path().display().to_string();
    let report = without_engine(&url, &token, &[("ssh.security.knownHostsFile", &path)]);
    report.expect("known-hosts", "fail", "cannot be read");
    let none = format!("{path}/none");
    let report = without_engine(&url, &token, &[("ssh.security.knownHostsFile", &none)]);
    report.expect("known-hosts", "warn", "is not there");
    let odd = folder.path().join("odd");
    std::fs::write(&odd, "host ssh-ed25519 no-base64!\n@cert-authority * ssh-ed25519 AAAA\n").expect("write");
    let report = without_engine(&url, &token, &[("ssh.security.knownHostsFile", odd.to_str().expect("text"))]);
    report.expect("known-hosts", "warn", "1 lines are of certificate authorities, which count for nothing here");
    report.expect("known-hosts", "warn", "1 lines cannot be read; line 1: ");

    let report = without_engine(&url, &token, &[("state.dir", "/proc/none"), ("state.minFreeDisk", "1TB")]);
    report.expect("state-dir", "fail", "cannot write");
    let report = without_engine(&url, &token, &[("state.minFreeDisk", "900TB")]);
    report.expect("state-disk", "fail", "at least");
    let report = without_engine(&url, &token, &[("container.security.user", "0:0")]);
    report.expect("configuration", "warn", "container.security.user");
}

#[test]
fn a_clock_that_is_off_is_measured_by_the_backends_date() {
    let backend = deployed();
    let date = BTreeMap::from([("Date".to_owned(), "Tue, 01 Jan 2030 00:00:00 GMT".to_owned())]);
    let action = Action::Status { status: 200, headers: date, body: Some("{}".to_owned()) };
    backend.set_fault(Fault { path: Some("/orchestrator/health".to_owned()), action, ..Fault::default() });
    let report = without_engine(&backend.url(), backend.token(), &[]);
    report.expect("clock", "warn", "the backend's");
    report.expect("backend", "ok", "answered");
}

#[test]
fn problems_of_the_configuration_end_it() {
    let output =
        run("http://127.0.0.1:1", "x", &[("jobs.maxConcurrent", "900"), ("jobs.pollInterva", "1s")], &["--json"]);
    let report = Report::of(&output);
    assert_eq!((report.code, &report.all["verdict"]), (Some(2), &json!("fail")));
    let checks = report.all["checks"].as_array().expect("checks");
    assert_eq!(checks.len(), 2, "{checks:#?}");
    assert!(checks.iter().all(|check| check["name"] == "configuration" && check["result"] == "fail"));
    assert!(report.all.to_string().contains("jobs.maxConcurrent"));
}

/// A TLS server that ends with its owner.
pub struct Tls(pub Child);

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn openssl(folder: &Folder, line: &str) {
    let output = Command::new("openssl").args(line.split(' ')).current_dir(folder.path()).output().expect("openssl");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_chain_and_its_end_are_told() {
    let folder = Folder::new();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&folder, &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 400 -subj /CN=doctors-authority"));
    openssl(&folder, &format!("req {key} -keyout own.key -out own.csr -subj /CN=localhost"));
    std::fs::write(folder.path().join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("write");
    let ca = folder.path().join("ca.pem").display().to_string();
    for (days, result) in [(90, "ok"), (5, "warn")] {
        openssl(
            &folder,
            &format!("x509 -req -in own.csr -CA ca.pem -CAkey ca.key -days {days} -extfile names -out own.pem"),
        );
        let port = free_port();
        let mut server = Command::new("openssl");
        server.args([
            "s_server",
            "-quiet",
            "-cert",
            "own.pem",
            "-key",
            "own.key",
            "-accept",
            &format!("127.0.0.1:{port}"),
        ]);
        server.current_dir(folder.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let _server = Tls(server.spawn().expect("openssl s_server"));
        eventually("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        let url = format!("https://localhost:{port}");
        let trust = [("security.tls.enabled", "true"), ("security.tls.caFile", ca.as_str()), ("api.timeout", "2s")];
        let report = without_engine(&url, "x", &trust);
        report.expect("tls", result, "localhost, issued by doctors-authority");
        report.expect("tls", result, &format!("ends in {} days", days - 1));
        report.expect("tls", result, "(security.tls.caFile)");
        let report = without_engine(&url, "x", &[("api.timeout", "2s")]);
        report.expect("tls", "fail", "UnknownIssuer");
    }
    let backend = deployed();
    let url = backend.url().replace("http://", "https://");
    let report = without_engine(&url, "x", &[("api.timeout", "2s")]);
    report.expect("tls", "fail", "limits::DOCTOR_TLS");
}

#[test]
fn a_missing_image_is_told_and_not_pulled() {
    let _machine = alone();
    require_engine();
    let backend = deployed();
    let image = ("container.images.bash", "127.0.0.1:1/cronium/none:1");
    let report = json(&backend, &[image]);
    assert_eq!(report.code, Some(1));
    report.expect("images", "warn", "1 of 3 are missing: 127.0.0.1:1/cronium/none:1");
    for name in ["proof-root", "proof-privilege", "proof-memory", "proof-processes", "proof-cores", "proof-other-job"] {
        report.expect(name, "fail", "not proven");
    }
    report.expect("proof-root", "fail", "the engine does not have it");
    report.expect("cleanup", "ok", "removed");
    let report = json(&backend, &[image, ("container.images.pullPolicy", "never")]);
    report.expect("images", "fail", "pullPolicy is never");
    none_is_left();
}

#[test]
fn locks_that_an_engine_leaves_out_are_found() {
    let _machine = alone();
    require_engine();
    let (backend, proxy) = (deployed(), Proxy::start());
    let words = &[
        ("\"ReadonlyRootfs\":true", "\"ReadonlyRootfs\":null"),
        ("\"CapDrop\":[\"ALL\"]", "\"CapDrop\":[     ]"),
        ("\"PidsLimit\":32", "\"PidsLimit\":-1"),
        ("\"Memory\":67108864", "\"Memory\":0       "),
        ("\"MemorySwap\":67108864", "\"MemorySwap\":0       "),
        ("\"NanoCpus\":200000000", "\"NanoCpus\":0        "),
        ("size=12582912", "size=99582912"),
        (r#"\"defaultAction\":\"SCMP_ACT_ERRNO\""#, r#"\"defaultAction\":\"SCMP_ACT_ALLOW\""#),
    ];
    proxy.break_calls("POST", "/containers/create", u32::MAX, Break::Swap(words));
    let endpoint = proxy.endpoint();
    let report = json(&backend, &[("container.docker.endpoint", &endpoint)]);
    assert_eq!(report.code, Some(1), "{:#}", report.all);
    for (name, words) in [
        ("proof-root", "mounted read-write, and /var/tmp could be written"),
        ("proof-privilege", "CapBnd is"),
        ("proof-kernel", "no filter refuses"),
        ("proof-processes", "96 of 96 processes were started"),
        ("proof-memory", "it held 256 MiB with a limit of 64 MiB"),
        ("proof-disk", "24 MiB could be written with a limit of 16 MiB"),
    ] {
        report.expect(name, "fail", words);
    }
    // Where others keep the cores busy, they got little for that reason: then it is a warning.
    assert_ne!(report.check("proof-cores")["result"], "ok", "{:#}", report.all);
    report.expect("proof-other-job", "ok", "does not reach");
    report.expect("cleanup", "ok", "removed");
    none_is_left();
}

#[test]
fn what_the_configuration_opens_is_a_warning() {
    let _machine = alone();
    require_engine();
    let backend = deployed();
    let network = Network(unique("doctor-net"));
    docker(&["network", "create", &network.0]);
    let report = json(
        &backend,
        &[
            ("container.security.readOnlyRootfs", "false"),
            ("container.security.noNewPrivileges", "false"),
            ("container.network.mode", &network.0),
        ],
    );
    assert_eq!(report.code, Some(0), "{:#}", report.all);
    assert_eq!(report.all["verdict"], "warn");
    report.expect("proof-root", "warn", "mounted read-write, and /var/tmp could be written, as configured");
    report.expect("proof-privilege", "warn", "no_new_privs is off, as configured");
    report.expect("proof-disk", "warn", "once a second");
    report.expect("proof-other-job", "warn", "reaches another at");
    report.expect("proof-memory", "ok", "killed");
    none_is_left();
}

#[test]
fn strictly_what_is_open_or_old_is_a_failure() {
    let _machine = alone();
    require_engine();
    let (backend, proxy) = (deployed(), Proxy::start());
    let words = r#"{"ApiVersion":"1.41","MinAPIVersion":"1.12","Components":[
        {"Name":"containerd","Version":"99.0.0"},{"Name":"runc","Version":"1.2.7"}]}"#;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{words}", words.len());
    proxy.break_calls("GET", "/version", u32::MAX, Break::Answer(answer.into_bytes()));
    let endpoint = proxy.endpoint();
    let settings = [
        ("container.docker.endpoint", endpoint.as_str()),
        ("container.security.seccompProfile", "engine"),
        ("container.network.mode", "none"),
    ];
    for (flags, code, result) in [(&["--json"][..], 0, "warn"), (&["--json", "--strict"], 1, "fail")] {
        let report = Report::of(&run(&backend.url(), backend.token(), &settings, flags));
        assert_eq!(report.code, Some(code), "{:#}", report.all);
        report.expect("runtime-version", result, "runc 1.2.7 may have CVE-2026-41579");
        report.expect("containerd-version", "ok", "containerd 99.0.0: no hole known");
        // The engine's own filter lets calls through.
        report.expect("proof-kernel", result, "as configured");
        report.expect("proof-end", result, "can trace process 1");
    }
}

#[test]
fn without_a_network_there_is_no_way_to_anything() {
    let _machine = alone();
    require_engine();
    let backend = deployed();
    let report = json(&backend, &[("container.network.mode", "none")]);
    assert_eq!(report.code, Some(0), "{:#}", report.all);
    report.expect("proof-other-job", "ok", "no job has a network");
    report.expect("proof-metadata", "ok", "no route");
    report.expect("proof-dns", "ok", "no job has a network");
}

#[test]
fn a_signal_ends_it_and_its_canaries() {
    let _machine = alone();
    require_engine();
    let (backend, folder) = (deployed(), Folder::new());
    let mut command = binary();
    command.args(["doctor", "--json", "--set", &format!("api.endpoint={}", backend.url())]);
    command.args(["--set", &format!("state.dir={}", folder.path().join("state").display())]);
    command.env("CRONIUM_API_TOKEN", backend.token()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let before = canaries();
    let child = command.spawn().expect("the binary");
    eventually("a canary flies", || !canaries().is_subset(&before));
    let begun = Instant::now();
    let status = Command::new("kill").arg(child.id().to_string()).status().expect("kill");
    assert!(status.success());
    let output = child.wait_with_output().expect("its output");
    assert!(begun.elapsed() < LONG / 4, "{:?}", begun.elapsed());
    let report = Report::of(&output);
    assert_eq!(report.code, Some(1));
    assert!(
        report.proofs().iter().any(|check| check["measured"].as_str().is_some_and(|text| text.contains("a signal")))
    );
    report.expect("cleanup", "ok", "removed");
    none_is_left();
}

#[test]
fn podman_is_known_for_what_it_is() {
    let _machine = alone();
    require_engine();
    let backend = deployed();
    let podman = Podman::start(&["cronium/runner:bash-alpine", "cronium/runner:python-alpine"]);
    let endpoint = podman.endpoint();
    let engine = ("container.docker.endpoint", endpoint.as_str());
    // It would keep the jobs of the default network together.
    let report = json(&backend, &[engine]);
    assert_eq!(report.code, Some(1));
    report.expect("engine", "warn", "Podman ");
    report.expect("proof-root", "fail", "Podman does not keep containers of one network apart");
    report.expect("proof-other-job", "fail", "not proven");
    // Without a network jobs run, and every limit bites.
    let none = ("container.network.mode", "none");
    let report = json(&backend, &[engine, none]);
    report.expect("proof-root", "ok", "mounted read-only, 7 places refused");
    report.expect("proof-privilege", "ok", "no capability");
    for (name, words) in [
        ("proof-processes", "then a fork was refused"),
        ("proof-memory", "beyond it the kernel killed the script"),
        ("proof-cores", "the kernel held them up"),
        ("proof-disk", "then /workspace was full"),
        ("proof-other-job", "no job has a network"),
        ("proof-metadata", "no route"),
        ("proof-engine-socket", "no socket of an engine"),
        ("cleanup", "removed"),
    ] {
        report.expect(name, "ok", words);
    }
    assert_eq!(report.code, Some(0), "{:#}", report.all);
    // Podman's own profile allows more, a file's as much as it says.
    let profile = |name: &str| json(&backend, &[engine, none, ("container.security.seccompProfile", name)]);
    profile("engine").expect("proof-privilege", "fail", "a script can make a user namespace");
    let folder = Folder::new();
    let file = folder.path().join("profile.json");
    let text = json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["unshare"], "action": "SCMP_ACT_ERRNO" }] });
    std::fs::write(&file, text.to_string()).expect("write");
    profile(&file.display().to_string()).expect("proof-privilege", "ok", "no capability");
    assert_eq!(podman.run(&["ps", "-aq"]), "");

    let script = folder.path().join("a.sh");
    std::fs::write(&script, "touch /workspace/x && id -u; exit 7").expect("write");
    let mut command = binary();
    command.arg("exec").arg(&script).args([
        "--network",
        "none",
        "--set",
        &format!("container.docker.endpoint={endpoint}"),
    ]);
    let output = command.output().expect("exec");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
        (Some(7), "1000\n"),
        "{error}"
    );
}
