//! The way to the backend through a real proxy (Debian's tinyproxy), with and without a password.

use std::process::{Child, Command, Stdio};

use crate::dial::Names;
use crate::doctor::{Tls, openssl, without_engine};
use crate::harness::{Agent, Folder, eventually, finish, free_port, job, shared, stdout, with_socket};
use crate::ssh_rig::has_words;

/// Each character of it is one that tinyproxy takes.
const PASSWORD: &str = "correct.Horse_77-x";
/// The same in an address, where each byte may be encoded.
const ENCODED: &str = "correct%2EHorse_77%2dx";
/// The header's form of the user and the password: base64 of `me:…`.
const HEADER: &str = "bWU6Y29ycmVjdC5Ib3JzZV83Ny14";

/// A proxy that alone knows the name `backend.test`: this host's loopback. It ends with its owner.
struct Tiny {
    child: Child,
    folder: Folder,
    port: u16,
}

impl Tiny {
    /// `more` are lines of its configuration.
    fn start(more: &str) -> Self {
        let (folder, port) = (Folder::new(), free_port());
        let place = folder.path().display();
        std::fs::write(folder.path().join("hosts"), "127.0.0.1 localhost backend.test\n").expect("write");
        let config = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 50\nLogLevel Connect\nLogFile \"{place}/log\"\n{more}\n"
        );
        std::fs::write(folder.path().join("conf"), config).expect("write");
        let run = format!("mount --bind {place}/hosts /etc/hosts && exec tinyproxy -d -c {place}/conf");
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", &run])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare, of util-linux");
        let proxy = Self { child, folder, port };
        eventually("the proxy listens (apt-get install tinyproxy)", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        proxy
    }

    fn with_password() -> Self {
        Self::start(&format!("BasicAuth me {PASSWORD}"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn address(&self, login: &str) -> String {
        format!("http://{login}127.0.0.1:{}", self.port)
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The backend's address as the proxy alone can find it.
fn named(url: &str) -> String {
    url.replace("127.0.0.1", "backend.test")
}

#[test]
fn jobs_and_live_lines_go_through_a_proxy_with_a_password_that_nothing_shows() {
    let _machine = shared();
    let (proxy, backend) = (Tiny::with_password(), with_socket());
    let way = format!("CRONIUM_API_PROXY={}", proxy.address(&format!("me:{ENCODED}@")));
    // What the environment names must not count beside the key.
    let before = ["env", &way, "HTTP_PROXY=http://127.0.0.1:1"];
    let agent = Agent::start_behind(&before, &named(&backend.url()), backend.token(), &[]);
    let row = finish(&backend, job("BASH", &format!("echo one\necho {PASSWORD}\necho {HEADER}\necho two")));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "one\n[redacted]\n[redacted]\ntwo\n"), "{row:?}");
    let live = backend.lines(&row.id);
    assert!(live.iter().any(|line| line.text == "two"), "{live:?}");
    let target = named(&backend.url()).replace("http://", "");
    let asked = proxy.log().matches(&format!("CONNECT {target} HTTP/1.1")).count();
    assert!(asked >= 2, "calls and the WebSocket: {}", proxy.log());
    let (_, health) = agent.get("/health");
    for text in [agent.log(), health, agent.get("/metrics").1] {
        for secret in [PASSWORD, ENCODED, HEADER] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    agent.stop();
}

#[test]
fn the_environment_names_a_proxy_and_the_hosts_that_need_none() {
    let _machine = shared();
    let (proxy, backend) = (Tiny::start(""), with_socket());
    let http = format!("http_proxy={}", proxy.address(""));
    let before = ["env", &http, "HTTP_PROXY=http://127.0.0.1:1", "NO_PROXY=other.test,10.0.0.0/8"];
    let agent = Agent::start_behind(&before, &named(&backend.url()), backend.token(), &[]);
    let row = finish(&backend, job("BASH", "echo hi"));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "hi\n"), "{row:?}");
    assert!(!backend.lines(&row.id).is_empty());
    agent.stop();

    // A name that the agent finds by itself, and which NO_PROXY names: the proxy, which is not there, is not asked.
    let names = Names::new("127.0.0.1 near.test\n", "");
    let near = backend.url().replace("127.0.0.1", "near.test");
    let mut before = names.before();
    before.extend(["env", "http_proxy=http://127.0.0.1:1", "no_proxy=.test"].map(str::to_owned));
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    let agent = Agent::start_behind(&before, &near, backend.token(), &[]);
    let row = finish(&backend, job("BASH", "echo direct"));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "direct\n"), "{row:?}");
    agent.stop();
}

