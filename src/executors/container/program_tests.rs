//! The program, run by the shells of this machine.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use super::*;
use crate::executors::complaint::complaint;
use crate::executors::names::is_exportable;
use crate::job::Language;
use crate::limits;

const NONCE: &str = "00ff";

fn script(language: Language, content: &str) -> Script {
    Script { language, content: content.to_owned(), working_directory: String::new() }
}

/// The shells of this machine that serve as `/bin/sh` somewhere.
fn shells() -> Vec<(&'static str, Vec<String>)> {
    // Bash is another shell where it is called by this name.
    // Of the test's thread, so that it goes with that: what is static stays.
    thread_local! {
        static NAMED: crate::os::scratch::Scratch = {
            let folder = crate::os::scratch::Scratch::new();
            std::os::unix::fs::symlink("/bin/bash", folder.join("sh")).expect("a link");
            folder
        };
    }
    let bash = NAMED.with(|folder| folder.join("sh").to_str().expect("text").to_owned());
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    vec![("dash", own(&["dash", "-s"])), ("bash", own(&[&bash, "-s"])), ("busybox", own(&["busybox", "sh", "-s"]))]
}

/// What this machine's own `/bin/sh` makes of the program, or of its first `cut` bytes.
fn run(script: &Script, variables: &[(&str, &str)], cut: Option<usize>) -> Output {
    run_in(&["/bin/sh".to_owned(), "-s".to_owned()], script, variables, cut, &[])
}

/// Runs the program, or its first `cut` bytes, in a shell with this environment, in a new folder.
fn run_in(
    shell: &[String],
    script: &Script,
    variables: &[(&str, &str)],
    cut: Option<usize>,
    environment: &[(&str, &str)],
) -> Output {
    let folder = crate::os::scratch::Scratch::new();
    let variables: Vec<_> = variables.iter().map(|(n, v)| ((*n).to_owned(), Secret::new(*v))).collect();
    let program = Program::new(script, &variables, None, folder.to_str().expect("text"), NONCE).expect("program");
    let bytes = program.bytes();
    let mut child = Command::new(&shell[0])
        .args(&shell[1..])
        .env_clear()
        // Wrappers in other folders may be scripts of a shell, which keep variables for themselves.
        .env("PATH", "/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell");
    let sent = child.stdin.take().expect("stdin").write_all(&bytes[..cut.unwrap_or(bytes.len())]);
    let output = child.wait_with_output().expect("output");
    assert!(sent.is_ok() || cut.is_some(), "{shell:?} {output:?}");
    output
}

