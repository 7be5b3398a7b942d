//! Random nodes: each function adds one if it can.

use super::builder::{Builder, Kind, Numbers, Value, int, ints, number, text};

type Add = fn(&mut Builder) -> Option<()>;

/// Operators whose results are integers where their operands are.
const EXACT: &[Add] = &[
    unary, binary, select, matmul, gemm, conv, max_pool, reduce, transpose, reshape, unsqueeze, squeeze, concat, slice,
    split, gather, pad, expand, tile, cumsum, trilu, argmax, top_k, cast, logic, scatter, integers, flatten, one_hot,
];

/// Operators without jumps.
const SMOOTH: &[Add] = &[
    activation,
    binary,
    softmax,
    layer_norm,
    matmul,
    gemm,
    conv,
    average_pool,
    reduce_smooth,
    transpose,
    reshape,
    concat,
    slice,
    gather,
    pad,
    batch_norm,
    divide,
    expand,
    activation,
    root,
];

/// Adds nodes until the choices are used up.
pub fn grow(b: &mut Builder) {
    for _ in 0..12 {
        if b.choices.is_over() && !b.nodes.is_empty() {
            return;
        }
        let table = if b.numbers == Numbers::Smooth { SMOOTH } else { EXACT };
        let add = b.choices.of(table);
        add(b);
    }
}

fn float(dims: Vec<usize>, bound: f64) -> Vec<(Vec<usize>, Kind, f64)> {
    vec![(dims, Kind::Float, bound)]
}

fn unary(b: &mut Builder) -> Option<()> {
    let x = b.float()?;
    let op = b.choices.of(&["Neg", "Abs", "Relu", "Floor", "Ceil", "Round", "Sign", "Identity", "LeakyRelu", "Clip"]);
    match op {
        "LeakyRelu" => b.node(op, &[&x.name], vec![number("alpha", 2.0)], float(x.dims, 2.0 * x.bound)),
        "Clip" => {
            let (low, high) = (b.weight(&[]), b.weight(&[]));
            b.node(op, &[&x.name, &low.name, &high.name], vec![], float(x.dims, x.bound.max(4.0)))
        }
        _ => b.node(op, &[&x.name], vec![], float(x.dims, x.bound)),
    }
}

/// Another value or a constant that broadcasts with `x`, and the dimensions of both together.
fn partner(b: &mut Builder, x: &Value) -> (Value, Vec<usize>) {
    let found = match b.choices.below(2) {
        1 => b.pick(|v| v.kind == Kind::Float && broadcast(&v.dims, &x.dims).is_some()),
        _ => None,
    };
    let y = found.unwrap_or_else(|| {
        let from = b.choices.below(x.dims.len() + 1);
        let mut dims = x.dims[from..].to_vec();
        for d in &mut dims {
            if b.choices.below(3) == 1 {
                *d = 1;
            }
        }
        b.weight(&dims)
    });
    let dims = broadcast(&x.dims, &y.dims).expect("it was chosen so");
    (y, dims)
}

fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |d: &[usize], i: usize| if i < rank - d.len() { 1 } else { d[i - (rank - d.len())] };
    let pair = |i| match (at(a, i), at(b, i)) {
        (x, y) if x == y => Some(x),
        (1, y) => Some(y),
        (x, 1) => Some(x),
        _ => None,
    };
    (0..rank).map(pair).collect()
}

fn binary(b: &mut Builder) -> Option<()> {
    let x = b.float()?;
    let (y, dims) = partner(b, &x);
    let op = b.choices.of(&["Add", "Sub", "Mul", "Max", "Min"]);
    let bound = match op {
        "Mul" => x.bound * y.bound,
        "Max" | "Min" => x.bound.max(y.bound),
        _ => x.bound + y.bound,
    };
    let (p, q) = if b.choices.below(2) == 0 { (x, y) } else { (y, x) };
    b.node(op, &[&p.name, &q.name], vec![], float(dims, bound))
}

