//! One layer of many experts: each pair of token and expert multiplies a row of `x` by its expert's weights.
//!
//! The pairs come sorted by expert as an index map. Rows are read through it while they are packed for the register tiles,
//! and results are written through it, so that nothing is permuted in memory. A task owns a range of output columns for all
//! experts: shares are equal however uneven the routing is, weights are read once, and sums of a token's experts need no
//! atomics and have one order. Gates are finished on a block of rows while it is in the cache.

use super::super::pack::{PANEL, panel_elems};
use super::super::pool::{MatMut, Pool, Tile};
use super::simd::{Element, Kernel, Simd};
use super::tile::tile_rows;
use super::{Epilogue, K_BLOCK, Panels, Ready, Rows, multiply, pack_row_tiles};
use crate::kernels::math;
use crate::kernels::vectorise::vectorise;
use std::ops::Range;

/// Rows of one expert that are multiplied before their results are finished.
const BLOCK_ROWS: usize = 192;
/// Columns of a task: results of a block stay in the L2 cache.
const MOST_COLS: usize = 512;

/// Packed weights of every expert, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct ExpertPanels<'a, E> {
    data: &'a [E],
    n: usize,
    k: usize,
}

impl<'a, E> ExpertPanels<'a, E> {
    /// Weights of `experts` experts, `n` outputs and `k` inputs each.
    ///
    /// # Panics
    /// When `data` has another number of elements.
    pub fn new(data: &'a [E], experts: usize, n: usize, k: usize) -> Self {
        assert_eq!(data.len(), experts * panel_elems(n, k), "the panels of {experts} x {n} x {k}");
        Self { data, n, k }
    }

    fn of(&self, expert: usize) -> Panels<'a, E> {
        let each = panel_elems(self.n, self.k);
        Panels::new(&self.data[expert * each..][..each], self.n, self.k)
    }
}

/// Weights and biases (`[experts, n]`) of a product.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a, E> {
    /// The weights.
    pub weights: ExpertPanels<'a, E>,
    /// The biases.
    pub bias: Option<&'a [f32]>,
}

/// What is multiplied, and how two products are gated.
#[derive(Clone, Copy, Debug)]
pub enum Products<'a, E> {
    /// One product.
    One(Layer<'a, E>),
    /// Gate and linear part alternate.
    Interleaved(Layer<'a, E>),
    /// The gate is the first half.
    Halves(Layer<'a, E>),
    /// Gate and linear part have their own weights.
    Two(Layer<'a, E>, Layer<'a, E>),
}

impl<E> Products<'_, E> {
    fn first(&self) -> &Layer<'_, E> {
        match self {
            Self::One(l) | Self::Interleaved(l) | Self::Halves(l) | Self::Two(l, _) => l,
        }
    }
}

/// The pairs of token and expert, sorted by expert.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// Positions of the pairs.
    pub rows: &'a [i32],
    /// Where each expert's pairs start, and the end.
    pub offsets: &'a [i32],
    /// Pairs that read the same row of `x`.
    pub repeat: usize,
}

impl Pairs<'_> {
    /// Whether every pair is there and every range within them.
    pub fn are_valid(&self) -> bool {
        let count = self.rows.len() as i32;
        self.rows.iter().all(|r| (0..count).contains(r))
            && self.offsets.windows(2).all(|w| 0 <= w[0] && w[0] <= w[1])
            && self.offsets.last().is_none_or(|end| *end <= count)
    }
}

/// A function of the gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gate {
    /// The value itself.
    Identity,
    /// `g * sigmoid(alpha g)`.
    Silu(f32),
    /// The exact GELU.
    Gelu,
    /// GELU by a tanh.
    GeluTanh,
    /// `max(g, 0)`.
    Relu,
}

/// How products become results: `act(min(g, limit)) * (clamp(u, -limit, limit) + beta)`.
#[derive(Clone, Copy, Debug)]
pub struct Finish {
    /// The function.
    pub gate: Gate,
    /// Added to the linear part.
    pub beta: f32,
    /// Bounds of gate and linear part.
    pub limit: f32,
}

