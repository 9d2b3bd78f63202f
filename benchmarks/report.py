"""Formats the figures of benchmarks/results.json as text.

This module computes benchmarks/results.md and the table of docs/speed.md, so a
test can compare both with benchmarks/results.json.
"""

from typing import Any, Dict, List, Mapping, Sequence

TABLE_START = "<!-- figures of benchmarks/results.json -->"
TABLE_END = "<!-- end -->"
# Below this share of the limit, the profile's largest entries are reported.
ENOUGH_SHARE = 0.6
# Range of `linearity` in which a time counts as linear.
_LINEAR = (0.8, 1.25)
# Cores busy with other processes above which a warning is added.
_QUIET_CORES = 0.1


def number(value: float) -> str:
  """Formats a figure with three digits, or as an integer from 100 on."""
  if abs(value) >= 100:
    return "{:,.0f}".format(value)
  return "{:.{}f}".format(value, 1 if abs(value) >= 10 else 2)


def _times(row: Mapping[str, Any]) -> str:
  return number(row["ratio"]) if row["ratio"] else ""


def _share(row: Mapping[str, Any]) -> str:
  if not row["share"]:
    return ""
  return "{:.{}%}".format(row["share"], 0 if row["share"] >= 0.1 else 1)


def _peer_name(peer: Mapping[str, Any]) -> str:
  return " ".join(filter(None, (peer["name"], peer.get("version"))))


def _peer_figure(peer: Mapping[str, Any]) -> str:
  return "absent" if "absent" in peer else number(peer["median"])


def table(header: str, rows: Sequence[Sequence[str]]) -> List[str]:
  """Returns the lines of a Markdown table.

  Args:
    header: names of the columns, separated by " | ".
    rows: cells of each row.
  """
  num_columns = header.count("|") + 1
  return ["| {} |".format(header), "|---" * num_columns + "|",
          *("| {} |".format(" | ".join(row)) for row in rows)]


def _figures(rows: Sequence[Mapping[str, Any]]) -> List[str]:
  return table(
      "what | unit | ours | peer | its figure | ratio | limit | its figure | "
      "share of the limit", [(
          row["what"], row["unit"], number(row["ours"]["median"]),
          _peer_name(row["peer"]) if row["peer"] else "",
          _peer_figure(row["peer"]) if row["peer"] else "", _times(row),
          row["limit"]["what"] if row["limit"] else "",
          number(row["limit"]["value"]) if row["limit"] else "", _share(row))
                             for row in rows])


def _rest(rows: Sequence[Mapping[str, Any]]) -> List[str]:
  """Returns a line with the profile for each figure far from its limit."""
  return ["- {}, {} of the limit; largest in its profile: {}.".format(
      row["what"], _share(row), ", ".join(
          "`{}` ({:.0%})".format(name, share) for name, share in row["rest"])
                                                                or "unknown")
          for row in rows if row["share"] and row["share"] < ENOUGH_SHARE]


def _absent(rows: Sequence[Mapping[str, Any]]) -> List[str]:
  return ["- {}: {} is absent, as {}.".format(
      row["what"], row["peer"]["name"], row["peer"]["absent"])
          for row in rows if row["peer"] and "absent" in row["peer"]]


def part_lines(part: Mapping[str, Any]) -> List[str]:
  """Returns the text about one part, as lines of Markdown."""
  return [*_figures(part["rows"]), "", *_rest(part["rows"]),
          *_absent(part["rows"]), *("- " + line for line in part["settings"]),
          *growth_lines(part.get("growth", ()))]


# --- Growth ------------------------------------------------------------------


def linearity(points: Sequence[Mapping[str, float]]) -> float:
  """Returns how much longer a unit of input takes in large inputs.

  The result is the ratio of two slopes, in which the start-up time cancels out:
  from the second input to the third, and from the first input to the second.

  Args:
    points: "size" and "seconds" of three inputs, in increasing order.

  Returns:
    1 for linear time, more for time that grows faster.
  """
  small, medium, large = ((point["size"], point["seconds"])
                          for point in points)
  slopes = [(after[1] - before[1]) / (after[0] - before[0])
            for before, after in ((small, medium), (medium, large))]
  return slopes[1] / slopes[0]


def _verdict(growth: Mapping[str, Any]) -> str:
  factor = linearity(growth["points"])
  first, middle, last = growth["points"]
  is_linear = _LINEAR[0] <= factor <= _LINEAR[1]
  return ("- {}: time is {}: a unit takes {:.2f} times as long from 4x to 16x "
          "as from 1x to 4x. Memory at 16x is {:.2f} times that at 4x and "
          "{:.2f} times that at 1x: {}. Disk is {:.2f} times that at 1x.{}"
          .format(
              growth["what"], "linear" if is_linear else "not linear", factor,
              last["peak_bytes"] / middle["peak_bytes"],
              last["peak_bytes"] / first["peak_bytes"], growth["memory"],
              last["disk_bytes"] / first["disk_bytes"],
              "" if is_linear else " The turns took {} s{}.".format(
                  "; ".join(", ".join(map(number, point["turns"]))
                            for point in growth["points"]),
                  growth["time"] and ": " + growth["time"])))


