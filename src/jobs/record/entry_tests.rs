//! Pages as files: every number, every version, and what they cost to read.

use super::super::{file, store_tests as tests};
use super::*;

const FLOATS: [f64; 10] = [
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    -0.0,
    -1.0,
    1e308,
    9_223_372_036_854_775_808.0,
    f64::MIN_POSITIVE,
    0.1 + 0.2,
    60.75,
];

/// Each floating-point number of a page.
fn floats(page: &mut Entry) -> Vec<&mut f64> {
    match &mut page.place {
        Place::Nowhere => Vec::new(),
        Place::Container(container) => vec![&mut container.cpu],
        Place::Servers(pages) => {
            let ended = pages.iter_mut().map(|page| &mut page.part);
            ended
                .filter_map(|part| if let Part::Ended(end) = part { Some(&mut end.cpu_seconds) } else { None })
                .collect()
        }
    }
}

/// The page as a file, with `change` made to its JSON, read again.
fn again(page: &Entry, change: impl Fn(String) -> String) -> Entry {
    let (_, body) = file::encode(page).expect("JSON");
    let body = change(String::from_utf8(body).expect("text"));
    let head = format!("cronium-journal 1 {:08x} {}\n", crate::wire::crc32::of(body.as_bytes()), body.len());
    file::decode(&page.job, format!("{head}{body}").as_bytes()).expect("a page that can be read")
}

/// The page holds the report: no number that a server or an engine states may make it unreadable.
#[test]
fn a_page_with_any_number_is_read_again() {
    for (n, float) in FLOATS.into_iter().enumerate() {
        let whole = [0, u64::from(u32::MAX), 1 << 63, u64::MAX][n % 4];
        for place in [tests::servers(), tests::entry("a", Stage::Intent).place] {
            let mut page =
                Entry { place, claimed_ms: whole, attempts: u32::MAX, ..tests::entry("a", tests::ended(whole, "out")) };
            for slot in floats(&mut page) {
                *slot = float;
            }
            let mut back = again(&page, |body| body);
            assert_eq!((back.claimed_ms, back.attempts, &back.stage), (whole, u32::MAX, &page.stage));
            let found = floats(&mut back);
            assert!(!found.is_empty());
            for value in found {
                assert!(value.is_finite() && *value >= 0.0, "{float}: {value}");
                let same = (*value - float).abs() <= float.abs() * 1e-15;
                assert!(same || !(0.0..=amount::MOST).contains(&float), "{float}: {value}");
            }
        }
    }
}

#[test]
fn a_record_goes_forward_and_back_only_where_nothing_ran() {
    use State::{Claimed, Delivered, Ended, Intent, Started};
    let all = [Claimed, Intent, Started, Ended, Delivered];
    let next = |from: State| all.into_iter().filter(|to| from.may_become(*to)).collect::<Vec<_>>();
    assert_eq!(next(Claimed), [Intent, Ended]);
    assert_eq!(next(Intent), [Intent, Started, Ended]);
    assert_eq!(next(Started), [Intent, Started, Ended]);
    assert_eq!(next(Ended), [Delivered]);
    assert_eq!(next(Delivered), [Intent, Ended]);
}

/// A report is as large as a job's output, and several are written and read at once.
#[test]
fn a_page_is_written_without_a_copy_and_read_into_one() {
    use crate::os::heap_tests::peak;
    let page = tests::entry("a", tests::ended(1, &"\n\u{1}\"x".repeat(1 << 19)));
    let mut bytes = Vec::with_capacity(16 << 20);
    let (_, most) = peak(|| file::Encoded::of(&page).expect("JSON").write_to(&mut bytes));
    assert!(most < 64 * 1024 && bytes.len() > 4 << 20, "{most} beside {}", bytes.len());
    let (back, most) = peak(|| file::decode(&page.job, &bytes));
    assert_eq!(back.expect("a page").stage, page.stage);
    // A text that grows while it is read has room to spare.
    assert!(most <= bytes.len() * 3 / 2, "{most} beside {}", bytes.len());
}

/// Version 0.1 wrote `null` for what is no number, and could not read it.
#[test]
fn a_page_of_the_version_before_is_read_with_its_null() {
    for (place, name) in [(tests::servers(), "cpu_seconds"), (tests::entry("a", Stage::Intent).place, "cpu")] {
        let page = Entry { place, ..tests::entry("a", tests::ended(1, "out")) };
        let mut zero = page.clone();
        floats(&mut zero).into_iter().for_each(|value| *value = 0.0);
        let old = |body: String| {
            let (before, after) = body.split_once(&format!("\"{name}\":")).expect("the number");
            let rest = after.split_once([',', '}']).expect("more").0.len();
            format!("{before}\"{name}\":null{}", &after[rest..])
        };
        assert_eq!(again(&page, old), zero, "{name}");
    }
}
