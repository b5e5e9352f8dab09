"""`cutpoint tune`: the fastest way to run a model here that detects as well, measured."""
