//! The calls of a script's helpers on a server.
//!
//! A call is a file in the job's folder, and so is its answer. A second session beside the one that follows the script runs
//! a small program: it waits at the pipe `bell`, sends each call up, and writes each answer that comes down. Nothing
//! listens on the server, and nothing is outside of the folder. When the connection breaks, the script waits. The next
//! session, also one of the next agent, finds the call's file and sends it again: doing a call twice changes nothing.
//!
//! | file in `.cronium` | what it is |
//! | --- | --- |
//! | `calls/NAME.q` | a call: the method and the path on a line, then the body; renamed into place |
//! | `calls/NAME.q.NONCE` | the same, sent up by the session of that nonce |
//! | `calls/NAME.a` | its answer: the status on a line, then the body and a line end |
//! | `bell` | a pipe: a line wakes the session |
//! | `owner` | the nonce of the newest session: an older one that finds another's ends |

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Sender, bounded, never};

use crate::executors::helpers::{FOLDER, HelperApi};
use crate::executors::shell::{Writer, quote};
use crate::executors::ssh::connection::{Event, Next, Session};
use crate::executors::ssh::place::{self, Place};
use crate::executors::ssh::pool::Wish;
use crate::executors::ssh::preamble::Preamble;
use crate::executors::ssh::remote;
use crate::executors::ssh::shared::Shared;
use crate::job::{Server, Stream};
use crate::limits;
use crate::os::random;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};
use crate::policy::backoff::{Backoff, Growth};

/// The thread that carries a script's calls. Dropping this ends it.
pub(super) struct HelperCalls {
    stop: Stop,
    thread: Option<Thread>,
}

impl HelperCalls {
    /// For a script at this place, which was seen to run. `None` where the thread cannot be started.
    pub(super) fn start(
        api: &Arc<dyn HelperApi>,
        shared: &Arc<Shared>,
        server: &Server,
        place: &Place,
    ) -> Option<Self> {
        let stop = Stop::new();
        let (api, shared, server, place) = (Arc::clone(api), Arc::clone(shared), server.clone(), place.clone());
        let carrier = Carrier { shared, server, place, api, stop: stop.clone() };
        match threads::spawn("ssh-helpers", move || carrier.serve()) {
            Ok(thread) => Some(Self { stop, thread: Some(thread) }),
            Err(error) => {
                log::error!("cannot start a thread for the helpers of a script: {error}");
                None
            }
        }
    }
}

impl Drop for HelperCalls {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            thread.join_within(limits::THREAD_JOIN_WAIT);
        }
    }
}

struct Carrier {
    shared: Arc<Shared>,
    server: Server,
    place: Place,
    api: Arc<dyn HelperApi>,
    stop: Stop,
}

impl Carrier {
    /// One session after another, until the script is over.
    fn serve(&self) {
        let backoff =
            Backoff { growth: Growth::Exponential, initial: limits::SSH_BACKOFF_FIRST, max: limits::SSH_BACKOFF_MOST };
        let wanted = || !self.stop.is_set();
        let mut failures = 0;
        while wanted() {
            let wish = Wish { server: &self.server, until: Instant::now() + limits::HELPER_ANSWER, wanted: &wanted };
            match self.shared.pool.session(&wish) {
                Ok((session, _)) => {
                    if self.carry(&Arc::new(session)) {
                        failures = 0;
                    }
                }
                Err(error) => log::debug!("{error}; the helpers of a script wait"),
            }
            failures += 1;
            self.stop.wait(backoff.delay(failures, 0.5 + random::unit() / 2.0));
        }
    }

