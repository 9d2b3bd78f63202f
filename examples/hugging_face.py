"""Converts a BERT and its tokenizer to files of Hugging Face's transformers.

The functions return names, arrays and JSON values, without transformers or
PyTorch.
"""

import re
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

import modeling
import tokenization

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
# transformers refuses weights without the name of their framework.
WEIGHTS_METADATA = {"format": "pt"}
PADDING_TOKEN = "[PAD]"
# Maps BERT's activations to transformers' names. BERT's GELU is the tanh form.
_ACTIVATIONS = {
    **dict.fromkeys(("gelu", "gelu_new", "gelu_pytorch_tanh"),
                    "gelu_pytorch_tanh"),
    "": "linear", "linear": "linear", "relu": "relu", "silu": "silu",
    "swish": "silu", "tanh": "tanh"}
_LAYER_NORM_EPSILON = 1e-12
_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
# Maps the last part of a variable's name to transformers' name.
_LAST_PARTS = {"kernel": "weight", "gamma": "weight", "beta": "bias",
               "output_weights": "weight", "output_bias": "bias",
               **{table: table + ".weight" for table in _TABLES}}
# A capital sigma that ends a word (Unicode's Final_Sigma): after a cased letter
# and not before a cased letter, ignoring marks between the two. The lookbehind
# ignores at most two marks. Oniguruma and JavaScript both read the pattern.
_CASED = r"[\p{Lu}\p{Ll}\p{Lt}]"
_PASSED_OVER = r"[\p{Mn}\p{Me}\p{Lm}\p{Sk}'.:·’]"
_FINAL_SIGMA = "(?<={0}|{0}{1}|{0}{1}{1})Σ(?!{1}*{0})".format(
    _CASED, _PASSED_OVER)
_ROLES = {"unk_token": tokenization.UNKNOWN_TOKEN,
          "sep_token": tokenization.SEPARATOR_TOKEN,
          "pad_token": PADDING_TOKEN,
          "cls_token": tokenization.CLASS_TOKEN,
          "mask_token": tokenization.MASK_TOKEN}


# --- Weights and config ------------------------------------------------------


def weight_name(variable: str) -> str:
  """Returns transformers' name of a variable.

  Args:
    variable: name of the variable in a checkpoint of Google's BERT. Variables
      without a scope belong to a classifier's head.
  """
  *scopes, last = variable.split("/")
  scopes = [re.sub("^layer_", "layer.", scope) for scope in scopes]
  return ".".join([*(scopes or ["classifier"]), _LAST_PARTS.get(last, last)])


