"""Language models of known shapes with random weights, and how fast a GPU runs them.

    python3 benches/gpu.py write tinyllama OUT      TinyLlama-1.1B, f16 (2.2 GB)
    python3 benches/gpu.py write qwen-moe OUT       Qwen1.5-MoE-A2.7B, bf16 (28 GB)
    python3 benches/gpu.py write tinyllama-int4 OUT     the same with 4-bit weights in blocks of 32 (0.7 GB); so qwen-moe-int4 (8.5 GB)
    python3 benches/gpu.py write tinyllama-f32 OUT  the first in f32 (4.4 GB), for `compile --compute`
    python3 benches/gpu.py write small OUT          two layers of each kind, for trying out; so small-int4
    python3 benches/gpu.py bench OUT.. [--fastinference BIN] [--device hip:0] [--batch 1,8,32]
    python3 benches/gpu.py compare OUT.. [--fastinference BIN] [--device hip:0]

`write` needs numpy and onnx; torch, where it is there with a GPU, draws the weights faster. `bench` prints tokens per second and how much that
is of the floor: the bytes that a step must read (every weight but unchosen experts and the embedding, and the caches) over the
bandwidth of a copy on the same device, which torch measures unless `--bandwidth` gives it in GB/s. `compare` gives the device and the processor the same tokens and says how far the logits of each
position are apart, as a share of their norm, and how often both prefer the same token.
"""

