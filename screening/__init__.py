"""From the names of elements to a ranked table of candidate crystals."""
