//! A token that the backend rotates while the agent works: no restart, no lost job, and neither token is shown.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use cronium_dev_backend::{DevBackend, Options, Settings};

use crate::harness::{Agent, Folder, eventually, finish, finished, job, shared, stdout};
use crate::ssh_rig::has_words;

const OLD: &str = "first-T0ken-of-the-backend";
const NEW: &str = "rotated-T0ken-of-the-backend";

/// An agent whose token is in a file.
struct Rig {
    backend: DevBackend,
    folder: Arc<Folder>,
    agent: Agent,
}

impl Rig {
    fn start() -> Self {
        let options = Options { token: OLD.to_owned(), settings: Settings::with_socket(), ..Options::default() };
        let backend = DevBackend::start(options).expect("the dev backend starts");
        let folder = Arc::new(Folder::new());
        let token = folder.path().join("token");
        let yaml = format!(
            "api:\n  endpoint: {}\n  tokenFile: {}\njobs:\n  pollInterval: 100ms\n  maxPollInterval: 500ms\n  leaseRenewal: \
             1s\n  requireProof: \"off\"\nlogging:\n  level: debug\n",
            backend.url(),
            token.display()
        );
        std::fs::write(folder.path().join("agent.yaml"), yaml).expect("write");
        write(&folder, OLD, 0o600);
        let agent = Agent::start_by_file(Arc::clone(&folder), &folder.path().join("agent.yaml"));
        agent.wait_ready();
        Self { backend, folder, agent }
    }

    /// The backend takes the new token alone from now on, and closes its sockets.
    fn rotate(&self) {
        self.backend.set_settings(Settings { token: NEW.to_owned(), ..self.backend.settings() });
        self.backend.drop_sockets();
    }

    /// Neither token stands in the log or on a page.
    fn shows_no_token(&self) {
        for text in [self.agent.log(), self.agent.get("/health").1, self.agent.get("/metrics").1] {
            assert!(!text.contains(NEW) && !text.contains(OLD), "{text}");
        }
    }
}

fn write(folder: &Folder, token: &str, mode: u32) {
    let path = folder.path().join("token");
    std::fs::write(&path, format!("{token}\n")).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn a_rotated_token_is_taken_from_its_file_when_the_backend_refuses_the_old_one() {
    let _machine = shared();
    let rig = Rig::start();
    // It goes on over the rotation, and prints both tokens after it.
    let script = format!(
        "echo begun; while [ ! -e /tmp/never ] && [ $((n += 1)) -lt 60 ]; do sleep 0.1; done; echo {NEW} {OLD}"
    );
    let across = rig.backend.enqueue(job("BASH", &script)).expect("queued");
    eventually("it runs", || !rig.backend.lines(&across).is_empty());
    write(&rig.folder, NEW, 0o600);
    rig.rotate();
    let row = finished(&rig.backend, &across);
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "begun\n[redacted] [redacted]\n"), "{row:?}");
    assert_eq!(row.terminal_reports(), 1, "{row:?}");
    has_words(&rig.agent.log(), &["token holds another token for the backend, which is used from now on"]);
    let row = finish(&rig.backend, job("BASH", "echo after"));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "after\n"), "{row:?}");
    assert!(!rig.backend.lines(&row.id).is_empty(), "the live log came back with the new token");
    rig.shows_no_token();
    rig.agent.stop();
}

#[test]
fn a_file_that_cannot_be_used_is_named_and_the_agent_comes_back_when_it_can() {
    let _machine = shared();
    let rig = Rig::start();
    // Before the rotation a bad file harms nothing: the old token goes on.
    write(&rig.folder, "", 0o600);
    rig.agent.signal("HUP");
    eventually("the reload is refused", || rig.agent.log().contains("the token is empty"));
    assert_eq!(finish(&rig.backend, job("BASH", "true")).exit_code, Some(0));

    rig.rotate();
    eventually("the log names the file", || rig.agent.log().contains("the token is empty; the token in use stays"));
    eventually("calls are refused", || rig.agent.log().contains("answered 401"));
    write(&rig.folder, NEW, 0o644);
    eventually("the log names its mode", || rig.agent.log().contains("; give it mode 0600, and reload"));
    // A further mode alone is seen by the next look, without a reload.
    write(&rig.folder, NEW, 0o600);
    let row = finish(&rig.backend, job("BASH", "echo back"));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "back\n"), "{row:?}");
    rig.shows_no_token();
    rig.agent.stop();
}

#[test]
fn a_reload_takes_a_new_token_before_the_backend_refuses_the_old_one() {
    let _machine = shared();
    let rig = Rig::start();
    write(&rig.folder, NEW, 0o600);
    rig.agent.signal("HUP");
    eventually("it is in effect", || rig.agent.log().contains("holds another token for the backend"));
    has_words(&rig.agent.log(), &["in effect from now on: api.token"]);
    rig.rotate();
    assert_eq!(finish(&rig.backend, job("BASH", "true")).exit_code, Some(0));
    rig.shows_no_token();
    rig.agent.stop();
}