fn compare(b: &mut Builder) -> Option<(String, Vec<usize>)> {
    let x = b.float()?;
    let (y, dims) = partner(b, &x);
    let op = b.choices.of(&["Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual"]);
    b.node(op, &[&x.name, &y.name], vec![], vec![(dims.clone(), Kind::Bool, 1.0)])?;
    Some((b.values.last()?.name.clone(), dims))
}

fn select(b: &mut Builder) -> Option<()> {
    let (condition, dims) = compare(b)?;
    let x = b.pick(|v| v.kind == Kind::Float && broadcast(&v.dims, &dims).is_some())?;
    let dims = broadcast(&x.dims, &dims)?;
    let y = b.weight(&[]);
    let (p, q) = if b.choices.below(2) == 0 { (&x, &y) } else { (&y, &x) };
    b.node("Where", &[&condition, &p.name, &q.name], vec![], float(dims, x.bound.max(4.0)))
}

fn logic(b: &mut Builder) -> Option<()> {
    let (p, dims) = compare(b)?;
    let q = b.pick(|v| v.kind == Kind::Bool && broadcast(&v.dims, &dims).is_some())?;
    let both = broadcast(&q.dims, &dims)?;
    let op = b.choices.of(&["And", "Or", "Xor"]);
    b.node(op, &[&p, &q.name], vec![], vec![(both.clone(), Kind::Bool, 1.0)])?;
    let name = b.values.last()?.name.clone();
    b.node("Not", &[&name], vec![], vec![(both.clone(), Kind::Bool, 1.0)])?;
    let name = b.values.last()?.name.clone();
    b.node("Cast", &[&name], vec![int("to", 1)], float(both, 1.0))
}

fn matmul(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && v.dims.len() > 1)?;
    let k = *x.dims.last()?;
    let lead = &x.dims[..x.dims.len() - 1];
    let n = b.choices.of(&[3, 1, 8, 17, 2, 0]);
    let other = b.pick(|v| v.kind == Kind::Float && v.dims.len() == 2 && v.dims[0] == k);
    let w = match (b.choices.below(3), other) {
        (1, Some(v)) => v,
        (2, _) if x.dims.len() == 3 => b.weight(&[x.dims[0], k, n]),
        _ => b.weight(&[k, n]),
    };
    let dims = [lead, &w.dims[w.dims.len() - 1..]].concat();
    b.node("MatMul", &[&x.name, &w.name], vec![], float(dims, x.bound * w.bound * k as f64))
}

fn gemm(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && v.dims.len() == 2)?;
    let n = b.choices.of(&[4, 1, 9]);
    let (trans_a, trans_b) = (b.choices.below(2), b.choices.below(2));
    let (m, k) = if trans_a == 1 { (x.dims[1], x.dims[0]) } else { (x.dims[0], x.dims[1]) };
    let w = if trans_b == 1 { b.weight(&[n, k]) } else { b.weight(&[k, n]) };
    let mut attributes = vec![int("transA", trans_a), int("transB", trans_b)];
    if b.choices.below(3) == 1 {
        attributes.extend([number("alpha", 2.0), number("beta", -1.0)]);
    }
    let bound = 2.0 * x.bound * w.bound * k as f64 + 4.0;
    match b.choices.of(&[0usize, 1, 2, 3]) {
        0 => b.node("Gemm", &[&x.name, &w.name], attributes, float(vec![m, n], bound)),
        i => {
            let bias = match i {
                1 => b.weight(&[n]),
                2 => b.weight(&[1, n]),
                _ => b.weight(&[]),
            };
            b.node("Gemm", &[&x.name, &w.name, &bias.name], attributes, float(vec![m, n], bound))
        }
    }
}

