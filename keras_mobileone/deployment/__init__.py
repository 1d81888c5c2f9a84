"""From weights to verified files with a report."""
