//! The whole agent from the outside: the real binary, a real container engine, the dev backend over real sockets.
//!
//! A missing engine or image is an error that says how to get one, never a skip: `scripts/test.sh` sees to both.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

mod engine_proxy;
mod harness;
mod podman;
mod scraper;
mod ssh_rig;
mod sshd;
mod sshd_faults;

/// Alerts, each with a test that fires it, and the dashboard.
mod alerts;
/// Calls to the backend: claims, reports, retries, cancels, hostile answers.
mod backend;
/// The benchmark and the footprint, in their quickest form.
mod bench;
/// The command line: exec, validate, version, help, exit codes.
mod bridge;
mod cli;
/// The agent in a container, by the shipped Dockerfile and compose file.
mod compose;
/// The operator's socket: status and cancel against a running agent.
mod control;
/// Connects that are never answered: a frozen engine, a dead IPv6 address, a name server that says nothing.
mod dial;
/// Is this host fit? The real proofs, each of them broken on purpose, and Podman.
mod doctor;
/// An engine that lies, stalls or is not there.
mod engine;
/// An engine that is restarted, frozen or out of reach while jobs run.
mod engine_restart;
/// An engine on another host, over TLS.
mod engine_tls;
/// Ways out of a container, in a battery and between two jobs.
mod escapes;
/// Kubernetes and Nomad, as far as they can be checked without them.
mod firewall;
/// What a newcomer meets: `exec --image` with images that nobody made for the agent, and the README's commands.
mod first_contact;
mod fleet;
/// Health, readiness, metrics: read by curl's kin, promtool and a real Prometheus.
mod health;
/// What a script may ask of the agent, in three languages.
mod helpers;
/// HTTP requests of jobs: real servers, closed addresses, kills.
mod http_requests;
/// Pulls from a real registry.
mod images;
/// Images that are pulled ahead, removed when a disk fills, and named by their digest: a small disk, an engine on it, a registry.
mod images_disk;
/// The installer, below another root.
mod install;
/// What is left behind in the engine, and what must stay.
mod janitor;
/// The main job in three languages, and what a script sees.
mod jobs;
/// How a script is started: variables, first lines, images that are in the way.
mod jobs_start;
/// Ways in which other runners let secrets out, each tried.
mod leaks;
/// Every limit, by a script that tries to break it.
mod limits;
/// Lines: order, number, loss, latency, memory.
mod lines;
/// A journal that lost a page, a clock that was wrong, an engine that is slow to remove.
mod live_pages;
mod lost;
/// Slow calls and outages of the backend, for which no worker waits.
mod outbox;
/// The Debian package: its contents, and its life on a host that systemd booted.
mod package;
/// The page on the health port, in a real browser.
mod page;
/// Real programs under the filter of system calls.
mod programs;
mod progress;
/// The walls around jobs, proven by the agent itself and by real packets.
mod proofs;
/// The way to the backend through a real HTTP proxy.
mod proxy;
/// Signed receipts of real jobs, checked offline.
mod receipts;
mod records;
/// Secrets that scripts print, and every place that they could reach.
mod redaction;
/// The manual and the completions, in mandoc and in three shells.
mod reference;
mod registry;
/// What a release consists of: provenance, tarball, sums.
mod release;
/// SIGHUP: what takes effect, what waits for a restart, what is refused.
mod reload;
/// The journal: kills, restarts, reports that wait.
mod restart;
/// What a script must not be able to do, seen from inside and outside.
mod security;
/// Signals: drain, cancel, end.
mod shutdown;
/// Jobs on servers: scripts, lines, directories.
mod signing;
mod ssh;
/// Host certificates, and every class of algorithms.
mod ssh_algorithms;
/// The circuit breaker of a server.
mod ssh_breakers;
/// Certificates as logins.
mod ssh_certificates;
/// How a session can end, and what may be said of the script then.
mod ssh_endings;
/// What is left on a server when a script has ended, and an agent that is killed then.
mod ssh_ends;
/// Jobs on servers whose connection breaks, or whose host goes, hangs or lies.
mod ssh_faults;
/// What a script on a server may ask of the agent.
mod ssh_helpers;
/// Host keys, client keys, passwords, ciphers.
mod ssh_hosts;
/// Signals, variables and terminal of a script on a server, whatever the login's files say.
mod ssh_house;
/// Jobs on servers behind a jump host.
mod ssh_jump;
/// What bounds a session on a server.
mod ssh_limits;
/// One job on several servers.
mod ssh_multi;
mod ssh_multi_restart;
/// The place of the jobs' folders on a server, for which another user races.
mod ssh_place;
/// The connections to a server that jobs share.
mod ssh_pool;
/// The connections through a jump host, without an agent around them.
mod ssh_pump;
/// How a script is started on a server: variables, first lines, interpreters that cannot be started.
mod ssh_start;
/// Settings of single hosts.
mod ssh_table;
/// Whose `state.dir` may be, and where.
mod state_dir;
/// Where the parts come from: bill of materials, licences, sources.
mod supply;
/// The stack for Docker Swarm, on two engines.
mod swarm;
/// The filter of system calls, from the inside of a job.
mod system_calls;
/// The agent on a host that systemd booted.
mod systemd_boot;
/// The systemd unit: verified, little exposed, and fitting the agent's own limits.
mod systemd_unit;
/// Conventions that a machine can check: layers, homes of crates, unsafe, numbers.
mod tidy;
/// A token that is rotated while the agent works.
mod token;
/// What the watchdog takes for getting on.
/// Containers that are started before their job is known.
mod warm;
mod watchdog;