/// Columns of a task: equal shares, and as wide as may be, since each task packs all rows for itself.
fn task_cols(pool: &Pool, n: usize) -> usize {
    let panels = n.div_ceil(PANEL).max(1);
    let rounds = panels.div_ceil(pool.threads() * MOST_COLS / PANEL);
    panels.div_ceil(pool.threads() * rounds).next_multiple_of(2) * PANEL
}

/// Columns of results that a task keeps for a block of rows: of both products, each with up to a panel on both sides.
fn kept_cols(cols: usize) -> usize {
    2 * (cols + 2 * PANEL)
}

/// Pairs of an expert that are multiplied at once: seldom more than tokens, as a token chooses an expert once.
fn block_rows(x_rows: usize, y_rows: usize) -> usize {
    x_rows.min(y_rows).clamp(1, BLOCK_ROWS)
}

/// Elements that hold the rows of a block side by side; one row is read where it lies.
fn packed_len(rows: usize, k: usize) -> usize {
    if rows > 1 { rows * k } else { 0 }
}

/// Elements of scratch that [`experts`] needs for `n` outputs, `k` inputs, and so many rows of x and of y.
pub fn experts_scratch(pool: &Pool, x_rows: usize, y_rows: usize, n: usize, k: usize) -> usize {
    let rows = block_rows(x_rows, y_rows);
    pool.threads() * (packed_len(rows, k) + rows * kept_cols(task_cols(pool, n)))
}

/// `y[pair] = finish(products of x[pair / repeat])`, or with weights `y[token] = sum of weight * that` over its pairs.
///
/// `y` has a row per pair, or with `weights` (one per pair) a row per token.
///
/// # Panics
/// When shapes disagree, pairs are not [valid](Pairs::are_valid), or scratch is shorter than [`experts_scratch`] says.
#[allow(clippy::too_many_arguments, reason = "two matrices, the pairs, and scratch")]
pub fn experts<E: Element>(
    pool: &Pool,
    x: Rows<'_>,
    pairs: Pairs<'_>,
    products: Products<'_, E>,
    finish: Finish,
    weights: Option<&[f32]>,
    y: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    let count = pairs.rows.len();
    let (n, k) = (y.cols(), products.first().weights.k);
    assert_eq!((x.cols, x.rows * pairs.repeat), (k, count), "shapes of experts");
    let each = count.checked_div(y.rows()).unwrap_or(1).max(1);
    assert!(y.rows() * each == count && weights.map_or(each == 1 || count == 0, |w| w.len() == count));
    let cols = task_cols(pool, n);
    let tokens = y.rows();
    let rows = block_rows(x.rows, tokens);
    let job = Job { pool, x, pairs, products, finish, weights, each };
    pool.tiles(y, [tokens, cols], scratch, |scratch, (): &mut (), mut out| {
        if weights.is_some() {
            (0..out.rows).for_each(|row| out.row(row).fill(0.0));
        }
        let (packed, kept) = scratch.split_at_mut(packed_len(rows, k));
        for expert in 0..pairs.offsets.len().saturating_sub(1) {
            let of = pairs.offsets[expert] as usize..pairs.offsets[expert + 1] as usize;
            for block in pairs.rows[of].chunks(rows) {
                job.block(expert, block, packed, kept, &mut out);
            }
        }
    });
}

/// What all tasks share.
struct Job<'a, E> {
    pool: &'a Pool,
    x: Rows<'a>,
    pairs: Pairs<'a>,
    products: Products<'a, E>,
    finish: Finish,
    weights: Option<&'a [f32]>,
    each: usize,
}

