//! Which pages are where: probes, scrapes and the page for people over TCP, the pages that the agent gives over the Unix socket.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::error::Error;
use super::http::{Page, json, reply};
use super::listener::{Listener, Site, Socket};
use super::page::{self, Shown};
use super::server::Server;
use super::socket;
use super::state::{HealthState, Status};
use crate::config::types::Monitoring;
use crate::metrics;
use crate::wire::prometheus;

/// Listens over TCP as `config` says, with the thread `health`; `None` when `monitoring.enabled` is false.
pub fn start(config: &Monitoring, state: &Arc<HealthState>, shown: &Shown) -> Result<Option<Server>, Error> {
    if config.enabled { Server::start("health", probes(config, state, shown)?).map(Some) } else { Ok(None) }
}

/// Serves `pages` at `dir/control.sock`, with the thread `control`. A socket that a dead agent left is replaced.
pub fn start_control(dir: &Path, pages: Vec<Page>) -> Result<Server, Error> {
    let socket = Socket::Unix(socket::listen(dir)?);
    Server::start("control", vec![Listener { socket, site: Site::Pages(pages) }])
}

/// The listeners of probes and scrapes: no other page is ever on TCP.
pub(super) fn probes(config: &Monitoring, state: &Arc<HealthState>, shown: &Shown) -> Result<Vec<Listener>, Error> {
    let listen = |port, key| {
        let address = SocketAddr::new(config.bind_address, port);
        let listener = TcpListener::bind(address).and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        listener.map(Socket::Tcp).map_err(|source| Error::Listen { key, address, source })
    };
    let (health, ready) = (Arc::clone(state), Arc::clone(state));
    let metrics = || Page::get("/metrics", |_| reply(200, prometheus::CONTENT_TYPE, metrics::render()));
    let mut pages = vec![
        Page::get("/health", move |_| {
            let (status, text) = health.report(SystemTime::now());
            json(if status == Status::Unhealthy { 503 } else { 200 }, text)
        }),
        Page::get("/ready", move |_| match ready.why_not_ready() {
            None => json(200, r#"{"status":"ready"}"#.to_owned()),
            Some(why) => json(503, serde_json::json!({"status": "not ready", "reason": why}).to_string()),
        }),
        Page::get("/live", |_| json(200, r#"{"status":"alive"}"#.to_owned())),
        metrics(),
    ];
    if config.page {
        pages.extend(page::pages(shown));
    }
    let socket = listen(config.health_port, "monitoring.healthPort")?;
    let mut listeners = vec![Listener { socket, site: Site::Pages(pages) }];
    if config.metrics_port != config.health_port {
        let socket = listen(config.metrics_port, "monitoring.metricsPort")?;
        listeners.push(Listener { socket, site: Site::Pages(vec![metrics()]) });
    }
    Ok(listeners)
}
