//! Conventions that a machine can check. Each check is a function from a file to its faults, run twice: over the real
//! tree, where it must find nothing, and over one bad line, where it must find something.

#[path = "tidy/architecture.rs"]
mod architecture;
#[path = "tidy/operations.rs"]
mod operations;
#[path = "tidy/pages.rs"]
mod pages;
#[path = "tidy/plain.rs"]
mod plain;
#[path = "tidy/source.rs"]
mod source;

use std::os::unix::fs::PermissionsExt;

use crate::harness::binary;
use source::{Source, files, item, line, root, sources, words};

/// Each module with its layer and with those of the same layer that it may use. Lower layers are free to all.
const LAYERS: &[(&str, u8, &[&str])] = &[
    ("main", 4, &["main"]),
    ("commands", 4, &["agent", "cli"]),
    // The fuzzer's list of every reader.
    ("fuzz_tests", 4, &[]),
    ("agent", 4, &["cli"]),
    ("cli", 4, &[]),
    ("jobs", 3, &[]),
    ("proofs", 3, &[]),
    ("api", 2, &[]),
    ("docker", 2, &[]),
    ("executors", 2, &["docker"]),
    ("health", 2, &[]),
    ("logs", 2, &[]),
    ("config", 1, &["os"]),
    ("metrics", 1, &["os"]),
    ("os", 1, &[]),
    ("telemetry", 1, &["config", "os"]),
    ("job", 0, &["secret"]),
    ("limits", 0, &[]),
    ("policy", 0, &["limits"]),
    ("redact", 0, &["limits", "secret", "wire"]),
    ("secret", 0, &[]),
    ("signing", 0, &["job", "limits", "secret", "wire"]),
    ("verdict", 0, &["job"]),
    ("wire", 0, &["job", "limits", "secret"]),
];

/// Each outside crate with the modules that may name it.
const HOMES: &[(&str, &[&str])] = &[
    ("base64", &["docker", "executors", "jobs", "redact", "signing", "wire"]),
    ("crossbeam_channel", &["agent", "executors", "jobs", "os"]),
    ("lexopt", &["cli"]),
    ("libc", &["os"]),
    ("ring", &["executors", "jobs", "signing"]),
    ("rustls", &["api", "docker", "executors", "logs"]),
    ("serde_yaml", &["config"]),
    ("simplelog", &["telemetry"]),
    ("ssh2", &["executors"]),
    ("tiny_http", &["health"]),
    ("tungstenite", &["logs"]),
    ("ureq", &["api", "executors"]),
    ("webpki_roots", &["api", "logs"]),
];

/// Who may see what a [`Secret`](cronium_agent::secret::Secret) holds, and what for.
const EXPOSERS: &[&str] = &[
    "jobs/receipt_key.rs",       // writes the private key that it made
    "api/answer.rs",             // takes the token out of a backend's error text
    "api/client.rs",             // is the token usable in a header?
    "api/transport.rs",          // the Authorization header
    "config/token.rs",           // is the token usable in a header?
    "os/way.rs",                 // asks a proxy for a tunnel
    "wire/proxy.rs",             // the header of a proxy's login
    "docker/images.rs",          // the header of a registry's login
    "executors/http/request.rs", // address, headers and body of a request
    "executors/ssh/keys.rs",     // which kind of key is it?
    "executors/ssh/dial.rs",     // key, passphrase and password of a server's login
    "executors/interpreter.rs",
    "executors/shell.rs",    // the same, for containers and servers
    "jobs/record/logins.rs", // a server's login and a job's secrets for the next agent, sealed; the token, from which the key is made
    "redact/mod.rs",         // the values that are taken out of all that leaves
    "redact/needles.rs",     // their spellings
    "logs/dial.rs",          // the upgrade's Authorization header
    "cli/sign.rs",           // writes the private key that it made
    "signing/canonical.rs",  // variables and requests are covered by a signature
    "signing/sign.rs",       // the private key that signs
    "logs/streamer.rs",      // is the token usable in a header?
];

