//! Pulling an image: the engine does it, and tells how it goes in a stream of JSON lines.
//!
//! The status of the answer is 200 before anything was pulled, so that an error may come as a line in the stream: a
//! pull has succeeded only when the stream has ended without one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use serde::Deserialize;

use crate::docker::call::{self, Request};
use crate::docker::client::{Client, encode};
use crate::docker::conn::Deadline;
use crate::docker::credentials;
use crate::docker::error::Error;
use crate::limits;
use crate::metrics::{self, DockerOperation};
use crate::os::clock;
use crate::wire::lines::{Line, Splitter};

/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Layers that are done, and layers that were named so far.
    pub layers: (usize, usize),
    /// Bytes that were downloaded, and bytes that are known of.
    pub bytes: (u64, u64),
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    status: String,
    #[serde(default)]
    id: String,
    #[serde(rename = "progressDetail", default)]
    detail: Option<Detail>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize, Default)]
struct Detail {
    #[serde(default)]
    current: u64,
    #[serde(default)]
    total: u64,
}

/// What is known of each layer of a pull under way.
#[derive(Default)]
struct Layers(BTreeMap<String, (u64, u64, bool)>);

impl Layers {
    /// Takes one line of the stream; gives the engine's error if the line is one.
    fn take(&mut self, line: &[u8]) -> Option<String> {
        let event: Event = serde_json::from_slice(line).ok()?;
        if event.error.is_some() {
            return event.error;
        }
        let named = !event.id.is_empty() && !event.status.starts_with("Pulling from");
        if named && (self.0.contains_key(&event.id) || self.0.len() < limits::PULL_LAYERS) {
            let layer = self.0.entry(event.id).or_default();
            match event.status.as_str() {
                "Downloading" => {
                    let detail = event.detail.unwrap_or_default();
                    (layer.0, layer.1) = (detail.current, detail.total);
                }
                "Download complete" => layer.0 = layer.1,
                "Pull complete" | "Already exists" => (layer.0, layer.2) = (layer.1, true),
                _ => {}
            }
        }
        None
    }

    fn progress(&self) -> Progress {
        let sum = |of: fn(&(u64, u64, bool)) -> u64| self.0.values().map(of).fold(0, u64::saturating_add);
        Progress {
            layers: (self.0.values().filter(|layer| layer.2).count(), self.0.len()),
            bytes: (sum(|layer| layer.0), sum(|layer| layer.1)),
        }
    }
}

/// What the stream of a pull has told so far.
struct Told<'a> {
    image: &'a str,
    layers: Layers,
    /// The first.
    failure: Option<Error>,
}

impl Told<'_> {
    fn take(&mut self, line: Line<'_>) {
        let failure = match line {
            Line::Whole(line) => {
                self.layers.take(line).map(|message| Error::Pull { image: self.image.to_owned(), message })
            }
            // It may have been the one that says why the pull failed.
            Line::Cut { .. } | Line::Last { .. } => Some(self.babble()),
        };
        self.failure = self.failure.take().or(failure);
    }

    fn babble(&self) -> Error {
        let what = format!("a line of more than {} bytes (limits::PULL_LINE)", limits::PULL_LINE);
        Error::Protocol { doing: format!("pull image {}", self.image), what }
    }
}

/// `name:tag` as the engine wants it: name and tag apart; a digest stays with the name; no tag means `latest`.
fn name_and_tag(image: &str) -> (&str, &str) {
    if image.contains('@') {
        return (image, "");
    }
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    }
}

/// Whether trying again may help: not when the registry has said no.
pub fn is_worth_a_retry(error: &Error) -> bool {
    let (Error::Pull { message, .. } | Error::Refused { message, .. }) = error else {
        return !matches!(error, Error::Stopped { .. } | Error::Credentials { .. });
    };
    let message = message.to_ascii_lowercase();
    let final_words =
        ["unauthorized", "denied", "not found", "manifest unknown", "no such", "invalid reference", "no basic auth"];
    !final_words.iter().any(|word| message.contains(word))
}

impl Client {
    /// Whether the engine has `image`.
    pub fn has_image(&self, image: &str) -> Result<bool, Error> {
        // A name's slashes are part of the path here.
        let path = format!("/images/{}/json", encode(image).replace("%2F", "/"));
        match self.get(DockerOperation::Inspect, &format!("look at image {image}"), &path) {
            Err(error) if error.status() == Some(404) => Ok(false),
            result => result.map(|_| true),
        }
    }

