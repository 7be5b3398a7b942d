//! Chooses a kernel for each operator: one file per family, one line per operator here.

mod attention;
mod cache;
mod conv;
mod conv_integer;
mod elementwise;
mod generate;
mod indexed;
mod integer;
mod linear;
mod lines;
mod map;
mod moe;
mod moe_nbits;
mod movement;
mod nbits;
mod numbers;
mod pad;
mod pool;
mod quantize;
mod quantized_lstm;
mod recurrent;
mod reduce;
mod resize;
mod rope;
mod rows;
mod tensor_scatter;
mod widened;
mod window;

pub(crate) use moe::gate;
pub(crate) use movement::CopyKernel;
pub(crate) use nbits::nibbles;

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
        CoreOp::MoeGemm(_) => widened(types, &[3, 5], |types| direct(op, types)),
        CoreOp::Linear(_) => widened(types, &[1], |types| direct(op, types)),
        // So are the caches.
        CoreOp::CachedAttention(_) => widened(types, &[1, 2], |types| direct(op, types)),
        // Scales and zero points too.
        CoreOp::MatMulNBits(_) => widened(types, &[1, 2, 3], |types| direct(op, types)),
        _ => widened(types, &[], |types| direct(op, types)),
    })
}

fn direct(op: &CoreOp, types: &Types<'_>) -> Chosen {
    match op {
        CoreOp::ArgReduce(op) => lines::arg_reduce(op, types),
        CoreOp::Attention(op) => attention::attention(op, types),
        CoreOp::Binary(op) => elementwise::binary(op, types),
        CoreOp::CachedAttention(op) => cache::cached_attention(op, types),
        CoreOp::Cast(op) => elementwise::cast(op, types),
        CoreOp::Compare(op) => elementwise::compare(op, types),
        CoreOp::Concat(op) => movement::concat(op, types),
        CoreOp::Conv(op) => conv::conv(op, types),
        CoreOp::ConvInteger(op) => conv_integer::conv_integer(op, types),
        CoreOp::ConvTranspose(op) => conv::conv_transpose(op, types),
        CoreOp::Cumulate(op) => lines::cumulate(op, types),
        CoreOp::DequantizeLinear(op) => quantize::dequantize_linear(op, types),
        CoreOp::Dims(op) => numbers::dims(op),
        CoreOp::DynamicQuantizeLinear(_) => quantize::dynamic_quantize_linear(types),
        CoreOp::DynamicQuantizeLstm(op) => quantized_lstm::dynamic_quantize_lstm(op, types),
        CoreOp::ExpertIndex(op) => moe::index(op, types),
        CoreOp::Expand(_) => movement::expand(types),
        CoreOp::Fill(op) => generate::fill(op, types),
        CoreOp::Gather(op) => movement::gather(op, types),
        CoreOp::GatherElements(op) => indexed::gather_elements(op, types),
        CoreOp::GatherNd(op) => indexed::gather_nd(op, types),
        CoreOp::GroupNorm(op) => rows::group_norm(op, types),
        CoreOp::GroupQueryAttention(op) => attention::group_query(op, types),
        CoreOp::Gru(op) => recurrent::gru(op, types),
        CoreOp::KvWrite(_) => cache::kv_write(types),
        CoreOp::LayerNorm(op) => rows::layer_norm(op, types),
        CoreOp::Linear(op) => linear::linear(op, types),
        CoreOp::Lrn(op) => rows::lrn(op, types),
        CoreOp::Lstm(op) => recurrent::lstm(op, types),
        CoreOp::Map(op) => map::map(op, types),
        CoreOp::MatMul(_) => linear::matmul(types),
        CoreOp::MatMulInteger(_) => integer::matmul_integer(types),
        CoreOp::MatMulNBits(op) => nbits::matmul_nbits(op, types),
        CoreOp::MoeGemm(op) => moe::gemm(op, types),
        CoreOp::MoeGemmNBits(op) => moe_nbits::gemm(op, types),
        CoreOp::MoeRoute(op) => moe::route(op, types),
        CoreOp::OneHot(op) => generate::one_hot(op, types),
        CoreOp::Pad(op) => pad::pad(op, types),
        CoreOp::Pool(op) => pool::pool(op, types),
        CoreOp::QuantizeLinear(op) => quantize::quantize_linear(op, types),
        CoreOp::Range(op) => generate::range(op),
        CoreOp::Reduce(op) => reduce::reduce(op, types),
        CoreOp::Reshape(_) => types.row_major().then(|| Box::new(CopyKernel) as _),
        CoreOp::Resize(op) => resize::resize(op, types),
        CoreOp::RmsNorm(op) => rows::rms_norm(op, types),
        CoreOp::Rope(op) => rope::rope(op, types),
        CoreOp::ScatterElements(op) => indexed::scatter_elements(op, types),
        CoreOp::ScatterNd(op) => indexed::scatter_nd(op, types),
        CoreOp::Select(_) => elementwise::select(types),
        CoreOp::ShapeOf(_) => numbers::shape_of(types),
        CoreOp::Slice(op) => movement::slice(op, types),
        CoreOp::Softmax(op) => rows::softmax(op, types),
        CoreOp::TensorScatter(op) => tensor_scatter::tensor_scatter(op, types),
        CoreOp::Tile(op) => pad::tile(op, types),
        CoreOp::TopK(op) => lines::top_k(op, types),
        CoreOp::Transpose(op) => movement::transpose(op, types),
        CoreOp::Trilu(op) => generate::trilu(op, types),
        CoreOp::Unary(op) => elementwise::unary(op, types),
        // No kernels yet: the reference evaluates them.
        CoreOp::Moe(_) | CoreOp::MoeNBits(_) | CoreOp::Rnn(_) => None,
        // These are made for devices only.
        CoreOp::Linears(_)
        | CoreOp::LinearsNBits(_)
        | CoreOp::MoeJoin(_)
        | CoreOp::MoeRouteIndex(_)
        | CoreOp::RopeKvWrite(_) => None,
    }
}
