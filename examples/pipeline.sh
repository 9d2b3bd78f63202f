#!/usr/bin/env bash
# Runs all five stages, from a Wikipedia dump or a text to a student.
#
#   DUMP=data/enwiki-latest-pages-articles.xml.bz2 examples/pipeline.sh
#   TEXT=data/sentences.txt WORK=work PROCESSES=8 examples/pipeline.sh
#
# All output goes to WORK. Run the same command again after a failure: finished
# stages are kept and unfinished ones resume. If a setting does not fit the
# finished stages, the run ends before any work. At the end, the script prints
# the duration of each stage over all runs, and the size of the stage's output.
set -euo pipefail

# --- Settings, and the defaults of those that are not in the environment -----

readonly WORK=${WORK:-work}
# A folder with bert_config.json, vocab.txt and bert_model.ckpt. The default
# teacher is downloaded if it is missing.
readonly BERT_BASE=models/uncased_L-12_H-768_A-12
readonly TEACHER=${TEACHER:-$BERT_BASE}
readonly TEACHER_URL=https://storage.googleapis.com/bert_models/2018_10_18/uncased_L-12_H-768_A-12.zip
# A dump, or a text with one sentence per line and a blank line between
# documents.
readonly DUMP=${DUMP:-}
readonly TEXT=${TEXT:-$WORK/wikipedia.txt}
readonly DO_LOWER_CASE=${DO_LOWER_CASE:-True}
# False for an uncased teacher that keeps accents. Default: DO_LOWER_CASE.
readonly STRIP_ACCENTS=${STRIP_ACCENTS:-}
# Number of files that the text is split into. The last file is held out.
readonly FILES=${FILES:-100}
# Number of times that the text is masked. Training reads STEPS x BATCH_SIZE
# records, and the teacher labels the first files that hold these. Set a higher
# number for a text with fewer records.
readonly DUPE_FACTOR=${DUPE_FACTOR:-1}
# 0.3 trains on more tokens, with twice the MAX_PREDICTIONS_PER_SEQ.
readonly MASKED_LM_PROB=${MASKED_LM_PROB:-0.15}
readonly MAX_SEQ_LENGTH=${MAX_SEQ_LENGTH:-128}
readonly MAX_PREDICTIONS_PER_SEQ=${MAX_PREDICTIONS_PER_SEQ:-20}
readonly RECORD_FORMAT=${RECORD_FORMAT:-example}
# Number of sequences in a batch of the teacher: 256 on a machine with a GPU,
# else 32. Lower the number if a GPU runs out of memory.
if [ -z "${LABEL_BATCH_SIZE:-}" ]; then
  LABEL_BATCH_SIZE=32
  ! nvidia-smi -L 2>/dev/null | grep -q '^GPU ' || LABEL_BATCH_SIZE=256
fi
readonly LABEL_BATCH_SIZE
# The layers of the teacher that initialize the student's layers.
readonly LAYERS=${LAYERS:-0,2,4,6,8,10}
readonly STEPS=${STEPS:-100000}
readonly WARMUP_STEPS=${WARMUP_STEPS:-$((STEPS / 10))}
readonly BATCH_SIZE=${BATCH_SIZE:-32}
readonly LEARNING_RATE=${LEARNING_RATE:-5e-5}
readonly PRECISION=${PRECISION:-fp32}
# Number of processes of stages IV and V; on a machine with GPUs, one per GPU.
# STEPS is the number of steps of all processes together.
readonly PROCESSES=${PROCESSES:-1}
# Command that starts the processes, with its flags. Default: mpirun on this
# machine.
readonly LAUNCHER=${LAUNCHER:-}

# -----------------------------------------------------------------------------

readonly CODE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly TIMES=$WORK/times.txt
readonly LENGTHS=(--max_seq_length "$MAX_SEQ_LENGTH"
                  --max_predictions_per_seq "$MAX_PREDICTIONS_PER_SEQ")
[ ! -d "$CODE/.venv" ] || export PATH="$CODE/.venv/bin:$PATH"
launcher=()
if [ -n "$LAUNCHER" ]; then
  read -ra launcher <<<"$LAUNCHER"
elif [ "$PROCESSES" -gt 1 ]; then
  launcher=(mpirun -np "$PROCESSES" -H "localhost:$PROCESSES" -bind-to none
            -map-by slot -x LD_LIBRARY_PATH -x PATH -mca pml ob1
            -mca btl '^openib' -mca odls_base_sigkill_timeout 60)
fi
readonly launcher

die() { echo "pipeline.sh: error: $*" >&2; exit 1; }

