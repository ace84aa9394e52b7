"""Fuzzer and fault injector of the command line: ``make fuzz`` in full, ``tests/fuzz/test_*.py`` in small."""
