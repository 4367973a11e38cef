#!/usr/bin/env python3
"""Two builds of the program, one job: is every number and every file the same? For changes that must keep the bits.

    python3 tools/compare_builds.py OLD NEW                 OLD, NEW: build folders (build/release) of the two versions
    python3 tools/compare_builds.py OLD NEW --quick         12 steps a stage instead of 50
    python3 tools/compare_builds.py OLD NEW --rounds 5      and the times: the job five times with each, in turns; pairs compared
    python3 tools/compare_builds.py --self-test             a changed number, byte, file or line of text is found

Runs the main job (convert, two training stages, evaluations, export) without a coordinator on two ranks with expert parallelism 2,
then commands on what it left: inspect, score, logits, generate, every export format, and conversions by each method in float32 on one
rank without calibration. Both builds run at the same paths, one after the other, on the data of this checkout. Every file is compared:
weights, checkpoints, exports and other binary files byte for byte; JSON, metrics, pages and text after what may differ is taken
out, which is the tables below and nothing else. Ends with one line; exit 1 if anything differs.
"""
import argparse
import hashlib
import html
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/base-7m_independent-random_cpu.yaml"
FULL_STEPS, QUICK_STEPS = 50, 12
METHODS = ["independent_random", "sequential"]  # of the builds that are compared, the older one's
FORMATS = ["mixtral", "granitemoeshared", "qwen2_moe", "native", "dense"]

# What may differ between two runs of one build: when it ran and how long that took.
TIMES = {"seconds", "step_seconds", "tokens_per_second", "finished_at", "started_at", "eta_seconds", "time", "rows_per_second"}
# What a step of the code renames on purpose, old key -> new key, by file name ("" stands for all); the older build's files are
# read with these. Keys that only one build has are named with None on the other side.
RENAMED_KEYS = {"": {f"convert.calibration.{file}.path": f"convert.calibration.data.{file}.path" for file in range(2)}}
# Sections of a conversion, for builds that knew none: section -> key in it -> key beside it.
FLAT = {
    "ffn": {"method": "method", "experts": "experts", "top_k": "top_k"},
    "router": {"init": "router_init", "scaling": "router_scaling", "topk_norm": "topk_norm"},
    "scale": {"mode": "scale_mode", "value": "output_scale"},
    "calibration": {"data": "calibration", "tokens": "calibration_tokens", "template": "template"},
}
# What a change records that was not there before, by the name of the key.
NEW_KEYS = {
    "router_entropy", "router_top_probability",  # of a step, measured in the layers
    "expert_vitality", "least_expert_rms_over_mean", "least_output_share_over_mean",  # of a validation
    "router_distillation", "worth", "accumulate",  # of a conversion, and two options of it
}
# Values that follow from a renamed key, by file name, where the older build had that key: digests of configurations, which a later stage records of the model that it
# reads, and of files that hold them. What the models hold is compared in their own files.
STAGE_DIGESTS = {"digest", "train.input", "evaluate.input", "export.input"}
FOLLOWING_KEYS = {name: STAGE_DIGESTS for name in ("STAGE.json", "inputs.json", "summary.json", "MANIFEST.json")}
# Lines of texts and pages that tell times.
TEXT_TIMES = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?( UTC|Z)?"), "<time>"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min|h)\b( \d+ (s|min)\b)?"), "<duration>"),
    (re.compile(r"\b[\d.,]+k? (tokens/s|tok/s|steps/s|tokens per second)"), "<rate>"),
]


def say(*words):
    print(*words, flush=True)


def run(command, log, env=None):
    with open(log, "ab") as out:
        code = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=env).returncode
    if code:
        sys.exit(f"compare_builds: {' '.join(map(str, command))}\nended with {code}; its words are in {log}")


def gang(build, ranks, arguments, log):
    run(["bash", "deploy/gang.sh", "--ranks", str(ranks), "--threads", "1", "--once", "--", build / "bin/moe-worker", *arguments], log)


