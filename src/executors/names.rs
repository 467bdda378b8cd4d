//! Names of variables that a shell keeps for itself: they need another way than `export`, or can never arrive. Pure.

use crate::job::Language;

/// What some shell sets itself, changes on the way, keeps read-only, or ends for when it does not like the value.
/// Found by trying every name that dash, Bash and busybox ash know.
const KEPT_BY_SHELLS: [&str; 17] = [
    "DIRSTACK",
    "EUID",
    "FUNCNAME",
    "FUNCNEST",
    "GROUPS",
    "HISTCMD",
    "LINENO",
    "OPTIND",
    "PIPESTATUS",
    "PPID",
    "RANDOM",
    "SECONDS",
    "SHELLOPTS",
    "SHLVL",
    "SRANDOM",
    "UID",
    "_",
];

/// The beginnings of further such names: what a later Bash adds begins so too.
const KEPT_PREFIXES: [&str; 4] = ["BASH", "COMP_", "EPOCH", "cronium_"];

/// What a Bash script reads from Bash itself, whatever its environment says.
const OWNED_BY_BASH: [&str; 30] = [
    "BASH",
    "BASHOPTS",
    "BASHPID",
    "BASH_ARGV0",
    "BASH_COMMAND",
    "BASH_EXECUTION_STRING",
    "BASH_MONOSECONDS",
    "BASH_SUBSHELL",
    "BASH_TRAPSIG",
    "BASH_VERSINFO",
    "BASH_VERSION",
    "COMP_WORDBREAKS",
    "EPOCHREALTIME",
    "EPOCHSECONDS",
    "HISTCMD",
    "IFS",
    "LINENO",
    "OLDPWD",
    "OPTERR",
    "OPTIND",
    "PPID",
    "PS1",
    "PS2",
    "PWD",
    "RANDOM",
    "SECONDS",
    "SHELLOPTS",
    "SHLVL",
    "SRANDOM",
    "_",
];

/// What Node.js takes out of its environment when it starts.
const TAKEN_BY_NODE: [&str; 3] = ["NODE_CHANNEL_FD", "NODE_CHANNEL_SERIALIZATION_MODE", "NODE_UNIQUE_ID"];

/// Whether every shell exports a variable of this name as it is given.
pub(super) fn is_exportable(language: Language, name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let kept = KEPT_BY_SHELLS.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let taken = language == Language::Node && TAKEN_BY_NODE.contains(&name);
    first && rest && !kept && !taken
}

/// Whether a script of this language can never see a value of ours under this name.
pub(super) fn is_owned(language: Language, name: &str) -> bool {
    language == Language::Bash && OWNED_BY_BASH.contains(&name)
}

/// Whether Bash passes a variable of this name by where root runs it.
pub(super) fn is_ignored_for_root(language: Language, name: &str) -> bool {
    language == Language::Bash && name == "PS4"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_their_way() {
        for name in ["A", "a_1", "PATH", "HOME", "LANG", "LC_ALL", "TZ", "IFS", "PWD", "COLUMNS", "BAS", "COMPOSE"] {
            assert!(is_exportable(Language::Python, name), "{name}");
        }
        for name in ["my.key", "MY-VAR", "1x", "", "ü", "UID", "OPTIND", "BASH_ENV", "BASH_FUNC_x%%", "COMP_KEY"] {
            assert!(!is_exportable(Language::Python, name), "{name}");
        }
        assert!(
            is_exportable(Language::Python, "NODE_CHANNEL_FD") && !is_exportable(Language::Node, "NODE_CHANNEL_FD")
        );
        assert!(is_owned(Language::Bash, "RANDOM") && !is_owned(Language::Bash, "UID"));
        assert!(!is_owned(Language::Python, "RANDOM"));
    }
}
