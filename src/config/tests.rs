//! The table walked key by key, and what a person can get wrong.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::field::{Effect, Key, Kind, Value};
use super::keys::{key, keys};
use super::show::{effective, to_yaml};
use super::types::Config;
use super::yaml::{self, Node};
use super::{Loaded, Origin, Problems, Sources, load};
use crate::limits;

/// A file that ends with the test.
struct Scratch(PathBuf, #[allow(dead_code)] crate::os::scratch::Scratch);

impl Scratch {
    fn new(content: &[u8]) -> Self {
        let folder = crate::os::scratch::Scratch::new();
        let path = folder.join("config");
        std::fs::write(&path, content).expect("write a scratch file");
        Self(path, folder)
    }
}

fn run(text: Option<&[u8]>, env: &[(&str, &str)], need_backend: bool) -> Result<Loaded, Problems> {
    let file = text.map(Scratch::new);
    let env: BTreeMap<&str, &str> = env.iter().copied().collect();
    let lookup = |name: &str| env.get(name).map(|value| (*value).to_owned());
    let path = file.as_ref().map(|file| file.0.clone());
    load(&Sources { path, search: Vec::new(), need_backend, ..Sources::new(&lookup) })
}

/// What is in effect, by path.
fn values_of(config: &Config) -> Vec<(&'static str, Value)> {
    effective(config).into_iter().map(|(key, value)| (key.path, value)).collect()
}

fn values(loaded: &Loaded) -> Vec<(&'static str, Value)> {
    values_of(&loaded.config)
}

fn file(text: &str) -> Result<Loaded, Problems> {
    run(Some(text.as_bytes()), &[], false)
}

/// A value that is not the default, and what is shown of it.
fn sample(key: &Key, pem: &str) -> String {
    match (key.path, &key.kind) {
        ("api.endpoint", _) => "http://localhost:7/x".to_owned(),
        ("api.proxy", _) => "http://localhost:7".to_owned(),
        ("api.wsEndpoint", _) => "ws://localhost:7/y".to_owned(),
        ("container.docker.endpoint", _) => "tcp://127.0.0.1:7".to_owned(),
        ("container.docker.version", _) => "1.43".to_owned(),
        ("container.security.user", _) => "7:8".to_owned(),
        ("container.network.dns", _) => "9.9.9.9".to_owned(),
        ("container.security.dropCapabilities", _) => "NET_RAW".to_owned(),
        ("monitoring.bindAddress", _) => "0.0.0.0".to_owned(),
        ("container.security.seccompProfile" | "container.registryAuthFile" | "http.caFile", _) => pem.to_owned(),
        ("security.signatures.keys" | "security.allowedScripts", _) => pem.to_owned(),
        ("container.images.prune.high" | "container.images.prune.low", _) => "80%".to_owned(),
        ("jobs.types", _) => "TOOL_ACTION".to_owned(),
        ("http.allow", _) => "10.0.0.0/8".to_owned(),
        (path, Kind::Path) if path.starts_with("security.tls.") => pem.to_owned(),
        ("logging.file.path" | "state.dir" | "ssh.security.knownHostsFile", _) => "/x/y".to_owned(),
        ("jobs.maxPollInterval", _) => "17s".to_owned(),
        ("jobs.maxTimeout", _) => "25h".to_owned(),
        ("api.retry.maxDelay", _) => "40s".to_owned(),
        ("jobs.proofMaxAge", _) => "26h".to_owned(),
        ("jobs.stopAfterLost", _) => "2m".to_owned(), // Twice the default of jobs.leaseRenewal, and more.
        ("ssh.jumps", _) => format!("{{b: {{host: a, port: 7, user: u, keyFile: {pem}}}}}"),
        (_, Kind::Table { .. }) => "[{host: a, port: 7}]".to_owned(),
        (_, Kind::Bool) => (key.default != "true").to_string(),
        (_, Kind::Time { .. }) => if key.default.ends_with("ms") { "107ms" } else { "3s" }.to_owned(),
        (path, Kind::Size { .. }) if path.contains(".limits.") => "11GB".to_owned(),
        (_, Kind::Size { .. }) => "7MB".to_owned(),
        (_, Kind::Number { .. }) => if key.default == "2" { "3.5" } else { "0.25" }.to_owned(),
        (_, Kind::Words(words)) => words.iter().find(|word| **word != key.default).expect("another word").to_string(),
        (path, Kind::List { .. }) if path.starts_with("ssh.") => "aes256-ctr".to_owned(),
        (path, Kind::Text { .. }) if path.starts_with("ssh.") => "/x/y".to_owned(),
        (path, Kind::Int { .. }) if path.ends_with("limits.pids") => "1001".to_owned(),
        (_, Kind::Int { .. }) => "7".to_owned(),
        _ => "sample".to_owned(),
    }
}

fn nested(path: &str, value: &str) -> String {
    let names: Vec<&str> = path.split('.').collect();
    let mut out = String::new();
    for (depth, name) in names.iter().enumerate() {
        out.push_str(&format!("{}{name}:\n", "  ".repeat(depth)));
    }
    format!("{} {value}\n", out.trim_end())
}

#[test]
fn every_key_reaches_its_field_from_file_environment_and_default() {
    // One file that passes for JSON, for a profile and for PEM.
    let both = Scratch::new(
        b"{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"a\":\"-----BEGIN CERTIFICATE----- -----BEGIN PRIVATE KEY-----\"}",
    );
    let pem = both.0.display().to_string();
    let keys_of = Scratch::new(format!("a ed25519 {}=", "A".repeat(43)).as_bytes());
    let trusted = keys_of.0.display().to_string();
    let list = Scratch::new(format!("{}  x.sh", "0".repeat(64)).as_bytes());
    let mut walked = 0;
    // It needs names with digests beside it: `config::images` has its test.
    for key in keys().filter(|key| key.field.is_some() && key.path != "container.images.requireDigest") {
        let value = match key.path {
            "security.signatures.keys" => trusted.clone(),
            "security.allowedScripts" => list.0.display().to_string(),
            _ => sample(key, &pem),
        };
        // What the key needs beside it, the same without the key.
        let mut beside = Vec::new();
        if key.path.starts_with("logging.file.") {
            beside.push(("CRONIUM_LOGGING_OUTPUT", "file"));
        }
        if key.path.starts_with("http.") && key.path != "http.enabled" {
            beside.push(("CRONIUM_HTTP_ENABLED", "true"));
        }
        if key.path == "security.signatures.mode" {
            beside.push(("CRONIUM_SECURITY_SIGNATURES_KEYS", trusted.as_str()));
        }
        let tls = [("certFile", "CRONIUM_SECURITY_TLS_KEY_FILE"), ("keyFile", "CRONIUM_SECURITY_TLS_CERT_FILE")];
        let other = tls.iter().find(|(name, _)| key.path.strip_prefix("security.tls.") == Some(name));
        beside.extend(other.map(|(_, other)| (*other, pem.as_str())));
        let number = key.kind.takes_number() || key.kind.takes_bool();
        let yaml = nested(key.path, &if number { value.clone() } else { format!("'{value}'") });
        let by_file = run(Some(yaml.as_bytes()), &beside, false).unwrap_or_else(|e| panic!("{}: {e}", key.path));
        let name = key.env_name();
        let mut env = beside.clone();
        env.push((name.as_str(), value.as_str()));
        let by_env = run(None, &env, false).unwrap_or_else(|e| panic!("{}: {e}", key.path));
        let shown = |loaded: &Loaded| key.get(&loaded.config);
        let expected = match shown(&by_file) {
            Value::Secret => "***".to_owned(),
            _ => value.clone(),
        };
        assert_eq!(key.words(&shown(&by_file)), expected, "{}", key.path);
        assert_eq!(shown(&by_env), shown(&by_file), "{}", key.path);
        assert!(matches!(by_file.origins[key.path], Origin::File { .. }), "{}", key.path);
        assert_eq!(by_env.origins[key.path], Origin::Env(name.clone()), "{}", key.path);
        // An empty variable is the default, and the sample is not.
        let env = [&beside[..], &[(name.as_str(), "")]].concat();
        // A certificate without its key is another problem.
        if beside.iter().all(|(name, _)| !name.starts_with("CRONIUM_SECURITY_TLS_")) {
            let empty = run(None, &env, false).expect("an empty value is the default");
            if !(key.path.starts_with("security.tls.") && key.path != "security.tls.enabled") {
                assert_ne!(shown(&empty), shown(&by_file), "{}", key.path);
            }
        }
        walked += 1;
    }
    assert!(walked > 90, "{walked}");
}

/// No two rows of the table name the same field, no default is refused, and the same parts of a row agree.
#[test]
fn every_key_has_a_field_of_its_own_and_a_default_that_it_takes() {
    let mut empty = super::keys::empty();
    let defaults = super::defaults();
    for key in keys().filter(|key| key.has_meaning()) {
        let given = super::field::Given::Text(key.default.to_owned());
        key.put(&mut empty, &given).unwrap_or_else(|allowed| panic!("{}: {allowed}", key.path));
        assert_eq!(key.get(&empty), key.get(&defaults), "{}", key.path);
        let Some(field) = key.field else { continue };
        let mut changed = defaults.clone();
        let sample = sample(key, "/x/y");
        super::set(&mut changed, key.path, &sample).unwrap_or_else(|allowed| panic!("{}: {allowed}", key.path));
        assert!(!(field.same)(&changed, &defaults), "{}: {sample} is the default", key.path);
        for other in keys().filter(|other| other.path != key.path) {
            let same = other.field.is_none_or(|field| (field.same)(&changed, &defaults));
            assert!(same, "{} and {} share a field", key.path, other.path);
        }
        let mut copied = defaults.clone();
        (field.copy)(&mut copied, &changed);
        assert!((field.same)(&copied, &changed), "{}", key.path);
        if let Some((path, value)) = key.when {
            super::set(&mut copied, path, value).unwrap_or_else(|allowed| panic!("{path} is {value}: {allowed}"));
        }
    }
}

#[test]
fn what_older_files_have_stays_harmless() {
    for key in keys().filter(|key| !key.has_meaning()) {
        assert!(key.field.is_none() && key.default.is_empty() && key.effect == Effect::Restart, "{}", key.path);
        let loaded = file(&nested(&key.path.replace('*', "x"), "false")).expect(key.path);
        assert_eq!(loaded.warnings.len(), 1, "{}: {:?}", key.path, loaded.warnings);
    }
}

#[test]
fn each_wall_that_is_opened_is_warned_of_once() {
    for (key, value, words) in [
        ("container.network.mode", "bridge", "jobs share a network"),
        ("container.network.mode", "mine", "jobs share a network"),
        ("container.network.enableICC", "true", "reach each other"),
        ("container.security.noNewPrivileges", "false", "setuid"),
        ("container.security.dropCapabilities", "[NET_RAW]", "keeps capabilities"),
        ("container.security.readOnlyRootfs", "false", "write into the container's root"),
        ("container.security.seccompProfile", "engine", "older engines"),
        ("redact.environment", "\"off\"", "print of their variables"),
    ] {
        let warnings = file(&nested(key, value)).expect(key).warnings;
        let [only] = &warnings[..] else { panic!("{key}: {warnings:?}") };
        assert!(only.key == key && only.text.contains(words), "{key}: {only:?}");
    }
    for (key, value) in [("container.network.mode", "none"), ("container.security.seccompProfile", "default")] {
        assert_eq!(file(&nested(key, value)).expect(key).warnings, Vec::new(), "{key}: {value}");
    }
}

#[test]
fn a_profile_that_is_none_is_refused_with_its_reason() {
    for (text, words) in [
        ("", "it is not JSON (line 1"),
        ("{\n\"a\": }", "it is not JSON (line 2"),
        ("[]", "not an object"),
        ("{}", "defaultAction"),
        ("{\"defaultAction\":\"allow\"}", "defaultAction"),
        ("{\"defaultAction\":7}", "defaultAction"),
    ] {
        let profile = Scratch::new(text.as_bytes());
        let path = profile.0.display().to_string();
        let problems = file(&nested("container.security.seccompProfile", &path)).expect_err(text).to_string();
        assert!(problems.contains(words) && problems.contains(&path), "{text}: {problems}");
    }
}

#[test]
fn the_example_holds_every_key_and_only_defaults() {
    let text = include_str!("../../configs/cronium-orchestrator.yaml");
    let example = file(text).expect("the example is valid");
    assert_eq!(values(&example), values_of(&super::defaults()));
    assert_eq!(example.warnings, Vec::new());
    // Without the marks, the commented keys stand where they belong.
    let is_key = |line: &str| line.split_whitespace().next().is_some_and(|word| word.ends_with(':'));
    let bare = |line: &str| match line.trim_start().strip_prefix("# ") {
        Some(after) if is_key(after) => line.replacen("# ", "", 1) + "\n",
        _ => line.to_owned() + "\n",
    };
    let bare: String = text.lines().map(bare).collect();
    let tree = yaml::parse(&bare).expect("it is valid without the marks too");
    for key in keys().filter(|key| key.has_meaning()) {
        let path = key.path;
        let found = path.split('.').try_fold(&tree, |node, name| match node {
            Node::Map(entries) => entries.iter().find(|entry| entry.name == name).map(|entry| &entry.value),
            _ => None,
        });
        assert!(found.is_some(), "{path} is not in the example");
    }
}

#[test]
fn names_of_the_environment() {
    let table = [
        ("jobs.maxConcurrent", "CRONIUM_JOBS_MAX_CONCURRENT"),
        ("container.network.enableICC", "CRONIUM_CONTAINER_NETWORK_ENABLE_ICC"),
        ("ssh.security.payloadSigningKeyFile", "CRONIUM_SSH_SECURITY_PAYLOAD_SIGNING_KEY_FILE"),
        ("container.resources.defaults.cpu", "CRONIUM_CONTAINER_RESOURCES_DEFAULTS_CPU"),
        ("api.wsEndpoint", "CRONIUM_API_WS_ENDPOINT"),
        ("container.security.dropCapabilities", "CRONIUM_CONTAINER_SECURITY_DROP_CAPABILITIES"),
    ];
    for (path, name) in table {
        assert_eq!(key(path).expect(path).env_name(), name);
    }
}

#[test]
fn all_problems_come_at_once_with_their_place() {
    let text = "api:\n  endpoint: http://u:hunter2@h\n  token: ${hunter2\njobs:\n  maxConcurent: 5\n  maxOutput: 1XB\n  pollBatchSize: [1]\n  maxTimeout: 1h\n  defaultTimeout: 2h\n  maxTimeout: 2h\nlogging: hunter2\n";
    let problems = run(Some(text.as_bytes()), &[], true).expect_err("all of it is wrong");
    let table = [
        ("api.endpoint", "credentials", 2),
        ("api.token", "has no `}`", 3),
        ("jobs.maxConcurent", "did you mean jobs.maxConcurrent?", 5),
        ("jobs.maxOutput", "allowed: a size", 6),
        ("jobs.pollBatchSize", "found a list", 7),
        ("jobs.maxTimeout", "given before", 10),
        ("logging", "found text; allowed: a section", 11),
    ];
    assert_eq!(problems.0.len(), table.len(), "{problems}");
    for (path, part, line) in table {
        let found = problems.0.iter().any(|problem| {
            let here = matches!(&problem.origin, Some(Origin::File { place: Some((l, _)), .. }) if *l == line);
            problem.key == path && problem.text.contains(part) && here
        });
        assert!(found, "{path} {part:?} {line} is not in\n{problems}");
    }
    assert!(!problems.to_string().contains("hunter2"), "{problems}");
}

#[test]
fn values_keep_the_rules() {
    let table = [
        ("jobs:\n  maxConcurrent: ${N:-7}\n", None),
        ("jobs:\n  stopAfterLost: 60s\n", None),
        ("jobs:\n  stopAfterLost: 59s\n", Some("twice jobs.leaseRenewal")),
        ("jobs:\n  stopAfterLost: 59s\n  leaseRenewal: 10s\n", None),
        ("container:\n  pullPolicy: never\n", None),
        ("container:\n  runtime:\n    isolateNetwork: true\n", None),
        ("container:\n  docker: {endpoint: \"tcp://h:2376\", tlsVerify: true}\n", Some("certPath is missing")),
        ("container:\n  docker:\n    version: 1.40\n", Some("in quotes")),
        ("container:\n  network:\n    mode: host\n", Some("never share")),
        (
            "container:\n  resources:\n    limits: {memory: 1GB}\n    defaults: {memory: 2GB}\n",
            Some("at most container.resources.limits.memory"),
        ),
        ("container:\n  resources:\n    limits: {memory: 256MB}\n", None),
        ("api:\n  token: a\n  tokenFile: /x\n", Some("keep one")),
        // Of a command that needs no token, which is not to be opened then.
        ("api:\n  tokenFile: /nowhere/x\n", None),
        ("security:\n  tls:\n    certFile: /nowhere\n", Some("needs both")),
        ("jobs.maxConcurrent: 5\n", Some("unknown key")),
        ("features:\n  other: true\n", None),
    ];
    for (text, part) in table {
        match (file(text), part) {
            (Ok(_), None) => {}
            (Err(problems), Some(part)) => assert!(problems.to_string().contains(part), "{text}{problems}"),
            (outcome, _) => panic!("{text}{outcome:?}"),
        }
    }
    for bytes in [&b"a: \xff"[..], b"a: \0", b"a: 1\n---\nb: 2\n", &vec![b'#'; 10 << 20][..]] {
        assert_eq!(run(Some(bytes), &[], false).expect_err("hostile").0.len(), 1);
    }
}

/// A folder of credentials that ends with the test.
struct Credentials(PathBuf, #[allow(dead_code)] crate::os::scratch::Scratch);

impl Credentials {
    fn new(name: &str) -> Self {
        let folder = crate::os::scratch::Scratch::new();
        let path = folder.join(name);
        std::fs::create_dir(&path).expect("a folder");
        Self(path, folder)
    }
}

#[test]
fn a_token_that_cannot_be_had_is_told_with_its_file_and_the_reason() {
    let [empty, folder, circle] = ["empty", "folder", "circle"].map(Credentials::new);
    std::fs::create_dir(folder.0.join("api-token")).expect("a folder");
    // A file that cannot be looked at, also by root.
    std::os::unix::fs::symlink("api-token", circle.0.join("api-token")).expect("a link");
    let token = |dir: &Credentials| dir.0.join("api-token").display().to_string();
    for (variable, value, key, parts) in [
        ("CREDENTIALS_DIRECTORY", &empty, "api.token", ["LoadCredential", "api.tokenFile"]),
        ("CREDENTIALS_DIRECTORY", &folder, "api.tokenFile", ["regular file", "as its unit"]),
        ("CREDENTIALS_DIRECTORY", &circle, "api.tokenFile", ["symbolic", "as its unit"]),
        ("CRONIUM_API_TOKEN_FILE", &circle, "api.tokenFile", ["symbolic", "agent's user"]),
        ("CRONIUM_API_TOKEN_FILE", &empty, "api.tokenFile", ["no such file", "agent's user"]),
    ] {
        let file = if variable.ends_with("FILE") { token(value) } else { value.0.display().to_string() };
        let env = [(variable, file.as_str()), ("CRONIUM_API_ENDPOINT", "http://localhost:1")];
        let problems = run(None, &env, true).expect_err(variable);
        let [problem] = &problems.0[..] else { panic!("{problems}") };
        assert_eq!(problem.key, key, "{problems}");
        for part in [value.0.to_str().expect("text"), parts[0], parts[1]] {
            assert!(problem.text.contains(part), "{part} is not in {problems}");
        }
        let without = run(None, &env, false).unwrap_or_else(|e| panic!("a command that calls no backend: {e}"));
        assert!(without.config.api.token.is_empty());
    }
}

#[test]
fn a_list_is_bounded_wherever_it_comes_from() {
    let list = |n: usize| vec!["x"; n].join(",");
    let (most, more) = (list(limits::CONFIG_LIST_MAX), list(limits::CONFIG_LIST_MAX + 1));
    for (text, fits) in [(&most, true), (&more, false)] {
        let by_file = file(&format!("orchestrator: {{tags: [{text}]}}\n"));
        let by_env = run(None, &[("CRONIUM_ORCHESTRATOR_TAGS", text)], false);
        for loaded in [by_file, by_env] {
            match loaded {
                Ok(loaded) => assert!(fits && loaded.config.orchestrator.tags.len() == limits::CONFIG_LIST_MAX),
                Err(problems) => assert!(!fits && problems.to_string().contains("at most 256 entries"), "{problems}"),
            }
        }
    }
}

#[test]
fn problems_are_shown_up_to_a_number_and_the_rest_is_counted() {
    let text = |n: usize| (0..n).map(|i| format!("key{i}: 1\n")).collect::<String>();
    let told = |n: usize| file(&text(n)).expect_err("unknown keys").to_string();
    let most = limits::CONFIG_PROBLEMS_MAX;
    assert_eq!(told(most).lines().count(), most);
    let more = told(most + 7);
    assert_eq!((more.lines().count(), more.lines().last()), (most + 1, Some("and 7 more")));
}

#[test]
fn the_shown_configuration_reads_back_equal() {
    let text = "orchestrator: {name: 'a $$ b: #c', tags: [x, 'y z']}\njobs: {maxConcurrent: 7}\n";
    let loaded = file(text).expect("valid");
    let again = file(&to_yaml(&loaded, true)).expect("reads back");
    assert_eq!(values(&loaded), values(&again));
}

/// What a person may type as a path or a name, read, shown and read again.
#[test]
fn any_configuration_that_is_shown_reads_back_equal() {
    let mut random = crate::wire::random::Random::new(13);
    let parts = [
        "a", "/", "\u{7f}", "\u{1b}", "\u{85}", "\u{2028}", "$", "$$", "\"", "'", "\\", "\n", "\t", ": ", " #", "ü",
        "🦀", "-", ",",
    ]
    .map(str::as_bytes);
    let mut read = 0;
    for _ in 0..300 {
        let mut text = || String::from_utf8(random.text(&parts, 8)).expect("text");
        let (name, tag, dir, hosts) = (text(), text(), text(), text());
        let quoted =
            |text: &str| serde_json::Value::from(text.replace('$', "$$")).to_string().replace('\u{7f}', "\\x7f");
        let quoted = |text: &str| quoted(text).replace('\u{85}', "\\x85").replace('\u{2028}', "\\u2028");
        let given = format!(
            "api: {{endpoint: 'http://h', token: t}}\norchestrator: {{name: {}, tags: [{}]}}\nstate: {{dir: {}}}\n\
             ssh: {{security: {{knownHostsFile: {}}}}}\n",
            quoted(&name),
            quoted(&tag),
            quoted(&format!("/x{dir}")),
            quoted(&format!("/y{hosts}")),
        );
        let Ok(loaded) = file(&given) else { continue };
        read += 1;
        for explain in [false, true] {
            let shown = to_yaml(&loaded, explain);
            let again = file(&shown).unwrap_or_else(|problems| panic!("{given}\n{shown}\n{problems}"));
            let plain = |loaded: &Loaded| {
                values(loaded).into_iter().filter(|(_, value)| *value != Value::Secret).collect::<Vec<_>>()
            };
            assert_eq!(plain(&again), plain(&loaded), "{given}");
        }
    }
    assert!(read > 20, "{read}");
}

/// A file of another program, as large as may be, is refused soon.
#[test]
fn many_unknown_keys_cost_no_more_than_their_number() {
    let took = |keys: usize| {
        let text: String =
            std::iter::once("jobs:\n".to_owned()).chain((0..keys).map(|n| format!("  maxConcurren{n}: 1\n"))).collect();
        let once = || {
            let begun = std::time::Instant::now();
            let problems = file(&text).expect_err("unknown keys");
            assert_eq!(problems.0.len(), keys);
            // What was meant is looked for as often as it is shown.
            let (first, later) = (&problems.0[0].text, &problems.0[limits::CONFIG_PROBLEMS_MAX].text);
            assert!(first.contains("did you mean") && later == "unknown key", "{first} {later}");
            begun.elapsed()
        };
        // The best of a few, on a machine with other work.
        (0..4).map(|_| once()).min().unwrap_or_default().max(std::time::Duration::from_millis(20))
    };
    let (small, large) = (took(2_500), took(20_000));
    // Eight times as many: with the square it would be 64 times.
    assert!(large < small * 30, "{small:?} to {large:?}");
}

#[test]
fn an_agent_asks_for_the_types_that_it_can_do() {
    let types = |text: &str| file(text).map(|loaded| loaded.config.job_types().join(",")).expect(text);
    assert_eq!(types(""), "SCRIPT");
    assert_eq!(types("http: {enabled: true}"), "SCRIPT,HTTP_REQUEST");
    assert_eq!(types("http: {enabled: true}\njobs: {types: [script]}"), "SCRIPT");
    assert_eq!(types("jobs: {types: [TOOL_ACTION, SCRIPT]}"), "TOOL_ACTION,SCRIPT");
    let loaded = file("jobs: {types: [HTTP_REQUEST]}").expect("valid");
    assert!(
        loaded.warnings.iter().any(|warning| warning.text.contains("http.enabled is false")),
        "{:?}",
        loaded.warnings
    );
    let why = file("jobs: {types: [SCRIPTS]}").expect_err("no type").to_string();
    assert!(why.contains("did you mean SCRIPT?"), "{why}");
}

#[test]
fn what_opens_hosts_is_what_was_meant() {
    let allow =
        |text: &str| file(&format!("http: {{enabled: true, allow: {text}}}")).map(|loaded| loaded.config.http.allow);
    assert_eq!(allow("[]").expect("valid"), Vec::<String>::new(), "nothing is open");
    assert_eq!(allow("[\"*\", 10.1.0.0/16]").expect("valid"), ["*", "10.1.0.0/16"]);
    for (bad, word) in
        [("[10.1.0.1/16]", "does not begin"), ("[\"http://a\"]", "names such as"), ("[\"a:80\"]", "names such as")]
    {
        let why = allow(bad).expect_err(bad).to_string();
        assert!(why.contains(word), "{bad}: {why}");
    }
    let empty = Scratch::new(b"nothing");
    let text = format!("http: {{enabled: true, caFile: '{}'}}", empty.0.display());
    let why = file(&text).expect_err("no certificate").to_string();
    assert!(why.contains("http.caFile") && why.contains("holds no certificate"), "{why}");
}
