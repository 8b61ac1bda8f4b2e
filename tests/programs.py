"""Programs that stand in for ones that tests cannot run."""


def write_program(path, body):
    """A shell script; returns its path."""
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
    return path


def ending_with(codes, starts, noted="start"):
    """The body of a program that notes each start in a file, and ends with one given code after the other."""
    return f'echo "{noted}" >> {starts}\ncodes=({codes})\nexit ${{codes[$(($(grep -cxF "{noted}" {starts}) - 1))]}}'
