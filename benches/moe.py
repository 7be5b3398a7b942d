"""Mixture-of-experts models for benchmarks, and their benchmarks.

    python3 benches/moe.py layer OUT            one layer (H 1024, E 32, k 4, I 704): loop over experts, gathered weights, contrib MoE
    python3 benches/moe.py lm OUT               a mini Qwen-MoE language model with external data (hidden 1024, 8 layers, 32 experts)
    python3 benches/moe.py deep OUT             128 experts in 48 layers as loops of about 30 nodes an expert (H 64, I 32)
    python3 benches/moe.py bench OUT [--fastinference BIN] [--tokens 1,8,32,128,512]
    python3 benches/moe.py lm-bench OUT [--fastinference BIN] [--batch 1,8,32]     one token after 128, on the file that `lm` wrote

"Unfused" is the same binary's plan when compilation stops before `fuse-moe-gemm`; later passes are missing from it too.
Needs numpy and onnx; the benchmarks also onnxruntime, and openvino where it is installed. Weights are random with a fixed seed.
"""

import argparse
import os
import re
import subprocess
import sys
import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Collects nodes and weights; large weights go to one external file."""

    def __init__(self, seed, path=None):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights, self.inputs, self.outputs, self.small = [], [], [], [], {}
        self.count = 0
        self.external = open(path + ".data", "wb") if path else None
        self.location = os.path.basename(path) + ".data" if path else None

    def node(self, op, inputs, outputs=1, name=None, **attributes):
        self.count += 1
        names = [f"{name or op}_{self.count}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"{name or op}_{self.count}", **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array):
        array = np.array(array, order="C")
        key = (array.tobytes(), array.dtype.str, array.shape) if array.size < 64 else None
        if key in self.small:
            return self.small[key]
        self.count += 1
        name = f"w_{self.count}"
        if self.external and array.nbytes >= 4096:
            tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
            tensor.data_location = TensorProto.EXTERNAL
            start = -(-self.external.tell() // 4096) * 4096
            self.external.seek(start)
            array.tofile(self.external)
            for k, v in (("location", self.location), ("offset", start), ("length", array.nbytes)):
                entry = tensor.external_data.add()
                entry.key, entry.value = k, str(v)
        else:
            tensor = numpy_helper.from_array(array, name)
        self.weights.append(tensor)
        if key:
            self.small[key] = name
        return name

    def ints(self, *values):
        return self.constant(np.array(values, dtype=np.int64))

    def number(self, value, dtype=np.int64):
        return self.constant(np.array(value, dtype=dtype))

    def weight(self, *shape, std=0.02):
        return self.constant(self.rng.standard_normal(size=shape, dtype=np.float32) * np.float32(std))

    def matmul(self, x, w):
        return self.node("MatMul", [x, w])

    def silu(self, x):
        return self.node("Mul", [x, self.node("Sigmoid", [x])])

    def mlp(self, x, gate, up, down):
        hidden = self.node("Mul", [self.silu(self.matmul(x, gate)), self.matmul(x, up)])
        return self.matmul(hidden, down)

    def save(self, path, opset=18, contrib=False):
        graph = helper.make_graph(self.nodes, "moe", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("com.microsoft", 1)] if contrib else [])
        if self.external:
            self.external.close()
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
        print(f"{path}: {len(self.nodes)} nodes", flush=True)


def value(name, dtype, shape):
    return helper.make_tensor_value_info(name, dtype, shape)


F32, I64 = TensorProto.FLOAT, TensorProto.INT64


class Experts:
    """Weights of one layer, the same in every form."""

    def __init__(self, rng, hidden, experts, inner):
        draw = lambda *shape: rng.standard_normal(size=shape, dtype=np.float32) * np.float32(0.02)
        self.router = draw(hidden, experts)
        self.gate, self.up = draw(experts, hidden, inner), draw(experts, hidden, inner)
        self.down = draw(experts, inner, hidden)


def route(b, x, w, k, normalise=False):
    logits = b.matmul(x, b.constant(w.router))
    scores = b.node("Softmax", [logits], axis=-1)
    values, ids = b.node("TopK", [scores, b.ints(k)], 2, axis=-1, largest=1, sorted=1)
    if normalise:
        values = b.node("Div", [values, b.node("ReduceSum", [values, b.ints(-1)], keepdims=1)])
    return logits, values, ids


def loop(b, x, w, k, normalise=False):
    """As torch's TorchScript exporter writes `for expert in experts`: places of a one-hot table, index_add."""
    _, values, ids = route(b, x, w, k, normalise)
    experts, hidden = w.gate.shape[0], w.gate.shape[1]
    hot = b.node("OneHot", [ids, b.ints(experts), b.ints(0, 1)], axis=-1)
    mask = b.node("Transpose", [hot], perm=[2, 1, 0])
    total = b.node("ConstantOfShape", [b.node("Shape", [x])], value=numpy_helper.from_array(np.zeros(1, np.float32)))
    flat = b.node("Reshape", [values, b.ints(-1, 1)])
    for e in range(experts):
        chosen = b.node("Gather", [mask, b.number(e)], axis=0)
        places = b.node("Transpose", [b.node("NonZero", [b.node("Cast", [chosen], to=TensorProto.BOOL)])], perm=[1, 0])
        slot, token = b.node("Split", [places, b.ints(1, 1)], 2, axis=1)
        slot, token = b.node("Squeeze", [slot, b.ints(1)]), b.node("Squeeze", [token, b.ints(1)])
        rows = b.node("Gather", [b.node("Unsqueeze", [x, b.ints(0)]), token], axis=1)
        rows = b.node("Reshape", [rows, b.ints(-1, hidden)])
        y = b.mlp(rows, b.constant(w.gate[e]), b.constant(w.up[e]), b.constant(w.down[e]))
        width = b.node("Gather", [b.node("Shape", [ids]), b.ints(1)], axis=0)
        pair = b.node("Add", [slot, b.node("Mul", [token, width])])
        y = b.node("Mul", [y, b.node("Gather", [flat, pair], axis=0)])
        index = b.node("Expand", [b.node("Unsqueeze", [token, b.ints(1)]), b.node("Shape", [y])])
        # index_add before opset 16: zeros, scattered rows, a sum.
        zeros = b.node("ConstantOfShape", [b.node("Shape", [x])], value=numpy_helper.from_array(np.zeros(1, np.float32)))
        total = b.node("Add", [total, b.node("ScatterElements", [zeros, index, y], axis=0)])
    return total


