//! The program's first word on stderr: proof that all of it had arrived and that the script is about to start.
//!
//! A shell whose stdin ends early exits with 0, as a script does that went well. Only the word tells the two apart. It
//! holds the program's random nonce, and it is taken out of the stream before anybody sees it.

/// Looks for the word at the very start of stderr.
#[derive(Debug)]
pub struct Marker {
    word: Vec<u8>,
    matched: usize,
    missed: bool,
}

impl Marker {
    /// The line that the program of this nonce prints first.
    pub fn line(nonce: &str) -> String {
        format!("cronium ready {nonce}")
    }

    /// Nothing seen yet.
    pub fn new(nonce: &str) -> Self {
        Self { word: format!("{}\n", Self::line(nonce)).into_bytes(), matched: 0, missed: false }
    }

    /// Whether the program has begun.
    pub fn is_seen(&self) -> bool {
        !self.missed && self.matched == self.word.len()
    }

    /// Takes the word out of `bytes` and hands on what is left, if anything is.
    pub fn take(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(&[u8])) {
        if !self.missed && self.matched < self.word.len() {
            let rest = &self.word[self.matched..];
            let same = rest.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            if same == bytes.len().min(rest.len()) {
                self.matched += same;
                bytes = &bytes[same..];
            } else {
                // Something else came first: it is the script's, with what looked like the word.
                self.missed = true;
                sink(&self.word[..self.matched]);
            }
        }
        if !bytes.is_empty() {
            sink(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` whole and at every split; gives what came through and whether the word was seen.
    fn check(input: &[u8], through: &[u8], seen: bool) {
        for split in 0..=input.len() {
            let mut marker = Marker::new("00ff");
            let mut out = Vec::new();
            for part in [&input[..split], &input[split..]] {
                marker.take(part, &mut |bytes| out.extend_from_slice(bytes));
            }
            assert_eq!((out.as_slice(), marker.is_seen()), (through, seen), "split at {split}");
        }
    }

    #[test]
    fn the_word_is_taken_out_and_nothing_else() {
        check(b"cronium ready 00ff\n", b"", true);
        check(b"cronium ready 00ff\nerror\n", b"error\n", true);
        check(b"cronium ready 0000\nerror\n", b"cronium ready 0000\nerror\n", false);
        check(b"sh: syntax error\ncronium ready 00ff\n", b"sh: syntax error\ncronium ready 00ff\n", false);
        check(b"", b"", false);
    }
}
