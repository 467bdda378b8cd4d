//! Where the next agent goes on with the output of a job.
//!
//! A script prints two streams of bytes. The agent cuts them into lines, numbers the lines, and sends them live. An agent
//! that adopts the job reads the output again from its first byte, since the result needs all of it. A [`ResumePoint`]
//! says what it must not send again:
//!
//! | field | says | the next agent |
//! | --- | --- | --- |
//! | `stdout`, `stderr` | bytes of each stream, up to the end of a line | keeps them for the result, sends nothing of them |
//! | `lines` | lines in them | counts on from there |
//! | `sequence` | the number of the last live line | numbers the next line with the one after it |
//! | `open` | the numbers of lines that were shown before they ended | gives each of these lines its number again |
//!
//! Bytes are the script's own: the executor takes the words of the agent's program out before. The record of a job has
//! one point; on several servers, each server has a point too, and the job's own has `sequence` alone.
//!
//! **A point is safe once its lines have arrived.** A point written too early would lose, after a kill, the lines that
//! were still under way. So [`Progress`] notes a point at each pause of the output, and gives out the latest one whose
//! lines have all arrived at the backend. Without a live log nothing is under way, and the latest point counts. There are
//! at most [`limits::RESUME_POINTS`]; beyond that, every other one is dropped. A coarser point sends lines twice, it never
//! leaves one out.
//!
//! **After a kill** the record is up to [`limits::PROGRESS_EVERY`] old. The lines since then are sent twice, with the same
//! numbers if both streams arrive in the same order. Lines of several servers come side by side, so that nobody knows
//! which line had which number. There the record says a number that no line can have had: it is ahead by twice what was
//! ever used between two checkpoints, and by [`limits::SSH_NUMBERS_AHEAD`] at least. Readers see a gap, and never two
//! lines with one number.
//!
//! **Offsets count from the first byte.** The engine's copy of the output is capped. Where its beginning is gone, an offset
//! means nothing: all of the copy is sent, after a line that says so ([`crate::job::Output::lost_beginning`]).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::job::Stream;
use crate::limits;
use crate::logs::{Mark, Origin};

/// A place at the end of a line of both streams, as a record keeps it. See the module's page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumePoint {
    /// Bytes of stdout.
    pub stdout: u64,
    /// Bytes of stderr.
    pub stderr: u64,
    /// Lines of both.
    pub lines: u64,
    /// The last number given to a live line.
    pub sequence: u64,
    /// Whether there is a live log. Agents before 0.2 cannot read a record without it.
    pub live: bool,
    /// The numbers of the unfinished lines of stdout and stderr; 0 for one that was not shown. Agents before 0.2 did not
    /// write them.
    #[serde(default)]
    pub open: [u64; 2],
}

/// How far the output of a job, or of one of its servers, has come. Its worker notes it, the record asks for it.
#[derive(Debug, Default)]
pub struct Progress {
    mark: Mark,
    /// Where its lines come from: 0 is the job, others are its servers.
    part: u32,
    /// Oldest first, each with the number of lines that were taken before it.
    points: Mutex<VecDeque<(u64, ResumePoint)>>,
    numbers: Mutex<Numbers>,
}

/// The numbers that live lines take from one checkpoint to the next.
#[derive(Debug, Default)]
struct Numbers {
    last: u64,
    most: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    /// Output that goes on from `start`.
    pub fn from(mark: Mark, part: u32, start: ResumePoint) -> Self {
        let points = Mutex::new(VecDeque::from([(0, start)]));
        let progress = Self { mark, part, points, numbers: Mutex::default() };
        for (stream, sequence) in [Stream::Stdout, Stream::Stderr].into_iter().zip(start.open) {
            if sequence > 0 {
                progress.mark.keep_open(progress.origin(stream), sequence);
            }
        }
        progress
    }

    /// The same live log, for another of its servers.
    pub fn of_part(&self, part: u32, start: ResumePoint) -> Self {
        Self::from(self.mark.clone(), part, start)
    }

    /// What `stream` of it is to the live log.
    pub fn origin(&self, stream: Stream) -> Origin {
        Origin { part: self.part, stream }
    }

    /// Notes a point after these bytes and lines. All lines before it have been handed to the live log.
    pub fn note(&self, [stdout, stderr]: [u64; 2], lines: u64) {
        let origins = [self.origin(Stream::Stdout), self.origin(Stream::Stderr)];
        let (numbers, open) = self.mark.numbers_and_open(origins);
        let (sequence, live) = (numbers.sequence, self.mark.is_live());
        self.push((numbers.taken, ResumePoint { stdout, stderr, lines, sequence, live, open }));
    }

    fn push(&self, point: (u64, ResumePoint)) {
        let mut points = lock(&self.points);
        if points.back().is_some_and(|last| *last == point) {
            return;
        }
        if points.len() >= limits::RESUME_POINTS {
            let mut odd = false;
            points.retain(|_| {
                odd = !odd;
                odd
            });
        }
        points.push_back(point);
    }

    /// The latest point that is safe.
    pub fn point(&self) -> ResumePoint {
        let arrived = self.mark.numbers().arrived;
        let mut points = lock(&self.points);
        while points.len() > 1 && (!self.mark.is_live() || points[1].0 <= arrived) {
            points.pop_front();
        }
        points.front().map(|(_, point)| *point).unwrap_or_default()
    }

    /// The last number given to a live line.
    pub fn last_number(&self) -> u64 {
        self.mark.numbers().sequence
    }

    /// A number that no line of several servers has before the next checkpoint.
    pub fn number_ahead(&self) -> u64 {
        self.last_number() + limits::SSH_NUMBERS_AHEAD.max(lock(&self.numbers).most.saturating_mul(2))
    }

    /// A checkpoint: measures how many numbers were taken since the one before.
    pub fn measure(&self) {
        let last = self.last_number();
        let mut numbers = lock(&self.numbers);
        numbers.most = numbers.most.max(last.saturating_sub(numbers.last));
        numbers.last = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_points_are_bounded() {
        let progress = Progress::default();
        for n in 0..10 * limits::RESUME_POINTS as u64 {
            progress.push((n, ResumePoint { stdout: n, sequence: n, ..ResumePoint::default() }));
            assert!(progress.points.lock().expect("lock").len() <= limits::RESUME_POINTS);
        }
        assert_eq!(progress.point().stdout, 10 * limits::RESUME_POINTS as u64 - 1);
    }
}
