//! Pulling an image: the engine does it, and reports progress as a stream of JSON lines.
//!
//! The status is 200 before anything was pulled, so an error may come as a line in the stream. A pull has succeeded only if
//! the stream ended without one and the engine has the image. A line that cannot be read may have been the error.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use crate::docker::call::{self, Answer, Request};
use crate::docker::client::{Client, encode, list, parse, words, work};
use crate::docker::conn::Deadline;
use crate::docker::credentials;
use crate::docker::error::Error;
use crate::limits;
use crate::metrics::{self, DockerOperation};
use crate::os::clock;
use crate::wire::lines::{Line, Splitter};
use crate::wire::scan::{FieldsError, Json};

/// A pull's progress.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Layers that are done, and layers named so far.
    pub layers: (usize, usize),
    /// Bytes downloaded, and bytes known of.
    pub bytes: (u64, u64),
}

/// What one line of the stream says beside progress.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Progress,
    /// An error of the engine.
    Failure(String),
    /// A line that is not understood; its beginning.
    Unread(String),
}

/// The progress of each layer.
#[derive(Default)]
struct Layers(BTreeMap<String, (u64, u64, bool)>);

impl Layers {
    /// Reads one line of the stream.
    fn take(&mut self, line: &[u8]) -> Said {
        if line.trim_ascii().is_empty() {
            return Said::Progress;
        }
        let event = Json::strict(line).ok();
        let Some((event, mut members)) = event.and_then(|event| Some((event, event.members()?))) else {
            return Said::Unread(beginning(line));
        };
        // Member by member: an error given twice is an error too.
        if members.any(|member| member.is_ok_and(|(name, value)| is_failure(name, value))) {
            return Said::Failure(failure(event));
        }
        self.note(event);
        Said::Progress
    }

    /// Reads the progress of one layer as far as it can be read: it is only shown.
    fn note(&mut self, event: Json<'_>) {
        let Ok([id, status, detail]) = event.fields(["id", "status", "progressDetail"]) else { return };
        let (id, status) = (words(id), words(status));
        let named = !id.is_empty() && !status.starts_with("Pulling from");
        if named && (self.0.contains_key(&id) || self.0.len() < limits::PULL_LAYERS) {
            let layer = self.0.entry(id).or_default();
            let count = |name| detail.and_then(|detail| detail.field(name)).and_then(Json::count).unwrap_or(0);
            match status.as_str() {
                "Downloading" => (layer.0, layer.1) = (count("current"), count("total")),
                "Download complete" => layer.0 = layer.1,
                "Pull complete" | "Already exists" => (layer.0, layer.2) = (layer.1, true),
                _ => {}
            }
        }
    }

    fn progress(&self) -> Progress {
        let sum = |of: fn(&(u64, u64, bool)) -> u64| self.0.values().map(of).fold(0, u64::saturating_add);
        Progress {
            layers: (self.0.values().filter(|layer| layer.2).count(), self.0.len()),
            bytes: (sum(|layer| layer.0), sum(|layer| layer.1)),
        }
    }
}

/// Whether a member says that the pull failed; its value may have any form.
fn is_failure(name: Json<'_>, value: Json<'_>) -> bool {
    (name.is("error") || name.is("errorDetail")) && !value.is_null() && !value.is("")
}

/// The engine's message for an error, in any of its forms.
fn failure(event: Json<'_>) -> String {
    let text = |value: Json<'_>| Some(words(Some(value))).filter(|words| !words.trim().is_empty());
    let [error, detail] = ["error", "errorDetail"].map(|name| {
        let value = event.field(name);
        value.and_then(|value| text(value).or_else(|| text(value.field("message")?)))
    });
    error.or(detail).unwrap_or_else(|| format!("the engine gives no reason: {}", beginning(event.bytes())))
}

/// The beginning of a line, for a message.
fn beginning(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(&line[..line.len().min(limits::ENGINE_MESSAGE)]);
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What the stream has said so far.
struct Told<'a> {
    image: &'a str,
    layers: Layers,
    /// The first error.
    failure: Option<Error>,
    /// The first line that could not be read.
    unread: Option<String>,
}

