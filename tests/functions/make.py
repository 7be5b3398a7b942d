"""Writes the cases in this folder: models with functions, in ONNX's text form, and what onnxruntime makes of them.

    pip install onnx onnxruntime && python3 tests/functions/make.py
"""

import pathlib

import numpy as np
import onnx
import onnx.parser
import onnxruntime

X = np.array([-2, -0.5, 1.5], np.float32)
HEAD = '<ir_version: 10, opset_import: ["" : 21, "local" : 1]>'
LOCAL = '<domain: "local", opset_import: ["" : 21, "local" : 1]>'

CASES = {
    # A call without the attribute gets the function's default, one with it its own.
    "attribute_default": (
        f"""{HEAD}
        g (float[N] x) => (float[N] a, float[N] b) {{
          a = local.Scaled (x)
          b = local.Scaled <factor = 3.0> (x)
        }}
        {LOCAL}
        Scaled <factor: float = 2.0> (x) => (y) {{
          f = Constant <value_float: float = @factor> ()
          y = Mul (x, f)
        }}""",
        [{"x": X}],
    ),
    # Functions in branches and in functions; an attribute handed on, and the same function with its default beside it.
    "nesting": (
        f"""{HEAD}
        g (float[N] x, bool c) => (float[N] y) {{
          y = If (c) <
            then_branch = t () => (float[N] p) {{ p = local.Outer <rate = 0.5> (x) }},
            else_branch = e () => (float[N] q) {{ q = local.Inner (x) }}
          >
        }}
        {LOCAL}
        Inner <slope: float = 0.25> (x) => (y) {{
          y = LeakyRelu <alpha: float = @slope> (x)
        }}
        {LOCAL}
        Outer <rate> (x) => (y) {{
          t = local.Inner <slope: float = @rate> (x)
          u = local.Inner (t)
          y = Add (t, u)
        }}""",
        [{"x": X, "c": np.array(True)}, {"x": X, "c": np.array(False)}],
    ),
    # An attribute that neither the call nor the function gives is the operator's default.
    "attribute_left_out": (
        f"""{HEAD}
        g (float[N] x) => (float[N] a, float[N] b) {{
          a = local.Leaky (x)
          b = local.Leaky <slope = 0.5> (x)
        }}
        {LOCAL}
        Leaky <slope> (x) => (y) {{
          y = LeakyRelu <alpha: float = @slope> (x)
        }}""",
        [{"x": X}],
    ),
    # Names inside a function are its own, however the caller calls its values.
    "names": (
        f"""{HEAD}
        g (float[N] x) => (float[N] z) {{
          t = Neg (x)
          y = local.Twice (t)
          z = Add (y, t)
        }}
        {LOCAL}
        Twice (y) => (x) {{
          t = Abs (y)
          x = Add (t, y)
        }}""",
        [{"x": X}],
    ),
    # A function with the name of an operator of ONNX's own is another one in its own domain.
    "shadowing": (
        f"""{HEAD}
        g (float[N] x) => (float[N] a, float[N] b) {{
          a = local.Neg (x)
          b = Neg (x)
        }}
        {LOCAL}
        Neg (x) => (y) {{
          y = Abs (x)
        }}""",
        [{"x": X}],
    ),
}


def overload():
    """Two functions of one name: the text form has no field for which of them a node means."""
    m = onnx.parser.parse_model(
        f"""{HEAD}
        g (float[N] x) => (float[N] a, float[N] b) {{
          a = local.Step (x)
          b = local.Step (x)
        }}
        {LOCAL}
        Step (x) => (y) {{
          one = Constant <value_float: float = 1.0> ()
          y = Add (x, one)
        }}"""
    )
    second = m.functions.add()
    second.CopyFrom(m.functions[0])
    second.overload = "double"
    del second.node[:]
    second.node.append(onnx.helper.make_node("Add", ["x", "x"], ["y"]))
    m.graph.node[1].overload = "double"
    return m, [{"x": X}]


def write(name, model, feeds):
    onnx.checker.check_model(model)
    folder = pathlib.Path(__file__).parent / name
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for k, feed in enumerate(feeds):
        data = folder / f"test_data_set_{k}"
        data.mkdir(exist_ok=True)
        for i, x in enumerate(session.get_inputs()):
            onnx.save_tensor(onnx.numpy_helper.from_array(feed[x.name]), data / f"input_{i}.pb")
        for i, y in enumerate(session.run(None, feed)):
            onnx.save_tensor(onnx.numpy_helper.from_array(y), data / f"output_{i}.pb")


for name, (text, feeds) in CASES.items():
    write(name, onnx.parser.parse_model(text), feeds)
write("overload", *overload())
