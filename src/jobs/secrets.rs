//! Which values of a job are secrets, and how the next agent comes to know them.
//!
//! A script prints on after its agent was killed, and the next agent must know what to take out of its output. So the values
//! stand in the job's record, sealed as logins are ([`Logins`]). Where they cannot be opened the backend is asked for the job,
//! and where that does not tell it, nothing of its output is shown.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::types::{Config, Redact, RedactEnvironment};
use crate::docker::credentials;
use crate::executors::ssh::keys;
use crate::job::{Id, Job, Request, Server};
use crate::jobs::record::Logins;
use crate::limits;
use crate::redact::{Left, Redactor, Unfit, unfit};
use crate::secret::Secret;
use crate::wire::proxy::Proxy;

/// Knows the agent's own secrets, and seals those of jobs. Shared by clones.
#[derive(Clone)]
pub struct Secrets {
    own: Arc<Mutex<Vec<Secret>>>,
    /// Those of the configuration, which come first.
    configured: usize,
    logins: Logins,
}

/// Headers of requests that hold secrets, whatever `redact.names` says.
const HEADERS: &[&str] = &["AUTHORIZATION", "PROXY-AUTHORIZATION", "COOKIE"];

impl Secrets {
    /// With the agent's own as `config` has them.
    pub fn new(config: &Config, logins: &Logins) -> Self {
        let own = own(config);
        Self { configured: own.len(), own: Arc::new(Mutex::new(own)), logins: logins.clone() }
    }

    /// Tells `redactor` those of the agent.
    pub fn know_own(&self, redactor: &Redactor) {
        redactor.add(&*self.own());
    }

    /// The agent has one more secret: a token that takes the place of another, which stays a secret.
    pub fn add_own(&self, secret: &Secret) {
        let mut own = self.own();
        if !own.contains(secret) {
            own.push(secret.clone());
        }
        if own.len() > self.configured + limits::TOKENS_KEPT {
            own.remove(self.configured);
        }
    }

    fn own(&self) -> MutexGuard<'_, Vec<Secret>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells `redactor` the secrets of a job that runs; what is not redacted, in sentences for the job's log.
    pub fn know(&self, redactor: &Redactor, job: &Job, config: &Redact) -> Vec<String> {
        self.know_own(redactor);
        know(redactor, job, None, config)
    }

    /// All that it knows by now, sealed for the record of this execution.
    pub fn sealed(&self, redactor: &Redactor, execution: &Id) -> String {
        let own = self.own().clone();
        let values: Vec<Secret> = redactor.values().into_iter().filter(|value| !own.contains(value)).collect();
        self.logins.seal_values(&values, execution)
    }

    /// Tells `redactor` what a record holds. Whether it could be opened.
    pub fn recall(&self, redactor: &Redactor, sealed: &str, execution: &Id) -> bool {
        self.know_own(redactor);
        let values = self.logins.open_values(sealed, execution);
        redactor.add(values.iter().flatten());
        values.is_some()
    }
}

/// The agent's own: its token, and the logins of proxies and registries.
fn own(config: &Config) -> Vec<Secret> {
    let logins = config.container.registry_auth_file.as_deref().map(credentials::secrets);
    let proxies = [&config.api.way, &config.api.ws_way].into_iter().filter_map(|way| way.proxy.as_ref());
    let proxies = proxies.flat_map(Proxy::secrets);
    std::iter::once(config.api.token.clone()).chain(proxies).chain(logins.into_iter().flatten()).collect()
}