impl Told<'_> {
    fn take(&mut self, line: Line<'_>) {
        let failure = match line {
            Line::Whole(line) => match self.layers.take(line) {
                Said::Progress => None,
                Said::Failure(message) => Some(self.failed(message)),
                Said::Unread(line) => {
                    self.unread.get_or_insert(line);
                    None
                }
            },
            // It may have been the line that says why the pull failed.
            Line::Cut { .. } | Line::Last { .. } => Some(self.babble()),
        };
        self.failure = self.failure.take().or(failure);
    }

    fn failed(&self, message: String) -> Error {
        Error::Pull { image: self.image.to_owned(), message }
    }

    fn babble(&self) -> Error {
        let what = format!("a line of more than {} bytes (limits::PULL_LINE)", limits::PULL_LINE);
        Error::Protocol { doing: format!("pull image {}", self.image), what }
    }
}

/// The stream so far, in pieces of any size.
pub(super) struct Heard<'a> {
    told: Told<'a>,
    lines: Splitter,
}

impl<'a> Heard<'a> {
    /// Nothing said yet.
    pub(super) fn new(image: &'a str) -> Self {
        let told = Told { image, layers: Layers::default(), failure: None, unread: None };
        Self { told, lines: Splitter::new(limits::PULL_LINE) }
    }

    /// Takes the next bytes. An error: no more is worth reading.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<(), Error> {
        let Self { told, lines } = self;
        lines.feed(piece, &mut |line| told.take(line));
        if lines.is_too_long() {
            // What was said before is what happened.
            return Err(told.failure.take().unwrap_or_else(|| told.babble()));
        }
        Ok(())
    }

    /// The end of the stream. An error: what it said.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        let Self { told, lines } = self;
        lines.finish(&mut |line| told.take(line));
        told.failure.take().map_or(Ok(()), Err)
    }

    pub(super) fn progress(&self) -> Progress {
        self.told.layers.progress()
    }
}

/// `name:tag` split as the engine wants it. A digest stays with the name; no tag means `latest`.
fn name_and_tag(image: &str) -> (&str, &str) {
    if image.contains('@') {
        return (image, "");
    }
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    }
}

/// Whether another try may help: not after a refusal by the registry.
pub fn is_worth_a_retry(error: &Error) -> bool {
    let (Error::Pull { message, .. } | Error::Refused { message, .. }) = error else {
        return !matches!(error, Error::Stopped { .. } | Error::Credentials { .. });
    };
    let message = message.to_ascii_lowercase();
    let final_words =
        ["unauthorized", "denied", "not found", "manifest unknown", "no such", "invalid reference", "no basic auth"];
    !final_words.iter().any(|word| message.contains(word))
}

/// An image that the engine has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Such as `sha256:…`, of its configuration.
    pub id: String,
    /// Each with its tag.
    pub tags: Vec<String>,
    /// Each with the digest of a manifest: `NAME@sha256:…`. None for an image that was built here.
    pub digests: Vec<String>,
    /// Bytes, layers that other images share included.
    pub size: u64,
}

impl Image {
    fn read(image: Json<'_>) -> Result<Self, FieldsError> {
        let [id, tags, digests, size] = image.fields(["Id", "RepoTags", "RepoDigests", "Size"])?;
        let id = Some(words(id)).filter(|id| !id.is_empty()).ok_or(FieldsError::Missing("Id"))?;
        let [tags, digests] = [tags, digests].map(|names| names.map(list).unwrap_or_default());
        Ok(Self { id, tags, digests, size: size.and_then(Json::count).unwrap_or(0) })
    }

    /// Whether somebody else has named it too: another name than `name`, by a tag or a digest.
    pub fn has_other_names(&self, name: &str) -> bool {
        let own = |other: &String| repository(name) == repository(other);
        let tags = self.tags.iter().any(|tag| full(tag) != full(name));
        tags || !self.digests.iter().all(own)
    }
}

