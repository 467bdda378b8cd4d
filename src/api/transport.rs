//! One HTTP exchange with the backend, and the rules for retries.
//!
//! Everything that all calls share is here alone: headers, time limits, the cap on answers, rate limit, retries, metric,
//! debug line.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ureq::http::{HeaderMap, HeaderValue, Method, Request};

use super::clock::{Clock, ClockSkew};
use super::dial;
use super::error::{Error, Problem, Wait, sort};
use crate::config::types::{Api, BackoffKind, Tls};
use crate::limits;
use crate::metrics::{self, Code, Endpoint};
use crate::os::clock;
use crate::os::{pulse, random, stop::Stop};
use crate::policy::backoff::{Backoff, Growth};
use crate::policy::rate::Bucket;
use crate::secret::Secret;
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
    /// Answers calls in place of the network, in the simulation of the core.
    #[cfg(test)]
    scripted: Option<Arc<dyn super::testing::Scripted>>,
}

#[derive(Debug)]
struct Base {
    endpoint: String,
    host: String,
    headers: HeaderMap,
    token: Secret,
    timeout: Duration,
    max_attempts: u32,
    backoff: Backoff,
    bucket: Option<Mutex<Bucket>>,
    clock: Clock,
}

impl Transport {
    pub(super) fn new(api: &Api, tls: &Tls, headers: HeaderMap, stop: Stop) -> Result<Self, Error> {
        let uri: ureq::http::Uri = api.endpoint.parse().map_err(|e| setup("api.endpoint", format!("{e}")))?;
        let host = uri.authority().ok_or_else(|| setup("api.endpoint", "it names no host".into()))?;
        // An address may carry a user and password; messages do not.
        let host = host.as_str().rsplit('@').next().unwrap_or_default().to_owned();
        let host_alone = uri.host().unwrap_or_default();
        let agent = build_agent(api.timeout, limits::API_IDLE_MAX, super::tls::config(tls)?, host_alone);
        let growth = match api.retry.backoff {
            BackoffKind::Exponential => Growth::Exponential,
            BackoffKind::Linear => Growth::Linear,
            BackoffKind::Fixed => Growth::Fixed,
        };
        let base = Base {
            endpoint: api.endpoint.trim_end_matches('/').to_owned(),
            host,
            headers,
            token: api.token.clone(),
            timeout: api.timeout,
            max_attempts: api.retry.max_attempts.max(1),
            backoff: Backoff { growth, initial: api.retry.initial_delay, max: api.retry.max_delay },
            bucket: api.rate_limit.rate().map(|rate| Mutex::new(Bucket::new(rate, clock::now()))),
            clock: Clock::new(),
        };
        Ok(Self {
            agent,
            base: Arc::new(base),
            stop,
            limited: true,
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
        let agent = dial::agent(self.agent.config().clone(), dial_limits(self.base.timeout));
        Self { agent, ..self.clone() }
    }

    /// The same way, whose calls do not count in the rate limit.
    pub(super) fn unlimited(&self) -> Self {
        Self { limited: false, ..self.clone() }
    }

    /// The same; its waits end with another flag.
    pub(super) fn with_stop(&self, stop: Stop) -> Self {
        Self { stop, ..self.clone() }
    }

    /// The delay before the next try after `failures` failures; `last` is the last one.
    pub(super) fn delay(&self, failures: u32, last: &Error) -> Duration {
        self.base.backoff.delay(failures, random::unit()).max(last.retry_after().unwrap_or_default())
    }

    /// Makes the call, with retries if they are allowed and may help.
    pub(super) fn call(&self, call: &Call<'_>) -> Result<Vec<u8>, Error> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let problem = match self.attempt(call) {
                Ok(body) => return Ok(body),
                Err(problem) => problem,
            };
            let error = self.error(call, attempts, problem);
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

    /// Host and port of the backend, for messages.
    pub(super) fn host(&self) -> String {
        self.base.host.clone()
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
    fn attempt(&self, call: &Call<'_>) -> Result<Vec<u8>, Problem> {
        self.wait_for_turn(call.urgent)?;
        pulse::touch();
        let begun = clock::now();
        let (status, result) = self.exchange(call);
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
    fn exchange(&self, call: &Call<'_>) -> (Option<u16>, Result<Vec<u8>, Problem>) {
        #[cfg(test)]
        if let Some(scripted) = &self.scripted {
            return scripted.exchange(call.method.as_str(), &format!("{}{}", call.path, call.query), call.body);
        }
        let sort = |error| sort(error, |which| limit_of(which, self.base.timeout));
        let begun = (clock::wall(), clock::now());
        let mut response = match self.send(call) {
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
                let (message, details) = super::answer::error_text(&body.unwrap_or_default(), &self.base.token);
                Err(Problem::Http { status, message, details, retry_after })
            }
        };
        (Some(status), result)
    }

    fn send(&self, call: &Call<'_>) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let uri = format!("{}{}{}", self.base.endpoint, call.path, call.query);
        let mut request = Request::builder().method(call.method.clone()).uri(uri);
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.base.headers.clone());
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

fn build_agent(timeout: Duration, idle: Duration, tls: ureq::tls::TlsConfig, host: &str) -> ureq::Agent {
    let limit = |which| Some(limit_of(which, timeout));
    let mut config = ureq::Agent::config_builder()
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
    if host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    {
        // A proxy from the environment cannot reach this host's loopback.
        config = config.proxy(None);
    }
    dial::agent(config.build(), dial_limits(timeout))
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
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::api::testing::{Act, Server, ok};
    use crate::os::threads;
    use crate::wire::time::parse_rfc3339;

    #[test]
    fn retry_after_in_seconds_or_as_a_date() {
        let now = parse_rfc3339("1994-11-06T08:49:07Z").expect("a moment");
        for (text, want) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("300", Some(300)),
            ("99999999999999999999999", Some(300)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1999 08:00:00 GMT", Some(300)),
            ("", None),
            ("+5", None),
            ("-1", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT x", None),
            ("Sun, 6 Nov 1994 08:49:37 GMT", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", HeaderValue::from_str(text).expect("a header"));
            assert_eq!(retry_after(&headers, now), want.map(Duration::from_secs), "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    fn transport(server: &Server) -> Transport {
        Transport::new(&server.api(), &Tls::default(), HeaderMap::new(), Stop::new()).expect("a transport")
    }

    fn ask(transport: &Transport) -> Result<Vec<u8>, Error> {
        transport.call(&Call {
            endpoint: Endpoint::Health,
            method: Method::GET,
            path: "/x".to_owned(),
            query: String::new(),
            body: None,
            limit: limits::ANSWER_MAX,
            needs_body: true,
            retry: false,
            urgent: false,
        })
    }

    #[test]
    fn an_answer_of_the_longest_length_is_read_and_a_longer_one_is_not() {
        let server = Server::start(|_, n| match n {
            0 => ok(&"x".repeat(limits::ANSWER_MAX)),
            1 => ok(&"x".repeat(limits::ANSWER_MAX + 1)),
            2 => Act::Flood(limits::ANSWER_MAX + 1),
            3 => Act::Answer(400, "", "x".repeat(limits::ANSWER_MAX)),
            _ => Act::Answer(400, "", "x".repeat(limits::ANSWER_MAX + 1)),
        });
        let transport = transport(&server);
        assert_eq!(ask(&transport).expect("read").len(), limits::ANSWER_MAX);
        for _ in 0..2 {
            let problem = ask(&transport).expect_err("too long").problem;
            assert!(matches!(problem, Problem::TooLarge { limit: limits::ANSWER_MAX }), "{problem:?}");
        }
        // The text of an error is read within the same bound, or left out.
        for read in [true, false] {
            let problem = ask(&transport).expect_err("400").problem;
            let Problem::Http { status: 400, message, .. } = problem else { panic!("{problem:?}") };
            assert_eq!(message.starts_with('x'), read, "{message}");
        }
    }

    #[test]
    fn an_answer_that_wants_fewer_calls_slows_all_of_them_down() {
        let server = Server::start(|_, n| if n < 3 { Act::Answer(429, "", String::new()) } else { ok("{}") });
        let limited = crate::config::types::RateLimit { enabled: true, requests_per_second: 1000.0 };
        let api = Api { rate_limit: limited, ..server.api() };
        let transport = Transport::new(&api, &Tls::default(), HeaderMap::new(), Stop::new()).expect("a transport");
        let rate = || transport.base.bucket.as_ref().expect("a limit").lock().expect("lock").per_second();
        let (other, full) = (transport.separate(), rate());
        for _ in 0..3 {
            ask(&other).expect_err("429");
        }
        assert!((full * 0.45..full * 0.6).contains(&rate()), "halved once for answers that come together: {}", rate());
        ask(&other).expect("an answer");
        assert!(rate() < full * 0.6, "one good answer does not bring it back: {}", rate());
    }

    #[test]
    fn a_head_of_the_longest_length_is_read_and_a_longer_one_is_not() {
        let head = |length: usize| {
            let (begin, end) = ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: ", "\r\n\r\n");
            [begin, &"x".repeat(length - begin.len() - end.len()), end, "{}"].concat().into_bytes()
        };
        let server = Server::start(move |_, n| Act::Raw(head(limits::API_HEAD + n)));
        assert_eq!(ask(&transport(&server)).expect("read"), b"{}");
        let problem = ask(&transport(&server)).expect_err("too long").problem;
        assert!(matches!(problem, Problem::Protocol(_)), "{problem:?}");
    }

    #[test]
    fn a_connection_that_was_idle_for_long_is_not_used_again() {
        let server = Server::start(|_, _| ok("{}"));
        let mut transport = transport(&server);
        let idle = Duration::from_millis(500);
        let tls = crate::api::tls::config(&Tls::default()).expect("TLS");
        transport.agent = build_agent(Duration::from_secs(5), idle, tls, "127.0.0.1");
        for pause in [Duration::ZERO, idle + Duration::from_millis(50)] {
            ask(&transport).expect("an answer");
            std::thread::sleep(pause);
        }
        ask(&transport).expect("an answer");
        let connections: Vec<_> = server.seen().iter().map(|seen| seen.connection).collect();
        assert_eq!(connections, [0, 0, 1]);
    }

    #[test]
    fn idle_connections_are_kept_up_to_a_number() {
        const MORE: usize = limits::API_IDLE_CONNECTIONS + 4;
        // No request is answered before all have arrived, so each needs a connection.
        let all = Arc::new(Barrier::new(MORE));
        let held = Arc::clone(&all);
        let server = Server::start(move |_, _| {
            held.wait();
            ok("{}")
        });
        let transport = transport(&server);
        for _ in 0..2 {
            let calls: Vec<_> = (0..MORE)
                .map(|_| {
                    let transport = transport.clone();
                    threads::spawn("t-call", move || drop(ask(&transport).expect("an answer"))).expect("a thread")
                })
                .collect();
            for call in calls {
                assert_eq!(call.join_within(Duration::from_secs(10)), threads::Ended::Returned);
            }
        }
        let mut connections: Vec<_> = server.seen().iter().map(|seen| seen.connection).collect();
        connections.sort_unstable();
        connections.dedup();
        assert_eq!(connections.len(), MORE + 4, "of the first ones, the maximum was kept");
    }

    #[test]
    fn a_connection_is_waited_for_within_a_bound_of_its_own() {
        let hour = Duration::from_secs(3600);
        assert_eq!(limit_of(Wait::Resolve, hour), limits::API_CONNECT_WAIT);
        assert_eq!(limit_of(Wait::Connect, hour), limits::API_CONNECT_WAIT);
        // A shorter api.timeout leaves time for the rest of the call.
        let short = Duration::from_secs(2);
        assert!(limit_of(Wait::Resolve, short) < short && limit_of(Wait::Connect, short) < short);
    }
}
