//! A step bound to sizes and addresses: calls with their parameters, after every extent was checked.

use crate::code::Modules;
use crate::device::{Function, Parameters};
use crate::lower::{Call, Memory, Of, Sizes};
use crate::program::KernelStep;
use kernels::{Arg, ParamKind};

/// Bytes of a report of an index out of range.
const REPORT: u64 = 16;
/// The most blocks along x, y and z.
const MOST_BLOCKS: [i64; 3] = [i32::MAX as i64, 65535, 65535];

/// A call that is ready to be queued.
pub(crate) struct BoundCall {
    pub(crate) function: Function,
    pub(crate) grid: [u32; 3],
    pub(crate) block: u32,
    pub(crate) parameters: Parameters,
}

/// A value of a step: where it begins, and how much of it there is.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) address: u64,
    pub(crate) len: i64,
}

/// Where the values of a step lie.
pub(crate) struct Spans {
    pub(crate) ins: Vec<Span>,
    pub(crate) outs: Vec<Span>,
    pub(crate) scratch: Span,
    /// The step's report of indices out of range.
    pub(crate) report: u64,
}

/// Binds a step; fails when a kernel would touch memory that is not the value's, or does not take these sizes.
pub(crate) fn bind(
    step: &KernelStep,
    sizes: &Sizes<'_>,
    spans: &Spans,
    modules: &Modules,
) -> Result<Vec<BoundCall>, String> {
    bind_calls(&step.lowering.calls(sizes)?, spans, modules)
}

/// Binds calls; those without blocks are left out.
pub(crate) fn bind_calls(calls: &[Call<Memory>], spans: &Spans, modules: &Modules) -> Result<Vec<BoundCall>, String> {
    calls.iter().filter(|c| !c.grid().contains(&0)).map(|call| bind_call(call, spans, modules)).collect()
}

/// Whether calls of this lowering may report.
pub(crate) fn reports(files: &[&str]) -> bool {
    let reporting = |k: &&&kernels::Kernel| k.params.iter().any(|p| p.kind == ParamKind::Report);
    kernels::table::ALL.iter().filter(reporting).any(|k| files.contains(&k.file))
}

fn bind_call(call: &Call<Memory>, spans: &Spans, modules: &Modules) -> Result<BoundCall, String> {
    let name = call.kernel.name;
    if let Some(reason) = call.broken() {
        return Err(format!("{name} does not take these sizes: {reason}"));
    }
    let span = |m: &Memory| match m.of {
        Of::In(i) => spans.ins[i],
        Of::Out(i) => spans.outs[i],
        Of::Scratch => spans.scratch,
    };
    let extents = call.extents();
    for (memory, write, bytes) in &extents {
        if *write && matches!(memory.of, Of::In(_)) {
            return Err(format!("{name} would write to an operand"));
        }
        let end = memory.offset.checked_add(*bytes).filter(|_| memory.offset >= 0);
        if end.is_none_or(|end| end > span(memory).len) {
            let len = span(memory).len;
            return Err(format!("{name} would touch {bytes} bytes from {} of {len}", memory.offset));
        }
    }
    let grid = call.grid();
    if let Some(axis) = (0..3).find(|i| grid[*i] < 0 || grid[*i] > MOST_BLOCKS[*i]) {
        return Err(format!("{name} would need {} blocks along axis {axis}", grid[axis]));
    }
    let mut parameters = Parameters::default();
    let mut extents = extents.into_iter();
    for (param, arg) in call.kernel.params.iter().zip(&call.args) {
        match arg {
            Arg::Memory(m) => {
                let (_, write, bytes) = extents.next().expect("there is an extent per memory");
                parameters.push_memory(span(m).address.wrapping_add_signed(m.offset), bytes as u64, write);
            }
            Arg::Int(n) => parameters.push(match param.kind {
                ParamKind::U32 | ParamKind::I32 => u64::from(*n as u32),
                _ => *n as u64,
            }),
            Arg::Float(v) => parameters.push(u64::from(v.to_bits())),
            Arg::Words(words) => parameters.push_words(words),
            Arg::Report => parameters.push_memory(spans.report, REPORT, true),
        }
    }
    let function = modules.function(call.kernel).map_err(|e| e.to_string())?;
    Ok(BoundCall { function, grid: grid.map(|n| n as u32), block: call.kernel.block, parameters })
}
