r"""Runs the peers that the benchmarks compare with, in their own environment.

  python -m venv .venv-peers
  .venv-peers/bin/pip install -r benchmarks/peers.txt
  .venv-peers/bin/python benchmarks/peers.py tokenizer \
    --text_file text.txt --vocab_file vocab.txt

Benchmarks start this script as a worker under the interpreter --peers_python.
The worker prints a JSON line with the description of the peer, or the reason
why the peer is absent. Then, for each line of its input, the worker takes a
turn and prints the seconds. Models have random weights, which does not change
the time. The script imports only the peers and the standard library.
"""

import argparse
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import runpy
import subprocess
import sys
import time

_TOP_K = 10
# BERT's values.
_WEIGHT_DECAY, _MAX_NORM, _EPSILON = 0.01, 1.0, 1e-6
_NUM_WARM_UP_BATCHES = 2


def _send(message):
  sys.stdout.write(json.dumps(message) + "\n")
  sys.stdout.flush()


def _serve(package, run, **description):
  """Prints the peer's description, then takes a turn per line of input.

  Args:
    package: name of the package whose version is reported.
    run: takes a turn; returns seconds, or a dictionary with "seconds".
    **description: further entries of the description.
  """
  _send(dict(description, version=importlib.metadata.version(package)))
  for _ in sys.stdin:
    answer = run()
    _send(answer if isinstance(answer, dict) else {"seconds": answer})


def _seconds(run):
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


def run_tokenizer(options):
  """Encodes all lines of a text in one batch, on one core."""
  os.environ["TOKENIZERS_PARALLELISM"] = "false"
  os.environ["RAYON_NUM_THREADS"] = "1"
  import tokenizers
  with open(options.text_file, encoding="utf-8") as file:
    lines = file.read().split("\n")
  tokenizer = tokenizers.BertWordPieceTokenizer(options.vocab_file)

  def run():
    start = time.process_time()
    lists = [encoding.ids for encoding in tokenizer.encode_batch(
        lines, add_special_tokens=False)]
    seconds = time.process_time() - start
    ids = [token for line in lists for token in line], list(map(len, lists))
    return {"seconds": seconds,
            "fingerprint": hashlib.sha256(repr(ids).encode()).hexdigest()}

  _serve("tokenizers", run, settings="BertWordPieceTokenizer.encode_batch, one "
         "thread; equal ids")


def run_wikipedia(options):
  """Extracts a dump with wikiextractor, in a new process for each turn."""
  import wikiextractor
  del wikiextractor
  command = [sys.executable, __file__, "extraction", "--dump_file",
             options.dump_file, "--output_dir", options.output_dir,
             "--threads", str(options.threads)]
  _serve("wikiextractor", lambda: _seconds(
      lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)),
         settings="--no-templates --processes {}; its patterns set their flags "
         "at their start, as Python 3.11 wants".format(options.threads))


def run_extraction(options):
  """Runs wikiextractor's script once."""
  compile_pattern = re.compile

  def compile_with_flags(pattern, flags=0):
    if isinstance(pattern, str) and "(?i)" in pattern[1:]:
      pattern, flags = pattern.replace("(?i)", ""), flags | re.IGNORECASE
    return compile_pattern(pattern, flags)

  re.compile = compile_with_flags
  sys.argv[1:] = ["--no-templates", "--quiet", "--processes",
                  str(options.threads), "--output", options.output_dir,
                  options.dump_file]
  runpy.run_module("wikiextractor.WikiExtractor", run_name="__main__")


class _Inputs:
  """The features of records as tensors."""

  def __init__(self, path):
    import numpy as np
    import torch
    self._arrays = {name: torch.from_numpy(values) for name, values in
                    np.load(path).items()}
    self.size = len(self["input_ids"])

  def __getitem__(self, name):
    return self._arrays[name]

  def batch(self, rows):
    """Returns the features of some rows, cut to the longest of these rows."""
    length = int(self["input_mask"][rows].sum(1).max())
    return {name: values[rows, :length] if name in (
        "input_ids", "input_mask", "segment_ids") else values[rows]
            for name, values in self._arrays.items()}

  def by_length(self, batch_size):
    """Returns the row numbers of batches with similar lengths."""
    order = self["input_mask"].sum(1).argsort(stable=True)
    return order.split(batch_size)