/// What a script printed on stderr; it must have been said to start.
fn stderr(output: &Output) -> String {
    let all = String::from_utf8_lossy(&output.stderr).into_owned();
    all.split_once("cronium ready 00ff\n").unwrap_or_else(|| panic!("{all}")).1.to_owned()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{:?} {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_byte_of_script_and_values_arrives() {
    let all: String = (1..0x900).filter_map(char::from_u32).filter(|c| *c != '\r' && *c != '\n').collect();
    let value = format!("a'b\"c$d`e\\f\n\tg {all}");
    let wanted = format!("<{value}>");
    let text = script(Language::Bash, "printf '<%s>' \"$ODD\"");
    assert_eq!(stdout(&run(&text, &[("ODD", &value)], None)), wanted);
    let python = format!("import sys\nsys.stdout.buffer.write({wanted:?}.encode())", wanted = "…".repeat(3));
    assert_eq!(stdout(&run(&script(Language::Python, &python), &[], None)), "………");
    let here = format!("cat <<'X'\n{all}\nX\n");
    assert_eq!(stdout(&run(&script(Language::Bash, &here), &[], None)), format!("{all}\n"));
}

#[test]
fn names_that_no_shell_exports_arrive_too() {
    let odd = [("MY-VAR", "it's"), ("a.b", "ü\n2"), ("UID", "7"), ("1x", "$y"), ("PLAIN", "p")];
    let wanted = "it's|ü\n2|7|$y|p\n";
    let bash = "for n in MY-VAR a.b UID 1x PLAIN; do printf '%s|' \"$(printenv \"$n\")\"; done";
    assert_eq!(stdout(&run(&script(Language::Bash, bash), &odd, None)), "it's|ü\n2|7|$y|p|");
    let python = "import os\nprint('|'.join(os.environ[n] for n in ['MY-VAR','a.b','UID','1x','PLAIN']))";
    assert_eq!(stdout(&run(&script(Language::Python, python), &odd, None)), wanted);
    let node = "console.log(['MY-VAR','a.b','UID','1x','PLAIN'].map(n => process.env[n]).join('|'))";
    assert_eq!(stdout(&run(&script(Language::Node, node), &odd, None)), wanted);
}

#[test]
fn variables_may_have_the_names_that_the_program_uses() {
    let mine = [("i", "/bin/false"), ("p", "x"), ("f", "y"), ("m", "z"), ("CDPATH", "e"), ("PATH", "/nowhere")];
    let text = script(Language::Bash, "echo \"$i $p $f $m $PATH\"");
    assert_eq!(stdout(&run(&text, &mine, None)), "/bin/false x y z /nowhere\n");
    let odd: Vec<_> = mine.into_iter().chain([("a-b", "c")]).collect();
    assert_eq!(stdout(&run(&text, &odd, None)), "/bin/false x y z /nowhere\n");
}

#[test]
fn half_a_program_never_runs() {
    let text = script(Language::Bash, "touch /tmp/cronium-half; echo ran");
    let whole = Program::new(&text, &[], None, "/tmp", NONCE).expect("program").bytes().len();
    for cut in (0..whole - 2).step_by(7).chain([whole - 3]) {
        let output = run(&text, &[], Some(cut));
        assert_eq!(output.stdout, b"", "after {cut} bytes");
    }
}

#[test]
fn a_script_of_five_megabytes_runs() {
    let padding = "# padding padding padding padding padding padding padding padding\n".repeat(80_000);
    let text = script(Language::Bash, &format!("{padding}echo done"));
    assert!(text.content.len() > 5_000_000);
    assert_eq!(stdout(&run(&text, &[], None)), "done\n");
}

/// `cd -` would lead to the folder before.
#[test]
fn a_working_directory_may_have_any_name() {
    for name in ["-", "-/b", "--", "-P", "~", "$HOME", "a\n", "*"] {
        let text = Script { working_directory: name.to_owned(), ..script(Language::Bash, "pwd; printf x") };
        for shell in shells() {
            let output = run_in(&shell.1, &text, &[], None, &[]);
            let out = stdout(&output);
            assert!(out.ends_with(&format!("/{name}\nx")), "{} in {name:?}: {out:?}", shell.0);
        }
    }
}

#[test]
fn line_numbers_and_working_directory() {
    let mut text = script(Language::Bash, "pwd\nfalse_command_x");
    text.working_directory = "a b/c'd".to_owned();
    let output = run(&text, &[], None);
    assert!(String::from_utf8_lossy(&output.stdout).trim_end().ends_with("/a b/c'd"));
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("script.sh: line 2:"), "{complaint}");
}

#[test]
fn a_missing_interpreter_is_told_with_the_mark() {
    let program = Program::new(&script(Language::Bash, "x"), &[], None, "/nowhere-at-all", NONCE).expect("program");
    let mut child = Command::new("/bin/sh").arg("-s").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh");
    child.stdin.take().expect("stdin").write_all(program.bytes()).expect("write");
    let output = child.wait_with_output().expect("output");
    assert_eq!(output.status.code(), Some(125));
    let told = complaint(NONCE, &output.stderr).expect("a complaint");
    assert!(told.starts_with("the image has no /nowhere-at-all"), "{told}");
    assert_eq!(complaint("other", &output.stderr), None);
}

#[test]
fn script_and_variables_are_taken_up_to_their_limits() {
    let new = |content: String, variables: &[(String, Secret)]| {
        Program::new(&script(Language::Bash, &content), variables, None, WORKSPACE, NONCE).map(drop)
    };
    let largest = "#".repeat(limits::SCRIPT_MAX);
    assert_eq!(new(largest.clone(), &[]), Ok(()));
    assert_eq!(new(largest + "#", &[]), Err(ProgramError::ScriptTooLarge(limits::SCRIPT_MAX + 1)));
    // A variable is its name, an equals sign and its value.
    let variable = |name: &str, length: usize| (name.to_owned(), Secret::new("x".repeat(length - name.len() - 1)));
    assert_eq!(new(String::new(), &[variable("A", limits::VARIABLE_MAX)]), Ok(()));
    let one_more = new(String::new(), &[variable("A", limits::VARIABLE_MAX + 1)]);
    assert_eq!(one_more, Err(ProgramError::VariableTooLarge("A".into())));
    let mut all: Vec<_> = (0..16).map(|n| variable(&format!("A{n:02}"), limits::ENVIRONMENT_MAX / 16 - 1)).collect();
    all.push(variable("REST", 16));
    assert_eq!(new(String::new(), &all), Ok(()));
    all.push(variable("B", 2));
    assert_eq!(new(String::new(), &all), Err(ProgramError::EnvironmentTooLarge(limits::ENVIRONMENT_MAX + 2)));
}

#[test]
fn what_cannot_be_carried_is_refused() {
    let new = |content: &str, name: &str, value: &str, dir: &str| {
        let mut script = script(Language::Bash, content);
        script.working_directory = dir.to_owned();
        Program::new(&script, &[(name.to_owned(), Secret::new(value))], None, WORKSPACE, NONCE).map(drop)
    };
    assert_eq!(new("a\nb\0", "A", "", ""), Err(ProgramError::Nul("the script's line 2".into())));
    assert_eq!(new("a", "A", "\0", ""), Err(ProgramError::Nul("the variable A".into())));
    let long = "x".repeat(limits::VARIABLE_MAX);
    assert_eq!(new("a", "A", &long, ""), Err(ProgramError::VariableTooLarge("A".into())));
    for dir in ["..", "a/../..", "/etc", "/workspacex"] {
        assert_eq!(new("a", "A", "", dir), Err(ProgramError::Directory(dir.into())), "{dir}");
    }
    for dir in ["", ".", "a", "a/b/", "/workspace", "/workspace/a"] {
        assert_eq!(new("a", "A", "", dir), Ok(()), "{dir}");
    }
}

/// Every name that dash, Bash, busybox ash or an interpreter treats specially, and some that look like one.
const SPECIAL: &str = "_ ASH_STANDALONE ATTY BASH BASHOPTS BASHPID BASH_ALIASES BASH_ARGC BASH_ARGV BASH_ARGV0 BASH_CMDS \
    BASH_COMMAND BASH_COMPAT BASH_ENV BASH_EXECUTION_STRING BASH_LINENO BASH_LOADABLES_PATH BASH_MONOSECONDS BASH_REMATCH \
    BASH_SOURCE BASH_SUBSHELL BASH_TRAPSIG BASH_VERSINFO BASH_VERSION BASH_XTRACEFD CDPATH CHILD_MAX COLUMNS COMPREPLY \
    COMP_CWORD COMP_KEY COMP_LINE COMP_POINT COMP_TYPE COMP_WORDBREAKS COMP_WORDS COPROC DIRSTACK EDITOR EMACS ENV \
    EPOCHREALTIME EPOCHSECONDS ERRNO EUID EXECIGNORE FCEDIT FIGNORE FPATH FUNCNAME FUNCNEST GLOBIGNORE GLOBSORT \
    GREP_OPTIONS GROUPS HISTCMD HISTCONTROL HISTFILE HISTFILESIZE HISTIGNORE HISTSIZE HISTTIMEFORMAT HOME HOSTFILE \
    HOSTNAME HOSTTYPE IFS IGNOREEOF INPUTRC INSIDE_EMACS LANG LANGUAGE LC_ALL LC_COLLATE LC_CTYPE LC_MESSAGES LC_NUMERIC \
    LC_TIME LINENO LINES LOGNAME MACHTYPE MAIL MAILCHECK MAILPATH MAPFILE NODE_CHANNEL_FD NODE_UNIQUE_ID OLDPWD OPTARG \
    OPTERR OPTIND OSTYPE PATH PERL_BADLANG PIPESTATUS POSIXLY_CORRECT PPID PROMPT_COMMAND PROMPT_DIRTRIM PS0 PS1 PS2 PS3 \
    PS4 PWD PYTHONUNBUFFERED RANDOM READLINE_ARGUMENT READLINE_LINE READLINE_MARK READLINE_POINT REPLY SECONDS SHELL \
    SHELLOPTS SHLVL SRANDOM TERM TERMCAP TERMINFO TEXTDOMAIN TEXTDOMAINDIR TIMEFORMAT TMOUT TMPDIR TZ UID USER VISUAL \
    allow_null_glob_expansion auto_resume cdable_vars cronium_m f histchars history_control i ignoreeof noclobber nolinks \
    notify p";

/// A plain value, an empty one, and hostile ones.
const VALUES: [&str; 7] = ["plain", "", "abc", "-1", "*", "a\nb", "'$x`\"\\"];

/// A script that prints the values of these variables, each with a byte behind it that no value holds; for Bash each
/// twice, as Bash sees it and as its children do.
fn printer(language: Language, names: &[&str]) -> Script {
    let list = names.join(" ");
    let text = match language {
        Language::Bash => names
            .iter()
            .map(|name| {
                format!(
                    "printf '%s\\1' \"${{{name}-not set}}\"; /usr/bin/printenv -0 {name} | /usr/bin/tr '\\0' '\\1'\n"
                )
            })
            .collect(),
        Language::Python => format!(
            "import os\nfor n in '{list}'.split(): os.write(1, os.environb.get(n.encode(), b'not set') + b'\\1')"
        ),
        Language::Node => {
            format!(
                "for (const n of '{list}'.split(' ')) process.stdout.write((process.env[n] ?? 'not set') + '\\x01')"
            )
        }
    };
    script(language, &text)
}

fn check_arrival(shell: &(&str, Vec<String>), language: Language, names: &[&str], value: &str) {
    let variables: Vec<(&str, &str)> = names.iter().map(|name| (*name, value)).collect();
    let output = run_in(&shell.1, &printer(language, names), &variables, None, &[]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let times = if language == Language::Bash { 2 } else { 1 };
    let seen: Vec<&str> = shown.split('\u{1}').collect();
    assert_eq!(seen.len(), names.len() * times + 1, "{} {language:?} {value:?}: {output:?}", shell.0);
    for (n, name) in names.iter().enumerate() {
        let seen = &seen[n * times..(n + 1) * times];
        assert_eq!(seen, vec![value; times], "{name} by {} in {language:?}", shell.0);
    }
    stderr(&output);
}

#[test]
fn every_special_name_arrives_as_it_is_given_or_the_job_is_refused_by_name() {
    let all: Vec<&str> = SPECIAL.split_whitespace().collect();
    for language in [Language::Bash, Language::Python, Language::Node] {
        let mut taken = Vec::new();
        for name in &all {
            let one = [((*name).to_owned(), Secret::new("1"))];
            match Program::new(&script(language, "x"), &one, None, WORKSPACE, NONCE) {
                // Root's Bash does not read this one: see below.
                Ok(_) if language == Language::Bash && *name == "PS4" => {}
                Ok(_) => taken.push(*name),
                Err(error) => {
                    assert_eq!(error, ProgramError::Owned(vec![(*name).to_owned()]));
                    assert!(language == Language::Bash && error.to_string().contains(name), "{error}");
                }
            }
        }
        assert!(taken.len() > 100, "{language:?}");
        let exported: Vec<&str> = taken.iter().copied().filter(|name| is_exportable(language, name)).collect();
        for shell in shells() {
            for value in VALUES {
                check_arrival(&shell, language, &taken, value);
                check_arrival(&shell, language, &exported, value);
            }
        }
    }
}

#[test]
fn each_special_name_alone_changes_nothing() {
    for shell in shells() {
        for name in SPECIAL.split_whitespace().filter(|name| !is_exportable(Language::Python, name)) {
            check_arrival(&shell, Language::Python, &[name], "abc");
        }
        for name in ["UID", "GROUPS", "FUNCNAME", "DIRSTACK", "PATH", "LC_ALL", "POSIXLY_CORRECT", "TMOUT", "FUNCNEST"]
        {
            check_arrival(&shell, Language::Bash, &[name], "abc");
        }
    }
}

#[test]
fn a_variable_that_bash_passes_by_for_root_is_refused_by_name() {
    // Tests run as root.
    for shell in shells() {
        let output = run_in(&shell.1, &script(Language::Bash, "echo ran"), &[("PS4", "x")], None, &[]);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(125), &b""[..]), "{output:?}");
        assert!(complaint(NONCE, &output.stderr).is_some_and(|why| why.contains("PS4")), "{output:?}");
    }
}

