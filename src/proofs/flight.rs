//! Which canaries there are, and one flight of all of them.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use super::canaries::{Cage, Canary, DOCTOR, Flying, SEEN, executor, name};
use super::facts::{Found, Listener, NotRun, Ran};
use super::finding::{Check, Finding, named};
use super::{By, Proof, Prover, judge, outside, resolvers};
use crate::config::types::{Config, DockerEndpoint, NetworkMode};
use crate::docker::{self, containers::short};
use crate::executors::container::janitor::Janitor;
use crate::executors::container::labels;
use crate::job::Resources;
use crate::limits;
use crate::os::clock::Deadline;
use crate::os::{net, random};
use crate::policy::stop::Reason;

/// Where clouds serve a machine's credentials.
const CLOUD: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

impl Prover<'_> {
    /// Runs all canaries and judges what they found.
    pub fn prove(&self) -> Proof {
        if self.by == By::Doctor {
            sweep(self.docker);
        }
        let executor = executor(self.docker.clone(), self.config, &self.by, self.sampler.clone());
        let executor = match &self.jobs {
            Some(jobs) => executor.with_pulls_of(jobs),
            None => executor,
        };
        let patience = limits::PROOF_CANARIES.max(self.config.jobs.setup_timeout.min(self.longest_setup()));
        let cage = Cage {
            executor,
            reaper: self.reaper.clone(),
            word: random::hex(6),
            until: Instant::now() + patience,
            halt: self.halt,
            launched: RefCell::default(),
        };
        // Makes the network before several canaries ask for it at once.
        let warm = cage.executor.warm_up().map_err(|error| error.to_string());
        let found = warm.map(|()| fly_all(&cage, self.docker, self.config));
        cage.executor.sweep();
        let used = found.as_ref().map_or(0.0, Found::used);
        let checks = match found {
            Ok(found) => {
                let mut checks = judge::judge(&found, &self.config.container);
                checks.push(left_behind(self.docker, self.by.label(), &cage.word).of(judge::CLEANUP));
                checks
            }
            Err(why) => not_proven(&why),
        };
        Proof { checks, halted: cage.halted(), used }
    }

    /// An agent's canaries wait for a pull as long as a job does.
    fn longest_setup(&self) -> std::time::Duration {
        match self.by {
            By::Doctor => limits::PROOF_SETUP,
            By::Agent(_) => self.config.jobs.setup_timeout,
        }
    }
}

/// The lines of proofs for which no canary ran.
pub fn not_proven(why: &str) -> Vec<Check> {
    let mut findings = vec![judge::not_proven(&format!("see {}", judge::NAMES[0])); judge::NAMES.len()];
    findings[0] = judge::not_proven(why);
    let mut checks = named(&judge::NAMES, findings);
    checks.push(Finding::ok("no container was made").of(judge::CLEANUP));
    checks
}

fn fly_all(cage: &Cage<'_>, docker: &docker::Client, config: &Config) -> Found {
    let (first, line) = sync_channel(1);
    let listen = Canary::python("listen", include_str!("listen.py"));
    let listener = cage.launch(listen.set("WAIT", limits::PROOF_CANARY.as_secs()), Some(first));
    let memory = with(Canary::new("memory", include_str!("memory.sh")), |resources| {
        resources.memory = Some(limits::PROOF_MEMORY);
    });
    let memory = memory.set("FITS", limits::PROOF_MEMORY_FITS).set("MORE", limits::PROOF_MEMORY_MORE);
    let memory = cage.launch(memory, None);
    let pids = with(Canary::new("processes", include_str!("pids.sh")), |resources| {
        resources.pids = Some(limits::PROOF_PIDS);
    });
    let pids = cage.launch(pids.set("MORE", limits::PROOF_PIDS_MORE), None);
    let cpu = cage.launch(Canary::new("cores", include_str!("cpu.sh")), None);
    let cloud = knock(CLOUD.into(), 80);
    let outside = Some(config).filter(|config| config.container.network.internal);
    let outside = outside.and_then(|config| outside::of_backend(&config.api)).filter(|at| knock(at.ip(), at.port()));
    let locks = cage.launch(locks(config, outside), None);
    let calls = cage.launch(Canary::python("calls", include_str!("calls.py")), None);
    let end = cage.launch(Canary::new("end", include_str!("end.sh")), None);
    let names = names(cage, docker, config);

    // While the others run: one that tries to reach the listener.
    let (listening, reached, host_reaches) = reach(cage, docker, &line);
    listener.control.request(Reason::Cancelled(SEEN));
    let listener = cage.land(listener);
    let listening = listening.ok_or_else(|| match &listener {
        Ok(ran) => format!("the canary that listens said nothing usable: {} {} {}", ran.out, ran.err, ran.message),
        Err(why) => why.clone(),
    });
    let (host_resolver, names) = names.unzip();
    Found {
        locks: cage.land(locks),
        memory: cage.land(memory),
        pids: cage.land(pids),
        cpu: cage.land(cpu),
        calls: cage.land(calls),
        end: cage.land(end),
        names: names.map(|flying| cage.land(flying)),
        host_resolver: host_resolver.flatten(),
        listening,
        listener,
        reached: reached.unwrap_or_else(|| Err("there was nobody to reach".to_owned())),
        host_reaches,
        host_reaches_cloud: cloud,
    }
}

