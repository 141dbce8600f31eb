"""Names in a manifest's facts that more than one stage looks for."""

CANNOT = "cannot"  # what can't be done with a model: need → why
# Needs of later runs.
SAMPLING, SCORES = "sampling", "scores"
