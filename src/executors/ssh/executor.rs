//! The face of servers to a worker: prepares a job's session, or adopts a script that an earlier agent started.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use crate::config::types::Config;
use crate::executors::ending::{ended_early, setup_verdict};
use crate::executors::helpers::Calls;
use crate::executors::ssh::breakers::{Breakers, Tripped, Watcher};
use crate::executors::ssh::connection::Session;
use crate::executors::ssh::error::Error;
use crate::executors::ssh::folder::Folder;
use crate::executors::ssh::place::{self, Place};
use crate::executors::ssh::pool::{Pool, Wish};
use crate::executors::ssh::remote;
use crate::executors::ssh::run::{Run, Start};
use crate::executors::ssh::shared::Shared;
use crate::executors::{AdoptError, CleanupGuard, Control, End, Executor, Prepared, ReattachInfo, Task, shell};
use crate::job::{Output, Server};
use crate::limits;
use crate::os::random;
use crate::policy::breaker;
use crate::verdict::{Outcome, Verdict};

/// Runs jobs on servers.
#[derive(Debug, Clone)]
pub struct SshExecutor {
    /// Replaced as a whole by a reload; each job keeps the one that it began with.
    shared: Arc<RwLock<Arc<Shared>>>,
}

impl SshExecutor {
    /// An executor with the settings of `ssh` and `jobs`; it does not connect yet.
    pub fn new(config: &Config) -> Self {
        let settings = config.ssh.clone();
        let breakers = Breakers::new(breaker::Settings {
            enabled: settings.breaker_enabled,
            failure_threshold: settings.failure_threshold,
            moment: limits::SSH_MOMENT,
            success_threshold: settings.success_threshold,
            timeout: settings.breaker_timeout,
            half_open_requests: settings.half_open_requests,
        });
        let shared = Shared {
            pool: Pool::new(settings.clone(), breakers.clone()),
            breakers,
            settings,
            jobs: config.jobs.clone(),
        };
        Self { shared: Arc::new(RwLock::new(Arc::new(shared))) }
    }

    /// Jobs that are prepared from now on get this `ssh.execution` and these timeouts, and new connections this `ssh.hosts`;
    /// pool and breakers stay.
    pub fn reload(&self, config: &Config) {
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        shared.pool.reload(&config.ssh);
        *shared =
            Arc::new(Shared { settings: config.ssh.clone(), jobs: config.jobs.clone(), ..Shared::clone(&shared) });
    }

