"""Programs for maintainers that are neither tests nor benchmarks."""
