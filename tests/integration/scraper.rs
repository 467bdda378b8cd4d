//! A real Prometheus that scrapes agents each second.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{Agent, Folder, free_port, get};

/// Ended with its owner.
pub struct Prometheus {
    child: Child,
    port: u16,
    _folder: Folder,
}

impl Prometheus {
    pub fn scraping(agent: &Agent) -> Self {
        let (folder, port) = (Folder::new(), free_port());
        let config = folder.path().join("prometheus.yml");
        let target = format!("127.0.0.1:{}", agent.health_port);
        let text = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: agent\n  static_configs:\n  - targets: ['{target}']\n"
        );
        std::fs::write(&config, text).expect("write");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus: apt-get install prometheus");
        Self { child, port, _folder: folder }
    }

    /// The series that `query` gives now; `None` while Prometheus does not answer. A query that it refuses is a panic.
    pub fn query(&self, query: &str) -> Option<Vec<Value>> {
        TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let escaped: String = query
            .bytes()
            .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
            .collect();
        let (status, body) = get(self.port, &format!("/api/v1/query?query={escaped}"));
        assert!(status == 200 || status == 503, "{query}: {body}");
        let answer: Value = serde_json::from_str(&body).ok()?;
        answer["data"]["result"].as_array().cloned()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
