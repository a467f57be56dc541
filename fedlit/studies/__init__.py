"""Studies: a file that says which runs are compared, the runs, and the tables they make."""
