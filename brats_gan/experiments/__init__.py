"""Stage 4's experiments: the rows of Tables 1 and 2, what they train on, what they say.

Use its modules by name: mixing, tables, runner.
"""
