#!/usr/bin/env bash
# Trains the same student in four ways with three seeds each and compares them
# on held-out records: on the masked words alone, and on the teacher's labels
# with the rest dropped, as a bucket, and sampled.
#
#   TEACHER=models/uncased_L-12_H-768_A-12 \
#   TRAIN='data/masked/wiki_masked_[0-9].tfrecord' \
#   HELDOUT=data/masked/wiki_masked_99.tfrecord \
#   benchmarks/distillation_quality.sh
#
# TRAIN and HELDOUT are masked records; OUTPUT (./quality) keeps what is made,
# and what is finished there is not made again. STEPS, BATCH, RATE, LAYERS, SEEDS
# and LENGTHS change the run.
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

train() { # NAME FLAGS...
  local name=$1 seed
  shift
  for seed in $SEEDS; do
    python network_distillation_single_machine_truncated.py $LENGTHS \
      --bert_config_file "$OUTPUT/bert_config.json" \
      --init_checkpoint "$TEACHER/bert_model.ckpt" --init_layers "$LAYERS" \
      --output_dir "$OUTPUT/$name-$seed" --random_seed "$seed" \
      --eval_input_file "$OUTPUT/heldout.tfrecord" --max_eval_steps 100000 \
      --do_train True --do_eval True --save_checkpoints_steps "$STEPS" \
      --num_train_steps "$STEPS" --num_warmup_steps $((STEPS / 10)) \
      --train_batch_size "$BATCH" --learning_rate "$RATE" \
      --precision "$PRECISION" "$@"
  done
}

mkdir -p "$OUTPUT"
python - "$TEACHER/bert_config.json" "$LAYERS" >"$OUTPUT/bert_config.json" <<'END'
import json, sys
config = json.load(open(sys.argv[1]))
config["num_hidden_layers"] = len(sys.argv[2].split(","))
json.dump(config, sys.stdout, indent=2)
END
label "$HELDOUT" "$OUTPUT/heldout.tfrecord"
label "$TRAIN" "$OUTPUT/top.tfrecord"
label "$TRAIN" "$OUTPUT/sampled.tfrecord" --tail_samples 5

train hard --input_file "$OUTPUT/top.tfrecord" --hard_label_weight 1
train drop --input_file "$OUTPUT/top.tfrecord"
train bucket --input_file "$OUTPUT/top.tfrecord" --tail_mass bucket
train sampled --input_file "$OUTPUT/sampled.tfrecord"

python - "$OUTPUT" $SEEDS <<'END'
import os, statistics, sys
sys.path.insert(0, os.getcwd())
import training
folder, *seeds = sys.argv[1:]
columns = ("masked_lm_accuracy", "masked_lm_cross_entropy",
           "kl_from_teacher", "teacher_top1_agreement",
           "expected_calibration_error")
print("| student |", " | ".join(columns), "|")
print("|---" * (len(columns) + 1) + "|")
for name in ("hard", "drop", "bucket", "sampled"):
  results = [training.read_results(os.path.join(
      folder, name + "-" + seed, training.EVALUATION_RESULTS))
             for seed in seeds]
  print("|", name, "|", " | ".join(
      "{:.4f} ± {:.4f}".format(
          statistics.mean(result[column] for result in results),
          statistics.stdev(result[column] for result in results))
      for column in columns), "|")
END
