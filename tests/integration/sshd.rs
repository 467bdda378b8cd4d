//! Real OpenSSH servers, as many as a test needs: each with its own folder, host keys, port and user, and with
//! the faults that a test asks for, made for real.
//!
//! A separate user makes it easy to say what a job left behind: any process that this user still has. Names carry this
//! process's id, so that tests can run side by side, and what a killed run left is removed by the next.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use crate::harness::{Folder, LONG, eventually, free_port};
use crate::sshd_faults::{Network, Process, SmallDisk, end, processes, signal, sweep};

mod keys;
mod users;

pub use keys::{Key, make_key};
pub use users::remove_user;

const SSHD: &str = "/usr/sbin/sshd";
/// All kinds of host keys that a server of today offers.
pub const ALL_KEYS: &[&str] = &["ed25519", "ecdsa", "rsa"];
/// Password of the user of every server; keys are what opens it unless [`Options::password`] is set.
pub const PASSWORD: &str = "canary-pass word-7731";

/// How a server is to be.
#[derive(Clone)]
pub struct Options<'a> {
    /// Kinds of its host keys, as `ssh-keygen -t` has them.
    pub host_keys: &'a [&'a str],
    /// Lines of its configuration; they win over the rig's own.
    pub config: &'a [&'a str],
    /// The user has [`PASSWORD`], and PAM asks for it (keyboard-interactive needs that).
    pub password: bool,
    /// The user's login shell.
    pub shell: &'a str,
    /// What `/bin/sh` is there, a path of this machine; none: what it is here.
    pub sh: Option<&'a str>,
    /// The only programs that a session finds, by name; none: the usual path.
    pub programs: Option<&'a [&'a str]>,
    /// Where it listens, unless it has a separate network.
    pub address: &'a str,
    /// In a network namespace, whose cable can be pulled.
    pub network: bool,
    /// In the network namespace of another server, by its name: with a loopback address, that server alone can reach it.
    pub inside: Option<&'a str>,
    /// Its host keys are signed by an authority, and the certificates are offered too.
    pub certificates: bool,
    /// OpenSSH 9.8 and later refuse a client for a while that failed a few times. A test whose logins fail on purpose
    /// does without.
    pub forgiving: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            host_keys: &["ed25519"],
            config: &[],
            password: false,
            shell: "/bin/bash",
            sh: None,
            programs: None,
            address: "127.0.0.1",
            network: false,
            inside: None,
            certificates: false,
            forgiving: false,
        }
    }
}

/// One server, ended with all of its sessions when it is dropped.
pub struct Sshd {
    listener: Option<Child>,
    /// Logs of earlier starts and of this one.
    logs: Vec<PathBuf>,
    host_keys: Vec<String>,
    pub port: u16,
    /// The address it listens on.
    pub host: String,
    /// Its only user.
    pub user: String,
    pub uid: u32,
    /// See [`Options::sh`].
    sh: Option<String>,
    /// A key that is let in.
    pub key: Key,
    pub network: Option<Network>,
    /// See [`Options::inside`].
    inside: Option<String>,
    /// See [`Sshd::mount_small_disk`].
    pub disk: Option<SmallDisk>,
    // The last: a folder with something mounted in it cannot be removed.
    folder: Folder,
}

impl Sshd {
    pub fn start(options: &Options<'_>) -> Self {
        prepare();
        let folder = Folder::new();
        let network = options.network.then(Network::new);
        let host = network.as_ref().map_or(options.address.to_owned(), |network| network.guest.clone());
        let (user, uid) = users::add_user(folder.path(), options);
        let key = make_key(folder.path(), "client", &["-t", "ed25519"], "");
        let mut server = Self {
            listener: None,
            logs: Vec::new(),
            host_keys: options.host_keys.iter().map(|&kind| kind.to_owned()).collect(),
            port: 0,
            host,
            user,
            uid,
            sh: options.sh.map(str::to_owned),
            key,
            network,
            inside: options.inside.map(str::to_owned),
            disk: None,
            folder,
        };
        server.authorize(&server.key.public.clone());
        server.make_host_keys();
        if options.certificates {
            server.sign_host_keys();
        }
        // Somebody else may take the port between the look and the use.
        for _ in 0..5 {
            server.port = free_port();
            server.write_config(options);
            if server.launch() {
                return server;
            }
        }
        panic!("sshd found no port: {}", server.log());
    }

    /// Starts one with these lines in its configuration.
    pub fn with_config(config: &[&str]) -> Self {
        Self::start(&Options { config, ..Options::default() })
    }

