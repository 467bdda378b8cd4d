//! The keys of `container`. Several of them decide how well a job is locked up: what is doubtful here is refused.

use std::net::IpAddr;
use std::path::PathBuf;

use super::keys_agent::{KB, MB, aside, custom, ignored, int, later, list, number, opt_path, size, text, truth, word};
use super::schema::{IntAt, Key, Shown, whole};
use super::types::{Config, DockerEndpoint, NetworkMode, PullPolicy, Seccomp};
use super::url;
use crate::policy::suggest::nearest;

/// As `capabilities(7)` lists them, without `CAP_`.
const CAPABILITIES: [&str; 42] = [
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Docker's plain port, which `tcp://HOST` means.
const DOCKER_PORT: u16 = 2375;

fn docker_endpoint(config: &mut Config, text: &str) -> Result<(), String> {
    let allowed = "unix:///PATH or tcp://HOST:PORT";
    config.container.docker.endpoint = if let Some(path) = text.strip_prefix("unix://") {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(format!("{allowed}; the path of the socket must begin with `/`"));
        }
        DockerEndpoint::Unix(PathBuf::from(path))
    } else {
        let hint = if text.starts_with("ssh://") { "; forward the socket with `ssh -L` and give its path" } else { "" };
        let url = url::parse(text, &["unix", "tcp"]).map_err(|why| format!("{allowed}; {why}{hint}"))?;
        if !matches!(url.path, "" | "/") {
            return Err(format!("{allowed}, without a path"));
        }
        DockerEndpoint::Tcp(url.host.to_owned(), url.port.unwrap_or(DOCKER_PORT))
    };
    Ok(())
}

fn show_docker_endpoint(config: &Config) -> Shown {
    Shown::Text(match &config.container.docker.endpoint {
        DockerEndpoint::Unix(path) => format!("unix://{}", path.display()),
        DockerEndpoint::Tcp(host, port) if host.contains(':') => format!("tcp://[{host}]:{port}"),
        DockerEndpoint::Tcp(host, port) => format!("tcp://{host}:{port}"),
    })
}

fn docker_version(config: &mut Config, text: &str) -> Result<(), String> {
    let good = text.split_once('.').is_some_and(|(major, minor)| {
        whole(major).is_some_and(|major| (1..100).contains(&major))
            && (2..=3).contains(&minor.len())
            && whole(minor).is_some()
    });
    if !good && text != "auto" {
        return Err("`auto`, or a version in quotes such as \"1.43\"".to_owned());
    }
    config.container.docker.version = good.then(|| text.to_owned());
    Ok(())
}

fn image(text: &str) -> Result<(), String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/:@-".contains(&b));
    if plain && text.len() <= 500 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err("the name of an image, such as registry.example/name:tag".to_owned())
}

fn user(config: &mut Config, text: &str) -> Result<(), String> {
    // The kernel keeps the highest number for "no one".
    let id = |text: &str| whole(text).and_then(|id| u32::try_from(id).ok()).filter(|id| *id < u32::MAX);
    let pair = text.split_once(':').and_then(|(user, group)| Some((id(user)?, id(group)?)));
    config.container.security.user = pair.ok_or("two numbers UID:GID, such as 1000:1000")?;
    Ok(())
}

fn capability(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if CAPABILITIES.contains(&name) {
        return Ok(name.to_owned());
    }
    let near = nearest(name, CAPABILITIES).map_or(String::new(), |near| format!("; did you mean {near}?"));
    Err(format!("ALL, or names of capabilities such as NET_RAW{near}"))
}

/// The file is read by `checks`.
fn seccomp(config: &mut Config, text: &str) -> Result<(), String> {
    config.container.security.seccomp = match text {
        "default" => Seccomp::Default,
        "unconfined" => {
            return Err("`default` or the path of a profile; to run jobs without a filter is not offered".to_owned());
        }
        path if path.contains('\0') => return Err("`default` or the path of a profile".to_owned()),
        path => Seccomp::Profile { path: PathBuf::from(path), json: String::new() },
    };
    Ok(())
}

fn mode(config: &mut Config, text: &str) -> Result<(), String> {
    let name = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    config.container.network.mode = match text {
        "isolated" => NetworkMode::Isolated,
        "none" => NetworkMode::None,
        "bridge" => NetworkMode::Bridge,
        "host" | "default" => {
            return Err(
                "isolated, none, bridge, or the name of a network; jobs never share the host's own network".to_owned()
            );
        }
        _ if name && text.len() <= 100 => NetworkMode::Named(text.to_owned()),
        _ => return Err("isolated, none, bridge, or the name of a network".to_owned()),
    };
    Ok(())
}

fn show_mode(config: &Config) -> Shown {
    Shown::Text(match &config.container.network.mode {
        NetworkMode::Isolated => "isolated".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Bridge => "bridge".to_owned(),
        NetworkMode::Named(name) => name.clone(),
    })
}

fn dns(text: &str) -> Result<String, String> {
    text.parse::<IpAddr>().map(|ip| ip.to_string()).map_err(|_| "IP addresses of name servers".to_owned())
}

const CPU_MAX: f64 = 1024.0;
/// Docker refuses less memory than 6 MB.
const MEMORY_MIN: u64 = 6 * MB;
const MEMORY_MAX: u64 = 64 * 1024 * 1024 * MB;
const PIDS_MAX: u64 = 4_194_304;
const RATE_MAX: u64 = 1 << 50;

