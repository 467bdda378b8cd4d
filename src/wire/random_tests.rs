//! Random numbers that are the same in each run, for tests.

/// How often a test goes round: under Miri, which interprets the program, a hundredth of `usual`.
pub(crate) const fn rounds(usual: usize) -> usize {
    if cfg!(miri) { usual / 100 } else { usual }
}

/// Xorshift.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x2545_F491_4F6C_DD1D)
    }

    /// Below `bound`, which is above 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }

    /// `from` cut into pieces of any length, none empty.
    pub(crate) fn pieces<'a>(&mut self, from: &'a [u8]) -> Vec<&'a [u8]> {
        let (mut pieces, mut rest) = (Vec::new(), from);
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + self.below(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces
    }

    /// Up to `most` parts of an alphabet, one after the other.
    pub(crate) fn text(&mut self, alphabet: &[&[u8]], most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).flat_map(|_| alphabet[self.below(alphabet.len())].to_vec()).collect()
    }

    /// One of them.
    pub(crate) fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
