//! What commands print, and the exit code that goes with it.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};

use super::exit;

/// Writes to stdout; gives the exit code.
pub fn out(text: &str) -> u8 {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // A reader that has gone away (`| head`) is no failure.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            say(format!("cannot write standard output: {error}"), exit::FAILED)
        }
        _ => exit::OK,
    }
}

/// Writes to stderr as it is. A stderr that takes nothing is no failure.
pub fn err(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Writes `cronium-agent: TEXT` to stderr; gives `code`.
pub fn say(text: impl Display, code: u8) -> u8 {
    err(&format!("cronium-agent: {text}\n"));
    code
}

/// Rows below each other, each column as wide as its widest cell.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
