#!/usr/bin/env python3
"""The module table as a test: which folder of src/ may include which, and who may see Torch, MPI, gRPC, SQL, CUDA.

    python3 tools/check_includes.py [ROOT]        exit 1 and one line per forbidden include
    python3 tools/check_includes.py --self-test   the checker finds what it must find
"""
import re
import sys
import tempfile
from pathlib import Path

# module: modules of ours that it may include, besides itself and common.
ALLOWED = {
    "common": set(),
    "kernels": set(),
    "metrics": set(),
    "pipeline": {"proto"},
    "report": {"pipeline", "proto"},
    "comm": {"kernels"},
    "model": {"kernels"},
    "data": set(),
    "checkpoint": {"model", "comm"},
    "parallel": {"model", "comm", "kernels"},
    # A model on a mesh: convert and export may reach experts that are spread over ranks through it, and not otherwise.
    "runtime": {"model", "parallel", "data", "checkpoint", "comm", "proto"},
    "convert": {"model", "checkpoint", "data", "comm", "runtime", "proto"},
    "export": {"model", "checkpoint", "comm", "runtime", "proto"},
    "eval": {"model", "parallel", "data", "checkpoint", "comm", "runtime", "metrics", "proto"},
    "train": {"model", "parallel", "data", "checkpoint", "comm", "runtime", "metrics", "eval", "proto"},
    "worker": {"pipeline", "report", "comm", "model", "data", "checkpoint", "parallel", "runtime", "convert", "export", "eval",
               "train", "metrics", "proto"},
    "coordinator": {"pipeline", "report", "metrics", "proto"},
    "cli": {"pipeline", "report", "proto"},
}
# Kernels see of common the standard-library-only error header alone; comm of kernels the CUDA check alone.
ONLY_HEADERS = {("kernels", "common"): {"common/error.h"}, ("comm", "kernels"): {"kernels/cuda_check.h"}}

# library: (pattern of its headers, modules that may include them)
TORCH = {"comm", "model", "data", "checkpoint", "parallel", "runtime", "convert", "export", "eval", "train", "worker"}
LIBRARIES = {
    "Torch": (r"(torch|ATen|c10|caffe2)/", TORCH),
    "MPI": (r"mpi\.h", {"comm"}),
    "NCCL": (r"nccl\.h", {"comm"}),
    "CUDA": (r"(cuda|cublas)\w*\.h(pp)?$", {"kernels", "comm"}),
    "gRPC": (r"(grpc|grpcpp)/", {"worker", "coordinator", "cli"}),
    "SQLite": (r"sqlite3\.h", {"coordinator"}),
    "Protobuf": (r"google/protobuf/", {"pipeline", "report", "worker", "coordinator", "cli"}),
    "yaml-cpp": (r"yaml-cpp/", {"pipeline"}),
    "spdlog": (r"spdlog/", {"common"}),
    "oneDNN": (r"(oneapi/)?dnnl", {"kernels"}),
    "prometheus-cpp": (r"prometheus/", {"metrics"}),
    "cpp-httplib": (r"httplib\.h", {"metrics"}),
    "ICU": (r"unicode/", {"data"}),
    "CLI11": (r"CLI/", {"common", "worker", "coordinator", "cli"}),
}
FORBIDDEN_ANYWHERE = [r"torch/torch\.h", r"torch/extension\.h"]
TORCH_IN_HEADERS = r"ATen/core/Tensor\.h"
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')


def problems_of(path, module):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        header = match[1]
        where = f"{path}:{number}"
        other = header.split("/")[0]
        if header.startswith("moe/v1/"):
            other = "proto"
        if (other in ALLOWED or other == "proto") and other != module:
            only = ONLY_HEADERS.get((module, other))
            if only is not None:
                if header not in only:
                    yield f"{where}: {module} may include of {other} only {', '.join(sorted(only))}, not {header}"
            elif other != "common" and other not in ALLOWED[module]:
                yield f"{where}: {module} may not include {header}"
        for library, (pattern, users) in LIBRARIES.items():
            if re.match(pattern, header) and module not in users:
                yield f"{where}: {module} must not know {library} ({header})"
        if any(re.match(pattern, header) for pattern in FORBIDDEN_ANYWHERE):
            yield f"{where}: {header} costs 14 s a file; use the precompiled set"
        if path.suffix == ".h" and re.match(r"torch/", header) or (
                path.suffix == ".h" and re.match(r"(ATen|c10)/", header) and not re.match(TORCH_IN_HEADERS, header)):
            yield f"{where}: of Torch, headers include <ATen/core/Tensor.h> only, not {header}"


def check(root):
    found = []
    for folder in sorted((root / "src").iterdir()):
        if not folder.is_dir():
            continue
        if folder.name not in ALLOWED:
            found.append(f"{folder}: unknown module; add it to the table in tools/check_includes.py")
            continue
        for path in sorted(folder.rglob("*")):
            if path.suffix in {".h", ".cc", ".cu", ".cuh"}:
                found += problems_of(path, folder.name)
    return found


def self_test():
    cases = {
        "src/model/a.cc": ('#include "comm/communicator.h"\n', "model may not include comm/communicator.h"),
        "src/kernels/b.cc": ('#include "common/log.h"\n', "kernels may include of common only"),
        "src/pipeline/c.cc": ("#include <ATen/core/Tensor.h>\n", "pipeline must not know Torch"),
        "src/train/d.cc": ("#include <torch/torch.h>\n", "costs 14 s"),
        "src/data/e.h": ("#include <torch/types.h>\n", "headers include <ATen/core/Tensor.h> only"),
        "src/eval/f.cc": ('#include "train/trainer.h"\n', "eval may not include train/trainer.h"),
        "src/coordinator/i.cc": ("#include <prometheus/registry.h>\n", "coordinator must not know prometheus-cpp"),
        "src/worker/j.cc": ("#include <httplib.h>\n", "worker must not know cpp-httplib"),
        "src/metrics/k.cc": ('#include "moe/v1/job.pb.h"\n', "metrics may not include moe/v1/job.pb.h"),
        "src/novel/g.cc": ("", "unknown module"),
    }
    allowed = {"src/train/h.cc": '#include "eval/evaluator.h"\n#include "common/log.h"\n#include <torch/types.h>\n'}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, text in [(name, text) for name, (text, _) in cases.items()] + list(allowed.items()):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        found = check(root)
    for name, (_, expected) in cases.items():
        assert any(expected in line for line in found), f"{name}: expected '{expected}' in {found}"
    assert not any("h.cc" in line for line in found), found
    assert len(found) == len(cases), found
    print(f"check_includes: {len(cases)} forbidden includes found, 0 false alarms")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit(0)
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        sys.exit(0)
    lines = check(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    print("\n".join(lines) if lines else "check_includes: clean")
    sys.exit(1 if lines else 0)
