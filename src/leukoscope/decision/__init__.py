"""From a logit to what is said: calibration, prediction sets, novelty, input checks and the policy."""
