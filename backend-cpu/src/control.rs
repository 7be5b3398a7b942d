//! Steps with bodies: `if`, `loop` and `scan`, each body a program with a frame of its own.

use crate::kernels::pool::Pool;
use crate::program::Instr;
use crate::session::{Frame, Symbols};
use ir::Datum;
use ir::ops::EvalError;

/// Runs a step with bodies.
pub(crate) fn run(
    frame: &mut Frame,
    instr: &Instr,
    at: usize,
    pool: &Pool,
    operands: &[Datum],
) -> Result<Vec<Datum>, EvalError> {
    let symbols = frame.symbols.clone();
    let mut body = |name: &str, inputs: &[Datum]| -> Result<Vec<Datum>, EvalError> {
        let which = instr.bodies.iter().position(|(n, _)| n == name);
        let which = which.ok_or_else(|| EvalError::Invalid(format!("there is no body `{name}`")))?;
        let program = &instr.bodies[which].1;
        let inner = frame.bodies[at][which].get_or_insert_with(|| Box::new(Frame::new(program)));
        run_body(inner, program, pool, inputs, &symbols)
    };
    let _ = (&mut body, operands);
    todo!()
}

fn run_body(
    frame: &mut Frame,
    program: &crate::program::Program,
    pool: &Pool,
    inputs: &[Datum],
    symbols: &Symbols,
) -> Result<Vec<Datum>, EvalError> {
    let results = frame.run(program, pool, inputs, symbols);
    results.map(<[Datum]>::to_vec).map_err(|e| EvalError::Invalid(e.to_string()))
}
