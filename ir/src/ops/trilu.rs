use super::reading::{invalid, moves_data, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tensor, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::ValueType;

op! {
    /// `trilu(x) {upper, diagonal}`: the matrices of the last two dimensions with zeros below (`upper`) or above the given
    /// diagonal; 0 is the main one, positive ones lie above it.
    pub struct Trilu { upper: bool, diagonal: Dim }
}

impl OpSpec for Trilu {
    const NAME: &'static str = "trilu";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 5, 7]) { %y = trilu(%x) {upper = true, diagonal = 1} %z = trilu(%x) {diagonal = N - 3} return %y, %z }",
        "graph @g(%x: i64[5, M]) { %y = trilu(%x) {diagonal = -2} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        if x.dims().is_some_and(|d| d.len() < 2) || x.dtype == DType::Str {
            return Err(operands.wrong(0, format!("{x} holds no matrices of numbers")));
        }
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let [.., rows, columns] = *x.dims() else { return Err(invalid("a matrix has two dimensions")) };
        let diagonal = super::numbers(std::slice::from_ref(&self.diagonal))?[0];
        if x.dtype().bits() < 8 {
            return Err(invalid(format!("trilu does not take {}", x.dtype())));
        }
        let width = x.dtype().bits() / 8;
        let y = Tensor::build(x.dtype(), x.dims(), |out| {
            let lines = out.chunks_exact_mut((columns * width).max(1)).zip(x.bytes().chunks_exact((columns * width).max(1)));
            for (i, (to, from)) in lines.enumerate() {
                // The first column on or right of the diagonal; below, the first one right of it.
                let at = ((i % rows) as i64).saturating_add(diagonal).saturating_add(i64::from(!self.upper));
                let at = at.clamp(0, columns as i64) as usize * width;
                match self.upper {
                    true => to[at..].copy_from_slice(&from[at..]),
                    false => to[..at].copy_from_slice(&from[..at]),
                }
            }
        })?;
        Ok(vec![y.into()])
    }

    moves_data! {}
}
