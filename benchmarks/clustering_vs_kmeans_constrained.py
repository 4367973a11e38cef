#!/usr/bin/env python3
"""Balanced clustering of neurons: ours against PyPI's k-means-constrained, in turns in one run.

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install k-means-constrained joblib
    /tmp/peer/bin/python benchmarks/clustering_vs_kmeans_constrained.py --ours build/release/bin/moe_clustering_bench
        [--rows 1536] [--width 576] [--clusters 8] [--restarts 3] [--rounds 1] [--model DIRECTORY] [--no-peer]

Rows are unit vectors less their mean, as a conversion clusters them: the up projection of layer 0 of --model, else drawn with a
weak structure (a few directions that many rows share, as neurons have). Both get the same rows, clusters of the same size and as many
restarts; the peer is LLaMA-MoE's own choice. Inertia of both labellings is computed here, in double: the sum of squared distances to
the means of the clusters. Prints one row of a table: seconds, ratio, inertia ratio (below 1: ours is better).
"""
import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def drawn_rows(rows, width, seed=7):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((32, width))
    return (rng.standard_normal((rows, width)) + rng.standard_normal((rows, 32)) @ shared * 0.15).astype(np.float32)


def model_rows(directory):
    path = Path(directory) / "model.safetensors"
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(length))["model.layers.0.mlp.up_proj.weight"]
        first, last = entry["data_offsets"]
        file.seek(8 + length + first)
        data = file.read(last - first)
    if entry["dtype"] == "BF16":
        values = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(data, {"F32": np.float32, "F16": np.float16}[entry["dtype"]]).astype(np.float32)
    return values.reshape(entry["shape"])


def as_clustered(rows):
    unit = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    return (unit - unit.mean(0)).astype(np.float32)


def inertia(rows, labels, clusters):
    points, sizes = rows.astype(np.float64), np.bincount(labels, minlength=clusters)
    assert sizes.max() - sizes.min() <= 1, sizes
    return sum(((mine := points[labels == c]) - mine.mean(0)).__pow__(2).sum() for c in range(clusters))


def ours(options, folder, rows):
    rows.tofile(folder / "rows.bin")
    command = [options.ours, folder / "rows.bin", folder / "labels.bin", "--width", rows.shape[1], "--clusters", options.clusters,
               "--restarts", options.restarts]
    told = json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
    return told["seconds"], np.fromfile(folder / "labels.bin", np.int32)


def peer(options, rows):
    from joblib import parallel_config
    from k_means_constrained import KMeansConstrained
    points = as_clustered(rows)
    low = len(rows) // options.clusters
    start = time.perf_counter()
    model = KMeansConstrained(options.clusters, size_min=low, size_max=low + (len(rows) % options.clusters > 0),
                              n_init=options.restarts, random_state=0, n_jobs=os.cpu_count())
    with parallel_config("loky", max_nbytes=None):  # its processes write into what joblib would map read-only
        labels = model.fit_predict(points)
    return time.perf_counter() - start, np.asarray(labels, np.int32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--rows", type=int, default=1536)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--clusters", type=int, default=8)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model")
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    rows = model_rows(options.model) if options.model else drawn_rows(options.rows, options.width)
    points = as_clustered(rows)
    times, inertias = {"ours": [], "peer": []}, {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for name in ["ours"] + ([] if options.no_peer else ["peer"]):
                seconds, labels = ours(options, Path(folder), rows) if name == "ours" else peer(options, rows)
                times[name].append(seconds)
                inertias[name] = inertia(points, labels, options.clusters)
                print(f"{name}: {seconds:.2f} s, inertia {inertias[name]:.4f}", file=sys.stderr)
    print("| rows | clusters | restarts | ours s | peer s | peer / ours | inertia ours / peer |\n|---|---|---|---|---|---|---|")
    mine = statistics.median(times["ours"])
    other = statistics.median(times["peer"]) if times["peer"] else None
    against = "| | | |" if other is None else f"| {other:.2f} | {other / mine:.1f} | {inertias['ours'] / inertias['peer']:.5f} |"
    print(f"| {rows.shape[0]} x {rows.shape[1]} | {options.clusters} | {options.restarts} | {mine:.2f} {against}")


if __name__ == "__main__":
    main()
