//! What runs on the server: a few lines of POSIX sh, and nothing of ours is installed there.
//!
//! A job there has a folder of its own, mode 0700, below `ssh.execution.tempDir`, named by the execution:
//!
//! | file | what it is |
//! | --- | --- |
//! | `script.sh`, `.py`, `.js` | the script |
//! | `run` | sets directory and variables, becomes the interpreter; its first act removes it |
//! | `supervise` | starts `run` in a session of its own, waits for it, writes `status` |
//! | `o`, `e` | pipes from the script to the two `cat`s that write `out` and `err` |
//! | `out`, `err` | the output, from which a follower reads at any byte |
//! | `pid` | the script's process, session and process group |
//! | `status` | how it ended; renamed into place, so that it is whole or not there |
//! | `done` | a pipe that `supervise` holds open: its end wakes every follower |
//! | `boot` | the kernel's boot id, to tell a reboot from a vanished process |
//! | `work` | the script's directory |
//!
//! The script's output goes through pipes, not straight into the files: `echo x >/dev/stderr` opens its stderr anew, and
//! would cut a file to nothing. `supervise` depends on no connection: sshd may die, the job goes on.
//!
//! Every program here is one brace group on the stdin of `/bin/sh -s`, as for containers: half of it never runs. The
//! programs speak on both streams in lines that begin with `cronium` and hold the program's random nonce; what comes
//! before them (greetings of the login shell) is not the script's.

use crate::executors::interpreter::{Start, Words};
use crate::executors::shell::{self, ProgramError, Writer, candidates, check, demand_program, file_name, quote};
use crate::job::{Language, Script};
use crate::limits;
use crate::secret::Secret;

/// The command that the server is asked for. Every login shell can run it.
pub const COMMAND: &str = "exec /bin/sh -s";

/// Where and how a script is started.
#[derive(Debug, Clone)]
pub struct Place {
    /// `ssh.execution.tempDir`.
    pub temp_dir: String,
    /// The folder's name: the execution's id, perhaps with a number behind it.
    pub name: String,
    /// `ssh.execution.defaultShell`, the interpreter of Bash scripts.
    pub shell: String,
    /// `ssh.execution.ptyMode`.
    pub pty: bool,
}

impl Place {
    /// The job's folder on the server.
    pub fn directory(&self) -> String {
        format!("{}/{}", self.temp_dir.trim_end_matches('/'), self.name)
    }
}

/// The program that starts a script and then follows it. `stale` is the folder of a start that is known not to have
/// begun: it is removed once this one has a folder of its own.
pub fn start(
    place: &Place,
    execution: &str,
    script: &Script,
    variables: &[(String, Secret)],
    nonce: &str,
    stale: Option<&str>,
) -> Result<Vec<u8>, ProgramError> {
    check(script, variables)?;
    let directory = work_directory(&script.working_directory)?;
    let mut w = Writer { text: Vec::with_capacity(script.content.len() + 8192), delimiter: format!("CRONIUM_{nonce}") };
    w.line("{");
    w.line("u=$(umask); umask 077");
    w.line(&format!("t={}; n={}", quote(place.temp_dir.trim_end_matches('/')), quote(&place.name)));
    w.line(&complain(nonce));
    folder(&mut w);
    if let Some(stale) = stale {
        w.line(&format!("rm -rf -- {}", quote(stale)));
    }
    interpreter(&mut w, script, &place.shell);
    w.line("command -v setsid >/dev/null || f 'it has no setsid command, which util-linux and busybox have'");
    if place.pty {
        w.line("command -v script >/dev/null || f 'it has no script command, which ssh.execution.ptyMode needs'");
    }
    // `status.new` gets its size now, so that an ending can be written on a disk that the script has filled.
    let files =
        "mkfifo o e done && : >out && : >err && printf '%200s\\n' '' >status.new && printf '%s\\n' \"$i\" \"$u\" >how";
    w.line(&format!("m=$( {{ {files}; }} 2>&1) || f \"cannot write in $d: $m\""));
    w.line("{ read -r b </proc/sys/kernel/random/boot_id && echo \"$b\" >boot; } 2>/dev/null");
    let file = format!("\"$d\"/{}", file_name(script.language));
    w.file(&file, shell::text(script));
    let mut run = Writer { text: Vec::new(), delimiter: format!("CRONIUM_RUN_{nonce}") };
    run_file(&mut run, place, script, variables, &directory, nonce);
    w.file("run", &String::from_utf8_lossy(&run.text));
    w.file("supervise", &supervise(execution, place.pty));
    w.line("exec 9<>done");
    w.line("setsid sh ./supervise </dev/null >/dev/null 2>&1 &");
    w.line("exec 7<done 9>&-");
    follow_from(&mut w, execution, nonce, [0, 0]);
    w.line("}");
    Ok(w.text)
}

