//! `validate`: checks the configuration and shows the values in effect.

use std::path::{Path, PathBuf};

use crate::config::migrate::migrate;
use crate::config::types::Ssh;
use crate::config::{Problems, Sources, load, show};
use crate::executors::ssh::algorithms;

/// Exit code of a bad configuration.
const BAD_CONFIGURATION: u8 = 2;

/// What was typed.
#[derive(Debug, Default)]
pub struct Options {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Key and value of flags that stand for a key, such as `logging.level`.
    pub overrides: Vec<(String, String)>,
    /// `--explain`.
    pub explain: bool,
    /// `--migrate`.
    pub migrate: Option<PathBuf>,
}

/// What to print and how to end.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The effective configuration as YAML, or nothing.
    pub stdout: String,
    /// Problems, warnings and the closing line.
    pub stderr: String,
    pub code: u8,
}

/// Loads the configuration as `run` would and reports on it.
pub fn validate(options: &Options, env: &dyn Fn(&str) -> Option<String>) -> Outcome {
    if let Some(file) = &options.migrate {
        return migrated(file, env);
    }
    let sources = Sources { path: options.config.clone(), overrides: options.overrides.clone(), ..Sources::new(env) };
    report(&sources, options.explain)
}

/// The new file on standard output, what changes on standard error.
fn migrated(file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Outcome {
    let made = match migrate(file, env) {
        Ok(made) => made,
        Err(problems) => return refused(&problems),
    };
    let mut stderr = String::new();
    let mut list = |title: &str, all: &[String]| {
        if !all.is_empty() {
            stderr.push_str(&format!("{title}:\n"));
            all.iter().for_each(|text| stderr.push_str(&format!("  - {text}\n")));
        }
    };
    list("Without effect here", &made.dropped);
    list("What changes", &made.changes);
    stderr.push_str("The steps: docs/migration.md\n");
    Outcome { stdout: made.yaml, stderr, code: 0 }
}

fn refused(problems: &Problems) -> Outcome {
    let count = problems.0.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    let stderr = format!("{problems}\nconfiguration is not valid: {count} {noun}\n");
    Outcome { stdout: String::new(), stderr, code: BAD_CONFIGURATION }
}

fn report(sources: &Sources<'_>, explain: bool) -> Outcome {
    match load(sources) {
        Err(problems) => refused(&problems),
        Ok(loaded) => {
            let mut stderr = String::new();
            match unknown_algorithms(&loaded.config.ssh) {
                Ok(warnings) => warnings.iter().for_each(|text| stderr.push_str(&format!("warning: {text}\n"))),
                Err(problem) => {
                    let stderr = format!("{problem}\nconfiguration is not valid: 1 problem\n");
                    return Outcome { stdout: String::new(), stderr, code: BAD_CONFIGURATION };
                }
            }
            for warning in &loaded.warnings {
                stderr.push_str(&format!("warning: {warning}\n"));
            }
            let count = loaded.warnings.len();
            stderr.push_str(&match count {
                0 => "configuration is valid\n".to_owned(),
                1 => "configuration is valid, 1 warning\n".to_owned(),
                _ => format!("configuration is valid, {count} warnings\n"),
            });
            Outcome { stdout: show::to_yaml(&loaded, explain), stderr, code: 0 }
        }
    }
}

/// Compares the allowed algorithms with those of the linked SSH library. A name that it lacks is a warning; a list of
/// which it has nothing is an error, since no connection could be made.
fn unknown_algorithms(ssh: &Ssh) -> Result<Vec<String>, String> {
    let (ciphers, exchanges) = algorithms::supported();
    let mut warnings = Vec::new();
    let mut lists = vec![
        ("ssh.security.allowedCiphers".to_owned(), &ssh.allowed_ciphers, &ciphers),
        ("ssh.security.allowedKeyExchanges".to_owned(), &ssh.allowed_key_exchanges, &exchanges),
    ];
    for row in ssh.hosts.rows() {
        let key = |name: &str| format!("ssh.hosts: algorithms.{name} of {}", row.host);
        lists.extend([(key("ciphers"), &row.ciphers, &ciphers), (key("keyExchanges"), &row.key_exchanges, &exchanges)]);
    }
    for (key, allowed, supported) in lists {
        let missing: Vec<&str> = allowed.iter().map(String::as_str).filter(|name| !supported.contains(name)).collect();
        if missing.is_empty() {
            continue;
        }
        let text =
            format!("{key}: this agent's SSH library has no {}; it has {}", missing.join(", "), supported.join(", "));
        if missing.len() == allowed.len() {
            return Err(text);
        }
        warnings.push(text);
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::{Outcome, report};
    use crate::config::Sources;

    fn run(overrides: &[(&str, &str)], explain: bool) -> Outcome {
        let env = |name: &str| (name == "CRONIUM_SERVICE_TOKEN").then(|| "hunter2".to_owned());
        let overrides = overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        report(&Sources { search: Vec::new(), overrides, ..Sources::new(&env) }, explain)
    }

    #[test]
    fn a_good_configuration_is_shown_without_its_secrets() {
        let outcome = run(&[("api.endpoint", "http://localhost:5001"), ("logging.level", "debug")], true);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, "configuration is valid\n"));
        let lines = [
            "api:\n  endpoint: http://localhost:5001/api/internal  # command line\n",
            "  token: \"***\"  # environment CRONIUM_SERVICE_TOKEN\n",
            "  wsEndpoint: ws://localhost:5001/api/internal/socket  # derived from api.endpoint\n",
            "  level: debug  # command line\n",
            "  maxConcurrent: 5  # default\n",
        ];
        for line in lines {
            assert!(outcome.stdout.contains(line), "{line} is not in\n{}", outcome.stdout);
        }
        assert!(!outcome.stdout.contains("hunter2"));
        assert!(!run(&[("api.endpoint", "http://localhost:5001")], false).stdout.contains("  # default"));
    }

    #[test]
    fn warnings_are_counted() {
        let outcome = run(&[("api.endpoint", "http://backend.example"), ("container.security.user", "0:0")], false);
        assert_eq!(outcome.code, 0);
        assert!(
            outcome.stderr.contains("warning: command line: api.endpoint: ")
                && outcome.stderr.ends_with(", 2 warnings\n")
        );
    }

    #[test]
    fn every_problem_is_told() {
        let outcome = run(&[("jobs.maxConcurrent", "500"), ("jobs.pollInterva", "1s")], false);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""));
        for part in [
            "jobs.maxConcurrent: found \"500\"; allowed: a whole number from 1 to 100",
            "did you mean jobs.pollInterval?",
            "api.endpoint: required",
            "3 problems\n",
        ] {
            assert!(outcome.stderr.contains(part), "{part} is not in\n{}", outcome.stderr);
        }
    }
}
