//! The agent in a container: the shipped Dockerfile and compose file, built, started, given a job and taken down.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use cronium_dev_backend::DevBackend;
use serde_json::{Value, json};

use crate::harness::{
    Folder, LONG, backend_on_every_address, docker, eventually, finish, free_port, job, require_engine, shared, stdout,
    unique,
};

/// A copy of what the shipped files need, as a project that is taken down with its owner.
struct Project {
    folder: Folder,
    name: String,
    backend: DevBackend,
    health_port: u16,
}

impl Project {
    fn new() -> Self {
        let project = Self {
            folder: Folder::new(),
            name: unique("compose"),
            backend: backend_on_every_address(),
            health_port: free_port(),
        };
        lay_out(project.folder.path());
        let configs = project.path("configs");
        std::fs::copy(shipped("docker-compose.yaml"), configs.join("docker-compose.yaml")).expect("copy");
        std::fs::write(configs.join("api-token"), project.backend.token()).expect("write");
        let owned = Command::new("chown").arg("65532:65532").arg(configs.join("api-token")).status().expect("chown");
        assert!(owned.success(), "run the tests as root: the token's file belongs to the agent's user");
        std::fs::create_dir(project.path("run")).expect("folder");
        let owned = Command::new("chown").arg("65532:65532").arg(project.path("run")).status().expect("chown");
        assert!(owned.success(), "the folder of the sockets belongs to the agent's user");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o400);
        std::fs::set_permissions(configs.join("api-token"), private).expect("chmod");
        project
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn compose(&self, arguments: &[&str]) -> Output {
        let socket = std::fs::metadata("/var/run/docker.sock").expect("the engine's socket");
        let port = self.backend.address().port();
        Command::new("docker-compose")
            .args(["-p", &self.name, "-f"])
            .arg(self.path("configs/docker-compose.yaml"))
            .args(arguments)
            .env("DOCKER_BUILDKIT", "0")
            .env("COMPOSE_DOCKER_CLI_BUILD", "0")
            .env("DOCKER_GID", std::os::unix::fs::MetadataExt::gid(&socket).to_string())
            .env("CRONIUM_API_ENDPOINT", format!("http://host.docker.internal:{port}"))
            .env("CRONIUM_ORCHESTRATOR_ID", &self.name)
            .env("CRONIUM_RUNTIME_DIR", self.path("run"))
            .env("CRONIUM_AGENT_IMAGE", format!("cronium/agent:{}", self.name))
            .env("CRONIUM_HEALTH_PORT", self.health_port.to_string())
            .env("CRONIUM_METRICS_PORT", free_port().to_string())
            .output()
            .expect("docker-compose: apt-get install docker-compose")
    }

    fn up(&self) {
        let output = self.compose(&["up", "-d", "--build"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn inspect(&self) -> Value {
        let filter = format!("label=com.docker.compose.project={}", self.name);
        let id = docker(&["ps", "-aq", "--filter", &filter]);
        serde_json::from_str::<Value>(&docker(&["inspect", &id])).expect("JSON")[0].clone()
    }

    /// Whether `/ready` says 200. The engine opens the port before the agent listens behind it, and closes such a
    /// connection without a word.
    fn ready(&self) -> bool {
        let mut answer = String::new();
        let asked = TcpStream::connect(("127.0.0.1", self.health_port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(LONG))?;
            stream.write_all(b"GET /ready HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
            stream.read_to_string(&mut answer)
        });
        asked.is_ok() && answer.starts_with("HTTP/1.1 200")
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", String::from_utf8_lossy(&self.compose(&["logs", "--no-color", "--tail", "30"]).stdout));
        }
        // Not --rmi: the builder's layers are small, and the image goes by its name.
        self.compose(&["down", "-v", "-t", "5"]);
        let _ = Command::new("docker").args(["rmi", "-f", &format!("cronium/agent:{}", self.name)]).output();
    }
}

/// What the shipped Dockerfile is built from, in this folder: the program that is tested. It is linked dynamically, so it brings its
/// libraries; the shipped one needs none.
pub fn lay_out(folder: &Path) {
    let program = env!("CARGO_BIN_EXE_cronium-agent");
    std::fs::create_dir_all(folder.join("dist")).expect("folder");
    std::fs::create_dir_all(folder.join("configs/container-state")).expect("folder");
    let readme = "container-state/README";
    std::fs::copy(shipped(readme), folder.join("configs").join(readme)).expect("copy");
    std::fs::copy(program, folder.join("dist/cronium-agent-0-test-musl")).expect("copy");
    let text = std::fs::read_to_string(shipped("Dockerfile")).expect("the Dockerfile");
    let with = text.replace("FROM scratch\n", "FROM scratch\nCOPY libraries /\n");
    assert_ne!(with, text);
    std::fs::write(folder.join("configs/Dockerfile"), with).expect("write");
    let output = Command::new("ldd").arg(program).output().expect("ldd");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let libraries: Vec<_> = said.split_whitespace().filter(|word| word.starts_with('/')).collect();
    assert!(!libraries.is_empty(), "{said}");
    for library in libraries {
        let target = folder.join("libraries").join(library.trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().expect("a folder")).expect("folder");
        std::fs::copy(library, target).expect(library);
    }
}

fn shipped(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(file)
}

#[test]
fn the_agent_in_a_container_runs_jobs_with_nothing_beside_it() {
    let _machine = shared();
    require_engine();
    let project = Project::new();
    project.up();
    eventually("the agent is ready", || project.ready());
    let row = finish(&project.backend, job("BASH", "echo from beside"));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "from beside\n"));
    let row = finish(&project.backend, job("BASH", "cronium_setVariable k beside && cronium_getVariable k"));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "beside"), "the engine mounts the agent's socket: {row:?}");

    let all = project.inspect();
    let host = &all["HostConfig"];
    for (what, found, wanted) in [
        ("user", &all["Config"]["User"], json!("65532:65532")),
        ("root", &host["ReadonlyRootfs"], json!(true)),
        ("capabilities", &host["CapDrop"], json!(["ALL"])),
        ("privileges", &host["SecurityOpt"], json!(["no-new-privileges:true"])),
        ("privileged", &host["Privileged"], json!(false)),
        ("health port", &host["PortBindings"]["8080/tcp"][0]["HostIp"], json!("127.0.0.1")),
        ("metrics port", &host["PortBindings"]["9090/tcp"][0]["HostIp"], json!("127.0.0.1")),
    ] {
        assert_eq!(*found, wanted, "{what}");
    }
    let token = project.backend.token();
    let environment = all["Config"]["Env"].as_array().expect("environment");
    assert!(environment.iter().all(|pair| !pair.as_str().expect("text").ends_with(&format!("={token}"))));

    let id = all["Id"].as_str().expect("id").to_owned();
    docker(&["stop", "-t", "60", &id]);
    assert_eq!(project.inspect()["State"]["ExitCode"], 0, "the first TERM ends an idle agent cleanly");
    assert_eq!(docker(&["ps", "-aq", "--filter", &format!("label=cronium.agent.id={}", project.name)]), "");
    // The list of what is in the image beside the libraries that this test brought, and what the engine puts into any.
    let list = format!("docker export {id} | tar -t");
    let list = Command::new("sh").args(["-c", &list]).output().expect("docker export");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let ours: Vec<_> = list
        .lines()
        .filter(|name| {
            !name.ends_with('/')
                && !["lib", "usr/", "etc/", "dev/", "run/", "var/run/", "."].iter().any(|at| name.starts_with(at))
        })
        .collect();
    assert_eq!(ours, ["cronium-agent", "var/lib/cronium/README"], "{list}");
}
