//! One row of the queue into a [`Claim`].
//!
//! Each field is read separately and a wrong one is named by its path, so that the job's owner learns what to change. A
//! reason never quotes a value: it may be a secret. Unknown keys are ignored. A row with a usable id always becomes a
//! claim: a job without an answer would stay claimed forever.

use std::time::Duration;

use super::http_row;
use super::json::{Raw, integer, number, object, plain, shown, text};
use super::server_row::servers;
use super::signature_row;
use crate::config::types::HostTable;
use crate::job::{Claim, Event, Id, IdError, Input, Job, Jump, Kind, Language, Request, Resources, Script, Server};
use crate::limits;
use crate::secret::Secret;
use crate::wire::amount;
use crate::wire::scan::{FieldsError, Json, TextError};

/// Bytes of a word such as a type.
const WORD: usize = 100;
/// Bytes of a text whose exact limit is checked later, with a better message.
const ANY: usize = limits::QUEUE_ROW_MAX;

/// Facts about a job for its script and for messages only: a wrong one is no reason to refuse the job.
#[derive(Default)]
struct About {
    event: Event,
    original_type: Option<String>,
}

/// Reads one row; the error says why it has no usable id.
pub(super) fn read(row: Json<'_>, hosts: &HostTable) -> Result<Claim, String> {
    let [id] = row.fields(["id"]).map_err(|error| match error {
        FieldsError::NotAnObject => format!("{}, no usable id", row.sort()),
        FieldsError::Twice(_) => "its id is given twice, so that there is no usable id".to_owned(),
        FieldsError::Missing(what) | FieldsError::TooMuch(what) => format!("no id: {what}"),
        FieldsError::Broken(why) => why.to_string(),
    })?;
    let id = id.ok_or("no id")?;
    let text = id.text(crate::job::ID_MAX).map_err(|error| match error {
        TextError::NotText => format!("its id is {}, not text", id.sort()),
        TextError::TooLong(length) => IdError::TooLong(length).to_string(),
        TextError::NoUnicode => "its id holds what is no Unicode character".to_owned(),
    })?;
    Ok(read_as(Id::parse(&text).map_err(|e| e.to_string())?, row, hosts))
}

/// The parts of a row that say what is to be done.
type Parts<'a> = [Option<Json<'a>>; 6];

/// Reads one row whose id is known.
pub(super) fn read_as(id: Id, row: Json<'_>, hosts: &HostTable) -> Claim {
    read_parts(id, row, hosts, || {
        object(row, "the job", ["type", "priority", "attempts", "execution", "metadata", "signature"])
    })
}

/// Reads a row as the backend stores it: what the queue hands out as `execution` is its `payload`. Its `type` and its
/// `priority` are other words than the queue's.
pub(super) fn read_stored(id: Id, row: Json<'_>, hosts: &HostTable) -> Claim {
    read_parts(id, row, hosts, || {
        let names = ["attempts", "payload", "metadata", "signature"];
        let [attempts, execution, metadata, signature] = object(row, "the job", names)?;
        Ok([None, None, attempts, execution, metadata, signature])
    })
}

fn read_parts<'a>(
    id: Id,
    row: Json<'a>,
    hosts: &HostTable,
    parts: impl FnOnce() -> Result<Parts<'a>, String>,
) -> Claim {
    let mut kind = Kind::Container;
    let sound = row.check().map_err(|why| format!("the job's row cannot be read: {why}"));
    match sound.and_then(|()| job(&id, parts()?, hosts, &mut kind)) {
        Ok(job) if cost(&job) > limits::QUEUE_ROW_MAX => {
            let most = limits::QUEUE_ROW_MAX;
            let reason =
                format!("script, variables, input, servers and request of the job need more than {most} bytes");
            Claim::Refuse { id, kind, reason }
        }
        Ok(job) => Claim::Run(Box::new(job)),
        Err(reason) => Claim::Refuse { id, kind, reason },
    }
}

/// A claim's approximate memory.
pub(super) fn held(claim: &Claim) -> usize {
    match claim {
        Claim::Run(job) => cost(job),
        Claim::Refuse { reason, .. } => size_of::<Claim>() + reason.len(),
    }
}

/// The overhead of an allocation.
const BLOCK: usize = 32;

fn secret(secret: &Option<Secret>) -> usize {
    secret.as_ref().map_or(0, |secret| BLOCK + secret.len())
}

fn held_by(server: &Server) -> usize {
    let secrets = secret(&server.private_key) + secret(&server.passphrase) + secret(&server.password);
    let jump = match &server.jump {
        Some(Jump::Named(name)) => BLOCK + name.len(),
        Some(Jump::Host(jump)) => 5 * BLOCK + size_of::<Server>() + held_by(jump),
        None => 0,
    };
    let certificate = server.certificate.as_ref().map_or(0, |text| BLOCK + text.len());
    server.name.len() + server.host.len() + server.user.len() + secrets + certificate + jump
}