# Writes a file of one line atomically.
write_line() { # FILE LINE
  printf '%s\n' "$2" >"$1.partial"
  mv "$1.partial" "$1"
}

# Checks the settings against the files in WORK. With --print_inputs True, prints
# the masked records to label.
settings() { # FLAG...
  local name flags=()
  for name in TEXT TEACHER FILES DO_LOWER_CASE DUPE_FACTOR MASKED_LM_PROB \
      MAX_SEQ_LENGTH MAX_PREDICTIONS_PER_SEQ RECORD_FORMAT PRECISION LAYERS \
      STEPS BATCH_SIZE LABEL_BATCH_SIZE; do
    flags+=(--setting "$name=${!name}")
  done
  [ -z "$DUMP" ] || flags+=(--setting "DUMP=$DUMP")
  python "$CODE/examples/pipeline_settings.py" --work "$WORK" "${flags[@]}" "$@"
}

running='' start=0

# Runs a stage and records its duration, also if the stage fails or is stopped.
stage() { # NAME COMMAND...
  running=$1 start=$SECONDS
  shift
  printf '\n== %s\n' "$running" >&2
  # Within || or if, bash would ignore failures inside the command.
  "$@"
  note_time
  running=''
}

note_time() {
  [ -z "$running" ] ||
      printf '%s\t%d\n' "$running" $((SECONDS - start)) >>"$TIMES"
}
trap note_time EXIT

download_teacher() {
  [ ! -e "$TEACHER/bert_config.json" ] || return 0
  [ "$TEACHER" = "$BERT_BASE" ] || die "TEACHER=$TEACHER has no" \
      "bert_config.json; name the folder of a BERT in Google's layout"
  # The folder gets its name when it is complete.
  local partial=$TEACHER.partial
  rm -rf "$partial"
  mkdir -p "$partial"
  wget -nv -O "$partial.zip" "$TEACHER_URL"
  unzip -jq "$partial.zip" -d "$partial"
  mv "$partial" "$TEACHER"
  rm "$partial.zip"
}

