"""From a logit to a decision: calibration, prediction sets, novelty, input checks and the policy."""
