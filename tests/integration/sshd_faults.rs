//! Below the SSH servers of the tests: processes by their id, a network whose cable can be pulled, a small disk; and the
//! rig's own tests, with the real `ssh`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sshd::{output, remove_user};

/// A process as `/proc` has it.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub uid: u32,
    /// The program's name, at most 15 bytes.
    pub name: String,
    /// Its arguments, joined by blanks.
    pub arguments: String,
}

impl Process {
    /// Of the server itself: newer ones have `sshd-session` and more.
    pub fn is_sshd(&self) -> bool {
        self.name == "sshd" || self.name.starts_with("sshd-")
    }
}

/// All processes that still run; the dead that nobody has waited for are left out.
pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|entry| process(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

/// One of them; none when it has ended.
pub fn process(pid: u32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    if matches!(field("State")?.as_str(), "Z" | "X") {
        return None;
    }
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
    let uid = field("Uid")?.parse().ok()?;
    Some(Process { pid, parent: field("PPid")?.parse().ok()?, uid, name: field("Name")?, arguments })
}

/// Sends a signal to processes by their ids; one that has ended meanwhile is no fault.
pub fn signal(name: &str, pids: &[u32]) {
    for pid in pids {
        let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).output();
    }
}

/// Kills processes by their ids.
pub fn end(pids: &[u32]) {
    signal("KILL", pids);
}

/// A network namespace that one cable connects with this host.
pub struct Network {
    /// Of the namespace, and of this host's end of the cable.
    pub name: String,
    /// This host's address on the cable.
    pub host: String,
    /// The address at the far end of the cable.
    pub guest: String,
}

impl Network {
    pub fn new() -> Self {
        let own = std::process::id();
        // The kernel refuses a name twice: to make the cable is to claim its addresses, also against another run.
        let claim = |n: &u32| ip(&format!("link add crt-{n} type veth peer name crt-{n}p")).is_ok();
        let n = (0..1000).map(|n| (own * 7 + n) % 16_000).find(claim).unwrap_or_else(|| {
            panic!(
                "no network for a server: {:?}; apt-get install iproute2",
                ip("link add crt-x type veth peer name crt-xp")
            )
        });
        let name = format!("crt-{n}");
        let address = |end: u32| format!("10.213.{}.{}", n * 4 / 256, n * 4 % 256 + end);
        let (host, guest) = (address(1), address(2));
        for step in [
            format!("link set {name} alias cronium-test-{own}"),
            format!("netns add {name}"),
            format!("link set {name}p netns {name}"),
            format!("addr add {host}/30 dev {name}"),
            format!("link set {name} up"),
            format!("-n {name} addr add {guest}/30 dev {name}p"),
            format!("-n {name} link set {name}p up"),
            format!("-n {name} link set lo up"),
        ] {
            ip(&step).unwrap_or_else(|error| panic!("ip {step}: {error}"));
        }
        Self { name, host, guest }
    }

    /// Pulls the cable: packets vanish in both directions without an error.
    pub fn cut(&self) {
        ip(&format!("-n {0} link set {0}p down", self.name)).expect("cut");
    }

    /// An IPv6 address at the far end that swallows packets: nobody has the station that they are sent to.
    pub fn dead_address(&self) -> String {
        let n: u16 = self.name.trim_start_matches("crt-").parse().expect("a number");
        let net = format!("2001:db8:{n:x}:");
        for step in [
            format!("addr add {net}:1/64 dev {} nodad", self.name),
            format!("neigh replace {net}:2 lladdr 02:00:00:00:00:01 dev {} nud permanent", self.name),
        ] {
            ip(&step).unwrap_or_else(|error| panic!("ip {step}: {error}"));
        }
        format!("{net}:2")
    }

    /// The address of this host's end of the cable.
    pub fn host(&self) -> String {
        let (net, end) = self.guest.rsplit_once('.').expect("an address");
        format!("{net}.{}", end.parse::<u32>().expect("a number") - 1)
    }

    /// An address that swallows the packets of the far end: nobody has the station that they are sent to.
    pub fn inner_dead_address(&self) -> String {
        let dead = "192.0.2.77";
        for step in [
            format!("-n {0} route add {dead} dev {0}p", self.name),
            format!("-n {0} neigh replace {dead} lladdr 02:00:00:00:00:01 dev {0}p nud permanent", self.name),
        ] {
            ip(&step).unwrap_or_else(|error| panic!("ip {step}: {error}"));
        }
        dead.to_owned()
    }

    pub fn restore(&self) {
        ip(&format!("-n {0} link set {0}p up", self.name)).expect("restore");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove_network(&self.name);
    }
}

