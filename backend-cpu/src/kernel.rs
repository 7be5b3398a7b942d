//! What a kernel is to the executor: a thing that reads tensor views and writes tensor views.

use crate::kernels::element::Element;
use crate::kernels::pool::Pool;
use ir::ops::EvalError;
use ir::{DType, Dim, TensorType};
use plan::Layout;

/// A tensor that a kernel reads.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Element type.
    pub dtype: DType,
    /// Dimensions; of a packed weight, those before packing.
    pub dims: &'a [usize],
    /// Row-major data, or a packed weight's panels.
    pub bytes: &'a [u8],
}

/// A tensor that a kernel writes, row-major.
pub struct ViewMut<'a> {
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub dims: &'a [usize],
    /// The memory; holds arbitrary values before the kernel runs.
    pub bytes: &'a mut [u8],
}

impl<'a> View<'a> {
    /// The elements as a native type, which typing has made sure of.
    pub fn as_slice<T: bytemuck::AnyBitPattern>(&self) -> &'a [T] {
        bytemuck::cast_slice(self.bytes)
    }
}

impl ViewMut<'_> {
    /// The elements as a native type, which typing has made sure of.
    pub fn as_slice_mut<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.bytes)
    }
}

/// One call of a kernel.
pub struct Call<'c, 'a> {
    /// Threads to use.
    pub pool: &'c Pool,
    /// Operands; `None` where one was left out.
    pub ins: &'c [Option<View<'a>>],
    /// Results.
    pub outs: &'c mut [ViewMut<'a>],
    /// Values of [`Kernel::numbers`].
    pub numbers: &'c [i64],
    /// At least [`Kernel::scratch_words`] words of arbitrary content.
    pub scratch: &'c mut [u64],
}

impl<'a> Call<'_, 'a> {
    /// Operand `i`, which must be there.
    pub fn input(&self, i: usize) -> View<'a> {
        self.ins[i].expect("typing made sure of the operand")
    }
}

/// Concrete dimensions of the operands (`None` where one was left out) and results of a call to come.
pub struct CallDims<'c> {
    /// Per operand.
    pub ins: &'c [Option<&'c [usize]>],
    /// Per result.
    pub outs: &'c [&'c [usize]],
}

/// A kernel, ready for one node of a plan. It allocates nothing while it runs.
pub trait Kernel: Send + Sync {
    /// For `inspect` and `run --profile`.
    fn name(&self) -> &'static str;

    /// Gets ready for operands that are constants of the model (`None` for the others), once, when a plan is loaded. A
    /// weight in another form is kept here, so that a call need not make it.
    fn prepare(&mut self, _constants: &[Option<View<'_>>]) {}

    /// Expressions over the symbols whose values a call needs.
    fn numbers(&self) -> Vec<Dim> {
        vec![]
    }

    /// Words of scratch that a call with these dimensions needs.
    fn scratch_words(&self, _pool: &Pool, _dims: &CallDims<'_>) -> usize {
        0
    }

    /// Computes the results. Fails on values that break the operator's contract, such as an index out of range.
    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError>;
}

/// What a kernel is chosen by.
pub struct Types<'t> {
    /// Operand types; `None` where one was left out.
    pub ins: &'t [Option<&'t TensorType>],
    /// Result types.
    pub outs: &'t [&'t TensorType],
    /// How each operand lies in memory.
    pub layouts: &'t [Layout],
    /// Which operands are constants, which [`Kernel::prepare`] sees.
    pub constants: &'t [bool],
}

impl Types<'_> {
    /// Element type of operand `i`, when it is there.
    pub fn dtype(&self, i: usize) -> Option<DType> {
        Some(self.ins.get(i).copied().flatten()?.dtype)
    }

    /// Whether operands `0..n` are f32, those left out aside.
    pub fn all_f32(&self) -> bool {
        self.ins.iter().flatten().chain(self.outs).all(|t| t.dtype == DType::F32)
    }

    /// Dimensions of operand `i`, when it is there and ranked.
    pub fn dims(&self, i: usize) -> Option<&[Dim]> {
        self.ins.get(i).copied().flatten()?.dims()
    }

    /// Whether operand `i` is left out.
    pub fn lacks(&self, i: usize) -> bool {
        self.ins.get(i).copied().flatten().is_none()
    }

    /// Whether operand `i` is a constant or left out.
    pub fn constant(&self, i: usize) -> bool {
        self.lacks(i) || self.constants[i]
    }

    /// Whether every operand is an ordinary row-major tensor.
    pub fn row_major(&self) -> bool {
        self.layouts.iter().all(|l| *l == Layout::RowMajor)
    }
}

/// A chosen kernel.
pub type Chosen = Option<Box<dyn Kernel>>;

/// The kernels' name of an element type; `None` for text and types that are only stored.
pub fn element(dtype: DType) -> Option<Element> {
    Some(match dtype {
        DType::F64 => Element::F64,
        DType::F32 => Element::F32,
        DType::F16 => Element::F16,
        DType::BF16 => Element::BF16,
        DType::I64 => Element::I64,
        DType::I32 => Element::I32,
        DType::I16 => Element::I16,
        DType::I8 => Element::I8,
        DType::U64 => Element::U64,
        DType::U32 => Element::U32,
        DType::U16 => Element::U16,
        DType::U8 => Element::U8,
        DType::Bool => Element::Bool,
        _ => return None,
    })
}

/// Bytes of one element that can be moved by itself; `None` for text and packed types.
pub fn movable(dtype: DType) -> Option<usize> {
    matches!(dtype.bits(), 8 | 16 | 32 | 64).then_some(dtype.bits() / 8)
}

/// How many elements one task should handle so that threads share `total` evenly but no task is too small to matter.
pub fn grain(total: usize, threads: usize, unit: usize, least: usize) -> usize {
    let unit = unit.max(1);
    let share = total.div_ceil(threads.max(1)).max(least);
    share.div_ceil(unit) * unit
}
