//! What the programs have in common that carry a script to a shell, in a container or on a server: the checks, the
//! quoting, the here-documents, and the last step, which becomes the script's interpreter.
//!
//! The rules of such a program:
//! - It says nothing on stderr but its own words: file descriptor 2 is `/dev/null` until the last step.
//! - It ends in one way, by becoming the interpreter. Any other end is a setup failure with [`SETUP_FAILED`] and a
//!   [`complaint`](crate::executors::complaint), never the script's exit code.
//! - Variables and functions of image or login change nothing in it: it drops what could.

use std::fmt;

pub use crate::executors::complaint::SETUP_FAILED;
pub(super) use crate::executors::complaint::keep_tail;
use crate::executors::names::is_owned;
use crate::executors::shebang::Shebang;
use crate::job::{Language, Script};
use crate::limits;
use crate::secret::Secret;

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
    /// Variables that the script's interpreter sets itself.
    Owned(Vec<String>),
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
            Self::Owned(names) => write!(
                f,
                "Bash sets {} itself, so that the job's value would not reach the script; give the variable another name",
                names.join(", ")
            ),
        }
    }
}

impl std::error::Error for ProgramError {}

/// Whether script and variables can be carried at all.
pub(super) fn check(script: &Script, variables: &[(String, Secret)]) -> Result<(), ProgramError> {
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
    let owned = |name: &&String| is_owned(script.language, name);
    let shebang = Shebang::of(text(script)).unwrap_or_default();
    let names = variables.iter().map(|(name, _)| name).chain(shebang.variables.iter().map(|(name, _)| name));
    let owned: Vec<String> = names.filter(owned).cloned().collect();
    if owned.is_empty() { Ok(()) } else { Err(ProgramError::Owned(owned)) }
}

/// The script's text without a byte-order mark, which no interpreter but Python takes for none.
pub(super) fn text(script: &Script) -> &str {
    script.content.strip_prefix('\u{feff}').unwrap_or(&script.content)
}

/// The names of the interpreter, in the order in which they are looked for. A version that the `#!` line names comes first.
pub(super) fn interpreters(script: &Script) -> Vec<String> {
    let usual: &[&str] = match script.language {
        Language::Bash => &["bash"],
        Language::Python => &["python3", "python"],
        Language::Node => &["node", "nodejs"],
    };
    version(script).into_iter().chain(usual.iter().map(|&name| name.to_owned())).collect()
}

/// The ways to find the interpreter, as one shell command.
pub(super) fn candidates(script: &Script) -> String {
    let ways: Vec<String> = interpreters(script).iter().map(|name| format!("command -v {name}")).collect();
    ways.join(" || ")
}

/// The version of the interpreter that the `#!` line asks for, where it is of the job's language.
fn version(script: &Script) -> Option<String> {
    let shebang = Shebang::of(text(script)).filter(|shebang| shebang.language() == Some(script.language))?;
    shebang.version().map(str::to_owned)
}

/// What the script's `#!` line asks for and does not get, a sentence each.
pub(super) fn notes(script: &Script) -> Vec<String> {
    let Some(shebang) = Shebang::of(text(script)) else { return Vec::new() };
    let language = script.language.as_str();
    if shebang.language() != Some(script.language) {
        return vec![format!(
            "the script's #! line names {:?}, but the job's type is {language}: {language} runs it",
            shebang.program
        )];
    }
    let ignored = |word: &String| format!("the script's #! line asks env for {word:?}, which is not done");
    shebang.ignored.iter().map(ignored).collect()
}

/// What may have led a script of this text into its failure, to be put behind the verdict's sentence; or nothing.
pub(super) fn hint(script: &Script) -> String {
    let text = text(script);
    if script.language == Language::Bash && text.contains("\r\n") {
        return "; its lines end in CR LF, and Bash takes each CR for a part of its line: save it with LF alone"
            .to_owned();
    }
    let foreign = Shebang::of(text).filter(|shebang| shebang.language() != Some(script.language));
    let language = script.language.as_str();
    foreign.map_or(String::new(), |shebang| {
        format!("; its #! line names {:?}, but the job's type is {language}, and {language} ran it", shebang.program)
    })
}

