//! What the helpers of one script reach: its input and event, its output and condition, its owner's variables.
//!
//! Output and condition are on disk before the script hears that they are taken. Variables are the backend's, and each
//! call is one of its. No call reaches another execution: there is no way to name one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use super::request::{Action, Answer, Refusal, Request, action, decoded, meaning, parse_message};
use crate::executors::helpers::HelperApi;
use crate::health::{Answerer, Call, Calls, Reply, json as json_reply, text};
use crate::job::{Id, ScriptResult};
use crate::jobs::pool::Pool;
use crate::jobs::secrets::is_named;
use crate::limits;
use crate::os::clock;
use crate::policy::rate::Window;
use crate::redact::{Left, Redactor};
use crate::secret::Secret;
use crate::wire::scan::Json;

/// Whose variables a script reads and sets.
pub trait Variables: Send + Sync {
    /// The value as text; `None` when there is none. The error is a sentence.
    fn get(&self, key: &str) -> Result<Option<String>, String>;
    /// Gives it this value.
    fn set(&self, key: &str, value: &str) -> Result<(), String>;
}

/// Keeps the script's result until its report.
pub trait ResultStore: Send + Sync {
    /// Changes it. An error says why it is as before.
    fn change(&self, change: &dyn Fn(&mut ScriptResult)) -> Result<(), String>;
    /// As it is now.
    fn result(&self) -> ScriptResult;
}

/// What one script needs of its service.
pub struct Setup {
    pub execution: Id,
    /// JSON, as `event` gives it.
    pub event: String,
    /// JSON; asked for when it is wanted, since an agent that was restarted does not have it.
    pub input: Box<dyn Fn() -> Result<String, String> + Send + Sync>,
    pub variables: Box<dyn Variables>,
    pub results: Arc<dyn ResultStore>,
    pub redaction: Redaction,
    /// Bytes of the output as JSON, and of a variable's value.
    pub max_output: usize,
    pub token: Secret,
}

/// How the secrets that a script meets while it runs stay here.
pub struct Redaction {
    pub redactor: Redactor,
    /// Patterns of the variables that hold secrets (`redact.variables`).
    pub variables: Vec<String>,
    /// Puts what is known by now where the next agent finds it. The error is a sentence.
    pub keep: KeepSecrets,
}

/// See [`Redaction::keep`].
pub type KeepSecrets = Box<dyn Fn(&Redactor) -> Result<(), String> + Send + Sync>;

impl Redaction {
    /// From here on the value is a secret of the job; or why it is none.
    fn add(&self, value: &Secret) -> Result<Option<String>, String> {
        let left = self.redactor.add([value]);
        let few = limits::REDACT_SHORTEST;
        let why = match left {
            Left { short: 1.., .. } => format!("it has fewer than {few} bytes"),
            Left { common: 1.., .. } => "it is a common word".to_owned(),
            Left { over_count: 1.., .. } => format!("there are {} others", limits::REDACT_VALUES),
            _ => return (self.keep)(&self.redactor).map(|()| None),
        };
        Ok(Some(why))
    }
}

/// The helpers' side of one script.
pub struct Service {
    setup: Setup,
    pool: Pool,
    calls: Mutex<Window>,
}

impl Service {
    pub(super) fn new(setup: Setup, pool: &Pool) -> Arc<Self> {
        let calls = Mutex::new(Window::new(limits::HELPER_CALLS_A_MINUTE, limits::HELPER_MINUTE));
        Arc::new(Self { setup, pool: pool.clone(), calls })
    }

    /// Answers now what needs no waiting, and the rest on a thread.
    fn serve(self: Arc<Self>, request: Request, answer: impl FnOnce(Answer) + Send + 'static) {
        let Request { action, raw } = request;
        let waits = !matches!(action, Action::Event | Action::EventField(_));
        let pool = self.pool.clone();
        let work = move || answer(Answer::of(self.perform(action, raw), raw));
        if waits { pool.run(Box::new(work)) } else { work() }
    }

