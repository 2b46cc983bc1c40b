"""Fails if a dependency of a published crate declares a newer Rust version than the argument."""

import json
import subprocess
import sys

wanted = sys.argv[1]
metadata = json.loads(
    subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"],
        check=True, capture_output=True, text=True,
    ).stdout
)
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}


def version(text):
    return tuple(int(part) for part in text.split("."))[:2]


# The packages that users of the crates build, without dev-dependencies.
todo = [id for id in packages if packages[id]["name"] in ("kvtyped", "kvtyped-derive")]
seen = set()
while todo:
    id = todo.pop()
    if id in seen:
        continue
    seen.add(id)
    for dependency in nodes[id]["deps"]:
        if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
            todo.append(dependency["pkg"])

silent = sorted(packages[id]["name"] for id in seen if not packages[id]["rust_version"])
newer = sorted(
    f"{packages[id]['name']} {packages[id]['version']} needs {packages[id]['rust_version']}"
    for id in seen
    if packages[id]["rust_version"] and version(packages[id]["rust_version"]) > version(wanted)
)
print(f"{len(seen)} packages, {len(newer)} of them need a newer Rust than {wanted}; {len(silent)} declare none: {', '.join(silent)}")
if newer:
    sys.exit("\n".join(newer))
