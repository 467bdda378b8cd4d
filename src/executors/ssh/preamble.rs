//! What comes before the script's own bytes on a session's two streams: greetings of the login shell, then the lines
//! of our program, each with its nonce, then the line after which everything is the script's. Pure.

use crate::job::Stream;
use crate::limits;

/// What our program said before the script's bytes began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// `setup`: nothing can be done; why.
    Setup(String),
    /// `status`: how the script ended, as the program wrote it.
    Status(String),
    /// `over`: the script had ended before anybody could follow it; the file `status`.
    Over(String),
    /// The job's folder is not there.
    Vanished,
    /// The folder is there, and the script was never started, nor can it be any more.
    Unstarted,
    /// The script was about to be started, and nothing shows whether it was.
    Lost,
    /// The script runs: there is nothing to collect yet.
    Running,
    /// The server was restarted since the script began.
    Rebooted,
}

/// The state of both streams.
#[derive(Debug)]
pub struct Preamble {
    nonce: String,
    streams: [Part; 2],
    word: Option<Word>,
    place: Option<String>,
    crossed: bool,
}

#[derive(Debug, Default)]
struct Part {
    /// The end of a line that is not whole yet, see [`end_of`].
    line: Vec<u8>,
    /// What was not ours.
    noise: Vec<u8>,
    ready: bool,
    over: bool,
}

impl Preamble {
    /// Nothing heard yet.
    pub fn new(nonce: &str) -> Self {
        let streams = [Part::default(), Part::default()];
        Self { nonce: nonce.to_owned(), streams, word: None, place: None, crossed: false }
    }

    /// Takes in what was read; hands on what is the script's.
    pub fn take(&mut self, stream: Stream, mut bytes: &[u8], sink: &mut dyn FnMut(&[u8])) {
        let number = usize::from(stream != Stream::Stdout);
        let part = &mut self.streams[number];
        while !part.over && !bytes.is_empty() {
            let Some(end) = bytes.iter().position(|&b| b == b'\n') else {
                part.hold(bytes);
                return;
            };
            part.hold(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut part.line);
            let line = end_of(&line);
            match read(line, &self.nonce) {
                Some(Line::Ready(of, _) | Line::Follow(of)) if of != number => self.crossed = true,
                Some(Line::Ready(_, place)) => {
                    part.ready = true;
                    self.place = Some(place);
                }
                Some(Line::Follow(_)) => part.over = true,
                Some(Line::Word(word)) => self.word = Some(word),
                None => part.note(line),
            }
        }
        if !bytes.is_empty() {
            sink(bytes);
        }
    }

    /// Whether the program waits for the next one, and both streams arrive as what they are.
    pub fn is_ready(&self) -> bool {
        self.streams.iter().all(|part| part.ready)
    }

    /// Whether the script's bytes have begun on both streams.
    pub fn is_over(&self) -> bool {
        self.streams.iter().all(|part| part.over)
    }

    /// Whether one stream came as the other.
    pub fn is_crossed(&self) -> bool {
        self.crossed
    }

    /// The stream that has not spoken while the other one has, if there is one.
    pub fn missing(&self) -> Option<Stream> {
        match (self.streams[0].ready, self.streams[1].ready) {
            (true, false) => Some(Stream::Stderr),
            (false, true) => Some(Stream::Stdout),
            _ => None,
        }
    }

    /// What the program said last.
    pub fn word(&self) -> Option<&Word> {
        self.word.as_ref()
    }

    /// The folder in which the jobs' folders are, as the server has it.
    pub fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// The last line that was not ours, for a message: what a shell says that cannot run our program.
    pub fn noise(&self) -> String {
        let parts = [&self.streams[1], &self.streams[0]];
        let lines = parts.iter().flat_map(|part| [end_of(&part.line), part.noise.as_slice()]);
        let mut texts = lines.filter_map(|bytes| {
            let text = String::from_utf8_lossy(bytes).trim().to_owned();
            text.lines().last().map(|line| line.chars().take(200).collect::<String>())
        });
        texts.next().unwrap_or_default()
    }
}

impl Part {
    /// Adds bytes to the line, of which twice [`limits::SSH_NOISE`] are kept at most.
    fn hold(&mut self, bytes: &[u8]) {
        let bytes = end_of(bytes);
        if self.line.len() + bytes.len() > 2 * limits::SSH_NOISE {
            let kept = limits::SSH_NOISE - bytes.len();
            self.line.drain(..self.line.len() - kept);
        }
        self.line.extend_from_slice(bytes);
    }

    /// Keeps the newest line that was not ours.
    fn note(&mut self, line: &[u8]) {
        if !line.iter().all(u8::is_ascii_whitespace) {
            self.noise = line.to_vec();
        }
    }
}

/// What is read of a line: its last [`limits::SSH_NOISE`] bytes. A greeting of any length may stand before our word.
fn end_of(line: &[u8]) -> &[u8] {
    &line[line.len().saturating_sub(limits::SSH_NOISE)..]
}

enum Line {
    /// The stream's number, from 0, and the jobs' place.
    Ready(usize, String),
    Follow(usize),
    Word(Word),
}

/// A greeting without a newline may stand before our line, and may hold our word: each place where it stands is looked at.
fn read(line: &[u8], nonce: &str) -> Option<Line> {
    const OURS: &str = "cronium ";
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    text.match_indices(OURS).find_map(|(at, _)| read_at(&text[at + OURS.len()..], nonce))
}

