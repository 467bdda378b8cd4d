//! Makes the HTTP request of a job, in the agent's own process, on the job's worker.
//!
//! From top to bottom: [`HttpExecutor::prepare`] checks what the backend sent and sends nothing; `run` connects to an address
//! that the operator's rules allow, sends the request once, and reads the answer up to a cap. Nobody can go on with a
//! request of an agent that was killed: its end is unknown, and it is never sent again.

mod addresses;
mod answer;
mod dial;
#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub(crate) mod fuzz;
mod request;
mod trust;
mod words;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ureq::http::Response;
use ureq::tls::TlsConfig;

use crate::config::Live;
use crate::executors::control::{Signal, Target};
use crate::executors::ending::{ended_early, stopped};
use crate::executors::http::addresses::Rules;
use crate::executors::http::dial::Line;
use crate::executors::http::request::Hop;
use crate::executors::http::words::Failure;
use crate::executors::{AdoptError, CleanupGuard, Control, End, Executor, Prepared, ReattachInfo, Task};
use crate::job::Output;
use crate::os::clock;
use crate::policy::stop::Reason;
use crate::verdict::{Outcome, Phase, Span, Timings, Usage, Verdict};

/// Runs jobs that are HTTP requests. Each job takes the configuration of its moment.
#[derive(Clone)]
pub struct HttpExecutor(Live);

impl HttpExecutor {
    /// An executor with the settings of `http`.
    pub fn new(config: &Live) -> Self {
        Self(config.clone())
    }
}

impl Executor for HttpExecutor {
    fn adopt(
        &self,
        _task: &Task,
        _info: &ReattachInfo,
        _left: Duration,
        _control: &Arc<Control>,
    ) -> Result<Box<dyn Prepared>, AdoptError> {
        Err(AdoptError::Gone("nothing shows whether the server acted on it".to_owned()))
    }

    fn prepare(
        &self,
        task: &Task,
        control: &Arc<Control>,
        output: &mut dyn Output,
    ) -> Result<Box<dyn Prepared>, Box<Outcome>> {
        let begun = (SystemTime::now(), Instant::now());
        let config = self.0.now();
        let refused = |why: String| ended_early(Verdict::refused(why), begun);
        if !config.http.enabled {
            return Err(refused(OFF.to_owned()));
        }
        let Some(request) = &task.job.http else { return Err(refused("the job has no request".to_owned())) };
        let (hop, left_out) = Hop::new(request).map_err(|why| refused(format!("the request was not sent: {why}")))?;
        let tls = trust::config(config.http.ca_file.as_deref()).map_err(|why| {
            ended_early(Verdict::infrastructure(Phase::Setup, format!("the request was not sent: {why}")), begun)
        })?;
        if !left_out.is_empty() {
            output.system(&format!("headers that the agent sets itself were left out: {}", left_out.join(", ")));
        }
        Ok(Box::new(Ready {
            timeout: task.timeout(&config.jobs, output),
            control: Arc::clone(control),
            rules: Rules::new(&config),
            max_response: config.http.max_response,
            max_redirects: config.http.max_redirects,
            hop,
            tls,
            begun,
        }))
    }
}

/// Why a request is refused by default.
const OFF: &str = "HTTP requests are switched off on this agent, since they reach into its network: the operator sets \
                   http.enabled to true to allow them";

/// A request that was checked, and waits for the word to be sent.
struct Ready {
    control: Arc<Control>,
    timeout: (Duration, &'static str),
    rules: Rules,
    max_response: usize,
    max_redirects: u32,
    hop: Hop,
    tls: TlsConfig,
    begun: (SystemTime, Instant),
}

/// The reaper has nothing to signal: each wait of the request looks at the job's control.
struct Looks;

impl Target for Looks {
    fn signal(&self, _: Signal) -> Result<(), String> {
        Ok(())
    }
}

/// A server's answer, and how it came.
struct Answer {
    verdict: Verdict,
    script_output: String,
    evidence: Vec<(&'static str, String)>,
}

impl Prepared for Ready {
    fn reattach_info(&self) -> ReattachInfo {
        ReattachInfo { place: self.hop.origin(), image: String::new(), limits: None, timeout: self.timeout, warm: None }
    }

