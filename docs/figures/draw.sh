#!/usr/bin/env bash
# Draws the pictures of docs/ from the results in this folder and benchmarks/.
#
#   docs/figures/draw.sh          # into docs/
#   docs/figures/draw.sh FOLDER
#
# The figures in small.json were read off the picture that was drawn of them
# first, to four digits. docs/curves.svg is not among these: it is of the
# TensorBoard files of two trainings.
set -euo pipefail
output_dir=$(realpath -m "${1:-$(dirname "${BASH_SOURCE[0]}")/..}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source .venv/bin/activate

draw() { # NAME FLAGS...
  local name=$1
  shift
  python examples/plot_results.py --output_file "$output_dir/$name.svg" "$@"
}

# What the recipes are called in the pictures.
readonly TEXT='hard labels=trained on text only'
readonly LABELS="sample=trained with the teacher's labels"

draw students --results_file docs/figures/small.json \
  --student 'small from scratch' --names "$TEXT;$LABELS" \
  --metrics masked_lm_accuracy --title 'Labels save training steps'
draw label_bytes --results_file docs/figures/little_text.json \
  --student 'layers 0, 2, 4' --label_bytes True \
  --names "$TEXT;top 10, drop=top 10 tokens;sample=10 tokens, 9 sampled;hidden=whole distribution" \
  --title 'Sampled labels keep most of the distribution'
draw peers --benchmarks_file benchmarks/results.json
