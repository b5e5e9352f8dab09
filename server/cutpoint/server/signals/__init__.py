"""Signals without end."""
