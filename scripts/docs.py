"""Pages in Markdown as HTML: docs.py ROOT OUT. cmark-gfm renders; this adds what a folder of files needs beside it: the
names of headings, links to the rendered pages, the files that pages link to, and one style."""

import html
import os
import re
import shutil
import subprocess
import sys

STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --paper: #fff; --soft: #f3f5f7; --line: #d5dae0; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #d8dde3; --paper: #14171a; --soft: #1e2328; --line: #3a424b; --link: #7ab8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
nav { border-bottom: 1px solid var(--line); padding-bottom: .6rem; font-size: .9rem; }
nav a { margin-right: .9rem; white-space: nowrap; }
nav a[aria-current] { color: inherit; font-weight: 600; text-decoration: none; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 .8rem; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
a { color: var(--link); }
code { background: var(--soft); border-radius: 3px; padding: .1em .3em; font: .88em ui-monospace, monospace; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 5px; padding: .7rem .9rem; overflow-x: auto; }
pre code { background: none; padding: 0; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93em; }
th, td { border: 1px solid var(--line); padding: .35rem .6rem; text-align: left; vertical-align: top; min-width: 6rem; }
th { background: var(--soft); }
img { max-width: 100%; }
"""
# In the line at the top of each page; every other page is linked from these.
NAVIGATION = ["README.md", "docs/operations.md", "docs/configuration.md", "SECURITY.md", "docs/guarantees.md",
              "ARCHITECTURE.md", "CHANGELOG.md"]


def pages(root):
    top = [name for name in os.listdir(root) if name.endswith(".md")]
    below = [os.path.relpath(os.path.join(folder, name), root)
             for folder, _, names in os.walk(os.path.join(root, "docs")) for name in names if name.endswith(".md")]
    return sorted(top + below)


def place(page):
    """Where a page goes; the README is what a browser opens."""
    return "index.html" if page == "README.md" else page[:-3] + ".html"


def anchor(heading):
    """The name of a heading, as the links in the pages have it."""
    text = html.unescape(re.sub("<[^>]*>", "", heading)).strip().lower()
    return "".join("-" if c == " " else c for c in text if c == " " or c.isalnum() or c in "-_")


def title(body):
    found = re.search("<h1[^>]*>(.*?)</h1>", body, re.S)
    return html.unescape(re.sub("<[^>]*>", "", found.group(1))) if found else "cronium-agent"


class Renderer:
    def __init__(self, root, out):
        self.root, self.out, self.pages = root, out, pages(root)

    def target(self, page, link):
        """The link of a page as its HTML has it; None where there is nothing to link to."""
        path, _, name = html.unescape(link).partition("#")
        if "://" in path or path.startswith("mailto:") or not path:
            return link
        found = os.path.normpath(os.path.join(os.path.dirname(page), path))
        if os.path.isdir(os.path.join(self.root, found)):
            found = os.path.join(found, "README.md")
        if found in self.pages:
            found = place(found)
        elif os.path.isfile(os.path.join(self.root, found)):
            copy = os.path.join(self.out, found)
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copyfile(os.path.join(self.root, found), copy)
        else:
            return None
        link = os.path.relpath(found, os.path.dirname(place(page)) or ".")
        return html.escape(link + ("#" + name if name else ""))

    def linked(self, page, body):
        def anchor_link(match):
            link = self.target(page, match.group(1))
            return match.group(2) if link is None else f'<a href="{link}">{match.group(2)}</a>'

        body = re.sub('<a href="([^"]*)">(.*?)</a>', anchor_link, body, flags=re.S)
        return re.sub('<img src="([^"]*)"', lambda match: f'<img src="{self.target(page, match.group(1))}"', body)

    def navigation(self, page):
        here = os.path.dirname(place(page)) or "."
        for other in NAVIGATION:
            name = os.path.basename(other)[:-3]
            name = "cronium-agent" if name == "README" else name.capitalize()
            mark = ' aria-current="page"' if other == page else ""
            yield f'<a href="{os.path.relpath(place(other), here)}"{mark}>{name}</a>'

    def render(self, page):
        command = ["cmark-gfm", "-e", "table", "-e", "autolink", "--unsafe", os.path.join(self.root, page)]
        body = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        body = re.sub("<(h[1-6])>(.*?)</h", lambda m: f'<{m[1]} id="{anchor(m[2])}">{m[2]}</h', body, flags=re.S)
        body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
        file = os.path.join(self.out, place(page))
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "w", encoding="utf-8") as out:
            out.write(f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n'
                      f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
                      f"<title>{html.escape(title(body))}</title>\n<style>{STYLE}</style>\n"
                      f"<nav>{''.join(self.navigation(page))}</nav>\n<main>\n{self.linked(page, body)}</main>\n</html>\n")


if __name__ == "__main__":
    renderer = Renderer(sys.argv[1], sys.argv[2])
    for each in renderer.pages:
        renderer.render(each)