    /// Counts one call, whatever it asks.
    fn admit(&self) -> Result<(), Refusal> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let why = || (429, format!("more than {} calls within a minute", limits::HELPER_CALLS_A_MINUTE));
        calls.take(clock::now()).then_some(()).ok_or_else(why)
    }

    /// Does what is asked; the answer's data as JSON. Bash, which asks for text, gets a value without what is about it.
    fn perform(&self, action: Action, raw: bool) -> Result<String, Refusal> {
        let setup = &self.setup;
        let backend = |why: String| (502, why);
        match action {
            Action::Input => (setup.input)().map_err(backend),
            Action::Event => Ok(setup.event.clone()),
            Action::EventField(name) => {
                let members = Json::outline(setup.event.as_bytes()).ok().and_then(Json::members);
                let found = members.into_iter().flatten().flatten().find(|(key, _)| key.is(&name));
                let unknown = || (404, format!("an event has no {name:?}"));
                found.map(|(_, value)| String::from_utf8_lossy(value.bytes()).into_owned()).ok_or_else(unknown)
            }
            Action::Output(output) => {
                self.check_size("output", output.len())?;
                // Without secrets before it is on disk.
                let output = setup.redaction.redactor.json(&output);
                self.keep(&|result| result.output = Some(output.clone()))
            }
            Action::GetCondition => {
                let condition = setup.results.result().condition.unwrap_or_default();
                Ok(if raw { condition.to_string() } else { json!({ "condition": condition }).to_string() })
            }
            Action::SetCondition(condition) => self.keep(&|result| result.condition = Some(condition)),
            Action::Redact(value) => {
                self.check_size("value", value.len())?;
                let left = setup.redaction.add(&value).map_err(|why| (500, why))?;
                Ok(if raw {
                    json!(left).to_string()
                } else {
                    json!({ "redacted": left.is_none(), "why": left }).to_string()
                })
            }
            Action::GetVariable(key) => match self.variable(&key)? {
                Some(value) if raw => Ok(json!(value).to_string()),
                Some(value) => Ok(format!("{{\"key\":{},\"value\":{}}}", json!(key), meaning(&value))),
                None => Err((404, format!("there is no variable {key:?}"))),
            },
            Action::SetVariable(key, value) => {
                self.check_size("value", value.len())?;
                setup.variables.set(&key, &value).map_err(backend).map(|()| "null".to_owned())
            }
        }
    }

    /// The value of a variable, from here on a secret where the variable's name says so.
    fn variable(&self, key: &str) -> Result<Option<String>, Refusal> {
        let value = self.setup.variables.get(key).map_err(|why| (502, why))?;
        if let Some(value) = &value
            && is_named(&self.setup.redaction.variables, key)
        {
            self.setup.redaction.add(&Secret::new(value)).map_err(|why| (500, why))?;
        }
        Ok(value)
    }

    fn check_size(&self, what: &str, bytes: usize) -> Result<(), Refusal> {
        let most = self.setup.max_output;
        let why = || format!("the {what} has {bytes} bytes, at most {most} are taken (jobs.maxScriptOutput)");
        if bytes <= most { Ok(()) } else { Err((413, why())) }
    }

    fn keep(&self, change: &dyn Fn(&mut ScriptResult)) -> Result<String, Refusal> {
        self.setup.results.change(change).map_err(|why| (500, why))?;
        Ok("null".to_owned())
    }

    /// What a request over HTTP asks; the error is the answer.
    fn read(&self, call: &Call) -> Result<Request, Answer> {
        let (path, query) = call.target.split_once('?').unwrap_or((&call.target, ""));
        let raw = query == "raw";
        let refuse = |status, why: &str| Answer::of(Err((status, why.to_owned())), raw);
        self.admit().map_err(|refusal| Answer::of(Err(refusal), raw))?;
        match &call.authorization {
            Some(given) if given.is_bearer_of(&self.setup.token) => {}
            Some(_) => return Err(refuse(403, "the token is not this execution's: CRONIUM_EXECUTION_TOKEN")),
            None => return Err(refuse(401, "send the token of this execution: CRONIUM_EXECUTION_TOKEN")),
        }
        let parts: Vec<String> = path.trim_start_matches('/').split('/').map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["executions", id, below @ ..] if *id == self.setup.execution.as_str() => {
                let action =
                    action(&call.method, below, &call.body, raw).map_err(|refusal| Answer::of(Err(refusal), raw))?;
                Ok(Request { action, raw })
            }
            ["executions", ..] => Err(refuse(403, "this path is another execution's")),
            ["tool-actions", ..] => Err(refuse(501, NO_TOOLS)),
            _ => Err(refuse(
                404,
                "there is no such path: /executions/ID/input, output, variables/KEY, condition, context",
            )),
        }
    }
}

/// Why no script can send a mail or a message.
const NO_TOOLS: &str = "tool actions and mails are not to be had from a script: the backend has no way for them. Use an action of the event";

/// A service as script and agent reach it.
pub struct Access {
    pub(super) service: Arc<Service>,
    /// The folder with its socket, or why there is none.
    pub(super) folder: Result<PathBuf, String>,
}

impl Calls for Access {
    fn body_max(&self) -> (usize, &'static str) {
        (self.service.setup.max_output.saturating_add(limits::HELPER_BODY_ROOM), "jobs.maxScriptOutput")
    }

    fn take(&self, call: Call, answer: Answerer) {
        let reply = |found: Answer| -> Reply {
            if found.raw { text(found.status, found.body) } else { json_reply(found.status, found.body) }
        };
        match self.service.read(&call) {
            Ok(request) => Arc::clone(&self.service).serve(request, move |found| answer.reply(reply(found))),
            Err(found) => answer.reply(reply(found)),
        }
    }
}

impl HelperApi for Access {
    fn folder(&self) -> Result<&Path, &str> {
        self.folder.as_deref().map_err(String::as_str)
    }

    fn token(&self) -> &Secret {
        &self.service.setup.token
    }

    fn body_max(&self) -> (usize, &'static str) {
        Calls::body_max(self)
    }

    fn take(&self, request: Vec<u8>, answer: Box<dyn FnOnce(Vec<u8>) + Send>) {
        let admitted = self.service.admit().map_err(|refusal| (refusal, true));
        match admitted.and_then(|()| parse_message(&request)) {
            Ok(request) => Arc::clone(&self.service).serve(request, move |found| answer(found.message())),
            Err((refusal, raw)) => answer(Answer::of(Err(refusal), raw).message()),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({})", self.service.setup.execution)
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
