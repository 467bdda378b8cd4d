//! RFC 3339 in UTC, the only form of time that the contract knows, and the dates of HTTP's headers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second whose year has four digits.
const LAST: u64 = 253_402_300_799;

/// Writes `at` as `2024-01-15T10:30:00.123456789Z` with `digits` (0, 3, 6 or 9) places of a second. What is
/// before 1970 or after the year 9999 is written as the first or the last moment of that time.
pub fn rfc3339(at: SystemTime, digits: usize) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since.as_secs().min(LAST);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}");
    if digits > 0 {
        let nanos = if since.as_secs() > LAST { 999_999_999 } else { since.subsec_nanos() };
        let nanos = format!("{nanos:09}");
        text.push('.');
        text.push_str(&nanos[..digits.min(9)]);
    }
    text.push('Z');
    text
}

/// Reads `2024-01-15T10:30:00[.fraction](Z|±hh:mm)`; `None` for anything else, for a day or a time that does not exist,
/// and for years before 1970. A leap second is one where UTC may have one: it is the first of the next day.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let b = text.as_bytes();
    let number = |range: std::ops::Range<usize>| -> Option<u64> {
        let digits = b.get(range)?;
        digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
    };
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(i, c)| b.get(i) != Some(&c)) || !matches!(b.get(10), Some(b'T' | b't' | b' ')) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (h, m, s) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let leap_second = s == 60;
    let s = if leap_second { 59 } else { s };
    let days = if (1..=12).contains(&month) { days_of(year, month) } else { 0 };
    if year < 1970 || !(1..=days).contains(&day) || h > 23 || m > 59 || s > 59 {
        return None;
    }
    let mut rest = &text[19..];
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
        if end == 0 {
            return None;
        }
        let padded = format!("{:0<9}", &fraction[..end.min(9)]);
        nanos = padded.parse::<u64>().ok()?;
        rest = &fraction[end..];
    }
    let seconds = days_from_civil(year, month, day) * 86_400 + h * 3600 + m * 60 + s;
    let at = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanos);
    let at = match rest.as_bytes() {
        [b'Z' | b'z'] => Some(at),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let pair = |a: &u8, b: &u8| -> Option<u64> {
                (a.is_ascii_digit() && b.is_ascii_digit()).then(|| u64::from(a - b'0') * 10 + u64::from(b - b'0'))
            };
            let (hours, minutes) = (pair(h1, h2)?, pair(m1, m2)?);
            let offset = Duration::from_secs(hours * 3600 + minutes * 60);
            let sound = hours < 24 && minutes < 60;
            if !sound {
                None
            } else if *sign == b'+' {
                at.checked_sub(offset).filter(|at| *at >= UNIX_EPOCH)
            } else {
                at.checked_add(offset)
            }
        }
        _ => None,
    }?;
    if leap_second && !may_leap(at) {
        return None;
    }
    at.checked_add(Duration::from_secs(u64::from(leap_second)))
}

/// Whether a leap second may follow the second of `at`: the last of a June or a December.
fn may_leap(at: SystemTime) -> bool {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() + 1;
    let (_, month, day) = civil(seconds / 86_400);
    seconds.is_multiple_of(86_400) && matches!((month, day), (1 | 7, 1))
}

