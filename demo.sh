#!/usr/bin/env bash
# Sets up what is missing and distils a small BERT from text that every machine
# has: the docstrings of its Python packages. Everything is made in ./demo, for
# each number of steps in a folder of its own.
#
#   ./demo.sh                   # 6 to 8 minutes on two cores
#   DEMO_STEPS=20000 ./demo.sh  # training steps of a student; the teacher's
#                               # are half as many again
#
# Run again, it keeps what is finished. Remove the folder to start from scratch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
readonly STEPS=${DEMO_STEPS:-800}
if ! [[ "$STEPS" =~ ^[1-9][0-9]*$ ]]; then
  echo "demo: error: DEMO_STEPS is '$STEPS'; give a number of steps over 0" >&2
  exit 1
fi

# One process trains each model: Horovod, which takes minutes to build, can wait.
./setup.sh --without-horovod
source .venv/bin/activate

readonly TEACHER_STEPS=$(((3 * STEPS + 1) / 2))
# How often the text is masked anew: about as many records as a student takes,
# since to label more of them is time without use.
readonly DUPE_FACTOR=$(((STEPS + 799) / 800))
readonly DEMO=demo/${STEPS}_steps
# Google's layout, as the trainer leaves it: no slots of the optimizer.
readonly TEACHER=$DEMO/teacher/student/bert_model.ckpt
readonly LENGTHS='--max_seq_length 64 --max_predictions_per_seq 10'
# A model learns more of a sequence where more of it is masked: that is for the
# teacher, which is to be good after few steps.
readonly TEACHER_LENGTHS='--max_seq_length 64 --max_predictions_per_seq 26'

title() { printf '\n== %s\n' "$*"; }

# Shows a command before it runs.
run() {
  printf '+ %s\n' "$*"
  "$@"
}

write_config() { # FOLDER LAYERS
  mkdir -p "$1"
  cat >"$1/bert_config.json" <<CONFIG
{
  "attention_probs_dropout_prob": 0.0,
  "hidden_act": "gelu",
  "hidden_dropout_prob": 0.0,
  "hidden_size": 128,
  "initializer_range": 0.05,
  "intermediate_size": 512,
  "max_position_embeddings": 64,
  "num_attention_heads": 4,
  "num_hidden_layers": $2,
  "type_vocab_size": 2,
  "vocab_size": 8000
}
CONFIG
}

train() { # FOLDER STEPS FLAGS...
  local folder=$1 steps=$2
  shift 2
  run python network_distillation_single_machine_truncated.py \
    --bert_config_file "$folder/bert_config.json" --output_dir "$folder" \
    --do_train True --num_train_steps "$steps" \
    --num_warmup_steps $((steps / 10)) "$@"
}

# Evaluates four times while it trains, which gives the curves of the picture.
train_student() { # FOLDER FLAGS...
  local folder=$1
  shift
  train "$folder" $STEPS $LENGTHS --learning_rate 5e-4 "$@" \
    --eval_input_file $DEMO/heldout/labelled.tfrecord --do_eval True \
    --eval_every_checkpoint True --save_checkpoints_steps $(((STEPS + 3) / 4)) \
    --eval_batch_size 32
}

write_records() { # INPUT_DIR OUTPUT_DIR DUPE_FACTOR FLAGS...
  local input=$1 output=$2 dupe_factor=$3
  shift 3
  run python multifile_create_pretraining_data.py \
    --input_dir "$input" --output_dir "$output" --output_base_name masked \
    --vocab_file $DEMO/vocab.txt --dupe_factor "$dupe_factor" "$@"
}

label() { # INPUT_FILE OUTPUT_FILE FLAGS...
  local input=$1 output=$2
  shift 2
  run python extract_teacher_labels_truncated.py \
    --bert_config_file $DEMO/teacher/bert_config.json \
    --init_checkpoint "$TEACHER" \
    --input_file "$input" --output_file "$output" $LENGTHS "$@"
}

title 'II: text, the sentences in the docstrings of the installed packages'
if [ ! -f $DEMO/vocab.txt ]; then
  run python examples/demo_corpus.py --output_file $DEMO/text.txt \
    --heldout_file $DEMO/heldout/text/text.txt
  run python examples/demo_vocabulary.py --input_file $DEMO/text.txt \
    --output_file $DEMO/vocab.txt
fi

title 'III: masked records'
# Of all files the first one gets its name last.
[ -f $DEMO/split/text_0.txt ] || run python split_text.py \
  --read_file $DEMO/text.txt --split_number 2 --folder $DEMO/split \
  --name_base text
write_records $DEMO/split $DEMO/masked $DUPE_FACTOR $LENGTHS
write_records $DEMO/heldout/text $DEMO/heldout 1 $LENGTHS
write_records $DEMO/split $DEMO/masked_for_teacher $DUPE_FACTOR \
  $TEACHER_LENGTHS --masked_lm_prob 0.4

title 'A teacher of 4 layers, trained on the masked tokens'
write_config $DEMO/teacher 4
train $DEMO/teacher $TEACHER_STEPS $TEACHER_LENGTHS --learning_rate 7e-4 \
  --input_file "$DEMO/masked_for_teacher/*.tfrecord" --hard_label_weight 1

title 'IV: labels of the teacher'
# A token and a sample that stands for all others: the best to learn from.
label "$DEMO/masked/*.tfrecord" $DEMO/labelled.tfrecord --tail_samples 9
label $DEMO/heldout/masked_0.tfrecord $DEMO/heldout/labelled.tfrecord

title 'A record: what is masked in it, and what the teacher says to that'
run python examples/show_records.py --file $DEMO/heldout/labelled.tfrecord \
  --vocab_file $DEMO/vocab.txt --record 3

title 'The teacher on held-out text'
run python network_distillation_single_machine_truncated.py \
  --bert_config_file $DEMO/teacher/bert_config.json --output_dir $DEMO/teacher \
  --input_file $DEMO/heldout/labelled.tfrecord \
  --do_eval True --eval_batch_size 32 $LENGTHS

title 'V: a student of 2 layers, from scratch, trained on the labels above all'
write_config $DEMO/distilled 2
train_student $DEMO/distilled --input_file $DEMO/labelled.tfrecord \
  --hard_label_weight 0.1

title 'The same student, from scratch too, trained on the masked tokens alone'
write_config $DEMO/hard_labels 2
train_student $DEMO/hard_labels --input_file "$DEMO/masked/*.tfrecord" \
  --hard_label_weight 1

title 'All three on held-out text'
run python examples/plot_results.py --title 'On held-out text' \
  --runs "with the teacher=$DEMO/distilled,without=$DEMO/hard_labels" \
  --references teacher=$DEMO/teacher --output_file $DEMO/curves.svg
run python examples/demo_table.py \
  --input_file $DEMO/heldout/labelled.tfrecord $LENGTHS \
  --models "teacher=$DEMO/teacher,distilled student=$DEMO/distilled,\
student on hard labels=$DEMO/hard_labels"

if [ "$STEPS" -le 800 ]; then
  echo 'After so few steps the labels bring cross entropy and agreement, by more'
  echo 'than three seeds differ, but little accuracy: docs/results.md has longer'
  echo 'trainings.'
fi

title 'What next'
echo "$DEMO/curves.svg shows how both students get better."
echo "$DEMO/distilled/student is the student, in the layout of Google's BERT."
echo 'The same for a text and a teacher of yours: examples/pipeline.sh'
echo 'Training with many processes needs Horovod: ./setup.sh'

