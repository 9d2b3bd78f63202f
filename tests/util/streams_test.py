"""Tests that streams equal those of NumPy's generators."""

import numpy as np
import pytest

from util import streams


@pytest.mark.parametrize("seed", [
    0, 12345, (1 << 32) - 1, 1 << 32, (1 << 70) + 3,
    (1 << 140) + 9])  # With the stream's number, more than a pool holds.
@pytest.mark.parametrize("first", [
    0, 1000, (1 << 32) - 3,  # Crosses from one word to two.
    (1 << 33) + 5, (1 << 64) - 6])
def test_streams_are_those_of_numpy(seed, first):
  wanted = np.stack([
      np.random.default_rng([seed, first + i]).integers(1 << 32, size=7)
      for i in range(6)])
  for num_draws in (7, 4, 1):
    np.testing.assert_array_equal(
        streams.draw(seed, first, 6, num_draws), wanted[:, :num_draws])
  assert streams.draw(seed, first, 6, 0).shape == (6, 0)


def test_many_streams_at_once():
  found = streams.draw(7, 0, 5000, 20)
  assert found.shape == (5000, 20) and found.dtype == np.uint32
  assert len(np.unique(found)) > 99_990  # About 1 of 100,000 draws repeats.
  for i in (0, 2499, 4999):
    np.testing.assert_array_equal(
        found[i], np.random.default_rng([7, i]).integers(1 << 32, size=20))
