"""The command line: a file for each verb or family of verbs; parsing and printing only."""