/// Kernel, stride, padding and dilation of one dimension, and the size that comes out.
fn window(b: &mut Builder, size: usize) -> Option<([usize; 5], usize)> {
    let (kernel, stride) = (b.choices.of(&[1, 3, 2]), b.choices.of(&[1, 2]));
    let dilation = if b.choices.below(4) == 1 { 2 } else { 1 };
    let extent = (kernel - 1) * dilation + 1;
    let (before, after) = (b.choices.below(extent.min(3)), b.choices.below(extent.min(3)));
    let out = (size + before + after).checked_sub(extent)? / stride + 1;
    (size > 0).then_some(([kernel, stride, before, after, dilation], out))
}

/// An image with windows over its last two dimensions.
fn windows(b: &mut Builder) -> Option<(Value, [[usize; 5]; 2], Vec<usize>)> {
    let x = b.pick(|v| v.kind == Kind::Float && v.dims.len() == 4 && v.dims[1] > 0)?;
    let ((h, oh), (w, ow)) = (window(b, x.dims[2])?, window(b, x.dims[3])?);
    Some((x, [h, w], vec![oh, ow]))
}

fn conv(b: &mut Builder) -> Option<()> {
    let (x, [h, w], out) = windows(b)?;
    let channels = x.dims[1];
    let depthwise = b.choices.below(3) == 1;
    let (m, per_group) = if depthwise { (channels, 1) } else { (b.choices.of(&[2, 1, 5]), channels) };
    let weight = b.weight(&[m, per_group, h[0], w[0]]);
    let bias = b.weight(&[m]);
    let attributes = vec![
        ints("kernel_shape", &[h[0], w[0]]),
        ints("strides", &[h[1], w[1]]),
        ints("pads", &[h[2], w[2], h[3], w[3]]),
        ints("dilations", &[h[4], w[4]]),
        int("group", if depthwise { channels } else { 1 }),
    ];
    let bound = x.bound * 4.0 * (per_group * h[0] * w[0]) as f64 + 4.0;
    let dims = vec![x.dims[0], m, out[0], out[1]];
    b.node("Conv", &[&x.name, &weight.name, &bias.name], attributes, float(dims, bound))
}

fn max_pool(b: &mut Builder) -> Option<()> {
    pool(b, "MaxPool")
}

fn average_pool(b: &mut Builder) -> Option<()> {
    pool(b, "AveragePool")
}

fn pool(b: &mut Builder, op: &str) -> Option<()> {
    let (x, [h, w], _) = windows(b)?;
    let mut attributes = vec![
        ints("kernel_shape", &[h[0], w[0]]),
        ints("strides", &[h[1], w[1]]),
        // Less than the kernel, so that every window sees an element.
        ints("pads", &[h[2].min(h[0] - 1), w[2].min(w[0] - 1), h[3].min(h[0] - 1), w[3].min(w[0] - 1)]),
    ];
    let size = |v: [usize; 5], n: usize| {
        let padded = n + v[2].min(v[0] - 1) + v[3].min(v[0] - 1);
        Some(padded.checked_sub(v[0])? / v[1] + 1)
    };
    if op == "AveragePool" {
        attributes.push(int("count_include_pad", b.choices.below(2)));
    }
    let dims = vec![x.dims[0], x.dims[1], size(h, x.dims[2])?, size(w, x.dims[3])?];
    b.node(op, &[&x.name], attributes, float(dims, x.bound))
}

fn axes(b: &mut Builder, rank: usize) -> Vec<usize> {
    let first = b.choices.below(rank);
    let mut axes = vec![first];
    if rank > 1 && b.choices.below(2) == 1 {
        let second = (first + 1) % rank;
        axes.push(second);
    }
    axes.sort();
    axes
}

fn reduced(x: &Value, axes: &[usize], keep: bool) -> (Vec<usize>, usize) {
    let count = axes.iter().map(|a| x.dims[*a]).product();
    let kept = x.dims.iter().enumerate().filter_map(|(i, d)| match (axes.contains(&i), keep) {
        (true, true) => Some(1),
        (true, false) => None,
        _ => Some(*d),
    });
    (kept.collect(), count)
}