/// How many days a month has; `month` is 1 to 12.
fn days_of(year: u64, month: u64) -> u64 {
    let leap_year = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u64::from(leap_year),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Reads the one form of date that HTTP still allows to be sent, `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7). `None`
/// for all else, the two obsolete forms included. That the day of the week fits the date is not checked.
pub fn parse_http_date(text: &str) -> Option<SystemTime> {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (weekday, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|m| *m == month)? + 1;
    if (parts.next(), parts.next()) != (Some("GMT"), None) || !DAYS.contains(&weekday) || time.len() != 8 {
        return None;
    }
    parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z"))
}

/// Days since 1970-01-01 to year, month, day, after Howard Hinnant's "chrono-compatible low-level date algorithms".
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

/// The way back, same source. `year` is 1970 or later.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y / 400;
    let yoe = y % 400;
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::random::rounds;

    #[test]
    fn known_moments_both_ways() {
        for (seconds, nanos, digits, text) in [
            (0, 0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, 3, "2000-02-29T00:00:00.000Z"),
            (1_705_314_600, 123_456_789, 9, "2024-01-15T10:30:00.123456789Z"),
            (4_102_444_799, 999_000_000, 3, "2099-12-31T23:59:59.999Z"),
        ] {
            let at = UNIX_EPOCH + Duration::new(seconds, nanos);
            assert_eq!(rfc3339(at, digits), text);
            assert_eq!(parse_rfc3339(text), Some(at));
        }
    }

    #[test]
    fn every_day_of_two_centuries_comes_back() {
        for day in (0..73_000).step_by(if cfg!(miri) { 997 } else { 1 }) {
            let (y, m, d) = civil(day);
            assert_eq!(days_from_civil(y, m, d), day);
        }
    }

    #[test]
    fn offsets_and_nonsense() {
        let noon = parse_rfc3339("2024-01-15T12:00:00Z");
        assert!(noon.is_some());
        assert_eq!(parse_rfc3339("2024-01-15T14:00:00+02:00"), noon);
        assert_eq!(parse_rfc3339("2024-01-15T06:30:00.0-05:30"), noon);
        for bad in [
            "",
            "2024-01-15",
            "2024-13-15T12:00:00Z",
            "2024-01-15T12:00:00",
            "2024-01-15T12:00:00.Z",
            "+024-01-15T12:00:00Z",
            "1969-01-01T00:00:00Z",
            "2024-01-15T12:00:00Zx",
            "2024-01-15T12:00:0äZ",
            "2024-02-30T12:00:00Z",
            "2023-02-29T12:00:00Z",
            "2100-02-29T12:00:00Z",
            "2024-04-31T12:00:00Z",
            "2024-00-15T12:00:00Z",
            "2024-01-00T12:00:00Z",
            "2024-01-32T12:00:00Z",
            "2024-01-15T24:00:00Z",
            "2024-01-15T12:60:00Z",
            "2024-01-15T12:00:61Z",
            // No leap second is possible there.
            "2024-01-15T12:00:60Z",
            "2024-12-31T12:59:60Z",
            "2024-12-31T23:59:60+01:00",
            "2024-11-30T23:59:60Z",
            "2024-01-15T12:00:00+24:00",
            "2024-01-15T12:00:00+02:60",
            "2024-01-15T12:00:00-99:99",
            "2024-01-15T12:00:00+0200",
            "1970-01-01T00:00:00+00:01",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn leap_days_and_leap_seconds_that_exist() {
        for (text, same) in [
            ("2024-02-29T12:00:00Z", "2024-02-29T12:00:00Z"),
            ("2000-02-29T12:00:00Z", "2000-02-29T12:00:00Z"),
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
            ("2016-12-31T15:59:60.5-08:00", "2017-01-01T00:00:00.5Z"),
            ("2015-07-01T01:59:60+02:00", "2015-07-01T00:00:00Z"),
        ] {
            assert!(parse_rfc3339(text).is_some(), "{text}");
            assert_eq!(parse_rfc3339(text), parse_rfc3339(same), "{text}");
        }
    }

    #[test]
    fn random_moments_come_back_and_random_texts_do_no_harm() {
        let mut random = crate::wire::random::Random::new(3);
        for _ in 0..rounds(4000) {
            let seconds = (random.below(1 << 30) as u64 * 300) % 253_402_300_800;
            let at = UNIX_EPOCH + Duration::new(seconds, 0) + Duration::from_nanos(random.below(1_000_000_000) as u64);
            assert_eq!(parse_rfc3339(&rfc3339(at, 9)), Some(at));
            let mut text = rfc3339(at, [0, 3, 6, 9][random.below(4)]).into_bytes();
            let place = random.below(text.len());
            text[place] = *random.one(b"0123456789-:.TZ+ \xc3\xa4");
            let text = String::from_utf8_lossy(&text);
            // What is read is a moment that is written alike, but for offset and leap second.
            if let Some(at) = parse_rfc3339(&text).filter(|_| !text.contains('+') && !text.contains(":60")) {
                let (written, day) = (rfc3339(at, 9), text[..10].to_owned());
                assert!(written.starts_with(&day) || text[19..].contains('-'), "{text}: {written}");
            }
            let _ = parse_http_date(&text);
        }
        // A moment that no four digits can say.
        for far in [Duration::from_millis(u64::MAX), Duration::from_secs(253_402_300_800)] {
            assert_eq!(rfc3339(UNIX_EPOCH + far, 3), "9999-12-31T23:59:59.999Z");
        }
    }

    #[test]
    fn http_dates_in_the_one_form_that_is_sent() {
        for (text, same) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37Z"),
            ("Thu, 29 Feb 2024 23:59:59 GMT", "2024-02-29T23:59:59Z"),
            ("Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00Z"),
            // A leap second.
            ("Sat, 31 Dec 2016 23:59:60 GMT", "2017-01-01T00:00:00Z"),
        ] {
            assert_eq!(parse_http_date(text), parse_rfc3339(same), "{text}");
            assert!(parse_http_date(text).is_some(), "{text}");
            // Cut anywhere it is none.
            assert!((0..text.len()).all(|at| parse_http_date(&text[..at]).is_none()), "{text}");
        }
        for bad in [
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 08:49:37 GMT ",
            "Sun, 06 Nov 1994 08:49:37 gmt",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun,  06 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37.5 GMT",
            "Sun, 06 Nov 1994 08:49:37Z GMT",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Son, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "1994-11-06T08:49:37Z",
            "Sün, 06 Növ 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse_http_date(bad), None, "{bad}");
        }
    }
}
