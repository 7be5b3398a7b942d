//! Chooses device kernels for operators: one file per family, one line per operator here. Pure: it needs no device.
//!
//! A [`Lowering`] is made from types when a plan is made, and again when it is loaded; once sizes are numbers it says which
//! kernels are called with what. An operator without one runs on the host, for the reason given here.

mod activation;
mod attention;
mod cache;
mod conv;
mod conv_transpose;
mod copy;
mod cumulate;
mod dynamic_quantize_lstm;
mod gather;
mod gather_nd;
mod group_norm;
mod linear;
mod map;
mod matmul;
mod matmul_integer;
mod matmul_nbits;
mod moe;
mod moe_gemm_nbits;
mod moe_join;
mod norm;
mod packed;
mod pad;
mod pick;
mod pool;
mod quantize;
mod range;
mod recurrent;
mod reduce;
mod resize;
mod rope;
mod rope_kv_write;
mod scatter;
mod softmax;
mod trilu;
mod window;

use crate::tuning::Tuning;
use ir::{CoreOp, DType, Dim, Op, TensorType};
pub(crate) use kernels::Call;
use kernels::Element;
use plan::Layout;

/// Memory that a call names: a value of the node, from some byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) of: Of,
    pub(crate) offset: i64,
}

/// A value of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// An operand.
    In(usize),
    /// A result.
    Out(usize),
    /// Memory of its own, whose content means nothing before and after.
    Scratch,
}

pub(crate) fn input(i: usize) -> Memory {
    Memory { of: Of::In(i), offset: 0 }
}

pub(crate) fn output(i: usize) -> Memory {
    Memory { of: Of::Out(i), offset: 0 }
}

pub(crate) fn scratch(offset: i64) -> Memory {
    Memory { of: Of::Scratch, offset }
}

/// Concrete sizes of one node.
pub(crate) struct Sizes<'a> {
    /// Dimensions of the operands; empty for one that was left out.
    pub(crate) ins: &'a [Vec<usize>],
    /// Dimensions of the results.
    pub(crate) outs: &'a [Vec<usize>],
    /// Values of [`Lowering::numbers`].
    pub(crate) numbers: &'a [i64],
}

/// How a node runs on the device.
pub(crate) trait Lowering: Send + Sync {
    /// For `inspect` and `run --profile`, and in the plan.
    fn name(&self) -> &'static str;

    /// Files of the kernels it may call, which are compiled when a plan is loaded.
    fn files(&self) -> &'static [&'static str];

    /// Expressions over the symbols whose values it needs.
    fn numbers(&self) -> Vec<Dim> {
        vec![]
    }

    /// Bytes of memory that it needs beside operands and results.
    fn scratch(&self) -> Option<Dim> {
        None
    }

    /// The operand whose memory the first result may take.
    fn in_place(&self) -> Option<usize> {
        None
    }

    /// The calls, in order. Fails when the sizes are beyond what the kernels take.
    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String>;
}

/// A lowering, or why there is none.
pub(crate) type Chosen = Result<Box<dyn Lowering>, &'static str>;

/// What a lowering is chosen by.
pub(crate) struct Types<'t> {
    /// Operand types; `None` where one was left out.
    pub(crate) ins: &'t [Option<&'t TensorType>],
    /// Result types.
    pub(crate) outs: &'t [&'t TensorType],
    /// How operands lie; row-major where this ends.
    pub(crate) layouts: &'t [Layout],
    /// What is known of the device.
    pub(crate) tuning: &'static Tuning,
}

