//! `ssh.jumps`: the jump hosts by name, each with its login.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::draft::Draft;
use super::files;
use super::show::in_flow;
use super::ssh::{member, members, port, text};
use super::yaml::{self, Entry, Node};
use crate::job::{Server, is_host, is_user};
use crate::limits::{CONFIG_LIST_MAX, PRIVATE_KEY_MAX};
use crate::secret::Secret;

const JUMPS: &str = "ssh.jumps";
const HOSTS: &str = "ssh.hosts";
const MEMBERS: &[&str] = &["host", "port", "user", "keyFile", "passphraseFile"];
const SSH_PORT: u16 = 22;

/// The jump hosts, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JumpTable(Arc<[JumpHost]>);

/// A server that forwards connections to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JumpHost {
    /// Its name, address and login. The key is there once the files were read.
    pub server: Server,
    pub key_file: PathBuf,
    pub passphrase_file: Option<PathBuf>,
}

impl JumpTable {
    /// The jump host of this name.
    pub fn get(&self, name: &str) -> Option<&Server> {
        self.iter().map(|jump| &jump.server).find(|server| server.name == name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &JumpHost> {
        self.0.iter()
    }

    /// Reads YAML: a section with a name for each, or nothing.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let entries = match yaml::parse(text).map_err(|error| error.text)? {
            Node::Null => return Ok(Self::default()),
            Node::Map(entries) if entries.len() <= CONFIG_LIST_MAX => entries,
            Node::Map(_) => return Err(format!("at most {CONFIG_LIST_MAX} jump hosts")),
            other => return Err(format!("it is {}, not a section with a name for each", other.name())),
        };
        let read = |(at, entry): (usize, &Entry)| {
            let name = in_flow(&entry.name);
            if entry.name.is_empty() || entry.name.chars().any(char::is_control) {
                return Err(format!("{name} is no name"));
            }
            if entries[..at].iter().any(|before| before.name == entry.name) {
                return Err(format!("it has {name} twice"));
            }
            jump(&entry.name, &entry.value).map_err(|why| format!("{name}: {why}"))
        };
        entries.iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// As [`JumpTable::parse`] reads it; empty without one.
    pub(super) fn shown(&self) -> String {
        let all: Vec<String> = self.iter().map(JumpHost::shown).collect();
        if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(", ")) }
    }

    /// The check of the key: the text in its final form.
    pub(super) fn check(text: &str) -> Result<String, String> {
        Self::parse(text).map(|table| table.shown())
    }
}

impl JumpHost {
    fn shown(&self) -> String {
        let path = |path: &Path| in_flow(&path.to_string_lossy());
        let Server { name, host, port, user, .. } = &self.server;
        let mut members = vec![
            format!("host: {}", in_flow(host)),
            format!("port: {port}"),
            format!("user: {}", in_flow(user)),
            format!("keyFile: {}", path(&self.key_file)),
        ];
        members.extend(self.passphrase_file.iter().map(|file| format!("passphraseFile: {}", path(file))));
        format!("{}: {{{}}}", in_flow(name), members.join(", "))
    }
}

fn jump(name: &str, node: &Node) -> Result<JumpHost, String> {
    let members = members(node, MEMBERS)?;
    let needed = |name: &str| text(member(members, name).unwrap_or(&Node::Null), name);
    let (host, user, key_file) = (needed("host")?, needed("user")?, needed("keyFile")?);
    if !is_host(host) {
        return Err(format!("its host {} is no name or address", in_flow(host)));
    }
    if !is_user(user) {
        return Err("its user is empty or no name of a user".to_owned());
    }
    let file = |text: &str, name: &str| match text {
        "" => Err(format!("its {name} is empty")),
        text if text.contains('\0') => Err(format!("its {name} is no path")),
        text => Ok(PathBuf::from(text)),
    };
    let passphrase = member(members, "passphraseFile").map(|node| text(node, "passphraseFile")).transpose()?;
    Ok(JumpHost {
        server: Server {
            id: None,
            name: name.to_owned(),
            host: host.to_owned(),
            port: member(members, "port").map_or(Ok(SSH_PORT), port)?,
            user: user.to_owned(),
            private_key: None,
            certificate: None,
            passphrase: None,
            password: None,
            jump: None,
        },
        key_file: file(key_file, "keyFile")?,
        passphrase_file: passphrase.map(|text| file(text, "passphraseFile")).transpose()?,
    })
}

/// Reads the files, and looks whether each jump host that a row of `ssh.hosts` names is there.
pub(super) fn check(draft: &mut Draft<'_>) {
    if !draft.good(&[JUMPS]) {
        return;
    }
    let mut jumps = draft.config.ssh.jumps.0.to_vec();
    for jump in &mut jumps {
        if let Err(why) = read_login(draft, jump) {
            draft.refuse(JUMPS, format!("{}: {why}", in_flow(&jump.server.name)));
        }
    }
    draft.config.ssh.jumps = JumpTable(jumps.into());
    if !draft.good(&[HOSTS]) {
        return;
    }
    let ssh = &draft.config.ssh;
    let missing = ssh.hosts.rows().find_map(|row| {
        let name = row.jump.as_deref().filter(|name| ssh.jumps.get(name).is_none())?;
        Some(format!("the row of {} names the jump host {}, which {JUMPS} does not have", row.host, in_flow(name)))
    });
    if let Some(missing) = missing {
        draft.refuse(HOSTS, missing);
    }
}

