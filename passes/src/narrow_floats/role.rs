//! What becomes of each operator: the one table of the pass.

use super::constants::{Part, fits};
use ir::DType;
use ir::graph::{Graph, NodeId};
use ir::ops::{CoreOp, Op, PoolFn, ReduceFn};
use ir::scalar::{BinaryFn, UnaryFn};

/// What becomes of an operator whose results are f32.
pub(super) enum Role {
    /// It becomes narrow with these operands; others stay as they are.
    Narrow(Sides),
    /// It is narrow where these operands are.
    Follow(Sides),
    /// It reads sizes, of whatever type.
    Free,
    /// It stays f32.
    Wide(&'static str),
}

/// Positions of operands.
#[derive(Clone, Copy)]
pub(super) enum Sides {
    These(&'static [usize]),
    From(usize),
}

impl Sides {
    pub(super) fn has(self, i: usize) -> bool {
        match self {
            Sides::These(all) => all.contains(&i),
            Sides::From(first) => i >= first,
        }
    }
}

const ALL: Sides = Sides::From(0);
const FIRST: Sides = Sides::These(&[0]);

const RANGE: &str = "its results leave the range or the precision of the type";
const SUMS: &str = "it sums many elements";
const CODES: &str = "it computes with integers";
const PICKS: &str = "it compares elements that may be close to each other";
const RECURRENT: &str = "its state would be rounded at every step";
const PLACES: &str = "it computes places";
const CONVERTS: &str = "the model converts to f32 here";
const BODY: &str = "branches and loops compute in the model's own types";
const WHOLE: &str = "it does the work of several operators at once";

/// What becomes of a node.
pub(super) fn role(graph: &Graph, id: NodeId, to: DType) -> Role {
    use Role::{Follow, Free, Narrow, Wide};
    let Some(Op::CoreOp(op)) = graph.op(id) else {
        return Wide(if graph.op(id).is_some_and(Op::has_body) { BODY } else { "it runs on the host" });
    };
    let found = match op {
        CoreOp::Linear(_)
        | CoreOp::MatMul(_)
        | CoreOp::Conv(_)
        | CoreOp::ConvTranspose(_)
        | CoreOp::RmsNorm(_)
        | CoreOp::LayerNorm(_)
        | CoreOp::GroupNorm(_) => Narrow(ALL),
        // A mask may be of another type than what it hides.
        CoreOp::Attention(_) => Narrow(Sides::These(&[0, 1, 2, 4, 5])),
        CoreOp::CachedAttention(_) => Narrow(Sides::These(&[0, 1, 2, 6])),
        CoreOp::KvWrite(_) => Narrow(Sides::From(3)),
        CoreOp::MoeGemm(_) => Narrow(Sides::These(&[0, 3, 4, 5, 6, 7])),
        // Packed weights and their scales stay as they are.
        CoreOp::MatMulNBits(_) => Narrow(Sides::These(&[0, 5])),
        CoreOp::MoeGemmNBits(_) => Narrow(Sides::These(&[0, 6, 10, 11])),
        // Tables of cosines and sines may be of another type than what is turned.
        CoreOp::Rope(_) => Follow(FIRST),
        CoreOp::MoeRoute(_) => Follow(Sides::These(&[0, 1])),
        CoreOp::Binary(op) => match op.f {
            // A square, like Pow's.
            BinaryFn::Mul if graph.operands(id)[0] == graph.operands(id)[1] => Wide(RANGE),
            BinaryFn::Add | BinaryFn::Sub | BinaryFn::Mul | BinaryFn::Min | BinaryFn::Max => Follow(ALL),
            // Divisors are often kept from 0 by a number that is 0 in a narrow type.
            BinaryFn::Div if graph.constant_of(graph.operands(id)[1]).is_some() => Follow(ALL),
            BinaryFn::Div => Wide("its divisor is computed"),
            BinaryFn::Pow | BinaryFn::Mod | BinaryFn::Fmod => Wide(RANGE),
            _ => Wide(CODES),
        },
        CoreOp::Unary(op) => match op.f {
            UnaryFn::Neg | UnaryFn::Abs | UnaryFn::Sign | UnaryFn::Relu | UnaryFn::HardSwish => Follow(ALL),
            UnaryFn::Tanh | UnaryFn::Sigmoid | UnaryFn::Silu | UnaryFn::Erf | UnaryFn::Gelu => Follow(ALL),
            UnaryFn::GeluTanh | UnaryFn::Softplus | UnaryFn::Softsign | UnaryFn::Mish => Follow(ALL),
            UnaryFn::Floor | UnaryFn::Ceil | UnaryFn::Round => Wide(PLACES),
            _ => Wide(RANGE),
        },
        CoreOp::Select(_) => Follow(Sides::These(&[1, 2])),
        CoreOp::Reduce(op) => match op.f {
            ReduceFn::Mean | ReduceFn::Max | ReduceFn::Min => Follow(ALL),
            _ => Wide(SUMS),
        },
        CoreOp::Pool(op) => match op.f {
            PoolFn::Max | PoolFn::Average => Follow(ALL),
            PoolFn::Lp => Wide(SUMS),
        },
        CoreOp::Reshape(_) | CoreOp::Transpose(_) | CoreOp::Slice(_) | CoreOp::Expand(_) => Follow(FIRST),
        CoreOp::Tile(_) | CoreOp::Trilu(_) | CoreOp::Softmax(_) => Follow(FIRST),
        CoreOp::Gather(_) | CoreOp::GatherNd(_) | CoreOp::GatherElements(_) => Follow(FIRST),
        CoreOp::Resize(_) => Follow(FIRST),
        CoreOp::Concat(_) => Follow(ALL),
        CoreOp::Pad(_) | CoreOp::TensorScatter(_) => Follow(Sides::These(&[0, 1])),
        CoreOp::ScatterElements(_) | CoreOp::ScatterNd(_) => Follow(Sides::These(&[0, 2])),
        CoreOp::Dims(_) | CoreOp::ShapeOf(_) => Free,
        CoreOp::ArgReduce(_) | CoreOp::Compare(_) | CoreOp::TopK(_) => Wide(PICKS),
        CoreOp::Cast(_) => Wide(CONVERTS),
        CoreOp::Cumulate(_) | CoreOp::Lrn(_) => Wide(SUMS),
        CoreOp::Range(_) | CoreOp::Fill(_) | CoreOp::OneHot(_) | CoreOp::ExpertIndex(_) => Wide(PLACES),
        CoreOp::ConvInteger(_)
        | CoreOp::DequantizeLinear(_)
        | CoreOp::DynamicQuantizeLinear(_)
        | CoreOp::DynamicQuantizeLstm(_)
        | CoreOp::MatMulInteger(_)
        | CoreOp::QuantizeLinear(_) => Wide(CODES),
        CoreOp::Gru(_) | CoreOp::Lstm(_) | CoreOp::Rnn(_) => Wide(RECURRENT),
        CoreOp::GroupQueryAttention(_) | CoreOp::Moe(_) | CoreOp::MoeNBits(_) | CoreOp::Map(_) => Wide(WHOLE),
        // Made for devices, after this pass.
        CoreOp::Linears(_)
        | CoreOp::LinearsNBits(_)
        | CoreOp::MoeJoin(_)
        | CoreOp::MoeRouteIndex(_)
        | CoreOp::RopeKvWrite(_) => Wide(WHOLE),
    };
    match found {
        Follow(sides) if !constants_fit(graph, id, sides, to) => Wide("a constant of it does not fit the type"),
        found => found,
    }
}

fn constants_fit(graph: &Graph, id: NodeId, sides: Sides, to: DType) -> bool {
    let operands = graph.operands(id);
    let constants = operands.iter().enumerate().filter(|(i, _)| sides.has(*i));
    constants.filter_map(|(i, v)| Some((i, graph.constant_of(*v)?))).all(|(i, t)| fits(t, part(graph, id, i), to))
}

fn part(graph: &Graph, id: NodeId, operand: usize) -> Part {
    match graph.op(id) {
        Some(Op::CoreOp(CoreOp::Binary(op))) => match op.f {
            BinaryFn::Min | BinaryFn::Max => Part::Bound,
            BinaryFn::Mul | BinaryFn::Div => Part::Factor,
            _ => Part::Term,
        },
        Some(Op::CoreOp(CoreOp::Pad(_))) if operand == 1 => Part::Bound,
        _ => Part::Term,
    }
}

/// Whether a cast of its operands can become part of one expression with it.
pub(super) fn is_elementwise(graph: &Graph, id: NodeId) -> bool {
    let Some(Op::CoreOp(op)) = graph.op(id) else { return false };
    matches!(op, CoreOp::Binary(_) | CoreOp::Cast(_) | CoreOp::Compare(_) | CoreOp::Select(_) | CoreOp::Unary(_))
}
