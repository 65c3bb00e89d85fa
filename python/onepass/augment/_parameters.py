"""Holds the parameters of samples as a table."""

from __future__ import annotations

from onepass.augment._arrays import Array

__all__ = ["Parameters"]

_ROWS = 20


class Parameters(dict[str, Array]):
    """Holds parameters of samples: a column for each, as an array; print shows them as a table.

    Names are place, transform and parameter, as ``"0.RandomCrop.top"``; transforms of a transform have its place
    before theirs, as ``"1.0.ColorJitter.hue"``. nan stands where a transform is not applied, and where a parameter
    depends on the size of an image that was not given. `pandas.DataFrame` takes it as it is.

    Example:
        >>> from onepass import augment as A
        >>> table = A.Compose([A.RandomHorizontalFlip(), A.RandomRotation((90, 90))], seed=0).parameters([5, 6])
        >>> list(table)
        ['id', '0.RandomHorizontalFlip.applied', '1.RandomRotation.angle']
        >>> table["1.RandomRotation.angle"]
        array([90., 90.])
    """

    def __repr__(self) -> str:
        count = len(next(iter(self.values()), ()))
        cells = [
            [name, *(f"{number:.5g}" if number.dtype.kind == "f" else str(number) for number in column[:_ROWS])]
            for name, column in self.items()
        ]
        widths = [max(map(len, column)) for column in cells]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in zip(*cells, strict=True)
        ]
        return "\n".join(lines + ([f"... {count - _ROWS} more"] if count > _ROWS else []))
