"""Going through rows that may be more than fit into memory."""

from collections.abc import Iterator

BLOCK_ROWS = 2**18


def blocks(num_rows: int, block_rows: int = BLOCK_ROWS) -> Iterator[slice]:
    """Slices that cover the rows in order, each of at most `block_rows`."""
    for start in range(0, num_rows, block_rows):
        yield slice(start, min(start + block_rows, num_rows))
