#!/usr/bin/env python3
"""Writes the leaderboards of finished runs into a Markdown page.

    python3 tools/experiment_tables.py PAGE.md runs/router-init/summary.json runs/granularity/summary.json

The table of a pipeline stands between `<!-- table: NAME -->` and `<!-- end -->`, NAME being the pipeline's; what stands
between them is replaced, nothing else. A file without a place for a pipeline, or a run that is not finished, is an error.
"""
import json
import re
import sys
from pathlib import Path


def spread(value):
    if value is None:
        return "-"
    text = f"{value['mean']:.3f}"
    return text + (f" ± {value['deviation']:.3f}" if "deviation" in value else "")


def table(rows):
    domains = []
    for row in rows:
        for state in ("converted", "trained"):
            for domain in row.get(state, {}).get("domains", {}):
                if domain not in domains:
                    domains.append(domain)
    has_converted = any("converted" in row and row["experts"] for row in rows)
    header = ["conversion", "experts", "active"] + (["mean, converted"] if has_converted else [])
    header += ["mean"] + domains + ["KL", "load"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        last = row.get("trained", row.get("converted", {}))
        cells = [row["label"], row["experts"] or "dense", f"{100 * row['active']:.0f} %" if "active" in row else "-"]
        if has_converted:
            cells.append(spread(row.get("converted", {}).get("mean")))
        cells.append(spread(last.get("mean")))
        cells += [spread(last.get("domains", {}).get(domain)) for domain in domains]
        cells.append(spread(row.get("divergence")))
        cells.append(f"{row['load']['least']:.2f}-{row['load']['greatest']:.2f}" if "load" in row else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    page = Path(sys.argv[1])
    text = page.read_text()
    for path in sys.argv[2:]:
        summary = json.loads(Path(path).read_text())
        name = summary["name"]
        if summary["state"] != "SUCCEEDED":
            sys.exit(f"{path}: the run is {summary['state']}; run it to its end")
        if "comparison" not in summary:
            sys.exit(f"{path}: compares nothing: no `comparison`")
        place = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.S)
        if not place.search(text):
            sys.exit(f"{page}: has no place `<!-- table: {name} -->` ... `<!-- end -->` for {path}")
        text = place.sub(lambda found: found[1] + "\n" + table(summary["comparison"]) + "\n\n" + found[2], text)
    page.write_text(text)


if __name__ == "__main__":
    main()
