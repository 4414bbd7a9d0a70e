"""Docstrings of the library as Markdown: an extension of griffe, which reads them for the documentation (``mkdocs.yml``)."""

import re

from griffe import AliasResolutionError, Extension, Object

_ROLE = re.compile(r":(?:class|data|func|meth|mod):`~?([\w.]+)`")


class Docstrings(Extension):
    """Turns references to other parts of the library into links, and examples into code."""

    def on_object(self, *, obj: Object, **kwargs: object) -> None:
        """Rewrite the docstring of one module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = _examples(_ROLE.sub(lambda role: _link(obj, role[1]), obj.docstring.value))


def _link(obj: Object, name: str) -> str:
    """A reference as a link to what it names: in the object, in those around it, or by its whole name.

    What has no entry on these pages, such as data without a docstring or an inherited method, stays code.
    """
    here: Object | None = obj
    while here is not None:
        if found := _member(here, name.split(".")):
            return f"[`{name}`][{found.path}]" if found.docstring else f"`{name}`"
        here = here.parent
    if name.startswith("itpo."):
        found = _member(obj.package, name.split(".")[1:])
        return (
            f"`{name}`" if found and not found.docstring else f"[`{name}`][{name}]"
        )  # what is nowhere is warned of
    return f"`{name}`"


def _member(obj: Object, parts: list[str]) -> Object | None:
    for part in parts:
        if part not in obj.members:
            return None
        member = obj.members[part]
        if member.is_alias:
            try:
                member = member.final_target
            except AliasResolutionError:
                return None
        obj = member
    return obj


def _examples(text: str) -> str:
    """Examples, which begin with >>> and end before an empty line, in fences."""
    paragraphs = re.split(r"\n[ \t]*\n", text)
    return "\n\n".join(f"```pycon\n{part}\n```" if part.startswith(">>> ") else part for part in paragraphs)
