"""Stage 4's experiments: rows of Tables 1 and 2, their training data, their scores.

Use its modules by name: mixing, tables, runner.
"""