#[test]
fn a_proxy_that_refuses_is_named_with_the_reason_and_the_agent_goes_on_when_it_takes_the_user() {
    let _machine = shared();
    let (proxy, backend) = (Tiny::with_password(), with_socket());
    let wrong = proxy.address("me:wr0ng-Password@");
    let agent = Agent::start_at(&named(&backend.url()), backend.token(), &[("api.proxy", &wrong)]);
    eventually("the log names the proxy's answer", || agent.log().contains("answered 401"));
    has_words(
        &agent.log(),
        &[
            "backend.test:",
            &format!("through the proxy http://***@127.0.0.1:{} (api.proxy)", proxy.port),
            "check the user and the password in api.proxy",
        ],
    );
    assert!(!agent.log().contains("wr0ng-Password"), "{}", agent.log());
    drop(agent);

    // A proxy that allows tunnels to one port alone, as many do.
    let narrow = Tiny::start("ConnectPort 443");
    let agent = Agent::start_at(&named(&backend.url()), backend.token(), &[("api.proxy", &narrow.address(""))]);
    eventually("the log names the proxy's answer", || agent.log().contains("answered 403"));
    has_words(&agent.log(), &["allow CONNECT to backend.test:", "set api.proxy to none"]);
    drop(agent);
}

#[test]
fn doctor_shows_the_proxy_and_what_is_behind_it() {
    let folder = Folder::new();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&folder, &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 400 -subj /CN=behind-authority"));
    openssl(&folder, &format!("req {key} -keyout own.key -out own.csr -subj /CN=backend.test"));
    std::fs::write(folder.path().join("names"), "subjectAltName=DNS:backend.test\n").expect("write");
    openssl(&folder, "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -days 90 -extfile names -out own.pem");
    let port = free_port();
    let mut server = Command::new("openssl");
    server.args(["s_server", "-www", "-quiet", "-cert", "own.pem", "-key", "own.key"]);
    server.args(["-accept", &format!("127.0.0.1:{port}")]);
    server.current_dir(folder.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Tls(server.spawn().expect("openssl s_server"));
    eventually("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let proxy = Tiny::with_password();
    let url = format!("https://backend.test:{port}");
    let ca = folder.path().join("ca.pem").display().to_string();
    let trust = [("security.tls.enabled", "true"), ("security.tls.caFile", ca.as_str()), ("api.timeout", "2s")];
    let right = proxy.address(&format!("me:{ENCODED}@"));
    let report = without_engine(&url, "x", &[&trust[..], &[("api.proxy", &right)]].concat());
    let shown = format!("through http://***@127.0.0.1:{} (api.proxy)", proxy.port);
    report.expect("proxy", "ok", &format!("calls and live lines go {shown}: a tunnel to backend.test:{port} in"));
    report.expect("proxy", "ok", "image pulls are the engine's");
    report.expect("dns", "ok", "this host's resolver is not asked");
    report.expect("tls", "ok", "backend.test, issued by behind-authority");
    let report = without_engine(&url, "x", &[("api.timeout", "2s"), ("api.proxy", &right)]);
    report.expect("tls", "fail", "UnknownIssuer");
    report.expect("backend", "fail", "(through the proxy http://***@");

    let wrong = proxy.address("me:x@");
    let report = without_engine(&url, "x", &[&trust[..], &[("api.proxy", &wrong)]].concat());
    report.expect("proxy", "fail", "it does not know the user");
    let gone = ("api.proxy", "http://127.0.0.1:1");
    let report = without_engine(&url, "x", &[&trust[..], &[gone]].concat());
    report.expect("proxy", "fail", "out of reach");
    let report = without_engine("http://127.0.0.1:9", "x", &[("api.timeout", "2s")]);
    report.expect("proxy", "ok", "calls and live lines go directly (neither api.proxy nor HTTP_PROXY names one)");
}
