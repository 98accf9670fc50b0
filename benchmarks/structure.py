# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sizes of modules and functions, import cycles and wording of the package.

Run as ``python benchmarks/structure.py [ROOT ...]`` to print one column for each source tree.
"""

import argparse
import ast
import re
from pathlib import Path
from statistics import median, quantiles

# Clauses that need a second reading, such as "what tells the image".
INDIRECT = re.compile(r"\bwhat (is|are|it|the)\b|\bthat which\b", re.IGNORECASE)
INDIRECT_SUMMARY = re.compile(r"(what|which|whether)\b", re.IGNORECASE)
SENTENCE = re.compile(r"(?<=[.:;])\s+")


def sources(root, folder="levelmatch"):
    """Return the path and the syntax tree of each Python module of a folder, by its name."""
    found = {}
    for path in sorted((Path(root) / folder).rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path, ast.parse(path.read_text(encoding="utf-8"))
    return found


def functions(modules):
    """Yield the module, the node and the lines without docstring of each function."""
    for name, (_, tree) in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                body = node.body
                first = body[0]
                doc = 0
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                    doc = first.end_lineno - first.lineno + 1
                yield name, node, node.end_lineno - node.lineno + 1 - doc


def n_parameters(node):
    """Return the number of parameters of a function without ``self`` and ``cls``."""
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def imports(modules):
    """Return the modules that each module imports from among them, including lazy imports."""
    graph = {name: set() for name in modules}
    for name, (_, tree) in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    graph[name].add(whole if whole in modules else node.module)
            elif isinstance(node, ast.Import):
                graph[name].update(alias.name for alias in node.names)
    return {name: sorted((found & set(modules)) - {name}) for name, found in graph.items()}


def cycles(graph):
    """Return the modules in an import cycle."""

    def reached(start):
        seen, todo = set(), list(graph[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += graph[name]
        return seen

    return sorted(name for name in graph if name in reached(name))


def documented(modules):
    """Yield the place and the text of each docstring."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    for name, (_, tree) in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, kinds) and ast.get_docstring(node):
                yield f"{name}:{getattr(node, 'name', '')}", ast.get_docstring(node)


def indirect_sentences(modules):
    """Return the number of sentences, and those with an indirect clause."""
    total, found = 0, []
    for place, text in documented(modules):
        for paragraph in text.split("\n\n"):
            for sentence in SENTENCE.split(" ".join(paragraph.split())):
                total += bool(sentence)
                if INDIRECT.search(sentence):
                    found.append((place, sentence))
    return total, found


def indirect_summaries(modules):
    """Return the summaries that neither start with a verb nor name the thing."""
    return [(p, d.splitlines()[0]) for p, d in documented(modules) if INDIRECT_SUMMARY.match(d)]


def measures(root):
    """Return the rows of the table for one source tree."""
    modules = sources(root)
    # Compiled modules and headers count as lines only.
    texts = [
        p for kind in ("*.py", "*.pyx", "*.h") for p in (Path(root) / "levelmatch").rglob(kind)
    ]
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in texts]
    sizes = [len(path.read_text(encoding="utf-8").splitlines()) for path, _ in modules.values()]
    found = list(functions(modules))
    lengths = [length for _, _, length in found]
    classes = [n for _, t in modules.values() for n in ast.walk(t) if isinstance(n, ast.ClassDef)]
    total, indirect = indirect_sentences(modules)
    return {
        "lines": sum(lines),
        "modules": len(sizes),
        "module lines, median": median(sizes),
        "module lines, largest": max(sizes),
        "functions": len(lengths),
        "function lines, median": median(lengths),
        "function lines, 90 %": quantiles(lengths, n=10)[-1],
        "function lines, largest": max(lengths),
        "functions with over 6 parameters": sum(n_parameters(node) > 6 for _, node, _ in found),
        "classes": len(classes),
        "modules in import cycles": len(cycles(imports(modules))),
        "indirect sentences per hundred": round(100 * len(indirect) / total, 2),
        "indirect summaries": len(indirect_summaries(modules)),
    }


def main():
    """Print one column of measures for each source tree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("roots", nargs="*", default=[Path(__file__).parents[1]], type=Path)
    parser.add_argument("--list", action="store_true", help="print the indirect sentences")
    options = parser.parse_args()
    columns = [measures(root) for root in options.roots]
    for row in columns[0]:
        print(f"{row:34}" + "".join(f"{column[row]:>12g}" for column in columns))
    if options.list:
        modules = sources(options.roots[-1])
        for place, text in [*indirect_sentences(modules)[1], *indirect_summaries(modules)]:
            print(f"{place}: {text}")


if __name__ == "__main__":
    main()
