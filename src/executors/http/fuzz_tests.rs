//! What holds for the output of an HTTP request, whatever the server answers. See [`crate::fuzzing`].

use ureq::http::HeaderMap;
use ureq::http::header::{HeaderName, HeaderValue};

use super::answer::{self, Kept};
use crate::wire::fuzz::{Dice, holds_nul};

pub fn http_answer(data: &[u8]) {
    let mut dice = Dice(data);
    let (flags, status) = (dice.byte(), dice.below(600));
    let at = dice.0.windows(2).position(|end| end == b"\n\n").unwrap_or(dice.0.len());
    let (head, body) = dice.0.split_at(at);
    let mut headers = HeaderMap::new();
    for line in head.split(|&byte| byte == b'\n').take(50) {
        let at = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let (name, value) = (HeaderName::from_bytes(&line[..at]), line.get(at + 1..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let body = Kept { bytes: body.get(2..).unwrap_or_default().to_vec(), is_cut: flags & 1 == 1 };
    let status = u16::try_from(status).expect("below 600");
    let json = answer::script_output(status, "OK", &headers, &body);
    assert!(!holds_nul(&json), "the backend's database takes no NUL");
    // A number beyond f64 is JSON, and no value of this reader.
    if let Ok(read) = serde_json::from_str::<serde_json::Value>(&json) {
        assert_eq!(read["status"], status);
        assert_eq!(read["headers"].as_object().map(serde_json::Map::len), Some(headers.keys_len()));
        if body.is_cut {
            assert!(read["body"].is_string(), "half a JSON text is text");
        }
    }
    assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok(), "{json}");
}
