//! Checks across several keys: values that bound each other, files that must be readable, secrets in the open.

use std::path::{Path, PathBuf};

use super::draft::Draft;
use super::engine;
use super::field::Value;
use super::files;
use super::images;
use super::jumps;
use super::keys::key;
use super::problem::Origin;
use super::proxy;
use super::token;
use super::trust;
use super::types::{NetworkMode, PullPolicy, RedactEnvironment, Seccomp};
use super::url;
use super::yaml;

/// All checks. None of them looks at a key whose own value was refused.
pub(super) fn run(draft: &mut Draft<'_>, file_world_readable: bool) {
    for (low, high) in BOUNDS {
        at_most(draft, low, high);
    }
    lost_contact(draft);
    endpoints(draft);
    proxy::ways(draft);
    given_token(draft, file_world_readable);
    engine::check(draft);
    way_out(draft);
    container_files(draft);
    warm(draft);
    images::check(draft);
    walls(draft);
    tls(draft);
    http(draft);
    trust::check(draft);
    jumps::check(draft);
}

/// The first of two keys must not exceed the second.
const BOUNDS: [(&str, &str); 11] = [
    ("jobs.pollInterval", "jobs.maxPollInterval"),
    ("jobs.defaultTimeout", "jobs.maxTimeout"),
    ("api.retry.initialDelay", "api.retry.maxDelay"),
    ("container.resources.defaults.cpu", "container.resources.limits.cpu"),
    ("container.resources.defaults.memory", "container.resources.limits.memory"),
    ("container.resources.defaults.disk", "container.resources.limits.disk"),
    ("container.resources.defaults.pids", "container.resources.limits.pids"),
    ("container.resources.defaults.readBps", "container.resources.limits.readBps"),
    ("container.resources.defaults.writeBps", "container.resources.limits.writeBps"),
    ("container.resources.defaults.readIops", "container.resources.limits.readIops"),
    ("container.resources.defaults.writeIops", "container.resources.limits.writeIops"),
];

/// Where only the upper key was given, the default of the lower follows it down, since nobody asked for it; the reverse
/// would raise a bound by itself.
fn at_most(draft: &mut Draft<'_>, low: &'static str, high: &'static str) {
    let value = |path| key(path).map_or(Value::Unset, |key| key.get(&draft.config));
    let (found, bound) = (value(low), value(high));
    // What is not set bounds nothing, nor does what the agent chooses by itself.
    if high == "jobs.maxPollInterval" && draft.config.jobs.max_poll_interval.is_zero() {
        return;
    }
    if found == Value::Unset || bound == Value::Unset || found <= bound || !draft.good(&[low, high]) {
        return;
    }
    if draft.is_default(low) && !draft.is_default(high) {
        if let Some(field) = key(low).and_then(|key| key.field) {
            // Of one kind, and above the lowest value that the lower one takes: a test holds both.
            let _ = (field.get_mut)(&mut draft.config).put(bound);
        }
        draft.origins.insert(low, Origin::DefaultBecause(format!("lowered to {high}")));
        return;
    }
    let (found, bound) = (draft.shown(low), draft.shown(high));
    let whence = draft.origins.get(high).map_or(String::new(), |origin| format!(", {origin}"));
    let text = format!("found {found}; allowed: at most {high}, which is {bound}{whence}");
    draft.refuse(low, text);
}

/// A stop before the next heartbeat is due would end jobs of an agent that is well.
fn lost_contact(draft: &mut Draft<'_>) {
    let jobs = &draft.config.jobs;
    let (after, least) = (jobs.stop_after_lost, jobs.lease_renewal * 2);
    if after.is_zero() || after >= least || !draft.good(&["jobs.stopAfterLost", "jobs.leaseRenewal"]) {
        return;
    }
    let (found, renewal) = (draft.shown("jobs.stopAfterLost"), draft.shown("jobs.leaseRenewal"));
    let text = format!("found {found}; allowed: 0s (never), or at least twice jobs.leaseRenewal, which is {renewal}");
    draft.refuse("jobs.stopAfterLost", text);
}