#[test]
fn without_perl_a_bash_job_with_an_odd_variable_is_refused_by_name() {
    let folder = crate::os::scratch::Scratch::new();
    for tool in ["bash", "cat", "mkdir", "id"] {
        std::os::unix::fs::symlink(format!("/bin/{tool}"), folder.join(tool)).expect("link");
    }
    let path = [("PATH", folder.to_str().expect("text"))];
    for shell in shells() {
        let full = |word: &String| match word.as_str() {
            "dash" | "busybox" => format!("/bin/{word}"),
            _ => word.clone(),
        };
        let shell: Vec<String> = shell.1.iter().map(full).collect();
        let output = run_in(&shell, &script(Language::Bash, "echo ran"), &[("my.key", "x"), ("A", "b")], None, &path);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(125), &b""[..]), "{output:?}");
        let why = complaint(NONCE, &output.stderr).expect("a complaint");
        assert!(why.contains("no perl") && why.ends_with("my.key"), "{why}");
        let output = run_in(&shell, &script(Language::Bash, "echo $A"), &[("A", "b")], None, &path);
        assert_eq!(stdout(&output), "b\n");
    }
}

#[test]
fn what_image_or_login_sets_changes_nothing() {
    let folder = crate::os::scratch::Scratch::new();
    let trap = folder.join("elsewhere/work");
    std::fs::create_dir_all(&trap).expect("folder");
    let (file, cdpath) = (folder.join("env"), folder.join("elsewhere"));
    std::fs::write(&file, "echo from ENV; cd /; alias cat=false; alias exec=false; set -f").expect("write");
    let (file, cdpath) = (file.to_str().expect("text"), cdpath.to_str().expect("text"));
    let function = "() { echo a function; return 0; }";
    let mut hostile = vec![
        ("CDPATH", cdpath),
        ("ENV", file),
        ("BASH_ENV", file),
        ("IFS", "/o"),
        ("PS4", "$(echo traced >&2)"),
        ("POSIXLY_CORRECT", "1"),
        ("GREP_OPTIONS", "-v"),
        ("LC_ALL", "xx_YY"),
        ("GLOBIGNORE", "*"),
        ("TMOUT", "1"),
        ("OPTIND", "3"),
        ("i", "theirs"),
        ("f", "theirs"),
        ("cronium_m", "theirs"),
    ];
    let names: Vec<String> =
        ["cat", "cd", "command", "mkdir", "printf", "echo", "read", "id", "trap", "exec", "unset", "f", "set"]
            .iter()
            .map(|name| format!("BASH_FUNC_{name}%%"))
            .collect();
    hostile.extend(names.iter().map(|name| (name.as_str(), function)));
    for (shell, strict) in shells().into_iter().flat_map(|shell| [(shell.clone(), true), (shell, false)]) {
        // Bash does not even start where both come together; the engine takes this variable away.
        let special = ["exec", "set", "trap", "unset"].map(|name| format!("BASH_FUNC_{name}%%"));
        let mut hostile = hostile.clone();
        hostile
            .retain(|(name, _)| if strict { !special.iter().any(|s| s == name) } else { *name != "POSIXLY_CORRECT" });
        let mut text = script(Language::Bash, "cd work && pwd; echo \"$i $f\"; printf '%s.' a/b; type cat; umask");
        text.working_directory = "here".to_owned();
        for variables in [&[][..], &[("my.key", "odd")]] {
            // The folder that CDPATH would lead away from.
            let before = script(Language::Bash, "mkdir work; cd work && pwd");
            let output = run_in(&shell.1, &before, variables, None, &hostile);
            let shown = stdout(&output);
            assert!(
                shown.contains("/cronium-test-") && shown.ends_with("/work\n") && shown.lines().count() == 1,
                "{} {shown}",
                shell.0
            );
            let output = run_in(&shell.1, &text, variables, None, &hostile);
            assert!(stdout(&output).starts_with("theirs theirs\na/b.cat is /"), "{} {output:?}", shell.0);
            assert!(!stderr(&output).contains("traced"), "{output:?}");
        }
        // A job's own value arrives.
        let own = [("CDPATH", cdpath), ("POSIXLY_CORRECT", "y"), ("GREP_OPTIONS", "x")];
        let output = run_in(
            &shell.1,
            &script(Language::Bash, "echo $CDPATH $POSIXLY_CORRECT $GREP_OPTIONS"),
            &own,
            None,
            &hostile,
        );
        assert_eq!(stdout(&output), format!("{cdpath} y x\n"));
    }
}

#[path = "start_tests.rs"]
mod start;
