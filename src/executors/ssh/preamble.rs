//! What comes before the script's own bytes on a session's two streams: greetings of the login shell, then the lines
//! of our program, each with its nonce, then the line after which everything is the script's. Pure.

use crate::job::Stream;
use crate::limits;

/// What our program said before the script's bytes began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// `setup`: the script cannot be started; why.
    Setup(String),
    /// `status`: how the script ended, as the program wrote it.
    Status(String),
    /// `over`: the script had ended before anybody could follow it; the file `status`.
    Over(String),
    /// The job's folder is not there.
    Vanished,
    /// The folder is there, and the script was never started.
    Unstarted,
    /// The server was restarted since the script began.
    Rebooted,
}

/// The state of both streams.
#[derive(Debug)]
pub struct Preamble {
    nonce: String,
    streams: [Part; 2],
    word: Option<Word>,
}

#[derive(Debug, Default)]
struct Part {
    /// Bytes of a line that is not whole yet.
    line: Vec<u8>,
    /// What was not ours.
    noise: Vec<u8>,
    over: bool,
}

impl Preamble {
    /// Nothing heard yet.
    pub fn new(nonce: &str) -> Self {
        Self { nonce: nonce.to_owned(), streams: [Part::default(), Part::default()], word: None }
    }

    /// Takes in what was read; hands on what is the script's.
    pub fn take(&mut self, stream: Stream, mut bytes: &[u8], sink: &mut dyn FnMut(&[u8])) {
        let part = &mut self.streams[usize::from(stream != Stream::Stdout)];
        while !part.over && !bytes.is_empty() {
            let Some(end) = bytes.iter().position(|&b| b == b'\n') else {
                part.line.extend_from_slice(bytes);
                if part.line.len() > limits::SSH_NOISE {
                    let line = std::mem::take(&mut part.line);
                    part.note(&line);
                }
                return;
            };
            part.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut part.line);
            match read(&line, &self.nonce) {
                Some(Line::Follow) => part.over = true,
                Some(Line::Word(word)) => self.word = Some(word),
                None => part.note(&line),
            }
        }
        if !bytes.is_empty() {
            sink(bytes);
        }
    }

    /// Whether the script's bytes have begun on both streams.
    pub fn is_over(&self) -> bool {
        self.streams.iter().all(|part| part.over)
    }

    /// What the program said last.
    pub fn word(&self) -> Option<&Word> {
        self.word.as_ref()
    }

    /// The last line that was not ours, for a message: what a shell says that cannot run our program.
    pub fn noise(&self) -> String {
        let parts = [&self.streams[1], &self.streams[0]];
        let lines = parts.iter().flat_map(|part| [part.line.as_slice(), part.noise.as_slice()]);
        let mut texts = lines.filter_map(|bytes| {
            let text = String::from_utf8_lossy(bytes).trim().to_owned();
            text.lines().last().map(|line| line.chars().take(200).collect::<String>())
        });
        texts.next().unwrap_or_default()
    }
}

impl Part {
    /// Keeps the newest line that was not ours.
    fn note(&mut self, line: &[u8]) {
        if !line.iter().all(u8::is_ascii_whitespace) {
            self.noise = line[..line.len().min(limits::SSH_NOISE)].to_vec();
        }
    }
}

enum Line {
    Follow,
    Word(Word),
}

fn read(line: &[u8], nonce: &str) -> Option<Line> {
    let text = String::from_utf8_lossy(line);
    // A greeting without a newline may stand before our first line.
    let text = &text[text.find("cronium ")?..];
    let mut parts = text.trim_end_matches('\r').splitn(3, ' ').skip(1);
    let (what, rest) = (parts.next()?, parts.next()?);
    let rest = rest.strip_prefix(nonce)?;
    let said = rest.trim_start_matches([' ', ':']).to_owned();
    Some(match what {
        "follow" => Line::Follow,
        "setup" => Line::Word(Word::Setup(said)),
        "status" => Line::Word(Word::Status(said)),
        "over" => Line::Word(Word::Over(said)),
        "vanished" => Line::Word(Word::Vanished),
        "unstarted" => Line::Word(Word::Unstarted),
        "rebooted" => Line::Word(Word::Rebooted),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds stderr whole and at every split.
    fn check(input: &[u8], want: &[u8], word: Option<Word>, noise: &str) {
        for split in 0..=input.len() {
            let mut preamble = Preamble::new("00ff");
            let mut out = Vec::new();
            for part in [&input[..split], &input[split..]] {
                preamble.take(Stream::Stderr, part, &mut |bytes| out.extend_from_slice(bytes));
            }
            assert_eq!((out.as_slice(), preamble.word()), (want, word.as_ref()), "split at {split}");
            assert_eq!(preamble.noise(), noise, "split at {split}");
        }
    }

    #[test]
    fn only_what_follows_is_the_scripts() {
        check(b"cronium follow 00ff\nabc\ncronium follow 00ff\n", b"abc\ncronium follow 00ff\n", None, "");
        check(b"motd\n\nwarning\ncronium follow 00ff\nx", b"x", None, "warning");
        check(b"no newline cronium follow 00ff\nx", b"x", None, "");
        check(b"cronium follow 0000\nx", b"", None, "x");
        let setup = Word::Setup("it has no bash: really".into());
        check(b"cronium setup 00ff: it has no bash: really\n", b"", Some(setup), "");
        check(b"cronium vanished 00ff\n", b"", Some(Word::Vanished), "");
        let status = Word::Status("out=1 err=2 code=0".into());
        check(b"cronium status 00ff out=1 err=2 code=0\ncronium follow 00ff\nrest", b"rest", Some(status), "");
        let over = Word::Over("code=3 kept=0,0".into());
        check(b"cronium over 00ff code=3 kept=0,0\n", b"", Some(over), "");
        check(b"sh: not found", b"", None, "sh: not found");
    }

    #[test]
    fn both_streams_must_have_begun_and_noise_is_bounded() {
        let mut preamble = Preamble::new("00ff");
        preamble.take(Stream::Stdout, b"cronium follow 00ff\n", &mut |_| panic!("nothing yet"));
        assert!(!preamble.is_over());
        for _ in 0..10 {
            preamble.take(Stream::Stderr, &[b'x'; limits::SSH_NOISE], &mut |_| panic!("noise"));
        }
        assert!(preamble.streams[1].line.len() + preamble.streams[1].noise.len() <= 3 * limits::SSH_NOISE);
        preamble.take(Stream::Stderr, b"\ncronium follow 00ff\n", &mut |_| panic!("nothing yet"));
        assert!(preamble.is_over());
    }
}