fn cost(job: &Job) -> usize {
    let variables: usize = job
        .environment
        .iter()
        .map(|(name, value)| size_of::<(String, Secret)>() + 2 * BLOCK + name.len() + value.len())
        .sum();
    let servers: usize = job
        .servers
        .iter()
        .map(|server| {
            let held = match server {
                Ok(server) => held_by(server),
                Err(bad) => bad.name.len() + bad.why.len(),
            };
            size_of::<Result<crate::job::Server, crate::job::BadServer>>() + 4 * BLOCK + crate::job::ID_MAX + held
        })
        .sum();
    let request = job.http.as_ref().map_or(0, |request| {
        let headers = request.headers.iter();
        let headers = headers.map(|(name, value)| size_of::<(String, Secret)>() + 2 * BLOCK + name.len() + value.len());
        request.method.len() + request.url.len() + secret(&request.body) + headers.sum::<usize>() + 2 * BLOCK
    });
    let texts = [&job.event.id, &job.event.name, &job.event.user, &job.event.triggered_by];
    let about: usize = texts.into_iter().flatten().map(|text| BLOCK + text.len()).sum();
    size_of::<Job>()
        + job.input.as_json().len()
        + about
        + job.script.content.len()
        + job.script.working_directory.len()
        + variables
        + servers
        + request
}

/// Reads the rest of the row. `kind` is set as soon as it is known, so that a refusal has it too.
fn job(id: &Id, parts: Parts<'_>, hosts: &HostTable, kind: &mut Kind) -> Result<Job, String> {
    let [declared, priority, attempts, execution, metadata, signature] = parts;
    let About { event, original_type } = metadata.map(about).unwrap_or_default();
    *kind = declared.map_or(Ok(Kind::Container), job_kind)?;
    let execution = execution.ok_or("the job has no execution")?;
    let names = ["target", "script", "http", "environment", "timeout", "resources", "inputData"];
    let [target, script, http, variables, limit, wishes, input] = object(execution, "execution", names)?;
    if target.map_or(Ok(false), is_server)? {
        *kind = Kind::Ssh;
    }
    let signature = signature_row::read(signature, execution, metadata);
    let (script, http) = work(script, http, original_type.as_deref(), kind)?;
    let servers = match *kind {
        Kind::Container | Kind::Http => Vec::new(),
        Kind::Ssh => servers(target, metadata, hosts)?,
    };
    Ok(Job {
        id: id.clone(),
        kind: *kind,
        servers,
        priority: priority.map_or(Ok(0), |raw| integer(raw, "priority"))?,
        attempts: u32::try_from(attempts.map_or(Ok(0), |raw| integer(raw, "attempts"))?.max(0)).unwrap_or(u32::MAX),
        script,
        http,
        environment: variables.map_or(Ok(Vec::new()), environment)?,
        timeout: limit.map_or(Ok(None), timeout)?,
        resources: wishes.map_or(Ok(Resources::default()), resources)?,
        event,
        input: input.map_or_else(Input::default, |raw| Input::new(String::from_utf8_lossy(raw.bytes()))),
        original_type,
        signature,
    })
}

fn about(metadata: Json<'_>) -> About {
    let names = ["eventId", "eventName", "userId", "triggeredBy", "originalType"];
    let Ok([id, name, user, triggered_by, original_type]) = metadata.fields(names) else { return About::default() };
    let text = |raw: Raw<'_>| raw.and_then(word);
    let user = user.filter(|raw| raw.bytes().len() <= WORD + 2);
    let event = Event { id: text(id), name: text(name), user: text(user), triggered_by: text(triggered_by) };
    About { event, original_type: original_type.and_then(|raw| raw.text(WORD).ok()) }
}

/// A text, cut, or a number as its text.
fn word(raw: Json<'_>) -> Option<String> {
    match raw.sort() {
        "text" => raw.beginning(limits::EVENT_TEXT_MAX),
        "a number" => std::str::from_utf8(raw.bytes()).ok().filter(|digits| digits.len() <= WORD).map(str::to_owned),
        _ => None,
    }
}

fn job_kind(raw: Json<'_>) -> Result<Kind, String> {
    match text(raw, "type", WORD)?.to_ascii_lowercase().as_str() {
        "container" => Ok(Kind::Container),
        "ssh" => Ok(Kind::Ssh),
        other => Err(format!("type is {}; this agent knows container and ssh", shown(other))),
    }
}

/// Whether the job names a server.
fn is_server(target: Json<'_>) -> Result<bool, String> {
    let [kind] = object(target, "execution.target", ["type"])?;
    let kind = kind.map_or(Ok("local".to_owned()), |raw| text(raw, "execution.target.type", WORD))?;
    match kind.to_ascii_lowercase().as_str() {
        "local" => Ok(false),
        "server" => Ok(true),
        other => Err(format!("execution.target.type is {}; this agent knows local and server", shown(other))),
    }
}

