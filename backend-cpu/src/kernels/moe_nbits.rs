//! Experts over packed weights: rows that chose an expert are taken together, so that each row of its weight is unpacked once for
//! up to `MOST_ROWS` of them, and no unpacked weight exists.
//!
//! Results are first written in the order of the experts, each task its own rows, and then moved, or summed by token in the order
//! of the experts.

use super::gemm::{Finish, Pairs, Rows, add_scaled, alternating, gated, single};
use super::pool::Pool;
use super::vectorise::{fma, vectorise};

/// Rows that share an unpacked row of weights.
const MOST_ROWS: usize = 16;

/// Zero points of blocks.
#[derive(Clone, Copy, Debug)]
pub enum Zeros<'a> {
    /// The middle of the codes.
    Middle,
    /// One float per block.
    Floats(&'a [f32]),
    /// Packed like the weight; rows begin at a byte.
    Codes(&'a [u8]),
}

/// One packed weight of every expert: `[E, n, k]` codes of `bits`, low bits first, with `blocks` scales a row.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// The codes.
    pub codes: &'a [u8],
    /// `[E, n, blocks]`.
    pub scales: &'a [f32],
    /// As many.
    pub zeros: Zeros<'a>,
    /// `[E, n]`, or empty.
    pub bias: &'a [f32],
    /// Bits of a code: 2, 4 or 8.
    pub bits: usize,
    /// Outputs of an expert.
    pub n: usize,
    /// Its inputs.
    pub k: usize,
    /// Blocks of a row.
    pub blocks: usize,
}

/// What the products of an expert are.
#[derive(Clone, Copy, Debug)]
pub enum PackedProducts<'a> {
    /// The result.
    One(Packed<'a>),
    /// Gate and linear part, one after the other.
    Halves(Packed<'a>),
    /// Gate and linear part alternate.
    Interleaved(Packed<'a>),
    /// A gate and a linear part of their own.
    Two(Packed<'a>, Packed<'a>),
}

fn code(bytes: &[u8], i: usize, bits: usize) -> f32 {
    let low = i * bits % 8;
    f32::from(bytes[i * bits / 8] >> low & ((1u16 << bits) - 1) as u8)
}

impl<'a> Packed<'a> {
    fn zero(&self, row: usize, block: usize) -> f32 {
        match self.zeros {
            Zeros::Middle => (1u32 << (self.bits - 1)) as f32,
            Zeros::Floats(z) => z[row * self.blocks + block],
            Zeros::Codes(z) => {
                let bytes = (self.blocks * self.bits).div_ceil(8);
                code(&z[row * bytes..][..bytes], block, self.bits)
            }
        }
    }

    /// Row `row` of all experts' rows, as floats.
    fn unpack(&self, row: usize, to: &mut [f32]) {
        let bytes = self.k * self.bits / 8;
        let codes = &self.codes[row * bytes..][..bytes];
        let block = self.k / self.blocks;
        for (b, to) in to[..self.k].chunks_exact_mut(block).enumerate() {
            let (scale, zero) = (self.scales[row * self.blocks + b], self.zero(row, b));
            let first = b * block;
            match self.bits {
                8 => bytes_of(&codes[first..][..block], zero, scale, to),
                4 if first.is_multiple_of(2) && block.is_multiple_of(2) => {
                    nibbles_of(&codes[first / 2..][..block / 2], zero, scale, to);
                }
                bits => {
                    to.iter_mut().enumerate().for_each(|(i, to)| *to = (code(codes, first + i, bits) - zero) * scale)
                }
            }
        }
    }

    /// Products of some rows with an expert's weight: `[rows, n]`.
    fn multiply<'x>(
        &self,
        expert: usize,
        rows: &dyn Fn(usize) -> &'x [f32],
        count: usize,
        unpacked: &mut [f32],
        to: &mut [f32],
    ) {
        for j in 0..self.n {
            self.unpack(expert * self.n + j, unpacked);
            for i in 0..count {
                to[i * self.n + j] = dot(&unpacked[..self.k], rows(i));
            }
        }
    }

    fn bias_of(&self, expert: usize) -> &'a [f32] {
        if self.bias.is_empty() { &[] } else { &self.bias[expert * self.n..][..self.n] }
    }
}

