//! Steps with bodies: what they mean is the operator's own, each body is a program with a frame of its own.

use crate::kernels::pool::Pool;
use crate::program::Instr;
use crate::session::Frame;
use ir::Datum;
use ir::ops::EvalError;

/// Runs a step with bodies. Symbols bound so far are known inside the bodies.
pub(crate) fn run(
    frame: &mut Frame,
    instr: &Instr,
    at: usize,
    pool: &Pool,
    operands: &[&Datum],
) -> Result<Vec<Datum>, EvalError> {
    let symbols = frame.symbols.clone();
    let profiling = frame.is_profiling();
    let mut run = |name: &str, inputs: &[Datum]| {
        let which = instr.bodies.iter().position(|(n, _)| n == name).expect("a program has all bodies of its steps");
        let program = &instr.bodies[which].1;
        let inner = frame.bodies[at][which].get_or_insert_with(|| {
            let mut fresh = Frame::new(program);
            fresh.set_profiling(profiling);
            Box::new(fresh)
        });
        let results = inner.run(program, pool, inputs, &symbols);
        results.map(<[Datum]>::to_vec).map_err(|e| EvalError::Invalid(e.to_string()))
    };
    instr.op.eval_with(operands, &mut run)
}