    /// One in a network namespace.
    pub fn start_in_netns() -> Self {
        Self::start(&Options { network: true, ..Options::default() })
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A directory for jobs, not there yet, which the user can make.
    pub fn temp_dir(&self) -> PathBuf {
        self.path("home/jobs")
    }

    /// Mounts a small disk in its folder, to be filled; where it is.
    pub fn mount_small_disk(&mut self) -> PathBuf {
        let path = self.path("small");
        self.disk = Some(SmallDisk::mount(&path));
        path
    }

    /// What is in [`Sshd::temp_dir`].
    pub fn job_dirs(&self) -> Vec<PathBuf> {
        list(&self.temp_dir())
    }

    /// Lets a public key in.
    pub fn authorize(&self, public: &str) {
        let path = self.path("authorized_keys");
        let before = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, format!("{before}{public}\n")).expect("authorized_keys");
    }

    // ---- start and end ----

    /// What it needs to run beside others below /tmp, and a log that can be counted; all else is OpenSSH's own default,
    /// as on the servers of the world. What a test wants otherwise it asks for.
    fn write_config(&self, options: &Options<'_>) {
        // Of two lines with the same keyword the first wins.
        let mut text: String = options.config.iter().map(|line| format!("{line}\n")).collect();
        let folder = self.folder.path().display();
        for kind in &self.host_keys {
            text += &format!("HostKey {folder}/host_{kind}\n");
            if options.certificates {
                text += &format!("HostCertificate {folder}/host_{kind}-cert.pub\n");
            }
        }
        if let Some(programs) = options.programs {
            text += &format!("SetEnv PATH={}\n", self.link_programs(programs).display());
        }
        // StrictModes refuses keys below a folder that all may write to, such as /tmp.
        text += &format!(
            "Port {}\nListenAddress {}\nPidFile none\nStrictModes no\nAuthorizedKeysFile {folder}/authorized_keys\n\
             LogLevel VERBOSE\n",
            self.port, self.host,
        );
        if options.password {
            text += "UsePAM yes\n";
        }
        if options.forgiving && knows_penalties() {
            text += "PerSourcePenalties no\n";
        }
        fs::write(self.path("sshd_config"), text).expect("sshd_config");
    }

    /// A folder with links to these programs alone.
    fn link_programs(&self, programs: &[&str]) -> PathBuf {
        let folder = self.path("programs");
        fs::create_dir_all(&folder).expect("folder");
        for name in programs {
            let found = ["/usr/local/bin", "/usr/bin", "/bin"].map(|place| Path::new(place).join(name));
            let found = found.iter().find(|path| path.exists()).expect("the program");
            let _ = std::os::unix::fs::symlink(found, folder.join(name));
        }
        folder
    }

