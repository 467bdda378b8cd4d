//! The decision table of the reconciler: what is to be done about one job, from what each side says of it. No I/O.

/// What the agent's records say of a job that does not run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    None,
    /// Its record waits for a thread that adopts the job.
    Waiting,
    /// Its report waits in the outbox.
    Reported,
    /// A record is on disk that only the next start can use.
    Kept,
    /// It was delivered within the last day, after this container's attempt or a later one.
    Delivered,
}

/// The job's newest container in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    None,
    /// Younger than the grace: the one who made it may still remove it.
    Young,
    Created,
    Running,
    Ended,
}

/// The job's row in the backend's list of this agent's jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// The list was not asked for.
    NotAsked,
    /// The list is cut and does not show the job: that proves nothing.
    Cut,
    Absent,
    /// It is not in the list, and the backend says that a user cancelled the job. A report of it is owed.
    Cancelled,
    /// Listed for too short a time: a poll or a release of this job may be under way.
    Fresh,
    Claimed,
    Running,
}

/// All of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Nothing was claimed yet since the agent's start.
    pub at_start: bool,
    /// It runs here.
    pub here: bool,
    pub record: Record,
    pub container: Container,
    pub row: Row,
}

impl Seen {
    /// A job that runs here, and how its row is.
    pub fn running(row: Row) -> Self {
        Self { at_start: false, here: true, record: Record::None, container: Container::None, row }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Leave,
    Cancel,
    /// By its record.
    Adopt,
    /// By the labels of its container. `doubted`: its report may have been sent before.
    AdoptByLabels {
        doubted: bool,
    },
    RemoveContainer,
    /// Back to the queue.
    Release,
    /// As failed, with an unknown end.
    ReportUnknown,
}

/// The table.
pub fn decide(seen: Seen) -> Action {
    let Seen { at_start, here, record, container, row } = seen;
    match (here, record, container, row) {
        (true, _, _, Row::Cancelled) => Action::Cancel,
        (true, _, _, _) => Action::Leave,
        (false, Record::Waiting, _, _) => Action::Adopt,
        (false, Record::Kept, _, _) | (false, _, Container::Young, _) => Action::Leave,

        (false, Record::Reported, Container::None, _) => Action::Leave,
        (false, Record::Reported, _, _) => Action::RemoveContainer,

        // Nothing of it is here. A claim whose answer was lost goes back. A script that ran is not run again.
        // One that was delivered has its report: a late call of an earlier agent has opened it again.
        (false, _, Container::None, Row::Claimed) => Action::Release,
        (false, Record::Delivered, Container::None, Row::Running) => Action::Leave,
        (false, _, Container::None, Row::Running) if at_start => Action::ReportUnknown,
        (false, _, Container::None, _) => Action::Leave,

        // Its record is lost. The container says what is needed to go on.
        (false, _, _, Row::Claimed | Row::Running) => {
            Action::AdoptByLabels { doubted: container != Container::Running }
        }
        (false, Record::None, _, Row::Cut | Row::Cancelled) => Action::AdoptByLabels { doubted: true },
        (false, _, _, Row::NotAsked | Row::Fresh) => Action::Leave,
        (false, _, _, Row::Cut | Row::Absent | Row::Cancelled) => Action::RemoveContainer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row: at the start, runs here, record, container, row in the list, and what is to be done. `None` means any.
    type Case = (Option<bool>, bool, Option<Record>, Option<Container>, Option<Row>, Action);

    const RECORDS: [Record; 5] = [Record::None, Record::Waiting, Record::Reported, Record::Kept, Record::Delivered];
    const CONTAINERS: [Container; 5] =
        [Container::None, Container::Young, Container::Created, Container::Running, Container::Ended];
    const ROWS: [Row; 7] =
        [Row::NotAsked, Row::Cut, Row::Absent, Row::Cancelled, Row::Fresh, Row::Claimed, Row::Running];

    fn rows() -> Vec<Case> {
        let doubted = Action::AdoptByLabels { doubted: true };
        let sure = Action::AdoptByLabels { doubted: false };
        let mut rows: Vec<Case> = vec![
            (None, true, None, None, Some(Row::Cancelled), Action::Cancel),
            (None, true, None, None, None, Action::Leave),
            (None, false, Some(Record::Waiting), None, None, Action::Adopt),
            (None, false, Some(Record::Kept), None, None, Action::Leave),
            (None, false, None, Some(Container::Young), None, Action::Leave),
            (None, false, Some(Record::Reported), Some(Container::None), None, Action::Leave),
            (None, false, Some(Record::Reported), None, None, Action::RemoveContainer),
            (None, false, None, Some(Container::None), Some(Row::Claimed), Action::Release),
            (None, false, Some(Record::Delivered), Some(Container::None), Some(Row::Running), Action::Leave),
            (Some(true), false, None, Some(Container::None), Some(Row::Running), Action::ReportUnknown),
            (None, false, None, Some(Container::None), None, Action::Leave),
        ];
        for listed in [Row::Claimed, Row::Running] {
            rows.push((None, false, None, Some(Container::Running), Some(listed), sure));
            rows.push((None, false, None, None, Some(listed), doubted));
        }
        rows.extend([
            (None, false, Some(Record::None), None, Some(Row::Cut), doubted),
            (None, false, Some(Record::None), None, Some(Row::Cancelled), doubted),
            (None, false, Some(Record::Delivered), None, Some(Row::Cut), Action::RemoveContainer),
            (None, false, None, None, Some(Row::NotAsked), Action::Leave),
            (None, false, None, None, Some(Row::Fresh), Action::Leave),
            (None, false, None, None, Some(Row::Absent), Action::RemoveContainer),
            (None, false, None, None, Some(Row::Cancelled), Action::RemoveContainer),
        ]);
        rows
    }

    fn every_seen() -> Vec<Seen> {
        let mut all = Vec::new();
        for at_start in [false, true] {
            for here in [false, true] {
                for record in RECORDS {
                    for container in CONTAINERS {
                        all.extend(ROWS.map(|row| Seen { at_start, here, record, container, row }));
                    }
                }
            }
        }
        all
    }

    fn fits(case: &Case, seen: Seen) -> bool {
        let (at_start, here, record, container, row, _) = *case;
        at_start.is_none_or(|want| want == seen.at_start)
            && here == seen.here
            && record.is_none_or(|want| want == seen.record)
            && container.is_none_or(|want| want == seen.container)
            && row.is_none_or(|want| want == seen.row)
    }

    #[test]
    fn each_case_has_its_row() {
        let rows = rows();
        for seen in every_seen() {
            let row = rows.iter().find(|row| fits(row, seen)).unwrap_or_else(|| panic!("no row for {seen:?}"));
            assert_eq!(decide(seen), row.5, "{seen:?}");
        }
    }

    #[test]
    fn no_script_that_may_have_run_goes_back_to_the_queue_and_none_that_runs_here_is_touched() {
        for seen in every_seen() {
            let action = decide(seen);
            if seen.row == Row::Running || seen.container != Container::None || seen.record == Record::Waiting {
                assert_ne!(action, Action::Release, "{seen:?}");
            }
            if seen.here {
                assert!(matches!(action, Action::Leave | Action::Cancel), "{seen:?}");
            }
            if matches!(seen.record, Record::Reported | Record::Kept) {
                assert!(!matches!(action, Action::AdoptByLabels { .. } | Action::Adopt), "{seen:?}");
            }
        }
    }
}