    /// Reads one session to its end; whether a call came.
    fn carry(&self, session: &Arc<Session>) -> bool {
        let (most, _) = self.api.body_max();
        let nonce = random::hex(16);
        session.send(program(&self.place, &nonce, most));
        let (mut preamble, mut calls) = (Preamble::new(&nonce), Calls::new(most));
        let (ended, ends) = bounded(limits::HELPER_CONNECTIONS);
        let (mut under_way, mut any) = (0, false);
        while !self.stop.is_set() {
            match calls.peek() {
                Err(()) => return any,
                Ok(Some(length)) => {
                    // Large bodies go alone: their memory is bounded so.
                    let share = if length > limits::HELPER_BODY_SMALL { limits::HELPER_CONNECTIONS } else { 1 };
                    if under_way + share > limits::HELPER_CONNECTIONS {
                        under_way -= ends.recv_timeout(limits::FOLLOW_TICK).unwrap_or(0);
                        continue;
                    }
                    if let Some(call) = calls.take() {
                        under_way += share;
                        any = true;
                        self.answer(call, session, Ended(ended.clone(), share), most);
                        continue;
                    }
                }
                Ok(None) => {}
            }
            under_way -= ends.try_iter().sum::<usize>();
            match session.next(&never(), limits::FOLLOW_TICK) {
                Next::Event(Event::Bytes(stream, bytes)) => preamble.take(stream, &bytes, &mut |bytes| {
                    if stream == Stream::Stdout {
                        calls.feed(bytes);
                    }
                }),
                Next::Event(Event::End(_) | Event::Broken(_)) => return any,
                Next::Wish(_) | Next::Quiet => {}
            }
        }
        any
    }

    fn answer(&self, call: Call, session: &Arc<Session>, ended: Ended, most: usize) {
        let Call { name, body } = call;
        // The session may be gone by then: the next one asks again.
        let session = Arc::downgrade(session);
        let reply: Box<dyn FnOnce(Vec<u8>) + Send> = Box::new(move |answer| {
            if let Some(session) = session.upgrade() {
                session.send(put(&name, &String::from_utf8_lossy(&answer)));
            }
            drop(ended);
        });
        match body {
            Ok(body) => self.api.take(body, reply),
            Err(length) => reply(
                format!("413\nthe call has {length} bytes, at most {most} are taken (jobs.maxScriptOutput)")
                    .into_bytes(),
            ),
        }
    }
}

/// Gives the place of a call back when it is dropped.
struct Ended(Sender<usize>, usize);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.try_send(self.1);
    }
}

/// The program of a session. Its stdin is programs that write answers, see [`put`]; its stdout is calls, see [`Calls`].
fn program(place: &Place, nonce: &str, most: usize) -> Vec<u8> {
    let mut w = Writer { text: place::begin(place, nonce), delimiter: String::new() };
    w.line("{");
    w.line(&format!("n={}", quote(&place.name)));
    w.line(remote::ENTER);
    remote::marks(&mut w, nonce);
    w.line(&LOOP.replace("NONCE", nonce).replace("MOST", &most.to_string()));
    w.line("trap 'kill $w' 0");
    w.line("exec >/dev/null 2>&1");
    w.line("}");
    w.text
}

/// The loop of it. The folder of the calls is made by the last step before the interpreter, which may come later. Its
/// directory is the job's folder, so that it is known for one of our programs.
const LOOP: &str = r#"{ until [ -d .cronium/calls ]; do [ ! -e status ] || exit; sleep 0.1; done
exec 8<>.cronium/bell && echo NONCE >.cronium/owner.NONCE && mv .cronium/owner.NONCE .cronium/owner
while read -r o <.cronium/owner && [ "$o" = NONCE ]; do
for f in .cronium/calls/*.q*; do
f=${f##*/}; case $f in *[!0-9A-Za-z.-]*|*.NONCE) continue ;; esac
g=.cronium/calls/${f%%.q*}.q.NONCE
mv -- ".cronium/calls/$f" "$g" && s=$(wc -c <"$g") || continue
printf '%s %d\n' "${f%%.q*}" $((s)); [ $((s)) -gt MOST ] || head -c $((s)) "$g"
done; read -r x <&8 || sleep 1; done; } </dev/null 2>/dev/null & w=$!"#;

