"""What is told of stops to whoever watches the machine.

journal  entries of the journal of systemd, with a field for each fact
metrics  counts for Prometheus, in a file
"""
