"""SVG elements as escaped text."""

from __future__ import annotations

from markupsafe import Markup, escape


def number(value: float) -> str:
    """A coordinate with two decimals at most: finer is invisible and only fills the file."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def element(tag: str, *children: str | Markup, **attributes: object) -> Markup:
    """One element; texts and attributes are escaped, ``Markup`` children are kept.

    Args:
        tag: the element's name.
        children: texts or elements; those that are empty vanish.
        attributes: ``class_`` stands for ``class``, ``_`` for ``-``; None leaves one out.
    """
    opening = Markup(tag)
    for name, value in attributes.items():
        if value is None:
            continue
        text = number(value) if isinstance(value, float) else str(value)
        opening += Markup(' {}="{}"').format(Markup(name.rstrip("_").replace("_", "-")), text)
    inner = Markup("").join(escape(child) for child in children)
    return Markup(f"<{opening}>{inner}</{tag}>" if inner else f"<{opening}/>")


def points(xs: list[float], ys: list[float]) -> str:
    """Coordinates in the form of ``<polyline points>``."""
    return " ".join(f"{number(x)},{number(y)}" for x, y in zip(xs, ys, strict=True))
