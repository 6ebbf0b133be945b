"""Logits in; how far they are from the reference's, and what that means, out."""
