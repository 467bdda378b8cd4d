//! A job's lines in transit: order, numbers, bounds.

use std::time::UNIX_EPOCH;

use super::*;

fn texts(buffer: &Buffer, n: usize) -> Vec<(u64, String)> {
    buffer.next(n).map(|l| (l.sequence, String::from_utf8_lossy(l.text).into_owned())).collect()
}

#[test]
fn a_long_stream_keeps_order_numbers_and_a_small_block() {
    let now = Instant::now();
    let mut buffer = Buffer::new(100);
    let mut seen = 0;
    for n in 1..=50_000u64 {
        assert!(buffer.has_room(20));
        buffer.push(Stream::Stdout, format!("line {n}").as_bytes(), UNIX_EPOCH, now);
        if n % 7 == 0 {
            let k = buffer.batch(50, 1000);
            for (sequence, text) in texts(&buffer, k) {
                seen += 1;
                assert_eq!((sequence, text), (seen, format!("line {seen}")));
            }
            buffer.mark_sent(k, now);
            buffer.release(k, UNIX_EPOCH, now);
        }
    }
    assert!(buffer.text.capacity() < 16 * 1024, "{}", buffer.text.capacity());
    assert_eq!(buffer.delivered() + buffer.unsent() as u64, 50_000);
}

#[test]
fn both_bounds_hold() {
    let now = Instant::now();
    let mut buffer = Buffer::new(3);
    for _ in 0..3 {
        assert!(buffer.has_room(1));
        buffer.push(Stream::Stderr, b"x", UNIX_EPOCH, now);
    }
    assert!(!buffer.has_room(1));
    let mut buffer = Buffer::new(1_000_000);
    while buffer.has_room(1000) {
        buffer.push(Stream::Stderr, &[b'x'; 1000], UNIX_EPOCH, now);
    }
    assert!(buffer.weight() <= LOG_JOB_BYTES && buffer.weight() > LOG_JOB_BYTES - 1100);
    assert!(!Buffer::new(3).has_room(LOG_JOB_BYTES));
    assert!(!Buffer::new(3).may_wait(LOG_JOB_BYTES));
}

#[test]
fn lines_that_come_together_are_taken_as_one_after_the_other() {
    let now = Instant::now();
    let (mut together, mut each) = (Buffer::new(5), Buffer::new(5));
    let pieces: [&[(Stream, &str)]; 2] =
        [&[(Stream::Stdout, "one"), (Stream::Stderr, ""), (Stream::Stdout, "three")], &[(Stream::System, "four")]];
    for lines in pieces {
        let text: String = lines.iter().map(|(_, text)| *text).collect();
        let ends = lines.iter().map(|(stream, text)| ((*stream).into(), UNIX_EPOCH, text.len()));
        together.push_all(text.as_bytes(), ends, now);
        for (stream, text) in lines {
            each.push(*stream, text.as_bytes(), UNIX_EPOCH, now);
        }
        assert!(together.next(9).eq(each.next(9)) && together.unsent() == each.unsent());
        for buffer in [&mut together, &mut each] {
            buffer.mark_sent(2, now);
            buffer.release(2, UNIX_EPOCH, now);
        }
    }
    assert!(together.is_empty() && each.is_empty());
    for buffer in [&mut together, &mut each] {
        buffer.push(Stream::Stdout, b"five", UNIX_EPOCH, now);
        assert_eq!(texts(buffer, 9), [(5, "five".to_owned())]);
    }
    assert!(together.has_room_for(4, 8) && !together.has_room_for(5, 8), "five lines are the most");
    let rest = LOG_JOB_BYTES - 4 - 2 * LOG_LINE_OVERHEAD;
    assert!(together.has_room_for(1, rest) && !together.has_room_for(1, rest + 1));
}

#[test]
fn left_out_lines_keep_their_numbers_and_are_told_once_half_is_free() {
    let now = Instant::now();
    let mut buffer = Buffer::new(4);
    for n in 1..=4 {
        buffer.push(Stream::Stdout, format!("{n}").as_bytes(), UNIX_EPOCH, now);
    }
    for _ in 5..=9 {
        buffer.leave_out(Stream::Stdout.into(), 1);
    }
    buffer.mark_sent(4, now);
    buffer.release(1, UNIX_EPOCH, now);
    assert!(!buffer.has_room(1), "three of four are still held");
    assert_eq!(buffer.unsent(), 0);
    buffer.release(1, UNIX_EPOCH, now);
    let told = texts(&buffer, 9);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, 10);
    assert!(told[0].1.starts_with("5 lines were left out of the live stream"), "{}", told[0].1);
    assert!(buffer.has_room(1));
    assert_eq!((buffer.dropped(), buffer.delivered()), (5, 2));
}

#[test]
fn a_lost_connection_sends_the_same_lines_again() {
    let now = Instant::now();
    let mut buffer = Buffer::new(10);
    for n in 1..=6 {
        buffer.push(Stream::Stdout, format!("{n}").as_bytes(), UNIX_EPOCH, now);
    }
    buffer.mark_sent(5, now);
    buffer.release(2, UNIX_EPOCH, now);
    assert_eq!((buffer.in_flight(), buffer.unsent()), (3, 1));
    buffer.rewind(now);
    let again: Vec<u64> = buffer.next(9).map(|l| l.sequence).collect();
    assert_eq!(again, [3, 4, 5, 6]);
    assert_eq!(buffer.release(9, UNIX_EPOCH, now), 0, "nothing is in flight, so nothing can have arrived");
    assert_eq!(buffer.discard(), 4);
    assert!(buffer.is_empty() && buffer.waiting_since().is_none());
}

