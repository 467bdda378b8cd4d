//! What a script on a server begins with: the signals, the variables and the terminal that it would have elsewhere,
//! whatever the login's files say.

use serde_json::json;

use crate::harness::{finish, report, shared, stderr, stdout};
use crate::ssh_endings::on_each_shell;
use crate::ssh_rig::has_words;

#[test]
fn int_and_quit_reach_a_script_as_in_a_container() {
    let _machine = shared();
    on_each_shell(&[], &[], "", |sh, rig| {
        let ignored = "echo $((0x$(sed -n 's/^SigIgn:\\s*//p' /proc/self/status) & 6))";
        let row = rig.bash(&format!(
            "{ignored}; trap 'echo int' INT; kill -INT $$; trap 'echo quit; exit 3' QUIT; kill -QUIT $$; echo no"
        ));
        let want = "0\nint\nquit\n";
        assert_eq!((stdout(&row), row.exit_code), (want, Some(3)), "{sh}: {}", rig.said(&row));
        let row = rig.bash("kill -INT $$; echo no");
        assert_eq!((stdout(&row), row.exit_code), ("", Some(130)), "{sh}: {}", rig.said(&row));
        let python = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    print('no')\n\
                      except KeyboardInterrupt:\n    print('interrupted')\n";
        let row = finish(&rig.backend, rig.job("PYTHON", python));
        assert_eq!((stdout(&row), row.exit_code), ("interrupted\n", Some(0)), "{sh}: {}", rig.said(&row));
        rig.stop();
    });
}

/// Everything by which a login's files could change what a shell does.
const HOSTILE: &str = r#"
umask 027
for name in cd mkdir printf read test cat ls rm mv id kill umask wait sleep pwd wc grep tail head df sort tr unalias; do
    eval "function $name { echo hidden by $name; return 1; }"; export -f "$name"
done
export CDPATH=/:/tmp:/usr ENV="$HOME/env" BASH_ENV="$HOME/env" PS4='trace ' GREP_OPTIONS=-v
export LC_ALL=de_DE.UTF-8 GLOBIGNORE='*' BLOCK_SIZE=1 TIME_STYLE=full-iso QUOTING_STYLE=shell-always OPTIND=7
set -o noclobber; set -f; export SHELLOPTS POSIXLY_CORRECT=1 IFS=oe
"#;

#[test]
fn a_logins_files_change_neither_where_our_programs_go_nor_what_they_print() {
    let _machine = shared();
    on_each_shell(&[], &[], "", |sh, rig| {
        std::fs::write(rig.sshd.path("home/env"), "echo from the environment; cd /\n").expect("write");
        std::fs::write(rig.sshd.path("home/.bashrc"), HOSTILE).expect("write");
        std::fs::create_dir(rig.sshd.path("home/usr")).expect("folder");
        let script = "mkdir usr && cd usr && echo in && pwd; echo \"$LC_ALL|${CDPATH-none}|${BASH_ENV-none}|$(umask)\"; \
                      x='a b'; set -- $x; echo $#; exit 7";
        let row = rig.bash(script);
        let folder = format!("{}/exec-", rig.sshd.temp_dir().display());
        let lines: Vec<&str> = stdout(&row).lines().collect();
        let pwd = lines.get(1).copied().unwrap_or_default();
        assert!(pwd.starts_with(&folder) && pwd.ends_with("/work/usr"), "{sh}: {:?} {}", lines, rig.said(&row));
        assert_eq!(lines[2..], ["de_DE.UTF-8|none|none|0027", "2"], "{sh}");
        assert_eq!((lines[0], row.exit_code), ("in", Some(7)), "{sh}: {}", rig.said(&row));
        assert!(!stderr(&row).contains("trace") && !stderr(&row).contains("hidden"), "{sh}: {}", stderr(&row));
        // What a job asks for it gets.
        let mut job = rig.job("BASH", "mkdir tmp; cd usr; pwd; echo \"$LC_ALL\"");
        job["execution"]["environment"] = json!({ "CDPATH": "/", "LC_ALL": "C" });
        let row = finish(&rig.backend, job);
        assert_eq!(stdout(&row), "/usr\n/usr\nC\n", "{sh}: {}", rig.said(&row));
        rig.stop();
    });
}

#[test]
fn with_a_terminal_term_reaches_the_script_which_has_its_grace_and_its_last_words() {
    let _machine = shared();
    let settings = [("ssh.execution.ptyMode", "true"), ("jobs.stopGrace", "10s")];
    on_each_shell(&settings, &[], "", |sh, rig| {
        let mut job = rig.job(
            "BASH",
            "trap 'echo heard; sleep 3; echo last words; exit 3' TERM\necho begun; while :; do sleep 0.1; done",
        );
        job["execution"]["timeout"] = json!(2);
        let row = finish(&rig.backend, job);
        assert_eq!(report(&row)["status"], "timeout", "{sh}: {}", rig.said(&row));
        // "Terminated" is what the script's own shell says of its `sleep`.
        let said = stdout(&row).replace("Terminated\r\n", "");
        assert_eq!(said, "begun\r\nheard\r\nlast words\r\n", "{sh}: {}", rig.said(&row));
        has_words(&rig.said(&row), &["SIGTERM"]);
        for word in ["Session terminated", "killing shell", "Script started", "Script done"] {
            assert!(!rig.said(&row).contains(word) && !stdout(&row).contains(word), "{sh}: {word}");
        }
        // One that does not listen is killed after its grace.
        let mut job = rig.job("BASH", "trap '' TERM; echo begun; while :; do sleep 0.1; done");
        job["execution"]["timeout"] = json!(1);
        let row = finish(&rig.backend, job);
        assert_eq!(stdout(&row), "begun\r\n", "{sh}: {}", rig.said(&row));
        has_words(&rig.said(&row), &["SIGKILL"]);
        rig.stop();
    });
}