pub(super) static KEYS: &[Key] = &[
    custom("container.docker.endpoint", "unix:///var/run/docker.sock", docker_endpoint, show_docker_endpoint)
        .alias(&["DOCKER_HOST"]),
    custom("container.docker.version", "auto", docker_version, |c| {
        Shown::Text(c.container.docker.version.clone().unwrap_or_else(|| "auto".to_owned()))
    }),
    aside("container.docker.tlsVerify", "false", true),
    aside("container.docker.certPath", "", false),
    text("container.images.bash", "cronium/runner:bash-alpine", image, |c| &mut c.container.images.bash),
    text("container.images.python", "cronium/runner:python-alpine", image, |c| &mut c.container.images.python),
    text("container.images.nodejs", "cronium/runner:node-alpine", image, |c| &mut c.container.images.nodejs),
    word(
        "container.images.pullPolicy",
        &["ifNotPresent", "always", "never"],
        |c, i| c.container.pull_policy = [PullPolicy::IfNotPresent, PullPolicy::Always, PullPolicy::Never][i],
        |c| match c.container.pull_policy {
            PullPolicy::IfNotPresent => 0,
            PullPolicy::Always => 1,
            PullPolicy::Never => 2,
        },
    )
    .alias(&["CRONIUM_CONTAINER_PULL_POLICY"]),
    opt_path("container.registryAuthFile", |c| &mut c.container.registry_auth_file),
    number("container.resources.defaults.cpu", "0.5", 0.01, CPU_MAX, |c| &mut c.container.defaults.cpu),
    size(
        "container.resources.defaults.memory",
        "512MB",
        MEMORY_MIN,
        MEMORY_MAX,
        IntAt::U64(|c| &mut c.container.defaults.memory),
    ),
    size("container.resources.defaults.disk", "1GB", MB, MEMORY_MAX, IntAt::U64(|c| &mut c.container.defaults.disk)),
    int("container.resources.defaults.pids", "100", 1, PIDS_MAX, IntAt::U64(|c| &mut c.container.defaults.pids)),
    size(
        "container.resources.defaults.readBps",
        "",
        KB,
        RATE_MAX,
        IntAt::OptU64(|c| &mut c.container.defaults.read_bps),
    ),
    size(
        "container.resources.defaults.writeBps",
        "",
        KB,
        RATE_MAX,
        IntAt::OptU64(|c| &mut c.container.defaults.write_bps),
    ),
    int(
        "container.resources.defaults.readIops",
        "",
        1,
        RATE_MAX,
        IntAt::OptU64(|c| &mut c.container.defaults.read_iops),
    ),
    int(
        "container.resources.defaults.writeIops",
        "",
        1,
        RATE_MAX,
        IntAt::OptU64(|c| &mut c.container.defaults.write_iops),
    ),
    number("container.resources.limits.cpu", "2", 0.01, CPU_MAX, |c| &mut c.container.limits.cpu),
    size(
        "container.resources.limits.memory",
        "2GB",
        MEMORY_MIN,
        MEMORY_MAX,
        IntAt::U64(|c| &mut c.container.limits.memory),
    ),
    size("container.resources.limits.disk", "10GB", MB, MEMORY_MAX, IntAt::U64(|c| &mut c.container.limits.disk)),
    int("container.resources.limits.pids", "1000", 1, PIDS_MAX, IntAt::U64(|c| &mut c.container.limits.pids)),
    size("container.resources.limits.readBps", "", KB, RATE_MAX, IntAt::OptU64(|c| &mut c.container.limits.read_bps)),
    size("container.resources.limits.writeBps", "", KB, RATE_MAX, IntAt::OptU64(|c| &mut c.container.limits.write_bps)),
    int("container.resources.limits.readIops", "", 1, RATE_MAX, IntAt::OptU64(|c| &mut c.container.limits.read_iops)),
    int("container.resources.limits.writeIops", "", 1, RATE_MAX, IntAt::OptU64(|c| &mut c.container.limits.write_iops)),
    custom("container.security.user", "1000:1000", user, |c| {
        let (user, group) = c.container.security.user;
        Shown::Text(format!("{user}:{group}"))
    }),
    truth("container.security.noNewPrivileges", "true", |c| &mut c.container.security.no_new_privileges),
    list("container.security.dropCapabilities", "ALL", capability, |c| &mut c.container.security.drop_capabilities),
    truth("container.security.readOnlyRootfs", "true", |c| &mut c.container.security.readonly_rootfs),
    custom("container.security.seccompProfile", "default", seccomp, |c| {
        Shown::Text(match &c.container.security.seccomp {
            Seccomp::Default => "default".to_owned(),
            Seccomp::Profile { path, .. } => path.display().to_string(),
        })
    }),
    custom("container.network.mode", "isolated", mode, show_mode),
    truth("container.network.enableICC", "false", |c| &mut c.container.network.enable_icc),
    truth("container.network.internal", "false", |c| &mut c.container.network.internal),
    list("container.network.dns", "", dns, |c| &mut c.container.network.dns),
    ignored("container.volumes.basePath"),
    ignored("container.volumes.tempPath"),
    ignored("container.volumes.retention"),
    ignored("container.runtime.image"),
    ignored("container.runtime.valkeyURL"),
    later("container.runtime.backendURL", |_| false),
    later("container.runtime.jwtSecret", |_| false),
    later("container.runtime.isolateNetwork", |text| text != "false"),
];
