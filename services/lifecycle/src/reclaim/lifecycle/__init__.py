"""The case: what may happen to a flagged seat, in which order, and the record of all that did."""
