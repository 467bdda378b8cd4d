//! Finds many needles in one pass over a stream: the automaton of Aho and Corasick, behind a table that skips.
//!
//! Each state stands for the longest end of the stream that is the beginning of a needle. So a state says how many bytes
//! must wait for the next ones, and the work a byte is bounded whatever the needles are. Most text holds no needle: there
//! the table says from three bytes how far the search may jump, as in the search of Wu and Manber.

/// A place in the automaton.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State(u32);

/// Nothing has come that may be part of a needle.
pub(super) const ROOT: State = State(0);

/// Bytes of a block that the table knows.
const BLOCK: usize = 3;
const TABLE_BITS: u32 = 15;
/// Beginnings longer than this make the jumps hardly longer.
const WINDOW_MAX: usize = 12;

/// One node of the trie. A node's first child follows it at once.
#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// The next child of the same parent, 0 for none.
    sibling: u32,
    /// The longest proper end of this node's text that is a node too.
    fail: u32,
    depth: u16,
    /// Length of the longest needle that ends here, 0 for none.
    longest: u16,
    byte: u8,
    has_child: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Machine {
    nodes: Vec<Node>,
    /// The children of the root, by their byte.
    first: Box<[u32; 256]>,
    /// Bytes of each needle that the table looks at.
    window: usize,
    /// By the hash of a block that ends such a window: how far no needle begins.
    jumps: Vec<u8>,
    longest: usize,
}

fn hash(block: [u8; BLOCK]) -> usize {
    let number = u32::from_le_bytes([block[0], block[1], block[2], 0]);
    (number.wrapping_mul(0x9E37_79B1) >> (32 - TABLE_BITS)) as usize
}

impl Machine {
    /// Of `needles`, each of at least `BLOCK` bytes and at most `u16::MAX`. Their order says nothing.
    pub(super) fn new(mut needles: Vec<Vec<u8>>) -> Self {
        needles.sort_unstable();
        needles.dedup();
        let shortest = needles.iter().map(Vec::len).min().unwrap_or(WINDOW_MAX);
        let window = shortest.min(WINDOW_MAX);
        let longest = needles.iter().map(Vec::len).max().unwrap_or_default();
        let (nodes, parents) = trie(&needles);
        let mut machine = Self { nodes, first: Box::new([0; 256]), window, jumps: jumps(&needles, window), longest };
        machine.link(&parents);
        machine
    }

    /// Whether there is nothing to find.
    pub(super) fn is_empty(&self) -> bool {
        self.longest == 0
    }

    /// Bytes of the longest needle.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Bytes in memory.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.nodes.len() * size_of::<Node>() + self.jumps.len() + size_of_val(&*self.first)
    }

    /// Links each node with the one to go on from when no child fits. Shorter ones first: they are the targets.
    fn link(&mut self, parents: &[u32]) {
        let mut at = if self.nodes[0].has_child { 1 } else { 0 };
        while at != 0 {
            self.first[usize::from(self.nodes[at as usize].byte)] = at;
            at = self.nodes[at as usize].sibling;
        }
        let mut order: Vec<u32> = (1..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).collect();
        order.sort_by_key(|&at| self.nodes[at as usize].depth);
        for at in order {
            let node = self.nodes[at as usize];
            if node.depth < 2 {
                continue;
            }
            let from = State(self.nodes[parents[at as usize] as usize].fail);
            let fail = self.step(from, node.byte).0;
            let inherited = self.nodes[fail as usize].longest;
            let node = &mut self.nodes[at as usize];
            node.fail = fail;
            // Its own needle is longer than any that ends in it.
            if node.longest == 0 {
                node.longest = inherited;
            }
        }
    }

    fn child(&self, of: u32, byte: u8) -> Option<u32> {
        if !self.nodes[of as usize].has_child {
            return None;
        }
        let mut at = of + 1;
        loop {
            let node = &self.nodes[at as usize];
            if node.byte == byte {
                return Some(at);
            }
            if node.sibling == 0 || node.byte > byte {
                return None;
            }
            at = node.sibling;
        }
    }

    /// The state after one more byte.
    pub(super) fn step(&self, from: State, byte: u8) -> State {
        let mut at = from.0;
        while at != 0 {
            if let Some(next) = self.child(at, byte) {
                return State(next);
            }
            at = self.nodes[at as usize].fail;
        }
        State(self.first[usize::from(byte)])
    }

    /// How many of the last bytes may be the beginning of a needle.
    pub(super) fn depth(&self, at: State) -> usize {
        usize::from(self.nodes[at.0 as usize].depth)
    }

    /// Bytes of the longest needle that ends here; 0 for none.
    pub(super) fn found(&self, at: State) -> usize {
        usize::from(self.nodes[at.0 as usize].longest)
    }

    /// Bytes from which the table can say something. No needle is shorter.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// The next place from `at` on where a needle may begin in `data`, or from where it is too short for the table.
    pub(super) fn skip(&self, data: &[u8], mut at: usize) -> usize {
        let (jumps, window) = (&self.jumps[..], self.window);
        while let Some(&[.., a, b, c]) = data.get(at..at + window) {
            let jump = jumps[hash([a, b, c])];
            if jump == 0 {
                return at;
            }
            at += usize::from(jump);
        }
        at.min(data.len())
    }
}

