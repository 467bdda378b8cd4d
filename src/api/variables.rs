//! What scripts ask of the backend through their helpers: a user's variables, and an execution's context.
//!
//! A variable's value is text: the deployed backend turns a number into its text, and stores garbage for an array. The
//! caller decides what the text means.

use super::client::{Client, get, percent_encoded, post};
use super::error::{Error, Problem};
use super::transport::Call;
use crate::job::Id;
use crate::limits;
use crate::metrics::Endpoint;
use crate::wire::scan::{Json, TextError};
use ureq::http::Method;

impl Client {
    /// The same client for the calls of scripts: separate connections, and outside the agent's rate limit, so that no
    /// script holds up the agent's own calls. `limits::HELPER_CALLS_A_MINUTE` bounds each job.
    #[must_use]
    pub fn for_scripts(&self) -> Self {
        let mut client = self.separate();
        client.transport = client.transport.unlimited();
        client
    }

    /// The value of a user's variable; `None` when there is none.
    pub fn variable(&self, user: &str, key: &str) -> Result<Option<String>, Error> {
        let call = Call { needs_body: true, ..get(Endpoint::Variables, &path(user, key)) };
        let body = match self.transport.call(&call) {
            Ok(body) => body,
            Err(error) if error.status() == Some(404) => return Ok(None),
            Err(error) => return Err(error),
        };
        let bad = |why: &str| self.transport.error(&call, 1, Problem::BadAnswer { why: why.to_owned() });
        let answer = Json::strict(&body).map_err(|why| bad(&why.to_string()))?;
        match answer.field("value").map(|value| value.text(limits::ANSWER_MAX)) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(TextError::NotText)) => Err(bad("the variable's value is not text")),
            Some(Err(_)) => Err(bad("the variable's value is not Unicode text")),
        }
    }

    /// Gives a user's variable this value. Sent again after a failure: the second time changes nothing.
    pub fn set_variable(&self, user: &str, key: &str, value: &str) -> Result<(), Error> {
        let json = super::body::encode(&serde_json::json!({ "value": value }), value.len());
        let put = Call { method: Method::PUT, ..post(Endpoint::Variables, path(user, key), &json) };
        self.transport.call(&put).map(drop)
    }

    /// What the backend knows of an execution, as JSON.
    pub fn context(&self, execution: &Id) -> Result<Vec<u8>, Error> {
        let path = format!("/executions/{execution}/context");
        // It holds script and input, as a row of the queue does.
        let call = Call { needs_body: true, limit: limits::QUEUE_ANSWER_MAX, ..get(Endpoint::ExecutionContext, &path) };
        self.transport.call(&call)
    }
}

fn path(user: &str, key: &str) -> String {
    format!("/variables/{}/{}", percent_encoded(user), percent_encoded(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{Act, Server, ok};

    #[test]
    fn a_variable_is_text_and_a_missing_one_is_none() {
        let server = Server::start(|_, n| match n {
            0 => ok(r#"{"key":"a/b","value":"x\n\u00e4","updatedAt":"2025-01-01T00:00:00Z"}"#),
            1 => Act::Answer(404, "", r#"{"error":"Variable not found"}"#.to_owned()),
            2 => ok(r#"{"key":"a","value":null}"#),
            3 => ok(r#"{"key":"a","value":7}"#),
            _ => ok("<html>"),
        });
        let client = server.client();
        assert_eq!(client.variable("u 1", "a/b ü?").expect("a value").as_deref(), Some("x\nä"));
        assert_eq!(client.variable("u", "a").expect("none"), None);
        assert_eq!(client.variable("u", "a").expect("none"), None);
        for wanted in ["not text", "no JSON"] {
            let error = client.variable("u", "a").expect_err("nonsense").to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert_eq!(server.lines()[0], "GET /api/internal/variables/u%201/a%2Fb%20%C3%BC%3F");
    }

    #[test]
    fn a_variable_is_set_as_text_and_again_after_a_failure() {
        let server = Server::start(|_, n| if n == 0 { Act::Cut } else { ok(r#"{"key":"k"}"#) });
        server.client().set_variable("u1", "k", "[1,\0\"2\"]").expect("set");
        let seen = server.seen();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[1].line, "PUT /api/internal/variables/u1/k");
        assert_eq!(seen[1].body, r#"{"value":"[1,\ufffd\"2\"]"}"#);
    }

    #[test]
    fn the_calls_of_scripts_use_up_no_turn_of_the_agents_own() {
        let server = Server::start(|_, _| ok(r#"{"value":"1"}"#));
        let mut api = server.api();
        api.rate_limit = crate::config::types::RateLimit { enabled: true, requests_per_second: 0.1 };
        let tls = crate::config::types::Tls::default();
        let client = Client::new(&api, &tls, "a", "1", crate::os::stop::Stop::new()).expect("a client");
        let begun = std::time::Instant::now();
        let scripts = client.for_scripts();
        for _ in 0..20 {
            scripts.variable("u", "k").expect("a value");
        }
        client.health().expect("the one that is free");
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
