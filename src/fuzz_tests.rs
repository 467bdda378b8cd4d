//! The targets of the fuzzer: for each reader of bytes from outside, what always holds.
//!
//! A target is a function that takes any bytes and panics where a promise is broken. `fuzz/` feeds it for hours;
//! the tests below feed it its seeds, in many changed forms, each time the unit tests run. docs/fuzzing.md says what each
//! one holds, and how to add one.

macro_rules! targets {
    ($($module:path: $($name:ident)*;)*) => {
        $(pub use $module::{$($name),*};)*

        /// Each target by its name.
        pub const TARGETS: &[(&str, fn(&[u8]))] = &[$($((stringify!($name), $name)),*),*];
    };
}

targets! {
    crate::wire::fuzz: http_head chunked_body docker_frames script_lines output_capture json_text ssh_kexinit
        x509_certificate times host_patterns;
    crate::api::fuzz: queue_answer server_rows backend_answers signed_row;
    crate::signing::fuzz: receipt_text trusted_keys;
    crate::redact::fuzz: redacted_output;
    crate::config::fuzz: configuration_file migrated_file yaml_text configuration_values variable_references
        seccomp_file;
    crate::docker::fuzz: pull_progress;
    crate::executors::container::fuzz: start_marker setup_complaint shebang_line shell_program;
    crate::executors::http::fuzz: http_answer;
    crate::executors::ssh::fuzz: ssh_preamble ssh_status ssh_helper_calls private_key user_certificate
        known_hosts_file;
    crate::health::fuzz: health_request control_answer;
    crate::logs::fuzz: live_message;
    crate::jobs::helpers::fuzz: helper_request;
    crate::jobs::record::fuzz: record_entry done_line sealed_login;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::panic::catch_unwind;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::TARGETS;
    use crate::os::heap_tests::processor_time;
    use crate::wire::random::Random;

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
    }

    fn names(folder: &Path) -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.expect("an entry").file_name().display().to_string()).collect()
    }

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = folder("seeds").join(target);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<_> = files.map(|file| file.expect("an entry").path()).collect();
        files.sort();
        files.iter().map(|file| std::fs::read(file).expect("a seed")).collect()
    }

    /// Whether what the target says holds for this input; else the target, the input, and what is wrong.
    fn hold((name, target): &(&str, fn(&[u8])), input: &[u8]) -> Result<(), String> {
        catch_unwind(|| target(input)).map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref().copied()).unwrap_or_default();
            format!("{name} does not hold for \"{}\": {text}", input.escape_ascii())
        })
    }

    /// The input with some bytes changed, left out, doubled, or taken from another one.
    fn changed(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len() + 1);
            let end = (at + random.below(16)).min(bytes.len());
            match random.below(6) {
                0 => drop(bytes.drain(at..end)),
                1 => bytes.extend_from_within(at..end),
                2 => bytes.truncate(at),
                3 => bytes.insert(at, *random.one(b"\0\n\r\"'\\ :,-[]{}$%\x7f\x80\xc3\xff09aZ")),
                4 if !other.is_empty() => {
                    let from = random.below(other.len());
                    let part = &other[from..(from + 1 + random.below(40)).min(other.len())];
                    bytes.splice(at..end, part.iter().copied());
                }
                _ if at < end => bytes[at] ^= 1 << random.below(8),
                _ => {}
            }
        }
        bytes
    }

    /// The first input of each target for which it does not hold.
    fn faults(rounds: usize, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let hold_changed = |target: &(&str, fn(&[u8]))| {
            let seeds = seeds(target.0);
            seeds.iter().try_for_each(|seed| hold(target, seed))?;
            let mut random = Random::new(target.0.bytes().map(u64::from).sum());
            (0..rounds).try_for_each(|_| {
                let (seed, other) = (random.one(&seeds), random.one(&seeds));
                hold(target, &changed(&mut random, seed, other))
            })
        };
        TARGETS.iter().filter(|(name, _)| wanted(name)).filter_map(|target| hold_changed(target).err()).collect()
    }

    const SHELL: &str = "shell_program";

    #[test]
    fn what_a_target_says_holds_for_its_seeds_and_for_them_changed() {
        let faults = faults(100, |name| name != SHELL);
        assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    }

    /// Each round starts three shells.
    #[test]
    fn real_shells_give_back_every_byte_of_hostile_values() {
        assert_eq!(faults(8, |name| name == SHELL), Vec::<String>::new());
    }

    #[test]
    fn a_target_that_does_not_hold_is_named_with_its_input() {
        let target: (&str, fn(&[u8])) = ("odd", |data| assert!(data.len() < 2, "too long"));
        assert_eq!(hold(&target, b"a"), Ok(()));
        let text = hold(&target, b"a\n").expect_err("it does not hold");
        assert!(text.contains("odd does not hold for \"a\\n\"") && text.contains("too long"), "{text}");
    }

    #[test]
    fn each_target_has_seeds_and_a_row_on_its_page() {
        let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(known.len(), TARGETS.len());
        assert_eq!(names(&folder("seeds")), known);
        let page = std::fs::read_to_string(folder("../docs/fuzzing.md")).expect("a page");
        for name in &known {
            assert!(page.contains(&format!("| `{name}` |")), "docs/fuzzing.md does not say what {name} holds");
            let seeds = seeds(name);
            assert!(!seeds.is_empty() && seeds.iter().map(Vec::len).sum::<usize>() < 64 * 1024, "{name}");
        }
    }

    /// What readers go back and forth over: opened and never closed, begun and never ended, repeated without end.
    const SHAPES: &[&[u8]] = &[
        b"a",
        b"\n",
        b"\r",
        b"\r\n",
        b"\xff",
        b"\xe2\x82",
        b"\0",
        b"\\",
        b"\"",
        b"{\"a\":",
        b"[0,",
        b"[",
        b"{",
        b"- ",
        b"a: &a b\n",
        b"? ",
        b"${A}",
        b"$",
        b"a=b ",
        b": ",
        b"#!",
        b"1\r\na\r\n",
        b"\x01\0\0\0\0\0\0\x01x",
        b"a 0\n",
        b"cronium ready 00f",
        b"cronium setup 00ff:",
        b"cronium cronium ready 00ff x",
        b"-----BEGIN PRIVATE KEY-----",
        b"|1|a|b c d\n",
        b"*,*",
        b"a.example ssh-ed25519 AAAAC3Nz\n",
        b"Content-Length: 1\r\n",
        b"%41",
        b"{\"id\":\"a\",\"status\":\"Downloading\"}\n",
        b"\x30\x03",
    ];

    /// Processor time of this thread, so that other work on the machine counts for nothing; the least of some tries.
    fn cost(target: fn(&[u8]), input: &[u8], tries: usize) -> Duration {
        let once = || {
            let begun = processor_time();
            target(input);
            processor_time() - begun
        };
        (0..tries).map(|_| once()).min().unwrap_or_default()
    }

    /// What a target takes from the front, for pieces of one byte, and the shape again and again.
    fn grown(start: u8, shape: &[u8], length: usize) -> Vec<u8> {
        [start, 0, 0, 0, 0].into_iter().chain(shape.iter().copied().cycle().take(length)).collect()
    }

    /// The shapes for which four times the input costs much more than four times the time, or the target does not hold.
    fn quadratic((name, target): &(&str, fn(&[u8])), length: usize) -> Vec<String> {
        // Below this nobody waits, and a clock's steps are large.
        const SOON: Duration = Duration::from_millis(25);
        let mut found = Vec::new();
        for (shape, start) in SHAPES.iter().flat_map(|shape| [(shape, 0), (shape, 0xff)]) {
            let of = |length| grown(start, shape, length);
            found.extend(hold(&(name, *target), &of(length)).err());
            if !found.is_empty() || cost(*target, &of(4 * length), 1) < SOON {
                continue;
            }
            let [one, two, four] = [1, 2, 4].map(|times| cost(*target, &of(times * length), 5));
            if four > SOON && four > 9 * one {
                found.push(format!("{name}: \"{}\" from {start}: {one:?}, {two:?}, {four:?}", shape.escape_ascii()));
            }
        }
        found
    }

    #[test]
    fn no_reader_takes_more_than_its_share_of_time_for_a_longer_input() {
        let readers = TARGETS.iter().filter(|(name, _)| *name != SHELL);
        let found: Vec<String> = readers.flat_map(|target| quadratic(target, 4 * 1024)).collect();
        assert!(found.is_empty(), "\n{}", found.join("\n"));
    }

    #[test]
    fn a_quadratic_reader_is_found() {
        let target: fn(&[u8]) = |data| {
            // Pair by pair, however the compiler optimises.
            let pairs = data.iter().flat_map(|a| data.iter().map(move |b| std::hint::black_box(u64::from(a ^ b))));
            assert!(pairs.sum::<u64>() < u64::MAX);
        };
        assert!(!quadratic(&("odd", target), 2048).is_empty());
    }
}