/// The program that writes an answer.
fn put(name: &str, answer: &str) -> Vec<u8> {
    let mut w =
        Writer { text: Vec::with_capacity(answer.len() + 512), delimiter: format!("CRONIUM_{}", random::hex(16)) };
    let path = format!("{FOLDER}/calls/{name}");
    w.line("{");
    w.file(&format!("{path}.n"), &format!("{answer}\n"));
    w.line(&format!("mv {path}.n {path}.a; rm -f {path}.q.*"));
    w.line("}");
    w.text
}

/// One call: the name of its file, and its bytes, or how many there are too many of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) body: Result<Vec<u8>, u64>,
}

/// Calls as they come up: `NAME LENGTH\n` and that many bytes; none when they are too many.
pub(super) struct Calls {
    most: usize,
    bytes: Vec<u8>,
}

/// Bytes of a call's line.
const LINE: usize = 200;

impl Calls {
    pub(super) fn new(most: usize) -> Self {
        Self { most, bytes: Vec::new() }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The length of the next call's body when it is whole. An error: this is no call.
    pub(super) fn peek(&self) -> Result<Option<usize>, ()> {
        let Some((_, length, at)) = self.line()? else { return Ok(None) };
        let length = usize::try_from(length).ok().filter(|length| *length <= self.most).unwrap_or(0);
        Ok((self.bytes.len() >= at + length).then_some(length))
    }

    /// The next call, where it is whole.
    pub(super) fn take(&mut self) -> Option<Call> {
        let (name, length, at) = self.line().ok().flatten()?;
        let fits = usize::try_from(length).ok().filter(|length| *length <= self.most);
        let rest = self.bytes.split_off(at + fits.unwrap_or(0));
        let body = std::mem::replace(&mut self.bytes, rest).split_off(at);
        Some(Call { name, body: fits.map(|_| body).ok_or(length) })
    }

    /// Name, length, and where the body begins.
    fn line(&self) -> Result<Option<(String, u64, usize)>, ()> {
        let Some(end) = self.bytes.iter().take(LINE).position(|&byte| byte == b'\n') else {
            return if self.bytes.len() < LINE { Ok(None) } else { Err(()) };
        };
        let line = std::str::from_utf8(&self.bytes[..end]).map_err(drop)?;
        let (name, length) = line.split_once(' ').ok_or(())?;
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let length = length.parse().map_err(drop)?;
        if is_name { Ok(Some((name.to_owned(), length, end + 1))) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_at_every_split() {
        let all = b"12-ab 9\nGET input1-x 0\n2-y 1001\n3-z 4\na\nb\n";
        let call = |name: &str, body: &[u8]| Call { name: name.to_owned(), body: Ok(body.to_vec()) };
        let long = Call { name: "2-y".to_owned(), body: Err(1001) };
        let want = [call("12-ab", b"GET input"), call("1-x", b""), long, call("3-z", b"a\nb\n")];
        for split in 0..=all.len() {
            let mut calls = Calls::new(1000);
            let mut found = Vec::new();
            for part in [&all[..split], &all[split..]] {
                calls.feed(part);
                while calls.peek().expect("calls").is_some() {
                    found.extend(calls.take());
                }
            }
            assert_eq!(found, want, "{split}");
            assert!(calls.bytes.is_empty());
        }
    }

    #[test]
    fn what_is_no_call_ends_the_session() {
        for text in ["x\n", "a/b 1\n", " 1\n", "a x\n", "a -1\n", "a.q 1\n", &"x".repeat(LINE), "\u{fc} 1\n"] {
            let mut calls = Calls::new(10);
            calls.feed(text.as_bytes());
            assert_eq!(calls.peek(), Err(()), "{text:?}");
            assert_eq!(calls.take(), None);
        }
    }
}
