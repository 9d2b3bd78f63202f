#!/usr/bin/env bash
# Measures stages IV and V on an NVIDIA GPU, and compares the GPU's labels with
# those of the CPU. On a machine without a GPU, the script runs on the CPU as a
# trial.
#
#   benchmarks/gpu.sh FOLDER                      # BERT-Base, random weights
#   TEACHER=teacher MASKED=data/masked/wiki_masked_0.tfrecord \
#     benchmarks/gpu.sh FOLDER                    # your teacher and records
#
# TEACHER is a folder with bert_config.json and bert_model.ckpt.*. MASKED is a
# file of stage III with max_seq_length 128 and max_predictions_per_seq 20.
# Smaller values of BATCH_SIZE, TRAIN_BATCH_SIZE and TURNS shorten the run. The
# script writes the model, the records and results.md to FOLDER. It needs no
# network after ./setup.sh (./setup.sh --gpu on a machine with a GPU).
set -euo pipefail

[ $# -eq 1 ] || { echo "gpu.sh: give one folder for the results" >&2; exit 1; }
mkdir -p "$1"
readonly FOLDER=$(cd "$1" && pwd)
readonly TEACHER=${TEACHER:-$FOLDER} MASKED=${MASKED:-$FOLDER/masked.tfrecord}
readonly TURNS=${TURNS:-20} BATCH_SIZE=${BATCH_SIZE:-256}
readonly TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-64}
readonly RESULTS=$FOLDER/results.md
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" TF_CPP_MIN_LOG_LEVEL=3
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

num_gpus() {
  python -c 'import tensorflow as tf
print(len(tf.config.list_physical_devices("GPU")))' 2>/dev/null
}

print() { echo "$@" | tee -a "$RESULTS"; }

describe_machine() {
  if [ "$NUM_GPUS" -gt 0 ]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total \
        --format=csv,noheader
  else
    echo "No GPU: all figures are from a CPU with $(nproc) cores"
  fi
}

measure_rates() {
  print
  print "| | stage IV, sequences/s | share of the product's rate | training," \
      "sequences/s | share of the product's rate | matrix product, TFLOP/s |" \
      "peak memory, GB |"
  print "|---|---|---|---|---|---|---|"
  local precision tf32 use_xla
  for use_xla in False True; do
    for precision in fp32 tf32 bf16 fp16; do
      tf32=False
      if [ $precision = tf32 ]; then
        [ "$NUM_GPUS" -gt 0 ] || continue
        tf32=True
      fi
      python benchmarks/gpu.py --part rates --output_dir "$TEACHER" \
          --precision "${precision/tf32/fp32}" --tf32=$tf32 \
          --use_xla=$use_xla --turns "$TURNS" --batch_size "$BATCH_SIZE" \
          --train_batch_size "$TRAIN_BATCH_SIZE" 2>>"$FOLDER/log.txt" |
          tee -a "$RESULTS"
    done
  done
}

# Labels the records with stage IV: label SUFFIX [FLAG...]
label() {
  local output=$FOLDER/labelled_$1.tfrecord
  shift
  python extract_teacher_labels_truncated.py \
      --bert_config_file "$TEACHER/bert_config.json" \
      --init_checkpoint "$TEACHER/bert_model.ckpt" --input_file "$MASKED" \
      --output_file "$output" --truncation_factor 10 --max_seq_length 128 \
      --max_predictions_per_seq 20 --overwrite True "$@" 2>>"$FOLDER/log.txt"
}

compare_labels() {
  print
  (export CUDA_VISIBLE_DEVICES=-1; label cpu)
  local precision
  for precision in fp32 bf16 fp16; do
    label $precision --precision $precision
    print "Labels in $precision, compared with the CPU's in fp32:" \
        "$(python benchmarks/gpu.py --part labels --labels \
           "$FOLDER/labelled_cpu.tfrecord,$FOLDER/labelled_$precision.tfrecord")"
  done
}

# Two processes can share a GPU with Gloo; NCCL needs a GPU for each.
train_two_processes() {
  local devices=${CUDA_VISIBLE_DEVICES:-0}
  rm -rf "$FOLDER/student"
  if [ "$NUM_GPUS" -gt 1 ]; then
    devices=${CUDA_VISIBLE_DEVICES:-0,1}
  elif python -c 'import sys, horovod.tensorflow as hvd
sys.exit(not hvd.nccl_built())' 2>/dev/null; then
    print "Two processes: skipped, because this Horovod uses NCCL, which" \
        "needs two GPUs."
    return
  fi
  CUDA_VISIBLE_DEVICES=$devices horovodrun -np 2 --gloo python \
      network_distillation_distributed_truncated.py \
      --bert_config_file "$TEACHER/bert_config.json" \
      --init_checkpoint "$TEACHER/bert_model.ckpt" \
      --input_file "$FOLDER/labelled_fp32.tfrecord" --truncation_factor 10 \
      --max_seq_length 128 --max_predictions_per_seq 20 \
      --output_dir "$FOLDER/student" --do_train True --do_eval True \
      --max_eval_steps 2 --train_batch_size 8 --num_train_steps "$TURNS" \
      --num_warmup_steps 0 --scale_learning_rate False --precision fp16 \
      >>"$FOLDER/log.txt" 2>&1
  print "Two processes, fp16: $TURNS steps," \
      "$(grep '^masked_lm_training_loss' "$FOLDER/student/eval_results.txt")"
}

readonly NUM_GPUS=$(num_gpus)
trap 'echo "gpu.sh: failed; see the end of $FOLDER/log.txt" >&2' ERR
set -E
: >"$RESULTS"
print "$(describe_machine); TensorFlow $(python -c 'import tensorflow as tf
print(tf.__version__)' 2>/dev/null)"
[ -e "$TEACHER/bert_model.ckpt.index" ] ||
    python benchmarks/gpu.py --part model --output_dir "$TEACHER"
measure_rates
compare_labels
train_two_processes
