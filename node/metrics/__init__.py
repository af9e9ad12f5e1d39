"""What the node counts, in Prometheus' form.

Every metric is declared in `declared`.  What happens is counted as it is told (`counting`); what
parts of the node know of themselves is looked at when somebody asks (`looking`).
"""