/// Functions that may be longer than [`FUNCTION_MAX`]; tests, which are tables, are not counted.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];
const FUNCTION_MAX: usize = 80;

/// Files whose product is within [`FILE_MAX`] but whose tests, a table of odd rows, are not.
const LONG_FILES: &[&str] = &[];
const FILE_MAX: usize = 500;

/// What layer 0 must not touch: the disk, the network, threads, processes, the environment, the clock.
const IMPURE: &[&str] =
    &["std::fs", "std::net", "std::thread", "std::process", "std::env", "Instant::now", "SystemTime::now"];

type Check = fn(&Source) -> Vec<String>;

/// Faults at each place where one of `needles` stands in `code`.
fn each(code: &str, needles: &[&str], fault: &str) -> Vec<String> {
    let at = |needle| words(code, needle).map(move |at| format!("{}: {needle}: {fault}", line(code, at)));
    needles.iter().flat_map(|needle| at(*needle)).collect()
}

/// The modules that a file names after `crate::`, also within braces, with their offsets.
fn imports(code: &str) -> Vec<(usize, String)> {
    let name = |text: &str| text.trim().chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect::<String>();
    let mut found = Vec::new();
    for root in ["crate::", "cronium_agent::"] {
        for at in words(code, root) {
            let after = &code[at + root.len()..];
            if !after.starts_with('{') {
                found.push((at, name(after)));
                continue;
            }
            let mut inside = &after[1..item(after) - 1];
            while !inside.trim().is_empty() {
                found.push((at, name(inside)));
                inside = &inside[item(inside)..];
            }
        }
    }
    found
}

fn layers(source: &Source) -> Vec<String> {
    let of = |module: &str| LAYERS.iter().find(|(name, ..)| *name == module);
    if source.path == "lib.rs" {
        return Vec::new();
    }
    let Some((own, layer, siblings)) = of(source.module()) else {
        return vec![format!("1: module {} is in no layer", source.module())];
    };
    let allowed = |used: &str| match of(used) {
        Some((name, other, _)) => name == own || other < layer || siblings.contains(name),
        None => false,
    };
    let mut faults: Vec<String> = imports(&source.code)
        .into_iter()
        .filter(|(_, used)| !allowed(used))
        .map(|(at, used)| format!("{}: {own} (layer {layer}) may not use {used}", line(&source.code, at)))
        .collect();
    if *layer == 0 {
        faults.extend(each(&source.product, IMPURE, "layer 0 does no I/O, starts no thread, reads no clock"));
    }
    faults
}

fn homes(source: &Source) -> Vec<String> {
    let away = HOMES.iter().filter(|(_, homes)| !homes.contains(&source.module()));
    away.flat_map(|(name, homes)| {
        // A module of the same name in another crate (`rustls::crypto::ring`) is not meant.
        let is_crate =
            |at: &usize| source.code[at + name.len()..].starts_with("::") && !source.code[..*at].ends_with("::");
        let used = words(&source.code, name).filter(is_crate);
        used.map(move |at| format!("{}: {name} is for {homes:?} alone", line(&source.code, at)))
    })
    .collect()
}

fn unsafety(source: &Source) -> Vec<String> {
    if source.module() != "os" {
        return each(&source.code, &["unsafe"], "only src/os has unsafe code");
    }
    let lines: Vec<&str> = source.raw.lines().collect();
    // The comment stands above the statement, which may have begun a few lines before.
    let told = |at: &usize| lines[at.saturating_sub(6)..*at].iter().any(|text| text.contains("// SAFETY:"));
    let places = words(&source.code, "unsafe").map(|at| line(&source.code, at));
    places.filter(|at| !told(at)).map(|at| format!("{at}: unsafe without a SAFETY comment")).collect()
}