/// Tells `redactor` the secrets of a job, and of the server that it runs on where the job does not name it.
pub fn know(redactor: &Redactor, job: &Job, server: Option<&Server>, config: &Redact) -> Vec<String> {
    let named = environment(job, config);
    let (mut short, mut common, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for (name, value) in named.iter().filter(|(_, value)| !value.is_empty()) {
        match unfit(value) {
            Some(Unfit::Short) => short.push(*name),
            Some(_) => common.push(*name),
            None => all.push((*value).clone()),
        }
    }
    all.extend(job.servers.iter().flatten().chain(server).flat_map(login));
    all.extend(job.http.iter().flat_map(|request| of_request(request, config)));
    let left = redactor.add(&all);
    let few = limits::REDACT_SHORTEST;
    let mut told = Vec::new();
    told.extend(of_names(&short, &format!("its value has fewer than {few} bytes")));
    told.extend(of_names(&common, "its value is a common word"));
    told.extend(of_cap(left));
    told
}

/// What a cap leaves out.
fn of_cap(left: Left) -> Option<String> {
    let most = limits::REDACT_VALUES;
    match left {
        Left { over_count: 0, spellings: false, .. } => None,
        Left { over_count: 0, .. } => Some(
            "not all encodings of the job's secrets are redacted, since they are too long together (limits::REDACT_BYTES)"
                .to_owned(),
        ),
        Left { over_count, .. } => {
            Some(format!("{over_count} of the job's secrets are not redacted, since there are more than {most}"))
        }
    }
}

fn of_names(names: &[&str], why: &str) -> Option<String> {
    let shown = names.iter().take(limits::REDACT_NAMES_SHOWN).copied().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(limits::REDACT_NAMES_SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| format!("not redacted: {shown}{more} ({why})"))
}

/// The variables of a job that hold secrets.
fn environment<'a>(job: &'a Job, config: &Redact) -> Vec<(&'a str, &'a Secret)> {
    let all = job.environment.iter().map(|(name, value)| (name.as_str(), value));
    match config.environment {
        RedactEnvironment::Off => Vec::new(),
        RedactEnvironment::All => all.collect(),
        RedactEnvironment::Names => all.filter(|(name, _)| is_named(&config.names, name)).collect(),
    }
}

/// A server's login, and its jump host's; the key also as it is printed once it is unwrapped.
fn login(server: &Server) -> Vec<Secret> {
    let clean = server.private_key.as_ref().and_then(|key| keys::normalize(key).ok());
    let own = [&server.private_key, &clean, &server.passphrase, &server.password].into_iter().flatten().cloned();
    own.chain(server.through().into_iter().flat_map(login)).collect()
}

/// What of a request is secret: values of headers by their names, logins and values by their names in the address.
fn of_request(request: &Request, config: &Redact) -> Vec<Secret> {
    if config.environment == RedactEnvironment::Off {
        return Vec::new();
    }
    let is_secret = |name: &str| {
        let name = name.to_ascii_uppercase();
        HEADERS.contains(&name.as_str()) || is_named(&config.names, &name)
    };
    let headers = request.headers.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value);
    let mut all: Vec<Secret> = headers.flat_map(|value| [Some(value.clone()), value.after(" ")]).flatten().collect();
    all.extend(request.url.of_address(&is_secret));
    all
}

/// Whether one of the patterns names this. Case does not count.
pub(in crate::jobs) fn is_named(patterns: &[String], name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    patterns.iter().any(|pattern| matches(&pattern.to_ascii_uppercase(), &name))
}

