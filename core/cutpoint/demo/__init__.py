"""Data that needs no download: what the examples and the tutorials train on."""
