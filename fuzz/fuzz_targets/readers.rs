//! Every target in one program, since each would link the whole agent. `CRONIUM_FUZZ` names the one to run; they are
//! listed in `src/fuzz_tests.rs`.

#![no_main]

use std::sync::LazyLock;

use cronium_agent::fuzzing::TARGETS;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("CRONIUM_FUZZ").unwrap_or_default();
    let names = || TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ");
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("set CRONIUM_FUZZ to one of: {}", names())).1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