fn reduce(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && !v.dims.is_empty())?;
    let axes = axes(b, x.dims.len());
    let keep = b.choices.below(2);
    let (dims, count) = reduced(&x, &axes, keep == 1);
    let op = b.choices.of(&["ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceSumSquare"]);
    let bound = match op {
        "ReduceSum" | "ReduceL1" => x.bound * count as f64,
        "ReduceSumSquare" => x.bound * x.bound * count as f64,
        // The largest of nothing is not defined.
        _ if count == 0 => return None,
        _ => x.bound,
    };
    if op == "ReduceSum" {
        let list = b.list(&axes.iter().map(|a| *a as i64).collect::<Vec<_>>());
        return b.node(op, &[&x.name, &list], vec![int("keepdims", keep)], float(dims, bound));
    }
    b.node(op, &[&x.name], vec![ints("axes", &axes), int("keepdims", keep)], float(dims, bound))
}

fn reduce_smooth(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && !v.dims.is_empty())?;
    let axes = axes(b, x.dims.len());
    let keep = b.choices.below(2);
    let (dims, count) = reduced(&x, &axes, keep == 1);
    let op = b.choices.of(&["ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp"]);
    if count == 0 || op == "ReduceLogSumExp" && x.bound > 60.0 {
        return None;
    }
    let bound = x.bound * (count as f64).sqrt() + (count as f64).ln();
    b.node(op, &[&x.name], vec![ints("axes", &axes), int("keepdims", keep)], float(dims, bound))
}

fn transpose(b: &mut Builder) -> Option<()> {
    let x = b.float()?;
    let mut perm: Vec<usize> = (0..x.dims.len()).collect();
    for i in (1..perm.len()).rev() {
        let j = b.choices.below(i + 1);
        perm.swap(i, j);
    }
    let dims = perm.iter().map(|i| x.dims[*i]).collect();
    b.node("Transpose", &[&x.name], vec![ints("perm", &perm)], float(dims, x.bound))
}

fn reshape(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && v.len() > 0)?;
    let mut left = x.len();
    let mut dims = vec![];
    for _ in 0..b.choices.below(4) {
        let divisors: Vec<usize> = (1..=left.min(12)).filter(|d| left.is_multiple_of(*d)).collect();
        let d = divisors[b.choices.below(divisors.len())];
        dims.push(d);
        left /= d;
    }
    dims.push(left);
    let mut target: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
    if b.choices.below(2) == 1 {
        let at = b.choices.below(target.len());
        target[at] = -1;
    }
    let list = b.list(&target);
    b.node("Reshape", &[&x.name, &list], vec![], float(dims, x.bound))
}

fn flatten(b: &mut Builder) -> Option<()> {
    let x = b.float()?;
    let axis = b.choices.below(x.dims.len() + 1);
    let dims = vec![x.dims[..axis].iter().product(), x.dims[axis..].iter().product()];
    b.node("Flatten", &[&x.name], vec![int("axis", axis)], float(dims, x.bound))
}

fn unsqueeze(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && v.dims.len() < 4)?;
    let axis = b.choices.below(x.dims.len() + 1);
    let mut dims = x.dims.clone();
    dims.insert(axis, 1);
    let list = b.list(&[axis as i64]);
    b.node("Unsqueeze", &[&x.name, &list], vec![], float(dims, x.bound))
}

fn squeeze(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && v.dims.contains(&1))?;
    let axis = x.dims.iter().position(|d| *d == 1)?;
    let mut dims = x.dims.clone();
    dims.remove(axis);
    let list = b.list(&[axis as i64 - x.dims.len() as i64]);
    b.node("Squeeze", &[&x.name, &list], vec![], float(dims, x.bound))
}

