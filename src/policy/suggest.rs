//! "Did you mean": the known word nearest to a misspelt one, for keys, flags and commands.

/// Longer words are never compared: nobody mistypes that much, and the work grows with the square.
const LONGEST: usize = 80;

/// The nearest of `known`, when it is near enough to be what was meant: a third of the letters may differ, casing does
/// not count. The first wins when several are equally near.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Before anything is made of it; a letter has four bytes at most.
    if typed.len() > 4 * LONGEST {
        return None;
    }
    let typed_folded = fold(typed);
    if typed_folded.is_empty() || typed_folded.len() > LONGEST {
        return None;
    }
    let allowed = (typed_folded.len() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    for word in known {
        let folded = fold(word);
        // The difference in length is a lower bound of the distance.
        if folded.len() > LONGEST || folded.len().abs_diff(typed_folded.len()) > allowed {
            continue;
        }
        let far = distance(&typed_folded, &folded);
        if far <= allowed && far < folded.len() && best.is_none_or(|(least, _)| far < least) {
            best = Some((far, word));
        }
    }
    best.map(|(_, word)| word)
}

fn fold(word: &str) -> Vec<char> {
    word.chars().flat_map(char::to_lowercase).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = previous[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(previous[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut previous, row);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn the_nearest_word_is_found() {
        let known = ["run", "validate", "version", "exec", "maxConcurrent", "--log-level", "--config"];
        let table = [
            ("validte", Some("validate")),
            ("vaildate", Some("validate")),
            ("Version", Some("version")),
            ("exce", Some("exec")),
            ("ru", Some("run")),
            ("rum", Some("run")),
            ("maxconcurent", Some("maxConcurrent")),
            ("max_concurrent", Some("maxConcurrent")),
            ("--loglevel", Some("--log-level")),
            ("--cfg", None),
            ("banana", None),
            ("", None),
            ("x", None),
        ];
        for (typed, expected) in table {
            assert_eq!(nearest(typed, known), expected, "{typed}");
        }
        assert_eq!(nearest(&"a".repeat(100_000), known), None);
    }

    #[test]
    fn distances_are_counted() {
        let table = [("", "", 0), ("a", "", 1), ("abc", "abc", 0), ("abc", "acb", 1), ("kitten", "sitting", 3)];
        for (a, b, expected) in table {
            let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
            assert_eq!((distance(&a, &b), distance(&b, &a)), (expected, expected));
        }
    }
}
