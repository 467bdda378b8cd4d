//! SIGHUP and `cronium-agent reload`: reads the configuration again, from the same places as at the start, and puts in
//! effect what can change while the agent works.
//!
//! One that is not valid changes nothing. Jobs that run keep what they began with. Which keys take effect is the table in
//! `config::changes`; what needs a restart is named at each reload for as long as it differs.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::config::changes::{self, Change, Changes};
use crate::config::types::Config;
use crate::config::{Live, Loaded, Problems};
use crate::health::{Component, DetailValue, HealthState};
use crate::jobs::status::{Now, Reload};
use crate::limits;
use crate::metrics::{self, ReloadResult};
use crate::telemetry;
use crate::wire::time::rfc3339;

/// How the configuration is read, and what else a SIGHUP is for.
pub struct Source<'a> {
    /// Reads file, environment, credentials and command line as the start did.
    pub load: &'a dyn Fn() -> Result<Loaded, Problems>,
    /// Opens the log file anew, which another program may have moved.
    pub reopen_log: &'a dyn Fn(),
}

/// The result of a reload.
#[derive(Debug)]
pub enum Outcome {
    /// It is valid: what changed, and what waits for a restart.
    Taken(Changes),
    /// It is not.
    Refused(Problems),
}

impl Outcome {
    /// In one word.
    pub fn result(&self) -> ReloadResult {
        match self {
            Self::Refused(_) => ReloadResult::Refused,
            Self::Taken(changes) if changes.taken.is_empty() => ReloadResult::Unchanged,
            Self::Taken(_) => ReloadResult::Changed,
        }
    }
}

/// Reads the configuration and logs the result. `apply` is for the parts that keep their own copy; it is called with the new
/// configuration, if it has changed.
pub fn again(source: &Source<'_>, live: &Live, apply: impl FnOnce(&Config)) -> Outcome {
    (source.reopen_log)();
    let outcome = match (source.load)() {
        Ok(loaded) => Outcome::Taken(take(&loaded, live, apply)),
        Err(problems) => {
            refuse(&problems);
            Outcome::Refused(problems)
        }
    };
    metrics::config_reload(outcome.result());
    outcome
}

fn refuse(problems: &Problems) {
    for problem in problems.0.iter().take(limits::CONFIG_PROBLEMS_MAX) {
        log::error!("configuration: {problem}");
    }
    log::error!(
        "reload: the configuration is not valid: {}; nothing was changed, the agent goes on as it was",
        counted(problems)
    );
}

fn counted(problems: &Problems) -> String {
    match problems.0.len() {
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    }
}

fn take(loaded: &Loaded, live: &Live, apply: impl FnOnce(&Config)) -> Changes {
    for warning in &loaded.warnings {
        log::warn!("configuration: {warning}");
    }
    let running = live.now();
    let changes = changes::changes(&running, &loaded.config);
    let Changes { taken, waiting } = &changes;
    if !waiting.is_empty() {
        log::warn!("reload: needs a restart of the agent, not in effect before: {}", list(waiting));
    }
    if taken.is_empty() {
        let but = if waiting.is_empty() { "nothing" } else { "nothing else" };
        log::info!("reload: the configuration was read again; {but} has changed");
        return changes;
    }
    let config = changes::merged(&running, &loaded.config);
    // At whichever level shows more, so that the line is seen.
    let (old, new) = (running.logging.level, config.logging.level);
    telemetry::set_level(old.max(new));
    apply(&config);
    live.replace(config);
    log::info!("reload: in effect from now on: {}", list(taken));
    telemetry::set_level(new);
    changes
}

