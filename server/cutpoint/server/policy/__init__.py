"""Policies: the store, and what adds to it."""
