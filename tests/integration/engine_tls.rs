//! An engine behind TLS, in a separate network, as on another host; and certificates that must not be believed.

use std::process::{Command, Stdio};

use cronium_dev_backend::Via;

use crate::doctor::{Report, Tls, openssl};
use crate::engine_restart::Engine;
use crate::harness::{
    Folder, binary, eventually, finish, finished, free_port, job, report, shared, stdout, with_socket,
};
use crate::ssh_rig::has_words;
use crate::sshd_faults::Network;

const IMAGE: &str = "cronium/runner:bash-alpine";
const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// A folder with an authority, and the files of an agent: `ca.pem`, `cert.pem`, `key.pem`.
fn authority(name: &str) -> Folder {
    let folder = Folder::new();
    openssl(&folder, &format!("req -x509 {KEY} -keyout ca.key -out ca.pem -days 400 -subj /CN={name}"));
    sign(&folder, ("key.pem", "cert.pem"), "extendedKeyUsage=clientAuth", "-days 90");
    folder
}

/// Signs a certificate with this extension.
fn sign(folder: &Folder, (key, cert): (&str, &str), extension: &str, days: &str) {
    openssl(folder, &format!("req {KEY} -keyout {key} -out own.csr -subj /CN=own"));
    std::fs::write(folder.path().join("extension"), format!("{extension}\n")).expect("write");
    let ca = "-CA ca.pem -CAkey ca.key -CAcreateserial";
    openssl(folder, &format!("x509 -req -in own.csr {ca} {days} -extfile extension -out {cert}"));
}

/// A command of the agent's about this engine: code, and all that it said.
fn ask(arguments: &[&str], endpoint: &str, files: &Folder) -> (Option<i32>, String) {
    let state = Folder::new();
    let mut command = binary();
    command.args(arguments).env("HOME", state.path()).current_dir(state.path());
    for setting in [
        format!("container.docker.endpoint={endpoint}"),
        "container.docker.tlsVerify=true".to_owned(),
        format!("container.docker.certPath={}", files.path().display()),
        format!("state.dir={}", state.path().join("state").display()),
        "api.endpoint=http://127.0.0.1:9".to_owned(),
    ] {
        command.arg("--set").arg(setting);
    }
    let output = command.env("CRONIUM_API_TOKEN", "x").output().expect("it ran");
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    (output.status.code(), said)
}

#[test]
fn jobs_run_on_an_engine_on_another_host_over_tls() {
    let _machine = shared();
    let (network, files) = (Network::new(), authority("engine-authority"));
    let extension = format!("subjectAltName=IP:{}\nextendedKeyUsage=serverAuth", network.guest);
    sign(&files, ("server.key", "server.pem"), &extension, "-days 90");
    let (folder, endpoint) = (files.path().display(), format!("tcp://{}:2376", network.guest));
    let before = format!(
        "set -- \"$@\" --host {endpoint} --tlsverify --tlscacert {folder}/ca.pem --tlscert {folder}/server.pem --tlskey \
         {folder}/server.key; exec nsenter --net=/run/netns/{} \"$@\"",
        network.name
    );
    let engine = Engine::start_after(false, &before, &[IMAGE]);
    let backend = with_socket();
    let path = folder.to_string();
    let tls = [("container.docker.endpoint", endpoint.as_str()), ("container.docker.tlsVerify", "true")];
    let tls = [&tls[..], &[("container.docker.certPath", path.as_str())]].concat();
    let agent = engine.agent(&backend, &tls);

    // Both directions, with more than any buffer holds; the end of stdin is seen, and the exit code is the script's.
    let filler = format!("# {}\n", "x".repeat(98)).repeat(20_000);
    let script = format!("{filler}for n in $(seq 1 20000); do echo \"line $n of the output\"; done; cat; exit 7");
    let row = finish(&backend, job("BASH", &script));
    assert_eq!(row.exit_code, Some(7), "{row:.400?}");
    assert_eq!(stdout(&row).lines().count(), 20_000);
    assert!(stdout(&row).ends_with("line 20000 of the output\n"));
    assert!(!backend.lines(&row.id).is_empty());
    let row = finish(&backend, job("BASH", "echo hi; sleep 1.2"));
    let memory = report(&row)["metrics"]["resourceUsage"]["peakMemory"].as_u64().expect("bytes");
    assert!(memory > 100_000, "{memory}");

    let id = backend.enqueue(job("BASH", "echo begun; sleep 60")).expect("queued");
    eventually("it runs", || !backend.lines(&id).is_empty());
    backend.cancel(&id, Via::Row);
    assert_eq!(finished(&backend, &id).status, "cancelled");
    agent.stop();

    // A warm container waits behind its stream.
    let warm = [&tls[..], &[("container.warm.bash", "1")]].concat();
    let agent = engine.agent(&backend, &warm);
    agent.wait_warm();
    assert_eq!(stdout(&finish(&backend, job("BASH", "echo warm"))), "warm\n");
    assert_eq!(agent.taken(), 1);
    agent.stop();

    // The variables of the docker command.
    let state = Folder::new();
    std::fs::write(state.path().join("a.sh"), "echo by the variables").expect("write");
    let mut command = binary();
    command.args(["exec", "a.sh", "--set", "container.network.mode=none"]).current_dir(state.path());
    command.env("DOCKER_HOST", &endpoint).env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", &path);
    let output = command.output().expect("exec");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "by the variables\n", "{output:?}");

    // Without a certificate the engine refuses, and so it does with one of another authority.
    let (none, other) = (Folder::new(), authority("another-authority"));
    std::fs::copy(files.path().join("ca.pem"), none.path().join("ca.pem")).expect("copy");
    std::fs::copy(files.path().join("ca.pem"), other.path().join("ca.pem")).expect("copy");
    for files in [&none, &other] {
        let (code, said) = ask(&["gc"], &endpoint, files);
        assert_ne!(code, Some(0), "{said}");
        has_words(&said, &["the engine did not accept our certificate: check cert.pem and key.pem"]);
    }
    let mut command = binary();
    command.args([
        "doctor",
        "--json",
        "--set",
        "container.network.mode=none",
        "--set",
        "api.endpoint=http://127.0.0.1:9",
    ]);
    command.env("DOCKER_HOST", &endpoint).env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", &path);
    let output = command.env("CRONIUM_API_TOKEN", "x").current_dir(state.path()).output().expect("doctor");
    let report = Report::of(&output);
    report.expect("engine", "ok", &endpoint);
    report.expect("engine-host", "warn", "over TLS. Helpers of scripts");
}