impl<E: Element> Job<'_, E> {
    /// Some rows of one expert, for the columns of `out`.
    fn block(&self, expert: usize, block: &[i32], packed: &mut [f32], kept: &mut [f32], out: &mut Tile<'_, f32>) {
        let k = self.x.cols;
        let packed: &[f32] = match block {
            [pair] => self.x.row(*pair as usize / self.pairs.repeat),
            _ => {
                let packed = &mut packed[..block.len() * k];
                self.pool.isa().run(Pack { x: self.x, block, repeat: self.pairs.repeat, to: packed });
                packed
            }
        };
        let columns = out.col..out.col + out.cols;
        let (first, second) = kept.split_at_mut(kept.len() / 2);
        match self.products {
            Products::One(layer) => {
                let g = self.multiply(layer, expert, columns, packed, block.len(), first);
                self.write(block, out, |row, to| single(self.finish, g.row(row), g.bias, to));
            }
            Products::Two(gate, linear) => {
                let g = self.multiply(gate, expert, columns.clone(), packed, block.len(), first);
                let u = self.multiply(linear, expert, columns, packed, block.len(), second);
                self.write(block, out, |row, to| gated(self.finish, g.row(row), g.bias, u.row(row), u.bias, to));
            }
            Products::Halves(layer) => {
                let half = layer.weights.n / 2;
                let g = self.multiply(layer, expert, columns.clone(), packed, block.len(), first);
                let upper = half + columns.start..half + columns.end;
                let u = self.multiply(layer, expert, upper, packed, block.len(), second);
                self.write(block, out, |row, to| gated(self.finish, g.row(row), g.bias, u.row(row), u.bias, to));
            }
            Products::Interleaved(layer) => {
                let both = 2 * columns.start..2 * columns.end;
                let p = self.multiply(layer, expert, both, packed, block.len(), kept);
                self.write(block, out, |row, to| alternating(self.finish, p.row(row), p.bias, to));
            }
        }
    }

    /// The products of a block for a range of one expert's outputs.
    fn multiply<'k>(
        &self,
        layer: Layer<'k, E>,
        expert: usize,
        outputs: Range<usize>,
        packed: &[f32],
        rows: usize,
        kept: &'k mut [f32],
    ) -> Kept<'k> {
        let panels = layer.weights.of(expert);
        let from = outputs.start / PANEL * PANEL;
        let cols = outputs.end.next_multiple_of(PANEL).min(panels.n) - from;
        let kept = &mut kept[..rows * cols];
        MatMut::new(kept, rows, cols, cols).whole(|tile| {
            self.pool.isa().run(Multiply { packed, panels, panel: from / PANEL, tile });
        });
        let bias = layer.bias.map_or(&[][..], |b| &b[expert * panels.n..][outputs.clone()]);
        Kept { data: kept, cols, from: outputs.start - from, len: outputs.len(), bias }
    }

    /// Hands out each pair's result, or adds it to its token's.
    fn write(&self, block: &[i32], out: &mut Tile<'_, f32>, finish: impl Fn(usize, &mut [f32])) {
        let mut result = [0.0; MOST_COLS];
        for (row, pair) in block.iter().enumerate() {
            let pair = *pair as usize;
            let to = out.row(pair / self.each);
            match self.weights {
                None => finish(row, to),
                Some(weights) => {
                    let result = &mut result[..to.len()];
                    finish(row, result);
                    add_scaled(weights[pair], result, to);
                }
            }
        }
    }
}

/// Results of a block in the cache.
struct Kept<'k> {
    data: &'k [f32],
    cols: usize,
    from: usize,
    len: usize,
    bias: &'k [f32],
}

impl Kept<'_> {
    fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols + self.from..][..self.len]
    }
}

/// Packs the rows that pairs read.
struct Pack<'a> {
    x: Rows<'a>,
    block: &'a [i32],
    repeat: usize,
    to: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Self { x, block, repeat, to } = self;
        let rows = tile_rows::<S>(block.len());
        pack_row_tiles(simd, |row| x.row(block[row] as usize / repeat), x.cols, [0, block.len(), rows], to);
    }
}

/// Multiplies packed rows by panels from some panel on.
struct Multiply<'a, 't, 'y, E> {
    packed: &'a [f32],
    panels: Panels<'a, E>,
    panel: usize,
    tile: &'t mut Tile<'y, f32>,
}

