"""Tests of the curation room; a package, because the commands have tests of the same names."""
