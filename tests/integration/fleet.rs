//! What is shipped for fleets, as far as it can be checked without a cluster: validators take it, every key that it sets
//! exists, and every lock is in it. `swarm.rs` runs the stack for Docker Swarm.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Folder, binary};

/// Every document of a YAML file.
fn documents(file: &str) -> Vec<Value> {
    let program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = Command::new("python3")
        .args(["-c", program])
        .arg(path(file))
        .output()
        .expect("python3: apt-get install python3 python3-yaml");
    assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn path(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(path(file)).expect(file)
}

/// The agent takes a configuration of these variables and this file. A wrong name would be ignored, so each has to be one.
fn agent_takes(environment: &[(String, String)], file: &str) {
    let folder = Folder::new();
    let config = folder.path().join("config.yaml");
    std::fs::write(&config, file).expect("write");
    let mut command = binary();
    command.args(["validate", "--explain", "--config"]).arg(&config).env("CRONIUM_API_TOKEN", "x");
    for (name, value) in environment {
        command.env(name, value);
    }
    let output = command.output().expect("validate");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for (name, _) in environment {
        assert!(said.contains(&format!("environment {name}")), "{name} is no variable of the agent's:\n{said}");
    }
}

/// The token's file is not here; its variable must exist all the same.
fn without_token(pairs: Vec<(String, String)>) -> Vec<(String, String)> {
    let all = pairs.len();
    let rest: Vec<_> = pairs.into_iter().filter(|(name, _)| name != "CRONIUM_API_TOKEN_FILE").collect();
    assert_eq!(rest.len() + 1, all, "the token comes from a file");
    rest
}

#[test]
fn the_compose_file_has_every_lock() {
    let all = documents("docker-compose.yaml").remove(0);
    let agent = &all["services"]["agent"];
    for (key, wanted) in [
        ("user", json!("65532:65532")),
        ("read_only", json!(true)),
        ("cap_drop", json!(["ALL"])),
        ("security_opt", json!(["no-new-privileges:true"])),
        ("privileged", Value::Null),
        ("network_mode", Value::Null),
        ("pid", Value::Null),
        ("stop_grace_period", json!("8m")),
        (
            "volumes",
            json!([
                "/var/run/docker.sock:/var/run/docker.sock",
                "state:/var/lib/cronium",
                "${CRONIUM_RUNTIME_DIR:-/var/lib/cronium-agent}:${CRONIUM_RUNTIME_DIR:-/var/lib/cronium-agent}"
            ]),
        ),
    ] {
        assert_eq!(agent[key], wanted, "{key}");
    }
    let pairs = agent["environment"].as_object().expect("environment").iter();
    let value = |value: &Value| match value.as_str().expect("text") {
        text if text.starts_with("${CRONIUM_API_ENDPOINT") => "http://x".to_owned(),
        text if text.starts_with("${CRONIUM_ORCHESTRATOR_ID") => "auto".to_owned(),
        text if text.starts_with("${CRONIUM_RUNTIME_DIR") => "/x".to_owned(),
        text => text.to_owned(),
    };
    agent_takes(&without_token(pairs.map(|(name, text)| (name.clone(), value(text))).collect()), "");
}

#[test]
fn the_swarm_stack_has_every_lock_and_leaves_jobs_time() {
    let all = documents("swarm/stack.yaml").remove(0);
    let agent = &all["services"]["agent"];
    let state = "${CRONIUM_STATE_DIR:-/var/lib/cronium-agent}";
    for (key, wanted) in [
        ("read_only", json!(true)),
        ("cap_drop", json!(["ALL"])),
        ("cap_add", Value::Null),
        ("networks", json!(["host"])),
        (
            "secrets",
            json!([{ "source": "api-token", "target": "api-token", "uid": "65532", "gid": "65532", "mode": 0o400 }]),
        ),
        (
            "volumes",
            json!([
                { "type": "bind", "source": "/var/run/docker.sock", "target": "/var/run/docker.sock" },
                { "type": "bind", "source": state, "target": state }
            ]),
        ),
    ] {
        assert_eq!(agent[key], wanted, "{key}");
    }
    assert!(agent["user"].as_str().expect("user").starts_with("65532:${DOCKER_GID:?"));
    let deploy = &agent["deploy"];
    assert_eq!((&deploy["mode"], &deploy["update_config"]["parallelism"]), (&json!("global"), &json!(1)));
    assert_eq!(deploy["update_config"]["order"], "stop-first", "two agents cannot share a state folder");
    // What an agent without a drain needs to end at worst.
    let minutes = agent["stop_grace_period"].as_str().and_then(|text| text.strip_suffix('m')).expect("minutes");
    let worst = cronium_agent::limits::OUTBOX_LAST + 3 * cronium_agent::limits::THREAD_JOIN_WAIT;
    assert!(minutes.parse::<u64>().expect("a number") * 60 > worst.as_secs(), "{worst:?}");
    let config = text("swarm/cronium-orchestrator.yaml");
    assert!(config.contains("  drainTimeout: 0s\n") && config.contains("  onShutdown: leave\n"));
    let pairs = agent["environment"].as_object().expect("environment").iter();
    let value = |value: &Value| value.as_str().expect("text").replace(state, "/x");
    agent_takes(&without_token(pairs.map(|(name, text)| (name.clone(), value(text))).collect()), &config);
}

/// What the Dockerfiles copy is in the context that `.dockerignore` leaves of the root.
#[test]
fn the_images_find_what_they_copy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kept = std::fs::read_to_string(root.join(".dockerignore")).expect("the list");
    let kept: Vec<&str> = kept.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let mut count = 0;
    for file in ["Dockerfile", "firewall/Dockerfile"] {
        let steps = text(file).replace("\\\n", " ");
        for step in steps.lines().filter_map(|line| line.strip_prefix("COPY ")) {
            let words: Vec<&str> = step.split_whitespace().filter(|word| !word.starts_with("--")).collect();
            let (_, sources) = words.split_last().expect("a target");
            for source in sources.iter().filter(|source| **source != "${BINARY}") {
                let is_kept = |rule: &&str| match rule.split_once('*') {
                    Some((before, after)) => source.starts_with(before) && source.ends_with(after),
                    None => source.starts_with(*rule),
                };
                assert!(root.join(source).exists() && kept.iter().any(is_kept), "{file} copies {source}");
                count += 1;
            }
        }
    }
    assert!(count >= 6, "{count}");
}