def flat(text):
    """A pipeline in block style, for builds whose conversions had no sections."""
    lines, section, depth = [], None, 0
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if section and line.strip() and indent <= depth:
            section = None
        name = line.strip().removesuffix(":")
        if name in FLAT and line.rstrip().endswith(":"):
            section, depth = name, indent
            continue
        if section:
            line = line[2:]  # one level less
            key, colon, value = line.strip().partition(":")
            if colon and indent == depth + 2 and key in FLAT[section]:
                line = f"{' ' * depth}{FLAT[section][key]}:{value}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def plain_conversion(method, model):
    return f"""apiVersion: moe/v1
kind: Pipeline
name: plain
inputs: {{dense: {{path: {model}}}}}
defaults: {{gang: {{ranks: 1, device: cpu}}, seed: 11}}
stages:
  - name: convert
    convert:
      input: dense
      dtype: float32
      ffn:
        method: {method}
        experts: 4
        top_k: 2
      router:
        init: kaiming
      scale:
        mode: n_over_k
"""


def write_pipeline(build, text, file):
    """In the form that the build reads, which it says itself: the model that it is asked about is not there."""
    file.write_text(plain_conversion(METHODS[0], file.parent / "no-such-model"))
    asked = subprocess.run([build / "bin/moe-worker", "run", file, "--out", file.parent / "asked"], capture_output=True, text=True)
    file.write_text(flat(text) if "unknown key (ffn)" in asked.stderr else text)
    shutil.rmtree(file.parent / "asked", ignore_errors=True)


def main_job(build, work, steps):
    log, config = work / "job.log.txt", work / "pipeline.yaml"
    write_pipeline(build, (ROOT / CONFIG).read_text(), config)
    approved = ["--approve", "recovered"] if steps < FULL_STEPS else []  # a short training does not pass the job's gate
    gang(build, 2, ["run", config, "--out", work / "job", "--set", f"stages.stage1.train.steps={steps}",
                    "--set", f"stages.stage2.train.steps={steps}", *approved], log)
    log.unlink()
    config.unlink()


