#!/usr/bin/env python3
"""Prints a Markdown table: which share of each model's flops a device does, and what the host does beside it and why.

    python3 benches/device_share.py MODELS... > docs/device_share.md

A model is an .onnx file or a folder with model.onnx. Nothing is run and no device is needed: the share is that of the plan, with
every symbol that a model leaves open counted as 16, or as 4096 where 16 is too small for the model. Needs a build of the command line; --binary names it, by default
target/release/fastinference.
"""
import argparse, json, os, subprocess, sys

HEAD = """# What runs on the device

Which share of a plan's flops the device does, and every exception: what the host does beside it, inside the same plan, by reason.
Written by `python3 benches/device_share.py MODELS...`; `fastinference inspect MODEL --device D` says the same of one model. Every symbol
that a model leaves open counts as 16, or as 4096 where 16 is too small for the model. Flops that are only known when a model runs
count as none; so do those of operators that only move data. Most flops of the Silero models are of that kind: their layers lie in bodies of
`if`, or have sizes that depend on data, and run on the host whatever the table says.

| model | flops | on the device | on the host, with reason |
| --- | ---: | ---: | --- |"""


def count(n):
    for unit in ["", " K", " M", " G", " T"]:
        if n < 1000:
            return f"{n:.1f}{unit}" if unit else str(n)
        n /= 1000
    return f"{n:.1f} P"


def percent(share):
    if share is None:
        return "none known"
    shown = f"{100 * share:.1f}%"
    return "99.9%" if shown == "100.0%" and share < 1 else shown


def exceptions(found):
    reasons = {}
    for e in found["exceptions"]:
        share = e["flops"] / max(found["flops"], 1)
        weight = f" ({percent(share)})" if share >= 0.0005 else ""
        reasons.setdefault(e["reason"], []).append(f"{e['nodes']} {e['op']}{weight}")
    return "; ".join(f"{', '.join(ops)}: {reason}" for reason, ops in reasons.items()) or "nothing"


def inspect(flags, model, dims):
    command = [flags.binary, "inspect", model, "--device", flags.device, "--json", *dims]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{model}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def negative(node):
    """Whether a device's node has no number of flops though its sizes are known before it runs: one of them is below 0."""
    return node["flops"]["number"] is None and "on_host" not in node


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("models", nargs="+")
    flags.add_argument("--binary", default="target/release/fastinference")
    flags.add_argument("--device", default="hip:sim")
    flags = flags.parse_args()
    print(HEAD)
    for model in flags.models:
        facts = inspect(flags, model, [])
        if any(negative(node) for node in facts["nodes"]):
            facts = inspect(flags, model, [f"--dim={symbol}=4096" for symbol in facts["symbols"]])
        found = facts["device"]
        name = os.path.splitext(os.path.basename(os.path.normpath(model)))[0]
        print(f"| {name} | {count(found['flops'])} | {percent(found['share'])} | {exceptions(found)} |")


if __name__ == "__main__":
    main()
