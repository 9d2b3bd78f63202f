#!/usr/bin/env bash
# Sets up what is missing and distils a small BERT from text that every machine
# has: the docstrings of its Python packages. Then distils a classifier: a small
# student learns from a fine-tuned teacher. All files are in ./demo, in a folder
# for each number of steps and each seed.
#
#   ./demo.sh                   # 6 to 8 minutes on two cores
#   DEMO_STEPS=20000 ./demo.sh  # training steps of the student; the teacher's
#                               # are half as many again
#   DEMO_SEED=2 ./demo.sh       # other random numbers
#
# The same command keeps finished files. Remove the folder to start from scratch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
readonly STEPS=${DEMO_STEPS:-600}
if ! [[ "$STEPS" =~ ^[1-9][0-9]*$ ]]; then
  echo "demo: error: DEMO_STEPS is '$STEPS'; give a number of steps over 0" >&2
  exit 1
fi
readonly SEED=${DEMO_SEED:-1}
if ! [[ "$SEED" =~ ^[0-9]{1,9}$ ]]; then
  echo "demo: error: DEMO_SEED is '$SEED'; give a number of up to 9 digits" >&2
  exit 1
fi

# One process trains each model: Horovod, which takes minutes to build, can wait.
./setup.sh --without-horovod
source .venv/bin/activate

readonly TEACHER_STEPS=$(((3 * STEPS + 1) / 2))
# Times that stage III masks the text: about as many records as the student
# reads. Labels of more records are of no use.
readonly DUPE_FACTOR=$(((STEPS + 799) / 800))
readonly DEMO=demo/${STEPS}_steps_seed_$SEED
readonly TEACHER=$DEMO/teacher/student/bert_model.ckpt
readonly LENGTHS='--max_seq_length 64 --max_predictions_per_seq 10'
# The teacher has few steps: more masked tokens teach it more per step.
readonly TEACHER_LENGTHS='--max_seq_length 64 --max_predictions_per_seq 26'

title() { printf '\n== %s\n' "$*"; }

run() { # COMMAND... Prints the command and runs it.
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
    --num_warmup_steps $((steps / 10)) --random_seed $SEED "$@"
}

write_records() { # INPUT_DIR OUTPUT_DIR DUPE_FACTOR FLAGS...
  local input=$1 output=$2 dupe_factor=$3
  shift 3
  run python multifile_create_pretraining_data.py \
    --input_dir "$input" --output_dir "$output" --output_base_name masked \
    --vocab_file $DEMO/vocab.txt --dupe_factor "$dupe_factor" \
    --random_seed $SEED "$@"
}

label() { # INPUT_FILE OUTPUT_FILE FLAGS...
  local input=$1 output=$2
  shift 2
  run python extract_teacher_labels_truncated.py \
    --bert_config_file $DEMO/teacher/bert_config.json \
    --init_checkpoint "$TEACHER" \
    --input_file "$input" --output_file "$output" $LENGTHS "$@"
}

fine_tune() { # MODEL FOLDER TRAIN_FILE LEARNING_RATE EPOCHS FLAGS...
  local model=$DEMO/$1 folder=$DEMO/classifiers/$2 train_file=$DEMO/sentences/$3
  local rate=$4 epochs=$5
  shift 5
  run python examples/fine_tune_classifier.py \
    --bert_config_file "$model/bert_config.json" \
    --init_checkpoint "$model/student/bert_model.ckpt" \
    --vocab_file $DEMO/vocab.txt --train_file "$train_file" \
    --output_dir "$folder" --max_seq_length 32 --learning_rate "$rate" \
    --num_train_epochs "$epochs" --random_seed $SEED "$@"
}

title 'II: text, the sentences in the docstrings of the installed packages'
if [ ! -f $DEMO/vocab.txt ]; then
  run python examples/demo_corpus.py --output_file $DEMO/text.txt \
    --heldout_file $DEMO/heldout/text/text.txt --sentences_dir $DEMO/sentences
  run python examples/demo_vocabulary.py --input_file $DEMO/text.txt \
    --output_file $DEMO/vocab.txt
fi

title 'III: masked records'
run python split_text.py --read_file $DEMO/text.txt --split_number 2 \
  --folder $DEMO/split --name_base text
write_records $DEMO/split $DEMO/masked $DUPE_FACTOR $LENGTHS
write_records $DEMO/heldout/text $DEMO/heldout 1 $LENGTHS
write_records $DEMO/split $DEMO/masked_for_teacher $DUPE_FACTOR \
  $TEACHER_LENGTHS --masked_lm_prob 0.4

title 'A teacher of 4 layers, trained on the masked tokens'
write_config $DEMO/teacher 4
train $DEMO/teacher $TEACHER_STEPS $TEACHER_LENGTHS --learning_rate 7e-4 \
  --input_file "$DEMO/masked_for_teacher/*.tfrecord" --hard_label_weight 1

title 'IV: soft labels of the teacher'
# The most probable token, and nine that are an unbiased sample of the others.
label "$DEMO/masked/*.tfrecord" $DEMO/labelled.tfrecord --tail_samples 9
label $DEMO/heldout/masked_0.tfrecord $DEMO/heldout/labelled.tfrecord

title 'A record: its masked tokens, and the soft labels of the teacher'
run python examples/show_records.py --file $DEMO/heldout/labelled.tfrecord \
  --vocab_file $DEMO/vocab.txt --record 3

title 'The teacher on held-out text'
run python network_distillation_single_machine_truncated.py \
  --bert_config_file $DEMO/teacher/bert_config.json --output_dir $DEMO/teacher \
  --input_file $DEMO/heldout/labelled.tfrecord \
  --do_eval True --eval_batch_size 32 $LENGTHS

title 'V: a student of 2 layers, from scratch, trained on the soft labels'
write_config $DEMO/student 2
# Four evaluations during training give the curve of the picture.
train $DEMO/student $STEPS $LENGTHS --learning_rate 5e-4 \
  --input_file $DEMO/labelled.tfrecord --hard_label_weight 0.1 \
  --eval_input_file $DEMO/heldout/labelled.tfrecord --do_eval True \
  --eval_every_checkpoint True --save_checkpoints_steps $(((STEPS + 3) / 4)) \
  --eval_batch_size 32
run python examples/plot_results.py --title 'On held-out text' \
  --runs "student=$DEMO/student" --references teacher=$DEMO/teacher \
  --output_file $DEMO/curves.svg

title 'The teacher as a classifier: NumPy, Python or TensorFlow?'
fine_tune teacher teacher labelled.tsv 5e-4 2
run python examples/fine_tune_classifier.py \
  --output_dir $DEMO/classifiers/teacher \
  --predict_file $DEMO/sentences/texts.txt \
  --output_file $DEMO/classifiers/soft_labels.tsv

title 'The student as a classifier: on few labels, then on soft labels too'
fine_tune student few_labels few.tsv 5e-4 10
fine_tune student distilled few.tsv 1e-3 4 \
  --soft_label_file $DEMO/classifiers/soft_labels.tsv

title 'For comparison: the student on all labels of the teacher'
fine_tune student teachers_labels labelled.tsv 1e-3 4

title 'The result'
python examples/demo_table.py --demo_dir $DEMO
cat <<RESULT

$DEMO/classifiers/distilled is the classifier, in Google's layout.
$DEMO/student/student is the student before fine-tuning.
$DEMO/curves.svg shows the student's way to the teacher.

With your own teacher and texts: examples/pipeline.sh for stages II to V, then
examples/distill_classifier.sh. Many processes need Horovod: ./setup.sh
RESULT