/// Reads what stands behind our word: `follow 00ff 1`.
fn read_at(text: &str, nonce: &str) -> Option<Line> {
    let (what, rest) = text.split_once(' ')?;
    let rest = rest.strip_prefix(nonce)?;
    let said = rest.trim_start_matches([' ', ':']).trim_end().to_owned();
    let stream = |number: &str| match number {
        "1" => Some(0),
        "2" => Some(1),
        _ => None,
    };
    Some(match what {
        "ready" => {
            let (number, place) = said.split_once(' ')?;
            Line::Ready(stream(number)?, place.to_owned())
        }
        "follow" => Line::Follow(stream(&said)?),
        "setup" => Line::Word(Word::Setup(said)),
        "status" => Line::Word(Word::Status(said)),
        "over" => Line::Word(Word::Over(said)),
        "vanished" => Line::Word(Word::Vanished),
        "unstarted" => Line::Word(Word::Unstarted),
        "lost" => Line::Word(Word::Lost),
        "running" => Line::Word(Word::Running),
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
        check(b"cronium follow 00ff 2\nabc\ncronium follow 00ff 2\n", b"abc\ncronium follow 00ff 2\n", None, "");
        check(b"motd\n\nwarning\ncronium follow 00ff 2\nx", b"x", None, "warning");
        check(b"no newline cronium follow 00ff 2\nx", b"x", None, "");
        check(b"cronium follow 0000 2\nx", b"", None, "x");
        let setup = Word::Setup("it has no bash: really".into());
        check(b"cronium setup 00ff: it has no bash: really\n", b"", Some(setup), "");
        check(b"cronium vanished 00ff \n", b"", Some(Word::Vanished), "");
        let status = Word::Status("out=1 err=2 code=0".into());
        check(b"cronium status 00ff out=1 err=2 code=0\ncronium follow 00ff 2\nrest", b"rest", Some(status), "");
        let over = Word::Over("code=3 kept=0,0".into());
        check(b"cronium over 00ff code=3 kept=0,0\n", b"", Some(over), "");
        check(b"sh: not found", b"", None, "sh: not found");
    }

    #[test]
    fn a_prompt_that_holds_our_word_hides_nothing() {
        check(b"cronium $ cronium follow 00ff 2\nx", b"x", None, "");
        check(b"cronium follow cronium cronium  cronium follow 00ff 2\r\nx", b"x", None, "");
        check(b"[cronium follow 0001 2] cronium vanished 00ff \n", b"", Some(Word::Vanished), "");
        check("ü cronium cronium unstarted 00ff \n".as_bytes(), b"", Some(Word::Unstarted), "");
    }

    #[cfg_attr(miri, ignore = "megabytes take Miri hours")]
    #[test]
    fn a_greeting_of_any_length_before_our_word_hides_nothing_however_it_arrives() {
        for greeting in [limits::SSH_NOISE - 10, limits::SSH_NOISE + 10, 3 * limits::SSH_NOISE - 10] {
            let all = [&vec![b'x'; greeting][..], b"cronium follow 00ff 2\nout"].concat();
            for piece in [1, 4096, limits::SSH_NOISE, all.len()] {
                let (mut preamble, mut out) = (Preamble::new("00ff"), Vec::new());
                for part in all.chunks(piece) {
                    preamble.take(Stream::Stderr, part, &mut |bytes| out.extend_from_slice(bytes));
                }
                assert_eq!(out, b"out", "{greeting} bytes in pieces of {piece}");
            }
        }
    }

    #[cfg_attr(miri, ignore = "megabytes take Miri hours")]
    #[test]
    fn both_streams_must_have_begun_and_noise_is_bounded() {
        let mut preamble = Preamble::new("00ff");
        preamble.take(Stream::Stdout, b"cronium follow 00ff 1\n", &mut |_| panic!("nothing yet"));
        assert!(!preamble.is_over());
        for _ in 0..10 {
            preamble.take(Stream::Stderr, &[b'x'; limits::SSH_NOISE], &mut |_| panic!("noise"));
        }
        assert!(preamble.streams[1].line.len() + preamble.streams[1].noise.len() <= 3 * limits::SSH_NOISE);
        preamble.take(Stream::Stderr, b"\ncronium follow 00ff 2\n", &mut |_| panic!("nothing yet"));
        assert!(preamble.is_over());
    }

    #[test]
    fn a_login_that_closes_or_joins_streams_is_found_out_before_a_script_is_sent() {
        let heard = |out: &[u8], err: &[u8]| {
            let mut preamble = Preamble::new("00ff");
            preamble.take(Stream::Stdout, out, &mut |_| panic!("nothing is the script's"));
            preamble.take(Stream::Stderr, err, &mut |_| panic!("nothing is the script's"));
            (preamble.is_ready(), preamble.is_crossed(), preamble.missing(), preamble.place().map(str::to_owned))
        };
        let (one, two) = ("cronium ready 00ff 1 /tmp/a b\n", "cronium ready 00ff 2 /tmp/a b\n");
        let place = Some("/tmp/a b".to_owned());
        assert_eq!(heard(one.as_bytes(), two.as_bytes()), (true, false, None, place.clone()));
        assert_eq!(heard(one.as_bytes(), b""), (false, false, Some(Stream::Stderr), place.clone()));
        assert_eq!(heard(b"", two.as_bytes()), (false, false, Some(Stream::Stdout), place.clone()));
        let (joined, turned) = ((two.to_owned() + one), (two.to_owned() + one));
        assert_eq!(heard(joined.as_bytes(), b""), (false, true, Some(Stream::Stderr), place.clone()));
        assert_eq!(heard(b"", turned.as_bytes()), (false, true, Some(Stream::Stdout), place));
        assert_eq!(heard(b"", b""), (false, false, None, None));
    }
}
