//! One HTTP exchange with the backend, and the rules for retries.
//!
//! Everything that all calls share is here alone: headers, time limits, the cap on answers, rate limit, retries, metric,
//! debug line.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ureq::http::{HeaderMap, HeaderValue, Method, Request};

use super::clock::{Clock, ClockSkew};
use super::contact::Contact;
use super::dial;
use super::error::{Error, Problem, Wait, sort};
use crate::config::token::Token;
use crate::config::types::{Api, BackoffKind, Tls};
use crate::limits;
use crate::metrics::{self, Code, Endpoint};
use crate::os::clock;
use crate::os::{pulse, random, stop::Stop};
use crate::policy::backoff::{Backoff, Growth};
use crate::policy::rate::Bucket;
use crate::secret::Secret;
use crate::wire::proxy::Proxy;
use crate::wire::time::parse_http_date;

/// One call.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) method: Method,
    /// Below the endpoint, without a query: what messages show.
    pub(super) path: String,
    pub(super) query: String,
    pub(super) body: Option<&'a [u8]>,
    /// The cap on the answer, in bytes.
    pub(super) limit: usize,
    /// Whether the answer's body matters; if not, a status of 2xx is the whole answer.
    pub(super) needs_body: bool,
    /// Whether the transport retries the call.
    pub(super) retry: bool,
    /// Whether it waits only briefly for the rate limit.
    pub(super) urgent: bool,
}

/// The connection to the backend, shared by all clones of a client.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    agent: ureq::Agent,
    base: Arc<Base>,
    stop: Stop,
    /// Whether its calls count in the rate limit.
    limited: bool,
    /// Whether its calls say that the backend is away or back.
    heard: bool,
    /// Answers calls in place of the network, in the simulation of the core.
    #[cfg(test)]
    scripted: Option<Arc<dyn super::testing::Scripted>>,
}

#[derive(Debug)]
struct Base {
    endpoint: String,
    /// For messages.
    host: String,
    proxy: Option<Arc<Proxy>>,
    headers: HeaderMap,
    token: Token,
    timeout: Duration,
    max_attempts: u32,
    backoff: Backoff,
    bucket: Option<Mutex<Bucket>>,
    clock: Clock,
    contact: Contact,
}

impl Transport {
    pub(super) fn new(api: &Api, tls: &Tls, headers: HeaderMap, stop: Stop) -> Result<Self, Error> {
        let uri: ureq::http::Uri = api.endpoint.parse().map_err(|e| setup("api.endpoint", format!("{e}")))?;
        let host = uri.authority().ok_or_else(|| setup("api.endpoint", "it names no host".into()))?;
        // An address may carry a user and password; messages do not.
        let host = host.as_str().rsplit('@').next().unwrap_or_default().to_owned();
        let proxy = api.way.proxy.clone().map(Arc::new);
        let host = proxy.as_ref().map_or(host.clone(), |proxy| format!("{host} (through the proxy {proxy})"));
        let agent = build_agent(api.timeout, limits::API_IDLE_MAX, super::tls::config(tls)?, proxy.clone());
        let growth = match api.retry.backoff {
            BackoffKind::Exponential => Growth::Exponential,
            BackoffKind::Linear => Growth::Linear,
            BackoffKind::Fixed => Growth::Fixed,
        };
        let base = Base {
            endpoint: api.endpoint.trim_end_matches('/').to_owned(),
            host,
            proxy,
            headers,
            token: Token::new(api),
            timeout: api.timeout,
            max_attempts: api.retry.max_attempts.max(1),
            backoff: Backoff { growth, initial: api.retry.initial_delay, max: api.retry.max_delay },
            bucket: api.rate_limit.rate().map(|rate| Mutex::new(Bucket::new(rate, clock::now()))),
            clock: Clock::new(),
            contact: Contact::default(),
        };
        Ok(Self {
            agent,
            base: Arc::new(base),
            stop,
            limited: true,
            heard: true,
            #[cfg(test)]
            scripted: None,
        })
    }

