#!/usr/bin/env bash
# What a GPU does, in one page: which device it is, whether it computes what the processor computes, and how fast it is.
#
#     benches/gpu.sh OUT [MODEL ...]      models: tinyllama tinyllama-int4 tinyllama-f32 qwen-moe qwen-moe-int4 small small-int4
#
# Without names: tinyllama and tinyllama-int4 (3 GB in OUT). Nothing is built: FASTINFERENCE names the program (target/release/fastinference unless
# given), DEVICE the device (hip:0), BANDWIDTH its GB/s where torch cannot measure it, ONNX_TESTS a folder of ONNX's own suite, PUBLIC_MODELS
# one of test cases. Needs python3 with numpy and onnx. The page goes to OUT/page.md, and to standard output.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
program=${FASTINFERENCE:-$here/target/release/fastinference}
device=${DEVICE:-hip:0}
[ $# -ge 1 ] || { sed -n 's/^# \{0,1\}//p' "$0" | sed 1d >&2; exit 2; }
out=$1
shift
[ $# -ge 1 ] || set -- tinyllama tinyllama-int4
mkdir -p "$out"

# A failure is a result, too: it is written down, and what follows is tried.
attempt() { "$@" 2>&1 || echo "failed ($?): $*"; }
example() { "$program" generate "$here/examples/shakespeare-moe" "ROMEO." --max-tokens 64 --device "$1" 2>"$out/example.$2.txt"; }
page() {
    echo "# $("$program" --version) on $device, $(date -u +%F)"
    printf '\n## Machine\n\n```text\n'
    attempt "$program" doctor
    printf '```\n\n## The same text on both\n\n'
    example "$device" device >"$out/device.txt" || cat "$out/example.device.txt"
    example cpu cpu >"$out/cpu.txt"
    if cmp -s "$out/device.txt" "$out/cpu.txt"; then echo "64 tokens: the same."; else echo "64 tokens: NOT the same."; fi
    tail -n 1 "$out/example.device.txt"
    for suite in ${ONNX_TESTS:-} ${PUBLIC_MODELS:-}; do
        printf '\n## %s\n\n' "$(basename "$suite")"
        attempt "$program" conformance "$suite" --device "$device" | tail -n 12
    done
    printf '\n## Language models, random weights\n\n'
    local folders=()
    for model in "$@"; do
        [ -f "$out/$model/shape.json" ] || attempt python3 "$here/benches/gpu.py" write "$model" "$out/$model" >&2
        folders+=("$out/$model")
    done
    attempt python3 "$here/benches/gpu.py" bench "${folders[@]}" --fastinference "$program" --device "$device" \
        ${BANDWIDTH:+--bandwidth "$BANDWIDTH"}
    echo
    attempt python3 "$here/benches/gpu.py" compare "${folders[@]}" --fastinference "$program" --device "$device"
}
page "$@" | tee "$out/page.md"
