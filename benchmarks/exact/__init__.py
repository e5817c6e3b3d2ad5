"""What exactness.py holds probes against: oracles of their own."""