def gathered(b, x, w, k, normalise=False):
    _, values, ids = route(b, x, w, k, normalise)
    rows = b.node("Unsqueeze", [x, b.ints(1, 2)])
    take = lambda table: b.node("Gather", [b.constant(table), ids], axis=0)
    y = b.mlp(rows, take(w.gate), take(w.up), take(w.down))
    y = b.node("Mul", [b.node("Squeeze", [y, b.ints(2)]), b.node("Unsqueeze", [values, b.ints(2)])])
    return b.node("ReduceSum", [y, b.ints(1)], keepdims=0)


def contrib(b, x, w, k, normalise=False):
    logits = b.matmul(x, b.constant(w.router))
    experts, hidden, inner = w.gate.shape
    both = np.stack([w.gate.transpose(0, 2, 1), w.up.transpose(0, 2, 1)], axis=2).reshape(experts, 2 * inner, hidden)
    return b.node("MoE", [x, logits, b.constant(both), "", b.constant(w.down.transpose(0, 2, 1))],
                  domain="com.microsoft", k=k, activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.0,
                  activation_beta=0.0, swiglu_limit=1e9, normalize_routing_weights=int(normalise))


FORMS = {"loop": loop, "gathered": gathered, "contrib": contrib}


def layer(out, hidden=1024, experts=32, k=4, inner=704):
    for name, form in FORMS.items():
        b = Builder(11)
        w = Experts(b.rng, hidden, experts, inner)
        b.inputs.append(value("x", F32, ["T", hidden]))
        b.node("Identity", [form(b, "x", w, k)])
        b.nodes[-1].output[0] = "y"
        b.outputs.append(value("y", F32, ["T", hidden]))
        b.save(os.path.join(out, f"moe_{name}.onnx"), contrib=name == "contrib")


def deep(out, layers=48, hidden=64, experts=128, k=8, inner=32):
    b = Builder(7)
    b.inputs.append(value("x", F32, ["T", hidden]))
    x = "x"
    for _ in range(layers):
        x = b.node("Add", [x, loop(b, x, Experts(b.rng, hidden, experts, inner), k, normalise=True)])
    b.node("Identity", [x])
    b.nodes[-1].output[0] = "y"
    b.outputs.append(value("y", F32, ["T", hidden]))
    b.save(os.path.join(out, "moe_deep.onnx"))


def norm(b, x, hidden):
    square = b.node("Pow", [x, b.number(2.0, np.float32)])
    mean = b.node("Add", [b.node("ReduceMean", [square, b.ints(-1)], keepdims=1), b.number(1e-6, np.float32)])
    scaled = b.node("Div", [x, b.node("Sqrt", [mean])])
    return b.node("Mul", [scaled, b.constant(np.ones(hidden, np.float32))])


