//! Tells the program what it was built from: commit, time and target, for `cronium-agent version`.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-env-changed=CRONIUM_COMMIT");
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs/heads");
    println!("cargo::rerun-if-changed=Cargo.lock");
    let commit = std::env::var("CRONIUM_COMMIT").ok().or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse::<u64>().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    println!("cargo::rustc-env=CRONIUM_BUILD_COMMIT={}", commit.unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rustc-env=CRONIUM_BUILD_EPOCH={}", epoch.unwrap_or_else(now));
    println!("cargo::rustc-env=CRONIUM_BUILD_TARGET={}", std::env::var("TARGET").unwrap_or_default());
    for (name, krate) in [("LIBSSH2", "libssh2-sys"), ("RUSTLS", "rustls")] {
        println!("cargo::rustc-env=CRONIUM_BUILD_{name}={}", locked_version(krate).unwrap_or_default());
    }
    let openssl = match std::env::var_os("CARGO_FEATURE_VENDORED_OPENSSL") {
        Some(_) => format!("openssl-src {}", locked_version("openssl-src").unwrap_or_default()),
        None => "OpenSSL of the host".to_owned(),
    };
    println!("cargo::rustc-env=CRONIUM_BUILD_OPENSSL={openssl}");
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The version of a crate in Cargo.lock.
fn locked_version(name: &str) -> Option<String> {
    let lock = std::fs::read_to_string("Cargo.lock").ok()?;
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{name}\"\n")))?;
    let line = entry.lines().find_map(|line| line.strip_prefix("version = "))?;
    Some(line.trim_matches('"').to_owned())
}
