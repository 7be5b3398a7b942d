use super::{DType, Datum, Dim, EvalError, Op, OpSpec, Operands, SmallVec, TypeError, ValueType};
use crate::op;
use crate::ops::Range;
use crate::ops::reading::{self, invalid, moves_data, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;
use smallvec::smallvec;

op! {
    /// `range_of(start, limit, step)`: ONNX Range of any element type. Shape folding turns an i64 one into `range` when
    /// its operands are known.
    pub struct RangeOf {}
}

/// How many elements a range has; `None` when the sign of a symbolic step decides it.
fn length(start: &Dim, limit: &Dim, step: &Dim) -> Option<Dim> {
    let step = step.as_const().filter(|s| *s != 0 && *s != i64::MIN)?;
    let span = if step > 0 { limit - start } else { start - limit };
    Some(Dim::max(&span.ceil_div(&Dim::constant(step.abs())), &Dim::constant(0)))
}

fn known(operands: &Operands<'_>) -> Option<Range> {
    let number = |i| reading::known_number(operands, i);
    let (start, limit, step) = (number(0)?, number(1)?, number(2)?);
    Some(Range { length: length(&start, &limit, &step)?, start, step })
}

impl OpSpec for RangeOf {
    const NAME: &'static str = "range_of";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%a: i64[], %b: i64[]) { %s = const [1] : i64[] %y = range_of(%a, %b, %s) return %y }",
        "graph @g(%b: f32[]) { %a = const [0.5] : f32[] %s = const [0.25] : f32[] %y = range_of(%a, %b, %s) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 3)?;
        let dtype = operands.dtype(0)?;
        reading::same_dtype(operands, 0, 1)?;
        reading::same_dtype(operands, 0, 2)?;
        if matches!(dtype, DType::Str | DType::Bool) {
            return Err(operands.wrong(0, format!("a range of {dtype}")));
        }
        let length = known(operands).map(|r| r.length);
        Ok(vec![TensorType::new(dtype, [length.unwrap_or_else(|| operands.late_dim())]).into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        known(operands)?.elements(operands)
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        (operands.dtype(0) == Ok(DType::I64)).then_some(())?;
        Some((known(operands)?.into(), smallvec![]))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (start, limit, step) = (tensor(operands, 0)?, tensor(operands, 1)?, tensor(operands, 2)?);
        if start.len() != 1 || limit.len() != 1 || step.len() != 1 {
            return Err(invalid("start, limit and step are one number each"));
        }
        if start.dtype().is_float() {
            let (start_at, limit, step) = (start.to_f64()?[0], limit.to_f64()?[0], step.to_f64()?[0]);
            let length = ((limit - start_at) / step).ceil().max(0.0);
            if !length.is_finite() || length > 1e15 {
                return Err(invalid(format!("a range from {start_at} to {limit} by {step} never ends")));
            }
            let n = crate::tensor::count(&[length as usize])?;
            let values: Vec<f64> = (0..n).map(|i| start_at + i as f64 * step).collect();
            return Ok(vec![Tensor::from_f64(start.dtype(), &[n], &values)?.into()]);
        }
        let (first, limit, step) = (start.to_ints()?[0], limit.to_ints()?[0], step.to_ints()?[0]);
        if step == 0 {
            return Err(invalid("a range with a step of 0 never ends"));
        }
        let span = if step > 0 { limit - first } else { first - limit };
        let n = usize::try_from((span.max(0) + step.abs() - 1) / step.abs()).map_err(invalid)?;
        crate::tensor::count(&[n])?;
        if start.dtype() == DType::I64 {
            let values: Vec<i64> = (0..n as i128).map(|i| (first + i * step) as i64).collect();
            return Ok(vec![Tensor::vector_i64(&values).into()]);
        }
        let values: Vec<i128> = (0..n as i128).map(|i| first + i * step).collect();
        Ok(vec![Tensor::from_ints(start.dtype(), &[n], &values)?.into()])
    }

    moves_data! {}
}