def attention(b, x, past, layer, hidden, heads, dim):
    """Heads of one layer with rotary positions left out: the layer is about experts."""
    project = lambda: b.node("Transpose", [b.node("Reshape", [b.matmul(x, b.weight(hidden, heads * dim)),
                                                              b.ints(0, 0, heads, dim)])], perm=[0, 2, 1, 3])
    q, k, v = project(), project(), project()
    b.nodes.append(helper.make_node("Concat", [f"{past}.{layer}.key", k], [f"present.{layer}.key"], axis=2))
    b.nodes.append(helper.make_node("Concat", [f"{past}.{layer}.value", v], [f"present.{layer}.value"], axis=2))
    scores = b.node("MatMul", [q, b.node("Transpose", [f"present.{layer}.key"], perm=[0, 1, 3, 2])])
    scores = b.node("Mul", [scores, b.number(dim ** -0.5, np.float32)])
    scores = b.node("Add", [scores, "mask"])
    y = b.node("MatMul", [b.node("Softmax", [scores], axis=-1), f"present.{layer}.value"])
    y = b.node("Reshape", [b.node("Transpose", [y], perm=[0, 2, 1, 3]), b.ints(0, 0, heads * dim)])
    return b.matmul(y, b.weight(heads * dim, hidden))


def lm(out, form="loop", hidden=1024, layers=8, experts=32, k=4, inner=704, shared=2816, vocabulary=32000, heads=16):
    path = os.path.join(out, f"qwen_moe_mini_{form}.onnx")
    b = Builder(3, path)
    dim = hidden // heads
    b.inputs.append(value("input_ids", I64, ["batch", "seq"]))
    b.inputs.append(value("mask", F32, ["batch", 1, "seq", "total"]))
    x = b.node("Gather", [b.weight(vocabulary, hidden), "input_ids"], axis=0)
    for i in range(layers):
        for part in ("key", "value"):
            b.inputs.append(value(f"past.{i}.{part}", F32, ["batch", heads, "past", dim]))
            b.outputs.append(value(f"present.{i}.{part}", F32, ["batch", heads, "total", dim]))
        x = b.node("Add", [x, attention(b, norm(b, x, hidden), "past", i, hidden, heads, dim)])
        rows = b.node("Reshape", [norm(b, x, hidden), b.ints(-1, hidden)])
        y = FORMS[form](b, rows, Experts(b.rng, hidden, experts, inner), k, normalise=True)
        always = b.mlp(rows, b.weight(hidden, shared), b.weight(hidden, shared), b.weight(shared, hidden))
        gate = b.node("Sigmoid", [b.matmul(rows, b.weight(hidden, 1))])
        y = b.node("Add", [y, b.node("Mul", [gate, always])])
        x = b.node("Add", [x, b.node("Reshape", [y, b.node("Shape", [x])])])
    logits = b.matmul(norm(b, x, hidden), b.weight(hidden, vocabulary))
    b.node("Identity", [logits])
    b.nodes[-1].output[0] = "logits"
    b.outputs.insert(0, value("logits", F32, ["batch", "seq", vocabulary]))
    b.save(path, contrib=form == "contrib")


def compile_plan(binary, model, plan, fused, *flags):
    command = [binary, "compile", model, "-o", plan, "--force", *flags]
    subprocess.run(command + ([] if fused else ["--stop-after", "fuse-attention"]), check=True, capture_output=True)


def ours(binary, plan, repeat, threads, options):
    """The least time of some runs in ms, working memory as text, and the most bytes that the process had."""
    command = [binary, "run", plan, "--repeat", str(repeat), "--warmup", "2", "--threads", str(threads), *options]
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1)
        os.close(read)
        os.execv(binary, command)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)}: status {status}\n{text}")
    number, unit = re.search(r"min ([0-9.]+) (ns|us|ms|s),", text).groups()
    memory = re.search(r"working memory ([0-9.]+ \w+)", text)
    return float(number) * {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}[unit], memory.group(1) if memory else "", usage.ru_maxrss


def onnxruntime_runner(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})


def openvino_runner(path, threads):
    import openvino

    core = openvino.Core()
    model = core.compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"})
    request = model.create_infer_request()
    return lambda x: request.infer({0: x})


