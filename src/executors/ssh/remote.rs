//! The programs that run on the server: a few lines of POSIX sh. Nothing of the agent is installed there.
//!
//! Each job there has a folder, mode 0700, below `ssh.execution.tempDir`, named by the execution:
//!
//! | file | what it is |
//! | --- | --- |
//! | `script.sh`, `.py`, `.js` | the script |
//! | `run` | sets directory and variables, becomes the interpreter; its first act removes it |
//! | `supervise` | starts `run` in a new session, waits for it, writes `status` |
//! | `o`, `e` | pipes from the script to the two `tee`s that write `out` and `err` |
//! | `out`, `err` | the output, from which a follower reads at any byte |
//! | `begun` | made once, by the start just before the script begins, or by a follower that finds that it has not |
//! | `pid` | the script's process, session and process group |
//! | `why` | what `run` says when it could not become the interpreter |
//! | `status` | how it ended; renamed into place, so that it is whole or not there |
//! | `done` | a pipe that `supervise` holds open: its end wakes every follower |
//! | `boot` | the kernel's boot id, to tell a reboot from a vanished process |
//! | `work` | the script's directory |
//! | `.cronium` | what travels with a script that uses helpers, and its calls: see `helper_calls` |
//!
//! The script's output goes through pipes, not straight into the files: `echo x >/dev/stderr` opens its stderr anew, and
//! would cut a file to nothing. `supervise` depends on no connection: sshd may die, the job goes on.
//!
//! Every program here is brace groups on the stdin of `/bin/sh -s`, as for containers: half of a group never runs. The
//! first group is [`place::begin`]. The programs speak on both streams in lines that begin with `cronium` and hold the
//! program's random nonce; what comes before them (greetings of the login shell) is not the script's.

use crate::executors::complaint;
use crate::executors::helpers::HelperFiles;
use crate::executors::interpreter::{Start, Words};
use crate::executors::shell::{self, ProgramError, Writer, candidates, check, demand_program, file_name, quote};
use crate::executors::ssh::place::{self, PROVEN, Place, SAID};
use crate::job::{Language, Script};
use crate::limits;
use crate::secret::Secret;

/// The command that the server is asked for. Every login shell can run it.
pub const COMMAND: &str = "exec /bin/sh -s";

/// The file in which `run` says why it could not become the interpreter.
const WHY: &str = "why";