/// `scripts/manifests.sh` about these files: whether they are valid, and what it said.
fn validated(files: &[&Path]) -> (bool, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/manifests.sh");
    let output = Command::new(script).args(files).output().expect("scripts/manifests.sh");
    (
        output.status.success(),
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat(),
    )
}

#[test]
fn validators_of_kubernetes_and_of_hcl_take_what_is_shipped_and_refuse_what_is_broken() {
    let (good, said) = validated(&[]);
    assert!(good && said.matches(": valid").count() == 3, "{said}");
    let folder = Folder::new();
    for (file, from, to, words) in [
        ("kubernetes/daemonset.yaml", "readOnlyRootFilesystem", "readOnlyRootFileSystem", "was unexpected"),
        ("kubernetes/daemonset.yaml", "Seconds: 480", "Seconds: 8m", "'8m' is not of type"),
        ("kubernetes/firewall.yaml", "kind: DaemonSet", "kind: DaemonSett", "find schema for kind DaemonSett"),
        ("nomad/cronium-agent.nomad.hcl", "group \"agent\" {", "group \"agent\"", "no HCL"),
        ("nomad/cronium-agent.nomad.hcl", "kill_timeout", "kill_time_out", "a task has no kill_time_out"),
        ("nomad/cronium-agent.nomad.hcl", "update {", "updates {", "a job has no updates"),
        ("nomad/cronium-agent.nomad.hcl", "task \"agent\" {", "task {", "a task has one label"),
    ] {
        let broken = text(file).replace(from, to);
        assert_ne!(broken, text(file));
        let place = folder.path().join(file.rsplit('/').next().expect("a name"));
        std::fs::write(&place, broken).expect("write");
        let (good, said) = validated(&[&place]);
        assert!(!good && said.contains(words), "{to}: {said}");
    }
}

