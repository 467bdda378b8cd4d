//! Identifies the process that made a lasting object, and whether that process still runs.
//!
//! A process is identified by its number, the tick of its start, the namespaces in which both are valid, and the boot of
//! the machine. So a reused number is another process, and an owner in another container or on another host cannot be
//! looked up here.
#![allow(unsafe_code)]

use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;

use super::proc;

/// A process of this boot or another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    boot: String,
    /// Namespaces of process numbers and of time, as the kernel names them.
    spaces: [String; 2],
    pid: i32,
    /// In ticks since the boot.
    started: u64,
}

/// Whether an owner still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Runs,
    Gone,
    /// It is or was out of sight: on another host, before a restart, in another container.
    Elsewhere,
}

impl Owner {
    /// This process; `None` if `/proc` does not say.
    pub fn this_process() -> Option<Self> {
        let pid = i32::try_from(std::process::id()).ok()?;
        let (_, started) = stat("/proc/self/stat")?;
        let boot = proc::text("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        Some(Self { boot, spaces: [space("pid")?, space("time").unwrap_or_default()], pid, started })
    }

    /// Whether it runs, as seen from `here`, this process.
    pub fn seen_by(&self, here: &Self) -> Seen {
        if (&self.boot, &self.spaces) != (&here.boot, &here.spaces) {
            return Seen::Elsewhere;
        }
        // The signal first: /proc may hide the processes of others.
        match ask(self.pid) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Seen::Gone,
            _ => match stat(&format!("/proc/{}/stat", self.pid)) {
                // A killed process that was not waited for is a zombie: it does nothing.
                Some((state, started)) if started != self.started || matches!(state, 'Z' | 'X') => Seen::Gone,
                _ => Seen::Runs,
            },
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { boot, spaces: [pids, times], pid, started } = self;
        write!(f, "{boot}/{pids}/{times}/{pid}/{started}")
    }
}

impl FromStr for Owner {
    type Err = ();

    /// Reads the form that [`Owner`]'s `Display` writes.
    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split('/').collect();
        let [boot, pids, times, pid, started] = parts[..] else { return Err(()) };
        let pid = pid.parse::<i32>().ok().filter(|pid| *pid > 0).ok_or(())?;
        let started = started.parse().map_err(drop)?;
        Ok(Self { boot: boot.to_owned(), spaces: [pids, times].map(str::to_owned), pid, started })
    }
}

/// The namespace of this process, such as `pid:[4026531836]`.
fn space(kind: &str) -> Option<String> {
    fs::read_link(format!("/proc/self/ns/{kind}")).ok()?.into_os_string().into_string().ok()
}

/// When a process started, in ticks since the boot; `None` if there is no process of this number.
pub(super) fn started(pid: i64) -> Option<u64> {
    stat(&format!("/proc/{pid}/stat")).map(|(_, started)| started)
}

/// State and start of a process, fields 3 and 22 of proc(5). The second field is the program's name in parentheses and may
/// itself hold spaces and parentheses.
fn stat(path: &str) -> Option<(char, u64)> {
    let text = proc::text(path).ok()?;
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Sends nothing: asks whether there is such a process.
fn ask(pid: i32) -> io::Result<()> {
    // SAFETY: kill takes two numbers; signal 0 is checked for and not sent.
    match unsafe { libc::kill(pid, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn this() -> Owner {
        Owner::this_process().expect("/proc tells")
    }

    /// A process that lives until its stdin ends, as an owner.
    fn other() -> (std::process::Child, Owner) {
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat");
        let pid = i32::try_from(child.id()).expect("a number");
        let (_, started) = stat(&format!("/proc/{pid}/stat")).expect("it runs");
        (child, Owner { pid, started, ..this() })
    }

    #[test]
    fn it_reads_back_what_it_writes_and_nothing_else() {
        let text = this().to_string();
        assert_eq!(text.parse(), Ok(this()));
        assert_eq!(this().seen_by(&this()), Seen::Runs);
        for wrong in ["", "/", &text[..text.rfind('/').expect("a part")], &format!("{text}/1"), &format!("{text}x")] {
            assert_eq!(wrong.parse::<Owner>(), Err(()), "{wrong}");
        }
        for pid in ["0", "-1", "x", "99999999999"] {
            assert_eq!(format!("b/p/t/{pid}/5").parse::<Owner>(), Err(()), "{pid}");
        }
    }

    #[test]
    fn one_that_was_killed_is_gone_also_before_it_is_waited_for() {
        let (mut child, owner) = other();
        assert_eq!(owner.seen_by(&this()), Seen::Runs);
        child.kill().expect("killed");
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while owner.seen_by(&this()) != Seen::Gone {
            assert!(std::time::Instant::now() < until, "a process that was killed counts as running");
            std::thread::yield_now();
        }
        child.wait().expect("its end");
        assert_eq!(owner.seen_by(&this()), Seen::Gone);
    }

    #[test]
    fn a_number_that_was_given_again_is_another_process_and_elsewhere_nobody_looks() {
        let mut owner = this();
        owner.started -= 1;
        assert_eq!(owner.seen_by(&this()), Seen::Gone);
        // The first process is another user's, where this is not root; it may not be signalled and is there all the same.
        let (_, started) = stat("/proc/1/stat").expect("it may be read");
        assert_eq!(Owner { pid: 1, started, ..this() }.seen_by(&this()), Seen::Runs);
        for elsewhere in [
            Owner { boot: "another".to_owned(), ..owner.clone() },
            Owner { spaces: ["pid:[1]".to_owned(), owner.spaces[1].clone()], ..owner.clone() },
            Owner { spaces: [owner.spaces[0].clone(), "time:[1]".to_owned()], ..owner.clone() },
        ] {
            assert_eq!(elsewhere.seen_by(&this()), Seen::Elsewhere, "{elsewhere}");
        }
    }
}
