//! What the programs have in common that carry a script to a shell, in a container or on a server: the checks, the
//! quoting, the here-documents, and the variables that no shell can export.

use std::fmt;

use crate::job::{Language, Script};
use crate::limits;
use crate::secret::Secret;

/// The exit code with which a program says that the script could not be started.
pub const SETUP_FAILED: i64 = 125;

/// Why a job cannot be written as a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramError {
    /// A NUL byte, and where.
    Nul(String),
    /// The script has more bytes than are taken.
    ScriptTooLarge(usize),
    /// A variable's value is longer than the kernel allows.
    VariableTooLarge(String),
    /// All variables together are larger than is taken.
    EnvironmentTooLarge(usize),
    /// The working directory is not below the container's workspace.
    Directory(String),
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nul(place) => write!(f, "{place} holds a NUL byte, which no script or variable can hold"),
            Self::ScriptTooLarge(n) => {
                write!(f, "the script has {n} bytes, at most {} are taken", limits::SCRIPT_MAX)
            }
            Self::VariableTooLarge(name) => {
                write!(f, "the variable {name} is longer than the kernel's {} bytes", limits::VARIABLE_MAX)
            }
            Self::EnvironmentTooLarge(n) => {
                write!(f, "the variables have {n} bytes in all, at most {} are taken", limits::ENVIRONMENT_MAX)
            }
            Self::Directory(dir) => {
                write!(f, "the working directory {dir:?} is not below /workspace; give a relative path without \"..\"")
            }
        }
    }
}

impl std::error::Error for ProgramError {}

/// Whether script and variables can be carried at all.
pub(in crate::executors) fn check(script: &Script, variables: &[(String, Secret)]) -> Result<(), ProgramError> {
    if script.content.len() > limits::SCRIPT_MAX {
        return Err(ProgramError::ScriptTooLarge(script.content.len()));
    }
    if let Some(at) = script.content.bytes().position(|b| b == 0) {
        let line = script.content[..at].bytes().filter(|&b| b == b'\n').count() + 1;
        return Err(ProgramError::Nul(format!("the script's line {line}")));
    }
    let mut total = 0;
    for (name, value) in variables {
        if name.contains('\0') || value.expose().contains('\0') {
            return Err(ProgramError::Nul(format!("the variable {}", name.replace('\0', "\u{fffd}"))));
        }
        let length = name.len() + 1 + value.expose().len();
        if length > limits::VARIABLE_MAX {
            return Err(ProgramError::VariableTooLarge(name.clone()));
        }
        total += length;
    }
    if total > limits::ENVIRONMENT_MAX {
        return Err(ProgramError::EnvironmentTooLarge(total));
    }
    Ok(())
}

/// The ways to find the interpreter, as one shell command.
pub(in crate::executors) fn candidates(language: Language) -> &'static str {
    match language {
        Language::Bash => "command -v bash",
        Language::Python => "command -v python3 || command -v python",
        Language::Node => "command -v node || command -v nodejs",
    }
}

/// The shell function `f`, which says why the script cannot be started, and ends.
pub(in crate::executors) fn complain(nonce: &str) -> String {
    format!("f() {{ printf 'cronium setup {nonce}: %s\\n' \"$1\" >&2; exit {SETUP_FAILED}; }}")
}

/// What the program itself said when it could not start the script, found at the end of its stderr.
pub fn complaint(nonce: &str, stderr_tail: &[u8]) -> Option<String> {
    let tail = String::from_utf8_lossy(stderr_tail);
    let mark = format!("cronium setup {nonce}: ");
    tail.lines().rev().find_map(|line| line.strip_prefix(&mark).map(str::to_owned))
}

/// Keeps the last `limits::STDERR_TAIL` bytes.
pub(in crate::executors) fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[bytes.len().saturating_sub(limits::STDERR_TAIL)..];
    let surplus = (tail.len() + bytes.len()).saturating_sub(limits::STDERR_TAIL);
    tail.drain(..surplus.min(tail.len()));
    tail.extend_from_slice(bytes);
}

/// The C library's words for ENOSPC, which every interpreter passes on.
pub(in crate::executors) fn tells_of_full_device(stderr: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stderr);
    text.contains("No space left on device") || text.contains("ENOSPC")
}

/// The same for a program whose nonce is not at hand: one that another agent wrote.
pub(in crate::executors) fn any_complaint(stderr_tail: &[u8]) -> Option<String> {
    let tail = String::from_utf8_lossy(stderr_tail);
    tail.lines().rev().find_map(|line| Some(line.strip_prefix("cronium setup ")?.split_once(": ")?.1.to_owned()))
}

