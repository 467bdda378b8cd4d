//! One thread accepts, one thread a connection serves; all are joined at stop.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::serve;
use crate::shared::{Shared, lock};

/// Connections at a time; more are closed at once. An agent keeps two, and a fleet of five hundred is measured.
const CONNECTIONS: usize = 4096;
/// A client that does not take its answer is cut after this.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// At stop, a connection may finish its answer for so long.
const FINISH_LIMIT: Duration = Duration::from_secs(2);

/// Accepts until the backend stops, then sees every connection to its end.
pub(crate) fn serve(shared: &Arc<Shared>, listener: TcpListener) {
    let mut listener = Some(listener);
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !shared.is_stopping() {
        let Some(open) = &listener else {
            let left =
                lock(&shared.refuse_until).map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
            shared.pause(left);
            match TcpListener::bind(shared.address) {
                Ok(open) => listener = Some(open),
                // Somebody's connection may hold the port for a moment.
                Err(_) => shared.pause(Duration::from_millis(20)),
            }
            continue;
        };
        let accepted = open.accept();
        if lock(&shared.refuse_until).is_some_and(|end| end > Instant::now()) {
            listener = None;
            continue;
        }
        let (gone, running): (Vec<_>, Vec<_>) = threads.into_iter().partition(JoinHandle::is_finished);
        gone.into_iter().for_each(|thread| drop(thread.join()));
        threads = running;
        match accepted {
            Ok((stream, _)) if !shared.is_stopping() => threads.extend(start_connection(shared, stream)),
            Ok(_) => {}
            // Out of descriptors, most likely: they come back when connections end.
            Err(_) => shared.pause(Duration::from_millis(20)),
        }
    }
    drop(listener);
    finish_connections(shared, threads);
}

fn start_connection(shared: &Arc<Shared>, stream: TcpStream) -> Option<JoinHandle<()>> {
    let id = shared.next_connection.fetch_add(1, Ordering::Relaxed);
    let copy = stream.try_clone().ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_write_timeout(Some(WRITE_LIMIT)).ok()?;
    {
        let mut connections = lock(&shared.connections);
        if connections.len() >= CONNECTIONS {
            return None;
        }
        connections.insert(id, copy);
    }
    let for_thread = Arc::clone(shared);
    let spawned = std::thread::Builder::new().name(format!("dev-conn-{id}")).spawn(move || {
        serve::connection(&for_thread, stream, id);
        lock(&for_thread.sockets).remove(&id);
        lock(&for_thread.connections).remove(&id);
        for_thread.bump();
    });
    if spawned.is_err() {
        lock(&shared.connections).remove(&id);
    }
    spawned.ok()
}

/// Readers see the end of their input at once; writers get a moment; then all are cut and joined.
fn finish_connections(shared: &Shared, threads: Vec<JoinHandle<()>>) {
    for stream in lock(&shared.connections).values() {
        let _ = stream.shutdown(Shutdown::Read);
    }
    shared.wait(FINISH_LIMIT, true, || lock(&shared.connections).is_empty());
    shared.cut_all(None);
    threads.into_iter().for_each(|thread| drop(thread.join()));
}
