//! The helpers of a script that `exec` runs, without a backend: its input from the command line, its variables in a file, its
//! output and condition in memory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::config::types::Config;
use crate::executors::Task;
use crate::executors::helpers::event;
use crate::job::ScriptResult;
use crate::jobs::helpers::Helpers;
use crate::jobs::helpers::service::{Redaction, ResultStore, Setup, Variables};
use crate::limits;
use crate::os::files;
use crate::redact::Redactor;
use crate::verdict::Verdict;

/// What takes the backend's place. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Offline(Arc<Shared>);

#[derive(Default)]
struct Shared {
    result: Mutex<ScriptResult>,
    variables: Mutex<Map<String, Value>>,
    /// Where they are kept.
    file: Option<PathBuf>,
}

impl Offline {
    /// With the variables in this file, which need not be there yet.
    pub(super) fn load(file: Option<&Path>) -> Result<Self, String> {
        let variables = match file {
            Some(path) if path.exists() => {
                let shown = path.display();
                let text = files::read_small(path, limits::ANSWER_MAX as u64)
                    .map_err(|error| format!("--variables: cannot read {shown}: {error}"))?;
                serde_json::from_str(&text).map_err(|error| {
                    format!("--variables: {shown} is not a JSON object of names and values: {error}")
                })?
            }
            _ => Map::new(),
        };
        let file = file.map(Path::to_owned);
        Ok(Self(Arc::new(Shared { result: Mutex::default(), variables: Mutex::new(variables), file })))
    }

    /// The setup of the one script.
    pub(super) fn setup(&self, task: &Task, config: &Config, helpers: &Helpers, redactor: &Redactor) -> Setup {
        let input = task.job.input.as_json().to_owned();
        Setup {
            execution: task.execution.clone(),
            event: event(&task.job, task.execution.as_str(), task.server.as_ref()).to_string(),
            input: Box::new(move || Ok(input.clone())),
            variables: Box::new(self.clone()),
            results: Arc::new(self.clone()),
            redaction: Redaction {
                redactor: redactor.clone(),
                variables: config.redact.variables.clone(),
                keep: Box::new(|_| Ok(())),
            },
            max_output: config.jobs.max_script_output,
            token: helpers.token(&task.execution),
        }
    }

    /// What `--json` prints.
    pub(super) fn shown(&self, verdict: &Verdict) -> String {
        let result = self.result();
        let output = result.output.as_deref().and_then(|json| serde_json::from_str::<&RawValue>(json).ok());
        let output = output.map_or("null", RawValue::get);
        let rest = json!({
            "condition": result.condition,
            "exitCode": verdict.exit_code,
            "status": verdict.status().as_str(),
            "verdict": verdict.message,
        });
        format!("{{\"output\":{output},{}", rest.to_string().trim_start_matches('{'))
    }

    fn variables(&self) -> MutexGuard<'_, Map<String, Value>> {
        self.0.variables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Variables for Offline {
    fn get(&self, key: &str) -> Result<Option<String>, String> {
        Ok(self.variables().get(key).map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }))
    }

    fn set(&self, key: &str, value: &str) -> Result<(), String> {
        let mut variables = self.variables();
        variables.insert(key.to_owned(), json!(value));
        let Some(path) = &self.0.file else { return Ok(()) };
        let text = format!("{:#}\n", Value::Object(variables.clone()));
        std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

impl ResultStore for Offline {
    fn change(&self, change: &dyn Fn(&mut ScriptResult)) -> Result<(), String> {
        change(&mut self.0.result.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn result(&self) -> ScriptResult {
        self.0.result.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
