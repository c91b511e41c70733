"""Rows gathered as Arrow tables, a thousand at a time, so that a corpus of millions fits in memory once."""

import json


class Rows:
    """Rows in the order they were added."""

    def __init__(self):
        self._tables: list = []

    def add(self, rows: list[dict]) -> None:
        """Append rows; a column that some of them lack is null there."""
        if rows:
            names = list(dict.fromkeys(name for row in rows for name in row))
            self._tables.append(_table({name: [row.get(name) for row in rows] for name in names}))

    def dataset(self, positions: list[int]):
        """The rows at these positions as a `datasets.Dataset`, all columns even where there are no rows."""
        import pyarrow as pa
        from datasets import Dataset

        if len(self._tables) > 1:
            self._tables = [_joined(self._tables)]
        table = self._tables[0].take(pa.array(positions, type=pa.int64())) if self._tables else pa.table({})
        return Dataset(table)


def _table(columns: dict[str, list]):
    import pyarrow as pa

    return pa.table({name: _array(values) for name, values in columns.items()})


def _array(values: list):
    """Values of one type as they are; of several (12 beside "x + 1"), each as text."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([_written(value) for value in values], pa.string())


def _joined(tables: list):
    """One table; a column that is of one type here and of another there becomes text."""
    import pyarrow as pa

    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        names = list(dict.fromkeys(name for table in tables for name in table.column_names))
        return pa.table({name: _column(tables, name) for name in names})


def _column(tables: list, name: str):
    import pyarrow as pa

    parts = [table.select([name]) if name in table.column_names else None for table in tables]
    lone = [
        part if part is not None else pa.table({name: pa.nulls(len(t))}) for part, t in zip(parts, tables, strict=True)
    ]
    try:
        return pa.concat_tables(lone, promote_options="permissive")[name]
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        values = [value for part in lone for value in part[name].to_pylist()]
        return pa.array([_written(value) for value in values], pa.string())


def _written(value) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
