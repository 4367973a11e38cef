#!/usr/bin/env python3
"""Writes the leaderboards of finished runs, and what they say of a claim, into a Markdown page.

    python3 tools/experiment_tables.py PAGE.md runs/router-init/summary.json runs/granularity/summary.json
    python3 tools/experiment_tables.py --self-test

The table of a pipeline stands between `<!-- table: PIPELINE -->` and `<!-- end -->`. A claim is judged between
`<!-- claim: PIPELINE A < B [converted] [in DOMAIN] -->` and `<!-- end -->`: A and B are variants, compared seed by seed by their
mean loss after training (`converted`: before; `in DOMAIN`: in that domain alone). A name with spaces stands in "".

    A < B    reproduced: lower in every seed; not reproduced: higher in every seed; undecided: the seeds disagree
    A ~ B    reproduced: the means differ by less than 1 %; not reproduced: by more, with one sign in every seed; else undecided
    A = B    the same, by no more than the larger standard deviation over the seeds

Times are left out: those of a shared machine say nothing. What stands between the markers is replaced, nothing else. A run that is
not finished, a pipeline without a place in the page and a claim about a variant that was not run are errors, and the page stays as it
was.
"""
import argparse
import json
import re
import statistics
import sys
import tempfile
from pathlib import Path

LAST_STEPS = 20  # of the last training, over which its load is taken
ALIKE = 0.01     # share of the loss


class Problem(Exception):
    pass


def name_of(row):
    return re.sub(r" \(\d+ seeds\)$", "", row["label"])


def loss_text(value):
    return "-" if value is None else f"{value['mean']:.3f}" + (f" ± {value['deviation']:.3f}" if "deviation" in value else "")


def both(before, after):
    """"5.686 → 3.737 ± 0.012": as converted and after training, or the one that there is."""
    if after is None:
        return loss_text(before)
    return loss_text(after) if before is None else f"{before['mean']:.3f} → {loss_text(after)}"


def range_text(least, greatest):
    return f"{least:.2f}-{greatest:.2f}"


def training_load(run, variant):
    """Least and greatest share of an expert in any layer over the last steps of a variant's last training, as a multiple of an even
    share; the widest of its seeds. None without such a training."""
    stages = {}
    if (run / "metrics.jsonl").is_file():
        for line in (run / "metrics.jsonl").read_text().splitlines():
            step = json.loads(line)
            if "expert_load" in step and re.fullmatch(rf"{re.escape(variant)}-(s\d+-)?[^-]+", step["stage"]):
                stages.setdefault(step["stage"], []).append(step["expert_load"])
    last_of_seed = {stage.rsplit("-", 1)[0]: steps for stage, steps in stages.items()}  # later stages stand later
    shares = []
    for steps in last_of_seed.values():
        for layer in zip(*steps[-LAST_STEPS:]):
            counts = [sum(expert) for expert in zip(*layer)]
            shares += [count * len(counts) / sum(counts) for count in counts if sum(counts)]
    return (min(shares), max(shares)) if shares else None