/// The program that follows a script which was started before. `taken` are the bytes of stdout and stderr that the
/// agent has. With `claim`, a folder that is not there is made, so that a start which is still on its way cannot begin.
pub fn follow(place: &Place, execution: &str, nonce: &str, taken: [u64; 2], claim: bool) -> Vec<u8> {
    let mut w = Writer { text: Vec::new(), delimiter: String::new() };
    w.line("{");
    w.line(&format!("d={}", quote(&place.directory())));
    w.line(&format!("say() {{ printf 'cronium %s {nonce}\\n' \"$1\" >&2; exit 0; }}"));
    if claim {
        w.line(&format!(
            "mkdir -p -- {} 2>/dev/null; mkdir -m 700 -- \"$d\" 2>/dev/null && say unstarted",
            quote(&place.temp_dir)
        ));
    }
    w.line("cd -- \"$d\" 2>/dev/null && [ -O . ] || say vanished");
    w.line("k=0; while [ ! -s pid ] && [ ! -e status ] && [ $k -lt 50 ]; do sleep 0.1; k=$((k+1)); done");
    w.line("[ -s pid ] || [ -e status ] || say unstarted");
    w.line("b=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)");
    w.line("[ -e status ] || [ -z \"$b\" ] || [ \"$b\" = \"$(cat boot 2>/dev/null)\" ] || say rebooted");
    // Nobody follows what is over, and no signal of an agent that comes late may seem to have ended it.
    w.line(&format!(
        "[ -e status ] && {{ read -r s <status; printf 'cronium over {nonce} %s\\n' \"$s\" >&2; exit 0; }}"
    ));
    w.line("exec 9<>done; exec 7<done 9>&-");
    follow_from(&mut w, execution, nonce, taken);
    w.line("}");
    w.text
}

/// The program that hands over the rest of the output and how the script ended, then waits on its stdin for a line
/// `done`, to remove the folder, or `keep`. Where stdin ends before, everything stays for the next one that asks. With
/// `kill`, what is left of the script is killed first.
pub fn collect(place: &Place, execution: &str, nonce: &str, taken: [u64; 2], kill: bool) -> Vec<u8> {
    let mut w = Writer { text: Vec::new(), delimiter: String::new() };
    w.line("{");
    w.line(&format!("d={}", quote(&place.directory())));
    w.line(&format!("say() {{ printf 'cronium %s {nonce}\\n' \"$1\" >&2; exit 0; }}"));
    w.line("cd -- \"$d\" 2>/dev/null && [ -O . ] || say vanished");
    w.line(&left_over(execution));
    w.line("p=none; l=0; { read p x <pid; } 2>/dev/null");
    if kill {
        w.line(&format!(
            "k=0; while l=$(left | wc -l); [ $((l)) -gt 0 ] && [ $k -lt {} ]; do \
             kill -s KILL $(left) 2>/dev/null; sleep 0.1; k=$((k+1)); done",
            limits::SSH_LEFTOVERS
        ));
    }
    w.line("s=none; { read -r s <status; } 2>/dev/null");
    w.line("g=$(df -Pk . 2>/dev/null | { read x; read x x x g x; echo \"$g\"; })");
    w.line("b=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null); [ \"$b\" = \"$(cat boot 2>/dev/null)\" ] && b=same || b=other");
    w.line("o=$(wc -c <out) && e=$(wc -c <err) || say vanished");
    w.line(&format!(
        "printf 'cronium status {nonce} out=%d err=%d left=%d free=%s boot=%s pid=%s %s\\n' \
         \"$((o))\" \"$((e))\" \"$((l))\" \"$g\" \"$b\" \"$p\" \"$s\" >&2"
    ));
    w.line(&format!("printf 'cronium follow {nonce}\\n'; printf 'cronium follow {nonce}\\n' >&2"));
    // As far as was counted: what a process that was left behind writes meanwhile is not the script's any more.
    w.line(&format!("tail -c +{} out | head -c $((o-{}))", taken[0] + 1, taken[0]));
    w.line(&format!("tail -c +{} err | head -c $((e-{})) >&2", taken[1] + 1, taken[1]));
    w.line(&format!(
        "read x; if [ \"$x\" = done ]; then cd /; {REMOVE}; elif [ \"$x\" = keep ]; then rm -f o e done how status.new; fi"
    ));
    w.line("exit 0");
    w.line("}");
    w.text
}

