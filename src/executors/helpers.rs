//! The helpers of a script: what travels with it, and the seam through which its calls reach the agent.
//!
//! A script whose text holds the word `cronium` gets the library of its language, its input and its event as files beside
//! it. What it asks for besides (`output`, a variable, a condition) is a request to the agent. In a container it goes over
//! the job's Unix socket. On a server it is a file in the job's folder, which the session that follows the script brings.
//!
//! A request is `METHOD TARGET\n` and a body, an answer its status, `\n` and a body: the same in both ways, see
//! `jobs::helpers`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::executors::shell::Writer;
use crate::job::{Job, Kind, Language, Server};
use crate::secret::Secret;

/// The folder with all of it, in the folder of the script.
pub(in crate::executors) const FOLDER: &str = ".cronium";

/// Where the job's socket is in its container.
pub(in crate::executors) const MOUNT: &str = "/run/cronium";
/// Why a script has no socket where the engine is reached over TCP.
pub const NOT_LOCAL: &str = "the container engine is behind tcp://, so that it cannot mount the agent's sockets";

/// Its name there, and in the folder on the host that is mounted.
pub const SOCKET: &str = "api.sock";

const PYTHON: &str = include_str!("../../runtime-images/helpers/cronium.py");
const NODE: &str = include_str!("../../runtime-images/helpers/cronium.js");
const BASH: &str = include_str!("../../runtime-images/helpers/cronium.sh");

/// Site packages are not the script's business: this runs before it, and makes way for the image's own file of this name.
const SITE: &str = "import cronium\ncronium._begin()\n";

/// Answers what the helpers of one script ask.
pub trait HelperApi: Send + Sync + fmt::Debug {
    /// The folder on this host with the job's socket, or why there is none.
    fn folder(&self) -> Result<&Path, &str>;
    /// Opens the socket.
    fn token(&self) -> &Secret;
    /// Largest request that is taken, in bytes, and the name of this limit.
    fn body_max(&self) -> (usize, &'static str);
    /// Takes a request over; `answer` may be called later, on another thread.
    fn take(&self, request: Vec<u8>, answer: Box<dyn FnOnce(Vec<u8>) + Send>);
}

/// Whether the script may use its helpers: it names them somewhere.
pub fn are_used_by(job: &Job) -> bool {
    const WORD: &[u8] = b"cronium";
    job.script.content.as_bytes().windows(WORD.len()).any(|part| part.eq_ignore_ascii_case(WORD))
}

/// What `event` gives: what is known of the job and of the place where it runs.
pub fn event(job: &Job, execution: &str, server: Option<&Server>) -> Value {
    let known = &job.event;
    // An event's number is one for the script too, whatever it came as.
    let number = known.id.as_deref().and_then(|id| id.parse::<u32>().ok());
    let kind = match job.script.language {
        Language::Bash => "BASH",
        Language::Python => "PYTHON",
        Language::Node => "NODEJS",
    };
    json!({
        "id": number.map_or_else(|| json!(known.id), |number| json!(number)),
        "name": known.name,
        "type": kind,
        "runLocation": match job.kind { Kind::Container | Kind::Http => "LOCAL", Kind::Ssh => "REMOTE" },
        "userId": known.user,
        "triggeredBy": known.triggered_by,
        "executionId": execution,
        "jobId": job.id.as_str(),
        "server": server.map(|server| json!({ "name": server.name, "address": server.host })),
    })
}

/// What travels with a script.
#[derive(Debug)]
pub struct HelperFiles<'a> {
    language: Language,
    input: &'a str,
    event: String,
    calls: Calls<'a>,
}

/// The way of a script's calls to the agent.
#[derive(Debug, Clone, Copy)]
pub(in crate::executors) enum Calls<'a> {
    /// The job's socket.
    Socket,
    /// Files in the job's folder on a server.
    Files,
    /// None: why.
    None(&'a str),
}

impl<'a> HelperFiles<'a> {
    /// What travels with this job's script.
    pub(in crate::executors) fn of(job: &'a Job, execution: &str, server: Option<&Server>, calls: Calls<'a>) -> Self {
        let event = event(job, execution, server).to_string();
        Self { language: job.script.language, input: job.input.as_json(), event, calls }
    }

    /// Writes the files. `$3` is the script's folder.
    pub(in crate::executors) fn write(&self, w: &mut Writer) {
        let path = |name: &str| format!("\"$3\"/{FOLDER}/{name}");
        w.line(&format!("mkdir -p -- \"$3\"/{FOLDER} || f \"cannot make the folder {FOLDER} beside the script\""));
        w.file(&path("input"), self.input);
        w.file(&path("event"), &self.event);
        match self.calls {
            Calls::Socket => {}
            Calls::Files => w.line(&format!(
                "mkfifo \"$3\"/{FOLDER}/bell && mkdir \"$3\"/{FOLDER}/calls || f \"cannot make {FOLDER}/calls beside the script\""
            )),
            Calls::None(why) => w.file(&path("unreachable"), why),
        }
        match self.language {
            Language::Bash => w.file(&path("cronium.sh"), BASH),
            Language::Node => w.file(&path("cronium.js"), NODE),
            Language::Python => {
                w.file(&path("cronium.py"), PYTHON);
                w.file(&path("sitecustomize.py"), SITE);
            }
        }
    }
}

/// How the interpreter comes to read the library before the script. The job's own value of the same variable still counts.
pub(in crate::executors) fn shell_lines(language: Language) -> &'static str {
    match language {
        Language::Python => "PYTHONPATH=\"$3\"/.cronium${PYTHONPATH:+:$PYTHONPATH}; export PYTHONPATH",
        Language::Bash => {
            "[ -z \"${BASH_ENV+x}\" ] || { CRONIUM_BASH_ENV=$BASH_ENV; export CRONIUM_BASH_ENV; }; \
             BASH_ENV=$3/.cronium/cronium.sh; export BASH_ENV"
        }
        Language::Node => ":",
    }
}

/// The variables of a script in a container that can reach the agent: for its library, and for scripts that speak HTTP.
pub(in crate::executors) fn variables(api: &Arc<dyn HelperApi>) -> Vec<(String, Secret)> {
    vec![
        ("CRONIUM_RUNTIME_API".to_owned(), Secret::new("http://localhost")),
        ("CRONIUM_RUNTIME_SOCKET".to_owned(), Secret::new(format!("{MOUNT}/{SOCKET}"))),
        ("CRONIUM_EXECUTION_TOKEN".to_owned(), api.token().clone()),
    ]
}