    pub(super) fn now(&self) -> Arc<Shared> {
        Arc::clone(&self.shared.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The servers whose circuit breakers are not closed.
    pub fn tripped(&self) -> Vec<Tripped> {
        self.now().breakers.tripped()
    }

    /// Calls `watcher` at each change of a circuit breaker.
    pub fn watch(&self, watcher: Watcher) {
        self.now().breakers.watch(watcher);
    }

    /// The host key that a server shows, for `known-hosts add`: its type and the key.
    pub fn host_key(&self, server: &Server) -> Result<(String, Vec<u8>), Error> {
        self.now().pool.host_key(server)
    }

    /// Ends every connection. Scripts that still run on servers go on there.
    pub fn stop(&self) {
        self.now().pool.stop();
    }
}

impl Executor for SshExecutor {
    /// Does not look for the folder on the server yet: the server may be away for a while.
    fn adopt(
        &self,
        task: &Task,
        info: &ReattachInfo,
        left: Duration,
        control: &Arc<Control>,
    ) -> Result<Box<dyn Prepared>, AdoptError> {
        let Some(server) = task.server.clone() else {
            return Err(AdoptError::Gone("the backend does not tell any more how to log in to its server".to_owned()));
        };
        let shared = self.now();
        Ok(Box::new(Adopted {
            shared: Arc::clone(&shared),
            server,
            place: Place::of(&info.place, &shared.settings),
            control: Arc::clone(control),
            timeout: info.timeout,
            left,
        }))
    }

    fn cleanup(&self, server: &Server, place: &str) -> CleanupGuard {
        let (shared, server) = (self.now(), server.clone());
        let place = Place::of(place, &shared.settings);
        let (names, session) = (vec![place.name.clone()], None);
        CleanupGuard::with_request(Folder { shared, server, names, place, session, asked: false })
    }

    fn prepare(
        &self,
        task: &Task,
        control: &Arc<Control>,
        output: &mut dyn Output,
    ) -> Result<Box<dyn Prepared>, Box<Outcome>> {
        let begun = (SystemTime::now(), Instant::now());
        let early = |verdict: Verdict| ended_early(verdict, begun);
        let shared = &self.now();
        let Some(server) = task.server.clone() else {
            return Err(early(Verdict::refused("the job names no server to run on")));
        };
        let place = Place {
            temp_dir: shared.settings.temp_dir.clone(),
            name: task.execution.to_string(),
            shell: shared.settings.default_shell.clone(),
            pty: shared.settings.pty_mode,
        };
        let nonce = random::hex(16);
        let (variables, helpers) = (task.variables(false), task.helper_files(Calls::Files));
        let carried = (variables.as_slice(), helpers.as_ref());
        let program = remote::start(&place, task.execution.as_str(), &task.job.script, carried, &nonce)
            .map_err(|error| early(Verdict::refused(format!("the job cannot be run: {error}"))))?;
        let timeout = task.timeout(&shared.jobs, output);
        shell::notes(&task.job.script).iter().for_each(|note| output.system(note));
        output.settle();
        let until = begun.1 + shared.jobs.setup_timeout;
        let wish = Wish { server: &server, until, wanted: &|| control.is_wanted() };
        let mut say = |text: &str| {
            output.system(text);
            output.settle();
        };
        match shared.pool.first_session(&wish, &mut say) {
            Ok((session, warm)) => {
                // The shell answers while the backend acknowledges; the script follows after that.
                session.send(place::begin(&place, &nonce));
                Ok(Box::new(Ready {
                    shared: Arc::clone(shared),
                    session,
                    warm,
                    server,
                    place,
                    nonce,
                    program,
                    control: Arc::clone(control),
                    timeout,
                    until,
                    begun,
                }))
            }
            Err(error) => Err(early(setup_verdict(&error, control))),
        }
    }
}

/// A session with a waiting shell, and the program for it.
struct Ready {
    shared: Arc<Shared>,
    session: Session,
    /// The connection was there before.
    warm: bool,
    server: Server,
    place: Place,
    nonce: String,
    program: Vec<u8>,
    control: Arc<Control>,
    timeout: (Duration, &'static str),
    /// `jobs.setupTimeout`.
    until: Instant,
    begun: (SystemTime, Instant),
}

impl Prepared for Ready {
    fn reattach_info(&self) -> ReattachInfo {
        ReattachInfo {
            place: self.place.directory(),
            image: String::new(),
            limits: None,
            timeout: self.timeout,
            warm: None,
        }
    }

    fn run(self: Box<Self>, task: &Task, output: &mut dyn Output) -> End {
        let Self { shared, session, warm, server, place, nonce, program, control, timeout, until, begun } = *self;
        let mut run = Run::new(&shared, &server, &control, task, place, timeout, until);
        run.begun = begun;
        run.host_key = session.connection().host_key.clone();
        if control.reason().is_some() {
            let verdict = setup_verdict(&Error::Stopped { server: server.shown() }, &control);
            return End::Outcome(Box::new(run.outcome(verdict, None, warm)), CleanupGuard::none());
        }
        run.start = Start::Waits(program);
        run.see_through(Some((session, nonce)), warm, output)
    }
}

/// A script that an earlier agent started.
struct Adopted {
    shared: Arc<Shared>,
    server: Server,
    place: Place,
    control: Arc<Control>,
    timeout: (Duration, &'static str),
    /// The rest of its time limit.
    left: Duration,
}

impl Prepared for Adopted {
    fn reattach_info(&self) -> ReattachInfo {
        ReattachInfo {
            place: self.place.directory(),
            image: String::new(),
            limits: None,
            timeout: self.timeout,
            warm: None,
        }
    }

    fn run(self: Box<Self>, task: &Task, output: &mut dyn Output) -> End {
        let Self { shared, server, place, control, timeout, left } = *self;
        let until = Instant::now() + shared.jobs.setup_timeout;
        let mut run = Run::new(&shared, &server, &control, task, place, timeout, until);
        run.adopted = true;
        run.starts_now(left);
        run.see_through(None, false, output)
    }
}