/// The program that takes folders away; it ends with 1 when one of them is still there.
pub fn remove(folders: &[String]) -> Vec<u8> {
    let words: Vec<String> = folders.iter().map(|folder| quote(folder)).collect();
    format!("{{\nfor d in {}; do {REMOVE}; done\nexit 0\n}}\n", words.join(" ")).into_bytes()
}

/// Removes `$d`, also where the script took rights from itself.
const REMOVE: &str = "rm -rf -- \"$d\" 2>/dev/null || { chmod -R u+rwx -- \"$d\"; rm -rf -- \"$d\"; } || exit 1";

/// `f`, which says why the script cannot be started, takes the folder away if it was made, and ends. A full disk shows
/// in many ways, so that it is looked for each time.
fn complain(nonce: &str) -> String {
    format!(
        "f() {{ g=$(df -Pk \"$t\" 2>/dev/null | {{ read x; read x x x g x; echo \"$g\"; }}); g=${{g:-99}}; \
         [ \"$g\" -ge 64 ] && g= || g=\"; no space left in $t\"; \
         [ -z \"$d\" ] || {{ cd /; rm -rf -- \"$d\"; }}; printf 'cronium setup {nonce}: %s%s\\n' \"$1\" \"$g\" >&2; exit {}; }}",
        shell::SETUP_FAILED
    )
}

/// Makes the job's folder and enters it. The folder above may be shared by several users, as `/tmp` is: its name says
/// nothing, so that what was entered is looked at.
fn folder(w: &mut Writer) {
    w.line("[ -d \"$t\" ] || { (umask 022; mkdir -p -- \"${t%/*}/\"); mkdir -m 1777 -- \"$t\"; } 2>/dev/null");
    w.line("m=$(mkdir -m 700 -- \"$t/$n\" 2>&1) || f \"cannot make a folder for the job: $m\"");
    w.line("d=$t/$n; cd -- \"$d\" || f \"cannot enter $d\"");
    // Made by us with that mode, if it is ours: no further look is needed, and each would cost a process.
    w.line("[ -O . ] || f \"$d is not mine: somebody put it there in between\"");
    w.line("mkdir work || f \"cannot make a folder in $d\"");
}

fn interpreter(w: &mut Writer, script: &Script, shell: &str) {
    let program = match script.language {
        Language::Bash => {
            w.line(&format!(
                "i={}; [ -x \"$i\" ] || f \"$i not found there (ssh.execution.defaultShell)\"",
                quote(shell)
            ));
            return;
        }
        Language::Python => "python3 (or python)",
        Language::Node => "node (or nodejs)",
    };
    w.line(&format!("i=$({}) || f \"{program} not found on its PATH ($PATH)\"", candidates(script)));
    w.line(&demand_program("i"));
}

/// The file `run`: nothing of it can be seen from outside the folder, and it is gone before the script begins.
fn run_file(
    run: &mut Writer,
    place: &Place,
    script: &Script,
    variables: &[(String, Secret)],
    directory: &str,
    nonce: &str,
) {
    run.line("rm -f run; { read -r i; read -r u; } <how; umask \"$u\"");
    run.line(&format!("set -- \"$i\" '' {}", quote(&place.directory())));
    run.line(&shell::guard(nonce));
    run.line("cd work || f 'cannot enter the working directory'");
    let word = quote(directory);
    if directory.starts_with('/') {
        run.line(&format!("m=$(cd -- {word} 2>&1) && cd -- {word} || f \"cannot enter the working directory: $m\""));
    } else if !directory.is_empty() {
        run.line(&format!("mkdir -p -- {word} && cd -- {word} || f 'cannot enter the working directory'"));
    }
    run.line("export PYTHONUNBUFFERED=1");
    Start { script, variables, words: Words { nonce, ..Words::default() } }.write(run);
}