def timed(run, x, repeat):
    run(x)
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        run(x)
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def bench(options):
    """The best of several rounds; contenders take turns, so that other load meets all of them."""
    layer(options.out)
    path = lambda form: os.path.join(options.out, f"moe_{form}.onnx")
    contenders = {}
    for label in ["fused", "unfused"]:
        for form in FORMS:
            if label == "unfused" and form == "contrib":
                continue  # the reference evaluation
            plan = os.path.join(options.out, f"{label}_{form}.plan")
            compile_plan(options.fastinference, path(form), plan, label == "fused")
            contenders[f"{label} {form}"] = ("ours", options.fastinference, plan)
    for form in FORMS:
        contenders[f"onnxruntime {form}"] = ("peer", onnxruntime_runner(path(form), options.threads))
    try:
        contenders["OpenVINO loop"] = ("peer", openvino_runner(path("loop"), options.threads))
    except ImportError:
        print("openvino is not installed")
    tokens = [int(t) for t in options.tokens.split(",")]
    best = {name: {} for name in contenders}
    memory = {}
    for _ in range(options.rounds):
        for t in tokens:
            x = np.random.default_rng(t).standard_normal((t, 1024), dtype=np.float32)
            repeat = max(3, min(30, 256 // t))
            for name, (kind, *how) in contenders.items():
                if "gathered" in name and "fused gathered" != name and t > options.most_gathered:
                    continue
                if kind == "ours":
                    took, memory[name, t], _ = ours(*how, repeat, options.threads, ["--dim", f"T={t}"])
                else:
                    took = timed(how[0], x, repeat)
                best[name][t] = min(took, best[name].get(t, float("inf")))
    print("| ms | " + " | ".join(f"T = {t}" for t in tokens) + " |\n| --- |" + " --- |" * len(tokens))
    for name, row in best.items():
        print(f"| {name} | " + " | ".join(f"{row[t]:.2f}" if t in row else "-" for t in tokens) + " |")
    print("working memory, fused loop: " + ", ".join(f"T = {t}: {memory['fused loop', t]}" for t in tokens))


def lm_inputs(batch, past=128, layers=8, heads=16, dim=64, vocabulary=32000):
    rng = np.random.default_rng(batch)
    yield "input_ids", rng.integers(0, vocabulary, (batch, 1))
    yield "mask", np.zeros((batch, 1, 1, past + 1), np.float32)
    for i in range(layers):
        for part in ("key", "value"):
            yield f"past.{i}.{part}", rng.standard_normal((batch, heads, past, dim), dtype=np.float32)


def lm_peer(options):
    """Prints onnxruntime's least time, and the most memory that the process had, in KiB."""
    import resource

    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    inputs = dict(lm_inputs(int(options.batch)))
    path = os.path.join(options.out, f"qwen_moe_mini_{options.form}.onnx")
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    session.run(None, inputs)
    took = []
    for _ in range(options.repeat):
        start = time.perf_counter()
        session.run(None, inputs)
        took.append(time.perf_counter() - start)
    print(min(took) * 1e3, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def lm_bench(options):
    """One token after 128 through `main`, every contender in a process of its own, in turns; the least time of all rounds."""
    model = os.path.join(options.out, f"qwen_moe_mini_{options.form}.onnx")
    best = {}
    plans = {label: os.path.join(options.out, f"lm_{label}_{options.form}.plan") for label in ("fused", "unfused")}
    for label, plan in plans.items():
        compile_plan(options.fastinference, model, plan, label == "fused", "--link-weights")
    batches = [int(b) for b in options.batch.split(",")]
    for b in batches:
        np.savez(os.path.join(options.out, f"lm_inputs_{b}.npz"), **dict(lm_inputs(b)))

    def keep(label, batch, took, *memory):
        best[label, batch] = min(best.get((label, batch), (float("inf"),)), (took, *memory))

    for _ in range(options.rounds):
        for b in batches:
            given = ["--input", os.path.join(options.out, f"lm_inputs_{b}.npz")]
            for label, plan in plans.items():
                took, working, peak = ours(options.fastinference, plan, options.repeat, options.threads, given)
                keep(label, b, took, working, peak)
            command = [sys.executable, __file__, "lm-peer", options.out, "--form", options.form, "--batch", str(b),
                       "--threads", str(options.threads), "--repeat", str(options.repeat)]
            took, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            keep("onnxruntime", b, float(took), "", int(peak))
    print("| | batch | least, ms | working memory | peak of the process, MB |\n| --- | ---: | ---: | ---: | ---: |")
    for (label, b), (took, working, peak) in best.items():
        print(f"| {label} | {b} | {took:.2f} | {working} | {peak * 1024 / 1e6:.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["layer", "lm", "deep", "bench", "lm-bench", "lm-peer"])
    parser.add_argument("out")
    parser.add_argument("--form", choices=list(FORMS), default="loop")
    parser.add_argument("--fastinference", default="target/release/fastinference")
    parser.add_argument("--tokens", default="1,8,32,128,512")
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=6, help="timed runs of a process of `lm-bench`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most-gathered", type=int, default=32, help="tokens up to which gathered weights are tried unfused")
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    if options.what == "layer":
        layer(options.out)
    elif options.what == "lm":
        lm(options.out, options.form)
    elif options.what == "deep":
        deep(options.out)
    elif options.what == "lm-bench":
        lm_bench(options)
    elif options.what == "lm-peer":
        lm_peer(options)
    else:
        bench(options)


if __name__ == "__main__":
    main()