#[test]
fn the_daemon_set_hangs_together_and_has_every_lock() {
    let all = documents("kubernetes/daemonset.yaml");
    let kinds: Vec<_> = all.iter().map(|one| one["kind"].as_str().expect("kind")).collect();
    assert_eq!(kinds, ["ServiceAccount", "ConfigMap", "DaemonSet"]);
    assert!(all.iter().all(|one| one["metadata"]["namespace"] == "cronium"));
    let spec = &all[2]["spec"];
    let (labels, pod) = (&spec["template"]["metadata"]["labels"], &spec["template"]["spec"]);
    assert_eq!(spec["selector"]["matchLabels"], *labels);
    assert_eq!(pod["serviceAccountName"], all[0]["metadata"]["name"]);
    let agent = &pod["containers"][0];
    for (what, found, wanted) in [
        ("token", &pod["automountServiceAccountToken"], json!(false)),
        ("host network", &pod["hostNetwork"], Value::Null),
        ("host processes", &pod["hostPID"], Value::Null),
        ("root", &pod["securityContext"]["runAsNonRoot"], json!(true)),
        ("seccomp", &pod["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault")),
        ("privileges", &agent["securityContext"]["allowPrivilegeEscalation"], json!(false)),
        ("privileged", &agent["securityContext"]["privileged"], Value::Null),
        ("root file system", &agent["securityContext"]["readOnlyRootFilesystem"], json!(true)),
        ("capabilities", &agent["securityContext"]["capabilities"], json!({ "drop": ["ALL"] })),
        ("live", &agent["livenessProbe"]["httpGet"]["path"], json!("/live")),
        ("ready", &agent["readinessProbe"]["httpGet"]["path"], json!("/ready")),
        ("drain", &pod["terminationGracePeriodSeconds"], json!(480)),
    ] {
        assert_eq!(*found, wanted, "{what}");
    }
    let names = |list: &Value| -> Vec<String> {
        list.as_array().expect("a list").iter().map(|one| one["name"].as_str().expect("name").to_owned()).collect()
    };
    assert_eq!(names(&agent["volumeMounts"]), names(&pod["volumes"]), "each volume is mounted");
    assert_eq!(names(&agent["ports"]), ["health", "metrics"]);
    assert_eq!(pod["volumes"][0]["configMap"]["name"], all[1]["metadata"]["name"]);
    // The same path on both sides, for the sockets of running scripts; and the firewall's word that it stands.
    let state = json!({ "path": "/var/lib/cronium-agent", "type": "Directory" });
    assert_eq!((&pod["volumes"][3]["hostPath"], &agent["volumeMounts"][3]["mountPath"]), (&state, &state["path"]));
    let firewall = &documents("kubernetes/firewall.yaml")[0]["spec"]["template"]["spec"];
    assert_eq!(pod["volumes"][4]["hostPath"], json!({ "path": "/run/cronium-firewall/loaded", "type": "File" }));
    assert_eq!(firewall["volumes"][0]["hostPath"]["path"], "/run/cronium-firewall");
    for key in ["nodeSelector", "tolerations"] {
        assert_eq!(firewall[key], pod[key], "{key}: on the same nodes");
    }
    let locks = &firewall["containers"][0]["securityContext"];
    assert_eq!(locks["capabilities"], json!({ "drop": ["ALL"], "add": ["NET_ADMIN"] }));
    assert_eq!((&locks["readOnlyRootFilesystem"], &locks["privileged"]), (&json!(true), &Value::Null));
    let config = all[1]["data"]["cronium-orchestrator.yaml"].as_str().expect("configuration");
    let mounted = "tokenFile: /etc/cronium-secret/api-token";
    assert!(config.contains(mounted) && agent["volumeMounts"][1]["mountPath"] == "/etc/cronium-secret");
    agent_takes(&[], &config.replace(mounted, ""));
}

#[test]
fn the_nomad_job_has_every_lock() {
    let text = text("nomad/cronium-agent.nomad.hcl");
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .fold(String::new(), |all, line| all + line + "\n");
    let words = code.split_whitespace().collect::<Vec<_>>().join(" ");
    for wanted in [
        "type = \"system\"",
        "user = \"65532:65532\"",
        "kill_timeout = \"8m\"",
        "readonly_rootfs = true",
        "cap_drop = [\"all\"]",
        "security_opt = [\"no-new-privileges\"]",
        "ports = [\"health\", \"metrics\"]",
        "path = \"/live\"",
        "perms = \"0400\"",
    ] {
        assert!(words.contains(wanted), "{wanted}");
    }
    let (firewall, agent) = words.split_once("task \"agent\"").expect("the agent's task");
    assert!(!words.contains("privileged = true") && !agent.contains("network_mode") && !agent.contains("cap_add"));
    assert!(firewall.contains("hook = \"prestart\"") && firewall.contains("cap_add = [\"net_admin\"]"));
    let path = "/var/lib/cronium-agent";
    assert!(
        agent.contains(&format!("destination = \"{path}\""))
            && agent.contains(&format!("CRONIUM_STATE_DIR = \"{path}\""))
    );
    let pairs = code.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once(" = ")?;
        let name = name.trim();
        name.starts_with("CRONIUM_").then(|| (name.to_owned(), value.trim_matches('"').to_owned()))
    });
    agent_takes(&without_token(pairs.collect()), "");
}
