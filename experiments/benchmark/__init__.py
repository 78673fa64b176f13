"""The benchmark; `__main__` has its command line."""
