"""The probing core: sites, probes, targets, edits, methods by name, results."""
