//! A real registry (Debian's docker-registry) on a loopback port, with a user and a password.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::harness::{Folder, docker, eventually, free_port, unique};

pub const USER: &str = "puller";
pub const PASSWORD: &str = "correct-horse-battery";

/// The registry; ended with its owner, its images with it.
pub struct Registry {
    child: Option<Child>,
    folder: Folder,
    pub port: u16,
}

impl Registry {
    pub fn start() -> Self {
        let folder = Folder::new();
        let port = free_port();
        let hash = Command::new("htpasswd")
            .args(["-Bbn", USER, PASSWORD])
            .output()
            .expect("htpasswd: apt-get install apache2-utils");
        std::fs::write(folder.path().join("htpasswd"), hash.stdout).expect("write");
        let root = folder.path().display();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\n\
             http: {{addr: '127.0.0.1:{port}'}}\nauth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n"
        );
        std::fs::write(folder.path().join("config.yml"), config).expect("write");
        let mut registry = Self { child: None, folder, port };
        registry.run();
        registry
    }

    /// Starts the process, again after [`Registry::end`].
    pub fn run(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(self.folder.path().join("config.yml"))
            .stdout(log.try_clone().expect("clone"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("docker-registry: apt-get install docker-registry");
        self.child = Some(child);
        let port = self.port;
        eventually("the registry answers", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    pub fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// A Docker `config.json` with this password for this registry.
    pub fn auth_file(&self, password: &str) -> PathBuf {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"));
        let folder = self.folder.path().join(unique("auth"));
        std::fs::create_dir(&folder).expect("folder");
        let path = folder.join("config.json");
        let text = serde_json::json!({ "auths": { format!("127.0.0.1:{}", self.port): { "auth": auth } } });
        std::fs::write(&path, text.to_string()).expect("write");
        path
    }

    /// Pushes the Bash runner under a new name with one more file, so that the engine has to pull it; returns its
    /// name. The engine does not have it afterwards.
    pub fn push(&self, name: &str, content: &str) -> String {
        self.push_made(name, &format!("FROM cronium/runner:bash-alpine\nLABEL test={content}\nENV WHICH={content}\n"))
    }

    /// The same with the image that this Dockerfile makes.
    pub fn push_made(&self, name: &str, dockerfile: &str) -> String {
        let image = format!("127.0.0.1:{}/{name}:1", self.port);
        let context = self.folder.path().join(unique("context"));
        std::fs::create_dir(&context).expect("folder");
        std::fs::write(context.join("Dockerfile"), dockerfile).expect("write");
        let built = Command::new("docker")
            .args(["build", "-q", "-t", &image, context.to_str().expect("text")])
            .env("DOCKER_BUILDKIT", "0")
            .output()
            .expect("docker build");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let auth = self.auth_file(PASSWORD);
        docker(&["--config", auth.parent().and_then(|dir| dir.to_str()).expect("text"), "push", "-q", &image]);
        docker(&["rmi", "-f", &image]);
        image
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.end();
        // Those that lost their tag to a later push too.
        let reference = format!("reference=127.0.0.1:{}/*", self.port);
        let output = Command::new("docker").args(["images", "-aq", "--filter", &reference]).output();
        for id in output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default().lines()
        {
            let _ = Command::new("docker").args(["rmi", "-f", id]).output();
        }
    }
}
