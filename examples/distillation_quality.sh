#!/usr/bin/env bash
# Trains the same student in four ways with three seeds each and compares them
# on held-out records: on the hard labels only, and on the teacher's labels with
# the rest dropped, as a bucket, and sampled. The table has the teacher and the
# student as it starts, too.
#
#   TEACHER=models/uncased_L-12_H-768_A-12 \
#   TRAIN='data/masked/wiki_masked_[0-9].tfrecord' \
#   HELDOUT=data/masked/wiki_masked_99.tfrecord \
#   examples/distillation_quality.sh
#
# TRAIN and HELDOUT are masked records; OUTPUT (./quality) keeps what is made,
# and what is finished there is not made again. STEPS, BATCH, RATE, LAYERS,
# PRECISION and LENGTHS change the run, which then wants an OUTPUT of its own;
# SEEDS says which seeds to take.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TEACHER=${TEACHER:?folder of the teacher} TRAIN=${TRAIN:?records}
readonly HELDOUT=${HELDOUT:?held-out records} OUTPUT=${OUTPUT:-quality}
readonly STEPS=${STEPS:-1000} BATCH=${BATCH:-32} RATE=${RATE:-2e-4}
readonly LAYERS=${LAYERS:-0,2,4} PRECISION=${PRECISION:-fp32}
readonly LENGTHS=${LENGTHS:---max_seq_length 128 --max_predictions_per_seq 20}
readonly SEEDS=${SEEDS:-1 2 3}

label() { # INPUT_FILE OUTPUT_FILE FLAGS...
  local input=$1 output=$2
  shift 2
  python extract_teacher_labels_truncated.py --precision "$PRECISION" \
    --bert_config_file "$TEACHER/bert_config.json" \
    --init_checkpoint "$TEACHER/bert_model.ckpt" \
    --input_file "$input" --output_file "$output" $LENGTHS "$@"
}

trainer() { # MODEL OUTPUT_NAME FLAGS...
  local model=$1 name=$2
  shift 2
  python network_distillation_single_machine_truncated.py $LENGTHS \
    --bert_config_file "$model/bert_config.json" \
    --init_checkpoint "$TEACHER/bert_model.ckpt" \
    --output_dir "$OUTPUT/$name" --precision "$PRECISION" \
    --do_eval True --eval_input_file "$OUTPUT/heldout.tfrecord" \
    --max_eval_steps 100000 "$@"
}

train() { # NAME FLAGS...
  local name=$1 seed
  shift
  for seed in $SEEDS; do
    trainer "$OUTPUT" "$name-$seed" --init_layers "$LAYERS" \
      --random_seed "$seed" --do_train True --save_checkpoints_steps "$STEPS" \
      --num_train_steps "$STEPS" --num_warmup_steps $((STEPS / 10)) \
      --train_batch_size "$BATCH" --learning_rate "$RATE" "$@"
  done
}

mkdir -p "$OUTPUT"
readonly SETTINGS="$TEACHER $TRAIN $HELDOUT $STEPS $BATCH $RATE $LAYERS \
$PRECISION $LENGTHS"
[ -f "$OUTPUT/settings.txt" ] || echo "$SETTINGS" >"$OUTPUT/settings.txt"
if [ "$SETTINGS" != "$(cat "$OUTPUT/settings.txt")" ]; then
  echo "OUTPUT=$OUTPUT holds a run of other settings:" \
    "$(cat "$OUTPUT/settings.txt"); choose another" >&2
  exit 1
fi
IFS=, read -ra layers <<<"$LAYERS"
python examples/make_student_config.py --layers ${#layers[@]} \
  --bert_config_file "$TEACHER/bert_config.json" \
  --output_file "$OUTPUT/bert_config.json"
label "$HELDOUT" "$OUTPUT/heldout.tfrecord"
label "$TRAIN" "$OUTPUT/top.tfrecord"
label "$TRAIN" "$OUTPUT/sampled.tfrecord" --tail_samples 5

trainer "$TEACHER" teacher --input_file "$OUTPUT/heldout.tfrecord"
trainer "$OUTPUT" start --input_file "$OUTPUT/heldout.tfrecord" \
  --init_layers "$LAYERS"
train hard --input_file "$OUTPUT/top.tfrecord" --hard_label_weight 1
train drop --input_file "$OUTPUT/top.tfrecord"
train bucket --input_file "$OUTPUT/top.tfrecord" --tail_mass bucket
train sampled --input_file "$OUTPUT/sampled.tfrecord"

python examples/quality_table.py --folder "$OUTPUT" --seeds "$SEEDS"
