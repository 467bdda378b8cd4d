//! Conventions that a machine can check, so that no review has to.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `src`: its path from there, and its text.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|end| end == "rs") {
                into.push(path);
            }
        }
    }
    let (base, mut paths) = (root().join("src"), Vec::new());
    walk(&base, &mut paths);
    paths.sort();
    let name = |path: &PathBuf| path.strip_prefix(&base).expect("below src").display().to_string();
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).expect("text"))).collect()
}

/// A file without its tests and without comments.
fn code(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    product.lines().filter(is_code).map(|line| format!("{line}\n")).collect()
}

fn is_test_file(name: &str) -> bool {
    name.ends_with("tests.rs") || name.ends_with("testing.rs") || name.ends_with("test_server.rs")
}

/// The product's code: no tests, no comments.
fn product() -> Vec<(String, String)> {
    sources().into_iter().filter(|(name, _)| !is_test_file(name)).map(|(name, text)| (name, code(&text))).collect()
}

/// The module at the top of a file's path: `jobs` for `jobs/poller.rs`.
fn module(name: &str) -> &str {
    name.split('/').next().unwrap_or(name).trim_end_matches(".rs")
}

fn layer(module: &str) -> Option<u32> {
    Some(match module {
        "job" | "limits" | "policy" | "secret" | "verdict" | "wire" => 0,
        "config" | "metrics" | "os" | "telemetry" => 1,
        "api" | "docker" | "executors" | "health" | "logs" => 2,
        "jobs" => 3,
        "agent" | "cli" | "main" | "lib" => 4,
        _ => return None,
    })
}

#[test]
fn imports_point_down_only() {
    // Within one layer: executors drive the engine; the command line's `validate` and the agent share exit codes.
    let level = [
        ("executors", "docker"),
        ("agent", "cli"),
        ("telemetry", "os"),
        ("metrics", "os"),
        ("telemetry", "config"),
        ("config", "os"),
        ("main", "agent"),
    ];
    let mut wrong = Vec::new();
    for (name, text) in product() {
        let from = module(&name);
        let own = layer(from).unwrap_or_else(|| panic!("{name}: give its module a layer"));
        for rest in text.split("crate::").skip(1) {
            let to: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let Some(other) = layer(&to).filter(|_| to != from) else { continue };
            let inside = own == 0 && other == 0 || own == 4;
            if other > own || (other == own && !inside && !level.contains(&(from, to.as_str()))) {
                wrong.push(format!("{name} (layer {own}) uses {to} (layer {other})"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_outside_crate_has_one_home() {
    let homes: [(&str, &[&str]); 9] = [
        ("ureq::", &["api"]),
        ("tungstenite::", &["logs"]),
        ("tiny_http::", &["health"]),
        ("serde_yaml::", &["config"]),
        ("lexopt::", &["cli"]),
        ("simplelog::", &["telemetry"]),
        ("rustls::", &["api", "logs"]),
        ("libc::", &["os"]),
        ("base64::", &["docker", "logs"]),
    ];
    for (name, text) in product() {
        for (word, allowed) in homes {
            let used = text.contains(&format!("use {word}")) || text.contains(&format!(" {word}"));
            assert!(!used || allowed.contains(&module(&name)), "{name} uses {word}, whose home is {allowed:?}");
        }
    }
}

#[test]
fn unsafe_code_is_in_one_module_and_every_block_says_why() {
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl") {
                assert_eq!(module(&name), "os", "{name}:{}", number + 1);
                let before: Vec<&str> = text.lines().take(number).collect();
                let near = &before[before.len().saturating_sub(6)..];
                assert!(near.iter().any(|line| line.contains("SAFETY:")), "{name}:{}: no SAFETY comment", number + 1);
            }
        }
    }
}

#[test]
fn threads_output_and_exits_have_their_places() {
    for (name, text) in product() {
        let nowhere = ["process::exit", "dbg!(", "todo!(", "unimplemented!(", "#[ignore]"];
        assert!(nowhere.iter().all(|word| !text.contains(word)), "{name} has one of {nowhere:?}");
        if name != "os/threads.rs" {
            assert!(
                !text.contains("thread::spawn(") && !text.contains("thread::Builder"),
                "{name} starts a thread itself"
            );
        }
        if module(&name) != "cli" {
            assert!(!text.contains("println!(") && !text.contains("eprintln!("), "{name} prints");
        }
    }
}

#[test]
fn files_open_with_their_reason_and_stay_readable() {
    for (name, text) in sources() {
        if !is_test_file(&name) {
            assert!(text.starts_with("//!"), "{name} does not say what it is for");
        }
        let lines = code(&text).lines().count();
        assert!(lines <= 500, "{name} has {lines} lines of code: a room that wants a wall");
    }
}

#[test]
fn numbers_that_bound_a_wait_stand_in_one_file() {
    // The configuration's own defaults and bounds are its business, and reading a time of day is no limit.
    let exempt = ["limits.rs", "config/", "wire/time.rs"];
    let mut found = Vec::new();
    for (name, text) in product() {
        if exempt.iter().any(|start| name.starts_with(start)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for part in line.split("Duration::from_").skip(1) {
                let argument = part.split_once('(').map_or("", |(_, rest)| rest);
                if argument.starts_with(|c: char| c.is_ascii_digit()) && !argument.starts_with("0)") {
                    found.push(format!("{name}, code line {}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn secrets_leave_in_few_places() {
    let places =
        ["api/", "config/checks.rs", "docker/images.rs", "executors/container/program.rs", "logs/", "secret.rs"];
    for (name, text) in product() {
        let exposed = text.contains(".expose()");
        assert!(!exposed || places.iter().any(|place| name.starts_with(place)), "{name} exposes a secret");
    }
}

#[test]
fn every_dependency_has_its_reason_and_none_is_an_async_runtime() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let (_, rest) = manifest.split_once("\n[dependencies]\n").expect("dependencies");
    let list = rest.split("\n[").next().expect("a section");
    let reasons = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for line in list.lines().filter(|line| !line.trim().is_empty()) {
        let name = line.split(['.', ' ', '=']).next().expect("a name");
        assert!(reasons.contains(&format!("`{name}`")), "ARCHITECTURE.md gives no reason for {name}");
    }
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    for runtime in ["tokio", "async-std", "smol", "async-executor", "futures-executor"] {
        assert!(!lock.contains(&format!("name = \"{runtime}\"\n")), "{runtime} is in the tree");
    }
}

#[test]
fn the_files_that_a_stranger_looks_for_are_there() {
    use std::os::unix::fs::PermissionsExt as _;
    for file in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE"] {
        assert!(std::fs::metadata(root().join(file)).is_ok_and(|found| found.len() > 40), "{file}");
    }
    for script in ["scripts/demo.sh", "scripts/test.sh", "scripts/build-images.sh", ".ci/run"] {
        let mode = std::fs::metadata(root().join(script)).expect(script).permissions().mode();
        assert!(mode & 0o111 != 0, "{script} is not executable");
    }
}

#[test]
fn the_example_configurations_are_valid() {
    for file in ["cronium-orchestrator.yaml", "minimal.yaml"] {
        let output = crate::harness::binary()
            .arg("validate")
            .arg("-c")
            .arg(root().join("configs").join(file))
            .env("CRONIUM_API_TOKEN", "x")
            .env("CRONIUM_API_ENDPOINT", "http://127.0.0.1:5001")
            .output()
            .expect("validate");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || said.contains("token"), "{file}: {said}");
    }
}
