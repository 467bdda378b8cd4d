//! A configuration before any key was applied, and one with every default.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::load::{Sources, load};
use super::types::*;
use crate::secret::Secret;

/// Every default, without endpoint and token: for `exec`, and for tests of other modules.
pub fn defaults() -> Config {
    let nothing = |_: &str| None;
    let sources = Sources { need_backend: false, search: Vec::new(), ..Sources::new(&nothing) };
    load(&sources).map_or_else(|_| blank(), |loaded| loaded.config)
}

/// Empty everywhere, and different from each default, so that a test sees a key whose default reaches no field.
pub(super) fn blank() -> Config {
    let (no_time, no_path) = (Duration::ZERO, PathBuf::new);
    Config {
        orchestrator: Orchestrator {
            id: String::new(),
            name: String::new(),
            environment: String::new(),
            region: String::new(),
            tags: Vec::new(),
        },
        api: Api {
            endpoint: String::new(),
            token: Secret::default(),
            ws_endpoint: String::new(),
            timeout: no_time,
            retry: Retry { max_attempts: 0, initial_delay: no_time, max_delay: no_time, backoff: BackoffKind::Fixed },
            rate_limit: None,
        },
        jobs: Jobs {
            poll_interval: no_time,
            max_poll_interval: no_time,
            poll_batch_size: 0,
            max_concurrent: 0,
            default_timeout: no_time,
            max_timeout: no_time,
            setup_timeout: no_time,
            cleanup_timeout: no_time,
            stop_grace: no_time,
            drain_timeout: no_time,
            queue_strategy: QueueStrategy::Fifo,
            on_shutdown: OnShutdown::Cancel,
            report_retention: Duration::ZERO,
            lease_renewal: no_time,
            stop_after_lost: Duration::MAX,
            max_output: 0,
        },
        container: container(),
        ssh: ssh(),
        logging: Logging {
            level: log::LevelFilter::Off,
            format: LogFormat::Text,
            output: LogOutput::Stdout,
            websocket: LiveLog { enabled: false, buffer_size: 0, flush_interval: no_time, batch_size: 0 },
        },
        monitoring: Monitoring {
            enabled: false,
            bind_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            health_port: 0,
            metrics_port: 0,
        },
        tls: Tls::default(),
        state: State { dir: no_path(), min_free_disk: 0 },
    }
}

fn container() -> Container {
    let none = ResourceSet {
        cpu: 0.0,
        memory: 0,
        disk: 0,
        pids: 0,
        read_bps: None,
        write_bps: None,
        read_iops: None,
        write_iops: None,
    };
    Container {
        docker: Docker { endpoint: DockerEndpoint::Unix(PathBuf::new()), version: Some(String::new()) },
        images: Images { bash: String::new(), python: String::new(), nodejs: String::new() },
        pull_policy: PullPolicy::Never,
        registry_auth_file: None,
        defaults: none,
        limits: none,
        security: Security {
            user: (u32::MAX, u32::MAX),
            no_new_privileges: false,
            drop_capabilities: Vec::new(),
            readonly_rootfs: false,
            seccomp: Seccomp::Profile { path: PathBuf::new(), json: String::new() },
        },
        network: Network { mode: NetworkMode::None, enable_icc: true, internal: true, dns: Vec::new() },
    }
}

fn ssh() -> Ssh {
    Ssh {
        max_per_server: 0,
        idle_timeout: Duration::ZERO,
        health_check_interval: Duration::ZERO,
        connection_timeout: Duration::ZERO,
        default_shell: String::new(),
        temp_dir: String::new(),
        cleanup_after: false,
        pty_mode: true,
        reconnect_timeout: Duration::ZERO,
        breaker_enabled: false,
        failure_threshold: 0,
        success_threshold: 0,
        breaker_timeout: Duration::ZERO,
        half_open_requests: 0,
        strict_host_key_checking: false,
        known_hosts_file: PathBuf::new(),
        allowed_ciphers: Vec::new(),
        allowed_key_exchanges: Vec::new(),
        allow_passwords: true,
    }
}
