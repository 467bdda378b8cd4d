"""What others wrote of the static program, and under which licence: the rest of the package's copyright file.

Called by sbom.sh. Reads the output of cargo metadata from standard input, and prints paragraphs in Debian's form: one for each
library whose code is in the program, then one for each licence that they name. The texts are those of the crates themselves. A
licence without a text stops the build: somebody has to look at it.
"""

import json
import re
import sys
from pathlib import Path

from sbom import AGENT, bundled, compiled

# What the text of a licence begins with, after the lines that name the holders.
BEGINS = {
    "MIT": "Permission is hereby granted, free of charge, to any person obtaining",
    "ISC": "Permission to use, copy, modify, and/or distribute this software",
    "BSD-3-Clause": "Redistribution and use in source and binary forms",
    "Zlib": "This software is provided 'as-is'",
    "Unlicense": "This is free and unencumbered software",
    "BSL-1.0": "Permission is hereby granted, free of charge, to any person or organization obtaining",
    "CDLA-Permissive-2.0": "Community Data License Agreement",
}
# Too long to repeat: where it is.
ELSEWHERE = {
    "Apache-2.0": "/usr/share/common-licenses/Apache-2.0 on Debian, https://www.apache.org/licenses/LICENSE-2.0 elsewhere.",
    "LLVM-exception": "As an exception, if, as a result of your compiling your source code, portions of this Software are embedded"
    " into an Object form of such source code, you may redistribute such embedded portions in such Object form without complying"
    " with the conditions of Sections 4(a), 4(b) and 4(d) of the License.",
}
# What a static program has of its toolchain.
TOOLCHAIN = [
    ("musl", "MIT", ["2005-2020 Rich Felker, et al."]),
    ("libunwind (LLVM)", "Apache-2.0 WITH LLVM-exception", ["the LLVM Project's contributors"]),
    ("the standard library of Rust", "MIT OR Apache-2.0", ["the Rust Project's contributors"]),
]
FILES = re.compile(r"(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE|UNLICENSE)", re.IGNORECASE)
# A year or a name; not a sentence about copyright, nor a form to be filled in.
HOLDER = re.compile(
    r"^\W*(?:(?:Copyright|COPYRIGHT|©)[:\s]+(?:\([cC]\)|©)?|\([cC]\)(?=\s+\d))\s*(\d{4}.*|[A-Z][a-z].*)$"
)


def texts(folder):
    paths = [p for p in sorted(folder.iterdir()) if p.is_file() and FILES.match(p.name)]
    return [p.read_text(errors="replace") for p in paths]


def holders(found, otherwise):
    lines = {}
    for line in (line for text in found for line in text.splitlines()):
        if match := HOLDER.match(line.strip()):
            lines[match.group(1).strip()] = None
    return list(lines) or otherwise


def library(package):
    """The folder of the C library inside a crate."""
    folder = Path(package["manifest_path"]).parent
    return folder / {"openssl-src": "openssl", "libssh2-sys": "libssh2", "libz-sys": "src/zlib"}[package["name"]]


def parts(metadata):
    """(name, licence, holders, licence files) of everything in the program but the agent."""
    inside = compiled(metadata)
    for package in sorted(metadata["packages"], key=lambda p: (p["name"], p["version"])):
        if package["id"] not in inside or package["name"] == AGENT:
            continue
        name = f"{package['name']} {package['version']}"
        found = texts(Path(package["manifest_path"]).parent)
        authors = [re.sub(r"\s*<.*>", "", author) for author in package["authors"]]
        yield name, package["license"], holders(found, authors or [f"the authors of {package['name']}"]), found
        if within := bundled(package):
            found = texts(library(package))
            yield f"{within[0]} {within[1]}", within[2], holders(found, [f"The {within[0]} project and its authors"]), found
    for name, words, who in TOOLCHAIN:
        yield name, words, who, []


def body(text, begins):
    """The text from where it begins, up to an end that belongs to another licence; None if it is not there."""
    plain = re.sub(r"[ \t]+", " ", text.replace("\r", ""))
    pattern = r"\s+".join(map(re.escape, begins.split()))
    match = re.search(pattern, plain)
    return plain[match.start():].strip() if match else None


def indented(text):
    return "\n".join(" " + (line.strip() or ".") for line in text.splitlines())


def main():
    known, names = [], set()
    for name, words, who, found in parts(json.load(sys.stdin)):
        words = words if " " in words else words.replace("/", " OR ")
        print(f"Files: {re.sub(r'[^A-Za-z0-9.+-]+', '-', name).strip('-')}/*")
        print("Copyright: " + "\n           ".join(who))
        print("License: " + words.replace(" OR ", " or ").replace(" AND ", " and ").replace(" WITH ", " with ") + "\n")
        alone = set(re.split(r" (?:OR|AND|WITH) ", words))
        names |= alone
        # A file of a crate with a single licence holds nothing else.
        known += [(len(alone), name, text) for text in found]
    for licence in sorted(names):
        if licence in ELSEWHERE:
            print(f"License: {licence}\n{indented(ELSEWHERE[licence])}\n")
            continue
        if licence not in BEGINS:
            sys.exit(f"licences: {licence} is new: its text is not known (scripts/licences.py)")
        bodies = [body(text, BEGINS[licence]) for _, _, text in sorted(known)]
        shortest = min((text for text in bodies if text), key=len, default=None)
        if shortest is None:
            sys.exit(f"licences: no crate has the text of {licence} (scripts/licences.py)")
        print(f"License: {licence}\n{indented(shortest)}\n")


if __name__ == "__main__":
    main()