def _model(options, kind):
  """Builds a model with random weights and the project's arithmetic."""
  import torch
  import transformers
  torch.manual_seed(0)
  torch.set_num_threads(options.threads)
  config = transformers.BertConfig.from_json_file(options.config)
  # The tanh form of gelu, in one operation.
  config.hidden_act = "gelu_pytorch_tanh"
  config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
  return getattr(transformers, kind)(config)


def _with_compiled(candidates):
  """Adds a variant with a compiled encoder for each model.

  Args:
    candidates: (model, whether it runs under autocast), by name.

  Returns:
    (encoder, model, whether it runs under autocast), by name.
  """
  import torch
  variants = {}
  for name, (model, autocast) in candidates.items():
    variants[name] = model.bert, model, autocast
    variants[name + ", torch.compile"] = (
        torch.compile(model.bert, dynamic=True), model, autocast)
  return variants


def _hidden_states(encoder, batch):
  return encoder(
      input_ids=batch["input_ids"], attention_mask=batch["input_mask"],
      token_type_ids=batch["segment_ids"])


def _masked_logits(model, batch, hidden_states):
  """Returns the logits of the real masked tokens, [N, V], and their slots."""
  rows, slots = (batch["masked_lm_weights"] > 0).nonzero(as_tuple=True)
  positions = batch["masked_lm_positions"][rows, slots]
  return model.cls.predictions(
      hidden_states[rows, positions]), (rows, slots)


def run_labels(options):
  """Labels records as stage IV does, in the fastest variant."""
  import torch
  inputs = _Inputs(options.features)

  def label(encoder, model, autocast, num_batches=None):
    with torch.inference_mode(), torch.autocast(
        "cpu", torch.bfloat16, enabled=autocast):
      for rows in inputs.by_length(options.batch_size)[:num_batches]:
        batch = inputs.batch(rows)
        logits, _ = _masked_logits(
            model, batch, _hidden_states(encoder, batch)[0])
        # Faster than the top K of the logits with their logsumexp.
        torch.softmax(logits.float(), -1).topk(_TOP_K)

  plain = _model(options, "BertForMaskedLM").eval()
  candidates = {"fp32": (plain, False)}
  if options.precision == "bf16":
    candidates = {
        "bf16 autocast": (plain, True),
        "bf16 weights": (
            _model(options, "BertForMaskedLM").eval().bfloat16(), False)}
  _serve_best({
      name: functools.partial(label, *candidate)
      for name, candidate in _with_compiled(candidates).items()},
              "torch.inference_mode, scaled_dot_product_attention, sequences "
              "sorted by length and padded to the longest of a batch, head and "
              "top {} of masked tokens only".format(_TOP_K))


def run_training(options):
  """Takes training steps with the arithmetic of transformers' Trainer."""
  import torch
  inputs = _Inputs(options.features)
  model = _model(options, "BertForPreTraining").train()
  decayed, others = [], []
  for name, parameter in model.named_parameters():
    (others if "LayerNorm" in name or "bias" in name else decayed).append(
        parameter)
  optimizer = torch.optim.AdamW(
      [{"params": decayed, "weight_decay": _WEIGHT_DECAY},
       {"params": others, "weight_decay": 0.0}], lr=5e-5, eps=_EPSILON,
      fused=True)
  batches = torch.arange(inputs.size).split(options.batch_size)
  # A last batch that is not full would take less time.
  batches = [rows for rows in batches if len(rows) == options.batch_size]
  position = 0

  def step(encoder, autocast):
    nonlocal position
    batch = inputs.batch(batches[position % len(batches)])
    position += 1
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
      hidden_states, pooled = _hidden_states(encoder, batch)[:2]
      logits, slots = _masked_logits(model, batch, hidden_states)
      next_sentence = model.cls.seq_relationship(pooled)
    log_student = torch.log_softmax(logits.float(), -1).gather(
        1, batch["top_k_indices"][slots].long())
    loss = -(log_student * batch["truncated_masked_lm_probs"][slots]
            ).sum() / len(logits)
    loss = loss + torch.nn.functional.cross_entropy(
        next_sentence.float(), batch["next_sentence_labels"][:, 0].long())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

  def steps(encoder, _, autocast, num_batches=None):
    for _ in range(num_batches or options.steps):
      step(encoder, autocast)

  autocast = options.precision == "bf16"
  name = "bf16 autocast" if autocast else "fp32"
  _serve_best({
      name: functools.partial(steps, *candidate)
      for name, candidate in _with_compiled({name: (model, autocast)}).items()},
      "soft-label loss at masked tokens only, clip_grad_norm_, fused AdamW, "
      "scaled_dot_product_attention, batches from memory")


