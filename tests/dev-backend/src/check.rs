//! Shapes of what the agent sends. The real backend would refuse these too, or store nonsense; here a wrong agent gets a 400
//! that says which field, or a note in the list of problems.

use serde_json::{Map, Value};

use crate::time;

/// A body under examination. The first thing found wrong is kept.
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    at: &'static str,
    wrong: Option<String>,
}

pub(crate) const ID_CAP: usize = 100;

impl<'a> Fields<'a> {
    pub(crate) fn of(value: &'a Value, at: &'static str) -> Result<Self, String> {
        match value.as_object() {
            Some(object) => Ok(Self { object, at, wrong: None }),
            None => Err(format!("{at} must be an object")),
        }
    }

    fn wrong(&mut self, key: &str, text: &str) {
        if self.wrong.is_none() {
            self.wrong = Some(format!("{}.{key} {text}", self.at));
        }
    }

    fn check(&mut self, key: &str, required: bool, what: &str, ok: impl Fn(&Value) -> bool) {
        match self.object.get(key) {
            None if required => self.wrong(key, "is missing"),
            Some(value) if !ok(value) => self.wrong(key, &format!("must be {what}")),
            _ => {}
        }
    }

    pub(crate) fn text(&mut self, key: &str, required: bool) -> &mut Self {
        self.check(key, required, "a string", Value::is_string);
        self
    }

    pub(crate) fn id(&mut self, key: &str, required: bool) -> &mut Self {
        self.check(key, required, "an id of 1 to 100 characters", |value| value.as_str().is_some_and(is_id));
        self
    }

    pub(crate) fn time(&mut self, key: &str, required: bool) -> &mut Self {
        self.check(key, required, "an RFC 3339 time in UTC", |v| v.as_str().is_some_and(|v| time::parse(v).is_some()));
        self
    }

    pub(crate) fn integer(&mut self, key: &str, required: bool) -> &mut Self {
        self.check(key, required, "an integer of 32 bits", |v| v.as_i64().is_some_and(|v| i32::try_from(v).is_ok()));
        self
    }

    /// Milliseconds and counters: zero or more.
    pub(crate) fn amount(&mut self, key: &str, required: bool) -> &mut Self {
        self.check(key, required, "a number of 0 or more", |v| v.as_f64().is_some_and(|v| v >= 0.0));
        self
    }

    pub(crate) fn boolean(&mut self, key: &str, required: bool) -> &mut Self {
        self.check(key, required, "true or false", Value::is_boolean);
        self
    }

    pub(crate) fn object(&mut self, key: &str, required: bool) -> &mut Self {
        self.check(key, required, "an object", Value::is_object);
        self
    }

    pub(crate) fn array(&mut self, key: &str, required: bool) -> &mut Self {
        self.check(key, required, "an array", Value::is_array);
        self
    }

    pub(crate) fn present(&mut self, key: &str) -> &mut Self {
        self.check(key, true, "", |_| true);
        self
    }

    pub(crate) fn word(&mut self, key: &str, required: bool, words: &[&str]) -> &mut Self {
        let what = format!("one of {}", words.join(", "));
        self.check(key, required, &what, |value| value.as_str().is_some_and(|word| words.contains(&word)));
        self
    }

    pub(crate) fn done(&mut self) -> Result<(), String> {
        self.wrong.take().map_or(Ok(()), Err)
    }

    /// Keys that the contract does not name.
    pub(crate) fn unknown(&self, known: &[&str]) -> Vec<String> {
        self.object
            .keys()
            .filter(|key| !known.contains(&key.as_str()))
            .map(|key| format!("{}.{key} is not in the contract", self.at))
            .collect()
    }
}

pub(crate) fn is_id(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= ID_CAP
}