    #[cfg(test)]
    pub(super) fn script(&mut self, by: Arc<dyn super::testing::Scripted>) {
        self.scripted = Some(by);
    }

    /// The same with separate connections.
    pub(super) fn separate(&self) -> Self {
        let limits = dial_limits(self.base.timeout);
        let agent = dial::agent(self.agent.config().clone(), limits, self.base.proxy.clone());
        Self { agent, ..self.clone() }
    }

    /// The same way, whose calls do not count in the rate limit.
    pub(super) fn unlimited(&self) -> Self {
        Self { limited: false, ..self.clone() }
    }

    /// The same, whose calls are no sign of the backend.
    pub(super) fn unheard(&self) -> Self {
        Self { heard: false, ..self.clone() }
    }

    /// The same with separate connections, for which it waits briefly.
    pub(super) fn asking(&self) -> Self {
        let limits = asking_limits(self.base.timeout);
        let agent = dial::agent(self.agent.config().clone(), limits, self.base.proxy.clone());
        Self { agent, ..self.clone() }
    }

    pub(super) fn contact(&self) -> &Contact {
        &self.base.contact
    }

    /// The same; its waits end with another flag.
    pub(super) fn with_stop(&self, stop: Stop) -> Self {
        Self { stop, ..self.clone() }
    }

    /// The delay before the next try after `failures` failures; `last` is the last one.
    pub(super) fn delay(&self, failures: u32, last: &Error) -> Duration {
        // Not the longer of both: many calls that got one `Retry-After` would come back at one moment.
        last.retry_after().unwrap_or_default() + self.base.backoff.delay(failures, random::unit())
    }

    /// Makes the call, with retries if they are allowed and may help.
    pub(super) fn call(&self, call: &Call<'_>) -> Result<Vec<u8>, Error> {
        let (mut attempts, mut is_renewed) = (0, false);
        loop {
            attempts += 1;
            let token = self.base.token.now();
            let problem = match self.attempt(call, &token) {
                Ok(body) => {
                    if self.heard {
                        self.base.contact.succeeded(call.endpoint);
                    }
                    return Ok(body);
                }
                // It was not even looked at, so that it may be made again.
                Err(Problem::Http { status: 401, .. }) if !is_renewed && self.base.token.is_renewed_after(&token) => {
                    (attempts, is_renewed) = (attempts - 1, true);
                    continue;
                }
                Err(problem) => problem,
            };
            let error = self.error(call, attempts, problem);
            if self.heard && error.is_outage() {
                self.base.contact.lost(call.endpoint);
            }
            if !call.retry || attempts >= self.base.max_attempts || !error.is_retryable() {
                return Err(error);
            }
            let delay = self.delay(attempts, &error);
            log::debug!("{error}; trying again in {delay:?}");
            if self.stop.wait(delay) {
                return Err(error);
            }
        }
    }

    /// The error of `call` after `attempts` tries.
    pub(super) fn error(&self, call: &Call<'_>, attempts: u32, problem: Problem) -> Error {
        Error { call: format!("{} {}", call.method, call.path).into(), host: self.host().into(), attempts, problem }
    }

    /// Host and port of the backend, and the proxy on the way, for messages.
    pub(super) fn host(&self) -> String {
        self.base.host.clone()
    }

    /// The backend's token, which may be replaced.
    pub(super) fn token(&self) -> &Token {
        &self.base.token
    }

    /// When a call last succeeded, and how long it took.
    pub(super) fn last_success(&self) -> Option<(Instant, Duration)> {
        self.base.clock.last_success()
    }

    /// The difference of our clock to the backend's, once known.
    pub(super) fn clock_skew(&self) -> Option<ClockSkew> {
        self.base.clock.skew()
    }

