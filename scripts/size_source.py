"""How much there is to read: lines of code, long files, long functions, import circles.

Called by size.sh --source with the root of the sources as argument. A line of code is a line of the product that is
neither blank nor only a comment. What `#[cfg(test)]` or `#[cfg(any(test, fuzzing))]` marks, whole files included, is not
counted.
"""

import re
import sys
from pathlib import Path

CORE = ["jobs", "executors", "docker", "api", "os"]
FILE_MAX, FUNCTION_MAX = 400, 60
# What may have commas before its braces.
GENERIC = re.compile(r"\b(?:fn|impl|struct|enum|trait|type)\b")
TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)"""
    r"""|(?P<text>b?r(?P<hash>\#*)".*?"(?P=hash)|b?"(?:\\.|[^"\\])*"|b?'(?:\\.[^']*|[^'\\])')""",
    re.DOTALL,
)


def blank(text):
    return re.sub(r"[^\n]", " ", text)


def item_end(code, at):
    """The end of the item that begins at `at`: after its `;`, or after its braces (and a `;` or `,` behind them)."""
    depth = 0
    for i in range(at, len(code)):
        c = code[i]
        if c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
            if depth == 0 and c == "}":
                return i + 1
            if depth < 0:
                return i
        elif depth == 0 and (c == ";" or c == "," and not GENERIC.search(code[at:i])):
            return i + 1
    return len(code)


class File:
    """One file: `lines`, the text without comments and tests, and `code`, the same with literals blanked."""

    def __init__(self, path):
        raw = path.read_text()
        self.path = path
        self.lines = TOKEN.sub(lambda m: blank(m[0]) if m["comment"] else m[0], raw)
        self.code = TOKEN.sub(lambda m: blank(m[0]), raw)
        self.tests = []
        for mark in list(re.finditer(r"#\[cfg\((?:test|any\(test, fuzzing\))\)\]", self.code)):
            # Further attributes belong to the item.
            start = mark.end()
            while (more := re.match(r"\s*#\[[^\]]*\]", self.code[start:])) is not None:
                start += more.end()
            end = item_end(self.code, start)
            if module := re.fullmatch(r"\s*(?:pub(?:\([^)]*\))? )?mod (\w+);", self.code[start:end]):
                named = re.search(r'path = "([^"]+)"', self.lines[mark.end() : start])
                self.tests.append(named[1] if named else module[1])
            cut = slice(mark.start(), end)
            self.lines = self.lines[: cut.start] + blank(self.lines[cut]) + self.lines[cut.stop :]
            self.code = self.code[: cut.start] + blank(self.code[cut]) + self.code[cut.stop :]

    def folder(self):
        """Where its child modules live."""
        own = self.path.name in ("mod.rs", "lib.rs", "main.rs")
        return self.path.parent if own else self.path.with_suffix("")

    def count(self):
        return count(self.lines)

    def functions(self):
        for match in re.finditer(r"\bfn (\w+)", self.code):
            yield match[1], count(self.lines[match.start() : item_end(self.code, match.start())])


def count(text):
    return sum(1 for line in text.splitlines() if line.strip())


def read(src):
    files = {path: File(path) for path in sorted(src.rglob("*.rs"))}
    for file in list(files.values()):
        for name in file.tests:
            base = file.path.parent if name.endswith(".rs") else file.folder()
            gone = base / name if name.endswith(".rs") else base / f"{name}.rs"
            for path in [p for p in files if p == gone or base / name in p.parents]:
                del files[path]
    return files


def used_paths(text):
    """`a::b::{c, d::e}` as a list of lists of names."""
    text = re.sub(r"\s+as\s+\w+|\s+", "", text)
    head, brace, rest = text.partition("{")
    names = [name for name in head.split("::") if name]
    if not brace:
        return [names]
    parts, depth, start = [], 0, 0
    for i, c in enumerate(rest):
        depth += (c == "{") - (c == "}")
        if depth < 0 or (c == "," and depth == 0):
            parts.append(rest[start:i])
            start = i + 1
        if depth < 0:
            break
    return [names + tail for part in parts if part for tail in used_paths(part)]


class Graph:
    """Which file uses which. A name that a folder's face only passes on leads to the file that defines it."""

    def __init__(self, src, files):
        self.files, self.modules, self.passed = files, {}, {}
        for path in files:
            names = list(path.relative_to(src).with_suffix("").parts)
            self.modules[tuple(names[:-1] if names[-1] in ("mod", "lib", "main") else names)] = path
        self.names = {path: names for names, path in self.modules.items()}
        uses = {path: [] for path in files}
        for path, file in files.items():
            for match in re.finditer(r"(pub(?:\([^)]*\))? )?\buse ([^;]+);", file.code):
                for names in used_paths(match[2]):
                    if match[1]:
                        self.passed.setdefault(path, {})[names[-1]] = names
                    else:
                        uses[path].append(names)
            rest = re.sub(r"\buse [^;]+;", "", file.code)
            uses[path] += [m[0].split("::") for m in re.finditer(r"\b[a-z_]\w*(?:::\w+)+", rest)]
        self.edges = {path: {self.find(path, names) for names in uses[path]} - {None, path} for path in files}

    def find(self, path, names, hops=8):
        own = list(self.names.get(path, ()))
        rest = list(names)
        if rest[0] in ("crate", "cronium_agent"):
            at, rest = [], rest[1:]
        elif rest[0] in ("super", "self"):
            at = own
            while rest and rest[0] in ("super", "self"):
                at = at[:-1] if rest[0] == "super" else at
                rest = rest[1:]
        elif tuple(own + rest[:1]) in self.modules:
            at = own
        else:
            return None
        while rest and tuple(at + rest[:1]) in self.modules:
            at, rest = at + rest[:1], rest[1:]
        found = self.modules.get(tuple(at))
        if found and rest and hops and rest[0] in self.passed.get(found, {}):
            return self.find(found, self.passed[found][rest[0]], hops - 1) or found
        return found

    def circles(self):
        """Strongly connected parts of more than one file."""
        reach = {}
        for start in self.edges:
            seen, waiting = set(), [start]
            while waiting:
                for to in self.edges[waiting.pop()]:
                    if to not in seen:
                        seen.add(to)
                        waiting.append(to)
            reach[start] = seen
        parts = {frozenset(b for b in reach[a] if a in reach[b]) for a in reach if a in reach[a]}
        return sorted(parts, key=lambda part: min(part))


def rows(src, files):
    """Name, lines and files of each folder, indented by depth; single files at the top are one row."""
    sums = {}
    for path, file in files.items():
        parts = path.relative_to(src).parts[:-1]
        for depth in range(min(len(parts), 2) + 1):
            lines, number = sums.get(parts[:depth], (0, 0))
            sums[parts[:depth]] = lines + file.count(), number + 1
    total = sums.pop(())
    for name, (lines, number) in sorted(sums.items()):
        yield "  " * (len(name) - 1) + name[-1] + "/", lines, number
    folders = [value for name, value in sums.items() if len(name) == 1]
    yield "files of src", total[0] - sum(v[0] for v in folders), total[1] - sum(v[1] for v in folders)
    core = [sums[(name,)] for name in CORE]
    yield "all", *total
    yield f"of these the core ({' '.join(CORE)})", sum(v[0] for v in core), sum(v[1] for v in core)


def main():
    root = Path(sys.argv[1])
    src = root / "src"
    files = read(src)
    print("  lines  files")
    for name, lines, number in rows(src, files):
        print(f"{lines:7} {number:6}  {name}")
    print(f"\nfiles over {FILE_MAX} lines of code:")
    for path, file in files.items():
        if file.count() > FILE_MAX:
            print(f"{file.count():7}  {path.relative_to(root)}")
    print(f"\nfunctions over {FUNCTION_MAX} lines of code:")
    for path, file in files.items():
        for name, lines in file.functions():
            if lines > FUNCTION_MAX:
                print(f"{lines:7}  {name} in {path.relative_to(root)}")
    print("\nimport circles:")
    for part in Graph(src, files).circles():
        print("         " + " ".join(str(path.relative_to(src)) for path in sorted(part)))


if __name__ == "__main__":
    main()