vectorise! {
    fn bytes_of<FMA>(codes: &[u8], zero: f32, scale: f32, to: &mut [f32]) {
        for (to, code) in to.iter_mut().zip(codes) {
            *to = (f32::from(*code) - zero) * scale;
        }
    }

    fn nibbles_of<FMA>(codes: &[u8], zero: f32, scale: f32, to: &mut [f32]) {
        for (to, code) in to.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
            *to = [(f32::from(code & 15) - zero) * scale, (f32::from(code >> 4) - zero) * scale];
        }
    }

    fn dot<FMA>(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0f32; 32];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<32>(), b.as_chunks::<32>());
        for (a, b) in a.iter().zip(b) {
            for j in 0..32 {
                lanes[j] = fma::<FMA>(a[j], b[j], lanes[j]);
            }
        }
        for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
            *lane = fma::<FMA>(*a, *b, *lane);
        }
        let mut width = 16;
        while width > 0 {
            for j in 0..width {
                lanes[j] += lanes[j + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

impl PackedProducts<'_> {
    /// The first weight.
    pub fn first(&self) -> Packed<'_> {
        match *self {
            PackedProducts::One(w) | PackedProducts::Halves(w) | PackedProducts::Interleaved(w) => w,
            PackedProducts::Two(w, _) => w,
        }
    }
}

/// Rows of a task.
fn task_rows(pool: &Pool, pairs: usize) -> usize {
    pairs.div_ceil(pool.threads()).clamp(1, MOST_ROWS)
}

/// Elements of scratch that [`packed_experts`] needs: for `n` results and `width` products of `k` inputs.
pub fn packed_experts_scratch(pool: &Pool, pairs: usize, [n, width, k]: [usize; 3]) -> usize {
    pairs * (n + 1) + pool.threads() * (task_rows(pool, pairs) * width + k)
}

/// As [`super::gemm::experts`], over packed weights.
///
/// # Panics
/// When shapes disagree, pairs are not valid, or scratch is shorter than [`packed_experts_scratch`] says.
#[allow(clippy::too_many_arguments, reason = "two matrices, the pairs, and scratch")]
pub fn packed_experts(
    pool: &Pool,
    x: Rows<'_>,
    pairs: Pairs<'_>,
    products: PackedProducts<'_>,
    finish: Finish,
    weights: Option<&[f32]>,
    y: &mut [f32],
    n: usize,
    scratch: &mut [f32],
) {
    let (count, k) = (pairs.rows.len(), products.first().k);
    let [rows, cols] = x.shape();
    assert_eq!((cols, rows * pairs.repeat), (k, count), "shapes of experts");
    if n == 0 || count == 0 {
        return y.fill(0.0);
    }
    let rows = task_rows(pool, count);
    let (sorted, scratch) = scratch.split_at_mut(count * n);
    let (places, scratch) = scratch.split_at_mut(count);
    sorted.fill(0.0);
    let x = &x;
    pool.chunks_scratch(sorted, rows * n, scratch, |scratch, task, out| {
        let (unpacked, made) = scratch.split_at_mut(k);
        let (from, until) = (task * rows, task * rows + out.len() / n);
        for (expert, ends) in pairs.offsets.windows(2).enumerate() {
            let (a, b) = ((ends[0] as usize).max(from), (ends[1] as usize).min(until));
            if a >= b {
                continue;
            }
            let row = |i: usize| x.row(pairs.rows[a + i] as usize / pairs.repeat);
            let out = &mut out[(a - from) * n..(b - from) * n];
            let first = products.first();
            let (left, right) = made.split_at_mut((b - a) * first.n);
            first.multiply(expert, &row, b - a, unpacked, left);
            if let PackedProducts::Two(_, second) = &products {
                second.multiply(expert, &row, b - a, unpacked, right);
            }
            let bias = first.bias_of(expert);
            for (i, out) in out.chunks_exact_mut(n).enumerate() {
                let p = &left[i * first.n..][..first.n];
                match &products {
                    PackedProducts::One(_) => single(finish, p, bias, out),
                    PackedProducts::Interleaved(_) => alternating(finish, p, bias, out),
                    PackedProducts::Halves(_) => {
                        let (low, high) = bias.split_at(n.min(bias.len()));
                        gated(finish, &p[..n], low, &p[n..], high, out);
                    }
                    PackedProducts::Two(_, second) => {
                        gated(finish, p, bias, &right[i * n..][..n], second.bias_of(expert), out);
                    }
                }
            }
        }
    });
    // Where each pair's result is.
    let places: &mut [u32] = bytemuck::cast_slice_mut(places);
    pairs.rows.iter().enumerate().for_each(|(at, pair)| places[*pair as usize] = at as u32);
    let (places, sorted) = (&*places, &*sorted);
    let each = count * n / y.len().max(1);
    pool.chunks_mut(y, n, |row, y| {
        let Some(weights) = weights else { return y.copy_from_slice(&sorted[places[row] as usize * n..][..n]) };
        y.fill(0.0);
        let own = row * each..(row + 1) * each;
        let mut last = None;
        // In the order of the experts.
        for _ in own.clone() {
            let next = own.clone().filter(|p| last.is_none_or(|l| places[*p] > l)).min_by_key(|p| places[*p]);
            let Some(pair) = next else { break };
            last = Some(places[pair]);
            add_scaled(weights[pair], &sorted[places[pair] as usize * n..][..n], y);
        }
    });
}
