"""What is told of runs, and whether it holds: tables, tests of differences, pictures, the page, checks, the gate."""