/// The program that starts a script and then follows it, for a shell in which [`place::begin`] was run.
pub fn start(
    place: &Place,
    execution: &str,
    script: &Script,
    (variables, helpers): (&[(String, Secret)], Option<&HelperFiles<'_>>),
    nonce: &str,
) -> Result<Vec<u8>, ProgramError> {
    check(script, variables)?;
    let directory = work_directory(&script.working_directory)?;
    let mut w = Writer { text: Vec::with_capacity(script.content.len() + 8192), delimiter: format!("CRONIUM_{nonce}") };
    w.line("{");
    w.line(&complain(nonce));
    w.line(&format!("n={}", quote(&place.name)));
    w.line("m=$(mkdir -m 700 -- \"./$n\" 2>&1) || f \"cannot make a folder for the job: $m\"");
    w.line("cd -P -- \"./$n\" || f \"cannot enter the job's folder\"");
    w.line("d=$PWD");
    w.line("[ -O . ] || f \"$d is not mine: somebody put it there in between\"");
    w.line("mkdir work || f \"cannot make a folder in $d\"");
    interpreter(&mut w, script, &place.shell);
    w.line("command -v setsid >/dev/null || f 'it has no setsid command, which util-linux and busybox have'");
    if place.pty {
        w.line("command -v script >/dev/null || f 'it has no script command, which ssh.execution.ptyMode needs'");
    }
    // `status.new` gets its size now, so that an ending can be written on a disk that the script has filled.
    let files = "mkfifo o e done && : >out && : >err && printf '%200s\\n' '' >status.new && \
                 printf '%s\\n' \"$i\" \"$k\" \"$l\" >how";
    w.line(&format!("m=$( {{ {files}; }} 2>&1) || f \"cannot write in $d: $m\""));
    w.line("{ read -r b </proc/sys/kernel/random/boot_id && echo \"$b\" >boot; } 2>/dev/null");
    w.file(file_name(script.language), shell::text(script));
    let mut run = Writer { text: Vec::new(), delimiter: format!("CRONIUM_RUN_{nonce}") };
    run_file(&mut run, script, (variables, helpers), &directory);
    w.file("run", &String::from_utf8_lossy(&run.text));
    w.file("supervise", &supervise(execution, place.pty));
    w.line("exec 9<>done");
    // From here on it has begun, unless a follower claimed that it has not.
    w.line("set -C; { printf '' >begun; } 2>/dev/null || say unstarted; set +C");
    // The shell between starts it in the foreground and is killed: what a shell starts in the background ignores INT
    // and QUIT, and so would the script.
    w.line("{ /bin/sh -c 'setsid /bin/sh ./supervise </dev/null >/dev/null 2>&1 | kill -s KILL $$'; } 2>/dev/null");
    w.line("exec 7<done 9>&-");
    follow_from(&mut w, execution, nonce, [0, 0]);
    w.line("}");
    Ok(w.text)
}

/// The program that follows a script which was started before. `taken` are the bytes of stdout and stderr that the
/// agent has. With `claim`, a folder that is not there is made, so that a start which is still on its way cannot begin.
pub fn follow(place: &Place, execution: &str, nonce: &str, taken: [u64; 2], claim: bool) -> Vec<u8> {
    let mut w = Writer { text: place::begin(place, nonce), delimiter: String::new() };
    w.line("{");
    w.line(&format!("n={}", quote(&place.name)));
    if claim {
        w.line("mkdir -m 700 -- \"./$n\" 2>/dev/null && say unstarted");
    }
    w.line(ENTER);
    // A start writes `begun` before it starts anything, and gives up if it exists: the side that makes it first decides.
    w.line(&format!("k=0; while [ ! -s pid ] && [ ! -e status ]; do k=$((k+1)); [ $k -ne {} ] || {{ \
         set -C; {{ printf '' >begun; }} 2>/dev/null && say unstarted; set +C; }}; [ $k -lt {} ] || say lost; sleep 0.1; done",
        limits::SSH_CLAIM, limits::SSH_PID
    ));
    w.line("b=; { read -r b </proc/sys/kernel/random/boot_id; } 2>/dev/null");
    w.line("c=; { read -r c <boot; } 2>/dev/null");
    w.line("[ -e status ] || [ -z \"$b\" ] || [ \"$b\" = \"$c\" ] || say rebooted");
    // Nobody follows what is over, and no signal of an agent that comes late may seem to have ended it.
    w.line("[ -e status ] && { read -r s <status; say over \"$s\"; }");
    w.line("[ -p done ] || say vanished");
    w.line("exec 9<>done; exec 7<done 9>&-");
    follow_from(&mut w, execution, nonce, taken);
    w.line("}");
    w.text
}

/// The program that hands over the rest of the output and how the script ended, then waits on its stdin for a line
/// `done`, to remove the folder, or `keep`. Where stdin ends before, everything stays for the next one that asks. With
/// `kill`, what is left of the script is killed first. A script that still runs is `running`, and nothing is handed over.
pub fn collect(place: &Place, execution: &str, nonce: &str, taken: [u64; 2], kill: bool) -> Vec<u8> {
    let mut w = Writer { text: place::begin(place, nonce), delimiter: String::new() };
    w.line("{");
    w.line(&format!("n={}", quote(&place.name)));
    w.line(ENTER);
    w.line(PROCESSES);
    w.line("l=0; h=0");
    if kill {
        w.line(&left_over(execution));
        w.line(&format!(
            "[ -e status ] || ! alive || h=1; k=0; while l=$(left | wc -l); [ $((l)) -gt 0 ] && [ $k -lt {} ]; do \
             kill -s KILL $(left) 2>/dev/null; sleep 0.1; k=$((k+1)); done",
            limits::SSH_LEFTOVERS
        ));
    } else {
        w.line("[ -e status ] || ! alive || say running");
    }
    // The supervisor writes the status some moments after the script's end; where it was killed, its pipe has ended, and
    // what reads the output has what is left.
    w.line(
        "[ -e status ] || alive || [ ! -p done ] || { exec 9<>done; exec 7<done 9>&-; read -r x <&7; exec 7<&-; \
            [ -e status ] || sleep 0.5; }",
    );
    w.line("s=none; { read -r s <status; } 2>/dev/null");
    w.line("y=; { read -r y <why; } 2>/dev/null");
    w.line("g=$(df -Pk . 2>/dev/null | { read -r x; read -r x x x g x; echo \"$g\"; })");
    w.line("b=; { read -r b </proc/sys/kernel/random/boot_id; } 2>/dev/null");
    w.line("c=; { read -r c <boot; } 2>/dev/null; [ \"$b\" = \"$c\" ] && b=same || b=other");
    w.line("o=$(wc -c <out) && e=$(wc -c <err) || say vanished");
    w.line(&format!(
        "v() {{ printf 'cronium status {nonce} out=%d err=%d left=%d killed=%d free=%s boot=%s pid=%s %s why=%s\\n' \
         \"$((o))\" \"$((e))\" \"$((l))\" \"$h\" \"$g\" \"$b\" \"${{p:-none}}\" \"$s\" \"$y\"; }}; v >&2; v"
    ));
    marks(&mut w, nonce);
    // As far as was counted: what a process that was left behind writes meanwhile is not the script's any more.
    for (size, file, taken, to) in [("o", "out", taken[0], ""), ("e", "err", taken[1], " >&2")] {
        let rest = format!("$(({size}-{taken}))");
        w.line(&format!("[ {rest} -le 0 ] || tail -c +{} {file} | head -c {rest}{to}", taken + 1));
    }
    w.line(&format!(
        "read -r x; if [ \"$x\" = done ]; then {{ [ -e status ] || ! alive; }} || exit {SAID}; reap; cd -P ..; {REMOVE}; \
         elif [ \"$x\" = keep ]; then reap; rm -f o e done how status.new begun; fi"
    ));
    w.line(&format!("exit {PROVEN}"));
    w.line("}");
    w.text
}

/// The program that takes folders away in which no script runs; it ends with [`PROVEN`] when none of them is there any more.
pub fn remove(place: &Place, names: &[String], nonce: &str) -> Vec<u8> {
    let words: Vec<String> = names.iter().map(|name| quote(name)).collect();
    let mut w = Writer { text: place::begin(place, nonce), delimiter: String::new() };
    w.line("{");
    w.line(&format!("for n in {}; do [ -e \"./$n\" ] || continue", words.join(" ")));
    w.line(&format!("{{ cd -P -- \"./$n\"; }} 2>/dev/null && [ -O . ] || exit {SAID}"));
    w.line(PROCESSES);
    w.line(&format!("[ -e status ] || ! alive || exit {SAID}"));
    w.line(&format!("reap; cd -P ..; {REMOVE}; done"));
    w.line(&format!("exit {PROVEN}"));
    w.line("}");
    w.text
}

/// Enters the job's folder, by its name in the place where [`place::begin`] is, and looks whose it is.
pub(super) const ENTER: &str = "{ cd -P -- \"./$n\"; } 2>/dev/null && [ -O . ] || say vanished";

/// Removes the folder `$n`, also where the script took rights from itself.
const REMOVE: &str = "rm -rf -- \"./$n\" 2>/dev/null || { chmod -R u+rwx -- \"./$n\"; rm -rf -- \"./$n\"; } || exit 95";

/// `f`, which says why the script cannot be started, takes the folder away if it was made, and ends. A full disk shows
/// in many ways, so that it is looked for each time.
fn complain(nonce: &str) -> String {
    format!(
        "f() {{ g=$(df -Pk . 2>/dev/null | {{ read -r x; read -r x x x g x; echo \"$g\"; }}); g=${{g:-99}}; \
         [ \"$g\" -ge 64 ] && g= || g=\"; no space left in $t\"; \
         [ -z \"$d\" ] || {{ cd -P ..; rm -rf -- \"./$n\"; }}; \
         printf 'cronium setup {nonce}: %s%s\\n' \"$1\" \"$g\"; printf 'cronium setup {nonce}: %s%s\\n' \"$1\" \"$g\" >&2; exit {}; }}",
        complaint::SETUP_FAILED
    )
}

fn interpreter(w: &mut Writer, script: &Script, shell: &str) {
    let program = match script.language {
        Language::Bash => {
            w.line(&format!(
                "i={}; [ -x \"$i\" ] || f \"$i not found there (ssh.execution.defaultShell)\"",
                quote(shell)
            ));
            return w.line(&demand_program("i"));
        }
        Language::Python => "python3 (or python)",
        Language::Node => "node (or nodejs)",
    };
    w.line(&format!("i=$({}) || f \"{program} not found on its PATH ($PATH)\"", candidates(script)));
    w.line(&demand_program("i"));
}

/// The file `run`: nothing of it can be seen from outside the folder, and it is gone before the script begins. It writes
/// down its number, which is the script's. What it has to say when it fails goes to `why`: on stderr a script could say
/// the same.
fn run_file(
    run: &mut Writer,
    script: &Script,
    (variables, helpers): (&[(String, Secret)], Option<&HelperFiles<'_>>),
    directory: &str,
) {
    run.line("echo $$ >pid; rm -f run; { read -r i; read -r k; read -r l; } <how; umask \"$k\"");
    run.line("case $l in x*) LC_ALL=${l#x} ;; *) unset LC_ALL ;; esac");
    run.line("set -- \"$i\" '' \"$PWD\"; cronium_folder=$PWD");
    run.line(&format!(
        "f() {{ trap - 0; printf '%s\\n' \"$1\" >\"$cronium_folder\"/{WHY}; exit {}; }}",
        complaint::SETUP_FAILED
    ));
    run.line("trap 'f \"its shell ended before the script began\"' 0");
    run.line("cd work || f 'cannot enter the working directory'");
    if directory.starts_with('/') {
        let word = quote(directory);
        run.line(&format!("m=$(cd -- {word} 2>&1) && cd -- {word} || f \"cannot enter the working directory: $m\""));
    } else if !directory.is_empty() {
        // `cd -` would lead elsewhere.
        let word = quote(&format!("./{directory}"));
        run.line(&format!("mkdir -p -- {word} && cd -- {word} || f 'cannot enter the working directory'"));
    }
    run.line("export PYTHONUNBUFFERED=1");
    let words = Words { file: Some(WHY), ..Words::default() };
    Start { script, variables, words, helpers }.write(run);
}

/// The file `supervise`. A full disk costs the output's rest, not the script: `tee` reads on, and says so at its end.
/// A process that the script left in the background may hold the pipes open: they are closed on it after 2 s, by
/// ending what reads them with HUP, so that `status` tells this from another end.
fn supervise(execution: &str, pty: bool) -> String {
    let command = if pty { "script -qefc 'exec /bin/sh ./run' /dev/null" } else { "/bin/sh ./run" };
    format!(
        "# Waits for the script of {execution}.\n\
         tee -a out <o >/dev/null 2>&1 9>&- & a=$!\n\
         tee -a err <e >/dev/null 2>&1 9>&- & b=$!\n\
         f=$(date +%s)\n\
         setsid {command} </dev/null >o 2>e 9>&-\n\
         r=$?; t=$(date +%s)\n\
         (exec 9>&-; trap 'kill $s; exit' TERM; sleep 2 & s=$!; wait $s; kill -s HUP $a $b) & k=$!\n\
         wait $a; a=$?; wait $b; b=$?; kill $k\n\
         times >times; {{ read -r x; read -r c; }} <times\n\
         printf 'code=%d kept=%d,%d cpu=%s from=%s to=%s \\n' $r $a $b \"${{c% *}}+${{c#* }}\" $f $t 1<>status.new\n\
         mv status.new status\n",
    )
}

/// `group` prints the processes of the script's process group `$p` that live; `alive` is whether there is any. `reap` ends
/// what is there of our own programs: what has the job's folder as its directory, and not the variable of a script.
const PROCESSES: &str = r#"group() { for q in /proc/[0-9]*/stat; do { read -r x <"$q"; } 2>/dev/null || continue
case $x in *')'*) ;; *) x=$(cat "$q" 2>/dev/null) ;; esac
y=${x##*) }; set -- $y; [ "$3" = "$p" ] && [ "$1" != Z ] && echo "${x%% *}"; done; }
alive() { [ -n "$p" ] || return 1; if [ -e /proc/self/stat ]; then [ -n "$(group)" ]
else kill -s 0 -- "-$p" 2>/dev/null || kill -s 0 "-$p" 2>/dev/null; fi; }
reap() { for q in /proc/[0-9]*; do [ "$q/cwd" -ef . ] && [ "$q" != "/proc/$$" ] && \
! grep -qsF CRONIUM_EXECUTION_ID= "$q/environ" && kill -s KILL "${q#/proc/}"; done; } 2>/dev/null
p=; { read -r p x <pid; } 2>/dev/null"#;

/// `left` prints the processes of the script that are still there: by process group, and by the variable that every
/// descendant has in its environment, whatever session it moved to. The whole variable counts: `…-1` begins `…-10`.
fn left_over(execution: &str) -> String {
    let mark = format!("CRONIUM_EXECUTION_ID={execution}");
    format!(
        "left() {{ {{ group; for q in $(grep -lsF '{mark}' /proc/[0-9]*/environ 2>/dev/null); do \
         tr '\\0' '\\n' <\"$q\" | grep -qxF '{mark}' && echo \"$q\" | tr -dc '0-9\\n'; done 2>/dev/null; }} | sort -u; }}"
    )
}

/// After these lines both streams are the script's; each carries its number, see [`house`].
pub(super) fn marks(w: &mut Writer, nonce: &str) {
    w.line(&format!("printf 'cronium follow {nonce} 2\\n' >&2; printf 'cronium follow {nonce} 1\\n'"));
}

/// From here on both streams are the script's, until it has ended or the agent has gone. Lines on stdin, `TERM` and
/// `KILL`, are sent on to the script; `LOOK` has it looked for an end that was missed. [`PROVEN`] as exit status says that
/// the script is over: its status is there, or supervisor and process group are gone.
fn follow_from(w: &mut Writer, execution: &str, nonce: &str, taken: [u64; 2]) {
    w.line(PROCESSES);
    w.line(&left_over(execution));
    w.line("trap '' PIPE");
    marks(w, nonce);
    w.line("exec 5<&0");
    w.line(&format!("tail -c +{} -f out 2>/dev/null 5<&- 7<&- & a=$!", taken[0] + 1));
    w.line(&format!("tail -c +{} -f err >&2 2>/dev/null 5<&- 7<&- & b=$!", taken[1] + 1));
    // The pipe's end is the supervisor's: it has written the status, or somebody killed it and the script may go on.
    w.line(
        "{ read -r x <&7; p=; read -r p x <pid; while [ ! -e status ] && alive; do sleep 1; done; } \
         >/dev/null 2>&1 5<&- & w=$!",
    );
    w.line(
        "{ while read -r c; do p=; read -r p x <pid; case $c in \
         TERM) [ -e status ] || kill -s TERM -- \"-$p\" ;; \
         KILL) [ -e status ] || kill -s KILL -- \"-$p\"; kill -s KILL $(left) ;; \
         LOOK) [ ! -e status ] || break ;; esac; done; kill $w $a $b; } <&5 >/dev/null 2>&1 7<&- & r=$!",
    );
    w.line("exec >/dev/null 2>&1 5<&- 7<&-");
    w.line(&format!("s={SAID}; wait $w && s={PROVEN}; kill $a $b $r; exit $s"));
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
