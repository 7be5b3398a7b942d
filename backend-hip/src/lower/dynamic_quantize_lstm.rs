//! `dynamic_quantize_lstm`: the input becomes codes, one product of integers gives its part of all steps, into scratch memory;
//! then a block walks along the sequences of each direction.

use super::quantize::{RANGE_BYTES, dynamic, eight_bits};
use super::recurrent::{MOST_HIDDEN, activations};
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output, scratch};
use ir::Dim;
use ir::ops::{Direction, DynamicQuantizeLstm};
use kernels::{Element, table};

/// Scratch memory: what blocks find of the range, then scale and zero point of the input, then its part of every step, and at the
/// end the codes.
const SCALE_AT: i64 = RANGE_BYTES;
const ZERO_AT: i64 = SCALE_AT + 4;
const PARTS_AT: i64 = SCALE_AT + 256;

struct Layer {
    reverse: bool,
    input_forget: bool,
    clip: f32,
    activations: [u32; 18],
    /// Whether the weights of the input and of the state are signed.
    is_signed: [bool; 2],
    /// Which operands there are.
    has: [bool; 12],
    bytes: Dim,
}

pub(super) fn dynamic_quantize_lstm(op: &DynamicQuantizeLstm, types: &Types<'_>) -> Chosen {
    let dtype = |i: usize| types.input(i).map(|t| t.dtype).ok_or("an operand is missing");
    let float = |i: usize| types.input(i).is_none_or(|t| element(t.dtype) == Ok(Element::F32));
    if ![0, 3, 5, 6, 7, 8, 10].into_iter().all(float) {
        return Err("the kernel takes f32 only beside its weights");
    }
    if types.input(4).is_some_and(|t| element(t.dtype) != Ok(Element::I32)) {
        return Err("its lengths are not i32");
    }
    for (weight, zero) in [(1, 9), (2, 11)] {
        if types.input(zero).is_some_and(|t| Ok(t.dtype) != dtype(weight)) {
            return Err("its zero points are of another type than their weight");
        }
    }
    let (x, w, r) = (types.dims(0)?, types.dims(1)?, types.dims(2)?);
    let ([steps, batch, k], [dirs, _, columns], [_, hidden, _]) = (x, w, r) else {
        return Err("its operands are not of rank 3");
    };
    if hidden.as_const().is_none_or(|h| h > MOST_HIDDEN) {
        return Err("its state has more than 1024 elements, or it is not known how many");
    }
    let bytes = steps * batch * dirs * columns * 4 + steps * batch * k + PARTS_AT;
    let mut has = [false; 12];
    for (i, has) in has.iter_mut().enumerate() {
        *has = types.input(i).is_some();
    }
    Ok(Box::new(Layer {
        reverse: op.direction == Direction::Reverse,
        input_forget: op.input_forget,
        clip: op.clip.unwrap_or(f32::INFINITY),
        activations: activations(&op.activations, &op.alphas, &op.betas, 3),
        is_signed: [eight_bits(dtype(1)?)?, eight_bits(dtype(2)?)?],
        has,
        bytes,
    }))
}

impl Lowering for Layer {
    fn name(&self) -> &'static str {
        "dynamic_quantize_lstm"
    }

    fn files(&self) -> &'static [&'static str] {
        &["integer", "quantize", "recurrent"]
    }

    fn scratch(&self) -> Option<Dim> {
        Some(self.bytes.clone())
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (&[steps, batch, k], &[dirs, n, columns]) = (&sizes.ins[0][..], &sizes.ins[2][..]) else {
            return Err("its operands are not of rank 3".into());
        };
        if sizes.ins[1] != [dirs, k, columns] || columns != 4 * n {
            return Err(format!("weights of {:?} and {:?} do not fit {:?}", sizes.ins[1], sizes.ins[2], sizes.ins[0]));
        }
        if dirs * batch * n == 0 {
            return Ok(vec![]);
        }
        let [steps, batch, dirs, n, k, columns] = [steps, batch, dirs, n, k, columns].map(|n| n as i64);
        let count = |i: usize| if self.has[i] { sizes.ins[i].iter().product::<usize>() as i64 } else { 0 };
        // What is not there points at the recurrent weight, of which nothing is read for it.
        let side = |i: usize| if self.has[i] { input(i) } else { input(2) };
        let rows = steps * batch;
        let (scale, zero, p) = (scratch(SCALE_AT), scratch(ZERO_AT), scratch(PARTS_AT));
        let codes = scratch(PARTS_AT + rows * dirs * columns * 4);
        let [w_signed, r_signed] = self.is_signed.map(i64::from);
        let mut calls = vec![];
        if rows > 0 {
            calls.extend(dynamic(Element::F32, rows * k, input(0), scratch(0), [codes, scale, zero]));
            let (w, w_scale, w_zero) = (input(1), input(8), side(9));
            calls.push(call(table::quantised_product(
                codes,
                scale,
                zero,
                w,
                w_scale,
                w_zero,
                p,
                dirs,
                rows,
                columns,
                k,
                count(8),
                count(9),
                w_signed,
            )));
        }
        calls.push(call(table::quantised_lstm(
            p,
            input(2),
            input(10),
            side(11),
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
            count(10),
            count(11),
            r_signed,
            // The order of hip/recurrent.hip: operands 3 to 7, a bit each.
            (0..5).map(|bit| i64::from(self.has[3 + bit]) << bit).sum(),
            i64::from(self.reverse),
            i64::from(self.input_forget),
            self.clip,
            self.activations,
        )));
        Ok(calls)
    }
}
