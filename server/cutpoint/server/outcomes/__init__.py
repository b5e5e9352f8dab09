"""What became of earlier decisions: the decisions kept, the labels reported later, and what they say together."""