fn threads(source: &Source) -> Vec<String> {
    if source.path == "os/threads.rs" {
        return Vec::new();
    }
    each(&source.product, &["thread::spawn", "thread::Builder", "thread::scope"], "use os::threads::spawn")
}

/// What connects or looks a name up, with the file that may.
const CONNECTS: &[(&str, &str)] = &[
    ("TcpStream::connect", "os/net.rs"),
    ("connect_timeout", "os/net.rs"),
    ("UnixStream::connect", "os/net.rs"),
    ("UnixStream::connect_addr", "os/net.rs"),
    ("libc::connect", "os/net.rs"),
    ("to_socket_addrs", "os/names.rs"),
    ("ToSocketAddrs", "os/names.rs"),
    ("getaddrinfo", "os/names.rs"),
    // ureq's own; api/dial.rs and executors/http/dial.rs have others in their place.
    ("new_agent", "nobody"),
    ("new_with_config", "nobody"),
    ("new_with_defaults", "nobody"),
    ("DefaultConnector", "nobody"),
    ("DefaultResolver", "nobody"),
    ("TcpConnector", "nobody"),
];

fn connects(source: &Source) -> Vec<String> {
    let away = CONNECTS.iter().filter(|(_, home)| *home != source.path);
    away.flat_map(|(needle, _)| each(&source.product, &[needle], "use os::net, or os::names for a name")).collect()
}

fn leftovers(source: &Source) -> Vec<String> {
    let code = if source.module() == "cli" { "" } else { &source.code };
    let mut faults = each(code, &["println!", "eprintln!", "print!", "eprint!"], "only the command line prints");
    faults.extend(each(&source.code, &["dbg!", "todo!", "unimplemented!", "#[ignore]"], "unfinished"));
    faults.extend(each(&source.code, &["process::exit"], "skips every destructor: return an exit code"));
    if source.path != "os/scratch.rs" {
        faults.extend(each(&source.code, &["env::temp_dir"], "os::scratch::Scratch goes also when a test panics"));
    }
    faults
}

fn openings(source: &Source) -> Vec<String> {
    let opens = source.raw.starts_with("//!");
    if opens { Vec::new() } else { vec!["1: a file opens with //! and why it exists".to_owned()] }
}

/// What the simulation of the core must have in its hand.
const TIMED: &[&str] =
    &["Instant::now", "SystemTime::now", "wait_timeout", "recv_timeout", "send_timeout", ".elapsed()"];

fn clocks(source: &Source) -> Vec<String> {
    let simulated = matches!(source.module(), "jobs" | "api");
    if simulated { each(&source.product, TIMED, "the core's time comes from os::clock") } else { Vec::new() }
}

fn numbers(source: &Source) -> Vec<String> {
    // Defaults and ranges of keys stand in the schema, beside the key.
    if matches!(source.module(), "limits" | "config") {
        return Vec::new();
    }
    let code = &source.product;
    let literal = |at: &usize| {
        let Some((name, argument)) = code[at + "Duration::".len()..].split_once('(') else { return false };
        let number = argument.trim_start();
        (name.starts_with("from_") || name == "new")
            && number.starts_with(|c: char| c.is_ascii_digit())
            && !number.starts_with("0)")
    };
    let places = words(code, "Duration::").filter(literal);
    places.map(|at| format!("{}: a number that belongs into limits.rs", line(code, at))).collect()
}

fn secrets(source: &Source) -> Vec<String> {
    let listed = EXPOSERS.contains(&source.path.as_str());
    if listed { Vec::new() } else { each(&source.product, &[".expose()"], "this file may not open a secret") }
}

fn lengths(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let counted = if LONG_FILES.contains(&source.path.as_str()) { source.product.trim_end() } else { &source.raw };
    let count = counted.lines().count();
    if count > FILE_MAX {
        faults.push(format!("1: {count} lines, more than {FILE_MAX}"));
    }
    for at in words(&source.product, "fn") {
        let rest = &source.product[at + 2..];
        let name: String = rest.trim_start().chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect();
        let count = rest[..item(rest)].lines().count();
        if count > FUNCTION_MAX && !LONG_FUNCTIONS.contains(&(source.path.as_str(), name.as_str())) {
            faults
                .push(format!("{}: fn {name} has {count} lines, more than {FUNCTION_MAX}", line(&source.product, at)));
        }
    }
    faults
}

