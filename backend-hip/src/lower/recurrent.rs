//! `lstm` and `gru`: what the input gives to all steps is one product of matrices, into scratch memory; then a block walks along
//! each sequence in each direction.

use super::activation::activation;
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output, scratch};
use ir::Dim;
use ir::ops::{ActivationFn, Direction, Gru, Lstm};
use kernels::{Element, table};

/// States of more elements do not fit the shared memory that the kernels take.
pub(super) const MOST_HIDDEN: i64 = 1024;

enum Cell {
    Lstm { input_forget: bool },
    Gru { linear_before_reset: bool },
}

struct Layer {
    cell: Cell,
    reverse: bool,
    batch_first: bool,
    clip: f32,
    /// Of each direction three functions, each with its parameters.
    activations: [u32; 18],
    element: Element,
    /// Which operands there are.
    has: [bool; 8],
    /// Bytes of what the input gives.
    bytes: Dim,
}

pub(super) fn lstm(op: &Lstm, types: &Types<'_>) -> Chosen {
    let activations = activations(&op.activations, &op.alphas, &op.betas, 3);
    let cell = Cell::Lstm { input_forget: op.input_forget };
    layer(cell, op.direction, op.batch_first, op.clip, activations, types)
}

pub(super) fn gru(op: &Gru, types: &Types<'_>) -> Chosen {
    let activations = activations(&op.activations, &op.alphas, &op.betas, 2);
    let cell = Cell::Gru { linear_before_reset: op.linear_before_reset };
    layer(cell, op.direction, op.batch_first, op.clip, activations, types)
}

/// Functions of every direction as the kernels take them; `each` direction has so many.
pub(super) fn activations(f: &[ActivationFn], alphas: &[f32], betas: &[f32], each: usize) -> [u32; 18] {
    let mut words = [0; 18];
    for (i, f) in f.iter().enumerate().take(2 * each) {
        let (number, alpha, beta) = activation(Some(*f), alphas.get(i).copied(), betas.get(i).copied());
        let at = 3 * (i / each * 3 + i % each);
        words[at..at + 3].copy_from_slice(&[number as u32, alpha.to_bits(), beta.to_bits()]);
    }
    words
}

fn layer(
    cell: Cell,
    direction: Direction,
    batch_first: bool,
    clip: Option<f32>,
    activations: [u32; 18],
    types: &Types<'_>,
) -> Chosen {
    let found = types.element(0)?;
    if !matches!(found, Element::F32 | Element::F16 | Element::BF16) {
        return Err("the kernel takes f32, f16 and bf16 only");
    }
    // Lengths are of a type of their own.
    let floats = (0..types.ins.len()).filter(|i| *i != 4).filter_map(|i| types.input(i));
    if floats.chain(types.outs.iter().copied()).any(|t| element(t.dtype) != Ok(found)) {
        return Err("its element types differ");
    }
    if types.input(4).is_some_and(|t| element(t.dtype) != Ok(Element::I32)) {
        return Err("its lengths are not i32");
    }
    let (x, r) = (types.dims(0)?, types.dims(2)?);
    let ([first, second, _], [dirs, rows, hidden]) = (x, r) else { return Err("its operands are not of rank 3") };
    if hidden.as_const().is_none_or(|h| h > MOST_HIDDEN) {
        return Err("its state has more than 1024 elements, or it is not known how many");
    }
    let bytes = first * second * dirs * rows * 4;
    let mut has = [false; 8];
    for (i, has) in has.iter_mut().enumerate() {
        *has = types.input(i).is_some();
    }
    let (reverse, clip) = (direction == Direction::Reverse, clip.unwrap_or(f32::INFINITY));
    Ok(Box::new(Layer { cell, reverse, batch_first, clip, activations, element: found, has, bytes }))
}

impl Lowering for Layer {
    fn name(&self) -> &'static str {
        match self.cell {
            Cell::Lstm { .. } => "lstm",
            Cell::Gru { .. } => "gru",
        }
    }

    fn files(&self) -> &'static [&'static str] {
        &["matmul", "recurrent"]
    }

    fn scratch(&self) -> Option<Dim> {
        Some(self.bytes.clone())
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (&[first, second, k], &[dirs, rows, n]) = (&sizes.ins[0][..], &sizes.ins[2][..]) else {
            return Err("its operands are not of rank 3".into());
        };
        let (steps, batch) = if self.batch_first { (second, first) } else { (first, second) };
        if sizes.ins[1] != [dirs, rows, k] {
            return Err(format!("weights of {:?} and {:?} do not fit {:?}", sizes.ins[1], sizes.ins[2], sizes.ins[0]));
        }
        if dirs * batch * n == 0 {
            return Ok(vec![]);
        }
        let [steps, batch, dirs, rows, n, k] = [steps, batch, dirs, rows, n, k].map(|n| n as i64);
        let mut calls = vec![];
        if steps > 0 {
            let (m, x, w, p) = (steps * batch, input(0), input(1), scratch(0));
            // A batch per direction: the same input, another weight. Narrow types would not hold every sum.
            let mut shape = [0u32; 13];
            let stride = i32::try_from(rows * k).map_err(|_| "its weight is too large for the kernel".to_string())?;
            (shape[0], shape[1], shape[9]) = (1, dirs as u32, stride as u32);
            let counts = (m * k, dirs * rows * k);
            let made = match self.element {
                e @ Element::F32 => {
                    table::matmul(e, e, x, w, x, x, p, m, rows, k, dirs, k, 1, 1, k, counts.0, counts.1, 0, 0, shape)
                }
                e => table::input_product(e, x, w, p, dirs, m, rows, k),
            };
            calls.push(call(made));
        }
        // What is not there points at the recurrent weight, of which nothing is read for it.
        let side = |i: usize| if self.has[i] { input(i) } else { input(2) };
        let has = |i: usize| i64::from(self.has[i]);
        let (batch_first, reverse) = (i64::from(self.batch_first), i64::from(self.reverse));
        calls.push(call(match self.cell {
            Cell::Lstm { input_forget } => table::lstm(
                self.element,
                scratch(0),
                input(2),
                side(3),
                side(4),
                side(5),
                side(6),
                side(7),
                output(0),
                output(1),
                output(2),
                steps,
                batch,
                dirs,
                n,
                has(3),
                has(4),
                has(5),
                has(6),
                has(7),
                batch_first,
                reverse,
                i64::from(input_forget),
                self.clip,
                self.activations,
            ),
            Cell::Gru { linear_before_reset } => table::gru(
                self.element,
                scratch(0),
                input(2),
                side(3),
                side(4),
                side(5),
                output(0),
                output(1),
                steps,
                batch,
                dirs,
                n,
                has(3),
                has(4),
                has(5),
                batch_first,
                reverse,
                i64::from(linear_before_reset),
                self.clip,
                self.activations,
            ),
        }));
        Ok(calls)
    }
}
