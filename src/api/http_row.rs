//! The request of a job of type HTTP_REQUEST: `execution.http`.
//!
//! Only its shape is read here. Whether it may be sent is the executor's question.

use super::json::{Raw, object, plain, text};
use crate::job::Request;
use crate::limits;
use crate::secret::Secret;
use crate::wire::scan::Json;

/// Bytes of a method that are read.
const METHOD: usize = 100;

pub(super) fn read(raw: Json<'_>) -> Result<Request, String> {
    let path = "execution.http";
    let [method, url, headers, body] = object(raw, path, ["method", "url", "headers", "body"])?;
    let method = method.map_or(Ok("GET".to_owned()), |raw| text(raw, "execution.http.method", METHOD))?;
    let url = text(url.ok_or("execution.http.url is missing")?, "execution.http.url", limits::REQUEST_URL_MAX)?;
    Ok(Request {
        method,
        url: Secret::new(url),
        headers: headers.map_or(Ok(Vec::new()), pairs)?,
        body: body.map(content).transpose()?.filter(|body| !body.is_empty()),
    })
}

/// A list of pairs, as the deployed backend sends it, or an object.
fn pairs(raw: Json<'_>) -> Result<Vec<(String, Secret)>, String> {
    let path = "execution.http.headers";
    let mut all = Vec::new();
    let mut add = |name: String, value: Raw<'_>| -> Result<(), String> {
        if all.len() >= limits::REQUEST_HEADERS_MAX {
            return Err(format!("{path} has more than {} headers", limits::REQUEST_HEADERS_MAX));
        }
        if let Some(value) = value {
            let value = header(value, &name)?;
            all.push((name, value));
        }
        Ok(())
    };
    if let Some(items) = raw.items() {
        for item in items {
            let item = item.map_err(|why| format!("{path} cannot be read: {why}"))?;
            let [key, value] = object(item, "a header in execution.http.headers", ["key", "value"])?;
            let name = key.map_or(Ok(String::new()), |key| {
                text(key, "a key in execution.http.headers", limits::REQUEST_HEAD_MAX)
            })?;
            // An empty row of the app's form.
            if !name.trim().is_empty() {
                add(name, value)?;
            }
        }
    } else {
        let members =
            raw.members().ok_or_else(|| format!("{path} must be an array or an object, found {}", raw.sort()))?;
        for member in members {
            let (name, value) = member.map_err(|why| format!("{path} cannot be read: {why}"))?;
            let name = text(name, "a name in execution.http.headers", limits::REQUEST_HEAD_MAX)?;
            add(name, Some(value).filter(|value| !value.is_null()))?;
        }
    }
    Ok(all)
}

/// A header's value: text, or a number or a boolean as its text.
fn header(raw: Json<'_>, name: &str) -> Result<Secret, String> {
    let path = || format!("execution.http.headers.{}", plain(name));
    match raw.sort() {
        "text" => text(raw, &path(), limits::REQUEST_HEAD_MAX).map(Secret::new),
        found @ ("an object" | "an array") => Err(format!("{} must be text, found {found}", path())),
        _ => Ok(Secret::new(String::from_utf8_lossy(raw.bytes()))),
    }
}

/// The body: a text as it is, any other value as its JSON.
fn content(raw: Json<'_>) -> Result<Secret, String> {
    match raw.sort() {
        "text" => text(raw, "execution.http.body", limits::QUEUE_ROW_MAX).map(Secret::new),
        _ => Ok(Secret::new(String::from_utf8_lossy(raw.bytes()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn request(http: &Value) -> Result<Request, String> {
        let text = http.to_string();
        read(Json::strict(text.as_bytes()).expect("JSON"))
    }

    fn headers(of: Value) -> Result<Vec<(String, String)>, String> {
        let request = request(&json!({"url": "http://a", "headers": of}))?;
        Ok(request.headers.into_iter().map(|(name, value)| (name, value.expose().to_owned())).collect())
    }

    #[test]
    fn a_request_as_the_deployed_backend_sends_it() {
        let http = json!({"method":"post","url":"https://a.example/x?key=hunter2","body":"{\"a\":1}",
            "headers":[{"key":"Authorization","value":"Bearer hunter2"},{"key":"","value":""},{"key":"X","value":null}]});
        let request = request(&http).expect("a request");
        assert_eq!((request.method.as_str(), request.url.expose()), ("post", "https://a.example/x?key=hunter2"));
        assert_eq!(request.headers, [("Authorization".to_owned(), Secret::new("Bearer hunter2"))]);
        assert_eq!(request.body, Some(Secret::new("{\"a\":1}")));
        assert!(!format!("{request:?}").contains("hunter2"), "{request:?}");
    }

    #[test]
    fn headers_are_a_list_of_pairs_or_an_object() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let both = [pair("A", "b"), pair("N", "7")];
        assert_eq!(headers(json!({"A": "b", "N": 7, "none": null})).expect("headers"), both);
        assert_eq!(headers(json!([{"key": "A", "value": "b"}, {"key": "N", "value": 7}])).expect("headers"), both);
        let twice = headers(json!([{"key": "A", "value": "1"}, {"key": "A", "value": "2"}])).expect("headers");
        assert_eq!(twice, [pair("A", "1"), pair("A", "2")]);
        assert_eq!(headers(Value::Null).expect("headers"), []);
        for (bad, word) in [
            (json!("A: b"), "an array or an object"),
            (json!([1]), "must be an object"),
            (json!([{"key": 1, "value": "x"}]), "must be text"),
            (json!({"A": ["hunter2"]}), "headers.A must be text, found an array"),
            (json!({"A": "x".repeat(limits::REQUEST_HEAD_MAX + 1)}), "at most"),
            (
                (0..=limits::REQUEST_HEADERS_MAX).map(|n| json!({"key": n.to_string(), "value": ""})).collect(),
                "more than",
            ),
        ] {
            let why = headers(bad.clone()).expect_err("refused");
            assert!(why.contains(word) && !why.contains("hunter2"), "{bad}: {why}");
        }
    }

    #[test]
    fn what_is_missing_has_a_default_and_a_wrong_shape_is_named() {
        let least = request(&json!({"url": "http://a"})).expect("a request");
        assert_eq!((least.method.as_str(), least.headers.len(), least.body), ("GET", 0, None));
        assert_eq!(request(&json!({"url": "http://a", "body": ""})).expect("a request").body, None);
        let body = request(&json!({"url": "http://a", "body": {"a": [1]}})).expect("a request").body;
        assert_eq!(body, Some(Secret::new("{\"a\":[1]}")));
        for (bad, word) in [
            (json!([]), "execution.http must be an object"),
            (json!({"method": "GET"}), "url is missing"),
            (json!({"url": 7}), "url must be text"),
            (json!({"url": "x".repeat(limits::REQUEST_URL_MAX + 1)}), "at most"),
            (json!({"url": "http://a", "method": ["hunter2"]}), "method must be text"),
        ] {
            let why = request(&bad).expect_err("refused");
            assert!(why.contains(word) && !why.contains("hunter2"), "{bad}: {why}");
        }
    }
}
