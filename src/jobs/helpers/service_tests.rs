//! What a script gets for what it asks, over its socket and by its messages.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;

/// Variables, output and condition in memory.
#[derive(Default)]
struct Memory {
    variables: Mutex<BTreeMap<String, String>>,
    result: Mutex<ScriptResult>,
    redactor: Redactor,
    kept: Mutex<Vec<Secret>>,
}

#[derive(Clone, Default)]
struct Own(Arc<Memory>);

impl Variables for Own {
    fn get(&self, key: &str) -> Result<Option<String>, String> {
        if key == "away" {
            Err("the backend is away".into())
        } else {
            Ok(self.0.variables.lock().expect("a lock").get(key).cloned())
        }
    }

    fn set(&self, key: &str, value: &str) -> Result<(), String> {
        self.0.variables.lock().expect("a lock").insert(key.to_owned(), value.to_owned());
        Ok(())
    }
}

impl ResultStore for Own {
    fn change(&self, change: &dyn Fn(&mut ScriptResult)) -> Result<(), String> {
        change(&mut self.0.result.lock().expect("a lock"));
        Ok(())
    }

    fn result(&self) -> ScriptResult {
        self.0.result.lock().expect("a lock").clone()
    }
}

fn access(own: &Own) -> Access {
    let setup = Setup {
        execution: Id::parse("exec-1").expect("id"),
        event: r#"{"id":12,"name":"back \"up\"","server":null}"#.to_owned(),
        input: Box::new(|| Ok(r#"{"a": [1]}"#.to_owned())),
        variables: Box::new(own.clone()),
        results: Arc::new(own.clone()),
        redaction: Redaction {
            redactor: own.0.redactor.clone(),
            variables: vec!["*TOKEN*".to_owned()],
            keep: {
                let own = own.clone();
                Box::new(move |redactor| {
                    own.0.kept.lock().expect("a lock").clone_from(&redactor.values());
                    Ok(())
                })
            },
        },
        max_output: 100,
        token: Secret::new("t0k3n"),
    };
    Access { service: Service::new(setup, &Pool::new("t-helper", 4)), folder: Err("none".to_owned()) }
}

fn ask(access: &Access, message: &str) -> String {
    let (send, answer) = channel();
    HelperApi::take(access, message.as_bytes().to_vec(), Box::new(move |bytes| send.send(bytes).expect("the test")));
    let bytes = answer.recv_timeout(Duration::from_secs(20)).expect("an answer");
    String::from_utf8(bytes).expect("text")
}

#[test]
fn each_wish_has_its_answer() {
    let own = Own::default();
    let access = access(&own);
    for (message, want) in [
        ("GET input", "200\n{\"success\":true,\"data\":{\"a\": [1]}}"),
        ("GET input?raw", "200\n{\"a\": [1]}"),
        ("GET event/name?raw", "200\nback \"up\""),
        ("GET event/server?raw", "200\n"),
        ("GET event/none?raw", "404\nan event has no \"none\""),
        ("GET condition?raw", "200\nfalse"),
        ("POST condition?raw\n1", "200\n"),
        ("GET condition", "200\n{\"success\":true,\"data\":{\"condition\":true}}"),
        ("GET variables/k?raw", "404\nthere is no variable \"k\""),
        ("PUT variables/k?raw\n[1, 2]", "200\n"),
        ("GET variables/k?raw", "200\n[1, 2]"),
        ("GET variables/k", "200\n{\"success\":true,\"data\":{\"key\":\"k\",\"value\":[1, 2]}}"),
        ("GET variables/away?raw", "502\nthe backend is away"),
        ("POST output\n{\"data\":{\"x\":1}}", "200\n{\"success\":true,\"data\":null}"),
    ] {
        assert_eq!(ask(&access, message), want, "{message}");
    }
    assert_eq!(own.result(), ScriptResult { output: Some("{\"x\":1}".to_owned()), condition: Some(true) });
}

#[test]
fn the_largest_output_and_value_are_taken_and_one_byte_more_is_not() {
    let own = Own::default();
    let access = access(&own);
    let text = |length: usize| "x".repeat(length);
    for (length, want) in
        [(98, "200\n"), (99, "413\nthe output has 101 bytes, at most 100 are taken (jobs.maxScriptOutput)")]
    {
        assert_eq!(ask(&access, &format!("POST output?raw\n{}", text(length))), want);
    }
    assert_eq!(own.result().output.map(|json| json.len()), Some(100), "the one before stays");
    for (length, want) in
        [(100, "200\n"), (101, "413\nthe value has 101 bytes, at most 100 are taken (jobs.maxScriptOutput)")]
    {
        assert_eq!(ask(&access, &format!("PUT variables/k?raw\n{}", text(length))), want);
    }
}

#[test]
fn a_thousand_calls_a_minute_and_no_more() {
    let access = access(&Own::default());
    for n in 0..limits::HELPER_CALLS_A_MINUTE {
        assert!(ask(&access, "GET event").starts_with("200\n"), "{n}");
    }
    assert_eq!(ask(&access, "GET event?raw"), "429\nmore than 1000 calls within a minute");
}

#[test]
fn over_http_the_token_opens_the_own_execution_and_nothing_else() {
    let access = access(&Own::default());
    let read = |token: Option<&str>, target: &str| {
        let authorization = token.map(Secret::new);
        let call = Call { method: "GET".to_owned(), target: target.to_owned(), authorization, body: Vec::new() };
        access.service.read(&call).map_err(|answer| (answer.status, answer.body))
    };
    let right = Some("Bearer t0k3n");
    let request = read(right, "/executions/exec-1/variables/a%2Fb?raw").expect("a request");
    assert_eq!(request, Request { action: Action::GetVariable("a/b".to_owned()), raw: true });
    for (token, target, status, words) in [
        (None, "/executions/exec-1/input", 401, "CRONIUM_EXECUTION_TOKEN"),
        (Some("t0k3n"), "/executions/exec-1/input", 403, "not this execution's"),
        (Some("Bearer t0k3n2"), "/executions/exec-1/input", 403, "Forbidden"),
        (right, "/executions/exec-2/input", 403, "another execution's"),
        (right, "/executions/exec-1/../exec-2/input", 404, ""),
        (right, "/executions/exec-1/none", 404, ""),
        (right, "/tool-actions/execute", 501, "mails"),
        (right, "/", 404, "/executions/ID/input"),
    ] {
        let (found, body) = read(token, target).expect_err("refused");
        assert!(found == status && body.contains(words), "{target}: {found} {body}");
        assert!(body.starts_with("{\"error\":"), "{body}");
    }
}

#[test]
fn what_a_script_names_or_reads_is_a_secret_before_it_has_the_answer() {
    let own = Own::default();
    let access = access(&own);
    own.set("API_TOKEN", "variable-secret").expect("set");
    own.set("CITY", "variable-public").expect("set");
    for (message, want) in [
        (
            "POST redact\n{\"value\":\"named-secret\"}",
            "200\n{\"success\":true,\"data\":{\"redacted\":true,\"why\":null}}",
        ),
        ("POST redact?raw\nraw-secret", "200\n"),
        ("POST redact?raw\nabc", "200\nit has fewer than 6 bytes"),
        ("POST redact?raw\nproduction", "200\nit is a common word"),
        ("GET variables/API_TOKEN?raw", "200\nvariable-secret"),
        ("GET variables/CITY?raw", "200\nvariable-public"),
        (
            "POST output\n{\"data\":{\"named-secret\":\"a raw-secret, variable-public\"}}",
            "200\n{\"success\":true,\"data\":null}",
        ),
    ] {
        assert_eq!(ask(&access, message), want, "{message}");
    }
    let kept: Vec<Secret> = ["named-secret", "raw-secret", "variable-secret"].map(Secret::new).into();
    assert_eq!(*own.0.kept.lock().expect("a lock"), kept, "for the next agent");
    assert_eq!(own.result().output.as_deref(), Some("{\"[redacted]\":\"a [redacted], variable-public\"}"));
}
