"""Where the files of a release come from: provenance.py ROOT TARGET SUMS BILL [FLAGS VERSIONS].

Prints an in-toto Statement v1 with the SLSA provenance v1 as its predicate. SUMS has lines of sha256sum, BILL is the bill of
materials. FLAGS (scripts/build-static.sh) and VERSIONS (scripts/musl-toolchain.sh) are missing where the program was given.
No time and no folder of this machine is in it: the same sources give the same text."""

import hashlib
import json
import os
import re
import sys
from pathlib import Path

BUILD_TYPE = "https://cronium.example/cronium-agent/release/v1"
# What shapes the bytes of a release, beside the sources that the commit names.
INPUTS = ["Cargo.lock", "Cargo.toml", "build.rs", "configs/package/files", "scripts/build-static.sh",
          "scripts/build-openssl.sh", "scripts/openssl-prune.pl", "scripts/musl-toolchain.sh", "scripts/package.sh",
          "scripts/rpm.sh", "scripts/release.sh"]


def sums(text):
    """Name and digest of lines of sha256sum."""
    for line in text.splitlines():
        found = re.fullmatch(r"([0-9a-f]{64})  (\S+)", line)
        if found:
            yield found[2], found[1]


def crates(bill):
    for part in bill["components"]:
        for digest in part.get("hashes", []):
            yield {"name": part["name"], "uri": part["purl"], "digest": {"sha256": digest["content"]}}


def dependencies(root, bill, versions):
    revision = os.environ["CRONIUM_REVISION"]
    yield {"name": "sources", "uri": "git+https://cronium.example/cronium-agent", "digest": {"gitCommit": revision}}
    for name in INPUTS:
        yield {"name": name, "digest": {"sha256": hashlib.sha256((root / name).read_bytes()).hexdigest()}}
    for name, digest in sums(versions):
        yield {"name": name, "digest": {"sha256": digest}}
    yield from crates(bill)


def statement(root, target, subjects, bill, flags, versions):
    toolchain = [line for line in versions.splitlines() if not list(sums(line))]
    internal = {"CRONIUM_COMMIT": os.environ["CRONIUM_COMMIT"], "SOURCE_DATE_EPOCH": os.environ["SOURCE_DATE_EPOCH"]}
    if flags:
        internal.update({"flags": flags.splitlines(), "toolchain": toolchain})
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sums(subjects)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"target": target, "program": "built" if flags else "given"},
                "internalParameters": internal,
                "resolvedDependencies": list(dependencies(root, bill, versions)),
            },
            "runDetails": {"builder": {"id": f"{BUILD_TYPE}#scripts/release.sh"}},
        },
    }


def main(root, target, subjects, bill, flags=None, versions=None):
    read = lambda path: Path(path).read_text() if path else ""
    made = statement(Path(root), target, read(subjects), json.loads(read(bill)), read(flags), read(versions))
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