#[test]
fn each_fault_of_a_certificate_is_named_with_its_cure() {
    let (files, other) = (authority("engine-authority"), authority("another-authority"));
    for (extension, days, trusts, words) in [
        ("subjectAltName=IP:127.0.0.1", "-days 9", &other, ["UnknownIssuer", "another authority than that of ca.pem"]),
        (
            "subjectAltName=IP:127.0.0.1",
            "",
            &files,
            ["expired", "renew the engine's certificate, or check this host's clock"],
        ),
        (
            "subjectAltName=DNS:engine.example",
            "-days 9",
            &files,
            ["not valid for name", "make one with this name (subjectAltName)"],
        ),
    ] {
        if days.is_empty() {
            expired(&files, extension);
        } else {
            sign(&files, ("server.key", "server.pem"), extension, days);
        }
        let port = free_port();
        let mut server = Command::new("openssl");
        server.args(["s_server", "-quiet", "-cert", "server.pem", "-key", "server.key", "-accept"]);
        server.arg(format!("127.0.0.1:{port}")).current_dir(files.path());
        server.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let _server = Tls(server.spawn().expect("openssl s_server"));
        eventually("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        let endpoint = format!("tcp://127.0.0.1:{port}");
        let (code, said) = ask(&["gc"], &endpoint, trusts);
        assert_eq!(code, Some(3), "{said}");
        has_words(&said, &["cannot reach the container engine at", &endpoint, "no TLS connection"]);
        has_words(&said, &words);
    }
    // A port that speaks plain HTTP, and a folder that lacks a half.
    let plain = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("tcp://{}", plain.local_addr().expect("an address"));
    let server = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = plain.accept().expect("a client");
        let _ = stream.read(&mut [0; 16]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    });
    let (_, said) = ask(&["gc"], &endpoint, &files);
    has_words(&said, &["the engine may speak plain HTTP on this port"]);
    server.join().expect("the server");
    std::fs::remove_file(files.path().join("key.pem")).expect("remove");
    let (code, said) = ask(&["gc"], &endpoint, &files);
    assert_eq!(code, Some(2), "{said}");
    has_words(&said, &["container.docker.certPath", "key.pem is missing"]);
}

/// A certificate whose time is over: `openssl x509` of Debian 12 makes none, `openssl ca` does.
fn expired(folder: &Folder, extension: &str) {
    let conf = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nnew_certs_dir=.\nserial=serial\ndefault_md=sha256\npolicy=p\n[p]\n\
                commonName=supplied\n";
    for (name, text) in [("conf", conf), ("index", ""), ("serial", "77\n"), ("extension", extension)] {
        std::fs::write(folder.path().join(name), text).expect("write");
    }
    openssl(folder, &format!("req {KEY} -keyout server.key -out own.csr -subj /CN=own"));
    openssl(
        folder,
        "ca -batch -notext -config conf -cert ca.pem -keyfile ca.key -in own.csr -out server.pem -extfile extension \
         -startdate 20200101000000Z -enddate 20200201000000Z",
    );
}
