//! The place of a job on its server, and the start of each program there: a shell that the login's files cannot change, in a
//! folder that other users cannot change.
//!
//! The login's files may export variables, functions and options that change what a shell does: `CDPATH` sends `cd work`
//! elsewhere, a function named `cd` replaces it, `LC_ALL` changes how numbers are written. The first lines take them away.
//!
//! The jobs' folders stand in `ssh.execution.tempDir`. A user who may rename an entry of a folder on the way there could
//! replace a job's folder by another one, with another script in it. So the program checks each folder on the way: it must
//! belong to root or to the login, and others must not write in it, unless it is root's and sticky as `/tmp` is. Only then
//! it enters, by the path without symbolic links. From there on each job's folder is entered by its name alone.
//!
//! Then the program says `ready` on both streams, each with its number. So the agent knows that both streams arrive before it
//! sends a script: a login's file may have closed one, or joined both.

use crate::config::types::Ssh;
use crate::executors::complaint;
use crate::executors::shell::{self, Writer, quote};

/// Stands in `ssh.execution.tempDir` for the login's number on the server.
pub const UID: &str = "{uid}";

/// Where and how a script is started.
#[derive(Debug, Clone)]
pub struct Place {
    /// `ssh.execution.tempDir`, in which [`UID`] may stand for the login's number.
    pub temp_dir: String,
    /// The folder's name: the execution's id, perhaps with a number behind it.
    pub name: String,
    /// `ssh.execution.defaultShell`, the interpreter of Bash scripts.
    pub shell: String,
    /// `ssh.execution.ptyMode`.
    pub pty: bool,
}

impl Place {
    /// The place that [`Place::directory`] gave, as a record has it.
    pub fn of(directory: &str, settings: &Ssh) -> Self {
        let (temp_dir, name) = directory.rsplit_once('/').unwrap_or(("", directory));
        let (temp_dir, name) = (temp_dir.to_owned(), name.to_owned());
        Self { temp_dir, name, shell: settings.default_shell.clone(), pty: settings.pty_mode }
    }

    /// The job's folder on the server.
    pub fn directory(&self) -> String {
        format!("{}/{}", self.temp_dir.trim_end_matches('/'), self.name)
    }
}

/// Exit statuses of our programs. None of them is 0: libssh2 tells 0 also where a session ended without any status.
///
/// What the program was to wait for has happened: the script is over, or the folder is gone.
pub const PROVEN: i32 = 94;
/// It ended with a word.
pub const SAID: i32 = 95;

/// The first group of every program. After it, `u` is the login's number, `t` the place without symbolic links, which is
/// the working directory, `k` the login's umask and `l` its `LC_ALL` with an `x` before it, if there is one. `f` says why
/// nothing can be done, and ends.
pub fn begin(place: &Place, nonce: &str) -> Vec<u8> {
    let mut w = Writer { text: Vec::new(), delimiter: String::new() };
    w.line("{");
    w.line(&shell::clean());
    w.line("l=${LC_ALL+x}${LC_ALL-}; LC_ALL=C; export LC_ALL");
    w.line("k=$(umask); umask 077; d=");
    w.line(&format!(
        "f() {{ printf 'cronium setup {nonce}: %s\\n' \"$1\"; printf 'cronium setup {nonce}: %s\\n' \"$1\" >&2; exit {}; }}",
        complaint::SETUP_FAILED
    ));
    w.line(&format!(
        "say() {{ printf 'cronium %s {nonce} %s\\n' \"$1\" \"${{2-}}\"; printf 'cronium %s {nonce} %s\\n' \"$1\" \"${{2-}}\" >&2; \
         exit {}; }}",
        SAID
    ));
    w.line("u=$(id -u)");
    let words: Vec<String> = place.temp_dir.trim_end_matches('/').split(UID).map(quote).collect();
    w.line(&format!("t={}", words.join("\"$u\"")));
    w.line("t=${t:-/}");
    w.text.extend_from_slice(SAFE.as_bytes());
    w.line("safe \"$t\" || f \"$m\"");
    w.line("[ -d \"$t\" ] || { m=$(mkdir -p -- \"$t\" 2>&1) || f \"cannot make $t (ssh.execution.tempDir): $m\"; safe \"$t\" || f \"$m\"; }");
    w.line("{ cd -P -- \"$t\"; } 2>/dev/null || f \"cannot enter $t (ssh.execution.tempDir)\"");
    w.line("[ \"$PWD\" = \"$t\" ] || safe \"$PWD\" || f \"$m\"");
    w.line("t=$PWD");
    // stderr first: if both streams are one, the number 2 comes on the wrong stream before the number 1.
    w.line(&format!(
        "printf 'cronium ready {nonce} 2 %s\\n' \"$t\" >&2; printf 'cronium ready {nonce} 1 %s\\n' \"$t\""
    ));
    w.line("}");
    w.text
}

/// `safe PATH`: whether nobody but root and this login can change what stands on the way to PATH, as far as it is there;
/// `m` says what is wrong. `ls -n` prints owner and mode everywhere, which `stat` does not.
const SAFE: &str = r#"safe() {
m= r=${1#/} p=
set -- /
while [ -n "$r" ]; do
c=${r%%/*}; r=${r#"$c"}; r=${r#/}; p=$p/$c
[ -e "$p" ] || [ -L "$p" ] || break
set -- "$@" "$p"
done
m=$(ls -ldn -- "$@" 2>&1 | while read -r a b o g s x y z n; do
case $a in [dl]?????????*) ;; *) echo "it cannot be seen who may change the way to $p (ssh.execution.tempDir): $a $b $o $g $s $x $y $z $n"; break ;; esac
w=
[ "$o" = 0 ] || [ "$o" = "$u" ] || w="it belongs to user $o, who could put another folder in its place"
case $a in d????w*|d???????w*) case $o$a in 0d????????[tT]*) ;; *) w=${w:-"others may write in it, and so put another folder in the place of a job's"} ;; esac ;; esac
[ -z "$w" ] || { echo "$n is not safe for jobs: $w (its owner is user $o, its mode $a, the login is user $u). Let each folder on the way to $t belong to root or to the login, with a mode such as 0755, or set ssh.execution.tempDir to another folder, such as /tmp/cronium-{uid}"; break; }
done)
[ -z "$m" ]
}
"#;