fn endpoints(draft: &mut Draft<'_>) {
    if !draft.good(&["api.endpoint"]) {
        return;
    }
    let endpoint = draft.config.api.endpoint.clone();
    if endpoint.is_empty() {
        if draft.sources.need_backend {
            let text = "required and not given; set it in the file, or CRONIUM_API_ENDPOINT, to an address such as https://cronium.example:5001";
            draft.refuse("api.endpoint", text);
        }
        return;
    }
    if draft.config.api.ws_endpoint.is_empty() && draft.good(&["api.wsEndpoint"]) {
        // `http` to `ws` and `https` to `wss`, in one.
        draft.config.api.ws_endpoint = format!("{}/socket", endpoint.replacen("http", "ws", 1));
        draft.origins.insert("api.wsEndpoint", Origin::Derived("api.endpoint"));
    }
    let open = |text: &str, scheme: &str| url::parse(text, &[scheme]).is_ok_and(|url| !url::is_loopback(url.host));
    let text = "the token and every script travel unencrypted to another machine; use https";
    if open(&endpoint, "http") {
        draft.warn("api.endpoint", text);
    }
    if open(&draft.config.api.ws_endpoint, "ws")
        && !matches!(draft.origins.get("api.wsEndpoint"), Some(Origin::Derived(_)))
    {
        draft.warn("api.wsEndpoint", "the token and every line travel unencrypted to another machine; use wss");
    }
}

fn given_token(draft: &mut Draft<'_>, file_world_readable: bool) {
    let file = draft.fieldless.get("api.tokenFile").map(PathBuf::from);
    if !draft.config.api.token.is_empty() {
        let origin = draft.origins.get("api.token").cloned().unwrap_or(Origin::Default);
        if matches!(origin, Origin::File { .. }) && file_world_readable {
            let text = "everyone on this machine can read the file that holds it; use api.tokenFile or mode 0600";
            draft.warn("api.token", text);
        }
        match file {
            Some(_) => {
                draft.refuse("api.tokenFile", format!("given beside api.token ({origin}); keep one of the two"));
            }
            None => {
                if let Err(why) = token::check(&draft.config.api.token) {
                    draft.refuse("api.token", why);
                }
            }
        }
        return;
    }
    // A command that needs no token does not open the file, which may belong to another user: systemd names its folder
    // also to commands of the unit that may not look into it.
    if !draft.sources.need_backend {
        return;
    }
    match file.map_or_else(|| credential(draft), Ok) {
        Ok(path) => read_token(draft, &path),
        Err(text) if draft.good(&["api.token", "api.tokenFile"]) => draft.refuse("api.token", text),
        Err(_) => {}
    }
}

/// The file that systemd made of `LoadCredential=api-token:…`; the error says that the token is missing.
fn credential(draft: &mut Draft<'_>) -> Result<PathBuf, String> {
    let advice = "set api.tokenFile to a file that holds it, or CRONIUM_API_TOKEN";
    let dir = (draft.sources.env)("CREDENTIALS_DIRECTORY").filter(|dir| !dir.is_empty());
    let dir = dir.ok_or_else(|| format!("required and not given; {advice}"))?;
    let path = Path::new(&dir).join("api-token");
    // One that cannot be looked at is read all the same: the error of that says why.
    if matches!(path.try_exists(), Ok(false)) {
        return Err(format!(
            "required and not given: systemd's {dir} holds no api-token; name it so in LoadCredential=api-token:…, or {advice}"
        ));
    }
    draft.origins.insert("api.tokenFile", Origin::Credential(path.clone()));
    Ok(path)
}