import argparse
import json
import os
import subprocess
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPES = {
    "tinyllama": dict(dtype="f16", hidden=2048, layers=22, heads=32, kv_heads=4, inner=5632, vocabulary=32000),
    "qwen-moe": dict(dtype="bf16", hidden=2048, layers=24, heads=16, kv_heads=16, inner=1408, vocabulary=151936, experts=60, chosen=4,
                     shared=5632, biased=True),
    "small": dict(dtype="f16", hidden=256, layers=2, heads=4, kv_heads=2, inner=512, vocabulary=1000, experts=8, chosen=2, shared=512,
                  biased=True),
}
SHAPES |= {f"{name}-int4": dict(shape, dtype="f16", bits=4, block=32) for name, shape in SHAPES.items()}
SHAPES["tinyllama-f32"] = dict(SHAPES["tinyllama"], dtype="f32")
TYPES = {"f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "f32": TensorProto.FLOAT}


def torch_on_gpu():
    """torch, where it is there and sees a GPU."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def narrow(values, dtype):
    """f32 as bits of a type, rounded to the nearest; numpy has no bf16."""
    values = np.ascontiguousarray(values, np.float32)
    if dtype == "bf16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return values.astype(np.float16) if dtype == "f16" else values


class Drawn:
    """Random numbers from numpy, or from torch on a GPU."""

    def __init__(self, dtype):
        self.dtype, self.torch = dtype, torch_on_gpu()
        self.numpy = np.random.default_rng(1)
        if self.torch:
            self.torch.manual_seed(1)

    def normal(self, shape, std):
        if not self.torch:
            return narrow(self.numpy.standard_normal(shape, np.float32) * np.float32(std), self.dtype)
        t = self.torch
        wide, bits = {"f16": (t.float16, t.int16), "bf16": (t.bfloat16, t.int16), "f32": (t.float32, t.int32)}[self.dtype]
        return (t.randn(shape, device="cuda") * std).to(wide).view(bits).cpu().numpy()

    def bytes(self, shape):
        if not self.torch:
            return self.numpy.integers(0, 256, shape, np.uint8)
        return self.torch.randint(0, 256, shape, device="cuda", dtype=self.torch.uint8).cpu().numpy()


class Writer:
    """Nodes, and weights that go to one external file as they are drawn."""

    def __init__(self, path, dtype, bits=None, block=None):
        self.path, self.dtype, self.type, self.bits, self.block = path, dtype, TYPES[dtype], bits, block
        self.drawn = Drawn(dtype)
        self.nodes, self.weights, self.inputs, self.outputs = [], [], [], []
        self.data = open(path + ".data", "wb")

    def node(self, op, inputs, outputs=1, domain=None, **attributes):
        names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)] if isinstance(outputs, int) else outputs
        self.nodes.append(helper.make_node(op, inputs, names, name=f"{op}_{len(self.nodes)}", domain=domain, **attributes))
        return names[0] if len(names) == 1 else names

    def constant(self, value):
        tensor = numpy_helper.from_array(np.array(value), f"c_{len(self.weights)}")
        self.weights.append(tensor)
        return tensor.name

    def raw(self, values):
        """A constant of bytes, or of the model's type as its bits."""
        start = -(-self.data.tell() // 4096) * 4096
        self.data.seek(start)
        self.data.write(np.ascontiguousarray(values).data)
        element = TensorProto.UINT8 if values.itemsize == 1 else self.type
        tensor = TensorProto(name=f"w_{len(self.weights)}", dims=values.shape, data_type=element, data_location=TensorProto.EXTERNAL)
        for k, v in (("location", os.path.basename(self.path) + ".data"), ("offset", start), ("length", values.nbytes)):
            tensor.external_data.add(key=k, value=str(v))
        self.weights.append(tensor)
        return tensor.name

    def tensor(self, values):
        return self.raw(narrow(values, self.dtype))

    def random(self, *shape, std=0.02):
        return self.raw(self.drawn.normal(shape, std))

    def packed(self, *shape, std=0.02):
        """Evenly drawn 4-bit weights around 8, two in a byte, of shape[-1] inputs; their scales."""
        blocks = shape[-1] // self.block
        bytes_shape = (*shape[:-1], shape[-1] // 2) if len(shape) > 2 else (shape[0], blocks, self.block // 2)
        weights = self.raw(self.drawn.bytes(bytes_shape))
        return weights, self.tensor(np.full((*shape[:-1], blocks), std / 4.6))

    def linear(self, x, n, k, biased=False, outputs=1):
        """As torch writes it: the weight is [n, k], transposed in the graph."""
        if self.bits and n % 2 == 0:
            after = 1 if biased else outputs
            y = self.node("MatMulNBits", [x, *self.packed(n, k)], after, "com.microsoft", K=k, N=n, bits=self.bits, block_size=self.block)
        else:
            y = self.node("MatMul", [x, self.node("Transpose", [self.random(n, k)], perm=[1, 0])], 1 if biased else outputs)
        return self.node("Add", [y, self.random(n)], outputs) if biased else y

    def experts(self, x, logits, count, chosen, hidden, inner):
        """A layer of experts whose gate and linear part alternate."""
        shapes = (count, 2 * inner, hidden), (count, hidden, inner)
        how = dict(domain="com.microsoft", k=chosen, activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.0, activation_beta=0.0,
                   swiglu_limit=1e9, normalize_routing_weights=0)
        if not self.bits:
            first, second = (self.random(*shape) for shape in shapes)
            return self.node("MoE", [x, logits, first, "", second], **how)
        first, second = (self.packed(*shape) for shape in shapes)
        return self.node("QMoE", [x, logits, *first, "", *second], expert_weight_bits=self.bits, block_size=self.block,
                         weights_prepacked=0, **how)

    def norm(self, x, hidden):
        return self.node("RMSNormalization", [x, self.tensor(np.ones(hidden))], axis=-1, epsilon=1e-5)

    def swiglu(self, x, hidden, inner):
        gate = self.linear(x, inner, hidden)
        silu = self.node("Mul", [gate, self.node("Sigmoid", [gate])])
        return self.linear(self.node("Mul", [silu, self.linear(x, inner, hidden)]), hidden, inner)


def write(name, out):
    s = SHAPES[name]
    os.makedirs(out, exist_ok=True)
    path = os.path.join(out, "model.onnx")
    b = Writer(path, s["dtype"], s.get("bits"), s.get("block"))
    value = helper.make_tensor_value_info
    hidden, heads, kv_heads = s["hidden"], s["heads"], s["kv_heads"]
    dim = hidden // heads
    for input_name, rest in (("input_ids", "S"), ("attention_mask", "T"), ("position_ids", "S")):
        b.inputs.append(value(input_name, TensorProto.INT64, ["B", rest]))
    positions = np.arange(4096)[:, None] / 10000.0 ** (np.arange(0, dim, 2) / dim)[None]
    cos, sin = (b.tensor(f(positions)) for f in (np.cos, np.sin))
    # Row i of the new tokens sees the keys up to its own, where the mask is one.
    zero, one = b.constant(np.int64(0)), b.constant(np.int64(1))
    length = lambda x: b.node("Gather", [b.node("Shape", [x]), one], axis=0)
    total = length("attention_mask")
    keys = b.node("Unsqueeze", [b.node("Range", [zero, total, one]), b.constant(np.array([0]))])
    rows = b.node("Range", [b.node("Sub", [total, length("input_ids")]), total, one])
    seen = b.node("LessOrEqual", [keys, b.node("Unsqueeze", [rows, b.constant(np.array([1]))])])
    mask = b.node("Unsqueeze", [b.node("Cast", ["attention_mask"], to=TensorProto.BOOL), b.constant(np.array([1, 2]))])
    mask = b.node("And", [mask, seen])
    x = b.node("Gather", [b.random(s["vocabulary"], hidden), "input_ids"], axis=0)
    biased = s.get("biased", False)
    for i in range(s["layers"]):
        for part in ("key", "value"):
            b.inputs.append(value(f"past_key_values.{i}.{part}", b.type, ["B", kv_heads, "P", dim]))
            b.outputs.append(value(f"present.{i}.{part}", b.type, ["B", kv_heads, "T", dim]))
        h = b.norm(x, hidden)
        q, k, v = (b.linear(h, n * dim, hidden, biased) for n in (heads, kv_heads, kv_heads))
        q, k = (b.node("RotaryEmbedding", [t, cos, sin, "position_ids"], num_heads=n) for t, n in ((q, heads), (k, kv_heads)))
        past = [f"past_key_values.{i}.key", f"past_key_values.{i}.value"]
        y = b.node("Attention", [q, k, v, mask, *past], [f"y.{i}", f"present.{i}.key", f"present.{i}.value"], q_num_heads=heads,
                   kv_num_heads=kv_heads)[0]
        x = b.node("Add", [x, b.linear(y, hidden, heads * dim)])
        h = b.norm(x, hidden)
        if "experts" not in s:
            x = b.node("Add", [x, b.swiglu(h, hidden, s["inner"])])
            continue
        flat = b.node("Reshape", [h, b.constant(np.array([-1, hidden]))])
        logits = b.linear(flat, s["experts"], hidden)
        y = b.experts(flat, logits, s["experts"], s["chosen"], hidden, s["inner"])
        gate = b.node("Sigmoid", [b.linear(flat, 1, hidden)])
        y = b.node("Add", [y, b.node("Mul", [gate, b.swiglu(flat, hidden, s["shared"])])])
        x = b.node("Add", [x, b.node("Reshape", [y, b.node("Shape", [x])])])
    x = b.norm(x, hidden)
    b.linear(x, s["vocabulary"], hidden, outputs=["logits"])
    b.outputs.insert(0, value("logits", b.type, ["B", "S", s["vocabulary"]]))
    b.data.close()
    graph = helper.make_graph(b.nodes, name, b.inputs, b.outputs, b.weights)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=11), path)
    with open(os.path.join(out, "shape.json"), "w") as f:
        json.dump(s, f)
    print(f"{path}: {len(b.nodes)} nodes, {os.path.getsize(path + '.data') / 1e9:.2f} GB", flush=True)


def floor_bytes(s, batch, context):
    """Bytes that a step reads: experts that `batch` tokens choose evenly at random, every other weight, and the caches."""
    size = 4 if s["dtype"] == "f32" else 2
    weight = s["bits"] / 8 + size / s["block"] if "bits" in s else size
    hidden, heads, kv_heads = s["hidden"], s["heads"], s["kv_heads"]
    width = hidden // heads * kv_heads
    layer = hidden * (2 * hidden + 2 * width)
    if "experts" in s:
        touched = s["experts"] * (1 - (1 - s["chosen"] / s["experts"]) ** batch)
        layer += 3 * hidden * (touched * s["inner"] + s["shared"]) + hidden * s["experts"]
    else:
        layer += 3 * hidden * s["inner"]
    caches = 2 * width * batch * context
    return weight * (s["layers"] * layer + hidden * s["vocabulary"]) + size * s["layers"] * caches


def bandwidth():
    """Bytes per second of a copy on the device, read and written; None where torch cannot tell."""
    torch = torch_on_gpu()
    if torch is None:
        return None
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    c = torch.empty_like(a)
    times = []
    for _ in range(10):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        c.copy_(a)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return 2 * a.numel() / (sorted(times)[5] * 1e-3)


def bench(options):
    speed = options.bandwidth * 1e9 if options.bandwidth else bandwidth()
    known = f"{speed / 1e9:.0f} GB/s" if speed else "unknown (--bandwidth gives it)"
    print(f"bandwidth {known}\n", flush=True)
    print("| model | batch | step, ms | tokens/s | floor, tokens/s | of the floor | prompts, tokens/s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for folder in options.folders:
        with open(os.path.join(folder, "shape.json")) as f:
            shape = json.load(f)
        command = [options.fastinference, "bench", folder, "--device", options.device, "--batch", options.batch, "--steps", "128", "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{folder}: {done.stderr}", flush=True)
            continue
        for line in done.stdout.splitlines():
            found = json.loads(line)
            batch, rate = found["batch"], found["decode_tokens_per_s"]
            floor = batch * speed / floor_bytes(shape, batch, 128 + 64) if speed else None
            shown = [f"{floor:.0f}", f"{rate / floor:.0%}"] if floor else ["", ""]
            cells = [f"{os.path.basename(os.path.normpath(folder))} {shape['dtype']}", str(batch), f"{found['decode_ms']:.3f}", f"{rate:.0f}", *shown,
                     f"{found['prefill_tokens_per_s']:.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def logits(folder):
    """The first output in a folder, as f32: numpy has no bf16, whose bits are then written."""
    values = np.load(os.path.join(folder, "output_0.npy"))
    if values.dtype.itemsize == 2 and values.dtype.kind != "f":
        return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def compare(options, tokens=24):
    for folder in options.folders:
        with open(os.path.join(folder, "shape.json")) as f:
            shape = json.load(f)
        found = []
        with tempfile.TemporaryDirectory() as out:
            inputs = {
                "input_ids": np.random.default_rng(3).integers(0, shape["vocabulary"], (1, tokens)),
                "attention_mask": np.ones((1, tokens), np.int64),
                "position_ids": np.arange(tokens)[None],
            }
            np.savez(os.path.join(out, "in.npz"), **inputs)
            for device in (options.device, "cpu"):
                at = os.path.join(out, device.replace(":", ""))
                command = [options.fastinference, "run", folder, "--device", device, "--input", os.path.join(out, "in.npz"), "--dim", "P=0",
                           "--output-dir", at]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(f"{folder} on {device}: {done.stderr}", flush=True)
                    break
                found.append(logits(at)[0])
        if len(found) == 2:
            apart = np.linalg.norm(found[0] - found[1], axis=-1) / np.linalg.norm(found[1], axis=-1)
            same = (found[0].argmax(-1) == found[1].argmax(-1)).sum()
            print(f"{os.path.basename(folder)}: {tokens} positions, logits apart by {np.median(apart):.2e} of their norm in the median, "
                  f"{apart.max():.2e} at most; {same} of {tokens} prefer the same token", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    writes = parts.add_parser("write")
    writes.add_argument("shape", choices=SHAPES)
    writes.add_argument("out")
    benches = parts.add_parser("bench")
    benches.add_argument("folders", nargs="+")
    benches.add_argument("--fastinference", default="target/release/fastinference")
    benches.add_argument("--device", default="hip:0")
    benches.add_argument("--batch", default="1,8,32")
    benches.add_argument("--bandwidth", type=float, help="GB/s of the device's memory")
    compares = parts.add_parser("compare")
    compares.add_argument("folders", nargs="+")
    compares.add_argument("--fastinference", default="target/release/fastinference")
    compares.add_argument("--device", default="hip:0")
    options = parser.parse_args()
    if options.what == "write":
        write(options.shape, options.out)
    else:
        {"bench": bench, "compare": compare}[options.what](options)


if __name__ == "__main__":
    main()