def run_exported(options):
  """Loads a model that examples/export_student.py wrote for transformers.

  Writes the token ids of all texts and the logits of the first texts. A turn
  applies the model to --steps sequences, one at a time.
  """
  import numpy as np
  import torch
  import transformers
  torch.set_num_threads(options.threads)
  config = transformers.AutoConfig.from_pretrained(options.model_dir)
  auto_class = (transformers.AutoModelForSequenceClassification
                if "Classification" in config.architectures[0]
                else transformers.AutoModelForPreTraining)
  model = auto_class.from_pretrained(options.model_dir).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(options.model_dir)
  with open(options.texts, encoding="utf-8") as file:
    texts = json.load(file)
  ids = [tokenizer(text)["input_ids"] for text in texts]
  batch = tokenizer(texts[:options.batch_size], padding=True, truncation=True,
                    max_length=options.max_seq_length, return_tensors="pt")
  with torch.inference_mode():
    outputs = model(**batch)
  np.savez(
      options.output, ids=np.concatenate(ids), lengths=list(map(len, ids)),
      **{name: batch[name].numpy() for name in (
          "input_ids", "attention_mask", "token_type_ids")},
      **{name: outputs[name].numpy() for name in outputs
         if name.endswith("logits")})
  generator = torch.Generator().manual_seed(0)
  sequence = torch.randint(config.vocab_size, [1, options.num_tokens],
                           generator=generator)

  def run():
    with torch.inference_mode():
      for _ in range(options.steps):
        model(sequence)

  run()
  _serve("transformers", lambda: _seconds(run), settings="PyTorch {}".format(
      importlib.metadata.version("torch")))


def _serve_best(candidates, settings):
  """Serves the candidate that is fastest in one turn after a warm-up."""
  seconds = {}
  for name, run in candidates.items():
    try:
      run(num_batches=_NUM_WARM_UP_BATCHES)
    except Exception as error:  # pylint: disable=broad-except
      if "torch.compile" not in name:
        raise
      # For example, if the machine has no C++ compiler.
      seconds[name] = float("inf")
      sys.stderr.write("{}: {!r}\n".format(name, error))
      continue
    seconds[name] = _seconds(run)
  best = min(seconds, key=seconds.get)
  _serve("transformers", lambda: _seconds(candidates[best]),
         settings="PyTorch {}, {}, the fastest of {}: {}".format(
             importlib.metadata.version("torch"), best, ", ".join(
                 "{} ({:.2f} s)".format(name, spent)
                 for name, spent in seconds.items()), settings))


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  kinds = parser.add_subparsers(dest="kind", required=True)
  for run, names in (
      (run_tokenizer, ("text_file", "vocab_file")),
      (run_wikipedia, ("dump_file", "output_dir")),
      (run_extraction, ("dump_file", "output_dir")),
      (run_labels, ("features", "config", "precision")),
      (run_training, ("features", "config", "precision")),
      (run_exported, ("model_dir", "texts", "output"))):
    kind = kinds.add_parser(run.__name__.partition("_")[2])
    kind.set_defaults(run=run)
    for name in names:
      kind.add_argument("--" + name, required=True)
    for name, default in (("threads", 1), ("batch_size", 32), ("steps", 1),
                          ("max_seq_length", 64), ("num_tokens", 128)):
      kind.add_argument("--" + name, type=int, default=default)
  options = parser.parse_args()
  try:
    options.run(options)
  except ImportError as error:
    _send({"absent": "the package {} is not installed".format(error.name)})


if __name__ == "__main__":
  main()
