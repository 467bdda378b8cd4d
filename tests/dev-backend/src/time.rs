//! RFC 3339 in and out, by hand: the contract's times are checked here, and the agent's own code for this must not be
//! what checks it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970, of the wall clock.
pub(crate) fn unix_nanos() -> i128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX))
}

pub(crate) fn now() -> String {
    format_millis(unix_nanos() / 1_000_000)
}

/// `2026-01-31T10:00:00.000Z` of milliseconds since 1970.
pub(crate) fn format_millis(millis: i128) -> String {
    let (days, rest) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (second, milli) = (rest / 1000, rest % 1000);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{milli:03}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Nanoseconds since 1970 of an RFC 3339 time in UTC (`Z` or a zero offset); none when it is anything else.
pub(crate) fn parse(text: &str) -> Option<i128> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !text.is_ascii() {
        return None;
    }
    for (at, wanted) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        if bytes[at] != wanted {
            return None;
        }
    }
    let number = |from: usize, to: usize| digits(&text[from..to]);
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || day < 1 || day > month_days(year, month) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    let rest = &text[19..];
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(after.find(|c: char| !c.is_ascii_digit())?),
        None => ("0", rest),
    };
    if fraction.is_empty() || fraction.len() > 9 || !matches!(zone, "Z" | "+00:00" | "-00:00") {
        return None;
    }
    let nanos = digits(&format!("{fraction:0<9}"))?;
    Some((days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second) * 1_000_000_000 + nanos)
}

fn digits(text: &str) -> Option<i128> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn month_days(year: i128, month: i128) -> i128 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970 of a date. The year is counted from March, so that the leap day is its last.
fn days(year: i128, month: i128, day: i128) -> i128 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil(days: i128) -> (i128, i128, i128) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let index = (5 * of_year + 2) / 153;
    let month = if index < 10 { index + 3 } else { index - 9 };
    let year = year + era * 400 + i128::from(month <= 2);
    (year, month, of_year - (153 * index + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_both_ways() {
        for (text, nanos) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00.5Z", 951_825_600_500_000_000),
            ("2025-10-09T10:00:00.000Z", 1_760_004_000_000_000_000),
            ("2025-10-09T10:00:00.123456789+00:00", 1_760_004_000_123_456_789),
        ] {
            assert_eq!(parse(text), Some(nanos), "{text}");
        }
        for millis in [0, 951_825_600_500, 1_760_004_000_000, 4_102_444_799_999] {
            assert_eq!(parse(&format_millis(millis)), Some(millis * 1_000_000));
        }
    }

    #[test]
    fn what_is_not_rfc_3339_in_utc_is_refused() {
        for text in [
            "",
            "2025-10-09",
            "2025-10-09 10:00:00Z",
            "2025-13-09T10:00:00Z",
            "2025-02-29T10:00:00Z",
            "2025-10-09T24:00:00Z",
            "2025-10-09T10:00:00",
            "2025-10-09T10:00:00.Z",
            "2025-10-09T10:00:00+02:00",
            "2025-10-09T10:00:00.1234567890Z",
            "+025-10-09T10:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
