//! A script on a server whose connection waits, beside OpenSSH's client over a connection that waits (`ControlMaster`).
//!
//! The server is a real sshd on the loopback, with OpenSSH's own defaults but for its port, its keys and its pid file.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cronium_dev_backend::JobRow;
use serde_json::json;

use crate::Setup;
use crate::agent::{Agent, job, unique};
use crate::jobs::NO_RATE_LIMIT;
use crate::table::Table;

type Outcome<T> = Result<T, String>;

const SCRIPT: &str = "echo done";
/// Until sshd answers.
const START: Duration = Duration::from_secs(10);

/// From the backend's answer with the job to the receipt of its first line.
pub(crate) fn warm(setup: &Setup, table: &mut Table) -> Outcome<()> {
    let server = Sshd::start()?;
    let known = server.folder.join("known_hosts").display().to_string();
    let settings = [
        NO_RATE_LIMIT,
        ("ssh.security.strictHostKeyChecking", "false"),
        ("ssh.security.knownHostsFile", known.as_str()),
        ("jobs.maxConcurrent", "1"),
    ];
    let mut agent = Agent::start(&setup.agent, &setup.socket, &settings)?;
    agent.wait_ready()?;
    let key = std::fs::read_to_string(server.folder.join("key")).map_err(|error| error.to_string())?;
    let mut run = || {
        let mut one = job(SCRIPT, &json!({}));
        one["type"] = json!("ssh");
        one["execution"]["target"] = json!({"type": "server", "serverId": "1", "serverDetails": {"id": "1", "name": "bench",
            "host": "127.0.0.1", "port": server.port, "username": "root", "privateKey": key}});
        let row = agent.finish(vec![one])?.remove(0);
        let line = agent.backend.lines(&row.id).into_iter().find(|line| line.stream == "stdout");
        let line = line.ok_or_else(|| format!("job {} has no line", row.id))?;
        times(&row, line.received).ok_or_else(|| format!("job {} has no times", row.id))
    };
    // The first of each opens the connection.
    run()?;
    server.client()?;
    let (mut lines, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..setup.size.serial {
        let (line, report) = run()?;
        let floor = server.client()?;
        lines.push((line, floor));
        whole.push(report);
    }
    table.pairs("first line of a script on a server, connected", "ms", &lines, None);
    table.alone("its report", "ms", crate::table::median(whole));
    Ok(())
}

/// Milliseconds from the hand-out to the first line, and to the report.
fn times(row: &JobRow, line: i128) -> Option<(f64, f64)> {
    let (claimed, report) = (row.claimed.as_ref()?, row.reports.iter().find(|report| report.terminal)?);
    #[allow(clippy::cast_precision_loss)]
    let ms = |nanos: i128| nanos as f64 / 1e6;
    Some((ms(line - claimed.unix_nanos), ms(report.at.unix_nanos - claimed.unix_nanos)))
}

/// One server, and one connection of OpenSSH's client to it.
struct Sshd {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Sshd {
    fn start() -> Outcome<Self> {
        let folder = std::env::temp_dir().join(unique("cronium-bench-sshd"));
        std::fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let path = |name: &str| folder.join(name).display().to_string();
        for name in ["host", "key"] {
            ended(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path(name)]), "ssh-keygen")?;
        }
        std::fs::copy(folder.join("key.pub"), folder.join("authorized")).map_err(|error| error.to_string())?;
        let port = crate::agent::free_port()?;
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
             SetEnv HOME={}\n",
            path("host"),
            path("authorized"),
            // What this host's root has in its login files is not measured.
            folder.display()
        );
        std::fs::write(folder.join("config"), config).map_err(|error| error.to_string())?;
        // sshd wants its own path, and this folder.
        let _ = std::fs::create_dir_all("/run/sshd");
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-f", &path("config")]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| format!("sshd (package openssh-server): {error}"))?;
        let server = Self { child, folder, port };
        let until = Instant::now() + START;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > until {
                return Err("sshd did not answer".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// The same script by `ssh`; milliseconds.
    fn client(&self) -> Outcome<f64> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let begun = Instant::now();
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-i", &path("key"), "-p", &self.port.to_string(), "-o", "BatchMode=yes"]);
        command.args([
            "-o",
            "StrictHostKeyChecking=accept-new",
            "-o",
            &format!("UserKnownHostsFile={}", path("known")),
        ]);
        command.args([
            "-o",
            "ControlMaster=auto",
            "-o",
            "ControlPersist=60",
            "-o",
            &format!("ControlPath={}", path("c")),
        ]);
        ended(command.args(["root@127.0.0.1", SCRIPT]), "ssh")?;
        Ok(begun.elapsed().as_secs_f64() * 1000.0)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let control = format!("ControlPath={}", self.folder.join("c").display());
        let mut command = Command::new("ssh");
        let _ = ended(command.args(["-F", "none", "-o", &control, "-O", "exit", "root@127.0.0.1"]), "ssh");
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(Path::new(&self.folder));
    }
}

fn ended(command: &mut Command, name: &str) -> Outcome<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} ended with {status}")),
        Err(error) => Err(format!("{name}: {error}")),
    }
}
