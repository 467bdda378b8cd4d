//! The shell program that carries a script and its environment into the container, over stdin.
//!
//! Nothing of a job is an argument (128 KiB at most, and readable by everybody in `ps`), a mount, or a part of the
//! engine's stored configuration. The program is one brace group: a shell reads it to the closing brace before it runs
//! any of it, so that half a program, cut off by a broken connection, is a syntax error and never half a script.
//!
//! What it does, in order: drop what the image could change it by, find the interpreter, write the script to a file (so
//! that a traceback names a real file and the right line), enter the working directory, set the variables, say that the
//! script is about to start (see `marker`), and become the interpreter. Before that word it prints nothing but the reason
//! why the script cannot be started.

use crate::executors::container::marker::Marker;
use crate::executors::helpers::HelperFiles;
use crate::executors::interpreter::{Start, Words};
use crate::executors::shell::{
    self, ProgramError, Writer, candidates, check, demand_program, file_name, interpreters, quote,
};
use crate::job::Script;
use crate::secret::Secret;

/// Where scripts live in the container.
pub const WORKSPACE: &str = "/workspace";

/// Where temporary files go, below the workspace: programs may be executed there, which `/tmp` does not allow.
const TEMPORARY: &str = ".tmp";

/// A program that is ready to be sent. It holds secrets: it is not printed and not kept.
pub struct Program {
    text: Vec<u8>,
    /// A random word that the script cannot know: it marks the program's own words on stderr.
    nonce: String,
}

impl Program {
    /// Writes the program. `nonce` is random hex; `workspace` is [`WORKSPACE`] but in tests.
    pub(in crate::executors) fn new(
        script: &Script,
        variables: &[(String, Secret)],
        helpers: Option<&HelperFiles<'_>>,
        workspace: &str,
        nonce: &str,
    ) -> Result<Self, ProgramError> {
        check(script, variables)?;
        let directory = below_workspace(&script.working_directory)?;
        let delimiter = format!("CRONIUM_{nonce}");
        let mut writer = Writer { text: Vec::with_capacity(script.content.len() + 4096), delimiter };
        write(&mut writer, script, (variables, helpers), workspace, &directory, nonce);
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
    (variables, helpers): (&[(String, Secret)], Option<&HelperFiles<'_>>),
    workspace: &str,
    directory: &str,
    nonce: &str,
) {
    writer.line("{");
    writer.line(&shell::guard(nonce));
    writer.line("unset TINI_KILL_PROCESS_GROUP");
    writer.line(&format!("cd {workspace} || f \"the image has no {workspace} that uid $(id -u) may enter\""));
    // The name of a shell variable may be one of the image's.
    writer.line(&format!("set -- \"$({})\" '' {workspace}", candidates(script)));
    let names = interpreters(script).join(" or ");
    writer.line(&format!(
        "[ -n \"$1\" ] || f \"the image has no {names} on its PATH ($PATH); use an image that has it\""
    ));
    writer.line(&demand_program("1"));
    writer.file(&format!("{workspace}/{}", file_name(script.language)), shell::text(script));
    if !directory.is_empty() {
        // `cd -` would lead elsewhere.
        let word = quote(&format!("./{directory}"));
        writer.line(&format!(
            "set -- \"$@\" \"$(mkdir -p -- {word} 2>&1)\"; cd -- {word} || f \"cannot enter the working directory $4\""
        ));
    }
    // Where it cannot be made, the script finds out what there is.
    writer.line(&format!(
        "[ -n \"$TMPDIR\" ] || {{ mkdir -p -m 700 {workspace}/{TEMPORARY} && export TMPDIR={workspace}/{TEMPORARY}; }}"
    ));
    writer.line(&format!("export HOME={workspace} PYTHONUNBUFFERED=1"));
    let ready = Marker::line(nonce);
    Start { script, variables, words: Words { nonce, ready: Some(&ready), file: None }, helpers }.write(writer);
    writer.line("}");
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
