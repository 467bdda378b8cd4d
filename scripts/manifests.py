"""Validates manifests of Kubernetes and job files of Nomad; called by scripts/manifests.sh. Prints each fault with its file, and
ends with 1 if there is one."""

import sys

import hcl2
import kubernetes_validate
import yaml

# The blocks of Nomad's job specification, from its documentation, and the keys that each takes: "" is a plain value, a name is a block
# with a list here, ANY a block that is not looked into because our files do not use it.
ANY = None
NOMAD = {
    "file": {"job": "job", "variable": ANY, "locals": ANY},
    "job": {
        "constraint": "constraint", "update": "update", "group": "group", "affinity": ANY, "spread": ANY, "meta": ANY,
        "migrate": ANY, "parameterized": ANY, "periodic": ANY, "reschedule": ANY, "task": "task", "ui": ANY, "vault": ANY,
        "all_at_once": "", "datacenters": "", "name": "", "namespace": "", "node_pool": "", "priority": "", "region": "", "type": "",
    },
    "constraint": {"attribute": "", "operator": "", "value": ""},
    "update": {
        "max_parallel": "", "health_check": "", "min_healthy_time": "", "healthy_deadline": "", "progress_deadline": "",
        "auto_revert": "", "auto_promote": "", "canary": "", "stagger": "",
    },
    "group": {
        "network": "network", "volume": "volume", "service": "service", "restart": "restart", "task": "task", "constraint": "constraint",
        "update": "update", "affinity": ANY, "consul": ANY, "disconnect": ANY, "ephemeral_disk": ANY, "meta": ANY, "migrate": ANY,
        "reschedule": ANY, "scaling": ANY, "spread": ANY, "vault": ANY, "count": "", "shutdown_delay": "",
    },
    "network": {"port": "port", "dns": ANY, "cni": ANY, "mode": "", "hostname": ""},
    "port": {"static": "", "to": "", "host_network": "", "ignore_collision": ""},
    "volume": {
        "type": "", "source": "", "read_only": "", "per_alloc": "", "access_mode": "", "attachment_mode": "", "sticky": "",
        "mount_options": ANY,
    },
    "service": {
        "check": "check", "connect": ANY, "identity": ANY, "meta": ANY, "canary_meta": ANY, "tagged_addresses": ANY, "weights": ANY,
        "name": "", "provider": "", "port": "", "tags": "", "canary_tags": "", "address": "", "address_mode": "", "cluster": "",
        "enable_tag_override": "", "on_update": "", "task": "", "kind": "",
    },
    "check": {
        "check_restart": "check_restart", "header": ANY, "type": "", "path": "", "interval": "", "timeout": "", "port": "", "name": "",
        "method": "", "body": "", "protocol": "", "command": "", "args": "", "address_mode": "", "expose": "", "initial_status": "",
        "notes": "", "on_update": "", "success_before_passing": "", "failures_before_critical": "", "failures_before_warning": "",
        "task": "", "tls_server_name": "", "tls_skip_verify": "", "grpc_service": "", "grpc_use_tls": "",
    },
    "check_restart": {"limit": "", "grace": "", "ignore_warnings": ""},
    "restart": {"attempts": "", "interval": "", "delay": "", "mode": "", "render_templates": ""},
    "task": {
        "config": "config", "volume_mount": "volume_mount", "env": ANY, "template": "template", "resources": "resources",
        "lifecycle": "lifecycle", "constraint": "constraint", "restart": "restart", "service": "service", "action": ANY, "affinity": ANY,
        "artifact": ANY, "consul": ANY, "csi_plugin": ANY, "dispatch_payload": ANY, "identity": ANY, "logs": ANY, "meta": ANY,
        "scaling": ANY, "schedule": ANY, "secret": ANY, "vault": ANY, "driver": "", "user": "", "kill_timeout": "", "kill_signal": "",
        "leader": "", "shutdown_delay": "", "kind": "",
    },
    "lifecycle": {"hook": "", "sidecar": ""},
    # Of the driver docker.
    "config": {
        "image": "", "args": "", "command": "", "entrypoint": "", "ports": "", "readonly_rootfs": "", "cap_add": "", "cap_drop": "",
        "security_opt": "", "group_add": "", "volumes": "", "network_mode": "", "privileged": "", "pids_limit": "", "init": "",
        "force_pull": "", "image_pull_timeout": "", "extra_hosts": "", "dns_servers": "", "work_dir": "", "hostname": "",
        "mount": "mount", "auth": ANY, "logging": ANY, "healthchecks": ANY, "labels": ANY, "sysctl": ANY, "ulimit": ANY,
    },
    "mount": {"type": "", "source": "", "target": "", "readonly": "", "bind_options": ANY, "tmpfs_options": ANY, "volume_options": ANY},
    "volume_mount": {"volume": "", "destination": "", "read_only": "", "propagation_mode": "", "selinux_label": ""},
    "template": {
        "data": "", "source": "", "destination": "", "uid": "", "gid": "", "perms": "", "change_mode": "", "change_signal": "",
        "change_script": ANY, "env": "", "error_on_missing_key": "", "left_delimiter": "", "right_delimiter": "", "once": "",
        "splay": "", "vault_grace": "", "wait": ANY,
    },
    "resources": {
        "cpu": "", "cores": "", "memory": "", "memory_max": "", "disk": "", "secrets": "", "network": ANY, "device": ANY, "numa": ANY,
    },
}
# How many labels a block has.
LABELS = {"job": 1, "group": 1, "task": 1, "port": 1, "volume": 1}


