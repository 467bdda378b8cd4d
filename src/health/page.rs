//! The page for people on the health port: one file without anything from outside, and the JSON that it asks for.
//!
//! Style and script carry a nonce that is made for each answer, and the policy lets in nothing else: a name of an event that
//! came to be read as HTML would still run nothing. The page only reads.

use std::sync::{Arc, OnceLock};

use super::http::{Page, Reply, json, refusal, reply, with};
use crate::os::random;

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

type Json = Box<dyn Fn() -> String + Send + Sync>;

/// What the page shows, as JSON, once the agent has come so far. Clones share it.
#[derive(Clone, Default)]
pub struct Shown(Arc<OnceLock<Json>>);

impl Shown {
    /// From here on this is shown. It is called on the server's thread, which must not wait for anything.
    pub fn set(&self, json: Json) {
        // It is set once, at the start.
        let _ = self.0.set(json);
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown")
    }
}

/// The page and what it asks for.
pub(super) fn pages(shown: &Shown) -> [Page; 2] {
    let shown = shown.clone();
    let data = move || match shown.0.get() {
        Some(shown) => json(200, shown()),
        None => refusal(503, "the agent is still starting"),
    };
    [Page::get("/", |_| page(&random::hex(16))), Page::get("/status.json", move |_| data())]
}

/// The page with this nonce.
fn page(nonce: &str) -> Reply {
    let html = HTML.replace("NONCE", nonce).replace("STYLE", STYLE.trim_end()).replace("SCRIPT", SCRIPT.trim_end());
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    let page = reply(200, "text/html; charset=utf-8", html);
    with(page, &[("Content-Security-Policy", &policy), ("Referrer-Policy", "no-referrer"), ("X-Frame-Options", "DENY")])
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::limits;

    fn header(reply: &Reply, name: &'static str) -> String {
        let found = reply.headers().iter().find(|header| header.field.equiv(name));
        found.map(|header| header.value.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_page_is_small_whole_and_asks_nobody_else() {
        let reply = page("0123");
        let policy = header(&reply, "Content-Security-Policy");
        let mut html = String::new();
        reply.into_reader().read_to_string(&mut html).expect("text");
        assert!(html.len() <= limits::PAGE_SIZE, "{}", html.len());
        for outside in ["http://", "https://", "//cdn", "src=", "@import", "url(", "innerHTML", "eval(", "style=\""] {
            let found = html.replace("http://www.w3.org/2000/svg", "");
            assert!(!found.contains(outside), "{outside}");
        }
        for left in ["NONCE", "STYLE", "SCRIPT"] {
            assert!(!html.contains(left), "{left}");
        }
        assert_eq!(html.matches("nonce=\"0123\"").count(), 2);
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("script-src 'nonce-0123'; connect-src 'self'"), "{policy}");
    }

    #[test]
    fn each_answer_has_its_own_nonce() {
        let [first, _] = pages(&Shown::default());
        let asked = super::super::Asked { part: "", uid: None };
        let policy = || header(&first.answer(&asked), "Content-Security-Policy");
        assert_ne!(policy(), policy());
    }

    #[test]
    fn nothing_is_shown_before_there_is_something() {
        let shown = Shown::default();
        let [_, data] = pages(&shown);
        let asked = super::super::Asked { part: "", uid: None };
        assert_eq!(data.answer(&asked).status_code().0, 503);
        shown.set(Box::new(|| "{\"a\":1}".to_owned()));
        let reply = data.answer(&asked);
        assert_eq!((reply.status_code().0, header(&reply, "Content-Type").as_str()), (200, "application/json"));
    }
}
