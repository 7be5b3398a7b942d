//! Whether there is memory for what an operator is about to compute: sizes may be data, and a failed allocation ends the process.

use super::{EvalError, Fact, HostOp, Op, Operands};
use crate::tensor::{Datum, Tensor, count, ensure_room};
use crate::types::ValueType;
use std::cell::Cell;

/// What the reference evaluation holds for an element of a result at most times: two numbers or places.
const BYTES: usize = 16;

/// Fails when a result that typing can tell the size of, given the data of the operands, is too large for memory.
pub(super) fn ensure(op: &Op, operands: &[&Datum]) -> Result<(), EvalError> {
    // Bodies are checked node by node.
    if matches!(op, Op::HostOp(HostOp::If(_) | HostOp::Loop(_) | HostOp::Scan(_) | HostOp::SequenceMap(_))) {
        return Ok(());
    }
    let facts: Option<Vec<Fact>> = operands.iter().map(|d| fact(d)).collect();
    let Some(facts) = facts else { return Ok(()) };
    let (refs, next_late) = (facts.iter().collect::<Vec<_>>(), Cell::new(u32::MAX / 2));
    // What does not type says so itself when it is evaluated.
    let Ok(types) = op.infer(&Operands::new(&refs, &next_late)) else { return Ok(()) };
    let most = operands.iter().filter_map(|d| d.as_tensor()).map(Tensor::len).max().unwrap_or(0);
    for dims in types.iter().filter_map(|ty| ty.as_tensor()?.shape.as_const()) {
        // There was memory for operands; what is no larger may be a view of one.
        if count(&dims)? > most {
            ensure_room(&dims, BYTES)?;
        }
    }
    Ok(())
}

fn fact(datum: &Datum) -> Option<Fact> {
    match datum {
        Datum::Tensor(t) => Some(Fact::constant(t.clone())),
        Datum::Absent => Some(Fact::of(ValueType::Absent)),
        _ => None,
    }
}
