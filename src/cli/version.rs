//! `version`: what this program was built from, for a bug report and for an auditor.

use std::time::{Duration, UNIX_EPOCH};

use crate::executors::ssh::dial;
use crate::wire::time::rfc3339;

/// The package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit, or `unknown`.
pub const COMMIT: &str = env!("CRONIUM_BUILD_COMMIT");

/// The text that `version` prints.
pub fn text() -> String {
    let epoch = env!("CRONIUM_BUILD_EPOCH").parse().unwrap_or(0);
    let built = rfc3339(UNIX_EPOCH + Duration::from_secs(epoch), 0);
    format!(
        "cronium-agent {VERSION}\ncommit: {COMMIT}\nbuilt: {built}\ntarget: {}\ntls: rustls {} (ring)\n\
         ssh: {}\n",
        env!("CRONIUM_BUILD_TARGET"),
        env!("CRONIUM_BUILD_RUSTLS"),
        dial::library(),
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_line_has_a_value() {
        let text = super::text();
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(
            text.lines().all(|line| line.split_once(' ').is_some_and(|(_, value)| !value.trim().is_empty())),
            "{text}"
        );
    }
}
