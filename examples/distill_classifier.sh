#!/usr/bin/env bash
# Distils a large classifier into a small one: task distillation.
#
#   TEACHER=models/my_bert STUDENT=student/run/student TRAIN=train.tsv \
#     TEXT=texts.txt HELDOUT=heldout.tsv examples/distill_classifier.sh
#
# The script fine-tunes the teacher on TRAIN. The teacher labels the texts of
# TRAIN and TEXT with the probability of each label (soft labels). The student
# trains on the soft labels and on the true labels of TRAIN. WORK/student holds
# the classifier. Run the same command again to resume. If a setting does not
# fit the finished steps, the run ends with a one-line error.
set -euo pipefail

# --- Settings, and the defaults of those that are not in the environment -----

readonly WORK=${WORK:-classifiers}
# A folder with bert_config.json, vocab.txt and bert_model.ckpt.
readonly TEACHER=${TEACHER:-}
# A folder with bert_config.json and bert_model.ckpt. Without a checkpoint the
# student starts from scratch.
readonly STUDENT=${STUDENT:-}
# Lines of label, tab and text, to train on.
readonly TRAIN=${TRAIN:-}
# Texts without labels, one per line, of the domain of TRAIN.
readonly TEXT=${TEXT:-}
# Optional: lines in the format of TRAIN, to evaluate on.
readonly HELDOUT=${HELDOUT:-}
readonly DO_LOWER_CASE=${DO_LOWER_CASE:-True}
# False for uncased models that keep accents. Default: DO_LOWER_CASE.
readonly STRIP_ACCENTS=${STRIP_ACCENTS:-}
readonly MAX_SEQ_LENGTH=${MAX_SEQ_LENGTH:-128}
readonly TEACHER_LEARNING_RATE=${TEACHER_LEARNING_RATE:-5e-5}
readonly TEACHER_EPOCHS=${TEACHER_EPOCHS:-3}
# For the student. Defaults: 3e-4 and 4 epochs from scratch, 1e-4 and 2 epochs
# from a checkpoint (docs/results.md).
LEARNING_RATE=${LEARNING_RATE:-}
EPOCHS=${EPOCHS:-}
readonly TEMPERATURE=${TEMPERATURE:-1}
readonly HARD_LABEL_WEIGHT=${HARD_LABEL_WEIGHT:-0.5}

# -----------------------------------------------------------------------------

readonly CODE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ ! -d "$CODE/.venv" ] || export PATH="$CODE/.venv/bin:$PATH"

die() { echo "distill_classifier.sh: error: $*" >&2; exit 1; }

run() { # TITLE FLAG...
  printf '\n== %s\n' "$1" >&2
  python "$CODE/examples/fine_tune_classifier.py" "${@:2}"
}

# Prints the lines of a file without its byte-order mark and carriage returns.
print_lines() { # FILE
  LC_ALL=C sed -e '1s/^\xef\xbb\xbf//' -e 's/\r*$//' "$1"
}

# Writes texts without their labels to a file, atomically. cut ends each line.
write_texts() { # FILE LABELLED [TEXT]
  { print_lines "$2" | cut -f 2-; [ $# -lt 3 ] || print_lines "$3"; } \
      >"$1.partial"
  # An unchanged file keeps its modification time.
  cmp -s "$1.partial" "$1" && rm "$1.partial" || mv "$1.partial" "$1"
}

for name in TEACHER STUDENT TRAIN TEXT; do
  [ -n "${!name}" ] || die "$name is not set; see the settings at the top of" \
      "examples/distill_classifier.sh"
done
for file in "$TRAIN" "$TEXT" ${HELDOUT:+"$HELDOUT"}; do
  [ -f "$file" ] || die "there is no file $file; set TRAIN, TEXT and HELDOUT" \
      "to paths of files"
done

readonly LENGTHS=(--max_seq_length "$MAX_SEQ_LENGTH"
                  --do_lower_case "$DO_LOWER_CASE"
                  ${STRIP_ACCENTS:+--strip_accents "$STRIP_ACCENTS"}
                  --vocab_file "$TEACHER/vocab.txt")
heldout=() agreement=() start=()
[ -z "$HELDOUT" ] || heldout=(--eval_file "$HELDOUT")
mkdir -p "$WORK"

run 'Fine-tune the teacher' "${LENGTHS[@]}" \
  --bert_config_file "$TEACHER/bert_config.json" \
  --init_checkpoint "$TEACHER/bert_model.ckpt" \
  --train_file "$TRAIN" "${heldout[@]}" --output_dir "$WORK/teacher" \
  --learning_rate "$TEACHER_LEARNING_RATE" \
  --num_train_epochs "$TEACHER_EPOCHS"

write_texts "$WORK/texts.txt" "$TRAIN" "$TEXT"
run 'Label the training texts with the teacher' --output_dir "$WORK/teacher" \
  --predict_file "$WORK/texts.txt" --output_file "$WORK/soft_labels.tsv"
if [ -n "$HELDOUT" ]; then
  write_texts "$WORK/heldout.txt" "$HELDOUT"
  run 'Label the held-out texts with the teacher' --output_dir "$WORK/teacher" \
    --predict_file "$WORK/heldout.txt" \
    --output_file "$WORK/heldout_soft_labels.tsv"
  agreement=(--eval_soft_label_file "$WORK/heldout_soft_labels.tsv")
fi

if [ -f "$STUDENT/bert_model.ckpt.index" ]; then
  start=(--init_checkpoint "$STUDENT/bert_model.ckpt")
  : "${LEARNING_RATE:=1e-4}" "${EPOCHS:=2}"
else
  echo "STUDENT=$STUDENT has no bert_model.ckpt: training from scratch" >&2
  : "${LEARNING_RATE:=3e-4}" "${EPOCHS:=4}"
fi
run 'Train the student on soft labels and true labels' "${LENGTHS[@]}" \
  --bert_config_file "$STUDENT/bert_config.json" "${start[@]}" \
  --train_file "$TRAIN" --soft_label_file "$WORK/soft_labels.tsv" \
  "${heldout[@]}" "${agreement[@]}" --output_dir "$WORK/student" \
  --learning_rate "$LEARNING_RATE" --num_train_epochs "$EPOCHS" \
  --temperature "$TEMPERATURE" --hard_label_weight "$HARD_LABEL_WEIGHT"