/// Nothing in the tree; something in each bad example of (path, text).
fn check(check: Check, bad: &[(&str, &str)]) {
    for (path, text) in bad {
        assert!(!check(&Source::new(path, text)).is_empty(), "the check is blind to {path}: {text}");
    }
    let all = sources();
    let faults = all.iter().flat_map(|s| check(s).into_iter().map(move |fault| format!("src/{}:{fault}", s.path)));
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn imports_point_down() {
    check(
        layers,
        &[
            ("wire/a.rs", "use crate::os::stop;"),
            ("api/a.rs", "use crate::{limits, jobs::{poller, worker}};"),
            ("logs/a.rs", "fn a() { crate::api::b() }"),
            ("policy/a.rs", "fn a() { let now = Instant::now(); }"),
            ("new/a.rs", ""),
        ],
    );
}

#[test]
fn each_outside_crate_has_one_home() {
    check(homes, &[("jobs/a.rs", "use ureq::Agent;"), ("api/a.rs", "fn a() { libc::getpid() }")]);
    let free = Source::new("api/a.rs", "use rustls::crypto::ring::default_provider;");
    assert!(homes(&free).iter().all(|fault| !fault.contains("ring")), "a module of another crate");
}

#[test]
fn unsafe_code_is_in_os_and_explained() {
    check(unsafety, &[("api/a.rs", "fn a() { unsafe { b() } }"), ("os/a.rs", "fn a() { unsafe { b() } }")]);
}

#[test]
fn threads_come_from_one_helper() {
    check(threads, &[("api/a.rs", "fn a() { std::thread::spawn(b); }"), ("os/a.rs", "use std::thread::Builder;")]);
}

#[test]
fn connections_are_made_in_one_place() {
    check(
        connects,
        &[
            ("docker/a.rs", "fn a() { TcpStream::connect(b) }"),
            ("logs/a.rs", "fn a() { std::net::TcpStream::connect_timeout(b, c) }"),
            ("jobs/a.rs", "fn a() { UnixStream::connect(b) }"),
            ("cli/a.rs", "use std::net::ToSocketAddrs as _;"),
            ("os/net.rs", "fn a() { (b, c).to_socket_addrs() }"),
            ("api/a.rs", "fn a() { config.new_agent() }"),
        ],
    );
}

#[test]
fn nothing_prints_exits_or_is_unfinished() {
    check(
        leftovers,
        &[
            ("api/a.rs", "println!(\"\")"),
            ("os/a.rs", "eprintln!()"),
            ("cli/a.rs", "todo!()"),
            ("cli/a.rs", "std::process::exit(1)"),
        ],
    );
}

#[test]
fn every_file_says_why_it_exists() {
    check(openings, &[("api/a.rs", "use std::fs;")]);
}

#[test]
fn waits_are_named_in_limits() {
    check(numbers, &[("api/a.rs", "fn a() { b(Duration::from_millis(5)) }"), ("os/a.rs", "Duration::new(\n 1, 0)")]);
    let free = "fn a() { Duration::from_secs(0) }\n#[cfg(test)]\nmod tests { fn b() { Duration::from_secs(1) } }";
    assert!(numbers(&Source::new("api/a.rs", free)).is_empty());
}

#[test]
fn the_core_takes_its_time_from_one_place() {
    check(clocks, &[("jobs/a.rs", "fn a() { Instant::now() }"), ("api/a.rs", "fn a() { begun.elapsed() }")]);
}

#[test]
fn few_files_open_a_secret() {
    check(secrets, &[("jobs/a.rs", "fn a(s: &Secret) { s.expose() }")]);
}

#[test]
fn files_and_functions_are_short() {
    let long = "//! x\n".repeat(FILE_MAX + 1);
    let function = format!("fn a() {{\n{}}}\n", "b();\n".repeat(FUNCTION_MAX));
    check(lengths, &[("api/a.rs", &long), ("api/a.rs", &function)]);
}

/// The names of a Cargo.toml's `[dependencies]`.
fn dependencies(manifest: &str) -> Vec<&str> {
    let section = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = section.take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|n| !n.is_empty() && !n.starts_with('#'))
        .collect()
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_dependency_is_defended() {
    let (manifest, page) = (text("Cargo.toml"), text("docs/decisions/dependencies.md"));
    let names = dependencies(&manifest);
    assert!(names.contains(&"ureq") && names.contains(&"libc"), "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/decisions/dependencies.md does not say what these are for: {missing:?}");
}

#[test]
fn no_async_runtime_comes_in() {
    let lock = text("Cargo.lock");
    let has = |name: &str| lock.lines().any(|line| line == format!("name = \"{name}\""));
    assert!(has("ureq"));
    for name in ["tokio", "async-std", "smol", "async-executor", "async-io", "futures-executor", "hyper"] {
        assert!(!has(name), "{name} is in Cargo.lock");
    }
}

#[test]
fn nothing_lies_about_at_the_top() {
    let ignored = text(".gitignore");
    let ignored: Vec<&str> = ignored.lines().map(|line| line.trim_matches('/')).chain([".git"]).collect();
    let names = std::fs::read_dir(root()).expect("the root can be listed");
    let names: Vec<String> = names.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let known = [
        ".ci",
        ".dockerignore",
        ".gitignore",
        "ARCHITECTURE.md",
        "BENCHMARKS.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "SECURITY.md",
        "build.rs",
        "configs",
        "deny.toml",
        "docs",
        "fuzz",
        "runtime-images",
        "rustfmt.toml",
        "scripts",
        "src",
        "tests",
    ];
    let stray = names.iter().filter(|name| !known.contains(&name.as_str()) && !ignored.contains(&name.as_str()));
    assert_eq!(
        stray.collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "a new file at the top is named here, or goes elsewhere"
    );
}

#[test]
fn a_reader_finds_the_pages() {
    for page in ["README.md", "CHANGELOG.md", "ARCHITECTURE.md", "SECURITY.md", "docs/guarantees.md", "LICENSE"] {
        assert!(text(page).len() > 40, "{page} says too little");
    }
}

#[test]
fn scripts_can_be_started() {
    let mut seen = 0;
    for path in ["scripts", "runtime-images", ".ci"].iter().flat_map(|folder| files(&root().join(folder))) {
        let starts = std::fs::read(&path).expect("a file").starts_with(b"#!");
        let runs = std::fs::metadata(&path).expect("a file").permissions().mode() & 0o111 != 0;
        assert_eq!(starts, runs, "{}: executable, and #! in its first line, or neither", path.display());
        seen += usize::from(starts);
    }
    assert!(seen >= 3, "only {seen} scripts");
}

#[test]
fn every_configuration_that_is_shipped_is_valid() {
    let mut seen = 0;
    for path in files(&root().join("configs")) {
        // Others are for systemd, Prometheus and so on; tests of their own look at those.
        let is_picture = path.extension().is_some_and(|extension| extension == "png");
        if is_picture || !std::fs::read_to_string(&path).expect("text").lines().any(|line| line.starts_with("api:")) {
            continue;
        }
        let output = binary()
            .arg("validate")
            .arg("--config")
            .arg(&path)
            .env("CRONIUM_SERVICE_TOKEN", "x")
            .env("CRONIUM_API_TOKEN", "x")
            .env("CRONIUM_API_ENDPOINT", "http://127.0.0.1:5001")
            .output()
            .expect("the binary");
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        seen += 1;
    }
    assert!(seen >= 2, "only {seen} configurations");
}