fn concat(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && !v.dims.is_empty())?;
    let axis = b.choices.below(x.dims.len());
    let fits = |v: &Value| {
        v.kind == Kind::Float
            && v.dims.len() == x.dims.len()
            && v.dims.iter().zip(&x.dims).enumerate().all(|(i, (a, b))| i == axis || a == b)
    };
    let y = b.pick(fits)?;
    let mut dims = x.dims.clone();
    dims[axis] += y.dims[axis];
    let (p, q) = if b.choices.below(2) == 0 { (&x, &y) } else { (&y, &x) };
    b.node("Concat", &[&p.name, &q.name], vec![int("axis", axis)], float(dims, x.bound.max(y.bound)))
}

fn slice(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && !v.dims.is_empty())?;
    let axis = b.choices.below(x.dims.len());
    let n = x.dims[axis];
    let step = b.choices.of(&[1i64, 2, -1, -2]);
    let (start, end, picked) = if step > 0 {
        let start = b.choices.below(n + 1);
        let end = start + b.choices.below(n + 1 - start);
        (start as i64, end as i64, (end - start).div_ceil(step as usize))
    } else if n == 0 {
        return None;
    } else {
        let start = b.choices.below(n);
        let end = b.choices.below(start + 1);
        (start as i64, end as i64, (start - end).div_ceil(step.unsigned_abs() as usize))
    };
    let mut dims = x.dims.clone();
    dims[axis] = picked;
    let (start, end) = (b.list(&[start]), b.list(&[end]));
    let (axis, step) = (b.list(&[axis as i64]), b.list(&[step]));
    b.node("Slice", &[&x.name, &start, &end, &axis, &step], vec![], float(dims, x.bound))
}

fn split(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && !v.dims.is_empty())?;
    let axis = b.choices.below(x.dims.len());
    let first = b.choices.below(x.dims[axis] + 1);
    let rest = x.dims[axis] - first;
    let part = |n: usize| {
        let mut dims = x.dims.clone();
        dims[axis] = n;
        (dims, Kind::Float, x.bound)
    };
    let list = b.list(&[first as i64, rest as i64]);
    b.node("Split", &[&x.name, &list], vec![int("axis", axis)], vec![part(first), part(rest)])
}

/// Some indices into `n` elements, from either end.
fn indices(b: &mut Builder, n: usize, count: usize) -> Vec<i64> {
    (0..count).map(|_| b.choices.below(2 * n) as i64 - n as i64).collect()
}

fn gather(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && !v.dims.is_empty())?;
    let axis = b.choices.below(x.dims.len());
    let shape: &[usize] = [&[2usize][..], &[][..], &[2, 2][..], &[0][..], &[5][..]][b.choices.below(5)];
    let count = shape.iter().product();
    if x.dims[axis] == 0 && count > 0 {
        return None;
    }
    let at = indices(b, x.dims[axis], count);
    let at = b.ints(shape, &at);
    let dims = [&x.dims[..axis], shape, &x.dims[axis + 1..]].concat();
    b.node("Gather", &[&x.name, &at], vec![int("axis", axis)], float(dims, x.bound))
}

fn scatter(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && v.dims.len() == 2 && v.dims[0] > 1 && v.dims[1] > 0)?;
    // Different rows, so that their order does not matter.
    let rows = [0, x.dims[0] as i64 - 1];
    let at: Vec<i64> = rows.iter().flat_map(|r| vec![*r; x.dims[1]]).collect();
    let at = b.ints(&[2, x.dims[1]], &at);
    let updates = b.weight(&[2, x.dims[1]]);
    b.node("ScatterElements", &[&x.name, &at, &updates.name], vec![int("axis", 0)], float(x.dims, x.bound.max(4.0)))
}

