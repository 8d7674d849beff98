"""Renders the chart with Helm's own code, as JSON on standard output: what Helm's linter says, the text of every file, and its documents."""

import json
import sys

import kubernetes_validate
import yaml
from helm_python import chart

FOLDER, CASES = sys.argv[1], json.loads(sys.argv[2])
RELEASE = {"name": "weft", "namespace": "mesh"}


def render(values):
    if isinstance(values, str):
        values = yaml.safe_load(values)
    loaded = chart.Chart.load(FOLDER)
    try:
        loaded.validate_schema(values)
        files = loaded.render(values, **RELEASE)
    except Exception as error:
        return {"refused": str(error)}
    lint = chart.lint(FOLDER, values, strict=True, namespace=RELEASE["namespace"])
    documents, invalid = [], []
    for path, text in sorted(files.items()):
        for document in yaml.safe_load_all(text) if path.endswith(".yaml") else []:
            if document is None:
                continue
            documents.append(document)
            try:
                kubernetes_validate.validate(document, "1.33", strict=True)
            except Exception as error:
                invalid.append(f"{path}: {error}")
    again = chart.Chart.load(FOLDER).render(values, **RELEASE)
    return {
        "lint": lint["errors"],
        "files": files,
        "documents": documents,
        "invalid": invalid,
        "twice_alike": files == again,
    }


json.dump({name: render(values) for name, values in CASES.items()}, sys.stdout)
