//! One row of the queue into a [`Claim`].
//!
//! Each field is read on its own and a wrong one is named by its path, so that the person whose job it is learns what
//! to change. A reason never quotes a value: it may be a secret. Unknown keys are ignored. A row whose id can be used
//! always becomes a claim, since a job that nobody answers for would stay claimed for ever.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{Raw, integer, number, object, plain, shown, sort_of, text};
use super::server_row::servers;
use crate::job::{Claim, Id, Job, Kind, Language, Resources, Script};
use crate::limits;
use crate::secret::Secret;

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    priority: Raw<'a>,
    #[serde(borrow)]
    attempts: Raw<'a>,
    #[serde(borrow)]
    execution: Raw<'a>,
    #[serde(borrow)]
    metadata: Raw<'a>,
}

#[derive(Deserialize)]
struct Execution<'a> {
    #[serde(borrow)]
    target: Raw<'a>,
    #[serde(borrow)]
    script: Raw<'a>,
    #[serde(borrow)]
    http: Raw<'a>,
    #[serde(borrow)]
    environment: Raw<'a>,
    #[serde(borrow)]
    timeout: Raw<'a>,
    #[serde(borrow)]
    resources: Raw<'a>,
}

#[derive(Deserialize)]
struct Target<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScriptRow<'a> {
    #[serde(borrow, rename = "type")]
    language: Raw<'a>,
    #[serde(borrow)]
    content: Raw<'a>,
    #[serde(borrow)]
    working_directory: Raw<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceRow<'a> {
    #[serde(borrow)]
    cpu_limit: Raw<'a>,
    #[serde(borrow)]
    memory_limit: Raw<'a>,
    #[serde(borrow)]
    disk_limit: Raw<'a>,
    #[serde(borrow)]
    pids_limit: Raw<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    event_id: Raw<'a>,
    #[serde(borrow)]
    original_type: Raw<'a>,
}

/// Reads one row; an error says why it has no usable id.
pub(super) fn read(row: &RawValue) -> Result<Claim, String> {
    #[derive(Deserialize)]
    struct OnlyId<'a> {
        #[serde(borrow)]
        id: Raw<'a>,
    }
    let only: OnlyId<'_> = serde_json::from_str(row.get()).map_err(|_| format!("{}, no usable id", sort_of(row)))?;
    let id = only.id.ok_or("no id")?;
    let id: String = serde_json::from_str(id.get()).map_err(|_| format!("its id is {}, not text", sort_of(id)))?;
    let id = Id::parse(&id).map_err(|e| e.to_string())?;
    let mut kind = Kind::Container;
    Ok(match job(&id, row, &mut kind) {
        Ok(job) => Claim::Run(Box::new(job)),
        Err(reason) => Claim::Refuse { id, kind, reason },
    })
}

/// Reads the rest of the row. `kind` is set as soon as it is known, so that a refusal has it too.
fn job(id: &Id, row: &RawValue, kind: &mut Kind) -> Result<Job, String> {
    let row: Row<'_> = object(row, "the job")?;
    let metadata = row.metadata.and_then(|m| serde_json::from_str::<Metadata<'_>>(m.get()).ok());
    // The two are for messages only, so a wrong one is no reason to refuse a job.
    let original_type = metadata.as_ref().and_then(|m| text(m.original_type?, "").ok());
    let event_id = metadata.as_ref().and_then(|m| event_id(m.event_id?));
    let declared = row.kind.map(job_kind).transpose()?;
    *kind = declared.unwrap_or(Kind::Container);
    let execution: Execution<'_> = object(row.execution.ok_or("the job has no execution")?, "execution")?;
    if server_target(&execution)? {
        *kind = Kind::Ssh;
    }
    let script = script(&execution, original_type.as_deref())?;
    let servers = match *kind {
        Kind::Container => Vec::new(),
        Kind::Ssh => servers(execution.target, row.metadata)?,
    };
    Ok(Job {
        id: id.clone(),
        kind: *kind,
        servers,
        priority: row.priority.map_or(Ok(0), |raw| integer(raw, "priority"))?,
        attempts: u32::try_from(row.attempts.map_or(Ok(0), |raw| integer(raw, "attempts"))?.max(0)).unwrap_or(u32::MAX),
        script,
        environment: execution.environment.map_or(Ok(Vec::new()), environment)?,
        timeout: execution.timeout.map_or(Ok(None), timeout)?,
        resources: execution.resources.map_or(Ok(Resources::default()), resources)?,
        event_id,
        original_type,
    })
}

fn job_kind(raw: &RawValue) -> Result<Kind, String> {
    match text(raw, "type")?.to_ascii_lowercase().as_str() {
        "container" => Ok(Kind::Container),
        "ssh" => Ok(Kind::Ssh),
        other => Err(format!("type is {}; this agent knows container and ssh", shown(other))),
    }
}

/// Whether the job wants to run on a server of its own.
fn server_target(execution: &Execution<'_>) -> Result<bool, String> {
    let Some(target) = execution.target else { return Ok(false) };
    let target: Target<'_> = object(target, "execution.target")?;
    let kind = target.kind.map_or(Ok("local".to_owned()), |raw| text(raw, "execution.target.type"))?;
    match kind.to_ascii_lowercase().as_str() {
        "local" => Ok(false),
        "server" => Ok(true),
        other => Err(format!("execution.target.type is {}; this agent knows local and server", shown(other))),
    }
}

fn script(execution: &Execution<'_>, original_type: Option<&str>) -> Result<Script, String> {
    if let Some(other @ ("HTTP_REQUEST" | "TOOL_ACTION")) = original_type {
        return Err(format!("this is a job of type {other}; this agent runs scripts only"));
    }
    let Some(raw) = execution.script else {
        let hint =
            if execution.http.is_some() { " (it describes an HTTP request; this agent runs scripts only)" } else { "" };
        return Err(format!("the job has no script{hint}"));
    };
    let row: ScriptRow<'_> = object(raw, "execution.script")?;
    let language = text(row.language.ok_or("execution.script.type is missing")?, "execution.script.type")?;
    let language = Language::parse(&language).ok_or_else(|| {
        format!("execution.script.type is {}; this agent runs BASH, PYTHON and NODEJS", shown(&language))
    })?;
    let content = text(row.content.ok_or("execution.script.content is missing")?, "execution.script.content")?;
    let working_directory =
        row.working_directory.map_or(Ok(String::new()), |raw| text(raw, "execution.script.workingDirectory"))?;
    Ok(Script { language, content, working_directory })
}

/// An object's members in the order in which they were written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(member) = map.next_entry()? {
                    if all.len() > limits::JOB_ENVIRONMENT_MAX {
                        // One above the limit is enough to refuse; the rest must still be read past.
                        continue;
                    }
                    all.push(member);
                }
                Ok(Members(all))
            }
        }
        from.deserialize_map(Each)
    }
}