fn with(mut canary: Canary, change: impl FnOnce(&mut Resources)) -> Canary {
    change(&mut canary.resources);
    canary
}

/// The canary that asks name servers, where none may answer it; and the name server that answers this host.
fn names(cage: &Cage<'_>, docker: &docker::Client, config: &Config) -> Option<(Option<String>, Flying)> {
    let network = &config.container.network;
    if !network.internal || network.mode != NetworkMode::Isolated {
        return None;
    }
    let (name, servers) = (resolvers::name(), if docker.is_local() { resolvers::of_host() } else { Vec::new() });
    // What is this host's loopback for the engine is the job's own for a job.
    let outside: Vec<String> = servers.iter().filter(|ip| !ip.is_loopback()).map(ToString::to_string).collect();
    let canary = Canary::python("names", include_str!("resolve.py")).set("NAME", &name);
    let flying = cage.launch(canary.set("SERVERS", outside.join(" ")), None);
    Some((resolvers::that_answers(&servers, &name).map(|server| server.to_string()), flying))
}

/// What a canary that calls the listener found, and whether this host reaches the listener.
fn reach(
    cage: &Cage<'_>,
    docker: &docker::Client,
    line: &Receiver<String>,
) -> (Option<Listener>, Option<Result<Ran, NotRun>>, Option<bool>) {
    let Some(listener) = cage.hear(line).as_deref().and_then(Listener::read) else { return (None, None, None) };
    // The kernel completes a connect to it: nobody needs to take it.
    let here = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).ok().filter(|_| docker.is_local());
    let port =
        here.as_ref().and_then(|here| here.local_addr().ok()).map_or_else(String::new, |at| at.port().to_string());
    let peer = listener.address.map_or_else(|| "127.0.0.1".to_owned(), |address| address.to_string());
    let reach = Canary::new("reach", include_str!("reach.sh")).set("PEER", peer).set("PORT", listener.port);
    let flying = cage.launch(reach.set("HOST_PORT", port), None);
    let host = listener.address.filter(|_| docker.is_local()).map(|ip| knock(ip, listener.port));
    let reached = cage.land(flying);
    (Some(listener), Some(reached), host)
}

/// The canary that tries all locks one after the other.
fn locks(config: &Config, outside: Option<SocketAddr>) -> Canary {
    let (socket, host, port) = match &config.container.docker.endpoint {
        DockerEndpoint::Unix(path) => (path.display().to_string(), String::new(), String::new()),
        DockerEndpoint::Tcp(host, port) => (String::new(), host.clone(), port.to_string()),
    };
    let canary = Canary::new("locks", include_str!("locks.sh"));
    let canary = canary.set("ENGINE", socket).set("HOST", host).set("PORT", port);
    let text = |part: fn(SocketAddr) -> String| outside.map_or_else(String::new, part);
    let canary = canary.set("OUTSIDE", text(|at| at.ip().to_string()));
    let canary = canary.set("OUTSIDE_PORT", text(|at| at.port().to_string()));
    if !config.container.security.readonly_rootfs {
        // There is no tmpfs: the agent would end the canary for its disk, and the other findings would be lost.
        return canary.set("FITS", "").set("MORE", "");
    }
    let canary = with(canary, |resources| resources.disk = Some(limits::PROOF_DISK));
    canary.set("FITS", limits::PROOF_DISK_FITS).set("MORE", limits::PROOF_DISK_MORE)
}