fn read_token(draft: &mut Draft<'_>, path: &Path) {
    let given = draft.origins.get("api.tokenFile").cloned().unwrap_or(Origin::Default);
    let is_credential = matches!(given, Origin::Credential(_));
    // From now on it is the file that a rotated token is looked for in, whatever it holds today.
    draft.config.api.token_file = Some(path.to_owned());
    match token::read(path) {
        Err(text) => {
            let advice = match is_credential {
                true if text.ends_with("the token is empty") => {
                    "write it into the file that the unit takes it from, /etc/cronium/api-token"
                }
                true => {
                    "run the agent as its unit does, which may read it; or set api.tokenFile to a file with the token"
                }
                false => "it must hold the backend's service token and be readable by the agent's user",
            };
            // Where it comes from names a credential's file already.
            let place = format!("{}: ", path.display());
            let text = text.strip_prefix(&place).filter(|_| is_credential).unwrap_or(&text);
            draft.refuse("api.tokenFile", format!("{text}; {advice}"));
        }
        Ok((token, world_readable)) => {
            draft.config.api.token = token;
            if world_readable {
                let text = format!("everyone on this machine can read {}; give it mode 0600", path.display());
                draft.warn("api.tokenFile", text);
            }
            let origin = if is_credential { given } else { Origin::TokenFile(path.to_owned(), Box::new(given)) };
            draft.origins.insert("api.token", origin);
        }
    }
}

/// The engine's default bridge always has a way out.
fn way_out(draft: &mut Draft<'_>) {
    let network = &draft.config.container.network;
    if network.internal && network.mode == NetworkMode::Bridge && draft.good(&["container.network.mode"]) {
        draft.config.container.network.mode = NetworkMode::Isolated;
        let text = "`bridge` always has a way out; isolated is used, since container.network.internal is true";
        draft.warn("container.network.mode", text);
    }
}

/// What is pulled before each job cannot wait for one.
fn warm(draft: &mut Draft<'_>) {
    let container = &draft.config.container;
    let counts = [
        ("container.warm.bash", container.warm.bash),
        ("container.warm.python", container.warm.python),
        ("container.warm.nodejs", container.warm.nodejs),
    ];
    let first = counts.iter().find(|(_, count)| *count > 0).map(|(key, _)| *key);
    if let Some(key) = first.filter(|_| container.pull_policy == PullPolicy::Always) {
        let text =
            "no container waits for a job while container.images.pullPolicy is always: each job pulls its image first";
        draft.warn(key, text);
    }
}

/// Whether a profile says what happens to the calls that it does not name. Without that, some engines allow them.
fn has_default_action(json: &str) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    struct Profile {
        #[serde(rename = "defaultAction")]
        default: Option<String>,
    }
    match serde_json::from_str::<Profile>(json).ok().and_then(|profile| profile.default) {
        Some(action) if action.starts_with("SCMP_ACT_") => Ok(()),
        _ => Err("its defaultAction must be one of SCMP_ACT_ERRNO, SCMP_ACT_KILL and their like".to_owned()),
    }
}

/// One line for each key by which the operator opens a wall around the jobs.
fn walls(draft: &mut Draft<'_>) {
    let (security, network) = (&draft.config.container.security, &draft.config.container.network);
    let open = [
        (
            "container.network.mode",
            matches!(network.mode, NetworkMode::Bridge | NetworkMode::Named(_)),
            "jobs share a network with whatever else is on it; `isolated` is a network for jobs alone",
        ),
        ("container.network.enableICC", network.enable_icc, "jobs that run at the same time can reach each other"),
        (
            "container.security.noNewPrivileges",
            !security.no_new_privileges,
            "a setuid file in an image makes a script another user, root too",
        ),
        (
            "container.security.dropCapabilities",
            !security.drop_capabilities.iter().any(|name| name == "ALL"),
            "a script that becomes root keeps capabilities; [ALL] drops each",
        ),
        (
            "container.security.readOnlyRootfs",
            !security.readonly_rootfs,
            "scripts write into the container's root, which the engine keeps on its disk until the job ends",
        ),
        (
            "container.security.seccompProfile",
            security.seccomp == Seccomp::Engine,
            "older engines let scripts use system calls that escapes are made from; `builtin` does not",
        ),
        (
            "redact.environment",
            draft.config.redact.environment == RedactEnvironment::Off,
            "what scripts print of their variables reaches the backend and its viewers; `names` keeps secrets here",
        ),
    ];
    for (key, _, text) in open.into_iter().filter(|(_, is_open, _)| *is_open) {
        draft.warn(key, text);
    }
}