/// The trie of sorted needles, each node behind its parent, and the parent of each.
fn trie(needles: &[Vec<u8>]) -> (Vec<Node>, Vec<u32>) {
    let (mut nodes, mut parents) = (vec![Node::default()], vec![0]);
    // The nodes of the needle before, by their depth.
    let mut path: Vec<u32> = vec![0];
    let mut before: &[u8] = &[];
    for needle in needles {
        let common = needle.iter().zip(before).take_while(|(a, b)| a == b).count();
        for (at, &byte) in needle.iter().enumerate().skip(common) {
            let (new, parent) = (u32::try_from(nodes.len()).unwrap_or(u32::MAX), path[at]);
            if nodes[parent as usize].has_child {
                // Where the two needles part, the one before has the child before.
                nodes[path[at + 1] as usize].sibling = new;
            }
            nodes[parent as usize].has_child = true;
            nodes.push(Node { byte, depth: u16::try_from(at + 1).unwrap_or(u16::MAX), ..Node::default() });
            parents.push(parent);
            path.truncate(at + 1);
            path.push(new);
        }
        path.truncate(needle.len() + 1);
        nodes[path[needle.len()] as usize].longest = u16::try_from(needle.len()).unwrap_or(u16::MAX);
        before = needle;
    }
    (nodes, parents)
}

fn jumps(needles: &[Vec<u8>], window: usize) -> Vec<u8> {
    let far = window + 1 - BLOCK.min(window);
    let mut jumps = vec![u8::try_from(far).unwrap_or(u8::MAX); 1 << TABLE_BITS];
    for needle in needles {
        for (at, block) in needle[..window].windows(BLOCK).enumerate() {
            let jump = &mut jumps[hash([block[0], block[1], block[2]])];
            *jump = (*jump).min(u8::try_from(window - BLOCK - at).unwrap_or_default());
        }
    }
    jumps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::random::Random;

    /// All places where a needle ends, with the longest that ends there.
    fn ends(needles: &[Vec<u8>], text: &[u8]) -> Vec<(usize, usize)> {
        let longest = |end: usize| needles.iter().filter(|n| text[..end].ends_with(n)).map(Vec::len).max();
        (1..=text.len()).filter_map(|end| Some((end, longest(end)?))).collect()
    }

    #[test]
    fn it_finds_what_a_simple_search_finds_and_knows_what_may_become_a_needle() {
        let mut random = Random::new(1);
        for round in 0..500 {
            let alphabet: &[&[u8]] = &[b"a", b"b", b"ab", b"c"];
            let count = 1 + random.below(6);
            let mut needles: Vec<Vec<u8>> = (0..count).map(|_| random.text(alphabet, 8)).collect();
            needles.retain(|needle| needle.len() >= BLOCK);
            let machine = Machine::new(needles.clone());
            let text = random.text(alphabet, 60);
            let (mut state, mut found) = (ROOT, Vec::new());
            for (at, &byte) in text.iter().enumerate() {
                state = machine.step(state, byte);
                if machine.found(state) > 0 {
                    found.push((at + 1, machine.found(state)));
                }
                let begins = |n: &usize| needles.iter().any(|needle| needle.starts_with(&text[at + 1 - n..=at]));
                let open = (1..=at + 1).rev().find(begins).unwrap_or_default();
                assert_eq!(machine.depth(state), open, "round {round}, after byte {at}");
            }
            assert_eq!(found, ends(&needles, &text), "round {round}");
        }
    }

    #[test]
    fn a_jump_passes_over_no_beginning() {
        let mut random = Random::new(2);
        for round in 0..500 {
            let alphabet: &[&[u8]] = &[b"abcdef", b"x", b"cde", b"\n", b"yz", b"fgh"];
            let mut needles: Vec<Vec<u8>> = (0..3).map(|_| random.text(alphabet, 5)).collect();
            needles.retain(|needle| needle.len() >= 6);
            let machine = Machine::new(needles.clone());
            let text = random.text(alphabet, 40);
            let mut at = 0;
            while at < text.len() {
                let next = machine.skip(&text, at);
                for passed in at..next {
                    assert!(!needles.iter().any(|needle| text[passed..].starts_with(needle)), "round {round}");
                }
                at = next + 1;
            }
        }
    }
}
