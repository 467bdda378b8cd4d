//! What holds for requests to the health server and to the control socket, and for answers. See [`crate::fuzzing`].

use super::{ask, http};
use crate::limits;
use crate::wire::fuzz::Dice;

fn pages() -> Vec<http::Page> {
    vec![
        http::Page::get("/health", |_| http::json(200, "{\"ok\":true}".to_owned())),
        http::Page::post("/jobs/*/cancel", |asked| http::text(200, asked.part.to_owned())),
    ]
}

pub fn health_request(data: &[u8]) {
    let mut dice = Dice(data);
    let cut = dice.below(limits::HEALTH_HEAD + 2);
    let all = dice.0;
    let code = |parsed: Option<Result<http::Request<'_>, http::Reply>>| match parsed {
        None => None,
        Some(Ok(request)) => Some(Ok((request.method, request.target.to_owned()))),
        Some(Err(refusal)) => Some(Err(refusal.status_code())),
    };
    let (whole, part) = (code(http::parse(all)), code(http::parse(&all[..cut.min(all.len())])));
    assert!(part.is_none() || part == whole, "what is known of a beginning changed with what followed");
    match http::parse(all) {
        Some(Ok(request)) => {
            assert!(request.target.starts_with(request.path));
            let answer = http::bytes(http::answer(&pages(), &request, Some(0)), Some(&request));
            assert!(answer.starts_with(b"HTTP/1.") && answer.windows(4).any(|end| end == b"\r\n\r\n"));
            if let Ok((at, length, _)) = http::body_length(all, (1000, "some limit")) {
                assert!(at <= all.len() && length <= 1000);
            }
            let _ = http::field(all, "authorization");
        }
        Some(Err(refusal)) => {
            // The command line reads a refusal, and says what it says.
            let status = refusal.status_code().0;
            let (read, text) = ask::reply(&http::bytes(refusal, None)).expect("an answer of ours");
            assert_eq!((read, text.is_empty()), (status, false));
        }
        None => assert!(all.len() <= limits::HEALTH_HEAD),
    }
}

pub fn control_answer(data: &[u8]) {
    let mut dice = Dice(data);
    let cut = dice.below(1 << 16);
    let all = dice.0;
    if let Ok((status, text)) = ask::reply(all) {
        assert!((100..600).contains(&status) && text.trim_end() == text);
        // An answer that was cut off is never taken for a whole one.
        if cut < all.len() {
            assert!(ask::reply(&all[..cut]).is_err());
        }
    }
    // What a page says arrives as it is, but for blanks at its end.
    let said = String::from_utf8_lossy(all);
    let sent = http::bytes(http::text(200, said.clone().into_owned()), None);
    assert_eq!(ask::reply(&sent), Ok((200, said.trim_end().to_owned())));
}
