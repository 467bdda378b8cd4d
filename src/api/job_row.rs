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
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn valid() -> Value {
        json!({"id":"job_x7Gk2LmQ9aZb","type":"container","priority":5,"createdAt":"2025-10-09T10:00:00.000Z",
         "scheduledFor":null,"attempts":2,
         "execution":{
           "target":{"type":"local"},
           "script":{"type":"BASH","content":"echo hi","workingDirectory":"sub"},
           "environment":{"ZED":"value","NUM":1.50,"YES":true,"NONE":null},
           "timeout":3_600_000_000_000_u64,"inputData":{},"variables":{},
           "resources":{"cpuLimit":0.5,"memoryLimit":536_870_912,"diskLimit":1_073_741_824,"pidsLimit":100},
           "retryPolicy":{"maxAttempts":3,"backoffType":"exponential","backoffDelay":5}},
         "metadata":{"eventId":12,"userId":"u1","originalType":"SCRIPT","executionLogId":7}})
    }

    fn claim(row: &str) -> Result<Claim, String> {
        let raw: Box<RawValue> = serde_json::from_str(row).expect("JSON");
        read(&raw)
    }

    /// `valid()` with `value` at `path`; without a value the key is taken out.
    fn with(path: &str, value: Option<Value>) -> Value {
        let mut row = valid();
        let (parent, key) = path.rsplit_once('/').expect("a path");
        let parent = row.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
        match value {
            Some(value) => parent.insert(key.into(), value),
            None => parent.remove(key),
        };
        row
    }

    fn run(row: &Value) -> Job {
        match claim(&row.to_string()) {
            Ok(Claim::Run(job)) => *job,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(row: &str) -> (Kind, String) {
        match claim(row) {
            Ok(Claim::Refuse { kind, reason, .. }) => (kind, reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_contracts_own_example() {
        let job = run(&valid());
        assert_eq!(job.id.as_str(), "job_x7Gk2LmQ9aZb");
        assert_eq!((job.kind, job.priority, job.attempts), (Kind::Container, 5, 2));
        assert_eq!(job.script.language, Language::Bash);
        assert_eq!((job.script.content.as_str(), job.script.working_directory.as_str()), ("echo hi", "sub"));
        assert_eq!(job.timeout, Some(Duration::from_secs(3600)));
        let want = Resources { cpu: Some(0.5), memory: Some(1 << 29), disk: Some(1 << 30), pids: Some(100) };
        assert_eq!(job.resources, want);
        assert_eq!((job.event_id.as_deref(), job.original_type.as_deref()), (Some("12"), Some("SCRIPT")));
    }

    #[test]
    fn variables_keep_their_order_and_become_text() {
        let row = r#"{"id":"a","execution":{"script":{"type":"sh","content":""},
            "environment":{"ZED":"v","NUM":1.50,"YES":true,"NONE":null,"ALPHA":"ä\n","N":-7}}}"#;
        let Ok(Claim::Run(job)) = claim(row) else { panic!("refused") };
        let got: Vec<_> = job.environment.iter().map(|(k, v)| (k.as_str(), v.expose())).collect();
        assert_eq!(got, [("ZED", "v"), ("NUM", "1.50"), ("YES", "true"), ("ALPHA", "ä\n"), ("N", "-7")]);
    }

    #[test]
    fn what_is_missing_or_null_has_a_default() {
        for path in [
            "/type",
            "/priority",
            "/attempts",
            "/createdAt",
            "/metadata",
            "/execution/target",
            "/execution/environment",
            "/execution/timeout",
            "/execution/resources",
            "/execution/resources/cpuLimit",
            "/execution/script/workingDirectory",
            "/metadata/eventId",
            "/execution/target/type",
        ] {
            run(&with(path, None));
            run(&with(path, Some(Value::Null)));
        }
        for (path, value) in [
            ("/metadata/eventId", json!("e-1")),
            ("/metadata/eventId", json!([])),
            ("/metadata", json!(5)),
            ("/type", json!("CONTAINER")),
            ("/priority", json!(1e300)),
            ("/attempts", json!(-4)),
            ("/execution/resources/memoryLimit", json!(0)),
            ("/execution/resources/memoryLimit", json!(u64::MAX)),
        ] {
            run(&with(path, Some(value)));
        }
    }

    #[test]
    fn timeouts_in_seconds_and_nanoseconds() {
        for (value, want) in [
            (json!(0), Ok(None)),
            (json!(1), Ok(Some(1.0))),
            (json!(1.5), Ok(Some(1.5))),
            (json!(86_400), Ok(Some(86_400.0))),
            (json!(1_000_000_000), Ok(Some(1.0))),
            (json!(1e9), Ok(Some(1.0))),
            (json!(2_500_000_000_u64), Ok(Some(2.5))),
            (json!(3_600_000_000_000_u64), Ok(Some(3600.0))),
            (json!(-1), Err("negative")),
            (json!(-0.0), Ok(None)),
            (json!(999_999_999), Err("longer than ten years")),
            (json!(1e300), Err("longer than ten years")),
            (json!(u64::MAX), Err("longer than ten years")),
            (json!("30"), Err("must be a number, found text")),
            (json!([]), Err("must be a number, found an array")),
        ] {
            let row = with("/execution/timeout", Some(value.clone()));
            match want {
                Ok(want) => assert_eq!(run(&row).timeout, want.map(Duration::from_secs_f64), "{value}"),
                Err(part) => {
                    let (_, reason) = refusal(&row.to_string());
                    assert!(reason.contains("execution.timeout") && reason.contains(part), "{value}: {reason}");
                }
            }
        }
    }

    #[test]
    fn refusals_name_the_kind_or_the_path() {
        let many: serde_json::Map<_, _> =
            (0..=limits::JOB_ENVIRONMENT_MAX).map(|i| (format!("V{i}"), json!(1))).collect();
        for (path, value, parts) in [
            ("/metadata/originalType", Some(json!("HTTP_REQUEST")), vec!["HTTP_REQUEST"]),
            ("/metadata/originalType", Some(json!("TOOL_ACTION")), vec!["TOOL_ACTION"]),
            ("/execution/script", None, vec!["no script"]),
            ("/execution", None, vec!["no execution"]),
            ("/execution/script/content", None, vec!["execution.script.content is missing"]),
            (
                "/execution/script/content",
                Some(json!(7)),
                vec!["execution.script.content must be text, found a number"],
            ),
            ("/execution/script/type", Some(json!("RUBY")), vec!["\"RUBY\"", "BASH, PYTHON and NODEJS"]),
            ("/execution/script/type", None, vec!["execution.script.type is missing"]),
            ("/execution/script", Some(json!(["BASH", "x"])), vec!["execution.script must be an object"]),
            ("/type", Some(json!("vm")), vec!["\"vm\"", "container and ssh"]),
            ("/type", Some(json!("ssh")), vec!["execution.target.serverDetails is missing"]),
            ("/execution/target/type", Some(json!("server")), vec!["execution.target.serverDetails is missing"]),
            ("/execution/target/type", Some(json!("moon")), vec!["execution.target.type", "\"moon\""]),
            ("/execution/environment", Some(json!({"": 1})), vec!["\"\"", "must not be empty"]),
            ("/execution/environment", Some(json!({"A=B": 1})), vec!["A=B"]),
            ("/execution/environment", Some(json!({"A": "s3cret\0"})), vec!["execution.environment.A", "NUL"]),
            ("/execution/environment", Some(json!({"A": ["s3cret"]})), vec!["execution.environment.A", "an array"]),
            ("/execution/environment", Some(json!([])), vec!["execution.environment must be an object"]),
            ("/execution/environment", Some(Value::Object(many)), vec!["more than 4096 variables"]),
            ("/execution/resources/cpuLimit", Some(json!("2")), vec!["execution.resources.cpuLimit", "found text"]),
            ("/execution/resources/memoryLimit", Some(json!(-1)), vec!["memoryLimit is negative"]),
            ("/execution/resources", Some(json!(3)), vec!["execution.resources must be an object"]),
            ("/priority", Some(json!("high")), vec!["priority must be a number"]),
        ] {
            let (_, reason) = refusal(&with(path, value).to_string());
            assert!(parts.iter().all(|p| reason.contains(p)), "{path}: {reason}");
            assert!(!reason.contains("s3cret"), "{reason}");
        }
        let (kind, _) = refusal(&with("/type", Some(json!("ssh"))).to_string());
        assert_eq!(kind, Kind::Ssh);
        let big = valid().to_string().replace("0.5", "1e999");
        assert_eq!(refusal(&big).1, "execution.resources.cpuLimit is too large");
        let nan = valid().to_string().replace("0.5", "\"NaN\"");
        assert!(refusal(&nan).1.contains("cpuLimit must be a number"));
        assert!(refusal(r#"{"id":"a","type":"ssh","type":"ssh"}"#).1.contains("given twice"));
    }

    #[test]
    fn rows_without_a_usable_id() {
        for (row, part) in [
            (r#"{"type":"container"}"#, "no id"),
            (r#"{"id":null}"#, "no id"),
            (r#"{"id":7}"#, "its id is a number"),
            (r#"{"id":""}"#, "the id is empty"),
            (r#"{"id":"../../etc/passwd"}"#, "'/'"),
            (r#"{"id":"a","id":"b"}"#, "no usable id"),
            ("[]", "an array"),
            ("7", "a number"),
            ("null", "null"),
            (r#""text""#, "text"),
        ] {
            let got = claim(row);
            assert!(got.as_ref().is_err_and(|why| why.contains(part)), "{row}: {got:?}");
        }
        let long = claim(&format!(r#"{{"id":"{}"}}"#, "x".repeat(10_000)));
        assert!(long.is_err_and(|why| why.contains("10000 bytes")));
    }

    /// All pointers into `value`.
    fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
        all.push(at.to_owned());
        match value {
            Value::Object(map) => map.iter().for_each(|(k, v)| pointers(v, &format!("{at}/{k}"), all)),
            Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| pointers(v, &format!("{at}/{i}"), all)),
            _ => {}
        }
    }

    #[test]
    fn any_node_may_be_anything() {
        let deep = (0..500).fold(json!(1), |inner, _| json!([inner]));
        let strange = [
            Value::Null,
            json!(true),
            json!(0),
            json!(-1),
            json!(1e308),
            json!(u64::MAX),
            json!(""),
            json!("x\0y"),
            json!("ä".repeat(200)),
            json!([]),
            json!([1, "a"]),
            json!({}),
            json!({"": {"a": []}}),
            deep,
        ];
        let mut all = Vec::new();
        pointers(&valid(), "", &mut all);
        assert!(all.len() > 30);
        for pointer in &all {
            for value in &strange {
                let mut row = valid();
                *row.pointer_mut(pointer).expect("a node") = value.clone();
                // An error is allowed exactly where the id itself was hit.
                let got = claim(&row.to_string());
                assert_eq!(got.is_err(), pointer.is_empty() || pointer == "/id", "{pointer} = {value:.40}: {got:?}");
                if let Ok(claim) = got {
                    assert_eq!(claim.id().as_str(), "job_x7Gk2LmQ9aZb");
                }
            }
        }
    }
}
