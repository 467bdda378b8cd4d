//! Durations and sizes as text: read with every overflow checked, written in the shortest form that reads back equal.

use std::time::Duration;

/// Units of a duration, largest first, in nanoseconds.
const TIMES: [(&str, u128); 4] =
    [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)];

/// Units of a size, largest first. `MB` is `MiB`, as for Docker.
const SIZES: [(&str, u64); 5] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10), ("B", 1)];

/// Reads `500ms`, `30s`, `1h30m`, `1.5h` or a plain number of seconds. `None` when it is none of these or does not fit.
/// Units descend and none comes twice.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut nanos: u128 = 0;
    let mut units = &TIMES[..];
    let mut rest = text;
    while !rest.is_empty() {
        let (digits, scale, after) = decimal(rest)?;
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let unit = match &after[..end] {
            "" if rest.len() == text.len() && after.is_empty() => 1_000_000_000,
            name => {
                let place = units.iter().position(|(unit, _)| *unit == name)?;
                let unit = units[place].1;
                units = &units[place + 1..];
                unit
            }
        };
        nanos = nanos.checked_add(digits.checked_mul(unit)? / scale)?;
        rest = &after[end..];
    }
    if text.is_empty() {
        return None;
    }
    Some(Duration::from_nanos(u64::try_from(nanos).ok()?))
}

/// Writes a duration as [`parse_duration`] reads it, to the nanosecond.
pub fn show_duration(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    let mut out = String::new();
    for (unit, size) in TIMES {
        let count = nanos / size;
        nanos %= size;
        // The smallest unit takes the rest as a fraction.
        if unit == "ms" && nanos > 0 {
            let fraction = format!("{nanos:06}");
            out.push_str(&format!("{count}.{}{unit}", fraction.trim_end_matches('0')));
        } else if count > 0 {
            out.push_str(&format!("{count}{unit}"));
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

/// Reads `512MB`, `1GiB`, `1g`, `1.5G` or bytes. `None` when it is none of these or does not fit.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, scale, unit) = decimal(text)?;
    let unit = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    u64::try_from(digits.checked_mul(unit)? / scale).ok()
}

/// Writes a size in the largest unit that divides it.
pub fn show_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0".to_owned();
    }
    let (unit, size) = SIZES.into_iter().find(|(_, size)| bytes.is_multiple_of(*size)).unwrap_or(("B", 1));
    format!("{}{}", bytes / size, if size == 1 { "" } else { unit })
}

/// Splits `12.5rest` into `(125, 10, "rest")`. At most nine places after the point.
fn decimal(text: &str) -> Option<(u128, u128, &str)> {
    let whole_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let whole: u128 = text[..whole_end].parse().ok()?;
    let Some(fraction) = text[whole_end..].strip_prefix('.') else {
        return Some((whole, 1, &text[whole_end..]));
    };
    let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
    if end == 0 || end > 9 {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(end).ok()?);
    let digits = whole.checked_mul(scale)?.checked_add(fraction[..end].parse().ok()?)?;
    Some((digits, scale, &fraction[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::random::rounds;

    #[test]
    fn durations_are_read() {
        let table = [
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("90", Some(90_000)),
            ("0", Some(0)),
            ("1.5", Some(1_500)),
            ("1.5h", Some(5_400_000)),
            ("", None),
            ("s", None),
            ("-5s", None),
            ("+5s", None),
            ("5 s", None),
            ("5x", None),
            ("5s5s", None),
            ("5s5m", None),
            ("5m30", None),
            ("1.s", None),
            ("1e3s", None),
            ("99999999999999999999h", None),
            ("999999999999999999999999999999999999999999999999h", None),
            ("6000000h", None),
        ];
        for (text, millis) in table {
            assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn sizes_are_read() {
        let table = [
            ("512MB", Some(512 << 20)),
            ("512MiB", Some(512 << 20)),
            ("512m", Some(512 << 20)),
            ("1GiB", Some(1 << 30)),
            ("1g", Some(1 << 30)),
            ("1.5G", Some(3 << 29)),
            ("4096", Some(4096)),
            ("7b", Some(7)),
            ("1 GB", Some(1 << 30)),
            ("0", Some(0)),
            ("", None),
            ("MB", None),
            ("-1", None),
            ("1XB", None),
            ("1MBB", None),
            ("0x10", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("99999999999TB", None),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        for millis in [0, 1, 999, 1000, 1500, 60_000, 3_600_000, 5_400_000, 86_400_001] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }
        for nanos in [1, 10, 999_999, 1_000_001, 100_000, 1_500_000_000, 3_600_000_000_001, u64::MAX] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration), "{nanos}");
        }
        let mut random = crate::wire::random::Random::new(2);
        for _ in 0..rounds(3000) {
            let wide = |random: &mut crate::wire::random::Random| {
                let high = random.below(1 << 30) as u64;
                (high << 34 | random.below(1 << 30) as u64) >> random.below(64)
            };
            let (duration, size) = (Duration::from_nanos(wide(&mut random)), wide(&mut random));
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
            assert_eq!(parse_size(&show_size(size)), Some(size));
            let text =
                random.text(&[b"1", b"0", b".", b"h", b"m", b"s", b"ms", b"GB", b"k", b" ", b"-", b"9999999999"], 6);
            let text = String::from_utf8(text).expect("text");
            let _ = (parse_duration(&text), parse_size(&text));
        }
        for bytes in [0, 1, 1023, 1024, 1025, 4 << 20, 3 << 29, u64::MAX] {
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
        assert_eq!((show_size(2 << 30), show_duration(Duration::from_secs(5400))), ("2GB".into(), "1h30m".into()));
    }
}
