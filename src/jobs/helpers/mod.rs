//! The helpers of scripts, seen from the agent: `input`, `output`, variables, `condition` and `event`, without a sidecar
//! and without the backend's token in reach of a script.
//!
//! [`Helpers`] opens a [`Session`] for each script that uses them. [`service`] does what is asked, [`request`] is the form of
//! question and answer, [`place`] has folders and tokens. A script in a container comes by its job's Unix socket, which
//! `health::CallServer` serves; one on a server by the session that follows it.

#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub(crate) mod fuzz;
mod request;
pub mod service;
mod sockets;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::service::{Access, Redaction, ResultStore, Service, Setup, Variables};
use self::sockets::{Key, SocketDir};
use crate::api;
use crate::config::types::Config;
use crate::executors::Task;
use crate::executors::container::warm::Folders;
use crate::executors::helpers::{HelperApi, NOT_LOCAL, SOCKET, event};
use crate::health::{CallListener, CallServer};
use crate::job::{Id, Kind, ScriptResult};
use crate::jobs::ending::{Life, Unreported};
use crate::jobs::pool::Pool;
use crate::jobs::record::JobRecord;
use crate::jobs::secrets::Secrets;
use crate::limits;
use crate::redact::Redactor;

/// Opens the helpers of scripts. Clones share all of it.
#[derive(Clone)]
pub struct Helpers(Arc<Shared>);

struct Shared {
    key: Key,
    /// Or why scripts in containers reach nobody.
    place: Result<SocketDir, String>,
    server: Mutex<Option<CallServer>>,
    pool: Pool,
}

/// The helpers of one script. Dropping this ends them, and removes what was made for them.
pub struct Session {
    service: Arc<Service>,
    /// Dropped before the folder goes.
    listener: Option<CallListener>,
    folder: Result<PathBuf, String>,
}

impl Helpers {
    /// Those of an agent. `in_use` are the executions that an earlier agent has left. The engine is on this host if
    /// `is_local`.
    pub fn start(config: &Config, in_use: &[Id], is_local: bool) -> Self {
        let dir = &config.state.dir;
        let key = Key::kept(dir).unwrap_or_else(|error| {
            log::error!("the key of the scripts' helpers cannot be kept in {}: {error}", dir.display());
            Key::random()
        });
        Self::with(key, config, in_use, is_local)
    }

    /// Those of one `exec`.
    pub fn of_this_process(config: &Config, is_local: bool) -> Self {
        Self::with(Key::random(), config, &[], is_local)
    }

    fn with(key: Key, config: &Config, in_use: &[Id], is_local: bool) -> Self {
        let place = if is_local {
            SocketDir::make(config.state.runtime_dir.as_deref(), &config.state.dir, &key)
        } else {
            Err(NOT_LOCAL.to_owned())
        };
        match &place {
            Ok(place) => place.clear(in_use, &key),
            Err(why) => log::warn!("scripts in containers cannot use their helpers: {why}"),
        }
        Self(Arc::new(Shared {
            key,
            place,
            server: Mutex::default(),
            pool: Pool::new("helper-call", limits::HELPER_THREADS),
        }))
    }

    /// The helpers of a script that reports to `record`. They are there before the script is.
    pub fn open(
        &self,
        client: &api::Client,
        config: &Config,
        task: &Task,
        record: &Arc<JobRecord>,
        (secrets, redactor): (&Secrets, &Redactor),
    ) -> Session {
        let user = task.job.event.user.clone();
        let (own, asked) = (task.job.input.clone(), (client.for_scripts(), task.execution.clone()));
        // What an earlier agent began has an input that this one does not know.
        let is_known = !task.job.script.content.is_empty();
        let input = move || match is_known {
            true => Ok(own.as_json().to_owned()),
            false => input_by_backend(&asked.0, &asked.1),
        };
        let setup = Setup {
            execution: task.execution.clone(),
            event: event(&task.job, task.execution.as_str(), task.server.as_ref()).to_string(),
            input: Box::new(input),
            variables: Box::new(OfUser { client: client.for_scripts(), user }),
            results: Arc::clone(record) as Arc<dyn ResultStore>,
            redaction: Redaction {
                redactor: redactor.clone(),
                variables: config.redact.variables.clone(),
                keep: {
                    let (secrets, execution) = (secrets.clone(), task.execution.clone());
                    let record = Arc::clone(record);
                    Box::new(move |redactor| {
                        let kept = record.keep_secrets(secrets.sealed(redactor, &execution));
                        kept.map_err(|error| format!("the agent cannot keep it: {error}"))
                    })
                },
            },
            max_output: config.jobs.max_script_output,
            token: self.0.key.token(&task.execution),
        };
        self.open_with(setup, task.job.kind)
    }