fn environment(raw: &RawValue) -> Result<Vec<(String, Secret)>, String> {
    let members: Members<'_> = object(raw, "execution.environment")?;
    if members.0.len() > limits::JOB_ENVIRONMENT_MAX {
        return Err(format!("execution.environment has more than {} variables", limits::JOB_ENVIRONMENT_MAX));
    }
    let mut variables = Vec::with_capacity(members.0.len());
    for (name, raw) in members.0 {
        if name.is_empty() || name.contains(['=', '\0']) {
            let why = "variable names must not be empty or hold = or NUL";
            return Err(format!("execution.environment has the name {}; {why}", shown(&name)));
        }
        let Some(value) = variable(raw).map_err(|why| format!("execution.environment.{} {why}", plain(&name)))? else {
            continue;
        };
        variables.push((name, value));
    }
    Ok(variables)
}

/// A variable's value as text; `None` for null.
fn variable(raw: &RawValue) -> Result<Option<Secret>, String> {
    let value = match raw.get().as_bytes().first() {
        Some(b'n') => return Ok(None),
        Some(b'"') => serde_json::from_str::<String>(raw.get()).map_err(|_| "is no valid text".to_owned())?,
        Some(b'{' | b'[') => return Err(format!("must be text, a number or a boolean, found {}", sort_of(raw))),
        // A number or a boolean is its own text.
        _ => raw.get().to_owned(),
    };
    if value.contains('\0') {
        return Err("holds a NUL byte, which no environment can hold".into());
    }
    Ok(Some(Secret::new(value)))
}

/// Nanoseconds from 10⁹ on, seconds below; 0 is no timeout of its own.
fn timeout(raw: &RawValue) -> Result<Option<Duration>, String> {
    let path = "execution.timeout";
    let value = number(raw, path)?;
    if value < 0.0 {
        return Err(format!("{path} is negative"));
    }
    let seconds = if value >= 1e9 { value / 1e9 } else { value };
    match Duration::try_from_secs_f64(seconds) {
        Ok(length) if length <= limits::JOB_TIMEOUT_ABSURD => Ok(Some(length).filter(|l| !l.is_zero())),
        _ => Err(format!("{path} is longer than ten years; it is in nanoseconds from 10^9 on and in seconds below")),
    }
}

fn resources(raw: &RawValue) -> Result<Resources, String> {
    let row: ResourceRow<'_> = object(raw, "execution.resources")?;
    // Zero is how some backends write "not given".
    let amount = |raw: Raw<'_>, name: &str| -> Result<Option<f64>, String> {
        let Some(raw) = raw else { return Ok(None) };
        let path = format!("execution.resources.{name}");
        let value = number(raw, &path)?;
        if value < 0.0 { Err(format!("{path} is negative")) } else { Ok(Some(value).filter(|v| *v > 0.0)) }
    };
    // A float to an integer saturates, and the configured limits cap it afterwards.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = |raw, name| Ok::<_, String>(amount(raw, name)?.map(|value| value.ceil() as u64));
    Ok(Resources {
        cpu: amount(row.cpu_limit, "cpuLimit")?,
        memory: whole(row.memory_limit, "memoryLimit")?,
        disk: whole(row.disk_limit, "diskLimit")?,
        pids: whole(row.pids_limit, "pidsLimit")?,
    })
}

fn event_id(raw: &RawValue) -> Option<String> {
    match raw.get().as_bytes().first()? {
        b'"' => serde_json::from_str(raw.get()).ok(),
        b'-' | b'0'..=b'9' => Some(raw.get().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
#[path = "job_row_tests.rs"]
mod tests;
