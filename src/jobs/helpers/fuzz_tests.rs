//! What holds for the requests of scripts, whatever they ask. See [`crate::fuzzing`].

use super::request::{Action, Answer, meaning, parse_message};
use crate::wire::fuzz::holds_nul;
use crate::wire::scan::Json;

pub fn helper_request(data: &[u8]) {
    let answer = match parse_message(data) {
        Ok(request) => {
            match &request.action {
                Action::Output(json) => {
                    assert!(Json::strict(json.as_bytes()).is_ok(), "an output is JSON: {json}");
                    assert!(!holds_nul(json), "{json}");
                }
                Action::SetVariable(key, value) => {
                    assert!(!key.is_empty());
                    assert!(Json::strict(meaning(value).as_bytes()).is_ok() || value.len() > 64, "{value}");
                }
                _ => {}
            }
            Answer::of(Ok(meaning(&String::from_utf8_lossy(data))), request.raw)
        }
        Err(((status, why), raw)) => {
            assert!((400..600).contains(&status) && !why.is_empty());
            Answer::of(Err((status, why)), raw)
        }
    };
    if !answer.raw {
        assert!(Json::outline(answer.body.as_bytes()).is_ok(), "{}", answer.body);
    }
    let message = answer.message();
    let (status, body) = message.split_at(4);
    assert_eq!((status, body), (format!("{}\n", answer.status).as_bytes(), answer.body.as_bytes()));
}