pub(crate) fn complete(body: &Value) -> Result<Vec<String>, String> {
    let mut fields = Fields::of(body, "complete")?;
    fields
        .word("status", true, &["completed", "failed", "timeout", "cancelled"])
        .integer("exitCode", true)
        .object("output", true)
        .object("metrics", true)
        .boolean("condition", false)
        .object("receipt", false)
        .time("timestamp", true)
        .done()?;
    let known = ["status", "exitCode", "output", "metrics", "scriptOutput", "condition", "receipt", "timestamp"];
    let unknown = fields.unknown(&known);
    Fields::of(&body["output"], "complete.output")?.text("stdout", true).text("stderr", true).done()?;
    let mut metrics = Fields::of(&body["metrics"], "complete.metrics")?;
    metrics.time("startTime", true).time("endTime", true).amount("duration", true).object("resourceUsage", false);
    metrics.done()?;
    if !body["metrics"]["resourceUsage"].is_null() {
        let mut usage = Fields::of(&body["metrics"]["resourceUsage"], "complete.metrics.resourceUsage")?;
        for key in ["peakCpu", "peakMemory", "networkRx", "networkTx", "diskRead", "diskWrite"] {
            usage.amount(key, false);
        }
        usage.done()?;
    }
    Ok(unknown)
}

pub(crate) fn execution_update(body: &Value) -> Result<Vec<String>, String> {
    let times = [
        "startedAt",
        "completedAt",
        "setupStartedAt",
        "setupCompletedAt",
        "executionStartedAt",
        "executionCompletedAt",
        "cleanupStartedAt",
        "cleanupCompletedAt",
    ];
    let amounts = ["setupDuration", "executionDuration", "cleanupDuration", "totalDuration"];
    let others = ["status", "exitCode", "output", "error", "metadata", "executionMetadata"];
    let mut fields = Fields::of(body, "update")?;
    for key in times {
        fields.time(key, false);
    }
    for key in amounts {
        fields.amount(key, false);
    }
    fields.text("status", false).integer("exitCode", false).text("output", false).text("error", false);
    fields.object("metadata", false).object("executionMetadata", false).done()?;
    let known: Vec<&str> = times.into_iter().chain(amounts).chain(others).collect();
    Ok(fields.unknown(&known))
}

/// Where a string (or a key) holds a NUL, which PostgreSQL stores neither as text nor as jsonb.
pub(crate) fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(holds_nul),
        Value::Object(object) => object.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({"status":"completed","exitCode":0,"output":{"stdout":"hi\n","stderr":""},
               "metrics":{"startTime":"2025-10-09T10:00:00Z","endTime":"2025-10-09T10:00:01Z","duration":1000,
                          "resourceUsage":{"peakCpu":0.5,"peakMemory":1024}},
               "timestamp":"2025-10-09T10:00:01.5Z"})
    }

    #[test]
    fn a_completion_is_checked_field_by_field() {
        assert_eq!(complete(&good()), Ok(vec![]));
        for (pointer, value, wanted) in [
            ("/status", json!("done"), "complete.status must be one of"),
            ("/exitCode", json!(1.5), "complete.exitCode must be an integer"),
            ("/exitCode", json!("0"), "complete.exitCode must be an integer"),
            ("/output/stdout", json!(null), "complete.output.stdout must be a string"),
            ("/metrics/startTime", json!("yesterday"), "complete.metrics.startTime must be an RFC 3339"),
            ("/metrics/duration", json!(-1), "complete.metrics.duration must be a number"),
            ("/metrics/resourceUsage/peakCpu", json!("x"), "peakCpu must be a number"),
            ("/timestamp", json!(17), "complete.timestamp must be an RFC 3339"),
        ] {
            let mut body = good();
            *body.pointer_mut(pointer).expect(pointer) = value;
            let error = complete(&body).expect_err(pointer);
            assert!(error.contains(wanted), "{error}");
        }
        let mut body = good();
        body["extra"] = json!(1);
        assert_eq!(complete(&body), Ok(vec!["complete.extra is not in the contract".to_owned()]));
        assert!(complete(&json!([])).is_err());
    }

    #[test]
    fn nul_is_found_anywhere() {
        assert!(holds_nul(&json!({"a":[{"b":"x\u{0}"}]})));
        assert!(holds_nul(&json!({"a\u{0}": 1})));
        assert!(!holds_nul(&json!({"a":["\\u0000", 0, null]})));
    }
}