/// The file `supervise`. A full disk costs the output's rest, not the script: then the pipes are read into nothing.
/// A process that the script left in the background may hold the pipes open: they are closed on it after 2 s.
fn supervise(execution: &str, pty: bool) -> String {
    let command = if pty { "setsid script -qefc 'sh ./run' /dev/null" } else { "setsid sh ./run" };
    let keep = |pipe: &str, file: &str| format!("(exec <{pipe} 9>&-; cat >>{file} || {{ cat >/dev/null; exit 1; }}) &");
    format!(
        "# Waits for the script of {execution}.\n\
         {} a=$!\n\
         {} b=$!\n\
         f=$(date +%s)\n\
         {command} </dev/null >o 2>e 9>&- & p=$!\n\
         echo $p >pid.new && mv pid.new pid\n\
         wait $p; r=$?; t=$(date +%s)\n\
         (exec 9>&-; trap 'kill $s; exit' TERM; sleep 2 & s=$!; wait $s; kill $a $b) & k=$!\n\
         wait $a; a=$?; wait $b; b=$?; kill $k\n\
         times >times; {{ read x; read c; }} <times\n\
         printf 'code=%d kept=%d,%d cpu=%s from=%s to=%s \\n' $r $a $b \"${{c% *}}+${{c#* }}\" $f $t 1<>status.new\n\
         mv status.new status\n",
        keep("o", "out"),
        keep("e", "err"),
    )
}

/// `left`, which prints the processes of the script that are still there: by process group, and by the variable that
/// every descendant has in its environment, whatever session it moved to.
fn left_over(execution: &str) -> String {
    format!(
        "left() {{ {{ for q in /proc/[0-9]*/stat; do {{ read -r x <\"$q\"; }} 2>/dev/null || continue; \
         y=${{x##*) }}; set -- $y; [ \"$3\" = \"$p\" ] && [ \"$1\" != Z ] && echo \"${{x%% *}}\"; done; \
         grep -ls 'CRONIUM_EXECUTION_ID={execution}' /proc/[0-9]*/environ 2>/dev/null | tr -dc '0-9\\n'; }} | sort -u; }}"
    )
}

/// From here on both streams are the script's, until it has ended or the agent has gone. Lines on stdin, `TERM` and
/// `KILL`, are sent on to the script.
fn follow_from(w: &mut Writer, execution: &str, nonce: &str, taken: [u64; 2]) {
    w.line(&left_over(execution));
    w.line("trap '' PIPE");
    w.line(&format!("printf 'cronium follow {nonce}\\n'; printf 'cronium follow {nonce}\\n' >&2"));
    w.line(&format!("tail -c +{} -f out 2>/dev/null 7<&- & a=$!", taken[0] + 1));
    w.line(&format!("tail -c +{} -f err >&2 2>/dev/null 7<&- & b=$!", taken[1] + 1));
    // The pipe's end is the supervisor's: it has written the status, or somebody killed it and the script may go on.
    w.line(
        "{ read x <&7; p=none; read p x <pid; while [ ! -e status ] && kill -0 -- \"-$p\"; do sleep 1; done; \
         kill $a $b; kill -s TERM $$; } 2>/dev/null & w=$!",
    );
    w.line(
        "p=none; while read -r c; do { read p x <pid; } 2>/dev/null; case $c in \
         TERM) [ -e status ] || kill -s TERM -- \"-$p\" 2>/dev/null;; \
         KILL) [ -e status ] || kill -s KILL -- \"-$p\" 2>/dev/null; kill -s KILL $(left) 2>/dev/null;; esac; done",
    );
    w.line("kill $a $b $w 2>/dev/null; exit 0");
}

/// The directory in which the script starts: empty for its own, relative to that, or any absolute one.
fn work_directory(directory: &str) -> Result<String, ProgramError> {
    if directory.contains('\0') {
        return Err(ProgramError::Nul("the working directory".to_owned()));
    }
    if directory.starts_with('/') {
        return Ok(directory.to_owned());
    }
    let parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") { Err(ProgramError::Directory(directory.to_owned())) } else { Ok(parts.join("/")) }
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
