//! Rows of the queue, good and odd, and their results.

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
     "metadata":{"eventId":12,"eventName":"backup","userId":"u1","originalType":"SCRIPT","executionLogId":7,
       "triggeredBy":"manual"}})
}

fn claim(row: &str) -> Result<Claim, String> {
    read(Json::outline(row.as_bytes()).expect("JSON"), &HostTable::default())
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
    let text = |text: &str| Some(text.to_owned());
    let event = Event { id: text("12"), name: text("backup"), user: text("u1"), triggered_by: text("manual") };
    assert_eq!((job.event, job.original_type.as_deref()), (event, Some("SCRIPT")));
    assert_eq!(job.input, Input::default());
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
fn the_input_is_the_backends_json_as_it_stands() {
    let input = |text: &str| {
        let execution = format!(r#"{{"script":{{"type":"sh","content":""}},"inputData":{text}}}"#);
        match claim(&format!(r#"{{"id":"a","execution":{execution}}}"#)) {
            Ok(Claim::Run(job)) => job.input.as_json().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    for text in [r#"{"b":1, "a":[1.50,"\u00e4\u0000"]}"#, "[1,2]", "7", "\"x\"", "{}"] {
        assert_eq!(input(text), text);
    }
    assert_eq!(input("null"), "{}");
    assert_eq!(format!("{:?}", Input::new("\"secret\"")), "Input(8 bytes)");
}

#[test]
fn each_name_of_the_event_is_text_or_nothing() {
    let long = "n".repeat(limits::EVENT_TEXT_MAX + 1);
    let odd = json!({"eventId":"e-1","eventName":long,"userId":[],"triggeredBy":{"x":1}});
    let event = run(&with("/metadata", Some(odd))).event;
    assert_eq!(event.id.as_deref(), Some("e-1"));
    assert_eq!(event.name.map(|name| name.len()), Some(limits::EVENT_TEXT_MAX));
    assert_eq!((event.user, event.triggered_by), (None, None));
    // A part of an id is another id.
    for (user, want) in [(json!(7), Some("7")), (json!("u".repeat(WORD + 1)), None)] {
        assert_eq!(run(&with("/metadata/userId", Some(user))).event.user.as_deref(), want);
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
        (json!(316_224_000), Ok(Some(316_224_000.0))),
        (json!(316_224_001), Err("longer than ten years")),
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
fn a_request_is_a_kind_of_its_own_whatever_the_type_is_called() {
    let http = json!({"method": "GET", "url": "http://a.example/", "headers": [{"key": "A", "value": "b"}]});
    let mut row = valid();
    row["execution"]["http"] = http;
    row["execution"].as_object_mut().expect("an object").remove("script");
    for original in [json!("HTTP_REQUEST"), Value::Null] {
        row["metadata"]["originalType"] = original;
        let job = run(&row);
        let request = job.http.expect("a request");
        assert_eq!((job.kind, request.method.as_str(), request.headers.len()), (Kind::Http, "GET", 1));
        assert!(job.script.content.is_empty() && job.servers.is_empty());
    }
    // A script is a script, whatever stands beside it.
    row["execution"]["script"] = json!({"type": "BASH", "content": "true"});
    let job = run(&row);
    assert_eq!((job.kind, job.http), (Kind::Container, None));
    row["metadata"]["originalType"] = json!("HTTP_REQUEST");
    assert_eq!(run(&row).kind, Kind::Http);
    row["execution"]["http"]["url"] = json!(7);
    let Ok(Claim::Refuse { kind, reason, .. }) = claim(&row.to_string()) else { panic!("not refused") };
    assert_eq!((kind, reason.as_str()), (Kind::Http, "execution.http.url must be text, found a number"));
}

#[test]
fn refusals_name_the_kind_or_the_path() {
    let many: serde_json::Map<_, _> = (0..=limits::JOB_ENVIRONMENT_MAX).map(|i| (format!("V{i}"), json!(1))).collect();
    for (path, value, parts) in [
        ("/metadata/originalType", Some(json!("HTTP_REQUEST")), vec!["no execution.http"]),
        ("/metadata/originalType", Some(json!("TOOL_ACTION")), vec!["TOOL_ACTION", "credentials"]),
        ("/execution/script", None, vec!["no script"]),
        ("/execution", None, vec!["no execution"]),
        ("/execution/script/content", None, vec!["execution.script.content is missing"]),
        ("/execution/script/content", Some(json!(7)), vec!["execution.script.content must be text, found a number"]),
        (
            "/execution/script/workingDirectory",
            Some(json!("x".repeat(limits::JOB_FOLDER_MAX + 1))),
            vec!["execution.script.workingDirectory has 4097 bytes"],
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
fn wishes_are_finite_and_not_negative() {
    let wishes =
        |value: &str| run(&serde_json::from_str(&valid().to_string().replace("0.5", value)).expect("JSON")).resources;
    for (text, want) in [
        ("0", None),
        ("-0", None),
        ("-0.0", None),
        ("1e-320", Some(1e-320)),
        ("0.02", Some(0.02)),
        ("4294967295", Some(4_294_967_295.0)),
        ("18446744073709551615", Some(amount::MOST)),
        ("1e308", Some(amount::MOST)),
    ] {
        assert_eq!(wishes(text).cpu, want, "{text}");
    }
    for (path, value, want) in [
        ("memoryLimit", json!(1e308), 1 << 53),
        ("memoryLimit", json!(u64::MAX), 1 << 53),
        ("diskLimit", json!(0.1), 1),
        ("pidsLimit", json!(4_294_967_295_u64), 4_294_967_295),
    ] {
        let got = run(&with(&format!("/execution/resources/{path}"), Some(value))).resources;
        assert!([got.memory, got.disk, got.pids].contains(&Some(want)), "{path}: {got:?}");
    }
    for text in ["-1", "1e999", "-1e999", "\"inf\"", "\"NaN\"", "[1]", "true"] {
        let (_, reason) = refusal(&valid().to_string().replace("0.5", text));
        assert!(reason.starts_with("execution.resources.cpuLimit "), "{text}: {reason}");
    }
    assert_eq!(run(&with("/attempts", Some(json!(4_294_967_295_u64)))).attempts, u32::MAX);
    assert_eq!(run(&with("/attempts", Some(json!(u64::MAX)))).attempts, u32::MAX);
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
    let mut request = valid();
    request["execution"].as_object_mut().expect("an object").remove("script");
    request["execution"]["http"] = json!({"method": "GET", "url": "http://a.example/", "body": "x",
        "headers": [{"key": "A", "value": "b"}, {"key": "C", "value": 1}]});
    let mut all = Vec::new();
    for base in [valid(), request] {
        let mut found = Vec::new();
        pointers(&base, "", &mut found);
        assert!(found.len() > 30);
        all.extend(found.into_iter().map(|pointer| (base.clone(), pointer)));
    }
    for (base, pointer) in &all {
        for value in &strange {
            let mut row = base.clone();
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
