//! `resize`: a table of samples for every axis that changes, in scratch memory, then the result from it. Axes that stay are
//! merged with their neighbours: `[outer, a, mid, b, inner]`.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, moved, output, scratch};
use ir::Dim;
use ir::ops::{Coordinates, Resize, ResizeMode, Rounding};
use kernels::{Element, table};

struct Samples {
    op: Resize,
    /// The axes that may change: at most two.
    axes: Vec<usize>,
    element: Element,
    coordinates: i64,
}

pub(super) fn resize(op: &Resize, types: &Types<'_>) -> Chosen {
    // The order of hip/resize.hip.
    let coordinates = match op.coordinates {
        Coordinates::HalfPixel => 0,
        Coordinates::HalfPixelSymmetric => 1,
        Coordinates::PytorchHalfPixel => 2,
        Coordinates::AlignCorners => 3,
        Coordinates::Asymmetric => 4,
        Coordinates::HalfPixelFloor => 5,
        Coordinates::CropAndResize => return Err("it cuts a region, which the kernel does not"),
    };
    if op.antialias {
        return Err("it is antialiased: how many samples it takes depends on the sizes");
    }
    let dims = types.dims(0)?;
    let stays = |d: usize| dims[d] == op.sizes[d] && op.scales.get(d).is_none_or(|s| *s == 1.0);
    let axes: Vec<usize> = (0..dims.len()).filter(|d| !stays(*d)).collect();
    if axes.len() > 2 {
        return Err("more than two of its axes change");
    }
    let element = match op.mode {
        ResizeMode::Nearest => moved(types.input(0).ok_or("an operand is missing")?.dtype)?,
        ResizeMode::Linear | ResizeMode::Cubic => types.one_float()?,
    };
    Ok(Box::new(Samples { op: op.clone(), axes, element, coordinates }))
}

impl Samples {
    /// Samples of a place along an axis.
    fn taps(&self) -> i64 {
        match self.op.mode {
            ResizeMode::Nearest => 1,
            ResizeMode::Linear => 2,
            ResizeMode::Cubic => 4,
        }
    }

    /// What coordinates are divided by.
    fn scale(&self, axis: usize, input: usize, output: usize) -> f64 {
        self.op.scales.get(axis).map_or(output as f64 / input as f64, |s| f64::from(*s))
    }
}

impl Lowering for Samples {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn files(&self) -> &'static [&'static str] {
        &["resize"]
    }

    fn scratch(&self) -> Option<Dim> {
        let places: Dim = self.axes.iter().map(|d| self.op.sizes[*d].clone()).sum();
        (!self.axes.is_empty()).then(|| places * (8 * self.taps()))
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (x, y) = (&sizes.ins[0], &sizes.outs[0]);
        if y.contains(&0) {
            return Ok(vec![]);
        }
        if x.contains(&0) {
            return Err("nothing to take samples from".into());
        }
        let taps = self.taps();
        // Of axes whose sizes turn out to be the same, those that the coordinates leave in place need no table.
        let stays = |d: usize| x[d] == y[d] && (self.scale(d, x[d], y[d]) - 1.0).abs() < 1e-9;
        let changed: Vec<usize> = self.axes.iter().copied().filter(|d| !stays(*d)).collect();
        let total: i64 = changed.iter().map(|d| y[*d] as i64 * taps).sum();
        let (mode, cubic) = (taps / 2, self.op.cubic_a.unwrap_or(-0.75));
        let rounding = match self.op.rounding.unwrap_or(Rounding::HalfDown) {
            Rounding::HalfDown => 0,
            Rounding::HalfUp => 1,
            Rounding::Floor => 2,
            Rounding::Ceil => 3,
        };
        let exclude = i64::from(self.op.exclude_outside);
        let (mut calls, mut at) = (vec![], 0);
        for d in &changed {
            let (size, from) = (y[*d] as i64, x[*d] as i64);
            let bits = self.scale(*d, x[*d], y[*d]).to_bits();
            let (samples, weights) = (scratch(at * 4), scratch((total + at) * 4));
            let words = [bits as u32, (bits >> 32) as u32];
            calls.push(call(table::resize_taps(
                samples,
                weights,
                size,
                from,
                taps,
                mode,
                self.coordinates,
                rounding,
                exclude,
                cubic,
                words,
            )));
            at += size * taps;
        }
        let product = |dims: &[usize]| dims.iter().product::<usize>() as i64;
        let of = |d: Option<&usize>| d.map_or((1, 1, 0), |d| (x[*d] as i64, y[*d] as i64, taps));
        let ((na, a, taps_a), (nb, b, taps_b)) = (of(changed.first()), of(changed.get(1)));
        let first = changed.first().copied().unwrap_or(x.len());
        let outer = product(&x[..first]);
        let (mid, inner) = match changed[..] {
            [] => (1, 1),
            [a] => (1, product(&x[a + 1..])),
            [a, b, ..] => (product(&x[a + 1..b]), product(&x[b + 1..])),
        };
        // Without a table nothing of it is read.
        let (samples, weights) = if total > 0 { (scratch(0), scratch(total * 4)) } else { (input(0), input(0)) };
        let (x, y, e) = (input(0), output(0), self.element);
        calls.push(call(match self.op.mode {
            ResizeMode::Nearest => {
                table::resize_nearest(e, x, samples, y, outer, na, a, mid, nb, b, inner, taps_a, taps_b)
            }
            ResizeMode::Linear | ResizeMode::Cubic => {
                table::resize(e, x, samples, weights, y, outer, na, a, mid, nb, b, inner, taps_a, taps_b)
            }
        }));
        Ok(calls)
    }
}