fn pad(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && !v.dims.is_empty())?;
    let mode = b.choices.of(&["constant", "edge", "reflect"]);
    let most = |d: usize| match mode {
        "constant" => 2,
        "edge" => {
            if d == 0 {
                0
            } else {
                2
            }
        }
        _ => d.saturating_sub(1).min(2),
    };
    let before: Vec<usize> = x.dims.iter().map(|d| b.choices.below(most(*d) + 1)).collect();
    let after: Vec<usize> = x.dims.iter().map(|d| b.choices.below(most(*d) + 1)).collect();
    let dims: Vec<usize> = x.dims.iter().zip(before.iter().zip(&after)).map(|(d, (p, q))| d + p + q).collect();
    let pads: Vec<i64> = before.iter().chain(&after).map(|p| *p as i64).collect();
    let pads = b.list(&pads);
    let value = b.weight(&[]);
    let operands: &[&str] = if mode == "constant" { &[&x.name, &pads, &value.name] } else { &[&x.name, &pads] };
    b.node("Pad", operands, vec![text("mode", mode)], float(dims, x.bound.max(4.0)))
}

fn expand(b: &mut Builder) -> Option<()> {
    let x = b.float()?;
    let mut dims = x.dims.clone();
    for d in &mut dims {
        if *d == 1 {
            *d = b.choices.of(&[3, 1, 0]);
        }
    }
    if dims.len() < 4 && b.choices.below(2) == 1 {
        dims.insert(0, 2);
    }
    let list = b.list(&dims.iter().map(|d| *d as i64).collect::<Vec<_>>());
    b.node("Expand", &[&x.name, &list], vec![], float(dims, x.bound))
}

fn tile(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && !v.dims.is_empty())?;
    let times: Vec<usize> = x.dims.iter().map(|_| b.choices.of(&[1, 2, 3])).collect();
    let dims = x.dims.iter().zip(&times).map(|(d, t)| d * t).collect();
    let list = b.list(&times.iter().map(|d| *d as i64).collect::<Vec<_>>());
    b.node("Tile", &[&x.name, &list], vec![], float(dims, x.bound))
}

fn cumsum(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && !v.dims.is_empty())?;
    let axis = b.choices.below(x.dims.len());
    let at = b.ints(&[], &[axis as i64]);
    let attributes = vec![int("exclusive", b.choices.below(2)), int("reverse", b.choices.below(2))];
    let bound = x.bound * x.dims[axis] as f64;
    b.node("CumSum", &[&x.name, &at], attributes, float(x.dims, bound))
}

fn trilu(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && v.dims.len() > 1)?;
    let k = b.choices.below(5) as i64 - 2;
    let k = b.ints(&[], &[k]);
    let upper = b.choices.below(2);
    b.node("Trilu", &[&x.name, &k], vec![int("upper", upper)], float(x.dims, x.bound))
}

fn argmax(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && !v.dims.is_empty() && v.len() > 0)?;
    let axis = b.choices.below(x.dims.len());
    let keep = b.choices.below(2);
    let (dims, count) = reduced(&x, &[axis], keep == 1);
    let op = b.choices.of(&["ArgMax", "ArgMin"]);
    let attributes = vec![int("axis", axis), int("keepdims", keep), int("select_last_index", b.choices.below(2))];
    b.node(op, &[&x.name], attributes, vec![(dims, Kind::Int, count as f64)])
}

fn top_k(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && !v.dims.is_empty())?;
    let axis = b.choices.below(x.dims.len());
    let k = b.choices.below(x.dims[axis] + 1);
    let mut dims = x.dims.clone();
    dims[axis] = k;
    let list = b.list(&[k as i64]);
    let attributes = vec![int("axis", axis), int("largest", b.choices.below(2)), int("sorted", 1)];
    let results = vec![(dims.clone(), Kind::Float, x.bound), (dims, Kind::Int, x.dims[axis] as f64)];
    b.node("TopK", &[&x.name, &list], attributes, results)
}

fn one_hot(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Int && v.dims.len() < 4)?;
    let depth = b.ints(&[], &[4]);
    let values = b.weight(&[2]);
    let dims = [&x.dims[..], &[4]].concat();
    b.node("OneHot", &[&x.name, &depth, &values.name], vec![], float(dims, 4.0))
}

fn cast(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind != Kind::Float)?;
    b.node("Cast", &[&x.name], vec![int("to", 1)], float(x.dims, x.bound))
}