/// The first lines of every program of ours: they drop what image or login could change it by. The options come first, since
/// with them nothing after them could be trusted; then functions under the names that it uses; then variables.
pub(super) fn clean() -> String {
    format!("set +aefuvxC\nunset -f {COMMANDS}\nunset {DROPPED}")
}

/// [`clean`], and what else begins a program that has the script's stderr: it silences stderr, and sets the shell function
/// `f`, which says why the script cannot be started, and ends. `f` is also called when the shell itself ends before its time.
pub(super) fn guard(nonce: &str) -> String {
    format!(
        "exec 3>&2 2>/dev/null\n\
         {}\n\
         f() {{ trap - 0; {{ printf 'cronium setup {nonce}: %s\\n' \"$1\" >&3; }} 2>/dev/null || \
         printf 'cronium setup {nonce}: %s\\n' \"$1\" >&2; exit {SETUP_FAILED}; }}\n\
         trap 'f \"its shell ended before the script began\"' 0",
        clean()
    )
}

/// Commands of ours that a function could hide.
const COMMANDS: &str = "[ cat cd chmod command cut date df echo env exec exit export grep head id kill ls mkdir mkfifo mv \
     printf pwd read rm script set setsid sh shopt sleep sort tail tee test times tr trap true umask wait wc unset";

/// Variables of an image or a login that change where `cd` goes, what shells read first, or what tools print. The script
/// does not get them either: for it they would be as surprising. A job's own value of one arrives.
const DROPPED: &str = "CDPATH ENV BASH_ENV IFS GLOBIGNORE POSIXLY_CORRECT PS4 GREP_OPTIONS GREP_COLOR GREP_COLORS TIME_STYLE \
     QUOTING_STYLE BLOCK_SIZE BLOCKSIZE DF_BLOCK_SIZE LS_BLOCK_SIZE";

/// Complains unless the file that a shell variable names looks like a program: a shell would run any other file as a shell
/// script, and report success for an empty one.
pub(super) fn demand_program(variable: &str) -> String {
    format!(
        "[ ! -r \"${variable}\" ] || {{ read -r cronium_m <\"${variable}\"; case $cronium_m in ?ELF*|'#!'*) ;; \
         *) f \"${variable} is no program\";; esac; unset cronium_m; }}"
    )
}

/// The C library's words for ENOSPC, which every interpreter passes on.
pub(super) fn tells_of_full_device(stderr: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stderr);
    text.contains("No space left on device") || text.contains("ENOSPC")
}

/// The script's file.
pub fn file_name(language: Language) -> &'static str {
    match language {
        Language::Bash => "script.sh",
        Language::Python => "script.py",
        Language::Node => "script.js",
    }
}

/// `text` as one word of shell.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Writes a shell program line by line.
pub(super) struct Writer {
    pub(super) text: Vec<u8>,
    /// Ends each here-document: random, so that no script holds it.
    pub(super) delimiter: String,
}

impl Writer {
    /// One line.
    pub(super) fn line(&mut self, line: &str) {
        self.text.extend_from_slice(line.as_bytes());
        self.text.push(b'\n');
    }

    /// A file with `content`, by a here-document in which nothing is special.
    pub(super) fn file(&mut self, path: &str, content: &str) {
        let delimiter = self.delimiter.clone();
        self.line(&format!("cat > {path} <<'{delimiter}' || f \"cannot write {path}; is it full or read-only?\""));
        self.text.extend_from_slice(content.as_bytes());
        if !content.ends_with('\n') {
            self.text.push(b'\n');
        }
        self.line(&delimiter);
    }
}