    fn run(self: Box<Self>, _task: &Task, output: &mut dyn Output) -> End {
        if let Some(reason) = self.control.reason() {
            return End::Outcome(ended_early(stopped(&reason, None), self.begun), CleanupGuard::none());
        }
        if !self.control.begin() {
            return End::NeverRan(CleanupGuard::none());
        }
        let setup = Span { started: self.begun.0, length: self.begun.1.elapsed() };
        let (started, begun) = (SystemTime::now(), Instant::now());
        let (after, limit) = self.timeout;
        self.control.set_deadline(clock::now() + after, Reason::Timeout { limit, after });
        self.control.set_target(Arc::new(Looks));
        // Path and query may hold keys, as headers do.
        output.system(&format!("sending {} to {}", self.hop.method, self.hop.origin()));
        output.settle();
        let (verdict, script_output, evidence) = match self.exchange(output) {
            Ok(answer) => (answer.verdict, Some(answer.script_output), answer.evidence),
            Err(failure) if failure.is_given_back(&self.control) => return End::NeverRan(CleanupGuard::none()),
            Err(failure) => (failure.verdict(&self.control), None, Vec::new()),
        };
        let execution = Span { started, length: begun.elapsed() };
        let timings = Timings { setup: Some(setup), execution: Some(execution), cleanup: None };
        let outcome = Outcome { verdict, timings, usage: Usage::default(), evidence, script_output };
        End::Outcome(Box::new(outcome), CleanupGuard::none())
    }
}

impl Ready {
    /// Sends the request, follows redirects where the operator allows them, and reads the answer.
    fn exchange(&self, output: &mut dyn Output) -> Result<Answer, Failure> {
        let (mut hop, mut answered, mut redirects) = (self.hop.clone(), String::new(), 0);
        loop {
            let line = Line::new(&self.rules, &self.control);
            let failed = |error| Failure::new(error, &line, &answered);
            let response = hop.send_by(&line.agent(self.tls.clone())).map_err(failed)?;
            let status = response.status().as_u16();
            let Some(location) = location(&response).filter(|_| self.max_redirects > 0) else {
                return self.read(response, redirects, &line, output).map_err(failed);
            };
            if redirects >= self.max_redirects {
                let most = self.max_redirects;
                return Err(Failure::redirect(format!("there are more than {most} of them (http.maxRedirects)")));
            }
            redirects += 1;
            let before = hop.origin();
            hop = hop
                .follow(status, &location)
                .map_err(|why| Failure::redirect(format!("{before} answered {status}, and {why}")))?;
            answered = format!("{before} answered {status}, and ");
            output.system(&format!("redirected by {status}: sending {} to {}", hop.method, hop.origin()));
        }
    }

    fn read(
        &self,
        mut response: Response<ureq::Body>,
        redirects: u32,
        line: &Line,
        output: &mut dyn Output,
    ) -> Result<Answer, ureq::Error> {
        let (kept, whole) = answer::read(&mut response, self.max_response, output);
        whole?;
        let (status, text) = (response.status().as_u16(), response.status().canonical_reason().unwrap_or_default());
        let evidence = vec![
            ("httpStatus", status.to_string()),
            ("httpAddress", line.reached().map(|address| address.to_string()).unwrap_or_default()),
            ("httpRedirects", redirects.to_string()),
            ("httpBodyCut", kept.is_cut.to_string()),
        ];
        let script_output = answer::script_output(status, text, response.headers(), &kept);
        Ok(Answer { verdict: words::answered(status, text), script_output, evidence })
    }
}

/// Where the answer redirects to.
fn location(response: &Response<ureq::Body>) -> Option<String> {
    let leads = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get("location").filter(|_| leads)?;
    Some(String::from_utf8_lossy(location.as_bytes()).into_owned())
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