/// Whether this host reaches the port.
fn knock(address: IpAddr, port: u16) -> bool {
    let deadline = Deadline::after(limits::PROOF_REACH, "limits::PROOF_REACH");
    net::connect(&[SocketAddr::new(address, port)], deadline).is_ok()
}

/// Removes what a killed doctor left.
fn sweep(docker: &docker::Client) {
    let janitor = Janitor::new(docker.clone(), DOCTOR, limits::JANITOR_GRACE);
    for found in janitor.find(&|_| false).unwrap_or_default() {
        // An agent may be called so.
        if found.told.job.is_none() {
            let _ = janitor.remove(&found);
        }
    }
}

/// Asks the engine whether a canary of this run is left.
fn left_behind(docker: &docker::Client, agent: &str, word: &str) -> Finding {
    let rows = match docker.list(&labels::of_agent(agent)) {
        Ok(rows) => rows,
        Err(error) => return Finding::unknown(error.to_string()),
    };
    let ours = name(word, "");
    let is_ours = |row: &docker::containers::Row| row.names.iter().any(|name| name.contains(&ours));
    let left: Vec<&str> = rows.iter().filter(|row| is_ours(row)).map(|row| short(&row.id)).collect();
    if left.is_empty() {
        return Finding::ok("every container made here is removed");
    }
    Finding::fail(format!("left in the engine: {}", left.join(", ")), format!("docker rm -f {}", left.join(" ")))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;
    use crate::docker::testing::{Act, Engine, done};
    use crate::os::threads;

    #[test]
    fn a_port_that_takes_no_connection_is_knocked_at_once_and_briefly() {
        // A full backlog makes the kernel drop further connection requests.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut full = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
            full.push(stream);
            assert!(full.len() < 10_000, "the backlog never fills");
        }
        let (over, ended) = std::sync::mpsc::channel::<()>();
        // It refuses in the end, so that who waits for ever does not hang.
        let keeper = threads::spawn("t-keeper", move || {
            let _ = ended.recv_timeout(Duration::from_secs(4));
            drop((listener, full));
        });
        let begun = Instant::now();
        assert!(!knock(address.ip(), address.port()));
        assert!(begun.elapsed() < limits::PROOF_REACH * 3, "{:?}", begun.elapsed());
        drop(over);
        keeper.expect("a thread").join_within(Duration::from_secs(5));
    }

    #[test]
    fn what_another_doctor_left_is_removed_when_it_is_old_enough() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let row = |id: &str, job: Option<&str>, age: Duration| {
            let mut labels = serde_json::json!({ labels::MANAGED: "true", labels::AGENT: DOCTOR });
            if let Some(job) = job {
                labels[labels::JOB] = job.into();
                labels[labels::EXECUTION] = format!("{job}-1").into();
            }
            serde_json::json!({ "Id": id, "Created": now - age.as_secs(), "Labels": labels })
        };
        let (old, young) =
            (limits::JANITOR_GRACE + Duration::from_secs(5), limits::JANITOR_GRACE - Duration::from_secs(20));
        let list = serde_json::Value::from(vec![
            row("old", None, old),
            row("young", None, young),
            row("other", Some("of-an-agent-of-this-name"), old),
        ]);
        let engine = Engine::start(move |call| match call.starts_with("GET") {
            true => Act::Answer(200, list.to_string()),
            false => done(),
        });
        sweep(&engine.client());
        let removed: Vec<_> = engine.seen().into_iter().filter(|call| call.starts_with("DELETE")).collect();
        assert_eq!(removed, ["DELETE /containers/old?force=1&v=1"]);
    }
}
