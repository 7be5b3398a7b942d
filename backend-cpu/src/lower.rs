//! Chooses a kernel for each operator: one file per family, one line per operator here.

mod attention;
mod elementwise;
mod linear;
mod map;
mod movement;
mod numbers;
mod reduce;
mod rope;
mod rows;
mod widened;

pub(crate) use movement::CopyKernel;

use self::widened::widened;
use crate::kernel::{Chosen, Types};
use ir::{CoreOp, Op};

/// The kernel for an operator with operands and results of these types; `None` leaves it to the reference evaluation.
pub(crate) fn choose(op: &Op, types: &Types<'_>) -> Chosen {
    let Op::CoreOp(op) = op else { return None };
    direct(op, types).or_else(|| match op {
        // What these compute depends on the types themselves.
        CoreOp::Cast(_)
        | CoreOp::QuantizeLinear(_)
        | CoreOp::DequantizeLinear(_)
        | CoreOp::DynamicQuantizeLinear(_) => None,
        // The weight is widened as it is read.
        CoreOp::Linear(_) => widened(types, &[1], |types| direct(op, types)),
        _ => widened(types, &[], |types| direct(op, types)),
    })
}

fn direct(op: &CoreOp, types: &Types<'_>) -> Chosen {
    match op {
        CoreOp::Attention(op) => attention::attention(op, types),
        CoreOp::Binary(op) => elementwise::binary(op, types),
        CoreOp::Cast(op) => elementwise::cast(op, types),
        CoreOp::Compare(op) => elementwise::compare(op, types),
        CoreOp::Concat(op) => movement::concat(op, types),
        CoreOp::Dims(op) => numbers::dims(op),
        CoreOp::Expand(_) => movement::expand(types),
        CoreOp::Gather(op) => movement::gather(op, types),
        CoreOp::GroupQueryAttention(op) => attention::group_query(op, types),
        CoreOp::Linear(op) => linear::linear(op, types),
        CoreOp::Map(op) => map::map(op, types),
        CoreOp::MatMul(_) => linear::matmul(types),
        CoreOp::Reduce(op) => reduce::reduce(op, types),
        CoreOp::Reshape(_) => types.row_major().then(|| Box::new(CopyKernel) as _),
        CoreOp::Rope(op) => rope::rope(op, types),
        CoreOp::Select(_) => elementwise::select(types),
        CoreOp::ShapeOf(_) => numbers::shape_of(types),
        CoreOp::Slice(op) => movement::slice(op, types),
        CoreOp::Softmax(op) => rows::softmax(op, types),
        CoreOp::Transpose(op) => movement::transpose(op, types),
        CoreOp::Unary(op) => elementwise::unary(op, types),
        _ => None,
    }
}