fn remove_network(name: &str) {
    let _ = ip(&format!("link del {name}"));
    let _ = ip(&format!("netns del {name}"));
}

/// Runs `ip` with these words: what it printed, or its error.
pub fn ip(arguments: &str) -> Result<String, String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A disk of 256 KiB that everybody may write to.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it on a folder that it makes.
    pub fn mount(path: &Path) -> Self {
        fs::create_dir_all(path).expect("folder");
        output(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k,mode=1777", "cronium-test"]).arg(path));
        Self(path.to_owned())
    }

    /// Fills it except for this many bytes, in pages of 4096.
    pub fn fill(&self, but: usize) {
        let path = self.0.join("filler");
        // Written up to the end, then cut: nobody counts a file system's own needs right.
        let _ = fs::write(&path, vec![b'x'; 512 * 1024]);
        let length = fs::metadata(&path).expect("filler").len();
        let file = fs::File::options().write(true).open(&path).expect("filler");
        file.set_len(length.saturating_sub(but as u64)).expect("cut");
    }

    pub fn empty(&self) {
        let _ = fs::remove_file(self.0.join("filler"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a script that is ended later may still have a file open there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Removes what runs that were killed have left: users, networks and disks whose process is no more.
pub fn sweep() {
    let gone = |pid: &str| pid.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    for line in fs::read_to_string("/proc/mounts").unwrap_or_default().lines() {
        let mut words = line.split(' ');
        let (source, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let owner = path.split("/cronium-test-").nth(1).and_then(|rest| rest.split('-').next()).unwrap_or_default();
        if source == "cronium-test" && gone(owner) {
            let _ = Command::new("umount").arg("-l").arg(path).output();
        }
    }
    let links = ip("-o link show").unwrap_or_default();
    for line in links.lines() {
        let owner = line.split("alias cronium-test-").nth(1).and_then(|rest| rest.split_whitespace().next());
        let name = line.split_whitespace().nth(1).and_then(|name| name.split(['@', ':']).next()).unwrap_or_default();
        if owner.is_some_and(gone) && name.starts_with("crt-") {
            remove_network(name);
        }
    }
    for line in fs::read_to_string("/etc/passwd").unwrap_or_default().lines() {
        let mut fields = line.split(':');
        let (user, uid) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        let owner = user.strip_prefix("cs-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(gone) {
            let own: Vec<u32> = processes().iter().filter(|p| p.uid.to_string() == uid).map(|p| p.pid).collect();
            end(&own);
            remove_user(user);
        }
    }
}

mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::harness::{eventually, shared, unique};
    use crate::sshd::{ALL_KEYS, Options, Sshd};

    #[test]
    fn the_rigs_server_lets_its_keys_in_and_counts() {
        let _machine = shared();
        let sshd = Sshd::start(&Options { host_keys: ALL_KEYS, ..Options::default() });
        assert_eq!(output(&mut sshd.ssh(&["id", "-un"])), sshd.user);
        let rsa = sshd.client_key(&["-t", "rsa", "-b", "2048", "-m", "PEM"], "");
        assert!(rsa.text.contains("BEGIN RSA PRIVATE KEY"));
        assert_eq!(output(&mut sshd.ssh_as(&rsa, &["echo", "rsa"])), "rsa");
        assert_eq!((sshd.accepted(), sshd.logins(), sshd.commands()), (2, 2, 2), "{}", sshd.log());
        eventually("no connection is open", || sshd.open_connections() == 0);
        for kind in ALL_KEYS {
            assert!(sshd.fingerprint(kind).starts_with("SHA256:"));
        }
        let (user, folder) = (sshd.user.clone(), sshd.path(""));
        drop(sshd);
        assert!(!fs::read_to_string("/etc/passwd").expect("users").contains(&user) && !folder.exists());
    }

    #[test]
    fn a_server_may_have_few_programs_another_shell_and_a_password() {
        let _machine = shared();
        let few =
            Sshd::start(&Options { programs: Some(&["bash", "sh", "echo"]), shell: "/bin/dash", ..Options::default() });
        let mut found = few.ssh(&["echo \"$0 $PATH\"; command -v bash; command -v python3 || echo none"]);
        let place = few.path("programs").display().to_string();
        assert_eq!(output(&mut found), format!("dash {place}\n{place}/bash\nnone"));
        let closed = Sshd::start(&Options { shell: "/usr/sbin/nologin", ..Options::default() });
        let said = closed.ssh(&["true"]).output().expect("ssh");
        assert!(String::from_utf8_lossy(&said.stdout).contains("not available") && !said.status.success());

        let sshd = Sshd::start(&Options { password: true, ..Options::default() });
        let ask = sshd.path("ask");
        fs::write(&ask, format!("#!/bin/sh\necho '{}'\n", crate::sshd::PASSWORD)).expect("write");
        fs::set_permissions(&ask, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("mode");
        for method in ["password", "keyboard-interactive"] {
            // What comes later on the command line does not count, hence no key file here.
            let mut command = Command::new("ssh");
            command.args([
                "-F",
                "none",
                "-o",
                &format!("PreferredAuthentications={method}"),
                "-p",
                &sshd.port.to_string(),
            ]);
            command.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-l", &sshd.user]);
            command.args([&sshd.host, "echo in"]).env("SSH_ASKPASS", &ask).env("SSH_ASKPASS_REQUIRE", "force");
            assert_eq!(output(&mut command), "in", "{method}: {}", sshd.log());
            assert!(sshd.log().contains(&format!("Accepted {method}")), "{}", sshd.log());
        }
    }

    #[test]
    fn killed_sessions_end_connections_and_not_scripts() {
        let _machine = shared();
        let mut sshd = Sshd::with_config(&[]);
        let mark = unique("mark");
        let script = format!("setsid sh -c 'exec 0<&- >/dev/null 2>&1; sleep 300; : {mark}' & sleep 300");
        let mut client = sshd.ssh(&[&script]).spawn().expect("ssh");
        let marked = |sshd: &Sshd| sshd.user_processes().iter().filter(|p| p.arguments.contains(&mark)).count();
        eventually("the script runs", || marked(&sshd) >= 1 && sshd.open_connections() == 1);
        assert!(sshd.kill_sessions() >= 2, "the privileged process and the user's");
        assert_ne!(client.wait().expect("ssh").code(), Some(0));
        assert!(marked(&sshd) >= 1, "the script was ended too");
        assert_eq!(output(&mut sshd.ssh(&["echo", "again"])), "again", "the listener was ended too");
        sshd.reboot();
        assert_eq!(marked(&sshd), 0);
        let before = sshd.fingerprint("ed25519");
        sshd.stop();
        sshd.change_host_keys();
        sshd.start_again();
        assert_ne!(sshd.fingerprint("ed25519"), before);
        assert_eq!(output(&mut sshd.ssh(&["echo", "new keys"])), "new keys");
    }

    #[test]
    fn a_frozen_server_answers_when_it_is_thawed() {
        let _machine = shared();
        let sshd = Sshd::with_config(&[]);
        sshd.freeze();
        let mut client = sshd.ssh(&["echo", "late"]).stdout(std::process::Stdio::piped()).spawn().expect("ssh");
        std::thread::sleep(Duration::from_millis(400));
        assert!(client.try_wait().expect("wait").is_none(), "it answered");
        sshd.thaw();
        assert_eq!(client.wait_with_output().expect("ssh").stdout, b"late\n");
    }

    #[test]
    fn a_pulled_cable_stops_bytes_and_loses_none() {
        let _machine = shared();
        let sshd = Sshd::start_in_netns();
        let script = "for i in $(seq 1 40); do echo $i; sleep 0.05; done";
        let client = sshd.ssh(&[script]).stdout(std::process::Stdio::piped()).spawn().expect("ssh");
        eventually("it runs", || sshd.commands() == 1);
        let network = sshd.network.as_ref().expect("network");
        network.cut();
        let begun = Instant::now();
        let other = sshd.ssh(&["true"]).output();
        assert!(!other.expect("ssh").status.success(), "a way round the cable, after {:?}", begun.elapsed());
        network.restore();
        let got = String::from_utf8(client.wait_with_output().expect("ssh").stdout).expect("text");
        assert_eq!(got, (1..=40).map(|n| format!("{n}\n")).collect::<String>());
        let name = network.name.clone();
        drop(sshd);
        assert!(!Path::new("/run/netns").join(&name).exists());
        assert!(ip(&format!("link show {name}")).is_err());
    }

    #[test]
    fn the_small_disk_is_small() {
        let _machine = shared();
        let mut sshd = Sshd::with_config(&[]);
        let (place, folder) = (sshd.mount_small_disk(), sshd.path(""));
        let disk = sshd.disk.as_ref().expect("a disk");
        disk.fill(8192);
        assert!(fs::write(place.join("a"), vec![1; 8192]).is_ok());
        assert!(fs::write(place.join("b"), vec![1; 8192]).is_err());
        disk.empty();
        assert!(fs::write(place.join("b"), vec![1; 8192]).is_ok());
        drop(sshd);
        assert!(!folder.exists(), "the disk is still mounted");
    }
}