def kubernetes(text):
    """The faults of all documents against the oldest and the newest schema."""
    documents = [each for each in yaml.safe_load_all(text) if each is not None]
    if not documents:
        yield "no document"
    versions = kubernetes_validate.utils.all_versions()
    for document in documents:
        name = f"{document.get('kind')} {document.get('metadata', {}).get('name')}"
        for version in (versions[0], versions[-1]):
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name}, Kubernetes {version}: {error.json_path}: {error.message:.200}"
            except kubernetes_validate.SchemaNotFoundError as error:
                yield f"{name}: {error.message}"


def nomad(text):
    """Blocks and keys that Nomad does not know, and what is no HCL."""
    try:
        parsed = hcl2.loads(text)
    except Exception as error:  # whatever its parser has raised
        yield f"no HCL: {str(error).splitlines()[0]}"
        return
    yield from unknown("file", parsed, "")
    if "job" not in parsed:
        yield "no job"


def unknown(kind, body, path):
    """What is not in the list of this kind of block."""
    for key, value in body.items():
        key = key.strip('"')
        if key.startswith("__"):
            continue
        where = f"{path}{key}"
        if key not in NOMAD[kind]:
            yield f"{where}: a {kind} has no {key}"
            continue
        inner = NOMAD[kind][key]
        is_block = isinstance(value, list) and value and all(isinstance(each, dict) for each in value)
        if inner == "" and is_block:
            yield f"{where}: a value, and no block"
        if not inner:
            continue
        if not is_block:
            yield f"{where}: a block, and no value"
            continue
        for each in value:
            for _ in range(LABELS.get(key, 0)):
                labels = [label for label in each if not label.startswith("__")]
                if len(labels) != 1 or not isinstance(each[labels[0]], dict):
                    yield f"{where}: a {key} has one label"
                    break
                each = each[labels[0]]
            else:
                yield from unknown(inner, each, f"{where}.")


faults = 0
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        content = file.read()
    found = list((nomad if path.endswith(".hcl") else kubernetes)(content))
    for fault in found:
        print(f"{path}: {fault}")
    faults += len(found)
    if not found:
        print(f"{path}: valid")
sys.exit(1 if faults else 0)
