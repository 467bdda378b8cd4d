//! The list of allowed scripts, as `sha256sum` prints it: `SUM  NAME` a line. The ending of the name gives the language.
//!
//! The sum covers the script alone. So a job that runs by this list may not set a variable that makes a shell, an
//! interpreter or the loader run other code.

use std::collections::BTreeMap;

use super::{keys::shown, sha256};
use crate::job::{Job, Kind, Language};
use crate::limits;

/// The scripts that may run, by sum and language.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scripts(BTreeMap<(String, &'static str), String>);

impl Scripts {
    /// Reads a file; the error names the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let (sum, name) = one(line).map_err(|why| format!("line {}: {why}", at + 1))?;
            if all.len() == limits::ALLOWED_SCRIPTS_MAX {
                return Err(format!("line {}: more than {} scripts", at + 1, limits::ALLOWED_SCRIPTS_MAX));
            }
            let language = language_of(&name).map_err(|why| format!("line {}: {why}", at + 1))?;
            all.insert((sum, language.as_str()), name);
        }
        if all.is_empty() { Err("it holds no script".to_owned()) } else { Ok(Self(all)) }
    }

    /// How many it holds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The name under which the job's script may run; the error says why it may not.
    pub fn allow(&self, job: &Job) -> Result<&str, String> {
        if job.kind == Kind::Http {
            return Err("an HTTP request is no script of the list".to_owned());
        }
        let sum = sha256(job.script.content.as_bytes());
        let language = job.script.language.as_str();
        let Some(name) = self.0.get(&(sum.clone(), language)) else {
            return Err(format!("the list has no {language} script with the sum {sum}"));
        };
        match job.environment.iter().find(|(name, _)| loads_code(name)) {
            Some((variable, _)) => {
                Err(format!("it is {name} of the list, but its variable {variable} can make other code run"))
            }
            None => Ok(name),
        }
    }
}

fn one(line: &str) -> Result<(String, String), String> {
    let (sum, rest) = line.split_once(' ').ok_or("a line is a SHA-256 sum, two spaces and a name")?;
    if sum.len() != 64 || !sum.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!("{} is no SHA-256 sum: 64 hexadecimal digits", shown(sum)));
    }
    // `sha256sum` puts a space or `*` before the name.
    let name = rest.strip_prefix([' ', '*']).unwrap_or(rest).trim();
    if name.is_empty() {
        return Err("the name is missing".to_owned());
    }
    Ok((sum.to_ascii_lowercase(), name.to_owned()))
}

fn language_of(name: &str) -> Result<Language, String> {
    let endings = ".sh, .bash, .py, .js, .mjs or .cjs";
    Language::of_file(name).ok_or_else(|| format!("{} must end in {endings}, which gives the language", shown(name)))
}

/// Variables by which a shell, an interpreter or the loader takes in other code, or finds other programs.
fn loads_code(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        "PATH",
        "ENV",
        "BASH_ENV",
        "SHELLOPTS",
        "BASHOPTS",
        "IFS",
        "PS4",
        "PROMPT_COMMAND",
        "CDPATH",
        "GCONV_PATH",
        "LOCPATH",
        "OPENSSL_CONF",
        "SSLKEYLOGFILE",
        "TMPDIR",
    ];
    const FAMILIES: [&str; 8] =
        ["LD_", "PYTHON", "NODE_", "npm_config_", "BASH_FUNC_", "GLIBC_TUNABLES", "PERL", "RUBY"];
    NAMES.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}
