#!/usr/bin/env python3
"""Times FastInference beside onnxruntime and prints a Markdown table.

    python3 benches/compare.py --generators ../shared/bench/gen     # shapes of known models, random weights
    python3 benches/compare.py --public DIR                         # a folder of ONNX test cases: model.onnx, test_data_set_0
    python3 benches/compare.py --generators ../shared/bench/gen --only resnet50 --rounds 7

Each round runs both peers one after the other, each in a process of its own with the same number of threads, the same
inputs, a warm-up and as many timed runs as fit --seconds; a peer's time is the median over its rounds of the rounds'
medians. Outputs are compared first: a row whose outputs disagree says so and has no time.

Needs numpy, onnx and onnxruntime, and a release build of the command line.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time
from pathlib import Path

# What the generators write: model, how to make it, sizes of symbols, allowed relative difference.
DECODE = lambda batch, past=128, seq=1: dict(batch=batch, seq=seq, past=past, total=past + seq)
GENERATED = [
    ("resnet50", "resnet50", ["cnn.py"], {}),
    ("mobilenetv2", "mobilenetv2", ["cnn.py"], {}),
    ("bert-base, 128 tokens", "bert_base_s128", ["bert.py"], {}),
    ("minilm-6, 128 tokens", "minilm6_s128", ["bert.py"], {}),
    ("smollm2 f32, decode x1", "smollm2", ["llm.py", "smollm2"], DECODE(1)),
    ("smollm2 f32, decode x8", "smollm2", ["llm.py", "smollm2"], DECODE(8)),
    ("smollm2 f32, decode x32", "smollm2", ["llm.py", "smollm2"], DECODE(32)),
    ("smollm2 f32, prefill 128", "smollm2", ["llm.py", "smollm2"], DECODE(1, 0, 128)),
    ("smollm2 int8, decode x1", "smollm2_int8", ["quant.py", "smollm2", "int8"], DECODE(1)),
    ("smollm2 int8, decode x8", "smollm2_int8", ["quant.py", "smollm2", "int8"], DECODE(8)),
    ("smollm2 int8, decode x32", "smollm2_int8", ["quant.py", "smollm2", "int8"], DECODE(32)),
    ("smollm2 int8, prefill 128", "smollm2_int8", ["quant.py", "smollm2", "int8"], DECODE(1, 0, 128)),
    ("smollm2 int4, decode x1", "smollm2_int4", ["quant.py", "smollm2", "int4"], DECODE(1)),
    ("smollm2 int4, decode x8", "smollm2_int4", ["quant.py", "smollm2", "int4"], DECODE(8)),
    ("smollm2 int4, decode x32", "smollm2_int4", ["quant.py", "smollm2", "int4"], DECODE(32)),
    ("smollm2 int4, prefill 128", "smollm2_int4", ["quant.py", "smollm2", "int4"], DECODE(1, 0, 128)),
]
# onnxruntime rounds activations to 8 bits here (int4 at accuracy level 4), and each rounding goes through 30 layers: outputs
# are compared as a whole, by the root mean square of the difference over that of the output.
ROUNDED = {"smollm2_int8": 0.1, "smollm2_int4": 0.1}


def made_up(name, dtype, shape, sizes):
    """The same inputs for both peers: ids below 250, masks of ones, positions after the past, floats in -0.5..0.5."""
    import numpy as np
    index = np.arange(int(np.prod(shape, dtype=np.int64)))
    if np.issubdtype(dtype, np.floating):
        return (((index * 7919) % 1000) / 1000 - 0.5).astype(dtype).reshape(shape)
    if "mask" in name:
        value = np.ones_like(index)
    elif "position" in name:
        value = sizes.get("past", 0) + index % max(shape[-1], 1)
    elif "token_type" in name:
        value = np.zeros_like(index)
    else:
        value = (index * 7919 + 13) % 250
    return value.astype(dtype).reshape(shape)


DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(int64)": "int64",
          "tensor(int32)": "int32", "tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(bool)": "bool"}


def onnxruntime_session(model, threads):
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    return ort, ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def peer_main(model, inputs, outputs, threads, seconds):
    """Times onnxruntime with bound inputs and outputs (in a process of its own); prints one JSON line."""
    import numpy as np
    ort, session = onnxruntime_session(model, threads)
    binding, feeds, bindable = session.io_binding(), {}, True
    for i, port in enumerate(session.get_inputs()):
        path = Path(inputs) / f"input_{i}.npy"
        value = np.load(path, allow_pickle=True)
        feeds[port.name] = value
        if value.dtype == object:
            bindable = False
        else:
            binding.bind_ortvalue_input(port.name, ort.OrtValue.ortvalue_from_numpy(value))
    for port in session.get_outputs():
        bindable &= port.type.startswith("tensor(") and "string" not in port.type
        binding.bind_output(port.name, "cpu")
    run = (lambda: session.run_with_iobinding(binding)) if bindable else (lambda: session.run(None, feeds))
    started = time.perf_counter()
    run()
    first = time.perf_counter() - started
    if outputs:
        for i, value in enumerate(session.run(None, feeds)):
            if isinstance(value, np.ndarray) and value.dtype != object:
                np.save(Path(outputs) / f"output_{i}.npy", value)
    times, started = [], time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - started < seconds and len(times) < 5000):
        begun = time.perf_counter()
        run()
        times.append((time.perf_counter() - begun) * 1e3)
    print(json.dumps(dict(median=statistics.median(times), min=min(times), first=first * 1e3)))


def peer(model, inputs, outputs, args):
    command = [sys.executable, __file__, "--peer", str(model), str(inputs), str(outputs or ""), str(args.threads), str(args.seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError("onnxruntime: " + (done.stderr.strip().splitlines() or ["failed"])[-1][-200:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(plan, inputs, outputs, args, repeat):
    command = [args.binary, "run", str(plan), "--input-dir", str(inputs), "--threads", str(args.threads),
               "--warmup", "1" if repeat < 20 else "5", "--repeat", str(repeat)]
    if outputs:
        command += ["--output-dir", str(outputs)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip() or "failed").replace("\n", " ")[:300])
    line = next(l for l in done.stdout.splitlines() if l.startswith("time "))
    words = line.replace(",", "").split()
    if "median" in words:
        return dict(median=float(words[words.index("median") + 1]), min=float(words[words.index("min") + 1]))
    return dict(median=float(words[1]), min=float(words[1]))


def differ(found, expected, rtol, atol, rounded=None):
    """Why two folders of outputs disagree; None when they agree. `rounded` bounds the relative root mean square instead."""
    import numpy as np
    paths = sorted(Path(expected).glob("output_*.npy"))
    for path in paths:
        want = np.load(path)
        got = Path(found) / path.name
        if not got.exists():
            return f"{path.stem} is missing"
        got = np.load(got)
        if got.shape != want.shape:
            return f"{path.stem} is {got.shape}, not {want.shape}"
        got, want = got.astype(np.float64), want.astype(np.float64)
        if not np.array_equal(np.isnan(got), np.isnan(want)):
            return f"{path.stem}: NaN at other places"
        if rounded is not None:
            error = np.sqrt(np.mean((got - want) ** 2) / max(np.mean(want**2), 1e-30)) if want.size else 0
            if not error <= rounded:
                return f"{path.stem} differs by {error:.3g} of its size, allowed is {rounded}"
            continue
        error = np.nan_to_num(np.abs(got - want)).max(initial=0)
        allowed = atol + rtol * max(np.nan_to_num(np.abs(want)).max(initial=0), 1e-30)
        if not error <= allowed:
            return f"{path.stem} differs by {error:.3g}, allowed is {allowed:.3g}"
    return None


def write_inputs(model, folder, sizes):
    import numpy as np
    import onnx
    graph = onnx.load(str(model), load_external_data=False).graph
    weights = {t.name for t in graph.initializer}
    for i, port in enumerate(p for p in graph.input if p.name not in weights):
        ty = port.type.tensor_type
        shape = [sizes[d.dim_param] if d.dim_param else d.dim_value for d in ty.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(ty.elem_type)
        np.save(folder / f"input_{i}.npy", made_up(port.name, dtype, shape, sizes))


def read_inputs(case, folder):
    import numpy as np
    import onnx
    from onnx import numpy_helper
    data = next(d for d in sorted(case.iterdir()) if d.is_dir() and d.name.startswith("test_data_set"))
    for i in range(len(list(data.glob("input_*.pb")))):
        tensor = onnx.TensorProto.FromString((data / f"input_{i}.pb").read_bytes())
        value = numpy_helper.to_array(tensor)
        np.save(folder / f"input_{i}.npy", value, allow_pickle=True)
    return data


def row(name, model, folder, args, rtol, atol, our_inputs=None):
    rounded = ROUNDED.get(model.stem)
    plan = Path(args.work) / (f"{model.parent.name}_{model.stem}" + ".plan")
    if plan not in args.compiled and not (args.keep_plans and plan.exists()):
        command = [args.binary, "compile", str(model), "-o", str(plan), "--force"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip().replace("\n", " ")[:300])
        args.compiled.add(plan)
    with tempfile.TemporaryDirectory() as found, tempfile.TemporaryDirectory() as expected:
        first = peer(model, folder, expected, args)
        mine = ours(plan, our_inputs or folder, found, args, 1)
        problem = differ(found, expected, rtol, atol, rounded)
        if problem:
            raise RuntimeError(problem)
    repeat = lambda ms: int(min(max(args.seconds * 1e3 / max(ms, 1e-3), 3), 5000))
    estimate, a, b = mine["median"], [], []
    for _ in range(args.rounds):
        a.append(peer(model, folder, None, args))
        b.append(ours(plan, our_inputs or folder, None, args, repeat(estimate)))
        estimate = b[-1]["median"]
    middle = lambda rounds: statistics.median(r["median"] for r in rounds)
    least = lambda rounds: min(r["min"] for r in rounds)
    return middle(b), middle(a), least(b), least(a)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generators", type=Path, help="folder of the model generators (cnn.py, bert.py, llm.py, quant.py)")
    parser.add_argument("--public", type=Path, help="folder of ONNX test cases")
    parser.add_argument("--binary", default="target/release/fastinference")
    parser.add_argument("--work", default="target/compare", help="where generated models and plans are kept")
    parser.add_argument("--models", type=Path, help="where generated models are (default: WORK/models)")
    parser.add_argument("--only", default="", help="comma-separated parts of names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="timed per round and peer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep-plans", action="store_true", help="reuse the plans of an earlier call")
    args = parser.parse_args()
    args.compiled = set()
    Path(args.work).mkdir(parents=True, exist_ok=True)
    models = args.models or Path(args.work) / "models"
    models.mkdir(parents=True, exist_ok=True)
    wanted = lambda name: not args.only or any(part in name for part in args.only.split(","))
    cases = []
    if args.generators:
        for name, model, command, sizes in GENERATED:
            if not wanted(name):
                continue
            path = models / f"{model}.onnx"
            if not path.exists():
                env = dict(os.environ, BENCH_MODELS=str(models.resolve()), PYTHONDONTWRITEBYTECODE="1")
                if command[0] == "quant.py" and not (models / "smollm2.onnx").exists():
                    subprocess.run([sys.executable, "llm.py", "smollm2"], cwd=args.generators, env=env, check=True, stdout=sys.stderr)
                subprocess.run([sys.executable, *command], cwd=args.generators, env=env, check=True, stdout=sys.stderr)
            cases.append((name, path, sizes, None))
    if args.public:
        for case in sorted(args.public.iterdir()):
            if (case / "model.onnx").exists() and wanted(case.name):
                cases.append((case.name, case / "model.onnx", {}, case))
    print("| model | FastInference, ms | onnxruntime, ms | ratio | least of each, ms |\n| --- | ---: | ---: | ---: | ---: |", flush=True)
    failures = 0
    for name, model, sizes, case in cases:
        with tempfile.TemporaryDirectory() as folder:
            folder, our_inputs, rtol, atol = Path(folder), None, 1e-3, 1e-4
            try:
                if case:
                    our_inputs = read_inputs(case, folder)
                    limits = json.loads((case / "case.json").read_text()) if (case / "case.json").exists() else {}
                    rtol, atol = max(limits.get("rtol", 1e-3), 1e-3) * 2, limits.get("atol", 1e-3) * 2
                else:
                    write_inputs(model, folder, sizes)
                mine, theirs, mine_least, theirs_least = row(name, model, folder, args, rtol, atol, our_inputs)
                print(f"| {name} | {mine:.3f} | {theirs:.3f} | {mine / theirs:.2f} | {mine_least:.3f} / {theirs_least:.3f} |", flush=True)
            except (RuntimeError, OSError, StopIteration, ValueError) as problem:
                failures += 1
                print(f"| {name} | failed: {problem} | | | |", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--peer":
        model, inputs, outputs, threads, seconds = sys.argv[2:]
        peer_main(model, inputs, outputs, int(threads), float(seconds))
    else:
        main()
