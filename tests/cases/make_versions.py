"""Writes versions.tsv: the operators of ONNX for inference, and the versions at which each changed.

    pip install onnx onnxruntime
    python make_versions.py
"""

from collections import defaultdict
from pathlib import Path

import onnx
from onnxruntime.capi import _pybind_state

versions, deprecated = defaultdict(set), {}
for schema in onnx.defs.get_all_schemas_with_history():
    key = (schema.domain, schema.name)
    versions[key].add(schema.since_version)
    if schema.since_version == max(versions[key]):
        deprecated[key] = schema.deprecated
for schema in _pybind_state.get_all_operator_schema():
    if schema.domain == "com.microsoft":
        versions[(schema.domain, schema.name)].add(schema.since_version)
lines = []
for (domain, name), since in sorted(versions.items()):
    if domain != "ai.onnx.preview.training":
        lines.append("\t".join([domain, name, ",".join(map(str, sorted(since)))]))
Path(__file__).with_name("versions.tsv").write_text("\n".join(lines) + "\n")
