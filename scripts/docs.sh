#!/usr/bin/env bash
# docs.sh [--out DIR]
#
# Renders README, the pages at the top and all of docs/ to dist/docs/index.html and its neighbours: pages that need no
# server, no script and nothing from elsewhere. Links between pages and to headings work; files that a page links to
# come along.
#   --out DIR  where they go (default: dist/docs); made anew
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

OUT=$ROOT/dist/docs
arguments --out "$@"
need_packages "to render the pages" cmark-gfm python3
rm -rf "$OUT"
python3 "$ROOT/scripts/docs.py" "$ROOT" "$OUT"
say "$(find "$OUT" -name '*.html' | wc -l) pages: $OUT/index.html"