    /// Pulls `image`, once, with the credentials that `auth_file` has for its registry. `watch` is told of progress and
    /// answers whether to go on.
    pub fn pull(
        &self,
        image: &str,
        auth_file: Option<&Path>,
        deadline: Deadline,
        watch: &mut dyn FnMut(&Progress) -> bool,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        let auth = match auth_file {
            Some(file) => credentials::header_for(file, image)?,
            None => None,
        };
        let headers: Vec<String> = auth.iter().map(|secret| format!("X-Registry-Auth: {}", secret.expose())).collect();
        let (name, tag) = name_and_tag(image);
        let tag = if tag.is_empty() { String::new() } else { format!("&tag={}", encode(tag)) };
        let request = Request {
            operation: DockerOperation::Pull,
            doing: format!("pull image {image}"),
            method: "POST",
            target: format!("/images/create?fromImage={}{tag}", encode(name)),
            headers: &headers,
            body: None,
            cap: limits::DOCKER_ANSWER,
        };
        let result = self.follow_pull(image, request, deadline, watch);
        metrics::docker_request(DockerOperation::Pull, begun.elapsed());
        result
    }

    fn follow_pull(
        &self,
        image: &str,
        request: Request<'_>,
        deadline: Deadline,
        watch: &mut dyn FnMut(&Progress) -> bool,
    ) -> Result<(), Error> {
        let doing = request.doing.clone();
        let opened = self.open(request, deadline)?;
        let mut told = Told { image, layers: Layers::default(), failure: None };
        let mut lines = Splitter::new(limits::PULL_LINE);
        let mut heard = clock::now();
        call::stream_body(opened, &doing, deadline, &mut |piece| {
            if !piece.is_empty() {
                heard = clock::now();
            } else if clock::since(heard) >= limits::PULL_SILENCE {
                let limit = "limits::PULL_SILENCE";
                return Err(Error::Timeout { doing: doing.clone(), limit, after: limits::PULL_SILENCE });
            }
            lines.feed(piece, &mut |line| told.take(line));
            if lines.is_too_long() {
                return Err(told.babble());
            }
            if watch(&told.layers.progress()) { Ok(()) } else { Err(Error::Stopped { doing: doing.clone() }) }
        })?;
        lines.finish(&mut |line| told.take(line));
        told.failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tags() {
        for (image, want) in [
            ("alpine", ("alpine", "latest")),
            ("a/b:c", ("a/b", "c")),
            ("127.0.0.1:5000/a", ("127.0.0.1:5000/a", "latest")),
            ("127.0.0.1:5000/a:b", ("127.0.0.1:5000/a", "b")),
            ("a@sha256:00", ("a@sha256:00", "")),
        ] {
            assert_eq!(name_and_tag(image), want);
        }
    }

    #[test]
    fn progress_is_summed_over_layers_and_errors_come_out() {
        let mut layers = Layers::default();
        for line in [
            r#"{"status":"Pulling from a/b","id":"c"}"#,
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"l1"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":10,"total":100},"id":"l1"}"#,
            r#"{"status":"Already exists","progressDetail":{},"id":"l2"}"#,
            "no json",
        ] {
            assert_eq!(layers.take(line.as_bytes()), None, "{line}");
        }
        assert_eq!(layers.progress(), Progress { layers: (1, 2), bytes: (10, 100) });
        let error = layers.take(br#"{"errorDetail":{"message":"boom"},"error":"boom"}"#);
        assert_eq!(error.as_deref(), Some("boom"));
    }

    #[test]
    fn what_a_registry_refused_is_not_asked_again() {
        let pull = |message: &str| Error::Pull { image: "a".into(), message: message.into() };
        assert!(!is_worth_a_retry(&pull("unauthorized: authentication required")));
        assert!(!is_worth_a_retry(&pull("manifest for a:b not found: manifest unknown")));
        assert!(is_worth_a_retry(&pull("dial tcp 127.0.0.1:5000: connect: connection refused")));
        assert!(is_worth_a_retry(&pull("unexpected EOF")));
    }
}