/// The script's file.
pub fn file_name(language: Language) -> &'static str {
    match language {
        Language::Bash => "script.sh",
        Language::Python => "script.py",
        Language::Node => "script.js",
    }
}

/// Whether a shell can export a variable of this name. Bash, where it serves as `sh`, has some that are read-only.
pub(in crate::executors) fn is_exportable(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let read_only = ["UID", "EUID", "PPID", "SHELLOPTS", "BASHOPTS", "BASH_VERSINFO"].contains(&name);
    first && rest && !read_only
}

/// `text` as one word of shell.
pub(in crate::executors) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn hex(text: &str) -> String {
    use fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Writes a shell program line by line.
pub(in crate::executors) struct Writer {
    pub(in crate::executors) text: Vec<u8>,
    /// Ends each here-document: random, so that no script holds it.
    pub(in crate::executors) delimiter: String,
}

impl Writer {
    /// One line.
    pub(in crate::executors) fn line(&mut self, line: &str) {
        self.text.extend_from_slice(line.as_bytes());
        self.text.push(b'\n');
    }

    /// A file with `content`, by a here-document in which nothing is special.
    pub(in crate::executors) fn file(&mut self, path: &str, content: &str) {
        let delimiter = self.delimiter.clone();
        self.line(&format!("cat > {path} <<'{delimiter}' || f \"cannot write {path}; is it full or read-only?\""));
        self.text.extend_from_slice(content.as_bytes());
        if !content.ends_with('\n') {
            self.text.push(b'\n');
        }
        self.line(&delimiter);
    }

    /// Exports what a shell can export.
    pub(in crate::executors) fn exports(&mut self, variables: &[&(String, Secret)]) {
        for (name, value) in variables {
            self.line(&format!("export {name}={}", quote(value.expose())));
        }
    }

    /// The line that becomes the interpreter, after what it needs for variables whose names no shell can export. The
    /// positional parameters are, there as here, the interpreter, an empty one, and the folder of the script: names such
    /// as `i` may be the job's own variables.
    pub(in crate::executors) fn become_interpreter(&mut self, language: Language, odd: &[&(String, Secret)]) -> String {
        let file = format!("\"$3\"/{}", file_name(language));
        if odd.is_empty() {
            return format!("exec \"$1\" {file} </dev/null");
        }
        let each = |write: fn(&str, &str) -> String| -> String {
            odd.iter().map(|(name, value)| write(&hex(name), &hex(value.expose()))).collect()
        };
        let helper = "\"$3\"/.cronium-environment";
        match language {
            Language::Python => {
                let set = each(|n, v| format!("os.environb[bytes.fromhex('{n}')]=bytes.fromhex('{v}')\n"));
                let code = format!("import os,sys\nos.unlink(sys.argv[0])\n{set}os.execv(sys.argv[1],sys.argv[1:])\n");
                self.file(helper, &code);
                format!("exec \"$1\" {helper} \"$1\" {file} </dev/null")
            }
            Language::Node => {
                let set = each(|n, v| format!("process.env[u('{n}')]=u('{v}')\n"));
                let head = "require('fs').unlinkSync(__filename)\nconst u=h=>Buffer.from(h,'hex').toString()\n";
                self.file(&format!("{helper}.js"), &format!("{head}{set}"));
                format!("exec \"$1\" -r {helper}.js {file} </dev/null")
            }
            Language::Bash => {
                let set = each(|n, v| format!("$ENV{{pack('H*','{n}')}}=pack('H*','{v}');\n"));
                self.file(helper, &format!("unlink $0;\n{set}exec {{$ARGV[0]}} @ARGV;\n"));
                let names: Vec<&str> = odd.iter().map(|(name, _)| name.as_str()).collect();
                let note = quote(&format!("cronium: left out, since there is no perl to pass them: {names:?}"));
                self.line(&format!(
                    "p=$(command -v perl) && set -- \"$1\" \"$p\" \"$3\" || {{ rm -f {helper}; echo {note} >&2; }}"
                ));
                // Quoted throughout: IFS may be one of the job's variables.
                format!("[ -z \"$2\" ] || exec \"$2\" {helper} \"$1\" {file} </dev/null\nexec \"$1\" {file} </dev/null")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_kept_and_bounded() {
        let mut tail = Vec::new();
        for n in 0..2000u32 {
            keep_tail(&mut tail, format!("line {n}\n").as_bytes());
            assert!(tail.len() <= limits::STDERR_TAIL);
        }
        assert!(tail.ends_with(b"line 1999\n"));
        keep_tail(&mut tail, &vec![b'x'; limits::STDERR_TAIL * 3]);
        assert_eq!(tail, vec![b'x'; limits::STDERR_TAIL]);
    }
}