def growth_lines(growths: Sequence[Mapping[str, Any]]) -> List[str]:
  """Returns the text about larger inputs, as lines of Markdown."""
  if not growths:
    return []
  rows = [(growth["what"], "{}x".format(point["times"]),
           "{:,.0f} {}".format(point["size"], growth["unit"]),
           number(point["seconds"]), number(point["peak_bytes"] / 1e6),
           number(point["disk_bytes"] / 1e6))
          for growth in growths for point in growth["points"]]
  return [*table("what | input | size | seconds | peak memory of a process, MB "
                 "| disk, MB", rows), "", *map(_verdict, growths)]


# --- Documents ---------------------------------------------------------------


def _inputs(parts: Mapping[str, Any]) -> List[str]:
  """Returns a line for each set of input files."""
  found = dict.fromkeys(
      "- Inputs at {:.0%} of their size: {}.".format(
          part["arguments"]["size"], "; ".join(
              "{} {}".format(name, value)
              for name, value in part["arguments"]["files"].items()))
      for part in parts.values())
  return list(found)


def _all_rows(results: Mapping[str, Any]) -> List[Mapping[str, Any]]:
  return [row for part in results["parts"].values() for row in part["rows"]]


def results_page(results: Mapping[str, Any], projection: Sequence[str]) -> str:
  """Returns the text of benchmarks/results.md.

  Args:
    results: content of benchmarks/results.json.
    projection: lines about English Wikipedia.
  """
  rows, parts = _all_rows(results), results["parts"]
  machine = results["machine"]
  lines = [
      "# Speed", "",
      "Written by `benchmarks/run.py` from `benchmarks/results.json`; its "
      "docstring has the command. Each figure is a median over turns, ours and "
      "the peer's in turn; a ratio over 1 says that ours is faster.", "",
      *_figures(rows), ""]
  for title, found in (("Where the rest of the time goes", _rest(rows)),
                       ("Absent", _absent(rows))):
    if found:
      lines += ["## " + title, "", *found, ""]
  lines += ["## Machine and versions", "", "{}, {} cores, {:.0f} GB, {}; {}."
            .format(machine["processor"], machine["cores"],
                    machine["memory_bytes"] / 1e9, machine["system"], ", ".join(
                        " ".join(item)
                        for item in machine["versions"].items())), ""]
  lines += ["## Settings", "", *_inputs(parts)]
  for name, part in parts.items():
    lines.append("- {}, {} turns: {}".format(
        name, part["arguments"]["turns"], " ".join(part["settings"])))
    for row in part["rows"]:
      if row["peer"] and row["peer"].get("settings"):
        lines.append("  - {}, {}: {}.".format(
            row["what"], _peer_name(row["peer"]), row["peer"]["settings"]))
    if part["other_cores"] > _QUIET_CORES:
      lines.append("  - Other processes took {:.1f} cores meanwhile: the "
                   "machine was not quiet.".format(part["other_cores"]))
  growths = [growth for part in parts.values()
             for growth in part.get("growth", ())]
  if growths:
    lines += ["", "## Growth", "", *growth_lines(growths)]
  if projection:
    lines += ["", "## English Wikipedia on 8 GPUs", "", *projection]
  return "\n".join(lines) + "\n"


def table_block(results: Mapping[str, Any]) -> str:
  """Returns the table of docs/speed.md with the comments around it."""
  rows = [(row["what"], "{} {}".format(
      number(row["ours"]["median"]), row["unit"]),
           "{}: {}".format(_peer_name(row["peer"]), _peer_figure(row["peer"]))
           if row["peer"] else "", _times(row), _share(row))
          for row in _all_rows(results)]
  return "\n".join([TABLE_START, *table(
      "what | this project | peer | ratio | share of the limit", rows),
                    TABLE_END])


def replace_table(text: str, results: Mapping[str, Any]) -> str:
  """Replaces the table of a page.

  Args:
    text: the page, which contains `TABLE_START` and `TABLE_END`.
    results: content of benchmarks/results.json.
  """
  before, _, rest = text.partition(TABLE_START)
  _, _, after = rest.partition(TABLE_END)
  return before + table_block(results) + after


def find_row(results: Mapping[str, Any], what: str) -> Dict[str, Any]:
  """Returns the row of a figure; empty if the figure was not measured."""
  return next((row for row in _all_rows(results) if row["what"] == what), {})
