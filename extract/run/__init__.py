"""The one pass: plan, decode, batch, compute, write."""