    /// One try, with rate limit, metric and log line.
    fn attempt(&self, call: &Call<'_>, token: &Secret) -> Result<Vec<u8>, Problem> {
        self.wait_for_turn(call.urgent)?;
        pulse::touch();
        let begun = clock::now();
        let (status, result) = self.exchange(call, token);
        let took = clock::since(begun);
        let code = match (status, &result) {
            (Some(status), _) => Code::Status(status),
            (None, Err(Problem::Timeout { .. })) => Code::Timeout,
            (None, Err(Problem::Unreached(why))) if why.is_late() => Code::Timeout,
            (None, _) => Code::Error,
        };
        metrics::api_request(call.endpoint, method_name(&call.method), code, took);
        if status == Some(429) {
            self.slow_down();
        }
        match (status, &result) {
            (Some(status), Ok(_)) => log::debug!("{} {}: {status} in {} ms", call.method, call.path, took.as_millis()),
            (_, Err(problem)) => log::debug!("{} {}: {problem} after {} ms", call.method, call.path, took.as_millis()),
            (None, Ok(_)) => {}
        }
        result
    }

    /// The backend wants fewer calls.
    fn slow_down(&self) {
        let Some(bucket) = &self.base.bucket else { return };
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if bucket.slow_down(clock::now()) {
            let rate = bucket.per_second();
            log::warn!("the backend wants fewer calls (429): at most {rate:.1} a second for now (api.rateLimit)");
        }
    }

    fn wait_for_turn(&self, urgent: bool) -> Result<(), Problem> {
        let Some(bucket) = self.base.bucket.as_ref().filter(|_| self.limited) else { return Ok(()) };
        let wait = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(clock::now());
        if urgent {
            self.stop.wait(wait.min(limits::RATE_PRIORITY_WAIT));
        } else if !wait.is_zero() && self.stop.wait(wait) {
            return Err(Problem::Stopped);
        }
        Ok(())
    }

    /// The exchange itself: the status as soon as there is one, and the body or the problem.
    fn exchange(&self, call: &Call<'_>, token: &Secret) -> (Option<u16>, Result<Vec<u8>, Problem>) {
        #[cfg(test)]
        if let Some(scripted) = &self.scripted {
            return scripted.exchange(call.method.as_str(), &format!("{}{}", call.path, call.query), call.body);
        }
        let sort = |error| sort(error, |which| limit_of(which, self.base.timeout));
        let begun = (clock::wall(), clock::now());
        let mut response = match self.send(call, token) {
            Ok(response) => response,
            Err(error) => return (None, Err(sort(error))),
        };
        // An answer from a cache may be old.
        if !response.headers().contains_key("age") {
            let date = response.headers().get("date").and_then(|v: &HeaderValue| v.to_str().ok());
            self.base.clock.note(date, begun.0, clock::since(begun.1));
        }
        let status = response.status().as_u16();
        let good = response.status().is_success();
        if good {
            self.base.clock.succeeded(clock::now(), clock::since(begun.1));
        }
        let retry_after = retry_after(response.headers(), clock::wall());
        let limit = if good { call.limit } else { limits::ANSWER_MAX };
        let body = read_capped(response.body_mut(), limit, sort);
        let result = match (good, body) {
            (true, Err(_)) if !call.needs_body => Ok(Vec::new()),
            (true, body) => body,
            (false, body) => {
                let (message, details) = super::answer::error_text(&body.unwrap_or_default(), token);
                Err(Problem::Http { status, message, details, retry_after })
            }
        };
        (Some(status), result)
    }

    fn send(&self, call: &Call<'_>, token: &Secret) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let uri = format!("{}{}{}", self.base.endpoint, call.path, call.query);
        let mut request = Request::builder().method(call.method.clone()).uri(uri);
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.base.headers.clone());
            if let Ok(mut bearer) = HeaderValue::from_str(&format!("Bearer {}", token.expose())) {
                bearer.set_sensitive(true);
                headers.insert("authorization", bearer);
            }
        }
        match call.body {
            Some(body) => {
                let request = request.header("content-type", "application/json").body(body)?;
                self.agent.run(request)
            }
            None => self.agent.run(request.body(())?),
        }
    }
}

fn setup(key: &'static str, why: String) -> Error {
    Error { call: Box::from(""), host: Box::from(""), attempts: 0, problem: Problem::Setup { key, why } }
}

