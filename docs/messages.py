"""Every message about input that the source holds, for the page of input errors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "mosaicvi"
ERRORS = ("InputError", "ModelFileError", "NothingYet")
HEADINGS = {
    "config": "Parameters and arguments",
    "data": "Data, when they are read or registered",
    "model": "A model and its data",
    "fit": "Training",
    "infer": "Answers",
    "store": "Files, saved models and checkpoints",
    "cli": "Options of the command line",
    "inspect": "Looking at data",
    "report": "The report",
    "view": "Pictures",
    "metrics": "Metrics",
    "baselines": "Baselines",
    "likelihoods": "Likelihoods",
    "engine": "The engine",
    "scvaeit": "scVAEIT's interface",
    "datasets": "Simulated data",
}
SHORT = 12  # letters of its own below which a message is what is filled in


@dataclass(frozen=True, kw_only=True)
class Raised:
    """One place that raises an error about input: its file and line, and the texts that it may have."""

    file: str
    line: int
    texts: tuple[str, ...]
    is_passed_on: bool


def listing() -> str:
    """Markdown with the messages that are not in the table of `mosaicvi.data.problems`, by what says them."""
    by_room: dict[str, dict[str, None]] = {}
    for place in raised():
        room = place.file.split("/")[0].removesuffix(".py")
        by_room.setdefault(room, {}).update(dict.fromkeys(place.texts))
    parts = []
    for room in sorted(by_room, key=lambda r: [*HEADINGS, r].index(r)):
        lines = [f"- `{text}`" for text in by_room[room]]
        parts += [f"## {HEADINGS.get(room, room)}", "\n".join(lines)] if lines else []
    return "\n\n".join(parts) + "\n"


def raised() -> Iterator[Raised]:
    """Each place of the source that makes an `InputError` or `ModelFileError`."""
    trees = {p: ast.parse(p.read_text(encoding="utf-8")) for p in sorted(SOURCE.rglob("*.py"))}
    source = Source(trees=list(trees.values()))
    for path, tree in trees.items():
        for scope, call in _calls(tree):
            texts = list(dict.fromkeys(source.texts(call.args[0], scope)))
            yield Raised(
                file=path.relative_to(SOURCE).as_posix(),
                line=call.lineno,
                texts=tuple(text for text in texts if text),
                is_passed_on="" in texts,
            )


def _calls(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.Call]]:
    """Calls of the errors, each with the innermost function around it."""
    scope_of: dict[int, ast.AST] = {}
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        scope_of.update({id(inner): function for inner in ast.walk(function)})
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
            yield scope_of.get(id(node), tree), node


class Source:
    """All files, in which texts are followed from where they are raised to where they are written."""

    def __init__(self, *, trees: list[ast.Module]) -> None:
        self.functions = {n.name: n for tree in trees for n in tree.body if isinstance(n, ast.FunctionDef)}
        self.constants = {
            target.id: str(n.value.value)
            for tree in trees
            for n in tree.body
            if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)
            for target in n.targets
            if isinstance(target, ast.Name)
        }
        calls = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call)]
        self.calls = [call for call in calls if isinstance(call.func, ast.Name)]

    def texts(self, node: ast.expr, scope: ast.AST, seen: tuple[str, ...] = ()) -> Iterator[str]:
        """What an expression may say; nothing, as "", for what comes from elsewhere, such as the table."""
        match node:
            case ast.Constant(value=str()) | ast.JoinedStr():
                text = self.shown(node)
                yield text
                if len(re.sub(r"\{[^}]*\}|\W", "", text)) < SHORT:
                    yield from self._filled_in(node, scope, seen)
            case ast.BinOp():
                yield from self._each([node.left, node.right], scope, seen)
            case ast.IfExp():
                yield from self._each([node.body, node.orelse], scope, seen)
            case ast.List() | ast.Tuple():
                yield from self._each(node.elts, scope, seen)
            case ast.ListComp() | ast.GeneratorExp():
                yield from self._each([node.elt, *(g.iter for g in node.generators)], scope, seen)
            case ast.Starred() | ast.NamedExpr():
                yield from self.texts(node.value, scope, seen)
            case ast.Name() if node.id not in seen:
                values = [*_assigned(node.id, scope), *self._given(node.id, scope)]
                yield from self._each(values, scope, (*seen, node.id))
            case ast.Call(func=ast.Name(id=name)) if name in self.functions and name not in (
                *seen,
                "problem",
            ):
                function = self.functions[name]
                for inside in ast.walk(function):
                    if isinstance(inside, ast.Return | ast.Yield) and inside.value is not None:
                        yield from self.texts(inside.value, function, (*seen, name))
            case _:
                yield ""

    def _each(self, nodes: Sequence[ast.expr], scope: ast.AST, seen: tuple[str, ...]) -> Iterator[str]:
        for node in nodes:
            yield from self.texts(node, scope, seen)

    def _filled_in(
        self, node: ast.Constant | ast.JoinedStr, scope: ast.AST, seen: tuple[str, ...]
    ) -> Iterator[str]:
        """Sentences that are filled into a text that has hardly a word of its own."""
        pieces = node.values if isinstance(node, ast.JoinedStr) else []
        names = [
            p.value for p in pieces if isinstance(p, ast.FormattedValue) and isinstance(p.value, ast.Name)
        ]
        yield from (text for text in self._each(names, scope, seen) if " " in text)

    def _given(self, name: str, scope: ast.AST) -> Iterator[ast.expr]:
        """What callers give to a function as one of its arguments."""
        if not isinstance(scope, ast.FunctionDef) or scope.name not in self.functions:
            return
        names = [argument.arg for argument in (*scope.args.args, *scope.args.kwonlyargs)]
        for call in self.calls if name in names else ():
            if isinstance(call.func, ast.Name) and call.func.id == scope.name:
                yield from call.args[names.index(name) :][:1]
                yield from (k.value for k in call.keywords if k.arg == name)

    def shown(self, node: ast.Constant | ast.JoinedStr) -> str:
        """A text with names in braces where something is filled in."""
        pieces = node.values if isinstance(node, ast.JoinedStr) else [node]
        return " ".join("".join(map(self._piece, pieces)).split())

    def _piece(self, node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        assert isinstance(node, ast.FormattedValue)
        name = ast.unparse(node.value)
        is_name = re.fullmatch(r"\w+", name)
        return self.constants.get(name, f"{{{name}}}") if is_name else "{…}"


def _assigned(name: str, scope: ast.AST) -> Iterator[ast.expr]:
    """What a name of a function is set to, and what is added to it."""
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=[ast.Name(id=target)]) if target == name:
                yield node.value
            case ast.AnnAssign(target=ast.Name(id=target)) | ast.AugAssign(target=ast.Name(id=target)):
                if target == name and node.value is not None:
                    yield node.value
            case ast.NamedExpr(target=ast.Name(id=target)) if target == name:
                yield node.value
            case ast.Call(func=ast.Attribute(value=ast.Name(id=target), attr="append" | "extend")):
                if target == name:
                    yield from node.args