def table(rows, run):
    def losses(row, state):
        return row.get(state, {})

    domains = []
    for row in rows:
        for state in ("converted", "trained"):
            domains += [domain for domain in losses(row, state).get("domains", {}) if domain not in domains]
    facts = {
        "KL": lambda row: loss_text(row.get("divergence")),
        "load": lambda row: range_text(row["load"]["least"], row["load"]["greatest"]) if "load" in row else "-",
        f"load, last {LAST_STEPS} steps": lambda row: range_text(*load) if (load := training_load(run, name_of(row))) else "-",
        "export": lambda row: row.get("export", "-"),
    }
    cells = [[name_of(row), row["experts"] or "dense", f"{100 * row['active']:.0f} %" if "active" in row else "-",
              both(losses(row, "converted").get("mean"), losses(row, "trained").get("mean"))]
             + [both(losses(row, "converted").get("domains", {}).get(domain), losses(row, "trained").get("domains", {}).get(domain))
                for domain in domains]
             + [fact(row) for fact in facts.values()] for row in rows]
    header = ["conversion", "experts", "active", "mean"] + domains + list(facts)
    empty = {index for index in range(4, len(header)) if all(row[index] == "-" for row in cells)}
    keep = [index for index in range(len(header)) if index not in empty]
    lines = [[header[index] for index in keep]] + [[row[index] for index in keep] for row in cells]
    lines.insert(1, ["---"] * len(keep))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seed_losses(rows, variant, state, domain, claim):
    row = next((row for row in rows if name_of(row) == variant), None)
    if row is None:
        raise Problem(f"claim '{claim}': no variant '{variant}'; there are {', '.join(name_of(row) for row in rows)}")
    losses = row.get(state, {})
    value = losses.get("domains", {}).get(domain) if domain else losses.get("mean")
    if value is None:
        raise Problem(f"claim '{claim}': '{variant}' has no {state} loss" + (f" in {domain}" if domain else ""))
    return value.get("seeds", [value["mean"]])


def verdict(claim, rows):
    parts = re.fullmatch(r'("[^"]+"|\S+) ([<~=]) ("[^"]+"|\S+)( converted)?( in (\S+))?', claim)
    if not parts:
        raise Problem(f"claim '{claim}': expected 'A < B [converted] [in DOMAIN]', 'A ~ B ...' or 'A = B ...'")
    state = "converted" if parts[4] else "trained"
    names = [part.strip('"') for part in (parts[1], parts[3])]
    first, second = (seed_losses(rows, name, state, parts[6], claim) for name in names)
    # A variant that draws nothing, such as a dense model, may have been measured once.
    count = max(len(first), len(second))
    first, second = (values * count if len(values) == 1 else values for values in (first, second))
    if len(first) != len(second):
        raise Problem(f"claim '{claim}': {len(first)} seeds of one and {len(second)} of the other")
    differences = [a - b for a, b in zip(first, second)]
    mean = sum(differences) / count
    lower, higher = sum(value < 0 for value in differences), sum(value > 0 for value in differences)
    if parts[2] == "<":
        word = "reproduced" if lower == count else "not reproduced" if higher == count else "undecided"
    elif parts[2] == "=" and count == 1:
        raise Problem(f"claim '{claim}': one seed has no deviation; use ~")
    elif abs(mean) <= (ALIKE * sum(second) / count if parts[2] == "~" else max(map(statistics.stdev, (first, second)))):
        word = "reproduced"
    else:
        word = "not reproduced" if count in (lower, higher) else "undecided"
    each = ", ".join(f"{value:+.3f}" for value in differences)
    return f"**{word}**: {names[0]} less {names[1]} is {mean:+.3f}" + (f" ({each})" if count > 1 else " (one seed)")


def written(text, summaries):
    """`text` with what the runs say. `summaries`: (path, content) of each."""
    for path, summary in summaries:
        name = summary["name"]
        if summary["state"] != "SUCCEEDED":
            raise Problem(f"{path}: the run is {summary['state']}; run it to its end")
        if "comparison" not in summary:
            raise Problem(f"{path}: compares nothing: no `comparison`")
        rows = summary["comparison"]
        place = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.S)
        if not place.search(text):
            raise Problem(f"the page has no place `<!-- table: {name} -->` ... `<!-- end -->` for {path}")
        text = place.sub(lambda found: found[1] + "\n" + table(rows, Path(path).parent) + "\n\n" + found[2], text)
        claims = re.compile(rf"(<!-- claim: {re.escape(name)} ((?:(?!-->).)*?) -->).*?(<!-- end -->)", re.S)
        text = claims.sub(lambda found: found[1] + verdict(found[2], rows) + found[3], text)
    return text


