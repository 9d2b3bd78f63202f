"""Runs the teacher over masked records and stores its most probable words.

  python extract_teacher_labels_truncated.py \
    --bert_config_file teacher/bert_config.json \
    --init_checkpoint teacher/bert_model.ckpt \
    --input_file data/wiki_tfrecord_0.tfrecord \
    --output_file data/wiki_distill_0.tfrecord \
    --truncation_factor 10

The output holds the records of the input, in order, each with the teacher's
truncation_factor most probable words for every masked word and their
probabilities.
"""

import os

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import Iterator, List, Tuple

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf
import tqdm

import command_line
import distillation
import modeling
import records

tf1 = tf.compat.v1
FLAGS = flags.FLAGS

_STAGE = "extract_teacher_labels_truncated"
_REQUIRED_FLAGS = ("bert_config_file", "input_file", "output_file",
                   "init_checkpoint")


def define_flags() -> None:
  """Defines the flags of this stage."""
  flags.DEFINE_string(
      "bert_config_file", None,
      "Config of the teacher, a JSON file like BERT's bert_config.json.")
  flags.DEFINE_string(
      "input_file", None,
      "Records of multifile_create_pretraining_data.py: paths and patterns, "
      "separated by commas.")
  flags.DEFINE_string("output_file", None, "Labelled records to write.")
  flags.DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint of the teacher, without `.index`; must hold every variable.")
  flags.DEFINE_integer(
      "truncation_factor", 10,
      "K, how many of the teacher's most probable words to store for each "
      "masked word.", lower_bound=1)
  flags.DEFINE_integer(
      "max_seq_length", 128, "Tokens in a sequence, as in the records.",
      lower_bound=1)
  flags.DEFINE_integer(
      "max_predictions_per_seq", 20,
      "Slots for masked words in a sequence, as in the records.",
      lower_bound=1)
  flags.DEFINE_integer(
      "batch_size", 32, "Sequences that the teacher reads at once.",
      lower_bound=1)
  flags.DEFINE_bool(
      "overwrite", False,
      "Whether to replace an output that was made in another way.")


def label(config: modeling.BertConfig, checkpoint: str, files: List[str],
          shape: records.RecordShape, truncation_factor: int, batch_size: int
         ) -> Iterator[Tuple[bytes, np.ndarray, np.ndarray]]:
  """Runs the teacher over records.

  Args:
    config: the teacher's size.
    checkpoint: the teacher's variables.
    files: record files.
    shape: lengths of the records, without labels.
    truncation_factor: K.
    batch_size: sequences that the teacher reads at once.

  Yields:
    For each record in order: the serialized record, probabilities float32
    [P, K] and indices int32 [P, K].

  Raises:
    ValueError: a file is damaged.
  """
  with tf.Graph().as_default():
    dataset = tf.data.TFRecordDataset(files).batch(batch_size)
    dataset = dataset.map(
        lambda serialized: (serialized, records.decode(serialized, shape)),
        num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    serialized, features = tf1.data.make_one_shot_iterator(dataset).get_next()
    model = modeling.BertModel(
        config, False, features[records.INPUT_IDS],
        features[records.INPUT_MASK], features[records.SEGMENT_IDS])
    logits = modeling.masked_lm_logits(
        config, model, features[records.MASKED_LM_POSITIONS])
    labels = distillation.truncate(
        logits, tf.reshape(features[records.MASKED_LM_WEIGHTS], [-1]),
        truncation_factor)
    per_slot = [-1, shape.max_predictions_per_seq, truncation_factor]
    fetches = (serialized, tf.reshape(labels.probabilities, per_slot),
               tf.reshape(labels.indices, per_slot))
    modeling.restore(checkpoint)
    session_config = tf1.ConfigProto()
    session_config.gpu_options.allow_growth = True
    with tf1.Session(config=session_config) as session:
      session.run(tf1.global_variables_initializer())
      while True:
        try:
          batch = session.run(fetches)
        except tf.errors.OutOfRangeError:
          return
        except tf.errors.DataLossError as error:
          raise ValueError("--input_file: a record is damaged ({})".format(
              error.message))
        yield from zip(*batch)


def main() -> None:
  config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  config.check_length(FLAGS.max_seq_length)
  if FLAGS.truncation_factor > config.vocab_size:
    raise ValueError(
        "--truncation_factor={} is over the vocab_size {} of the teacher; "
        "there are not so many words".format(
            FLAGS.truncation_factor, config.vocab_size))
  shape = records.RecordShape(FLAGS.max_seq_length,
                              FLAGS.max_predictions_per_seq)
  files = records.find_files(FLAGS.input_file, "input_file")
  if any(os.path.realpath(path) == os.path.realpath(FLAGS.output_file)
         for path in files):
    raise ValueError("--output_file={} is one of the input files; choose "
                     "another name".format(FLAGS.output_file))
  records.check_records(files, "input_file", shape, config.vocab_size)
  match = modeling.match_checkpoint(config, FLAGS.init_checkpoint)
  if match.fresh:
    raise ValueError(
        "--init_checkpoint: {} lacks {} of the teacher's variables, such as "
        "{}; a teacher with random weights would write labels: use a "
        "pre-trained checkpoint with its masked-LM head".format(
            FLAGS.init_checkpoint, len(match.fresh), match.fresh[0]))
  manifest = records.Manifest(
      stage=_STAGE,
      flags={name: FLAGS[name].value for name in (
          "max_seq_length", "max_predictions_per_seq", "truncation_factor")},
      fingerprints={
          "bert_config_file": records.file_fingerprint(FLAGS.bert_config_file),
          "init_checkpoint": records.checkpoint_fingerprint(
              FLAGS.init_checkpoint)},
      sources={os.path.basename(path): records.count_records(
          path, "input_file") for path in files},
      vocab_size=config.vocab_size)
  if records.is_finished(FLAGS.output_file, manifest, FLAGS.overwrite):
    return
  with records.RecordWriter(FLAGS.output_file) as writer:
    labelled = label(config, FLAGS.init_checkpoint, files, shape,
                     FLAGS.truncation_factor, FLAGS.batch_size)
    for serialized, probabilities, indices in tqdm.tqdm(
        labelled, total=sum(manifest.sources.values()), unit=" sequences", disable=None):
      writer.write(records.encode({
          records.TEACHER_PROBABILITIES: probabilities,
          records.TEACHER_INDICES: indices}, unlabelled=serialized))
    writer.commit(manifest)
  logging.info("%s: %d records labelled.", FLAGS.output_file,
               writer.num_records)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=_REQUIRED_FLAGS)