def commands(build, work):
    """What the commands print and write about the job's models."""
    worker, out = build / "bin/moe-worker", work / "commands"
    out.mkdir()
    model = work / "job/stage2/output-t0001"

    def keep(name, *arguments):
        with open(out / name, "wb") as file:
            code = subprocess.run([worker, *arguments], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
        if code:  # what fails alike proves nothing
            sys.exit(f"compare_builds: moe-worker {' '.join(map(str, arguments))}\nended with {code}; its words are in {out / name}")

    keep("inspect.txt", "inspect", model, "--tensors")
    keep("inspect.json.txt", "inspect", model, "-o", "json", "--tensors")
    with open(ROOT / "examples/data/books.valid.jsonl") as source:
        text = [line for line, _ in zip(source, range(8))]
    (out / "text.jsonl").write_text("".join(text))
    keep("score.txt", "score", model, "--text", out / "text.jsonl", "--out", out / "scores.jsonl")
    (out / "ids.jsonl").write_text("".join(json.dumps({"ids": [1, *range(40 + row, 100 + row)]}) + "\n" for row in range(3)))
    for name, directory in [("dense", ROOT / "examples/base-7m"), ("moe", model)]:
        keep(f"logits-{name}.txt", "logits", directory, "--ids", out / "ids.jsonl", "--out", out / f"logits-{name}.safetensors")
    keep("greedy.txt", "generate", model, "--prompt", "The old man", "--max-tokens", "40")
    keep("drawn.txt", "generate", model, "--prompt", "Once", "--max-tokens", "40", "--temperature", "0.8", "--seed", "3")
    for form in FORMATS:
        keep(f"export-{form}.txt", "export", model, "-o", out / f"export-{form}", "--format", form, "--dtype", "float32")
    for method in METHODS:
        config = work / "plain.yaml"
        write_pipeline(build, plain_conversion(method, ROOT / "examples/base-7m"), config)
        keep(f"convert-{method}.txt", "run", config, "--out", out / f"convert-{method}")
        config.unlink()


def without(keys, value):
    if isinstance(value, dict):
        return {key: without(keys, inner) for key, inner in value.items() if key not in keys}
    if isinstance(value, list):
        return [without(keys, inner) for inner in value]
    return value


def with_tasks(value):
    """An evaluation of before results stood under their task's name, as one of now; one of now as it is."""
    if isinstance(value, list):
        return [with_tasks(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if not {"loss", "perplexity", "domains"} <= value.keys():
        return {key: inner if key == "tasks" else with_tasks(inner) for key, inner in value.items()}
    around = {key: with_tasks(value[key]) for key in ("model", "baseline") if key in value}
    return {**around, "tasks": {"perplexity": {key: inner for key, inner in value.items() if key not in around}}}


def with_sections(value):
    """The recorded configuration of a conversion of before it had sections, as one of now."""
    if isinstance(value, list):
        return [with_sections(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    value = {key: with_sections(inner) for key, inner in value.items()}
    if "calibration_tokens" not in value:  # which every such configuration has, and nothing else
        return value
    moved = {section: {key: value.pop(before) for key, before in keys.items() if before in value} for section, keys in FLAT.items()}
    return {**value, **moved}


def renamed(value, file):
    if isinstance(value, list):
        return [renamed(inner, file) for inner in value]
    if not isinstance(value, dict):
        return value
    names = {**RENAMED_KEYS.get("", {}), **RENAMED_KEYS.get(file, {})}
    return {names.get(key, key): renamed(inner, file) for key, inner in value.items() if names.get(key, key) is not None}


def comparable(value, file, is_old, has_moved):
    if is_old:
        value = renamed(with_sections(with_tasks(value)), file)
    return without(TIMES | NEW_KEYS | (FOLLOWING_KEYS.get(file, set()) if has_moved else set()), value)


def content(path, is_old, has_moved):
    """What of a file must be the same: text in lines, or the digest of its bytes. `has_moved`: the older build recorded flat
    conversions."""
    data = path.read_bytes()
    if path.suffix in {".safetensors", ".model"}:
        return [f"xxh {hashlib.sha256(data).hexdigest()} of {len(data)} bytes"]
    text = data.decode("utf-8", "replace")
    if path.suffix in {".json", ".jsonl"}:
        documents = text.splitlines() if path.suffix == ".jsonl" else [text]
        values = [json.loads(document) for document in documents if document.strip()]
        return [json.dumps(comparable(value, path.name, is_old, has_moved), sort_keys=True) for value in values]
    if path.suffix == ".html":  # the configuration that it shows, key by key
        def shown(found):
            value = comparable(json.loads(html.unescape(found[0])), path.name, is_old, has_moved)
            return json.dumps(value, sort_keys=True, indent=1)
        text = re.sub(r"(?s)(?<=<pre>)\{.*?\}(?=\s*</pre>)", shown, text)
    for pattern, stand_in in TEXT_TIMES:
        text = pattern.sub(stand_in, text)
    return text.splitlines()


def first_difference(old, new):
    for number, (a, b) in enumerate(zip(old, new), 1):
        if a == b:
            continue
        at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        return f"line {number}: ...{a[max(0, at - 60):at + 60]!r} became ...{b[max(0, at - 60):at + 60]!r}"
    return f"{len(old)} lines became {len(new)}"


def compare(old, new):
    """One line for each thing that differs, and the number of files compared."""
    def files(folder):
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    names_old, names_new = files(old), files(new)
    found = [f"{name}: only the old build leaves it" for name in sorted(names_old - names_new)]
    found += [f"{name}: only the new build leaves it" for name in sorted(names_new - names_old)]
    both = sorted(names_old & names_new)
    has_moved = any('"calibration_tokens"' in path.read_text() for path in old.rglob("STAGE.json"))
    for name in both:
        a, b = content(old / name, True, has_moved), content(new / name, False, has_moved)
        if a != b:
            found.append(f"{name}: {first_difference(a, b)}")
    return found, len(both)


def step_seconds(work):
    """Median seconds of a step of each training stage, and the seconds of every stage: work beside the steps shows in both."""
    times = {}
    for stage in ["stage1", "stage2"]:
        lines = (work / f"job/{stage}/attempts/0001/metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line) for line in lines]
        times[f"step of {stage}"] = statistics.median(step["step_seconds"] for step in steps if "step_seconds" in step)
    summary = json.loads((work / "job/summary.json").read_text())
    for name in ["convert", "stage1", "stage2"]:
        times[f"all of {name}"] = next(stage["seconds"] for stage in summary["stages"] if stage["stage"] == name)
    return times


def one_run(build, work, keep_as, steps, with_commands):
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    main_job(build, work, steps)
    if with_commands:
        commands(build, work)
    times = step_seconds(work)
    shutil.rmtree(keep_as, ignore_errors=True)
    work.rename(keep_as)
    return times


def compare_builds(options):
    for build in (options.old, options.new):
        if not (build / "bin/moe-worker").exists():
            sys.exit(f"compare_builds: {build}/bin/moe-worker is missing; build it first")
    folder = Path(options.out or tempfile.mkdtemp(prefix="compare_builds."))
    steps = QUICK_STEPS if options.quick else FULL_STEPS
    pairs = []
    for number in range(options.rounds):
        # In turns, and the first one changes: what the machine does meanwhile falls on both.
        order = [("old", options.old), ("new", options.new)]
        times = {}
        for name, build in order if number % 2 == 0 else order[::-1]:
            say(f"round {number + 1}/{options.rounds}: {name} build, {build}")
            times[name] = one_run(build.resolve(), folder / "run", folder / name, steps, number == 0)
        pairs.append(times)
        if number == 0:
            found, files = compare(folder / "old", folder / "new")
            for line in found:
                say("differs:", line)
            say(f"{files} files compared, {len(found)} differ; both runs lie in {folder}")
    if options.rounds > 1:
        say(f"{'':14} {'old s':>9} {'new s':>9} {'new/old':>8}  (medians of {options.rounds} pairs)")
        for what in pairs[0]["old"]:
            old, new = ([times[name][what] for times in pairs] for name in ("old", "new"))
            ratio = statistics.median(b / a for a, b in zip(old, new))
            say(f"{what:14} {statistics.median(old):9.4f} {statistics.median(new):9.4f} {ratio:8.3f}")
    if not found and not options.out:
        shutil.rmtree(folder)
    say("the same" if not found else f"{len(found)} DIFFERENCES")
    return 1 if found else 0


def self_test():
    with tempfile.TemporaryDirectory() as name:
        old, new = Path(name) / "old", Path(name) / "new"
        before = {"input": "m", "method": "s", "scale_mode": "k", "calibration": [1], "calibration_tokens": 4}
        now = {"input": "m", "ffn": {"method": "s"}, "router": {}, "scale": {"mode": "k"}, "calibration": {"data": [1], "tokens": 4}}
        for folder in (old, new):
            folder.mkdir()
            (folder / "a.json").write_text('{"loss": 1.25, "seconds": %d}' % len(str(folder)))
            (folder / "m.jsonl").write_text('{"step": 1, "step_seconds": 0.%d}\n' % (1 if folder == old else 2))
            (folder / "w.safetensors").write_bytes(b"weights")
            page = {"a": before, "b": 1} if folder == old else {"b": 1, "a": now}
            (folder / "r.html").write_text(f"<p>took {'58' if folder == old else '1 min 2'} s</p><pre>{html.escape(json.dumps(page))}</pre>")
        assert compare(old, new) == ([], 4), compare(old, new)
        whole = {"loss": 1, "perplexity": 2.7, "domains": {"a": {"loss": 1}}}
        assert with_tasks([{"details": {**whole, "baseline": whole}}]) == [
            {"details": {"tasks": {"perplexity": whole}, "baseline": {"tasks": {"perplexity": whole}}}}]
        tasks = [{"details": {"tasks": {"perplexity": whole}, "baseline": {"tasks": {"perplexity": whole}}}}]
        assert with_tasks(tasks) == tasks
        assert with_sections([{"convert": before}]) == [{"convert": now}] == with_sections([{"convert": now}])
        nested = "a:\n  input: m\n  ffn:\n    method: s\n  calibration:\n    data:\n      - {path: x}\nb: 1\n"
        assert flat(nested) == "a:\n  input: m\n  method: s\n  calibration:\n    - {path: x}\nb: 1\n", flat(nested)
        changes = {
            "a.json": b'{"loss": 1.2500000000000002, "seconds": 1}',
            "m.jsonl": b'{"step": 2, "step_seconds": 0.2}\n',
            "w.safetensors": b"weighty",
            "r.html": b"<p>took 4 s</p> more",
            "extra.json": b"{}",
        }
        for file, data in changes.items():
            kept = (new / file).read_bytes() if (new / file).exists() else None
            (new / file).write_bytes(data)
            found, _ = compare(old, new)
            assert len(found) == 1 and found[0].startswith(file), (file, found)
            (new / file).unlink() if kept is None else (new / file).write_bytes(kept)
        (new / "m.jsonl").unlink()
        assert compare(old, new)[0] == ["m.jsonl: only the old build leaves it"]
    say("self-test passed: 6 kinds of difference found, times passed over")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, nargs="?")
    parser.add_argument("new", type=Path, nargs="?")
    parser.add_argument("--quick", action="store_true", help="12 steps a stage instead of 50")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each build; more than one: times are compared")
    parser.add_argument("--out", help="folder of the runs, kept; default: a temporary one, kept if something differs")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    if options.old is None or options.new is None:
        parser.error("give two build folders, or --self-test")
    return compare_builds(options)


if __name__ == "__main__":
    sys.exit(main())