    /// Starts the listener; false when somebody has the port.
    fn launch(&mut self) -> bool {
        let log = self.path(&format!("log-{}", self.logs.len()));
        let file = File::create(&log).expect("log");
        self.logs.push(log.clone());
        let namespace = self.network.as_ref().map(|network| network.name.as_str()).or(self.inside.as_deref());
        let mut command = match namespace {
            // Unlike `ip netns exec` this leaves the mounts alone: what a test mounts later is seen.
            Some(name) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg(SSHD);
                command
            }
            // Its own mounts, in which another program stands where `/bin/sh` points to.
            None if self.sh.is_some() => {
                let place = fs::canonicalize("/bin/sh").expect("/bin/sh");
                let mount = "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"";
                let mut command = Command::new("unshare");
                command.args(["-m", "/bin/sh", "-c", mount, self.sh.as_deref().unwrap_or_default()]);
                command.arg(place).arg(SSHD);
                command
            }
            None => Command::new(SSHD),
        };
        command.args(["-D", "-e", "-f"]).arg(self.path("sshd_config"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let mut child = command.spawn().expect("sshd starts");
        let until = Instant::now() + LONG;
        loop {
            let said = fs::read_to_string(&log).unwrap_or_default();
            if said.contains("Server listening on") {
                self.listener = Some(child);
                return true;
            }
            if child.try_wait().expect("wait").is_some() {
                assert!(said.contains("already in use"), "sshd ended: {said}");
                return false;
            }
            assert!(Instant::now() < until, "sshd does not listen: {said}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn listener_pid(&self) -> u32 {
        self.listener.as_ref().expect("a running server").id()
    }

    /// The host goes away: nothing listens, every connection is cut. Scripts go on.
    pub fn stop(&mut self) {
        let Some(mut child) = self.listener.take() else { return };
        let sessions = sessions_below(child.id());
        // The listener first, so that no new session comes; stopped ones do not hear TERM.
        let _ = child.kill();
        let _ = child.wait();
        end(&sessions);
    }

    /// Listens again on the same port.
    pub fn start_again(&mut self) {
        assert!(self.listener.is_none(), "it runs");
        eventually("the port is free again", || self.launch());
    }

    /// What a reboot does to a host whose temporary directory is in memory.
    pub fn reboot(&mut self) {
        self.stop();
        self.end_user_processes();
        let _ = fs::remove_dir_all(self.temp_dir());
        self.start_again();
    }

    // ---- faults ----

    /// Kills the processes that serve connections, not the listener and not the scripts; how many there were.
    pub fn kill_sessions(&self) -> usize {
        let sessions = sessions_below(self.listener_pid());
        end(&sessions);
        sessions.len()
    }

    /// It neither answers nor lets go: the kernel still takes connections for it.
    pub fn freeze(&self) {
        signal("STOP", &[self.listener_pid()]);
        signal("STOP", &sessions_below(self.listener_pid()));
    }

    pub fn thaw(&self) {
        signal("CONT", &sessions_below(self.listener_pid()));
        signal("CONT", &[self.listener_pid()]);
    }

    // ---- what can be seen ----

    /// All that its starts have logged.
    pub fn log(&self) -> String {
        self.logs.iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect()
    }

    /// TCP connections that it has accepted so far.
    pub fn accepted(&self) -> usize {
        self.log().lines().filter(|line| line.starts_with("Connection from ")).count()
    }

    /// Logins that succeeded so far.
    pub fn logins(&self) -> usize {
        self.log().lines().filter(|line| line.starts_with("Accepted ") && line.contains(" ssh2")).count()
    }

    /// Commands that were started so far, each a channel of a connection.
    pub fn commands(&self) -> usize {
        self.log().lines().filter(|line| line.starts_with("Starting session:")).count()
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        let listener = self.listener_pid();
        processes().iter().filter(|process| process.parent == listener).count()
    }

    /// What its user runs now, sshd's own processes left out.
    pub fn user_processes(&self) -> Vec<Process> {
        let mut all = processes();
        all.retain(|process| process.uid == self.uid && !process.is_sshd());
        all
    }

    /// Kills them.
    pub fn end_user_processes(&self) {
        eventually("the user's processes are gone", || {
            let all: Vec<u32> = self.user_processes().iter().map(|process| process.pid).collect();
            end(&all);
            all.is_empty()
        });
    }

    /// A command to run there by the real `ssh`, which knows the host.
    pub fn ssh(&self, arguments: &[&str]) -> Command {
        self.ssh_as(&self.key, arguments)
    }

    /// The same with another key.
    pub fn ssh_as(&self, key: &Key, arguments: &[&str]) -> Command {
        let known = self.path("known_hosts.client");
        fs::write(&known, self.known_hosts()).expect("known_hosts");
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-i"]).arg(&key.path);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
        command.args(["-p", &self.port.to_string(), "-l", &self.user, &self.host]).args(arguments);
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[allow(clippy::print_stderr)]
            {
                eprintln!("---- log of sshd on {} ----\n{}", self.known_name(), crate::harness::tail(&self.log(), 30));
            }
        }
        self.stop();
        // Not `eventually`: a panic while another unwinds would end the whole run.
        for _ in 0..100 {
            let all: Vec<u32> = self.user_processes().iter().map(|process| process.pid).collect();
            if all.is_empty() {
                break;
            }
            end(&all);
            std::thread::sleep(Duration::from_millis(20));
        }
        remove_user(&self.user);
    }
}

/// The names in a folder; none when it is not there.
pub fn list(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut all: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.sort();
    all
}

/// Runs a command that must succeed; its standard output.
pub fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// The processes of sshd below a listener, parents first.
fn sessions_below(listener: u32) -> Vec<u32> {
    let all = processes();
    let mut family = vec![listener];
    let mut at = 0;
    while at < family.len() {
        let parent = family[at];
        family.extend(all.iter().filter(|p| p.parent == parent && p.is_sshd()).map(|p| p.pid));
        at += 1;
    }
    family.split_off(1)
}

/// Once for the run: what every server needs, with advice when it is not there.
fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        assert!(Path::new(SSHD).exists(), "no {SSHD}: apt-get install openssh-server, or run scripts/test.sh");
        let uid = output(Command::new("id").arg("-u"));
        assert_eq!(uid, "0", "the tests' SSH servers have users of their own: run the tests as root");
        fs::create_dir_all("/run/sshd").expect("/run/sshd, where sshd locks itself up");
        sweep();
    });
}

/// Whether this sshd is one of those that penalise.
fn knows_penalties() -> bool {
    static KNOWS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *KNOWS.get_or_init(|| {
        let said = Command::new(SSHD).args(["-t", "-f", "/dev/null", "-o", "PerSourcePenalties=no"]).output();
        !String::from_utf8_lossy(&said.expect("sshd").stderr).contains("PerSourcePenalties")
    })
}

/// A listener that takes connections into the kernel's queue and never says a word.
pub fn silent_host() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("address").port();
    (listener, port)
}