def self_test():
    def spread(*values):
        mean = sum(values) / len(values)
        return {"mean": mean, "deviation": 0.5, "seeds": list(values)} if len(values) > 1 else {"mean": mean}

    def row(label, converted, trained):
        return {"label": label, "experts": "8 top 4", "active": 0.5,
                "converted": {"mean": spread(*converted), "domains": {"web": spread(*converted)}},
                **({"trained": {"mean": spread(*trained), "domains": {"web": spread(*trained)}}} if trained else {})}

    rows = [row("dense", [2.0], None), row("dense, on", [2.0], [1.5]), row("a (2 seeds)", [5, 6], [3.0, 3.2]), row("b (2 seeds)", [4, 7], [3.5, 3.5])]
    summary = {"name": "p", "state": "SUCCEEDED", "comparison": rows}
    verdicts = {"a < b": "**reproduced**: a less b is -0.400 (-0.500, -0.300)", "b < a": "**not reproduced**",
                "a < b converted": "**undecided**", "a < b in web": "**reproduced**", "dense < a converted": "**reproduced**",
                '"dense, on" < a': "**reproduced**: dense, on less a is -1.600 (-1.500, -1.700)", "a ~ b": "**not reproduced**", "a ~ a": "**reproduced**: a less a is +0.000", "a ~ b converted": "**reproduced**",
                "a = b": "**not reproduced**", "a = b converted": "**reproduced**", "a = a in web": "**reproduced**"}
    for claim, expected in verdicts.items():
        text = written(f"x<!-- table: p -->\nold<!-- end --> <!-- claim: p {claim} -->old<!-- end -->y", [("s", summary)])
        assert expected in text and "old" not in text and text.startswith("x") and text.endswith("<!-- end -->y"), (claim, text)
        assert "| a | 8 top 4 | 50 % | 5.500 → 3.100 ± 0.500 | 5.500 → 3.100 ± 0.500 |" in text, text
        assert "| dense | 8 top 4 | 50 % | 2.000 |" in text and "export" not in text, text
    page = "<!-- table: p -->\n<!-- end -->"
    for reason, text, changed in [("no variant 'c'", page + "<!-- claim: p c < a --><!-- end -->", {}),
                                  ("CANCELLED", page, {"state": "CANCELLED"}), ("no place", "", {}), ("expected", page + "<!-- claim: p a > b --><!-- end -->", {}),
                                  ("use ~", page + "<!-- claim: p dense = dense converted --><!-- end -->", {}),
                                  ("has no trained loss", page + "<!-- claim: p a < dense --><!-- end -->", {})]:
        try:
            written(text, [("s", {**summary, **changed})])
            raise AssertionError(f"not refused: {reason}")
        except Problem as problem:
            assert reason in str(problem), problem
    with tempfile.TemporaryDirectory() as folder:
        stages = {"a-s1-first": [[[9, 1]]], "a-s1-second": [[[0, 9]]] * 5 + [[[3, 1], [2, 2]]] * LAST_STEPS,
                  "ab-s1-second": [[[1, 9]]]}
        (Path(folder) / "metrics.jsonl").write_text("".join(json.dumps({"stage": stage, "expert_load": load}) + "\n"
                                                            for stage, steps in stages.items() for load in steps))
        assert training_load(Path(folder), "a") == (0.5, 1.5)
        assert training_load(Path(folder), "b") is None
    print("experiment_tables: tables and claims as expected, 6 refusals")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="?", type=Path)
    parser.add_argument("summaries", nargs="*", type=Path)
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    if not options.page or not options.summaries:
        parser.error("a page and at least one summary.json")
    try:
        text = written(options.page.read_text(), [(path, json.loads(path.read_text())) for path in options.summaries])
    except (Problem, OSError, json.JSONDecodeError) as problem:
        sys.exit(f"experiment_tables: {problem}")
    options.page.write_text(text)


if __name__ == "__main__":
    main()