impl<'t> Types<'t> {
    /// Operand `i`, when it is there.
    pub(crate) fn input(&self, i: usize) -> Option<&'t TensorType> {
        self.ins.get(i).copied().flatten()
    }

    /// How operand `i` lies.
    pub(crate) fn layout(&self, i: usize) -> Layout {
        self.layouts.get(i).copied().unwrap_or(Layout::RowMajor)
    }

    /// The element type of operand `i` as kernels have it.
    pub(crate) fn element(&self, i: usize) -> Result<Element, &'static str> {
        element(self.input(i).ok_or("an operand is missing")?.dtype)
    }

    /// The dimensions of operand `i`.
    pub(crate) fn dims(&self, i: usize) -> Result<&'t [Dim], &'static str> {
        self.input(i).and_then(|t| t.dims()).ok_or("its rank is not known")
    }

    /// Fails unless every operand and result is of one of the types that float kernels take, and all of the same.
    pub(crate) fn one_float(&self) -> Result<Element, &'static str> {
        let found = self.element(0)?;
        let same = self.ins.iter().flatten().chain(self.outs).all(|t| element(t.dtype) == Ok(found));
        match (same, found) {
            (false, _) => Err("its element types differ"),
            (true, Element::F32 | Element::F16 | Element::BF16) => Ok(found),
            (true, _) => Err("the kernel takes f32, f16 and bf16 only"),
        }
    }
}

/// The kernels' name of an element type.
pub(crate) fn element(dtype: DType) -> Result<Element, &'static str> {
    Ok(match dtype {
        DType::F32 => Element::F32,
        DType::F16 => Element::F16,
        DType::BF16 => Element::BF16,
        DType::I64 => Element::I64,
        DType::I32 => Element::I32,
        DType::U8 | DType::Bool => Element::U8,
        DType::U16 => Element::U16,
        DType::U32 => Element::U32,
        DType::U64 => Element::U64,
        _ => return Err("no kernel takes its element type"),
    })
}

/// Elements of this type as bits that are moved.
pub(crate) fn moved(dtype: DType) -> Result<Element, &'static str> {
    match dtype.bits() {
        8 => Ok(Element::U8),
        16 => Ok(Element::U16),
        32 => Ok(Element::U32),
        64 => Ok(Element::U64),
        _ => Err("its elements cannot be moved one by one"),
    }
}

/// Calls that copy the first `rows` rows of every head of one cache, `[slots, heads, rows, width]`, to another.
pub(crate) fn copies_of_rows(
    dtype: DType,
    rows: usize,
    from: &[usize; 4],
    to: &[usize; 4],
) -> Result<Vec<Call<Memory>>, String> {
    let element = moved(dtype)?;
    let dims = [from[0], from[1], rows, from[3]];
    let (by_from, by_to) = (copy::strides(from), copy::strides(to));
    let call = copy::walk(element, input(0), output(0), &dims, (0, &by_from), (0, &by_to))?;
    Ok(call.into_iter().collect())
}

/// The call of a table's function, which typing made sure of.
pub(crate) fn call(made: Option<Call<Memory>>) -> Call<Memory> {
    made.expect("element types were checked when the kernel was chosen")
}

/// The operands of an operator whose rows kernels would rather read than their columns, when they are constants.
pub(crate) fn transposed(op: &Op) -> &'static [usize] {
    match op {
        Op::CoreOp(CoreOp::Linear(op)) if op.kn => &[1],
        Op::CoreOp(CoreOp::Linears(op)) if op.kn => &[2, 4, 6],
        Op::CoreOp(CoreOp::MoeGemm(op)) if op.kn => &[3, 5],
        Op::CoreOp(CoreOp::MoeJoin(op)) if op.kn => &[3],
        _ => &[],
    }
}