/// A name as the engine writes it out: with registry, and with the tag that is meant where there is none.
fn full(name: &str) -> String {
    let (repository, tag) = (repository(name), name.rsplit_once('@').map(|(_, digest)| digest));
    match tag {
        Some(digest) => format!("{repository}@{digest}"),
        None => format!("{repository}:{}", name_and_tag(name).1),
    }
}

/// An image's name without tag and digest, as the engine writes it.
fn repository(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or_default();
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

impl Client {
    /// The image that `name` names now, or that has this id; `None` where the engine does not have it.
    pub fn image(&self, name: &str) -> Result<Option<Image>, Error> {
        let Some(answer) = self.look_at_image(name)? else { return Ok(None) };
        parse(&format!("look at image {name}"), &answer.body, Image::read).map(Some)
    }

    /// Removes the image with this id. The engine refuses while any container has it.
    pub fn remove_image(&self, id: &str) -> Result<(), Error> {
        let doing = format!("remove image {id}");
        let path = format!("/images/{}", encode(id));
        match self.send(DockerOperation::Remove, &doing, "DELETE", &path, None, work()) {
            Err(error) if error.status() == Some(404) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Whether the engine has `image`.
    pub fn has_image(&self, image: &str) -> Result<bool, Error> {
        self.look_at_image(image).map(|answer| answer.is_some())
    }

    /// The id of what `image` names now; `None` where the engine does not have it.
    pub fn image_id(&self, image: &str) -> Result<Option<String>, Error> {
        Ok(self.image(image)?.map(|image| image.id))
    }

    /// The digest by which a registry knows the image with this id, as `REPOSITORY@sha256:…`: that of `name`'s repository, else
    /// the first. `None` for an image that came from none.
    pub fn image_digest(&self, id: &str, name: &str) -> Result<Option<String>, Error> {
        let Some(answer) = self.look_at_image(id)? else { return Ok(None) };
        let [digests] = parse(&format!("look at image {id}"), &answer.body, |image| image.fields(["RepoDigests"]))?;
        let all = digests.and_then(Json::items).into_iter().flatten();
        let all: Vec<String> = all.take(limits::IMAGE_DIGESTS).flatten().map(|digest| words(Some(digest))).collect();
        let own = |digest: &&String| digest.split('@').next() == Some(repository(name));
        Ok(all.iter().find(own).or(all.first()).filter(|digest| !digest.is_empty()).cloned())
    }

    fn look_at_image(&self, image: &str) -> Result<Option<Answer>, Error> {
        // A name's slashes are part of the path here.
        let path = format!("/images/{}/json", encode(image).replace("%2F", "/"));
        match self.get(DockerOperation::Inspect, &format!("look at image {image}"), &path) {
            Err(error) if error.status() == Some(404) => Ok(None),
            result => result.map(Some),
        }
    }

    /// Pulls `image` once, with the credentials that `auth_file` has for its registry. `watch` gets the progress and returns
    /// whether to go on.
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
        let opened = self.open_while(request, deadline, &mut || watch(&Progress::default()))?;
        let mut heard = Heard::new(image);
        let mut last = clock::now();
        call::stream_body(opened, &doing, deadline, &mut |piece| {
            if !piece.is_empty() {
                last = clock::now();
            } else if clock::since(last) >= limits::PULL_SILENCE {
                let limit = "limits::PULL_SILENCE";
                return Err(Error::Timeout { doing: doing.clone(), limit, after: limits::PULL_SILENCE });
            }
            heard.take(piece)?;
            if watch(&heard.progress()) { Ok(()) } else { Err(Error::Stopped { doing: doing.clone() }) }
        })?;
        heard.finish()?;
        let told = heard.told;
        if let Some(line) = &told.unread {
            log::warn!("the engine says what is not understood while it pulls image {image}: {line}");
        }
        if self.has_image(image)? {
            return Ok(());
        }
        let unread = told.unread.as_ref().map(|line| format!("; it said: {line}")).unwrap_or_default();
        Err(told.failed(format!("the engine ended the pull without an error and does not have the image{unread}")))
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
    fn names_of_one_image_are_known_as_such_and_others_are_not() {
        let image = |tags: &[&str], digests: &[&str]| Image {
            tags: tags.iter().map(ToString::to_string).collect(),
            digests: digests.iter().map(ToString::to_string).collect(),
            ..Image::default()
        };
        for (name, tags, digests, has) in [
            ("a:1", &["a:1"][..], &["a@sha256:00"][..], false),
            ("a", &["a:latest"], &["a@sha256:00"], false),
            ("docker.io/library/a:1", &["a:1"], &["a@sha256:00"], false),
            ("docker.io/o/a:1", &["o/a:1"], &[], false),
            ("h:5000/a", &["h:5000/a:latest"], &["h:5000/a@sha256:00", "h:5000/a@sha256:11"], false),
            ("h:5000/a@sha256:00", &[], &["h:5000/a@sha256:00"], false),
            ("a:1", &[], &["a@sha256:00"], false),
            ("a:1", &["a:1", "mine:1"], &["a@sha256:00"], true),
            ("a:1", &["a:2"], &["a@sha256:00"], true),
            ("a:1", &["a:1"], &["a@sha256:00", "h:5000/a@sha256:00"], true),
            ("h:5000/a@sha256:00", &["h:5000/a:1"], &["h:5000/a@sha256:00"], true),
            ("localhost/a:1", &["a:1"], &[], true),
        ] {
            assert_eq!(image(tags, digests).has_other_names(name), has, "{name} {tags:?} {digests:?}");
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
            r#"{"status":"Downloading","progressDetail":{"current":-1,"total":1e999},"id":"l3"}"#,
            r#"{"status":7,"progressDetail":[],"id":null,"error":null,"errorDetail":null}"#,
            r#"{"id":"l4","id":"l4","error":""}"#,
            " ",
        ] {
            assert_eq!(layers.take(line.as_bytes()), Said::Progress, "{line}");
        }
        assert_eq!(layers.progress(), Progress { layers: (1, 3), bytes: (10, 100) });
        for line in ["no json", "[]", "7", "{", "{\"error\":\"x\"", "{\"status\":\"\u{1}\"}"] {
            assert!(matches!(layers.take(line.as_bytes()), Said::Unread(_)), "{line}");
        }
    }

    #[test]
    fn an_error_is_one_whatever_its_form() {
        for (line, want) in [
            (r#"{"errorDetail":{"message":"boom"},"error":"boom"}"#, "boom"),
            (r#"{"error":"boom","progressDetail":{"current":1,"total":-1}}"#, "boom"),
            (r#"{"error":"boom","status":7,"id":{}}"#, "boom"),
            (r#"{"errorDetail":{"message":"boom"}}"#, "boom"),
            (r#"{"errorDetail":{"code":1,"message":"boom"},"error":null}"#, "boom"),
            (r#"{"errorDetail":{"message":"boom"},"error":""}"#, "boom"),
            (r#"{"errorDetail":"boom"}"#, "boom"),
            (r#"{"error":{"message":"boom"}}"#, "boom"),
            (r#"{"\u0065rror":"boom"}"#, "boom"),
            (r#"{"error":"boom\ud800"}"#, "boom\u{fffd}"),
            (r#"{"error":"boom","error":"bang"}"#, r#"the engine gives no reason: {"error":"boom","error":"bang"}"#),
            (r#"{"error":true}"#, r#"the engine gives no reason: {"error":true}"#),
            (r#"{"errorDetail":{"code":7}}"#, r#"the engine gives no reason: {"errorDetail":{"code":7}}"#),
        ] {
            assert_eq!(Layers::default().take(line.as_bytes()), Said::Failure(want.to_owned()), "{line}");
        }
    }

    #[test]
    fn the_first_error_is_told_also_where_a_line_without_an_end_follows_it() {
        let all = [b"{\"error\":\"boom\"}\n", &[b'x'; limits::PULL_LINE + 1][..]].concat();
        for piece in [1, 1000, all.len()] {
            let mut heard = Heard::new("a");
            let error = all.chunks(piece).find_map(|part| heard.take(part).err()).expect("it is too long");
            assert!(error.to_string().contains("boom"), "in pieces of {piece}: {error}");
        }
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