fn container_files(draft: &mut Draft<'_>) {
    let (uid, gid) = draft.config.container.security.user;
    if uid == 0 || gid == 0 {
        draft.warn("container.security.user", "jobs run as root inside their containers; use numbers above 0");
    }
    if let Seccomp::Profile { path, .. } = draft.config.container.security.seccomp.clone()
        && draft.good(&["container.security.seccompProfile"])
    {
        let read = files::read_text(&path).and_then(|(json, _)| {
            let is_profile = yaml::is_json_object(&json).and_then(|()| has_default_action(&json));
            is_profile.map_err(|why| format!("{} is no seccomp profile: {why}", path.display()))?;
            Ok(json)
        });
        match read {
            Ok(json) => draft.config.container.security.seccomp = Seccomp::Profile { path, json },
            Err(text) => draft.refuse("container.security.seccompProfile", text),
        }
    }
    if let Some(path) = draft.config.container.registry_auth_file.clone() {
        let read = files::read_text(&path).and_then(|(json, _)| {
            yaml::is_json_object(&json).map_err(|why| format!("{} is no Docker config.json: {why}", path.display()))
        });
        if let Err(text) = read {
            draft.refuse("container.registryAuthFile", text);
        }
    }
}

fn http(draft: &mut Draft<'_>) {
    if !draft.config.http.enabled && draft.config.jobs.types.iter().any(|name| name == "HTTP_REQUEST") {
        let text =
            "HTTP_REQUEST is listed while http.enabled is false: such jobs are taken from other agents and refused";
        draft.warn("jobs.types", text);
    }
    if let Some(path) = draft.config.http.ca_file.clone().filter(|_| draft.good(&["http.caFile"])) {
        match files::read_text(&path) {
            Err(text) => draft.refuse("http.caFile", text),
            Ok((text, _)) if !text.contains("-----BEGIN CERTIFICATE-----") => {
                draft.refuse("http.caFile", format!("{} holds no certificate in PEM form", path.display()));
            }
            Ok(_) => {}
        }
    }
}

fn tls(draft: &mut Draft<'_>) {
    let tls = draft.config.tls.clone();
    let named = [
        ("security.tls.caFile", tls.ca_file.as_ref(), "CERTIFICATE-----"),
        ("security.tls.certFile", tls.cert_file.as_ref(), "CERTIFICATE-----"),
        ("security.tls.keyFile", tls.key_file.as_ref(), "PRIVATE KEY-----"),
    ];
    for (key, path, part) in named {
        let Some(path) = path.filter(|_| draft.good(&[key])) else { continue };
        if !tls.enabled {
            draft.warn(key, "not used, since security.tls.enabled is false");
        }
        match files::read_text(path) {
            Err(text) => draft.refuse(key, text),
            Ok((text, _)) if !(text.contains("-----BEGIN ") && text.contains(part)) => {
                let what = if part.starts_with('P') { "private key" } else { "certificate" };
                draft.refuse(key, format!("{} holds no {what} in PEM form", path.display()));
            }
            Ok((_, true)) if part.starts_with('P') => {
                draft.warn(key, format!("everyone on this machine can read {}; give it mode 0600", path.display()));
            }
            Ok(_) => {}
        }
    }
    if tls.cert_file.is_some() != tls.key_file.is_some() {
        let (given, missing) = if tls.cert_file.is_some() {
            ("security.tls.certFile", "security.tls.keyFile")
        } else {
            ("security.tls.keyFile", "security.tls.certFile")
        };
        draft.refuse(given, format!("{missing} is missing; a client certificate needs both"));
    }
}
