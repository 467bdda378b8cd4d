//! The shell program that carries a script and its environment into the container, over stdin.
//!
//! Nothing of a job is an argument (128 KiB at most, and readable by everybody in `ps`), a mount, or a part of the
//! engine's stored configuration. The program is one brace group: a shell reads it to the closing brace before it runs
//! any of it, so that half a program, cut off by a broken connection, is a syntax error and never half a script.
//!
//! What it does, in order: say that it is complete (see `marker`), find the interpreter, write the script to a file (so that a traceback names a real file and
//! the right line), enter the working directory, export the variables, and become the interpreter.

use crate::executors::container::marker::Marker;
use crate::executors::shell::{self, ProgramError, Writer, candidates, check, file_name, is_exportable, quote};
use crate::job::Script;
use crate::secret::Secret;

/// Where scripts live in the container.
pub const WORKSPACE: &str = "/workspace";

/// A program that is ready to be sent. It holds secrets: it is not printed and not kept.
pub struct Program {
    text: Vec<u8>,
    /// A random word that the script cannot know: it marks the program's own words on stderr.
    nonce: String,
}

impl Program {
    /// Writes the program. `nonce` is random hex; `workspace` is [`WORKSPACE`] but in tests.
    pub fn new(
        script: &Script,
        variables: &[(String, Secret)],
        workspace: &str,
        nonce: &str,
    ) -> Result<Self, ProgramError> {
        check(script, variables)?;
        let directory = below_workspace(&script.working_directory)?;
        let delimiter = format!("CRONIUM_{nonce}");
        let mut writer = Writer { text: Vec::with_capacity(script.content.len() + 4096), delimiter };
        write(&mut writer, script, variables, workspace, &directory, nonce);
        Ok(Self { text: writer.text, nonce: nonce.to_owned() })
    }

    /// The bytes for the container's stdin.
    pub fn bytes(&self) -> &[u8] {
        &self.text
    }

    /// The random word.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }
}

/// The working directory relative to the workspace; empty for the workspace itself.
fn below_workspace(directory: &str) -> Result<String, ProgramError> {
    let outside = || ProgramError::Directory(directory.to_owned());
    if directory.contains('\0') {
        return Err(ProgramError::Nul("the working directory".to_owned()));
    }
    let relative = match directory.strip_prefix(WORKSPACE) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest.trim_start_matches('/'),
        _ if directory.starts_with('/') => return Err(outside()),
        _ => directory,
    };
    let parts: Vec<&str> = relative.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") { Err(outside()) } else { Ok(parts.join("/")) }
}

fn write(
    writer: &mut Writer,
    script: &Script,
    variables: &[(String, Secret)],
    workspace: &str,
    directory: &str,
    nonce: &str,
) {
    let (exported, odd): (Vec<_>, Vec<_>) = variables.iter().partition(|(name, _)| is_exportable(name));
    let candidates = candidates(script.language);
    writer.line("{");
    writer.line(&format!("echo '{}' >&2", Marker::line(nonce)));
    writer.line("unset TINI_KILL_PROCESS_GROUP");
    writer.line(&shell::complain(nonce));
    writer.line(&format!("cd {workspace} || f \"the image has no {workspace} that uid $(id -u) may enter\""));
    let language = script.language.as_str();
    writer.line(&format!("i=$({candidates}) || f \"the image has no {language} interpreter on its PATH\""));
    let file = format!("{workspace}/{}", file_name(script.language));
    writer.file(&file, &script.content);
    writer.line(&format!("set -- \"$i\" '' {workspace}"));
    let start = writer.become_interpreter(script.language, &odd);
    if !directory.is_empty() {
        let word = quote(directory);
        writer.line(&format!("mkdir -p -- {word} && cd -- {word} || f 'cannot enter the working directory'"));
    }
    writer.line(&format!("export HOME={workspace} PYTHONUNBUFFERED=1"));
    writer.exports(&exported);
    writer.line(&start);
    writer.line("}");
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Output, Stdio};

    use super::*;
    use crate::executors::shell::complaint;
    use crate::job::Language;
    use crate::limits;

    const NONCE: &str = "00ff";

    fn script(language: Language, content: &str) -> Script {
        Script { language, content: content.to_owned(), working_directory: String::new() }
    }

    /// Runs the program, or its first `cut` bytes, in the shell of this machine and a folder of its own.
    fn run(script: &Script, variables: &[(&str, &str)], cut: Option<usize>) -> Output {
        let folder = std::env::temp_dir().join(format!("cronium-program-{}", crate::os::random::hex(8)));
        std::fs::create_dir(&folder).expect("folder");
        let variables: Vec<_> = variables.iter().map(|(n, v)| ((*n).to_owned(), Secret::new(*v))).collect();
        let program = Program::new(script, &variables, folder.to_str().expect("text"), NONCE).expect("program");
        let bytes = program.bytes();
        let mut child = Command::new("/bin/sh")
            .args(["-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh");
        let sent = child.stdin.take().expect("stdin").write_all(&bytes[..cut.unwrap_or(bytes.len())]);
        assert!(sent.is_ok() || cut.is_some());
        let output = child.wait_with_output().expect("output");
        std::fs::remove_dir_all(&folder).expect("remove");
        output
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
        let mine = [("i", "/bin/false"), ("p", "x"), ("f", "y"), ("m", "z"), ("IFS", "e"), ("PATH", "/nowhere")];
        let text = script(Language::Bash, "echo \"$i $p $f $m $PATH\"");
        assert_eq!(stdout(&run(&text, &mine, None)), "/bin/false x y z /nowhere\n");
        let odd: Vec<_> = mine.into_iter().chain([("a-b", "c")]).collect();
        assert_eq!(stdout(&run(&text, &odd, None)), "/bin/false x y z /nowhere\n");
    }

    #[test]
    fn half_a_program_never_runs() {
        let text = script(Language::Bash, "touch /tmp/cronium-half; echo ran");
        let whole = Program::new(&text, &[], "/tmp", NONCE).expect("program").bytes().len();
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
        let program = Program::new(&script(Language::Bash, "x"), &[], "/nowhere-at-all", NONCE).expect("program");
        let mut child =
            Command::new("/bin/sh").arg("-s").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh");
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
            Program::new(&script(Language::Bash, &content), variables, WORKSPACE, NONCE).map(drop)
        };
        let largest = "#".repeat(limits::SCRIPT_MAX);
        assert_eq!(new(largest.clone(), &[]), Ok(()));
        assert_eq!(new(largest + "#", &[]), Err(ProgramError::ScriptTooLarge(limits::SCRIPT_MAX + 1)));
        // A variable is its name, an equals sign and its value.
        let variable = |name: &str, length: usize| (name.to_owned(), Secret::new("x".repeat(length - name.len() - 1)));
        assert_eq!(new(String::new(), &[variable("A", limits::VARIABLE_MAX)]), Ok(()));
        let one_more = new(String::new(), &[variable("A", limits::VARIABLE_MAX + 1)]);
        assert_eq!(one_more, Err(ProgramError::VariableTooLarge("A".into())));
        let mut all: Vec<_> =
            (0..16).map(|n| variable(&format!("A{n:02}"), limits::ENVIRONMENT_MAX / 16 - 1)).collect();
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
            Program::new(&script, &[(name.to_owned(), Secret::new(value))], WORKSPACE, NONCE).map(drop)
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
}
