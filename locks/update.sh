#!/usr/bin/env bash
# Resolve pyproject.toml into the locks: hashed requirements files without URLs. Needs uv; run it as `make lock`.
#
#   core.txt    what the service needs at run time, but torch and its CUDA parts
#   torch.txt   torch and its CUDA parts (3 GB); setup skips it where a CPU wheel is to be had
#   dev.txt     what tests, lint and docs need beside those
#   bench.txt   what benchmarks need beside those: the peers, and what draws the plots
#   llama.txt   llama.cpp, of the extra `llama`
#   build.txt   what building this project and source-only packages needs
#   models.txt  the embedded base models: data, installed without dependencies
#   clients-*.txt  clients of others, which exclude each other: each for an environment of its own
#   vllm.txt    vLLM on a CPU, for the tests of that back end: in an environment of its own too
set -euo pipefail
cd "$(dirname "$0")"
compile=(uv pip compile --quiet --universal --python-version 3.11 --generate-hashes
         --no-header --no-annotate --no-emit-index-url --no-emit-find-links
         --constraint constraints.in)
cuda='^(torch|triton|cuda-|nvidia-)'

whole=$(mktemp)
trap 'rm -f "$whole"' EXIT
split() { awk -v keep="$1" -v pattern="$cuda" '/^[^ ]/ { cuda = ($0 ~ pattern) } (cuda == keep)' "$whole"; }

"${compile[@]}" ../pyproject.toml --output-file "$whole" >/dev/null
split 0 > core.txt
split 1 > torch.txt
"${compile[@]}" build.in --constraint core.txt --output-file "$whole" >/dev/null
awk 'NR == FNR { if (/^[^ ]/) known[$1] = 1; next } /^[^ ]/ { new = !($1 in known) } new' core.txt "$whole" > build.txt
group() { # NAME KNOWN...: what the group needs beside the packages of the files that are known
  "${compile[@]}" ../pyproject.toml --group "../pyproject.toml:$1" --constraint "$whole" --output-file "$whole" >/dev/null
  awk 'NR == FNR { if (/^[^ ]/) known[$1] = 1; next } /^[^ ]/ { new = !($1 in known) } new' \
      <(cat "${@:2}") "$whole" > "$1.txt"
}
group dev core.txt torch.txt build.txt
group llama core.txt torch.txt build.txt dev.txt
group bench core.txt torch.txt build.txt dev.txt llama.txt
"${compile[@]}" --no-deps models.in --output-file "$whole" >/dev/null
cat "$whole" > models.txt
"${compile[@]}" --no-deps vllm.in --output-file "$whole" >/dev/null
cat "$whole" > vllm.txt
for client in langchain-openai litellm llm; do
  echo "$client" | "${compile[@]}" - --output-file "clients-$client.txt" >/dev/null
done
