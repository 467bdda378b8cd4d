//! `reload`: has the agent that runs on this host read its configuration again, waits for that, and prints the result.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::status::{plain, reloaded};
use crate::cli::{exit, print};
use crate::health::ask::ask;
use crate::jobs::control::ReloadAsked;
use crate::jobs::status::{Reload, Status};
use crate::limits;
use crate::metrics::ReloadResult;

/// Asks the agent whose `state.dir` this is, and prints; gives the program's exit code.
pub fn run(dir: &Path) -> u8 {
    match reload(dir, limits::CONTROL_WAIT) {
        Ok(reload) => {
            // Without the time, which is now.
            let lines: Vec<String> = reloaded(&reload).iter().map(|line| plain(line)).collect();
            let text = format!("cronium-agent: the configuration was read again: {}\n", lines.join("\n"));
            if reload.result != ReloadResult::Refused.as_str() {
                return print::out(&text);
            }
            print::err(&text);
            exit::FAILED
        }
        Err(error) => print::say(error, exit::FAILED),
    }
}

/// Asks for it, and looks until it was made, for at most `wait`.
fn reload(dir: &Path, wait: Duration) -> Result<Reload, String> {
    let (_, asked) = ask::<ReloadAsked>(dir, "POST /reload").map_err(|error| error.to_string())?;
    let until = Instant::now() + wait;
    loop {
        let (_, status) = ask::<Status>(dir, "GET /status").map_err(|error| error.to_string())?;
        if let Some(reload) = status.reload.filter(|reload| reload.answers >= asked.request) {
            return Ok(reload);
        }
        if Instant::now() >= until {
            let why = status.why_not.map_or_else(String::new, |why| format!("; it claims nothing: {why}"));
            return Err(format!(
                "the agent in {} was asked to read its configuration again and had not done so after {wait:?} \
                 (limits::CONTROL_WAIT){why}; `cronium-agent status` shows when it has, its log what it does instead",
                dir.display()
            ));
        }
        std::thread::sleep(limits::SIGNAL_TICK);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::os::threads;

    /// An agent that reloads after `looks` looks at its status; it ends when somebody connects and says nothing.
    fn agent(dir: &Path, looks: usize) -> threads::Thread {
        let listener = UnixListener::bind(dir.join(crate::health::SOCKET)).expect("a socket");
        let mut seen = 0;
        let serve = move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.expect("a client"));
                let mut line = String::new();
                if stream.read_line(&mut line).expect("a request") == 0 {
                    return;
                }
                let answer = if line.starts_with("POST /reload ") {
                    r#"{"request":3}"#
                } else if seen < looks {
                    seen += 1;
                    r#"{"ok":true,"whyNot":"it drains","reload":{"answers":2,"result":"changed"}}"#
                } else {
                    r#"{"ok":true,"reload":{"answers":4,"result":"unchanged"}}"#
                };
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).expect("a head");
                }
                let length = answer.len();
                write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{answer}").expect("sent");
            }
        };
        threads::spawn("t-agent", serve).expect("a thread")
    }

    #[test]
    fn only_what_was_read_after_the_request_counts_and_the_wait_has_an_end() {
        for (looks, wait) in [(2, Duration::from_secs(20)), (usize::MAX, Duration::from_millis(300))] {
            let dir = crate::os::scratch::Scratch::new();
            let thread = agent(&dir, looks);
            match reload(&dir, wait) {
                Ok(reload) => assert_eq!((reload.answers, reload.result.as_str(), looks), (4, "unchanged", 2)),
                Err(error) => {
                    assert!(error.contains("limits::CONTROL_WAIT") && error.contains("it drains"), "{error}");
                    assert_eq!(looks, usize::MAX, "{error}");
                }
            }
            drop(UnixStream::connect(dir.join(crate::health::SOCKET)));
            thread.join_within(Duration::from_secs(5));
        }
    }
}
