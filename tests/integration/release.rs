//! A release: its provenance has the shape of SLSA v1, its tarball installs, and it can be made again, byte by byte.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::Folder;
use crate::systemd_boot::{listed, text};

fn script(name: &str) -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name))
}

fn must(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Any program will do.
const PROGRAM: &str = "/bin/true";

/// Names and digests, as SHA256SUMS has them.
fn sums(folder: &Path) -> BTreeMap<String, String> {
    let lines = std::fs::read_to_string(folder.join("SHA256SUMS")).expect("SHA256SUMS");
    let rows = lines.lines().map(|line| line.split_once("  ").expect("a sum and a name"));
    rows.map(|(sum, name)| (name.to_owned(), sum.to_owned())).collect()
}

fn file(folder: &Path, end: &str) -> PathBuf {
    let name = sums(folder).into_keys().find(|name| name.ends_with(end));
    folder.join(name.unwrap_or_else(|| panic!("no file …{end}")))
}

/// What in-toto's Statement v1 and SLSA's provenance v1 ask for, and what an auditor looks for in ours.
fn is_provenance(statement: &Value, subjects: &BTreeMap<String, String>) {
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let listed = statement["subject"].as_array().expect("subjects").iter();
    let of = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let listed: BTreeMap<_, _> = listed.map(|one| (of(one, "name"), of(&one["digest"], "sha256"))).collect();
    assert_eq!(&listed, subjects);

    let definition = &statement["predicate"]["buildDefinition"];
    for uri in [&definition["buildType"], &statement["predicate"]["runDetails"]["builder"]["id"]] {
        assert!(uri.as_str().is_some_and(|uri| uri.starts_with("https://")), "{uri}");
    }
    assert!(definition["externalParameters"].is_object() && definition["internalParameters"].is_object());
    let inputs = definition["resolvedDependencies"].as_array().expect("inputs");
    let digests = |one: &Value| one["digest"].as_object().is_some_and(|all| all.values().all(is_hex));
    assert!(
        inputs.iter().all(|one| (one["uri"].is_string() || one["name"].is_string()) && digests(one)),
        "{inputs:#?}"
    );
    assert!(inputs[0]["digest"]["gitCommit"].is_string(), "{}", inputs[0]);
    let names: BTreeSet<_> = inputs.iter().map(|one| of(one, "name")).collect();
    for wanted in ["Cargo.lock", "scripts/build-static.sh", "ureq", "openssl-src"] {
        assert!(names.contains(wanted), "{wanted} is no input: {names:?}");
    }
}

/// A digest; sources that are no checkout have no commit.
fn is_hex(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| text == "unknown" || text.len() >= 40 && text.chars().all(|c| c.is_ascii_hexdigit()))
}

#[test]
fn it_tells_where_it_comes_from_installs_and_can_be_made_again() {
    let folder = Folder::new();
    let release = folder.path().join("release");
    must(script("release.sh").args(["--binary", PROGRAM, "--out"]).arg(&release));

    let provenance = file(&release, ".provenance.json");
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let mut subjects = sums(&release);
    subjects.remove(&name(&provenance));
    assert_eq!(subjects.len(), 6, "{subjects:?}");
    let read = |path: &Path| serde_json::from_slice::<Value>(&std::fs::read(path).expect("a file")).expect("JSON");
    let statement = read(&provenance);
    is_provenance(&statement, &subjects);
    assert_eq!(statement["predicate"]["buildDefinition"]["externalParameters"]["program"], "given");

    installs(folder.path(), &file(&release, ".tar.gz"));

    let verify =
        || -> Output { script("verify-release.sh").arg(&release).args(["--binary", PROGRAM]).output().expect("bash") };
    let good = verify();
    assert!(good.status.success(), "{}{}", text(&good.stdout), text(&good.stderr));
    let resum = "cd $1 && sha256sum -- $(cut -c 67- SHA256SUMS) >sums && mv sums SHA256SUMS";
    let resum = || must(Command::new("sh").args(["-c", resum, "sh"]).arg(&release));
    let replace = |path: &Path, old: &str, new: &str| {
        let text = std::fs::read_to_string(path).expect("text");
        assert!(text.contains(old), "no {old}");
        std::fs::write(path, text.replace(old, new)).expect("write");
    };
    // One whose program was built, checked with that program: all but the provenance is made again.
    replace(&provenance, "\"program\": \"given\"", "\"program\": \"built\"");
    resum();
    let good = verify();
    assert!(good.status.success(), "{}{}", text(&good.stdout), text(&good.stderr));
    // Another text with sums that fit it: only making it again shows that.
    let bill = file(&release, ".cdx.json");
    replace(&bill, "\"ureq\"", "\"evil\"");
    let says = |words: &str| {
        let output = verify();
        let said = text(&[output.stdout, output.stderr].concat());
        assert!(!output.status.success() && said.contains(words), "{words}: {said}");
    };
    says("is not what its SHA256SUMS says");
    resum();
    says("is not what its provenance says");
    let old = &subjects[&name(&bill)];
    let new = &sums(&release)[&name(&bill)];
    replace(&provenance, old, new);
    resum();
    says("differs from what these sources give");
}

/// The tarball is enough for `install.sh`.
fn installs(folder: &Path, tarball: &Path) {
    must(Command::new("tar").arg("-C").arg(folder).arg("-xzf").arg(tarball));
    let name = tarball.file_name().expect("a name").to_string_lossy().into_owned();
    let tree = folder.join(name.strip_suffix(".tar.gz").expect("the ending"));
    let root = folder.join("root");
    std::fs::create_dir(&root).expect("a folder");
    let mut install = Command::new(tree.join("scripts/install.sh"));
    must(install.arg("--binary").arg(tree.join("cronium-agent")).arg("--root").arg(&root));
    let found = must(Command::new("find").arg(&root).args(["-type", "f"])).lines().count();
    assert_eq!(found, listed().count() + 2, "the list's files, program and token");
}

/// The statement of a program that was built says with what.
#[test]
fn a_built_programs_provenance_names_flags_and_toolchain() {
    let folder = Folder::new();
    let path = |name: &str| folder.path().join(name);
    let sum = "a".repeat(64);
    std::fs::write(path("sums"), format!("{sum}  program\n")).expect("write");
    std::fs::write(path("flags"), "RUSTFLAGS=-Cx\ncargo build --release\n").expect("write");
    std::fs::write(path("versions"), format!("rustc 1.95.0\ngcc 12\n{sum}  musl-dev_1_amd64.deb\n")).expect("write");
    std::fs::write(path("bill"), must(&mut script("sbom.sh"))).expect("write");
    let mut python = Command::new("python3");
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/provenance.py")).arg(env!("CARGO_MANIFEST_DIR"));
    python.arg("x86_64-unknown-linux-musl").args(["sums", "bill", "flags", "versions"].map(path));
    python.env("CRONIUM_COMMIT", "abc").env("CRONIUM_REVISION", "b".repeat(40)).env("SOURCE_DATE_EPOCH", "7");
    let statement: Value = serde_json::from_str(&must(&mut python)).expect("JSON");
    is_provenance(&statement, &BTreeMap::from([("program".to_owned(), sum)]));
    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["program"], "built");
    assert_eq!(definition["internalParameters"]["flags"][1], "cargo build --release");
    assert_eq!(definition["internalParameters"]["toolchain"][0], "rustc 1.95.0");
    let names = definition["resolvedDependencies"].to_string();
    assert!(names.contains("musl-dev_1_amd64.deb") && names.contains(&"b".repeat(40)), "{names}");
}
