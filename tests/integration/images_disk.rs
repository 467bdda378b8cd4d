//! Images that are pulled ahead, removed when the disk fills, and named by their digest: on an engine whose data is on a
//! small, separate file system, with a real registry beside it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cronium_dev_backend::DevBackend;
use serde_json::Value;

use crate::engine_proxy::{Break, Proxy};
use crate::engine_restart::Engine;
use crate::harness::{
    Agent, Folder, binary, eventually, finish, finished, job, record, shared, stderr, stdout, with_socket,
};

const BASE: &str = "cronium/runner:bash-alpine";
/// Of the file system. The base image takes 90 of them.
const DISK_MB: u64 = 700;
/// Of random bytes that an image has beside the base.
const IMAGE_MB: u64 = 30;

/// An engine on a small disk, with a registry in its network.
struct House {
    engine: Engine,
    /// What the registry and the images are made from.
    folder: Folder,
}

impl House {
    fn start() -> Self {
        let (folder, data) = (Folder::new(), Folder::new());
        let image = folder.path().join("disk");
        run("truncate", &["-s", &format!("{DISK_MB}M"), text(&image)]);
        run("mkfs.ext4", &["-q", "-m", "0", text(&image)]);
        std::fs::create_dir(data.path().join("data")).expect("a folder");
        run("mount", &["-o", "loop", text(&image), text(&data.path().join("data"))]);
        let config = folder.path().join("registry.yml");
        let root = folder.path().join("registry");
        let yaml = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:5000'}}\n",
            root.display()
        );
        std::fs::write(&config, yaml).expect("write");
        // It ends with the engine.
        let before = format!(
            "ip link set lo up; setpriv --pdeathsig KILL docker-registry serve {} >{}/registry.log 2>&1 &",
            config.display(),
            folder.path().display()
        );
        let engine = Engine::start_in(data, false, &before, &[BASE]);
        let house = Self { engine, folder };
        eventually("the registry takes images", || {
            let name = "127.0.0.1:5000/base:1";
            house.engine.docker(&["tag", BASE, name]);
            let (pushed, _) = house.engine.try_docker(&["push", "-q", name]);
            house.engine.docker(&["rmi", name]);
            pushed
        });
        house
    }

    /// Makes an image and pushes it; the engine does not have it afterwards. Its name, and that with its digest.
    fn push(&self, name: &str) -> (String, String) {
        let (image, context) = (format!("127.0.0.1:5000/{name}:1"), self.folder.path().join(name));
        std::fs::create_dir_all(&context).expect("a folder");
        let bytes = format!("count={IMAGE_MB}");
        let file = format!("of={}/filler", context.display());
        run("dd", &["if=/dev/urandom", &file, "bs=1M", &bytes, "status=none"]);
        let dockerfile = format!("FROM {BASE}\nENV WHICH={name}\nCOPY filler /filler\n");
        std::fs::write(context.join("Dockerfile"), dockerfile).expect("write");
        let built = Command::new("docker")
            .args(["--host", &self.engine.host(), "build", "-q", "-t", &image, text(&context)])
            .env("DOCKER_BUILDKIT", "0")
            .output()
            .expect("docker build");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        self.engine.docker(&["push", "-q", &image]);
        let digest = self.engine.docker(&["image", "inspect", "--format", "{{index .RepoDigests 0}}", &image]);
        self.engine.docker(&["rmi", "-f", &image]);
        std::fs::remove_dir_all(context).expect("remove");
        (image, digest)
    }

    fn has(&self, image: &str) -> bool {
        self.engine.try_docker(&["image", "inspect", image]).0
    }

    fn root(&self) -> PathBuf {
        self.engine.path("data")
    }

    /// Per cent, as `df` says.
    fn used(&self) -> u64 {
        let output = Command::new("df").args(["--output=pcent", text(&self.root())]).output().expect("df");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.lines().nth(1).and_then(|line| line.trim().trim_end_matches('%').parse().ok()).expect("a percentage")
    }

    /// Fills the disk until this share of it is used.
    fn fill(&self, percent: u64) {
        let file = format!("of={}/ballast-{percent}", text(&self.root()));
        let missing = percent.saturating_sub(self.used()) * DISK_MB / 100;
        run("dd", &["if=/dev/zero", &file, "bs=1M", &format!("count={missing}"), "status=none"]);
        while self.used() < percent {
            run("dd", &["if=/dev/zero", &file, "bs=1M", "count=2", "oflag=append", "conv=notrunc", "status=none"]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// An agent that reads a file, and the file.
struct Rig {
    agent: Agent,
    backend: DevBackend,
    folder: Arc<Folder>,
    host: String,
}

impl Rig {
    fn start(host: &str, images: &str) -> Self {
        let (backend, folder, host) = (with_socket(), Arc::new(Folder::new()), host.to_owned());
        std::fs::write(folder.path().join("token"), backend.token()).expect("token");
        let file = folder.path().join("agent.yaml");
        std::fs::write(&file, yaml(&backend, &folder, &host, images)).expect("write");
        let agent = Agent::start_by_file(Arc::clone(&folder), &file);
        agent.wait_ready();
        Self { agent, backend, folder, host }
    }

    fn reload(&self, images: &str) {
        let yaml = yaml(&self.backend, &self.folder, &self.host, images);
        std::fs::write(self.folder.path().join("agent.yaml"), yaml).expect("write");
        let before = self.agent.log().len();
        self.agent.signal("HUP");
        eventually("a reload", || self.agent.log()[before..].contains("in effect from now on"));
    }

    fn which(&self) -> String {
        let row = finish(&self.backend, job("BASH", "echo $WHICH"));
        assert_eq!(row.exit_code, Some(0), "{}", stderr(&row));
        stdout(&row).trim().to_owned()
    }

    /// `cronium-agent ARGUMENTS` about this agent.
    fn ask(&self, arguments: &[&str]) -> String {
        let mut command = binary();
        command.args(arguments).arg("--config").arg(self.folder.path().join("agent.yaml"));
        command.arg("--set").arg(format!("state.dir={}", self.agent.state_dir().display()));
        let output = command.output().expect("it ran");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ask(&["status", "--json"])).unwrap_or_default()
    }
}

fn yaml(backend: &DevBackend, folder: &Folder, host: &str, images: &str) -> String {
    let token = folder.path().join("token");
    format!(
        "api: {{endpoint: '{}', tokenFile: '{}'}}\n\
         jobs: {{requireProof: 'off', pollInterval: 100ms, maxPollInterval: 500ms}}\n\
         logging: {{level: debug}}\nstate: {{minFreeDisk: 1MB}}\n\
         container: {{docker: {{endpoint: '{host}'}}, network: {{mode: none}}, images: {{{images}}}}}\n",
        backend.url(),
        token.display()
    )
}

#[test]
fn a_disk_that_fills_is_relieved_of_what_the_agent_pulled_and_nobody_uses() {
    let _machine = shared();
    let house = House::start();
    let [x, a, b, c, theirs] = ["x", "a", "b", "c", "theirs"].map(|name| house.push(name).0);
    let marks =
        |image: &str, high: u64, low: u64| format!("bash: '{image}', prune: {{high: {high}%, low: {low}%, keep: 0s}}");
    let rig = Rig::start(&house.engine.host(), &marks(&x, 99, 98));
    for (name, image) in [("x", &x), ("a", &a), ("b", &b), ("c", &c)] {
        if name != "x" {
            rig.reload(&marks(image, 99, 98));
        }
        assert_eq!(rig.which(), name);
    }
    // The oldest has a container, and one is the operator's.
    house.engine.docker(&["create", "--name", "keeps-x", &x]);
    house.engine.docker(&["pull", "-q", &theirs]);
    house.engine.docker(&["tag", &b, "mine:1"]);
    let base = house.used();
    rig.reload(&marks(&c, base + 6, base + 4));
    // It is written down at the monitor's next look.
    eventually("all four are known", || rig.ask(&["gc", "--images"]).matches("127.0.0.1:5000/").count() == 4);
    let seen = rig.ask(&["gc", "--images"]);
    for words in ["a container has it", "container.images names it", "it has another name too", "left to the running"] {
        assert!(seen.contains(words), "{words}:\n{seen}");
    }
    assert!(!seen.contains("theirs") && house.has(&a), "{seen}");

    house.fill(base + 7);
    eventually("the unused image goes", || !house.has(&a));
    for image in [&x, &b, &c, &theirs, BASE] {
        assert!(house.has(image), "{image} went: {}", rig.agent.log());
    }
    assert!(house.used() < base + 6, "{} of {base}", house.used());
    eventually("it is counted", || rig.agent.metric("cronium_image_removals_total{result=\"success\"}") == Some(1.0));
    assert!(rig.agent.log().contains(&format!("removed image {a} (")), "{}", rig.agent.log());
    eventually("it is shown", || rig.status()["images"]["removed"] == 1);
    assert_eq!(rig.which(), "c", "a job runs all the same");

    // What the agent pulled is known after its end; what it removed is not asked about again.
    house.engine.docker(&["rmi", "mine:1"]);
    let Rig { agent, backend, folder, host } = rig;
    let state = agent.state_dir();
    agent.stop();
    let gc = |more: &[&str]| {
        let mut command = binary();
        command.args(["gc", "--images"]).args(more).arg("--config").arg(folder.path().join("agent.yaml"));
        let output = command.arg("--set").arg(format!("state.dir={}", state.display())).output().expect("gc");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let line = |said: &str, image: &str| said.lines().find(|line| line.contains(image)).unwrap_or_default().to_owned();
    let dry = gc(&["--dry-run"]);
    assert!(line(&dry, &b).ends_with("would be removed") && house.has(&b) && !dry.contains(&a), "{dry}");
    let young = gc(&["--dry-run", "--grace", "1h"]);
    assert!(line(&young, &b).ends_with("it was used recently"), "{young}");
    let done = gc(&[]);
    assert!(line(&done, &b).ends_with("removed") && !house.has(&b), "{done}");
    assert!(house.has(&x) && house.has(&c) && house.has(&theirs), "{done}");
    drop((backend, host));
}

#[test]
fn a_job_that_wants_an_image_while_it_is_removed_waits_and_pulls_it_again() {
    let _machine = shared();
    let house = House::start();
    let [a, b] = ["a", "b"].map(|name| house.push(name).0);
    let proxy = Proxy::start_to(house.engine.path("docker.sock"));
    let marks = |image: &str, high: u64| format!("bash: '{image}', prune: {{high: {high}%, low: 1%, keep: 0s}}");
    let rig = Rig::start(&proxy.endpoint(), &marks(&a, 99));
    assert_eq!(rig.which(), "a");
    proxy.break_calls("DELETE", "/images/", 1, Break::Delay(4000));
    rig.reload(&marks(&b, 5));
    eventually("the removal is under way", || proxy.count("DELETE", "/images/") == 1);
    rig.reload(&marks(&a, 99));
    let id = rig.backend.enqueue(job("BASH", "echo $WHICH")).expect("queued");
    let row = finished(&rig.backend, &id);
    assert_eq!((stdout(&row), row.exit_code), ("a\n", Some(0)), "{}", stderr(&row));
    assert!(rig.agent.log().contains(&format!("removed image {a} (")), "it was not removed");
    assert_eq!(proxy.count("POST", "/images/create"), 2, "it was pulled again");
    rig.agent.stop();
}

#[test]
fn images_are_pulled_ahead_named_by_digest_and_told_in_the_record() {
    let _machine = shared();
    let house = House::start();
    let (a, digest) = house.push("a");
    let (b, _) = house.push("b");
    let missing = "127.0.0.1:5000/missing:1";
    let ahead = |python: &str| format!("bash: '{digest}', python: '{b}', nodejs: '{python}', prePull: true");
    let rig = Rig::start(&house.engine.host(), &ahead(missing));
    eventually("both that are there", || house.has(&digest) && house.has(&b));
    eventually("the cause", || {
        rig.agent.get("/health").1.contains("images are not pulled ahead: pull image 127.0.0.1:5000/missing")
    });
    // A job waits for none of it.
    let row = finish(&rig.backend, job("BASH", "echo $WHICH"));
    assert_eq!(stdout(&row), "a\n", "{}", stderr(&row));
    let facts = || record(&rig.backend, &row)["executionMetadata"].clone();
    eventually("the record has its facts", || facts()["imageId"].is_string());
    let facts = facts();
    let id = house.engine.docker(&["image", "inspect", "--format", "{{.Id}}", &digest]);
    assert_eq!((&facts["imageId"], &facts["imageDigest"]), (&Value::from(id), &Value::from(digest.clone())));
    assert_eq!(rig.status()["images"]["toPull"], 1);
    eventually("it is tried again", || rig.agent.metric("cronium_image_pulls_total{result=\"failure\"}") >= Some(2.0));
    assert_eq!(rig.agent.log().matches("not pulled ahead, tried again").count(), 1, "told once");

    rig.reload(&ahead(BASE));
    eventually("nothing is left to pull", || rig.status()["images"]["toPull"] == 0);
    eventually("healthy", || !rig.agent.get("/health").1.contains("not pulled ahead"));
    let validate = |images: &str| {
        std::fs::write(rig.folder.path().join("agent.yaml"), yaml(&rig.backend, &rig.folder, &rig.host, images))
            .expect("write");
        rig.ask(&["validate"])
    };
    let each = format!("bash: '{digest}', python: '{digest}', nodejs: '{digest}', requireDigest: true");
    assert!(validate(&each).contains("requireDigest: true"), "{}", validate(&each));
    let refused = validate(&format!("bash: '{a}', python: '{digest}', nodejs: '{digest}', requireDigest: true"));
    assert!(refused.contains("container.images.bash") && refused.contains("write it as NAME@sha256:"), "{refused}");
    let output = binary()
        .args(["exec", "--image", &a, "--set", &format!("container.docker.endpoint={}", rig.host)])
        .args(["--set", "container.images.requireDigest=true"])
        .args(
            ["bash", "python", "nodejs"]
                .iter()
                .flat_map(|one| ["--set".to_owned(), format!("container.images.{one}={digest}")]),
        )
        .args(["--lang", "bash", "/dev/null"])
        .output()
        .expect("exec");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("requireDigest is true; write it as NAME@sha256:"), "{said}");
    rig.agent.stop();
}
