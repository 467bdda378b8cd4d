//! The table of holes, and how versions compare.

use super::*;
use crate::proofs::finding::Grade;

fn version(text: &str) -> Version {
    Version::read(text).unwrap_or_else(|| panic!("{text} is no version"))
}

#[test]
fn versions_are_compared_as_numbers_and_candidates_come_first() {
    for (less, more) in [
        ("1.9", "1.10"),
        ("1.2.0-rc.3", "1.2.0"),
        ("1.2.0~rc3", "1.2.0"),
        ("5.8.0-dev", "5.8"),
        ("1.1.5+ds1", "1.1.12"),
        ("1.6.20~ds1", "1.6.38"),
        ("20.10.24+dfsg1", "23.0.11"),
        ("1.2.8", "1.3.0-rc.1"),
        ("6.1.99-cloud-amd64", "6.1.170"),
        ("crun version 1.9.2\ncommit: abc", "crun version 1.20"),
    ] {
        assert!(version(less) < version(more), "{less} {more}");
        assert!(version(more) > version(less), "{less} {more}");
    }
    for (one, same) in [("1.20", "1.20.0"), ("v1.7.29", "1.7.29"), ("20.10.24+dfsg1", "20.10.24"), ("6.1.0-18", "6.1")]
    {
        assert_eq!(version(one).cmp(&version(same)), Ordering::Equal, "{one} {same}");
    }
    for text in ["", "unknown", "version", "-1", "+1.2", "99999999999999999999999", "1..2", "ü1"] {
        assert_eq!(Version::read(text), None, "{text}");
    }
}

#[test]
fn the_table_is_sorted_dated_and_without_a_row_twice() {
    let keys: Vec<_> = HOLES.iter().map(|hole| (hole.part, hole.date, hole.cve)).collect();
    assert!(keys.windows(2).all(|two| two[0] < two[1]), "{keys:?}");
    let mut numbers: Vec<_> = HOLES.iter().map(|hole| hole.cve).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), HOLES.len(), "a hole twice");
    let is_month = |text: &str| {
        let (year, month) = text.split_once('-').expect("a month");
        let month: u8 = month.parse().expect("a number");
        year.len() == 4 && year.bytes().all(|byte| byte.is_ascii_digit()) && (1..=12).contains(&month)
    };
    assert!(is_month(AS_OF));
    for hole in HOLES {
        assert!(is_month(hole.date) && hole.date <= AS_OF, "{}", hole.cve);
        assert!(hole.cve.starts_with("CVE-") && hole.what.len() > 10, "{}", hole.cve);
        let fixes: Vec<_> = hole.fixed.iter().map(|text| version(text)).collect();
        assert!(!fixes.is_empty() && fixes.windows(2).all(|two| two[0] < two[1]), "{}", hole.cve);
        assert!(fixes.windows(2).all(|two| two[0].line() != two[1].line()), "{}: a line twice", hole.cve);
        assert!(hole.since.is_empty() || version(hole.since) < fixes[0], "{}", hole.cve);
    }
    for part in [Part::Docker, Part::Containerd, Part::Runc, Part::Crun, Part::Podman, Part::Kernel] {
        assert!(HOLES.iter().any(|hole| hole.part == part), "{part:?}");
        assert!(least(part, &version("0.1")).is_some(), "{part:?} has no release without a hole");
    }
}

#[test]
fn a_line_is_as_good_as_its_own_fix() {
    let hole = |cve: &str| HOLES.iter().find(|hole| hole.cve == cve).expect("a hole");
    for (cve, text, is_in) in [
        ("CVE-2025-31133", "1.1.15", true),
        ("CVE-2025-31133", "1.2.7", true),
        ("CVE-2025-31133", "1.2.8", false),
        ("CVE-2025-31133", "1.3.2", true),
        ("CVE-2025-31133", "1.3.3", false),
        ("CVE-2025-31133", "1.4.0", false),
        ("CVE-2024-29018", "20.10.24+dfsg1", true),
        ("CVE-2024-29018", "24.0.9", true),
        ("CVE-2024-29018", "25.0.5", false),
        ("CVE-2024-29018", "26.1.5", false),
        ("CVE-2025-54388", "28.1.9", false),
        ("CVE-2025-54388", "28.2.0", true),
        ("CVE-2025-54388", "28.3.3", false),
        ("CVE-2022-0847", "5.4.1", false),
        ("CVE-2022-0847", "5.10.101", true),
        ("CVE-2022-0847", "6.1.0", false),
        ("CVE-2026-31431", "6.17.9", true),
        ("CVE-2026-31431", "6.18.44-fc-v669", false),
        ("CVE-2026-31431", "7.0-rc6", true),
        ("CVE-2026-31431", "7.1", false),
        ("CVE-2026-30892", "1.18", false),
        ("CVE-2026-30892", "1.26", true),
    ] {
        assert_eq!(hole(cve).is_in(&version(text)), is_in, "{cve} {text}");
    }
}

#[test]
fn what_an_engine_tells_and_does_not_tell() {
    let old = of(Part::Docker, "20.10.24+dfsg1");
    assert_eq!((old.grade, old.is_strict), (Grade::Warn, true));
    assert!(old.measured.contains("20.10.24+dfsg1 may have CVE-2026-34040 (2026-03, "), "{old:?}");
    assert!(old.measured.contains("and 1 older ones"), "{old:?}");
    assert!(old.hint.contains("to 29.3.1 or later") && old.hint.contains("carried the fix back"), "{old:?}");
    assert_eq!(old.clone().strictly().grade, Grade::Fail);
    let near = of(Part::Runc, "1.3.3");
    assert!(near.hint.contains("to 1.3.6 or later"), "{near:?}");
    assert_eq!(of(Part::Docker, "29.4.3").grade, Grade::Ok);
    for told in ["", "unknown"] {
        let silent = of(Part::Runc, told);
        assert_eq!((silent.grade, silent.clone().strictly().grade), (Grade::Warn, Grade::Fail));
        assert!(silent.measured.contains("as the version of runc or crun") || told.is_empty(), "{silent:?}");
    }
    let info = EngineInfo { version: "5.8.1".to_owned(), kernel: "7.1.0".to_owned(), ..EngineInfo::default() };
    let parts = vec![("OCI Runtime (crun)".to_owned(), "crun version 1.21\ncommit: abc".to_owned())];
    let told = EngineVersion { api: String::new(), oldest_api: String::new(), parts };
    let all = checks(&info, Some(&told), true);
    assert_eq!(all.len(), NAMES.len());
    assert!(all[0].measured.starts_with("Podman 5.8.1: no hole"), "{all:?}");
    assert!(all[1].measured.starts_with("none") && all[3].grade == Grade::Ok, "{all:?}");
    assert!(all[2].measured.starts_with("crun 1.21 may have CVE-2026-30892"), "{all:?}");
    let none = checks(&info, None, false);
    assert!(none[1].measured.contains("does not tell the version of containerd"), "{none:?}");
}