fn build_agent(timeout: Duration, idle: Duration, tls: ureq::tls::TlsConfig, proxy: Option<Arc<Proxy>>) -> ureq::Agent {
    let limit = |which| Some(limit_of(which, timeout));
    let config = ureq::Agent::config_builder()
        // `dial` goes through the proxy. ureq would read the environment.
        .proxy(None)
        .http_status_as_error(false)
        // A redirect would carry the token to an address outside the configuration.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_age(idle)
        .max_idle_connections(limits::API_IDLE_CONNECTIONS)
        .max_idle_connections_per_host(limits::API_IDLE_CONNECTIONS)
        .input_buffer_size(limits::API_BUFFER)
        // Smaller than the buffer, so that a longer head is an error and not waited for.
        .max_response_header_size(limits::API_HEAD)
        .output_buffer_size(limits::API_BUFFER)
        .timeout_global(limit(Wait::Call))
        .timeout_resolve(limit(Wait::Resolve))
        .timeout_connect(limit(Wait::Connect))
        .timeout_send_request(limit(Wait::Send))
        .timeout_send_body(limit(Wait::Send))
        .timeout_recv_response(limit(Wait::Answer))
        .timeout_recv_body(limit(Wait::Body))
        .tls_config(tls);
    dial::agent(config.build(), dial_limits(timeout), proxy)
}

/// The limits of name and connection by their names.
fn dial_limits(timeout: Duration) -> dial::Limits {
    let named = |which, share| {
        let length = limit_of(which, timeout);
        (length, if length < limits::API_CONNECT_WAIT { share } else { "limits::API_CONNECT_WAIT" })
    };
    dial::Limits {
        resolve: named(Wait::Resolve, "a quarter of api.timeout"),
        connect: named(Wait::Connect, "half of api.timeout"),
    }
}

/// The same for a question whether the backend is back.
fn asking_limits(timeout: Duration) -> dial::Limits {
    let most = |(length, name): (Duration, &'static str)| match length < limits::OUTBOX_ASK_CONNECT {
        true => (length, name),
        false => (limits::OUTBOX_ASK_CONNECT, "limits::OUTBOX_ASK_CONNECT"),
    };
    let dial::Limits { resolve, connect } = dial_limits(timeout);
    dial::Limits { resolve: most(resolve), connect: most(connect) }
}

/// The length of each limit. A part gets a little less than the whole call, so that an error names the part.
fn limit_of(which: Wait, timeout: Duration) -> Duration {
    match which {
        Wait::Resolve => (timeout / 4).min(limits::API_CONNECT_WAIT),
        Wait::Connect => (timeout / 2).min(limits::API_CONNECT_WAIT),
        Wait::Send | Wait::Answer | Wait::Body => timeout.mul_f64(0.9),
        Wait::Call => timeout,
    }
}

fn read_capped(body: &mut ureq::Body, limit: usize, sort: impl Fn(ureq::Error) -> Problem) -> Result<Vec<u8>, Problem> {
    let cap = u64::try_from(limit).unwrap_or(u64::MAX);
    if body.content_length().is_some_and(|n| n > cap) {
        return Err(Problem::TooLarge { limit });
    }
    let (mut bytes, mut reader) = (Vec::new(), body.as_reader());
    loop {
        // `Vec` would double its capacity to twice the limit for an answer just above half of it.
        let more = bytes.len().max(limits::API_BUFFER).min(limit + 1 - bytes.len());
        bytes.reserve_exact(more);
        let wanted = u64::try_from(more).unwrap_or(u64::MAX);
        let read = reader.by_ref().take(wanted).read_to_end(&mut bytes).map_err(|e| sort(e.into()))?;
        if bytes.len() > limit {
            return Err(Problem::TooLarge { limit });
        }
        if read < more {
            return Ok(bytes);
        }
    }
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds or a date, capped at [`limits::RETRY_AFTER_MAX`].
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get("retry-after").and_then(|v: &HeaderValue| v.to_str().ok())?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        parse_http_date(text)?.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(limits::RETRY_AFTER_MAX))
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        _ => "other",
    }
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