/// The lowering for an operator with operands and results of these types.
pub(crate) fn choose(op: &Op, types: &Types<'_>) -> Chosen {
    let Op::CoreOp(op) = op else { return Err("it is an operator of the host") };
    match op {
        CoreOp::ArgReduce(op) => pick::arg_reduce(op, types),
        CoreOp::Attention(op) => attention::attention(op, types),
        CoreOp::Binary(_)
        | CoreOp::Cast(_)
        | CoreOp::Compare(_)
        | CoreOp::Map(_)
        | CoreOp::Select(_)
        | CoreOp::Unary(_) => map::map(op, types),
        CoreOp::CachedAttention(op) => cache::cached_attention(op, types),
        CoreOp::Concat(op) => copy::concat(op, types),
        CoreOp::Conv(op) => conv::conv(op, types),
        CoreOp::ConvTranspose(op) => conv_transpose::conv_transpose(op, types),
        CoreOp::Cumulate(op) => cumulate::cumulate(op, types),
        CoreOp::DequantizeLinear(op) => quantize::dequantize_linear(op, types),
        CoreOp::DynamicQuantizeLinear(_) => quantize::dynamic_quantize_linear(types),
        CoreOp::DynamicQuantizeLstm(op) => dynamic_quantize_lstm::dynamic_quantize_lstm(op, types),
        CoreOp::Expand(_) => copy::expand(types),
        CoreOp::ExpertIndex(op) => moe::expert_index(op, types),
        CoreOp::Fill(_) => copy::fill(types),
        CoreOp::Gather(op) => gather::gather(op, types),
        CoreOp::GatherNd(op) => gather_nd::gather_nd(op, types),
        CoreOp::GroupNorm(op) => group_norm::group_norm(op, types),
        CoreOp::Gru(op) => recurrent::gru(op, types),
        CoreOp::KvWrite(_) => cache::kv_write(types),
        CoreOp::LayerNorm(op) => norm::layer_norm(op, types),
        CoreOp::Linear(op) => linear::linear(op, types),
        CoreOp::Linears(op) => linear::linears(op, types),
        CoreOp::LinearsNBits(op) => matmul_nbits::linears_nbits(op, types),
        CoreOp::Lstm(op) => recurrent::lstm(op, types),
        CoreOp::MatMul(_) => matmul::matmul(types),
        CoreOp::MatMulInteger(_) => matmul_integer::matmul_integer(types),
        CoreOp::MatMulNBits(op) => matmul_nbits::matmul_nbits(op, types),
        CoreOp::MoeGemm(op) => moe::moe_gemm(op, types),
        CoreOp::MoeGemmNBits(op) => moe_gemm_nbits::moe_gemm_nbits(op, types),
        CoreOp::MoeJoin(op) => moe_join::moe_join(op, types),
        CoreOp::MoeRoute(op) => moe::moe_route(op, types),
        CoreOp::MoeRouteIndex(op) => moe::moe_route_index(op, types),
        CoreOp::Pad(op) => pad::pad(op, types),
        CoreOp::Pool(op) => pool::pool(op, types),
        CoreOp::QuantizeLinear(op) => quantize::quantize_linear(op, types),
        CoreOp::Range(op) => range::range(op),
        CoreOp::Reduce(op) => reduce::reduce(op, types),
        CoreOp::Reshape(_) => copy::reshape(types),
        CoreOp::Resize(op) => resize::resize(op, types),
        CoreOp::RmsNorm(op) => norm::rms_norm(op, types),
        CoreOp::Rope(op) => rope::rope(op, types),
        CoreOp::RopeKvWrite(op) => rope_kv_write::rope_kv_write(op, types),
        CoreOp::ScatterElements(op) => scatter::scatter_elements(op, types),
        CoreOp::ScatterNd(op) => scatter::scatter_nd(op, types),
        CoreOp::Slice(op) => copy::slice(op, types),
        CoreOp::Softmax(op) => softmax::softmax(op, types),
        CoreOp::TopK(op) => pick::top_k(op, types),
        CoreOp::Transpose(op) => copy::transpose(op, types),
        CoreOp::Trilu(op) => trilu::trilu(op, types),
        // An operator that is new must be thought of: there is no arm for all others.
        CoreOp::ConvInteger(_) => Err("no kernel slides windows over 8-bit integers"),
        CoreOp::Dims(_) | CoreOp::ShapeOf(_) => Err("it gives sizes, which the host has at hand"),
        CoreOp::GatherElements(_) => Err("no kernel reads an index for every element"),
        CoreOp::GroupQueryAttention(_) => Err("no kernel rotates, appends to a cache and attends at once"),
        CoreOp::Lrn(_) => Err("no kernel sums over neighbouring channels"),
        CoreOp::Moe(_) | CoreOp::MoeNBits(_) => Err("no kernel routes and multiplies at once; its parts have kernels"),
        CoreOp::OneHot(_) => Err("no kernel compares indices with their places"),
        CoreOp::Rnn(_) => Err("of recurrent layers only LSTM and GRU have kernels"),
        CoreOp::TensorScatter(_) => Err("no kernel writes rows to a place per sample"),
        CoreOp::Tile(_) => Err("no kernel repeats whole tensors"),
    }
}
