//! Detects a cancelled job from its row alone.
//!
//! The backend says nothing when a user cancels: the job's row leaves the list of those that this agent holds. One list is
//! not proof (it is cut at 100 rows, and a job may not have entered it yet). So a job counts as cancelled if the list has
//! shown it before, and then two whole lists in a row have not.

use std::collections::{BTreeMap, BTreeSet};

/// Absences in a row that count as a cancel.
const ABSENCES: u8 = 2;

/// What the lists have said so far about the jobs that run.
#[derive(Debug)]
pub struct Tracker<T> {
    jobs: BTreeMap<T, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    listed: bool,
    missing: u8,
}

impl<T> Default for Tracker<T> {
    fn default() -> Self {
        Self { jobs: BTreeMap::new() }
    }
}

impl<T: Ord + Clone> Tracker<T> {
    /// Takes in one list: `running` is what ran before the list was asked for, `listed` what it showed, `whole` whether
    /// it was short enough to be complete. Returns the jobs that count as cancelled, each of them once.
    pub fn observe(&mut self, running: &[T], listed: &BTreeSet<T>, whole: bool) -> Vec<T> {
        self.jobs.retain(|id, _| running.contains(id));
        let mut gone = Vec::new();
        for id in running {
            let seen = self.jobs.entry(id.clone()).or_default();
            if listed.contains(id) {
                *seen = Seen { listed: true, missing: 0 };
            } else if !whole {
                seen.missing = 0;
            } else if seen.listed {
                seen.missing = seen.missing.saturating_add(1);
                if seen.missing == ABSENCES {
                    gone.push(id.clone());
                }
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_job_that_was_listed_and_is_missing_twice_in_a_row_is_gone() {
        // One letter a look at job 7: L listed, - missing from a whole list, f missing from a cut one, x not running.
        for (name, looks, gone_at) in [
            ("the usual cancel", "L--", Some(2)),
            ("told once", "L-----", Some(2)),
            ("never listed", "-----", None),
            ("back in between", "L-L-L-", None),
            ("a cut list proves nothing", "Lfff", None),
            ("a cut list starts the count anew", "L-f-", None),
            ("and then it counts", "L-f--", Some(4)),
            ("a later run of the same id starts anew", "L-x--", None),
        ] {
            let mut tracker = Tracker::default();
            let mut gone = Vec::new();
            for (i, look) in looks.chars().enumerate() {
                let running = if look == 'x' { vec![1] } else { vec![1, 7] };
                let listed = if look == 'L' { BTreeSet::from([1, 7]) } else { BTreeSet::from([1]) };
                for id in tracker.observe(&running, &listed, look != 'f') {
                    assert_eq!(id, 7, "{name}");
                    gone.push(i);
                }
            }
            assert_eq!(gone, gone_at.into_iter().collect::<Vec<_>>(), "{name}");
        }
    }
}
