//! Keys of a server and of its clients, made by `ssh-keygen`, and the lines by which clients know the server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Sshd, output};

/// A client's private key.
pub struct Key {
    pub path: PathBuf,
    pub text: String,
    pub public: String,
}

impl Sshd {
    /// Makes a key that is let in. `kind` are arguments of `ssh-keygen`, such as `-t rsa -m PEM`.
    pub fn client_key(&self, kind: &[&str], passphrase: &str) -> Key {
        let key = make_key(self.folder.path(), &crate::harness::unique("key"), kind, passphrase);
        self.authorize(&key.public);
        key
    }

    pub(super) fn make_host_keys(&self) {
        for kind in &self.host_keys {
            make_key(self.folder.path(), &format!("host_{kind}"), &["-t", kind], "");
        }
    }

    /// Gives it other host keys of the same kinds; they count from the next start.
    pub fn change_host_keys(&self) {
        for kind in &self.host_keys {
            fs::remove_file(self.path(&format!("host_{kind}"))).expect("the old host key");
        }
        self.make_host_keys();
    }

    /// Makes an authority and has it sign each host key, as `ssh-keygen -s` does for whole fleets.
    pub(super) fn sign_host_keys(&self) {
        let authority = make_key(self.folder.path(), "authority", &["-t", "ed25519"], "");
        for kind in &self.host_keys {
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-s"]).arg(&authority.path).args(["-I", "host", "-h", "-n", &self.host]);
            output(command.arg(self.path(&format!("host_{kind}.pub"))));
        }
    }

    /// The line by which OpenSSH's own client trusts all hosts of the authority.
    pub fn authority_line(&self) -> String {
        let key = fs::read_to_string(self.path("authority.pub")).expect("an authority");
        format!("@cert-authority * {}", key.trim())
    }

    /// The name under which its keys are known.
    pub fn known_name(&self) -> String {
        if self.port == 22 { self.host.clone() } else { format!("[{}]:{}", self.host, self.port) }
    }

    /// The line of a known_hosts file for its host key of this kind.
    pub fn known_hosts_line(&self, kind: &str) -> String {
        format!("{} {}", self.known_name(), self.public_host_key(kind))
    }

    /// Lines for all of its host keys.
    pub fn known_hosts(&self) -> String {
        self.host_keys.iter().map(|kind| self.known_hosts_line(kind) + "\n").collect()
    }

    /// Kind and base64 of a host key, without a comment.
    pub fn public_host_key(&self, kind: &str) -> String {
        let text = fs::read_to_string(self.path(&format!("host_{kind}.pub"))).expect("a host key");
        text.split(' ').take(2).collect::<Vec<_>>().join(" ").trim().to_owned()
    }

    /// `SHA256:…` of a host key.
    pub fn fingerprint(&self, kind: &str) -> String {
        let path = self.path(&format!("host_{kind}.pub"));
        let text = output(Command::new("ssh-keygen").arg("-lf").arg(path));
        text.split(' ').nth(1).expect("a fingerprint").to_owned()
    }
}

/// Makes a key pair in a folder, readable to its owner alone.
pub fn make_key(folder: &Path, name: &str, kind: &[&str], passphrase: &str) -> Key {
    let path = folder.join(name);
    output(Command::new("ssh-keygen").args(["-q", "-C", "test", "-N", passphrase, "-f"]).arg(&path).args(kind));
    let read = |path: &Path| fs::read_to_string(path).expect("the key");
    let public = read(&folder.join(format!("{name}.pub"))).trim().to_owned();
    Key { text: read(&path), public, path }
}
