//! The state of the agent and of its counterparts, for the health server to read.
//!
//! The threads write, the server only reads: no probe ever makes the agent ask Docker or the backend anything, so a
//! storm of probes costs them nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use crate::wire::time::rfc3339;
use crate::{limits, metrics};

/// How well one component, or the whole agent, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Healthy,
    Degraded,
    Unhealthy,
}

/// One fact about a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum DetailValue {
    Text(String),
    Number(u64),
}

/// A component as its thread last saw it. Nothing in it may be a secret: everybody who asks gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Component {
    pub status: Status,
    /// In the order in which they are shown, such as `version` and `containers`, or `latency` as `45ms`.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "in_order")]
    pub details: Vec<(String, DetailValue)>,
    /// Why it is not healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Component {
    /// Healthy, without details.
    pub fn healthy() -> Self {
        Self { status: Status::Healthy, details: Vec::new(), error: None }
    }

    /// Works in part; `why` says which does not.
    pub fn degraded(why: impl Into<String>) -> Self {
        Self { status: Status::Degraded, details: Vec::new(), error: Some(why.into()) }
    }

    /// Does not work; `why` says what was tried and what failed.
    pub fn unhealthy(why: impl Into<String>) -> Self {
        Self { status: Status::Unhealthy, details: Vec::new(), error: Some(why.into()) }
    }

    /// Adds one detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: DetailValue) -> Self {
        self.details.push((name.to_owned(), value));
        self
    }
}

/// Why the agent claims nothing. Each is set and cleared by the thread that knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Starting,
    Draining,
    Engine,
    Disk,
    Journal,
    Proof,
}

/// The components without which the agent is of no use: their illness is the agent's.
const VITAL: [&str; 2] = ["docker", "api"];

/// The state of the agent. Shared as `Arc<HealthState>`.
#[derive(Debug)]
pub struct HealthState(Mutex<Known>);

#[derive(Debug)]
struct Known {
    /// In the order of first report, which is the order of the JSON.
    components: Vec<(String, Component)>,
    reasons: Vec<(Reason, String)>,
}

impl Default for HealthState {
    fn default() -> Self {
        Self::new()
    }
}

impl HealthState {
    /// Knows no component yet, and is not ready because the agent is still starting.
    pub fn new() -> Self {
        metrics::AGENT_READY.set(false);
        let reasons = vec![(Reason::Starting, "the agent is still starting".to_owned())];
        Self(Mutex::new(Known { components: Vec::new(), reasons }))
    }

    /// Replaces what is known of the component `name` (`docker`, `api`, `websocket`, `disk`, `ssh`, `clock`, `outbox`,
    /// `reload`, `proofs`).
    pub fn set(&self, name: &str, mut component: Component) {
        component.error = component.error.map(shortened);
        let mut known = self.lock();
        if let Some((_, old)) = known.components.iter_mut().find(|(n, _)| n == name) {
            *old = component;
        } else if known.components.len() < limits::HEALTH_COMPONENTS {
            known.components.push((name.to_owned(), component));
        } else {
            log::warn!("health: component {name} left out, {} are known already", known.components.len());
        }
    }

    /// From now on the agent claims nothing, because `text`. A reason that was set before gets the new text.
    pub fn not_ready(&self, reason: Reason, text: impl Into<String>) {
        let text = shortened(text.into());
        let mut known = self.lock();
        known.reasons.retain(|(r, _)| *r != reason);
        known.reasons.push((reason, text));
        known.reasons.sort_by_key(|(r, _)| *r);
        metrics::AGENT_READY.set(false);
    }

    /// `reason` holds no longer.
    pub fn clear(&self, reason: Reason) {
        let mut known = self.lock();
        known.reasons.retain(|(r, _)| *r != reason);
        metrics::AGENT_READY.set(known.reasons.is_empty());
    }

    /// Why the agent claims nothing; `None` when it claims.
    pub fn why_not_ready(&self) -> Option<String> {
        let known = self.lock();
        let texts: Vec<&str> = known.reasons.iter().map(|(_, text)| text.as_str()).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// How well the component `name` is; `None` before its first report.
    pub fn status_of(&self, name: &str) -> Option<&'static str> {
        let known = self.lock();
        let found = known.components.iter().find(|(n, _)| n == name);
        found.map(|(_, component)| match component.status {
            Status::Healthy => "healthy",
            Status::Degraded => "degraded",
            Status::Unhealthy => "unhealthy",
        })
    }

