//! SIGHUP: reads the configuration again, from the same places as at the start, and puts in effect what can change while
//! the agent works.
//!
//! One that is not valid changes nothing. Jobs that run keep what they began with. Which keys take effect is the table in
//! `config::changes`; what needs a restart is named at each reload for as long as it differs.

use std::fmt::Display;

use crate::config::changes::{self, Change, Changes};
use crate::config::types::Config;
use crate::config::{Live, Loaded, Problems};
use crate::limits;
use crate::metrics::{self, ReloadResult};
use crate::telemetry;

/// How the configuration is read, and what else a SIGHUP is for.
pub struct Source<'a> {
    /// Reads file, environment, credentials and command line as the start did.
    pub load: &'a dyn Fn() -> Result<Loaded, Problems>,
    /// Opens the log file anew, which another program may have moved.
    pub reopen_log: &'a dyn Fn(),
}

/// Reads it and says in the log what came of it. `apply` is for the parts that keep something of their own; it is called
/// with what is in effect from now on, when that has changed.
pub fn again(source: &Source<'_>, live: &Live, apply: impl FnOnce(&Config)) -> ReloadResult {
    (source.reopen_log)();
    let result = match (source.load)() {
        Ok(loaded) => take(&loaded, live, apply),
        Err(problems) => {
            refuse(&problems);
            ReloadResult::Refused
        }
    };
    metrics::config_reload(result);
    result
}

fn refuse(problems: &Problems) {
    let count = problems.0.len();
    for problem in problems.0.iter().take(limits::CONFIG_PROBLEMS_MAX) {
        log::error!("configuration: {problem}");
    }
    let noun = if count == 1 { "problem" } else { "problems" };
    log::error!(
        "SIGHUP: the configuration is not valid: {count} {noun}; nothing was changed, the agent goes on as it was"
    );
}

fn take(loaded: &Loaded, live: &Live, apply: impl FnOnce(&Config)) -> ReloadResult {
    for warning in &loaded.warnings {
        log::warn!("configuration: {warning}");
    }
    let running = live.now();
    let Changes { taken, waiting } = changes::changes(&running, &loaded.config);
    if !waiting.is_empty() {
        log::warn!("SIGHUP: needs a restart of the agent, not in effect before: {}", list(&waiting));
    }
    if taken.is_empty() {
        let but = if waiting.is_empty() { "nothing" } else { "nothing else" };
        log::info!("SIGHUP: the configuration was read again; {but} has changed");
        return ReloadResult::Unchanged;
    }
    let config = changes::merged(&running, &loaded.config);
    // At whichever level shows more, so that the line is seen.
    let (old, new) = (running.logging.level, config.logging.level);
    telemetry::set_level(old.max(new));
    log::info!("SIGHUP: in effect from now on: {}", list(&taken));
    telemetry::set_level(new);
    apply(&config);
    live.replace(config);
    ReloadResult::Changed
}

fn list(changes: &[Change]) -> impl Display {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::config::{Sources, load};

    fn read(pairs: &[(&str, &str)]) -> Result<Loaded, Problems> {
        let env = |name: &str| (name == "CRONIUM_API_TOKEN").then(|| "hunter2".to_owned());
        let mut overrides = vec![("api.endpoint".to_owned(), "http://127.0.0.1:5001".to_owned())];
        overrides.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        load(&Sources { search: Vec::new(), overrides, ..Sources::new(&env) })
    }

    #[test]
    fn only_a_valid_change_is_applied_and_only_what_may() {
        let live = Live::new(read(&[]).expect("valid").config);
        let before = live.now();
        let reopened = Cell::new(0);
        let reload = |pairs: &[(&str, &str)]| {
            let applied = Cell::new(None);
            let reopen_log = || reopened.set(reopened.get() + 1);
            let source = Source { load: &|| read(pairs), reopen_log: &reopen_log };
            let result = again(&source, &live, |config| applied.set(Some(config.jobs.max_concurrent)));
            (result, applied.get())
        };
        assert_eq!(reload(&[]), (ReloadResult::Unchanged, None));
        assert_eq!(reload(&[("jobs.maxConcurrent", "500")]), (ReloadResult::Refused, None));
        assert_eq!(reload(&[("api.endpoint", "http://127.0.0.1:9")]), (ReloadResult::Unchanged, None));
        assert!(!live.has_left(&before), "nothing was replaced so far");
        let both = [("api.endpoint", "http://127.0.0.1:9"), ("jobs.maxConcurrent", "7")];
        assert_eq!(reload(&both), (ReloadResult::Changed, Some(7)));
        assert!(live.has_left(&before));
        assert_eq!(live.now().jobs.max_concurrent, 7);
        assert_eq!(live.now().api.endpoint, before.api.endpoint);
        // A key that is not given any more is its default again.
        assert_eq!(reload(&[]), (ReloadResult::Changed, Some(5)));
        assert_eq!(reopened.get(), 5);
    }
}