    /// The same with setup of the caller's.
    pub fn open_with(&self, setup: Setup, kind: Kind) -> Session {
        let execution = setup.execution.clone();
        setup.redaction.redactor.add([&setup.token]);
        let service = Service::new(setup, &self.0.pool);
        let folder = match kind {
            Kind::Container => self.folder(&execution),
            Kind::Ssh => Err("a script on a server has no socket".to_owned()),
            Kind::Http => Err("a request has no script".to_owned()),
        };
        let opened = folder.and_then(|folder| match self.listener(&folder, &service) {
            Ok(listener) => Ok((listener, folder)),
            Err(why) => {
                sockets::remove(&folder);
                Err(why)
            }
        });
        if let (Err(why), Kind::Container) = (&opened, kind) {
            log::warn!("the script cannot use its helpers: {why}");
        }
        let (listener, folder) = match opened {
            Ok((listener, folder)) => (Some(listener), Ok(folder)),
            Err(why) => (None, Err(why)),
        };
        Session { service, listener, folder }
    }

    /// Makes folders for the sockets of scripts that are not known yet.
    pub fn spare_folders(&self) -> Folders {
        let shared = Arc::clone(&self.0);
        Box::new(move || {
            let place = shared.place.as_ref().map_err(Clone::clone)?;
            place.spare_folder().map_err(|error| format!("a folder cannot be made: {error}"))
        })
    }

    /// The token of an execution.
    pub fn token(&self, execution: &Id) -> crate::secret::Secret {
        self.0.key.token(execution)
    }

    fn folder(&self, execution: &Id) -> Result<PathBuf, String> {
        let place = self.0.place.as_ref().map_err(Clone::clone)?;
        place.folder(execution, &self.0.key).map_err(|error| format!("its folder cannot be made: {error}"))
    }

    fn listener(&self, folder: &Path, service: &Arc<Service>) -> Result<CallListener, String> {
        let mut server = self.server();
        if server.is_none() {
            *server = Some(CallServer::start("helpers").map_err(|error| error.to_string())?);
        }
        let Some(server) = server.as_ref() else { return Err("there is no server".to_owned()) };
        let access = Access { service: Arc::clone(service), folder: Err(String::new()) };
        server.listen(&folder.join(SOCKET), Arc::new(access)).map_err(|error| error.to_string())
    }

    fn server(&self) -> MutexGuard<'_, Option<CallServer>> {
        self.0.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the server, and removes the place where no job needs it.
    pub fn stop(&self, wait: Duration) {
        if let Some(server) = self.server().take() {
            server.stop(wait);
        }
        self.0.pool.stop(wait);
        if let Ok(place) = &self.0.place {
            place.leave();
        }
    }
}

impl Session {
    /// For the executor.
    pub fn api(&self) -> Arc<dyn HelperApi> {
        Arc::new(Access { service: Arc::clone(&self.service), folder: self.folder.clone() })
    }

    /// Ends it with the job's life here. Where the script goes on without this agent, what is in its container stays.
    pub(in crate::jobs) fn after(session: Option<Self>, life: Life) -> Life {
        if let (Some(mut session), Err(Unreported::LeftToNext)) = (session, &life) {
            session.folder = Err(String::new());
        }
        life
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.listener = None;
        if let Ok(folder) = &self.folder {
            sockets::remove(folder);
        }
    }
}

/// The variables of an event's owner.
struct OfUser {
    client: api::Client,
    user: Option<String>,
}

impl OfUser {
    fn user(&self) -> Result<&str, String> {
        let none = || "the backend did not say whose event this is, so it has no variables".to_owned();
        self.user.as_deref().ok_or_else(none)
    }
}

impl Variables for OfUser {
    fn get(&self, key: &str) -> Result<Option<String>, String> {
        self.client.variable(self.user()?, key).map_err(|error| error.to_string())
    }

    fn set(&self, key: &str, value: &str) -> Result<(), String> {
        self.client.set_variable(self.user()?, key, value).map_err(|error| error.to_string())
    }
}

/// The input as the backend has it.
fn input_by_backend(client: &api::Client, execution: &Id) -> Result<String, String> {
    let context = client.context(execution).map_err(|error| error.to_string())?;
    let json = crate::wire::scan::Json::strict(&context).map_err(|why| why.to_string())?;
    let input = json.field("metadata").and_then(|metadata| metadata.field("input"));
    Ok(input.map_or_else(|| "{}".to_owned(), |input| String::from_utf8_lossy(input.bytes()).into_owned()))
}

impl ResultStore for JobRecord {
    fn change(&self, change: &dyn Fn(&mut ScriptResult)) -> Result<(), String> {
        self.set_result(change).map_err(|error| format!("the agent cannot keep it: {error}"))
    }

    fn result(&self) -> ScriptResult {
        self.result()
    }
}