def weights(variables: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
  """Returns the weights by transformers' names.

  Args:
    variables: maps names in the checkpoint to arrays.

  Returns:
    float32 arrays. Kernels are transposed. The decoder of the masked-LM head is
    left out, because transformers ties the decoder to the word embeddings.
  """
  return {
      weight_name(name): np.ascontiguousarray(
          value.T if name.endswith("/kernel") else value, np.float32)
      for name, value in sorted(variables.items())}


def config(model: modeling.BertConfig, architecture: str,
           padding_id: Optional[int],
           labels: Sequence[str] = ()) -> Dict[str, Any]:
  """Returns the values of config.json.

  Args:
    model: size of the model.
    architecture: transformers' class with all weights of the model, such as
      BertForPreTraining.
    padding_id: id of the padding token, or None.
    labels: labels of a classifier, in the order of their ids.
  """
  values = model.to_dict()
  values.update({
      "architectures": [architecture], "model_type": "bert",
      "hidden_act": _ACTIVATIONS[str(model.hidden_act or "").lower()],
      "layer_norm_eps": _LAYER_NORM_EPSILON, "pad_token_id": padding_id,
      "position_embedding_type": "absolute"})
  if labels:
    values["id2label"] = {str(i): label for i, label in enumerate(labels)}
    values["label2id"] = {label: i for i, label in enumerate(labels)}
  return values


# --- The tokenizer -----------------------------------------------------------


def _replace(pattern: str, content: str) -> Dict[str, Any]:
  return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _normalizers(do_lower_case: bool,
                 strip_accents: bool) -> List[Dict[str, Any]]:
  """Returns normalizers equivalent to `tokenization.BasicTokenizer`.

  The BertNormalizer of `tokenizers` differs: it drops characters of private
  use, which BERT keeps, and has older tables of accents than Python.
  """
  steps = [_replace(r"[\t\n\r\p{Zs}]", " "),
           _replace("[\0\ufffd" r"\p{Cc}\p{Cf}]", "")]
  if do_lower_case:
    steps += [_replace(_FINAL_SIGMA, "ς"), {"type": "Lowercase"}]
  if strip_accents:
    steps += [{"type": "NFD"}, _replace(r"\p{Mn}", "")]
  return steps


def _pre_tokenizers() -> List[Dict[str, Any]]:
  """Returns pre-tokenizers that split at spaces, punctuation and CJK."""
  cjk = "".join("{}-{}".format(chr(first), chr(last))
                for first, last in tokenization.CJK_BLOCKS)
  return [{"type": "WhitespaceSplit"},
          {"type": "Split", "behavior": "Isolated", "invert": False,
           "pattern": {"Regex": r"[!-/:-@\[-`{-~\p{P}" + cjk + "]"}}]


def _template(vocab: Mapping[str, int], second_segment: int) -> Dict[str, Any]:
  """Returns the post-processor for [CLS] A [SEP] and [CLS] A [SEP] B [SEP]."""
  start, end = tokenization.CLASS_TOKEN, tokenization.SEPARATOR_TOKEN

  def special(token: str, segment: int) -> Dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": segment}}

  def text(name: str, segment: int) -> Dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": segment}}

  single = [special(start, 0), text("A", 0), special(end, 0)]
  return {
      "type": "TemplateProcessing", "single": single,
      "pair": [*single, text("B", second_segment),
               special(end, second_segment)],
      "special_tokens": {
          token: {"id": token, "ids": [vocab[token]], "tokens": [token]}
          for token in (start, end)}}


def tokenizer(vocab: Mapping[str, int], do_lower_case: bool, num_segments: int,
              strip_accents: Optional[bool] = None) -> Dict[str, Any]:
  """Returns the values of tokenizer.json.

  The token ids are those of `tokenization.FullTokenizer`, with one exception:
  the name of a special token in a text, such as [MASK], is the special token.

  Args:
    vocab: maps tokens, the special tokens included, to ids.
    do_lower_case: as for `FullTokenizer`.
    num_segments: number of the model's segment ids. If 1, both texts of a pair
      have segment id 0.
    strip_accents: as for `FullTokenizer`.
  """
  if strip_accents is None:
    strip_accents = do_lower_case
  return {
      "version": "1.0", "truncation": None, "padding": None,
      "added_tokens": [
          {"id": vocab[token], "content": token, "single_word": False,
           "lstrip": False, "rstrip": False, "normalized": False,
           "special": True}
          for token in sorted(special_tokens(vocab).values(),
                              key=vocab.__getitem__)],
      "normalizer": {"type": "Sequence",
                     "normalizers": _normalizers(do_lower_case, strip_accents)},
      "pre_tokenizer": {"type": "Sequence", "pretokenizers": _pre_tokenizers()},
      "post_processor": _template(vocab, min(1, num_segments - 1)),
      "decoder": {"type": "WordPiece", "cleanup": True,
                  "prefix": tokenization.CONTINUATION_PREFIX},
      "model": {"type": "WordPiece", "unk_token": tokenization.UNKNOWN_TOKEN,
                "continuing_subword_prefix": tokenization.CONTINUATION_PREFIX,
                "max_input_chars_per_word": tokenization.MAX_WORD_LENGTH,
                "vocab": dict(vocab)}}


def special_tokens(vocab: Mapping[str, int]) -> Dict[str, str]:
  """Returns the values of special_tokens_map.json: special tokens by role."""
  return {role: token for role, token in _ROLES.items() if token in vocab}


def tokenizer_config(vocab: Mapping[str, int], max_seq_length: int,
                     do_lower_case: bool = True,
                     strip_accents: Optional[bool] = None) -> Dict[str, Any]:
  """Returns the values of tokenizer_config.json.

  PreTrainedTokenizerFast reads tokenizer.json unchanged. The BertTokenizer of
  transformers 5 reads only the vocabulary, `do_lower_case` and `strip_accents`,
  and has another limit for the length of a word. The two flags are written only
  if they differ.

  Args:
    vocab: maps tokens to ids.
    max_seq_length: length of the longest sequence that the model reads.
    do_lower_case: as for `FullTokenizer`.
    strip_accents: as for `FullTokenizer`.
  """
  accents: Dict[str, Any] = {}
  if strip_accents not in (None, do_lower_case):
    accents = {"do_lower_case": do_lower_case, "strip_accents": strip_accents}
  return {
      "tokenizer_class": "PreTrainedTokenizerFast",
      "model_max_length": max_seq_length, "clean_up_tokenization_spaces": True,
      "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
      **accents, **special_tokens(vocab)}
