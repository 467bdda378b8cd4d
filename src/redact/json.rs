//! Takes secrets out of JSON, one text or number after the other, so that it stays JSON.

/// `json` with each of its texts, decoded, and each number through `text`. A number that changes becomes a text.
pub(super) fn redacted(json: &str, text: &dyn Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(first) = rest.bytes().next() {
        let end = match first {
            b'"' => end_of_text(rest),
            b'-' | b'0'..=b'9' => rest.bytes().position(|b| !b"+-.eE0123456789".contains(&b)).unwrap_or(rest.len()),
            _ => rest.bytes().position(|b| b == b'"' || b == b'-' || b.is_ascii_digit()).unwrap_or(rest.len()),
        };
        let (part, after) = rest.split_at(end);
        match first {
            b'"' => {
                let plain: String = serde_json::from_str(part).unwrap_or_else(|_| part.trim_matches('"').to_owned());
                let clean = text(&plain);
                if clean == plain { out.push_str(part) } else { push_text(&mut out, &clean) }
            }
            b'-' | b'0'..=b'9' => {
                let clean = text(part);
                if clean == part { out.push_str(part) } else { push_text(&mut out, &clean) }
            }
            _ => out.push_str(part),
        }
        rest = after;
    }
    out
}

fn push_text(out: &mut String, text: &str) {
    // A text has a JSON form.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

/// Where the text ends with which `json` begins.
fn end_of_text(json: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in json.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_names_and_numbers_are_looked_at_and_the_rest_stays_as_it_is() {
        let clean = |text: &str| text.replace("s3\"cret", "*").replace("123456", "*");
        for (json, want) in [
            (r#" {"a" : [1.50, "x"]} "#, r#" {"a" : [1.50, "x"]} "#),
            (r#"{"s3\"cret":"b s3\"cret c"}"#, r#"{"*":"b * c"}"#),
            (r#"{"a":"s3\u0022cret\\","b":-1234567e3}"#, r#"{"a":"*\\","b":"-*7e3"}"#),
            ("123456", "\"*\""),
            ("null", "null"),
            ("", ""),
        ] {
            assert_eq!(redacted(json, &clean), want);
        }
    }
}