#[test]
fn a_batch_is_bounded_by_lines_and_bytes_but_never_empty() {
    let now = Instant::now();
    let mut buffer = Buffer::new(10);
    assert_eq!(buffer.batch(5, 100), 0);
    buffer.push(Stream::Stdout, &[b'x'; 500], UNIX_EPOCH, now);
    assert_eq!(buffer.batch(5, 100), 1);
    for _ in 0..4 {
        buffer.push(Stream::Stdout, &[b'x'; 40], UNIX_EPOCH, now);
    }
    buffer.mark_sent(1, now);
    assert_eq!(buffer.batch(5, 100), 2);
    assert_eq!(buffer.batch(1, 100), 1);
    assert_eq!(buffer.batch(9, 1000), 4);
}

fn shown(buffer: &Buffer) -> Vec<(u64, String, bool)> {
    buffer.next(9).map(|l| (l.sequence, String::from_utf8_lossy(l.text).into_owned(), l.partial)).collect()
}

const STDOUT: Origin = Origin { part: 0, stream: Stream::Stdout };

#[test]
fn a_line_that_was_sent_in_part_keeps_its_sequence_and_no_other_gets_it() {
    let now = Instant::now();
    let mut buffer = Buffer::new(10);
    buffer.push(STDOUT, b"one", UNIX_EPOCH, now);
    assert!(buffer.push_partial(STDOUT, b"tw", UNIX_EPOCH, now));
    assert!(!buffer.push_partial(STDOUT, b"tw...", UNIX_EPOCH, now), "the last one has not arrived");
    let server = Origin { part: 1, ..STDOUT };
    assert!(buffer.push_partial(server, b"[a] x", UNIX_EPOCH, now), "another one's line");
    buffer.push(Stream::Stderr, b"error", UNIX_EPOCH, now);
    let first = [(1, "one", false), (2, "tw", true), (3, "[a] x", true), (4, "error", false)];
    assert!(shown(&buffer).iter().map(|(n, text, partial)| (*n, text.as_str(), *partial)).eq(first));
    buffer.mark_sent(4, now);
    buffer.release(4, UNIX_EPOCH, now);
    assert_eq!((buffer.delivered(), buffer.open_at(STDOUT), buffer.open_at(server)), (2, Some(2), Some(3)));
    assert!(buffer.push_partial(STDOUT, b"two", UNIX_EPOCH, now), "there is more of it");
    for (origin, text) in [(STDOUT, "two!"), (STDOUT, "three"), (server, "[a] y"), (server, "[a] z")] {
        buffer.push(origin, text.as_bytes(), UNIX_EPOCH, now);
    }
    let numbers: Vec<u64> = shown(&buffer).iter().map(|(n, ..)| *n).collect();
    assert_eq!((numbers, buffer.open_at(STDOUT)), (vec![2, 2, 5, 3, 6], None));
    assert_eq!(buffer.discard(), 4, "of lines that ended");
}

#[test]
fn a_partial_line_counts_as_nothing_taken_and_its_whole_does() {
    let now = Instant::now();
    let mut buffer = Buffer::new(10);
    let numbers = |sequence, taken, arrived| Numbers { sequence, taken, arrived };
    assert!(buffer.push_partial(STDOUT, b"tw", UNIX_EPOCH, now));
    assert_eq!(buffer.numbers(), numbers(1, 0, 0));
    buffer.push(Stream::Stderr, b"error", UNIX_EPOCH, now);
    assert_eq!(buffer.numbers(), numbers(2, 1, 0));
    buffer.mark_sent(2, now);
    buffer.release(1, UNIX_EPOCH, now);
    assert_eq!(buffer.numbers(), numbers(2, 1, 0));
    buffer.release(1, UNIX_EPOCH, now);
    assert_eq!(buffer.numbers(), numbers(2, 1, 1));
    buffer.push(STDOUT, b"two", UNIX_EPOCH, now);
    assert_eq!(buffer.numbers(), numbers(2, 2, 1), "its number is an old one, and it has not arrived");
    buffer.mark_sent(1, now);
    buffer.release(1, UNIX_EPOCH, now);
    assert_eq!(buffer.numbers(), numbers(2, 2, 2));
    // A left-out line still has the number that was kept for it.
    assert!(buffer.push_partial(STDOUT, b"thr", UNIX_EPOCH, now));
    buffer.leave_out(STDOUT, 5);
    assert_eq!((buffer.numbers(), buffer.open_at(STDOUT)), (numbers(3, 3, 2), None));
}

#[test]
fn a_partial_line_takes_no_room_that_is_not_there() {
    let now = Instant::now();
    let mut buffer = Buffer::new(2);
    buffer.push(STDOUT, b"one", UNIX_EPOCH, now);
    buffer.push(STDOUT, b"two", UNIX_EPOCH, now);
    assert!(!buffer.push_partial(STDOUT, b"th", UNIX_EPOCH, now));
    assert_eq!((buffer.numbers().sequence, buffer.open_at(STDOUT)), (2, None));
    buffer.keep_open(Stream::Stderr.into(), 1);
    let mut buffer = Buffer::new(2);
    buffer.begin_after(7);
    buffer.keep_open(STDOUT, 5);
    buffer.push(STDOUT, b"goes on", UNIX_EPOCH, now);
    buffer.push(STDOUT, b"next", UNIX_EPOCH, now);
    assert_eq!(texts(&buffer, 9), [(5, "goes on".to_owned()), (8, "next".to_owned())]);
}
