#!/usr/bin/env bash
# Installs what the build needs and is missing; does nothing on a machine that has it all.
#
#   bash deploy/install_deps.sh            build and run on CPU
#   bash deploy/install_deps.sh --peers    also what only the tests use: public implementations, a browser, Prometheus, Clang, and a real
#                                          model of 135 M parameters (tools/get_smollm2.sh) in $MOE_DEPS/smollm2
#   bash deploy/install_deps.sh --cuda     also the CUDA libraries that LibTorch needs to use a GPU and, where there is none, nvcc
#
# Debian packages come from apt (root only; an ordinary user is told which to ask for). LibTorch and CMake come from
# PyPI into virtual environments outside the tree: $MOE_DEPS, by default moe-deps in the user's cache folder. Of transformers the
# tests use two lines, 5 (environment peers) and 4 (peers4): the second holds only what differs and takes the rest, torch above
# all, from the first.
set -euo pipefail

readonly deps="${MOE_DEPS:-${XDG_CACHE_HOME:-$HOME/.cache}/moe-deps}"
readonly packages=(
  build-essential ccache curl git googletest libabsl-dev libbenchmark-dev libcli11-dev libcpp-httplib-dev libdnnl-dev
  libgmock-dev libgrpc++-dev libgtest-dev libicu-dev libopenmpi-dev libprotobuf-dev libspdlog-dev libsqlite3-dev libxxhash-dev
  libyaml-cpp-dev mold ninja-build nlohmann-json3-dev openmpi-bin pkg-config prometheus-cpp-dev protobuf-compiler
  protobuf-compiler-grpc python3 python3-venv
)
# What the tests use and neither build nor run needs: a browser for the status page, Prometheus for the metrics, Clang with
# libFuzzer for the fuzz targets, clang-format for the form of the sources.
readonly peer_packages=(chromium clang clang-format libclang-rt-dev prometheus)
readonly torch_wheels=(torch==2.11.0 nvidia-cuda-cupti==13.0.85 nvidia-cuda-runtime==13.0.96)
# Of one release with torch's libraries: the compiler, and what its headers include.
readonly nvcc_wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85)
readonly tool_wheels=(cmake==4.4.5)
readonly peer_wheels=(transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 sentencepiece==0.2.3 protobuf numpy scipy==1.17.1)
readonly peer4_wheels=(transformers==4.57.3 tokenizers==0.22.2 huggingface_hub==0.36.2)

say() { echo "install_deps: $*"; }
fail() { echo "install_deps: $*" >&2; exit 1; }

want_peers=0
want_cuda=0
for argument in "$@"; do
  case "$argument" in
    --peers) want_peers=1 ;;
    --cuda) want_cuda=1 ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "install_deps: unknown argument '$argument'; try --help" >&2; exit 64 ;;
  esac
done

# missing_packages PACKAGE...: those of them that are not installed.
missing_packages() {
  local package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || echo "$package"
  done
}

install_packages() {
  local -a wanted=("${packages[@]}") missing
  if ((want_peers)); then wanted+=("${peer_packages[@]}"); fi
  command -v dpkg-query >/dev/null || fail "this script knows Debian 12 only; install the equivalents of: ${wanted[*]}"
  mapfile -t missing < <(missing_packages "${wanted[@]}")
  if ((${#missing[@]} == 0)); then
    say "Debian packages: all ${#wanted[@]} present"
    return
  fi
  if (($(id -u) != 0)); then
    fail "these Debian packages are missing; ask an administrator to run:
  apt-get install -y --no-install-recommends ${missing[*]}"
  fi
  say "Debian packages: installing ${missing[*]}"
  apt-get update -qq || fail "apt-get update failed: check the network and /etc/apt/sources.list"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    fail "apt-get install failed; run it by hand to see why: apt-get install ${missing[*]}"
}

# make_environment NAME: the virtual environment $deps/NAME, if it is not there.
make_environment() {
  [[ -x "$deps/$1/bin/pip" ]] || python3 -m venv "$deps/$1" || fail "python3 -m venv failed: on Debian, install python3-venv"
}

# packages_folder ENVIRONMENT: where its packages lie.
packages_folder() { "$deps/$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

# borrow ENVIRONMENT FROM...: what ENVIRONMENT lacks, its Python and its pip find in FROM.
borrow() {
  local borrower="$1" site lender
  shift
  make_environment "$borrower"
  site=$(packages_folder "$borrower")
  for lender in "$@"; do packages_folder "$lender"; done >"$site/moe_borrowed.pth"
}

# wheels ENVIRONMENT SET PIP_OPTIONS... -- REQUIREMENT...: installs a set of wheels once into $deps/ENVIRONMENT;
# the stamp file .SET remembers what it held.
wheels() {
  local environment="$deps/$1" stamp="$deps/$1/.$2"
  shift 2
  local -a options=()
  while [[ "$1" != -- ]]; do options+=("$1"); shift; done
  shift
  if [[ -f "$stamp" && "$(cat "$stamp")" == "$*" ]]; then
    say "$(basename "$environment"): $* present"
    return
  fi
  say "$(basename "$environment"): installing $*"
  make_environment "$(basename "$environment")"
  "$environment/bin/pip" install --quiet --disable-pip-version-check "${options[@]}" "$@" ||
    fail "PyPI did not deliver $*; check the network and pip's settings"
  echo "$*" >"$stamp"
}

# has_nvcc: is the one that CMake finds (cmake/moe_cuda.cmake) of torch's CUDA?
has_nvcc() {
  local nvcc
  nvcc=$(PATH="$PATH:/usr/local/cuda/bin:/opt/cuda/bin" command -v nvcc) && "$nvcc" --version | grep -q 'release 13\.'
}

# install_nvcc: beside torch's libraries, whose wheels lack the names that a linker asks for.
install_nvcc() {
  local toolkit library
  wheels torch nvcc --no-deps -- "${nvcc_wheels[@]}"
  toolkit="$(packages_folder torch)/nvidia/cu13"
  ln -sfn lib "$toolkit/lib64"
  for library in cudart cublasLt; do ln -sf "lib$library.so.13" "$toolkit/lib/lib$library.so"; done
}

install_packages
mkdir -p "$deps" || fail "cannot create $deps; set MOE_DEPS to a folder that you can write to"
wheels torch cpu --no-deps -- "${torch_wheels[@]}"
wheels torch tools --no-deps -- "${tool_wheels[@]}"
if ((want_cuda || want_peers)); then
  # Python's `import torch` loads the CUDA libraries even where there is no GPU; our own CPU programs never do.
  wheels torch cuda -- torch==2.11.0
fi
if ((want_cuda)) && ! has_nvcc; then install_nvcc; fi
if ((want_peers)); then
  wheels peers peers -- "${peer_wheels[@]}"
  borrow peers torch
  borrow peers4 peers torch
  wheels peers4 peers4 --no-compile -- "${peer4_wheels[@]}"
  bash "$(dirname "${BASH_SOURCE[0]}")/../tools/get_smollm2.sh" "$deps/smollm2" || fail "SmolLM2 is missing; the reason is above"
fi
say "ready (wheels in $deps)"
