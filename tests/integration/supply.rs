//! Where the program's parts come from: the bill of materials is whole, and the tree keeps to deny.toml.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

fn sbom(environment: &[(&str, &str)]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/sbom.sh");
    let mut command = Command::new(script);
    command.env_remove("SOURCE_DATE_EPOCH").envs(environment.iter().copied());
    let output = command.output().expect("sbom.sh; it needs python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Every package of Cargo.lock: name, version, source, checksum.
fn locked() -> Vec<[String; 4]> {
    let lock = text("Cargo.lock");
    let value = |entry: &str, key: &str| {
        let line = entry.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    let entries = lock.split("[[package]]").skip(1);
    entries.map(|entry| ["name", "version", "source", "checksum"].map(|key| value(entry, key))).collect()
}

/// The texts of a list in deny.toml.
fn list(name: &str) -> Vec<String> {
    let deny = text("deny.toml");
    let start = deny.find(&format!("\n{name} = [")).expect(name);
    let inside = deny[start..].split_once('[').and_then(|(_, rest)| rest.split_once(']')).expect("a list").0;
    inside.lines().filter_map(|line| Some(line.split('"').nth(1)?.to_owned())).collect()
}

#[test]
fn the_bill_of_materials_has_every_locked_package() {
    let first = sbom(&[]);
    assert_eq!(sbom(&[]), first, "not the same twice");
    let bill: Value = serde_json::from_str(&first).expect("JSON");
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&Value::from("CycloneDX"), &Value::from("1.5")));
    assert_eq!(bill["metadata"]["component"]["name"], "cronium-agent");
    assert!(bill["metadata"]["timestamp"].is_null(), "the present moment is in it");
    let dated: Value = serde_json::from_str(&sbom(&[("SOURCE_DATE_EPOCH", "86400")])).expect("JSON");
    assert_eq!(dated["metadata"]["timestamp"], "1970-01-02T00:00:00Z");

    let components = bill["components"].as_array().expect("components");
    let of = |key: &str, one: &Value| one[key].as_str().unwrap_or_default().to_owned();
    let listed: BTreeMap<(String, String), &Value> =
        components.iter().map(|one| ((of("name", one), of("version", one)), one)).collect();
    assert_eq!(listed.len(), components.len(), "one is there twice");
    let mut wanted = BTreeSet::new();
    for [name, version, _, checksum] in locked() {
        if name.starts_with("cronium-") {
            continue;
        }
        let one = listed.get(&(name.clone(), version.clone())).unwrap_or_else(|| panic!("{name} {version} is missing"));
        assert_eq!(one["hashes"][0]["content"], checksum, "{name}");
        assert!(one["scope"] == "excluded" || one["licenses"][0]["expression"].is_string(), "{name} has no licence");
        wanted.insert(name);
    }
    let more: BTreeSet<_> = listed.keys().map(|(name, _)| name.as_str()).filter(|n| !wanted.contains(*n)).collect();
    assert_eq!(more, BTreeSet::from(["libssh2", "openssl", "zlib"]), "the C libraries inside crates");
    for (name, scope) in
        [("ureq", "required"), ("openssl", "required"), ("serde_derive", "excluded"), ("cc", "excluded")]
    {
        let one = components.iter().find(|one| one["name"] == name).expect(name);
        assert_eq!(one["scope"], scope, "{name}");
    }

    let own = [&bill["metadata"]["component"]];
    let refs: BTreeSet<_> = components.iter().chain(own).map(|one| of("bom-ref", one)).collect();
    let edges = bill["dependencies"].as_array().expect("dependencies");
    assert_eq!(edges.iter().map(|edge| of("ref", edge)).collect::<BTreeSet<_>>(), refs);
    for edge in edges {
        let to = edge["dependsOn"].as_array().expect("a list").iter().map(|to| to.as_str().expect("text"));
        assert!(to.clone().all(|to| refs.contains(to)), "{edge}");
        assert!(edge["ref"] != own[0]["bom-ref"] || to.count() > 10, "{edge}");
    }
}

/// Whether an SPDX expression is met by `allowed`; AND binds more tightly than OR.
fn met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    if let Some((inside, rest)) = expression.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        return match rest.trim().split_once(' ') {
            Some(("AND", other)) => met(inside, allowed) && met(other, allowed),
            Some(("OR", other)) => met(inside, allowed) || met(other, allowed),
            Some(_) => panic!("cannot read {expression}"),
            None => met(inside, allowed),
        };
    }
    expression.split(" OR ").any(|choice| choice.split(" AND ").all(|one| allowed.contains(one.trim())))
}

#[test]
fn every_licence_is_allowed_and_every_allowed_one_is_needed() {
    let allowed: BTreeSet<String> = list("allow").into_iter().collect();
    let bill: Value = serde_json::from_str(&sbom(&[])).expect("JSON");
    let components = bill["components"].as_array().expect("components").iter();
    // What is inside C sources is not seen by cargo-deny: zlib's licence need not be in its list.
    let crates: Vec<_> =
        components.filter(|one| one["purl"].as_str().is_some_and(|purl| purl.starts_with("pkg:cargo/"))).collect();
    let words: Vec<_> = crates.iter().filter_map(|one| one["licenses"][0]["expression"].as_str()).collect();
    assert!(words.len() > 60, "{}", words.len());
    let refused: Vec<_> = words.iter().filter(|word| !met(word, &allowed)).collect();
    assert!(refused.is_empty(), "not in deny.toml: {refused:?}");
    for one in &allowed {
        let without = allowed.iter().filter(|other| *other != one).cloned().collect();
        let needed = words.iter().any(|word| !met(word, &without));
        assert!(needed, "{one} is allowed and nothing needs it");
    }
}

#[test]
fn every_source_is_the_registry() {
    let deny = text("deny.toml");
    let registry = "https://github.com/rust-lang/crates.io-index";
    assert!(deny.contains(&format!("allow-registry = [\"{registry}\"]")));
    for [name, version, source, checksum] in locked() {
        if name.starts_with("cronium-") {
            continue;
        }
        assert_eq!(source, format!("registry+{registry}"), "{name} {version}");
        assert_eq!(checksum.len(), 64, "{name} {version}");
    }
    for banned in deny.lines().filter_map(|line| line.trim().strip_prefix("{ crate = \"")) {
        let name = banned.split('"').next().expect("a name");
        assert!(!locked().iter().any(|package| package[0] == name), "{name} is banned and locked");
    }
}

#[test]
fn the_static_release_alone_brings_its_openssl() {
    let manifest = text("Cargo.toml");
    assert!(
        manifest.contains("\nvendored-openssl = [\"ssh2/vendored-openssl\"]\n") && !manifest.contains("\ndefault = ")
    );
    assert!(text("scripts/build-static.sh").contains(" --features vendored-openssl\n"));
    assert!(text("scripts/lib.sh").contains(" libssl-dev "), "a plain build links the host's");
    let version = Command::new(env!("CARGO_BIN_EXE_cronium-agent")).arg("version").output().expect("the binary");
    let said = String::from_utf8_lossy(&version.stdout).into_owned();
    let linked = if cfg!(feature = "vendored-openssl") { ", openssl-src 3" } else { ", OpenSSL of the host\n" };
    assert!(said.contains(linked), "{said}");
}