/// Integers have no NaN.
fn integers(b: &mut Builder) -> Option<()> {
    if b.numbers == Numbers::Nasty {
        return cast(b);
    }
    let x = b.float()?;
    b.node("Cast", &[&x.name], vec![int("to", 7)], vec![(x.dims.clone(), Kind::Int, x.bound)])?;
    let whole = b.values.last()?.name.clone();
    let op = b.choices.of(&["Div", "Mod", "Mul", "Max"]);
    b.apart |= op == "Mod";
    let by = b.choices.of(&[3i64, 2, -2, 7]);
    let by = b.ints(&[], &[by]);
    b.node(op, &[&whole, &by], vec![], vec![(x.dims, Kind::Int, x.bound * 7.0)])
}

fn activation(b: &mut Builder) -> Option<()> {
    let x = b.float()?;
    let op = b.choices.of(&[
        "Tanh",
        "Sigmoid",
        "Erf",
        "Relu",
        "Softplus",
        "Elu",
        "HardSigmoid",
        "LeakyRelu",
        "HardSwish",
        "Selu",
    ]);
    b.node(op, &[&x.name], vec![], float(x.dims, 2.0 * x.bound + 1.0))
}

fn softmax(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && !v.dims.is_empty())?;
    let axis = b.choices.below(x.dims.len());
    let op = b.choices.of(&["Softmax", "LogSoftmax"]);
    // tract takes the logarithm of a softmax that may have become 0.
    b.apart |= op == "LogSoftmax" && x.bound > 40.0;
    b.node(op, &[&x.name], vec![int("axis", axis)], float(x.dims, 2.0 * x.bound + 4.0))
}

fn layer_norm(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && v.dims.len() > 1 && v.len() > 0)?;
    let n = *x.dims.last()?;
    let (scale, shift) = (b.weight(&[n]), b.weight(&[n]));
    let attributes = vec![int("axis", x.dims.len() - 1), number("epsilon", 0.25)];
    let bound = 4.0 * (n as f64).sqrt() + 4.0;
    b.node("LayerNormalization", &[&x.name, &scale.name, &shift.name], attributes, float(x.dims, bound))
}

fn batch_norm(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && v.dims.len() > 2)?;
    let c = x.dims[1];
    let (scale, shift, mean) = (b.weight(&[c]), b.weight(&[c]), b.weight(&[c]));
    let ones = b.weight(&[c]);
    b.node("Mul", &[&ones.name, &ones.name], vec![], float(vec![c], 16.0))?;
    let variance = b.values.last()?.name.clone();
    let operands = [&*x.name, &scale.name, &shift.name, &mean.name, &variance];
    b.node("BatchNormalization", &operands, vec![number("epsilon", 0.25)], float(x.dims, 8.0 * (x.bound + 4.0) + 4.0))
}

/// `x / exp(|y|)`.
fn divide(b: &mut Builder) -> Option<()> {
    let x = b.float()?;
    let (y, dims) = partner(b, &x);
    b.node("Abs", &[&y.name], vec![], float(y.dims.clone(), y.bound))?;
    let size = b.values.last()?.name.clone();
    b.node("Exp", &[&size], vec![], float(y.dims, if y.bound > 6.0 { f64::INFINITY } else { y.bound.exp() }))?;
    let size = b.values.last()?.name.clone();
    b.node("Div", &[&x.name, &size], vec![], float(dims, x.bound))
}

/// `sqrt(exp(x))`, whose operand stays away from 0.
fn root(b: &mut Builder) -> Option<()> {
    let x = b.pick(|v| v.kind == Kind::Float && v.bound < 12.0)?;
    b.node("Exp", &[&x.name], vec![], float(x.dims.clone(), x.bound.exp().min(900.0)))?;
    let e = b.values.last()?.name.clone();
    b.node("Sqrt", &[&e], vec![], float(x.dims, 30.0f64.max((x.bound / 2.0).exp().min(900.0))))
}