/// What is to be done: a script, or a request with an empty script.
fn work(
    script: Raw<'_>,
    http: Raw<'_>,
    original_type: Option<&str>,
    kind: &mut Kind,
) -> Result<(Script, Option<Request>), String> {
    match (original_type, script, http) {
        (Some("TOOL_ACTION"), ..) => Err(NO_TOOLS.to_owned()),
        (Some("HTTP_REQUEST"), _, http) | (_, None, http @ Some(_)) => {
            *kind = Kind::Http;
            let request = http_row::read(http.ok_or("the job has no execution.http")?)?;
            let script = Script { language: Language::Bash, content: String::new(), working_directory: String::new() };
            Ok((script, Some(request)))
        }
        (_, Some(script), _) => Ok((read_script(script)?, None)),
        (_, None, None) => Err("the job has no script".to_owned()),
    }
}

/// Why no agent can do the third type of jobs.
const NO_TOOLS: &str = "this is a tool action (TOOL_ACTION), which no agent can do: no route of the backend hands out \
                        the credentials of its tool";

fn read_script(raw: Json<'_>) -> Result<Script, String> {
    let [language, content, folder] = object(raw, "execution.script", ["type", "content", "workingDirectory"])?;
    let language = text(language.ok_or("execution.script.type is missing")?, "execution.script.type", WORD)?;
    let language = Language::parse(&language).ok_or_else(|| {
        format!("execution.script.type is {}; this agent runs BASH, PYTHON and NODEJS", shown(&language))
    })?;
    let content = text(content.ok_or("execution.script.content is missing")?, "execution.script.content", ANY)?;
    let path = "execution.script.workingDirectory";
    let working_directory = folder.map_or(Ok(String::new()), |raw| text(raw, path, limits::JOB_FOLDER_MAX))?;
    Ok(Script { language, content, working_directory })
}

fn environment(raw: Json<'_>) -> Result<Vec<(String, Secret)>, String> {
    let path = "execution.environment";
    let members = raw.members().ok_or_else(|| format!("{path} must be an object, found {}", raw.sort()))?;
    let count = members.clone().count();
    if count > limits::JOB_ENVIRONMENT_MAX {
        return Err(format!("{path} has more than {} variables", limits::JOB_ENVIRONMENT_MAX));
    }
    let mut variables = Vec::with_capacity(count);
    for member in members {
        let (name, raw) = member.map_err(|why| format!("{path} cannot be read: {why}"))?;
        let name = text(name, "a name in execution.environment", ANY)?;
        if name.is_empty() || name.contains(['=', '\0']) {
            let why = "variable names must not be empty or hold = or NUL";
            return Err(format!("{path} has the name {}; {why}", shown(&name)));
        }
        if let Some(value) = variable(raw, &name)? {
            variables.push((name, value));
        }
    }
    Ok(variables)
}

/// A variable's value as text; `None` for null.
fn variable(raw: Json<'_>, name: &str) -> Result<Option<Secret>, String> {
    let path = || format!("execution.environment.{}", plain(name));
    let value = match raw.sort() {
        "null" => return Ok(None),
        "text" => text(raw, &path(), ANY)?,
        found @ ("an object" | "an array") => {
            return Err(format!("{} must be text, a number or a boolean, found {found}", path()));
        }
        // A number or a boolean is its own text.
        _ => String::from_utf8_lossy(raw.bytes()).into_owned(),
    };
    if value.contains('\0') {
        return Err(format!("{} holds a NUL byte, which no environment can hold", path()));
    }
    Ok(Some(Secret::new(value)))
}

/// Nanoseconds from 10⁹ on, seconds below; 0 means the default timeout.
fn timeout(raw: Json<'_>) -> Result<Option<Duration>, String> {
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

fn resources(raw: Json<'_>) -> Result<Resources, String> {
    let [cpu, memory, disk, pids] =
        object(raw, "execution.resources", ["cpuLimit", "memoryLimit", "diskLimit", "pidsLimit"])?;
    // Some backends write zero for "not given".
    let amount = |raw: Raw<'_>, name: &str| -> Result<Option<f64>, String> {
        let Some(raw) = raw else { return Ok(None) };
        let path = format!("execution.resources.{name}");
        let value = number(raw, &path)?;
        if value < 0.0 {
            Err(format!("{path} is negative"))
        } else {
            Ok(Some(amount::sound(value)).filter(|v| *v > 0.0))
        }
    };
    // An amount is far below the largest u64, and the configured limits cap it afterwards.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = |raw, name| Ok::<_, String>(amount(raw, name)?.map(|value| value.ceil() as u64));
    Ok(Resources {
        cpu: amount(cpu, "cpuLimit")?,
        memory: whole(memory, "memoryLimit")?,
        disk: whole(disk, "diskLimit")?,
        pids: whole(pids, "pidsLimit")?,
    })
}

#[cfg(test)]
#[path = "job_row_tests.rs"]
mod tests;