    /// The answer to `/health` at `now`: the status of the whole, and the JSON.
    pub fn report(&self, now: SystemTime) -> (Status, String) {
        let components = self.lock().components.clone();
        let status = overall(&components);
        let report = Report { status, timestamp: rfc3339(now, 0), components: &components };
        (status, serde_json::to_string(&report).unwrap_or_else(|_| r#"{"status":"unhealthy"}"#.to_owned()))
    }

    /// Nobody reads or writes until this is dropped: for a test of what then hangs.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Drop + '_ {
        self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unhealthy when a vital component is; degraded when anything else is not healthy, or when a vital component has not
/// reported yet.
fn overall(components: &[(String, Component)]) -> Status {
    let vital = |name: &str| VITAL.contains(&name);
    if components.iter().any(|(name, c)| vital(name) && c.status == Status::Unhealthy) {
        return Status::Unhealthy;
    }
    let reported = VITAL.iter().all(|v| components.iter().any(|(name, _)| name == v));
    let well = components.iter().all(|(_, c)| c.status == Status::Healthy);
    if reported && well { Status::Healthy } else { Status::Degraded }
}

/// Others' words, cut to [`limits::HEALTH_TEXT`].
pub fn shortened(mut text: String) -> String {
    if text.len() > limits::HEALTH_TEXT {
        let end = (0..=limits::HEALTH_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[derive(Serialize)]
struct Report<'a> {
    status: Status,
    timestamp: String,
    #[serde(serialize_with = "in_order")]
    components: &'a [(String, Component)],
}

/// Pairs as a JSON object in their own order.
fn in_order<S: Serializer, T: Serialize>(pairs: &[(String, T)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn docker() -> Component {
        let version = DetailValue::Text("24.0.7".into());
        Component::healthy().with("version", version).with("containers", DetailValue::Number(5))
    }

    #[test]
    fn the_json_of_the_contract_to_the_letter() {
        let state = HealthState::new();
        state.set("docker", docker());
        state.set("api", Component::healthy().with("latency", DetailValue::Text("45ms".into())));
        let now = crate::wire::time::parse_rfc3339("2024-01-15T10:30:00.9Z").expect("time");
        let want = r#"{"status":"healthy","timestamp":"2024-01-15T10:30:00Z","components":{"docker":{"status":"healthy","details":{"version":"24.0.7","containers":5}},"api":{"status":"healthy","details":{"latency":"45ms"}}}}"#;
        assert_eq!(state.report(now), (Status::Healthy, want.to_owned()));
        state.set("docker", Component::unhealthy("connect \"x\": refused"));
        let (status, json) = state.report(now);
        assert_eq!(status, Status::Unhealthy);
        assert!(json.contains(r#""docker":{"status":"unhealthy","error":"connect \"x\": refused"},"api""#), "{json}");
    }

    #[test]
    fn the_whole_is_as_well_as_what_it_cannot_do_without() {
        use Status::*;
        for (docker, api, websocket, want) in [
            (Some(Healthy), Some(Healthy), Some(Healthy), Healthy),
            (Some(Healthy), Some(Healthy), None, Healthy),
            (Some(Healthy), Some(Healthy), Some(Unhealthy), Degraded),
            (Some(Healthy), Some(Degraded), Some(Healthy), Degraded),
            (Some(Unhealthy), Some(Healthy), Some(Healthy), Unhealthy),
            (Some(Healthy), Some(Unhealthy), Some(Degraded), Unhealthy),
            (Some(Healthy), None, None, Degraded),
            (None, None, None, Degraded),
        ] {
            let state = HealthState::new();
            for (name, status) in [("docker", docker), ("api", api), ("websocket", websocket)] {
                if let Some(status) = status {
                    state.set(name, Component { status, details: Vec::new(), error: None });
                }
            }
            assert_eq!(state.report(SystemTime::UNIX_EPOCH).0, want, "{docker:?} {api:?} {websocket:?}");
        }
    }

    #[test]
    fn ready_when_the_last_reason_is_gone() {
        let state = HealthState::new();
        assert_eq!(state.why_not_ready().as_deref(), Some("the agent is still starting"));
        state.not_ready(Reason::Disk, "300 MB free in /var/lib/docker, 500 MB wanted");
        state.not_ready(Reason::Engine, "docker does not answer");
        state.not_ready(Reason::Engine, "docker answers 500");
        state.clear(Reason::Starting);
        let both = "docker answers 500; 300 MB free in /var/lib/docker, 500 MB wanted";
        assert_eq!(state.why_not_ready().as_deref(), Some(both));
        state.clear(Reason::Engine);
        state.clear(Reason::Disk);
        state.clear(Reason::Disk);
        assert_eq!(state.why_not_ready(), None);
    }

    #[test]
    fn what_is_known_is_bounded() {
        let state = HealthState::new();
        for i in 0..100 {
            state.set(&format!("c{i}"), Component::degraded("ü".repeat(100_000)));
        }
        let (_, json) = state.report(SystemTime::UNIX_EPOCH);
        assert!(json.len() < 2 * limits::HEALTH_COMPONENTS * limits::HEALTH_TEXT, "{}", json.len());
    }
}
