"""The agent's bill of materials, from Cargo.lock (what, by which checksum) and cargo metadata (licences, what is compiled).

Called by sbom.sh. Reads the metadata from standard input, the root of the sources as argument, and prints CycloneDX 1.5.
Every locked package that the agent can reach is in it: `required` when its code ends up in the program for Linux,
`excluded` when it only helps to build it or belongs to another system. The C libraries that come inside crates are listed
too, since advisories are written about those and not about their crates.
"""

import hashlib
import json
import os
import re
import sys
import tomllib
import urllib.parse
import uuid
from datetime import datetime, timezone
from pathlib import Path

AGENT = "cronium-agent"
TESTS_ONLY = {"cronium-bench", "cronium-dev-backend"}
# Packages whose own code is a build script, and which carry code that is compiled into the program.
CARRIERS = {"openssl-src"}


def purl(name, version):
    return f"pkg:cargo/{name}@{urllib.parse.quote(version, safe='')}"


def locked(root):
    """Packages of Cargo.lock that the agent reaches, by (name, version), with the keys that each depends on."""
    packages = tomllib.loads((root / "Cargo.lock").read_text())["package"]
    by_key = {(p["name"], p["version"]): p for p in packages}
    versions = {}
    for name, version in by_key:
        versions.setdefault(name, []).append(version)

    def key(text):
        # "name", or "name version" where there are several.
        name, _, rest = text.partition(" ")
        return (name, rest.split(" ")[0] if rest else versions[name][0])

    start = next(k for k in by_key if k[0] == AGENT)
    reached, waiting = {}, [start]
    while waiting:
        at = waiting.pop()
        if at in reached or at[0] in TESTS_ONLY:
            continue
        reached[at] = sorted(k for k in map(key, by_key[at].get("dependencies", [])) if k[0] not in TESTS_ONLY)
        waiting += reached[at]
    return start, by_key, reached


def compiled(metadata):
    """Ids of the packages whose code is in the program: reached without passing a build script or a macro."""
    nodes = {n["id"]: n for n in metadata["resolve"]["nodes"]}
    packages = {p["id"]: p for p in metadata["packages"]}
    waiting = [i for i, p in packages.items() if p["name"] == AGENT]
    inside = set()
    while waiting:
        at = waiting.pop()
        kinds = {k for t in packages[at]["targets"] for k in t["kind"]}
        if at in inside or "proc-macro" in kinds:
            continue
        inside.add(at)
        if packages[at]["name"] in CARRIERS:
            # What it uses, it uses to build.
            continue
        for dep in nodes[at]["deps"]:
            carrier = packages[dep["pkg"]]["name"] in CARRIERS
            if carrier or any(k["kind"] is None for k in dep["dep_kinds"]):
                waiting.append(dep["pkg"])
    return inside


def found(pattern, path):
    match = re.search(pattern, path.read_text(errors="replace"))
    if not match:
        sys.exit(f"sbom: no version in {path}")
    return match.group(1)


def bundled(package):
    """The C library inside a crate, as (name, version, licence, vendor and product of its CPE), or None."""
    folder = Path(package["manifest_path"]).parent
    match package["name"]:
        case "openssl-src":
            return ("openssl", package["version"].partition("+")[2], "Apache-2.0", "openssl:openssl")
        case "libssh2-sys":
            version = found(r'#define LIBSSH2_VERSION\s+"([^"]+)"', folder / "libssh2/include/libssh2.h")
            return ("libssh2", version, "BSD-3-Clause", "libssh2:libssh2")
        case "libz-sys":
            version = found(r'#define ZLIB_VERSION\s+"([^"]+)"', folder / "src/zlib/zlib.h")
            return ("zlib", version, "Zlib", "zlib:zlib")


def licence(text):
    # An old spelling of a choice.
    return [{"expression": text.replace("/", " OR ") if " " not in text else text}]


def component(key, package, about, inside):
    name, version = key
    entry = {"type": "library", "bom-ref": purl(*key), "name": name, "version": version}
    where = "other system" if about is None else "program" if inside else "build"
    entry["scope"] = "required" if where == "program" else "excluded"
    entry["hashes"] = [{"alg": "SHA-256", "content": package["checksum"]}]
    if about is not None and about["license"]:
        entry["licenses"] = licence(about["license"])
    entry["purl"] = purl(*key)
    if about is not None and about["repository"]:
        entry["externalReferences"] = [{"type": "vcs", "url": about["repository"]}]
    entry["properties"] = [{"name": "cronium:where", "value": where}]
    return entry


def bill(root, metadata):
    start, by_key, reached = locked(root)
    about = {(p["name"], p["version"]): p for p in metadata["packages"]}
    ids = compiled(metadata)
    components, dependencies = [], []
    for key in sorted(reached):
        refs = [purl(*k) for k in reached[key]]
        if key != start:
            package = about.get(key)
            inside = package is not None and package["id"] in ids
            components.append(component(key, by_key[key], package, inside))
            library = bundled(package) if inside else None
            if library:
                name, version, words, cpe = library
                ref = f"pkg:generic/{name}@{version}"
                plain = re.match(r"[0-9.]+", version).group(0)
                components.append({
                    "type": "library", "bom-ref": ref, "name": name, "version": version, "scope": "required",
                    "licenses": licence(words), "cpe": f"cpe:2.3:a:{cpe}:{plain}:*:*:*:*:*:*:*", "purl": ref,
                    "properties": [{"name": "cronium:where", "value": f"source inside {key[0]}"}],
                })
                refs.append(ref)
                dependencies.append({"ref": ref, "dependsOn": []})
        dependencies.append({"ref": purl(*key), "dependsOn": sorted(refs)})
    lock = hashlib.sha256((root / "Cargo.lock").read_bytes()).hexdigest()
    described = {
        "component": {
            "type": "application", "bom-ref": purl(*start), "name": start[0], "version": start[1],
            "licenses": [{"license": {"name": "LicenseRef-Cronium"}}], "purl": purl(*start),
        },
        "properties": [{"name": "cronium:cargo-lock-sha256", "value": lock}],
    }
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        moment = datetime.fromtimestamp(int(epoch), timezone.utc)
        described = {"timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"), **described}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        # The same tree has the same number.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, lock)}",
        "version": 1,
        "metadata": described,
        "components": components,
        "dependencies": sorted(dependencies, key=lambda d: d["ref"]),
    }


if __name__ == "__main__":
    json.dump(bill(Path(sys.argv[1]), json.load(sys.stdin)), sys.stdout, indent=2, ensure_ascii=False)
    print()
