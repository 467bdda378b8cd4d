//! Files of the older orchestrator: accepted whole, made small, and the same afterwards.

use super::*;
use crate::config::show::effective;
use crate::os::scratch::Scratch;

/// A file of the older orchestrator with every key of its sample, values of our own.
const OLDER: &str = include_str!("../../tests/older-orchestrator.yaml");

fn made(text: &str, env: &[(&str, &str)]) -> Result<Migrated, Problems> {
    let folder = Scratch::new();
    let file = folder.join("old.yaml");
    std::fs::write(&file, text).expect("written");
    migrate(&file, &|name| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
}

/// What is in effect by the file alone.
fn loaded(text: &str, env: &[(&str, &str)]) -> Loaded {
    let folder = Scratch::new();
    let file = folder.join("new.yaml");
    std::fs::write(&file, text).expect("written");
    let lookup = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let sources = Sources { path: Some(file), need_backend: false, file_alone: true, ..Sources::new(&lookup) };
    load(&sources).unwrap_or_else(|problems| panic!("{text}{problems}"))
}

fn same(old: &str, new: &str, env: &[(&str, &str)]) {
    let values = |text: &str| {
        let loaded = loaded(text, env);
        let all = effective(&loaded.config).into_iter().map(|(key, value)| (key.path, value));
        all.filter(|(path, _)| *path != "api.token").collect::<Vec<_>>()
    };
    assert_eq!(values(old), values(new), "{new}");
}

#[test]
fn the_whole_file_of_the_older_orchestrator_becomes_a_small_one_that_means_the_same() {
    for env in [&[][..], &[("MAX_CONCURRENT", "9"), ("LOG_LEVEL", "debug"), ("CRONIUM_API_URL", "https://b.example")]] {
        let small = made(OLDER, env).unwrap_or_else(|problems| panic!("{problems}"));
        same(OLDER, &small.yaml, env);
        assert!(small.yaml.lines().count() <= 45, "{}", small.yaml);
        assert!(small.yaml.contains("token: \"${INTERNAL_API_KEY}\""), "{}", small.yaml);
        assert_eq!(small.yaml.contains("maxConcurrent: \"${MAX_CONCURRENT:-5}\""), !env.is_empty(), "{}", small.yaml);
        let unset = small.changes.iter().any(|change| change.contains("jobs.maxConcurrent (${MAX_CONCURRENT:-5})"));
        assert_eq!(unset, env.is_empty());
        // It is valid, and has no warning but for the walls that the old file opened, and for what it says itself.
        let again = loaded(&small.yaml, env);
        let told = |key: &str| small.changes.iter().any(|change| change.contains(&format!("{key}: ")));
        assert!(again.warnings.iter().all(|warning| told(&warning.key)), "{:?}", again.warnings);
        for key in ["container.network.mode", "container.security.readOnlyRootfs"] {
            assert!(again.warnings.iter().any(|warning| warning.key == key), "{key}: {:?}", again.warnings);
        }
        // Making it small again changes nothing.
        assert_eq!(made(&small.yaml, env).expect("valid").yaml, small.yaml);
    }
}

#[test]
fn each_key_without_a_meaning_is_one_line_and_no_value_is_an_error() {
    let small = made(OLDER, &[]).expect("accepted");
    for key in [
        "container.volumes.basePath",
        "container.runtime.image",
        "container.runtime.jwtSecret",
        "ssh.connectionPool.minPerServer",
        "ssh.execution.isolationMode",
        "ssh.execution.payloadRetentionPeriod",
        "ssh.security.hostKeyPolicy",
        "ssh.security.allowedMACs",
        "logging.file.enabled",
        "logging.websocket.compression",
        "monitoring.tracing.samplingRate",
        "security.authentication.tokenTTL",
        "features.advancedScheduling",
    ] {
        let told = small.dropped.iter().filter(|line| line.contains(&format!("{key}: "))).count();
        assert!(told == 1 || key.contains("tracing"), "{key}: {:?}", small.dropped);
    }
    for (text, part) in [
        ("jobs: {queueStrategy: lifo}\n", "lifo"),
        ("logging: {level: warning, output: stderr}\n", "stderr"),
        ("container: {network: {mode: bridge}, runtime: {isolateNetwork: true}}\n", "isolated is used"),
    ] {
        let small = made(text, &[]).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(small.changes.iter().any(|line| line.contains(part)), "{:?}", small.changes);
        same(text, &small.yaml, &[]);
    }
}

#[test]
fn no_secret_of_the_old_file_is_repeated() {
    for token in ["hunter2", "\"${TOKEN:-hunter2}\"", "\"a${X:-hunter2}\"", "hunter2$$"] {
        let text = format!(
            "api:\n  endpoint: http://localhost:5001\n  token: {token}\ncontainer:\n  runtime:\n    jwtSecret: hunter2\n"
        );
        let small = made(&text, &[]).unwrap_or_else(|problems| panic!("{problems}"));
        let all = format!("{}{:?}{:?}", small.yaml, small.dropped, small.changes);
        assert!(!all.contains("hunter2"), "{all}");
        let reference = token.starts_with("\"${");
        assert_eq!(small.yaml.contains("token: \"${TOKEN}\""), reference, "{}", small.yaml);
        assert_eq!(small.yaml.contains("tokenFile: /etc/cronium/api-token"), !reference, "{}", small.yaml);
        assert!(small.changes[0].contains(if reference { "$TOKEN" } else { TOKEN_FILE }), "{:?}", small.changes);
    }
}

#[test]
fn what_cannot_be_kept_safely_is_refused_with_its_line() {
    for (text, part) in [
        ("container: {network: {mode: host}}\n", "never share"),
        ("container: {docker: {endpoint: \"tcp://h:2376\", tlsVerify: true}}\n", "certPath is missing"),
        ("container: {security: {apparmorProfile: mine}}\n", "weaken security"),
        ("jobs: {maxConcurrent: 500}\n", "from 1 to 100"),
    ] {
        let problems = made(text, &[]).expect_err(text).to_string();
        assert!(problems.contains(part) && problems.contains("old.yaml:1:"), "{problems}");
    }
}