/// Whether `pattern`, in which `*` stands for any text, is all of `text`.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, mut rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    // Of each part between two stars the first place is as good as any.
    while let Some((part, after)) = rest.split_once('*') {
        let Some(at) = text.find(part) else { return false };
        (text, rest) = (&text[at + part.len()..], after);
    }
    text.ends_with(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_names() {
        for (pattern, name, want) in [
            ("*TOKEN*", "github_token_2", true),
            ("*TOKEN*", "TOKEN", true),
            ("*TOKEN*", "TOKE", false),
            ("*_AUTH", "NPM_AUTH", true),
            ("*_AUTH", "GIT_AUTHOR", false),
            ("A*B*C", "AxBxBC", true),
            ("A*B*C", "AxC", false),
            ("A*A", "A", false),
            ("EXACT", "exact", true),
            ("EXACT", "exactly", false),
            ("*", "", true),
        ] {
            assert_eq!(is_named(&[pattern.to_owned()], name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn of_many_names_some_are_told_and_the_rest_counted() {
        let names: Vec<String> = (0..limits::REDACT_NAMES_SHOWN + 3).map(|n| format!("K{n}")).collect();
        let told = of_names(&names.iter().map(String::as_str).collect::<Vec<_>>(), "why").expect("a sentence");
        assert!(told.starts_with("not redacted: K0, K1, ") && told.ends_with("K19 and 3 more (why)"), "{told}");
        assert_eq!(of_names(&[], "why"), None);
    }

    fn job() -> Job {
        let server = Server {
            id: None,
            name: "web".into(),
            host: "h".into(),
            port: 22,
            user: "u".into(),
            private_key: None,
            certificate: None,
            passphrase: Some(Secret::new("pass-phrase")),
            password: Some(Secret::new("pass-word")),
            jump: None,
        };
        let headers = [("Authorization", "Bearer bearer-value"), ("X-Api-Key", "key-value"), ("Accept", "text/plain")];
        let http = Request {
            method: "GET".into(),
            url: Secret::new("https://me:login-value@h.example/p?token=query-value&page=second-page"),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect(),
            body: None,
        };
        let environment =
            [("API_TOKEN", "token-value"), ("MY_KEY", "abc"), ("DB_PASSWORD", "Password"), ("PLAIN", "plain-value")];
        Job {
            id: Id::parse("a").expect("id"),
            kind: crate::job::Kind::Ssh,
            priority: 0,
            attempts: 0,
            script: crate::job::Script {
                language: crate::job::Language::Bash,
                content: String::new(),
                working_directory: String::new(),
            },
            http: Some(http),
            environment: environment.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect(),
            timeout: None,
            resources: Default::default(),
            servers: vec![Ok(server)],
            event: Default::default(),
            input: Default::default(),
            original_type: None,
            signature: None,
        }
    }

    #[test]
    fn the_secrets_of_a_job_by_its_configuration() {
        let everywhere = "pass-phrase pass-word";
        let named = "token-value bearer-value key-value login-value query-value";
        for (environment, hidden, shown, told) in [
            (RedactEnvironment::Names, named, "plain-value second-page text/plain", 2),
            (RedactEnvironment::All, "token-value plain-value key-value", "second-page", 2),
            (RedactEnvironment::Off, "", named, 0),
        ] {
            let config = Redact { environment, ..crate::config::defaults().redact };
            let redactor = Redactor::default();
            let notes = know(&redactor, &job(), None, &config);
            for value in everywhere.split(' ').chain(hidden.split(' ').filter(|value| !value.is_empty())) {
                assert_eq!(redactor.text(value), "[redacted]", "{environment:?} {value}");
            }
            for value in shown.split(' ') {
                assert_eq!(redactor.text(value), value, "{environment:?}");
            }
            assert_eq!(notes.len(), told, "{notes:?}");
        }
        let notes = know(&Redactor::default(), &job(), None, &crate::config::defaults().redact);
        assert_eq!(notes[0], "not redacted: MY_KEY (its value has fewer than 6 bytes)");
        assert_eq!(notes[1], "not redacted: DB_PASSWORD (its value is a common word)");
    }

    #[test]
    fn the_next_agent_knows_them_with_the_same_token_alone() {
        let config = |token: &str| {
            let mut config = crate::config::defaults();
            config.api.token = Secret::new(token);
            config
        };
        let of = |token: &str| Secrets::new(&config(token), &Logins::new(&Secret::new(token)));
        let execution = Id::parse("exec-1").expect("id");
        let first = Redactor::default();
        of("the-agents-token").know(&first, &job(), &crate::config::defaults().redact);
        assert_eq!(first.text("the-agents-token"), "[redacted]");
        let sealed = of("the-agents-token").sealed(&first, &execution);
        assert!(!sealed.contains("token-value"));

        let next = Redactor::default();
        assert!(of("the-agents-token").recall(&next, &sealed, &execution));
        assert_eq!(next.text("token-value the-agents-token"), "[redacted] [redacted]");
        for (token, execution, sealed) in [
            ("another-token", "exec-1", sealed.as_str()),
            ("the-agents-token", "exec-2", &sealed),
            ("the-agents-token", "exec-1", ""),
            ("the-agents-token", "exec-1", "AAAA"),
        ] {
            let execution = Id::parse(execution).expect("id");
            assert!(!of(token).recall(&Redactor::default(), sealed, &execution), "{token}");
        }
    }
}
