"""x."""
def lines(results):
  return []