impl<E: Element> Kernel for Multiply<'_, '_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Self { packed, panels: Panels { data, k, .. }, panel, tile } = self;
        let source = Ready { panels: &data[panel * k..], k };
        multiply(simd, packed, tile_rows::<S>(tile.rows), source, k, K_BLOCK, &Epilogue::NONE, tile);
    }
}

/// The function of one gate; its parameters do not change within a row, so that loops stay without branches.
#[inline(always)]
fn activate<const FMA: bool>(gate: Gate, x: f32) -> f32 {
    match gate {
        Gate::Identity => x,
        Gate::Silu(alpha) => x * math::sigmoid::<FMA>(alpha * x),
        Gate::Gelu => math::gelu::<FMA>(x),
        Gate::GeluTanh => math::gelu_tanh::<FMA>(x),
        Gate::Relu => math::max(x, 0.0),
    }
}

#[inline(always)]
fn combine<const FMA: bool>(finish: Finish, g: f32, u: f32) -> f32 {
    // Comparisons keep NaN.
    let g = if g > finish.limit { finish.limit } else { g };
    let u = if u > finish.limit { finish.limit } else { u };
    let u = if u < -finish.limit { -finish.limit } else { u };
    activate::<FMA>(finish.gate, g) * (u + finish.beta)
}

/// A loop for each gate, so that none has branches. Loops and no `for_each`: a closure that is not inlined is compiled without
/// the features of the function around it, and then each `fma` is a call.
macro_rules! each_gate {
    ($gate:expr, |$g:ident| $loop:expr) => {
        match $gate {
            Gate::Identity => {
                let $g = Gate::Identity;
                $loop
            }
            Gate::Silu(alpha) => {
                let $g = Gate::Silu(alpha);
                $loop
            }
            Gate::Gelu => {
                let $g = Gate::Gelu;
                $loop
            }
            Gate::GeluTanh => {
                let $g = Gate::GeluTanh;
                $loop
            }
            Gate::Relu => {
                let $g = Gate::Relu;
                $loop
            }
        }
    };
}

vectorise! {
    pub(crate) fn add_scaled<FMA>(weight: f32, x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = crate::kernels::vectorise::fma::<FMA>(weight, *x, *y);
        }
    }

    pub(crate) fn single<FMA>(finish: Finish, g: &[f32], bias: &[f32], y: &mut [f32]) {
        y.copy_from_slice(g);
        for (y, bias) in y.iter_mut().zip(bias) {
            *y += bias;
        }
        each_gate!(finish.gate, |gate| for y in y.iter_mut() {
            *y = activate::<FMA>(gate, *y);
        });
    }

    pub(crate) fn gated<FMA>(finish: Finish, g: &[f32], g_bias: &[f32], u: &[f32], u_bias: &[f32], y: &mut [f32]) {
        y.copy_from_slice(g);
        for (y, bias) in y.iter_mut().zip(g_bias) {
            *y += bias;
        }
        // A missing bias is a slice without elements; nothing is copied for it.
        if u_bias.len() == u.len() {
            each_gate!(finish.gate, |gate| for ((y, u), bias) in y.iter_mut().zip(u).zip(u_bias) {
                *y = combine::<FMA>(Finish { gate, ..finish }, *y, u + bias);
            });
        } else {
            each_gate!(finish.gate, |gate| for (y, u) in y.iter_mut().zip(u) {
                *y = combine::<FMA>(Finish { gate, ..finish }, *y, *u);
            });
        }
    }

    pub(crate) fn alternating<FMA>(finish: Finish, p: &[f32], bias: &[f32], y: &mut [f32]) {
        let (p, _) = p.as_chunks::<2>();
        match bias.as_chunks::<2>().0 {
            [] => each_gate!(finish.gate, |gate| for (y, [g, u]) in y.iter_mut().zip(p) {
                *y = combine::<FMA>(Finish { gate, ..finish }, *g, *u);
            }),
            bias => each_gate!(finish.gate, |gate| for ((y, [g, u]), [g_bias, u_bias]) in y.iter_mut().zip(p).zip(bias) {
                *y = combine::<FMA>(Finish { gate, ..finish }, g + g_bias, u + u_bias);
            }),
        }
    }
}