fn list(changes: &[Change]) -> impl Display {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The last reload, for `status` and `/health`, and whether the operator wants another. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Reloads(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    last: Mutex<Option<Reload>>,
    /// How often the operator has asked for one, over the control socket.
    asked: AtomicU64,
}

impl Reloads {
    /// The source of `status`.
    pub fn now(&self) -> Now<Option<Reload>> {
        let shared = self.clone();
        Box::new(move || shared.last().clone())
    }

    /// Notes an operator's request; returns its number.
    pub fn ask(&self) -> Now<u64> {
        let shared = Arc::clone(&self.0);
        Box::new(move || shared.asked.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// How often one was asked for. What is read after this answers all of these.
    pub fn asked(&self) -> u64 {
        self.0.asked.load(Ordering::SeqCst)
    }

    /// Whether one that was asked for has not been made yet.
    pub fn is_wanted(&self) -> bool {
        self.asked() > self.last().as_ref().map_or(0, |last| last.answers)
    }

    /// Records the result of a reload and the requests that it covers.
    pub fn note(&self, outcome: &Outcome, answers: u64, health: &HealthState) {
        let at = rfc3339(SystemTime::now(), 0);
        health.set("reload", component(outcome, &at));
        let mut last = self.last();
        let number = last.as_ref().map_or(0, |last| last.number) + 1;
        let result = outcome.result().as_str().to_owned();
        let mut reload = Reload { number, answers, at, result, ..Reload::default() };
        match outcome {
            Outcome::Taken(Changes { taken, waiting }) => {
                reload.in_effect = taken.iter().map(ToString::to_string).collect();
                reload.needs_restart = waiting.iter().map(ToString::to_string).collect();
            }
            Outcome::Refused(problems) => {
                reload.problems =
                    problems.0.iter().take(limits::CONFIG_PROBLEMS_MAX).map(ToString::to_string).collect();
            }
        }
        *last = Some(reload);
    }

    fn last(&self) -> MutexGuard<'_, Option<Reload>> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The component of `/health`. It has the keys alone: values are for readers of the log, and `/health` is open to any client.
fn component(outcome: &Outcome, at: &str) -> Component {
    let mut component = match outcome {
        Outcome::Taken(_) => Component::healthy(),
        Outcome::Refused(problems) => Component::degraded(format!(
            "the configuration was read again and is not valid: {} ({}); the agent goes on with the one before, and would \
             not start with this one; `cronium-agent status` says what is wrong",
            counted(problems),
            keys(problems.0.iter().map(|problem| if problem.key.is_empty() { "the file" } else { &problem.key })),
        )),
    };
    let text = |text: &str| DetailValue::Text(text.to_owned());
    component = component.with("at", text(at)).with("result", text(outcome.result().as_str()));
    match outcome {
        Outcome::Taken(changes) if !changes.waiting.is_empty() => {
            component.with("needsRestart", text(&keys(changes.waiting.iter().map(|change| change.key))))
        }
        _ => component,
    }
}

/// Each once.
fn keys<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    let keys: BTreeSet<&str> = keys.take(limits::CONFIG_PROBLEMS_MAX).collect();
    keys.into_iter().collect::<Vec<_>>().join(", ")
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
            let outcome = again(&source, &live, |config| applied.set(Some(config.jobs.max_concurrent)));
            (outcome.result(), applied.get())
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

    #[test]
    fn the_last_reload_is_kept_with_its_words_and_health_shows_the_keys_alone() {
        let live = Live::new(read(&[]).expect("valid").config);
        let (reloads, health) = (Reloads::default(), HealthState::new());
        let now = reloads.now();
        assert_eq!(now(), None);
        let seen = |pairs: &[(&str, &str)]| {
            let source = Source { load: &|| read(pairs), reopen_log: &|| () };
            let asked = reloads.asked();
            reloads.note(&again(&source, &live, |_| ()), asked, &health);
            let health: serde_json::Value = serde_json::from_str(&health.report(SystemTime::now()).1).expect("JSON");
            (now().expect("a reload"), health["components"]["reload"].clone())
        };
        let (last, health) = seen(&[("api.endpoint", "http://127.0.0.1:9"), ("jobs.maxConcurrent", "7")]);
        assert_eq!((last.number, last.result.as_str()), (1, "changed"));
        assert_eq!(last.in_effect, ["jobs.maxConcurrent 5 → 7"]);
        assert!(last.needs_restart[0].starts_with("api.endpoint http://127.0.0.1:5001/"), "{last:?}");
        assert_eq!((&health["status"], &health["details"]["result"]), (&"healthy".into(), &"changed".into()));
        assert_eq!(health["details"]["needsRestart"], "api.endpoint, api.wsEndpoint");
        assert_eq!(health["details"]["at"], last.at.as_str());

        let ask = reloads.ask();
        assert!(!reloads.is_wanted());
        assert_eq!((ask(), ask(), reloads.is_wanted()), (1, 2, true));
        let (last, health) = seen(&[("jobs.maxConcurrent", "500"), ("jobs.pollInterval", "hunter3")]);
        assert_eq!((last.number, last.result.as_str(), last.problems.len()), (2, "refused", 2));
        assert_eq!((last.answers, reloads.is_wanted()), (2, false), "one answers both");
        assert!(last.problems[0].contains("500") && last.in_effect.is_empty() && last.needs_restart.is_empty());
        assert_eq!((&health["status"], &health["details"]["result"]), (&"degraded".into(), &"refused".into()));
        let error = health["error"].as_str().expect("an error");
        assert!(error.contains("2 problems (jobs.maxConcurrent, jobs.pollInterval)"), "{error}");
        assert!(!error.contains("500") && !error.contains("hunter3"), "{error}");

        let (last, health) = seen(&[("jobs.maxConcurrent", "7")]);
        assert_eq!((last.number, last.result.as_str(), last.problems.len()), (3, "unchanged", 0));
        assert_eq!((&health["status"], &health["error"]), (&"healthy".into(), &serde_json::Value::Null));
    }
}
