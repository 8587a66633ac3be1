"""Reproduction of a result from its results.json, and comparison of the two.

command        `obliq reproduce`
record         the command line and settings in a results.json
circumstances  differences in code, packages and machine
figures        comparison of every figure
provenance     versions and fingerprints that a run records
source         the state of the code that a run records
"""