fn read_login(draft: &mut Draft<'_>, jump: &mut JumpHost) -> Result<(), String> {
    jump.server.private_key = Some(Secret::new(content(draft, &jump.key_file)?));
    if let Some(path) = &jump.passphrase_file {
        let text = content(draft, path)?;
        let line = text.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            return Err(format!("{} is empty", path.display()));
        }
        jump.server.passphrase = Some(Secret::new(line));
    }
    Ok(())
}

/// What a file holds; a warning where everyone may read it.
fn content(draft: &mut Draft<'_>, path: &Path) -> Result<String, String> {
    let (text, world_readable) = files::read_text(path)?;
    if text.len() > PRIVATE_KEY_MAX {
        return Err(format!("{} has more than {PRIVATE_KEY_MAX} bytes, which no key has", path.display()));
    }
    if world_readable {
        draft.warn(JUMPS, format!("everyone on this machine can read {}; give it mode 0600", path.display()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::{Sources, load};
    use crate::os::scratch::Scratch;

    #[test]
    fn jump_hosts_are_read_and_shown_as_they_read_back() {
        let text = "bastion: {host: b.example, user: ops, keyFile: /etc/cronium/bastion}\n\
                    \"two words\": {host: \"2001:db8::1\", port: 2222, user: \"a b\", keyFile: /k, passphraseFile: /p}\n";
        let table = JumpTable::parse(text).expect("sound");
        assert_eq!(JumpTable::parse(&table.shown()).expect("shown"), table);
        assert_eq!(JumpTable::check(&table.shown()), Ok(table.shown()));
        assert_eq!(table.get("bastion").expect("by its name").shown(), "bastion (b.example:22)");
        assert_eq!(table.get("two words").expect("the other").address(), "[2001:db8::1]:2222");
        assert!(table.get("Bastion").is_none());
        for none in ["", "{}", "null"] {
            assert_eq!(JumpTable::parse(none), Ok(JumpTable::default()), "{none}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_jump_host_is_said_with_its_name() {
        for (members, want) in [
            ("7", "b: it is a number, not a section with host, port"),
            ("{user: a, keyFile: /k}", "b: it has no host"),
            ("{host: h, keyFile: /k}", "b: it has no user"),
            ("{host: h, user: a}", "b: it has no keyFile"),
            ("{host: -oX, user: a, keyFile: /k}", "is no name or address"),
            ("{host: h, user: '', keyFile: /k}", "its user is empty"),
            ("{host: h, user: a, keyFile: ''}", "its keyFile is empty"),
            ("{host: h, user: a, keyFile: /k, passphraseFile: ''}", "its passphraseFile is empty"),
            ("{host: h, user: a, keyFile: /k, port: 0}", "its port is no number from 1 to 65535"),
            ("{host: h, user: a, keyfile: /k}", "did you mean keyFile?"),
            ("{host: h, user: a, keyFile: /k, jump: c}", "jump, which is not known"),
        ] {
            let error = JumpTable::parse(&format!("b: {members}")).expect_err(members);
            assert!(error.contains(want), "{members}: {error}");
        }
        let one = "{host: h, user: a, keyFile: /k}";
        assert!(JumpTable::parse(&format!("{{a: {one}, a: {one}}}")).is_err_and(|error| error.contains("a twice")));
        assert!(JumpTable::parse("[a]").is_err_and(|error| error.contains("a list")));
        let many: String = (0..=CONFIG_LIST_MAX).map(|n| format!("a{n}: {one}, ")).collect();
        assert!(JumpTable::parse(&format!("{{{many}}}")).is_err_and(|error| error.contains("at most")));
    }

    #[test]
    fn the_login_is_read_from_files_and_a_row_of_hosts_names_one_that_is_there() {
        let scratch = Scratch::new();
        let (key, passphrase) = (scratch.join("key"), scratch.join("passphrase"));
        let with = |hosts: &str| {
            let members = format!("keyFile: {}, passphraseFile: {}", key.display(), passphrase.display());
            let jumps = format!("{{b: {{host: h, user: a, {members}}}}}");
            let overrides = vec![(JUMPS.to_owned(), jumps), (HOSTS.to_owned(), hosts.to_owned())];
            load(&Sources { search: Vec::new(), overrides, need_backend: false, ..Sources::new(&|_| None) })
        };
        let problems = with("").map(drop).expect_err("no files").to_string();
        assert!(problems.contains("b: cannot read") && problems.contains("no such file"), "{problems}");
        write(&key, "the key\n").expect("write");
        write(&passphrase, "\n").expect("write");
        set_permissions(&passphrase, Permissions::from_mode(0o600)).expect("a mode");
        set_permissions(&key, Permissions::from_mode(0o604)).expect("a mode");
        let problems = with("").map(drop).expect_err("an empty passphrase").to_string();
        assert!(problems.contains("passphrase is empty"), "{problems}");
        write(&passphrase, "open sesame\r\n").expect("write");
        let loaded = with("[{host: \"*\", jump: b}]").map_err(|problems| problems.to_string()).expect("sound");
        assert!(loaded.warnings.iter().any(|warning| warning.text.contains("give it mode 0600")));
        let login = loaded.config.ssh.jumps.get("b").expect("b");
        let shown = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
        assert_eq!(shown(&login.passphrase).as_deref(), Some("open sesame"));
        assert_eq!(shown(&login.private_key).as_deref(), Some("the key\n"));
        assert!(!format!("{loaded:?}").contains("sesame"));
        let problems = with("[{host: x, jump: c}]").map(drop).expect_err("another name").to_string();
        assert!(problems.contains("the row of x names the jump host c, which ssh.jumps does not have"), "{problems}");
        write(&key, "k".repeat(PRIVATE_KEY_MAX + 1)).expect("write");
        assert!(with("").map(drop).expect_err("too long").to_string().contains("which no key has"));
    }
}