# Checks LAYERS before hours of work.
check_layers() {
  local depth layer
  depth=$(python -c 'import json, sys
print(json.load(open(sys.argv[1]))["num_hidden_layers"])' \
      "$TEACHER/bert_config.json" 2>/dev/null) ||
      die "TEACHER=$TEACHER: bert_config.json has no num_hidden_layers; copy" \
          "the file of the teacher again"
  for layer in ${LAYERS//,/ }; do
    [[ "$layer" =~ ^[0-9]+$ ]] && [ "$layer" -lt "$depth" ] ||
        die "LAYERS=$LAYERS: $TEACHER has no layer $layer, its layers are 0" \
            "to $((depth - 1)); give numbers of layers, separated by commas"
  done
}

extract_text() {
  [ ! -e "$TEXT" ] || return 0
  [ -n "$DUMP" ] || die "there is no text $TEXT, and DUMP is not set; set" \
      "TEXT to a text or DUMP to a dump"
  write_line "$WORK/settings.txt" "DUMP=$DUMP"
  python "$CODE/extract_wikipedia_for_bert/extract_wikipedia.py" \
      --dump_file "$DUMP" --output_file "$TEXT"
}

split() {
  # Earlier versions write no .text.split.json and name text_0.txt last.
  [ -e "$WORK/split/.text.split.json" ] ||
      [ ! -e "$WORK/split/text_0.txt" ] || return 0
  python "$CODE/split_text.py" --read_file "$TEXT" --split_number "$FILES" \
      --folder "$WORK/split" --name_base text || {
    local code=$?
    # Another code is that of an interruption.
    [ $code -ne 1 ] || die "its --split_number is FILES=$FILES"
    return $code
  }
}

mask() {
  python "$CODE/multifile_create_pretraining_data.py" \
      --input_dir "$WORK/split" --output_dir "$WORK/masked" \
      --output_base_name masked --vocab_file "$TEACHER/vocab.txt" \
      --do_lower_case "$DO_LOWER_CASE" --dupe_factor "$DUPE_FACTOR" \
      ${STRIP_ACCENTS:+--strip_accents "$STRIP_ACCENTS"} \
      --masked_lm_prob "$MASKED_LM_PROB" --record_format "$RECORD_FORMAT" \
      "${LENGTHS[@]}"
}

label() { # INPUT_FILES OUTPUT_FILE FLAG...
  local input_files=$1 output_file=$2
  shift 2
  "${launcher[@]}" python "$CODE/extract_teacher_labels_truncated.py" \
      --bert_config_file "$TEACHER/bert_config.json" \
      --init_checkpoint "$TEACHER/bert_model.ckpt" \
      --input_file "$input_files" --output_file "$output_file" \
      --truncation_factor 10 --precision "$PRECISION" \
      --batch_size "$LABEL_BATCH_SIZE" \
      --record_format "$RECORD_FORMAT" "${LENGTHS[@]}" "$@"
}

label_all() {
  local folder=$WORK/labelled begun_by=$PROCESSES num_files='' found
  # Another number of processes would label all records again, into files of
  # other names, which training would also read.
  [ ! -e "$folder/processes.txt" ] || begun_by=$(<"$folder/processes.txt")
  if [ "$begun_by" != "$PROCESSES" ]; then
    [ -e "$folder/finished.txt" ] ||
        die "PROCESSES=$PROCESSES: $folder was begun with" \
            "PROCESSES=$begun_by; set PROCESSES=$begun_by until the labels are" \
            "finished, or remove $folder"
    echo "The labels of PROCESSES=$begun_by are kept." >&2
    return 0
  fi
  # A run with other STEPS keeps the files of the first run. Earlier versions
  # label all files.
  if [ -e "$folder/files.txt" ]; then
    num_files=$(<"$folder/files.txt")
  elif [ -e "$folder/processes.txt" ]; then
    num_files=$((FILES - 1))
  fi
  found=$(settings --print_inputs True ${num_files:+--num_files "$num_files"})
  local num_records inputs
  read -r num_files num_records inputs <<<"$found"
  echo "$num_files of $((FILES - 1)) files are labelled, $num_records" \
      "records; training reads $((STEPS * BATCH_SIZE))." >&2
  mkdir -p "$folder"
  write_line "$folder/files.txt" "$num_files"
  write_line "$folder/processes.txt" "$PROCESSES"
  # The labels are finished when both commands below end.
  rm -f "$folder/finished.txt"
  # The top token and a sampled tail: the best labels for training.
  label "$inputs" "$folder/training.tfrecord" --tail_samples 9
  # The top-k tokens: the best labels for evaluation.
  label "$WORK/masked/masked_$((FILES - 1)).tfrecord" \
      "$folder/heldout.tfrecord"
  write_line "$folder/finished.txt" "$num_files"
}

train() {
  local layers=(${LAYERS//,/ }) trainer=single_machine
  [ "$PROCESSES" -eq 1 ] || trainer=distributed
  # LAYERS may change until training begins.
  if [ ! -e "$WORK/student/run" ]; then
    python "$CODE/examples/make_student_config.py" \
        --bert_config_file "$TEACHER/bert_config.json" \
        --layers "${#layers[@]}" "${LENGTHS[@]}" \
        --output_file "$WORK/student/bert_config.json" --overwrite True
    write_line "$WORK/student/settings.txt" "LAYERS=$LAYERS"
  fi
  "${launcher[@]}" python "$CODE/network_distillation_${trainer}_truncated.py" \
      --bert_config_file "$WORK/student/bert_config.json" \
      --init_checkpoint "$TEACHER/bert_model.ckpt" --init_layers "$LAYERS" \
      --input_file "$WORK/labelled/training*.tfrecord" \
      --eval_input_file "$WORK/labelled/heldout*.tfrecord" \
      --output_dir "$WORK/student/run" \
      --truncation_factor 10 --hard_label_weight 0.1 \
      --do_train True --do_eval True --train_batch_size "$BATCH_SIZE" \
      --learning_rate "$LEARNING_RATE" --num_train_steps "$STEPS" \
      --num_warmup_steps "$WARMUP_STEPS" --precision "$PRECISION" \
      "${LENGTHS[@]}"
}

report() {
  local name path
  printf '\n%-22s %10s %10s\n' stage seconds size
  while IFS='|' read -r name path; do
    printf '%-22s %10d %10s\n' "$name" \
        "$(awk -F '\t' -v name="$name" '$1 == name { total += $2 }
           END { print total + 0 }' "$TIMES")" \
        "$(du -shL "$path" | cut -f 1)"
  done <<STAGES
I, teacher|$TEACHER
II, text|$TEXT
III, split text|$WORK/split
III, masked records|$WORK/masked
IV, labels|$WORK/labelled
V, student|$WORK/student/run/student
STAGES
  printf '\n%s/student/run/student is the student:\n' "$WORK"
  grep -E '^(masked_lm_accuracy|masked_lm_cross_entropy|teacher_top1_agreement)' \
      "$WORK/student/run/eval_results.txt"
}

settings
mkdir -p "$WORK"
stage 'I, teacher' download_teacher
check_layers
stage 'II, text' extract_text
stage 'III, split text' split
stage 'III, masked records' mask
stage 'IV, labels' label_all
stage 'V, student' train
report
