//! What holds for the start marker, and for the program that carries a script to a shell. See [`crate::fuzzing`].

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::marker::Marker;
use super::program::Program;
use crate::executors::complaint::{self, Stderr};
use crate::executors::shebang::Shebang;
use crate::job::{Language, Script};
use crate::limits;
use crate::os::scratch::Scratch;
use crate::secret::Secret;
use crate::wire::crc32;
use crate::wire::fuzz::{Dice, pieces};

const NONCE: &str = "00ff";

pub fn start_marker(data: &[u8]) {
    let mut dice = Dice(data);
    // Of an agent before 0.2 no nonce is known.
    let nonce = if dice.byte() < 64 { "" } else { NONCE };
    let (before, lengths) = (dice.below(2 * limits::MARKER_BEFORE), dice.lengths());
    let all = [&vec![b'x'; before], dice.0].concat();
    let take = |pieces: &[&[u8]]| {
        let (mut marker, mut left) = (Marker::new(nonce), Vec::new());
        pieces.iter().for_each(|piece| left.extend_from_slice(&marker.take(piece)));
        let seen = marker.nonce().map(str::to_owned);
        let (is_missed, held) = (marker.is_missed(), marker.give_up());
        left.extend_from_slice(&held);
        (seen, is_missed, left)
    };
    let whole = take(&[&all]);
    assert!(take(&pieces(&all, lengths)) == whole, "in pieces of {lengths:?} it is another marker");
    let (seen, _, left) = whole;
    // Nothing but the marker is taken out.
    let word = seen.map_or(0, |nonce| Marker::line(&nonce).len() + 1);
    assert_eq!(left.len() + word, all.len());
}

pub fn setup_complaint(data: &[u8]) {
    let mut dice = Dice(data);
    let nonce = if dice.byte() < 64 { "" } else { NONCE };
    let (all, pieces) = dice.pieces();
    let take = |pieces: &[&[u8]]| {
        let (mut stderr, mut out) = (Stderr::default(), Vec::new());
        let mut sink = |bytes: &[u8]| out.extend_from_slice(bytes);
        pieces.iter().for_each(|piece| stderr.take(piece, nonce, &mut sink));
        stderr.finish(&mut sink);
        (stderr.tail().to_vec(), out)
    };
    let (tail, out) = take(&[all]);
    assert_eq!(take(&pieces), (tail.clone(), out.clone()));
    assert!(all.ends_with(&tail) && out.len() <= all.len());
    // Lines that are not ours reach the output.
    if !all.windows(14).any(|part| part == b"cronium setup ") {
        assert!(all.starts_with(&out) && out.len() + 14 > all.len(), "{} of {}", out.len(), all.len());
    }
    let _ = complaint::complaint(NONCE, &tail);
}

pub fn shebang_line(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Some(shebang) = Shebang::of(&text) else { return };
    assert!(text.starts_with("#!") && !shebang.program.is_empty());
    // It becomes a word of our program.
    if let Some(version) = shebang.version() {
        assert!(version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.'), "{version}");
    }
    let script = Script { language: Language::Python, content: text.into_owned(), working_directory: String::new() };
    let _ = Program::new(&script, &[], None, "/workspace", NONCE);
}

/// The shells of this machine that serve as `/bin/sh` somewhere; Bash is another one where it is called by that name.
fn shells() -> Vec<Command> {
    let mut dash = Command::new("dash");
    dash.arg("-s");
    let mut bash = Command::new("bash");
    std::os::unix::process::CommandExt::arg0(&mut bash, "sh").arg("-s");
    let mut busybox = Command::new("busybox");
    busybox.args(["sh", "-s"]);
    vec![dash, bash, busybox]
}

pub fn shell_program(data: &[u8]) {
    // Values apart by NUL, which none can hold; the last one is the text of a here-document, the one before a folder.
    let text = String::from_utf8_lossy(data);
    // Like the real one, it is nothing that a script can hold.
    let nonce = &format!("{:08x}", crc32::of(data));
    let mut values: Vec<&str> = text.split('\0').take(8).collect();
    let body = values.pop().unwrap_or_default();
    let folder = values.pop().filter(|folder| is_folder(folder)).unwrap_or_default();
    let variables: Vec<_> = (0..).zip(&values).map(|(n, value)| (format!("V{n}"), Secret::new(*value))).collect();
    let print: String = variables.iter().map(|(name, _)| format!("printf '%s\\0' \"${name}\"\n")).collect();
    // Text that no line of the script's own can end.
    let end = (0..).map(|n| format!("END{n}")).find(|end| !body.lines().any(|line| line == end)).unwrap_or_default();
    let content = format!("{print}pwd -P\ncat <<'{end}'\n{body}\n{end}\n");
    let script = Script { language: Language::Bash, content, working_directory: folder.to_owned() };
    let scratch = Scratch::in_memory();
    for mut shell in shells() {
        let place = scratch.join(shell.get_program());
        std::fs::create_dir(&place).expect("a folder");
        let place = place.to_str().expect("text");
        let Ok(program) = Program::new(&script, &variables, None, place, nonce) else { return };
        let (status, out, said) = answer_of(&mut shell, program.bytes());
        let mut wanted: Vec<u8> = values.iter().flat_map(|value| value.bytes().chain([0])).collect();
        let parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let inside = parts.iter().fold(place.to_owned(), |path, part| format!("{path}/{part}"));
        wanted.extend_from_slice(format!("{inside}\n{body}\n").as_bytes());
        let said = String::from_utf8_lossy(&said);
        let shell = shell.get_program();
        assert!(status && said.contains(&Marker::line(nonce)), "{shell:?} did not run it: {said}");
        assert!(out == wanted, "{shell:?}: {} came as {}", wanted.escape_ascii(), out.escape_ascii());
    }
}

/// Whether the kernel takes it as a path below a job's folder. The script's file is there already.
fn is_folder(path: &str) -> bool {
    let parts = || path.split('/').filter(|part| !part.is_empty() && *part != ".");
    !path.starts_with('/')
        && path.len() < 1000
        && parts().all(|part| part.len() < 200)
        && parts().next() != Some("script.sh")
}

/// Whether the program ended well, and what it printed on both streams.
fn answer_of(shell: &mut Command, program: &[u8]) -> (bool, Vec<u8>, Vec<u8>) {
    let piped = shell.env_clear().env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8");
    let mut child = piped
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("dash, bash and busybox are needed here");
    // Ends before it has read all of a program that is none; what it says then is looked at.
    let _ = child.stdin.take().expect("stdin").write_all(program);
    let output = child.wait_with_output().expect("its output");
    (output.status.success(), output.stdout, output.stderr)
}
