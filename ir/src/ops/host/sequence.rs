use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, TypeError, ValueType, bodies};
use crate::op;
use crate::ops::Slice;
use crate::ops::concat::join;
use crate::ops::reading::{self, invalid, moves_data, tensor};
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType};

op! {
    /// `sequence_construct(items...) {of}`: a list of values; `of` is the type of the items of an empty one.
    pub struct SequenceConstruct { of: Option<ValueType> }
}

op! {
    /// `sequence_at(list, position)`: one item; negative positions count from the end.
    pub struct SequenceAt {}
}

op! {
    /// `sequence_insert(list, item, position?)`: the list with one more item, at the end without a position.
    pub struct SequenceInsert {}
}

op! {
    /// `sequence_erase(list, position?)`: the list without one item, the last without a position.
    pub struct SequenceErase {}
}

op! {
    /// `sequence_length(list)`: how many items there are.
    pub struct SequenceLength {}
}

op! {
    /// `concat_from_sequence(list) {axis, new_axis}`: the tensors of a list joined along an axis, which `new_axis` adds.
    pub struct ConcatFromSequence { axis: i64, new_axis: bool }
}

op! {
    /// `split_to_sequence(x, sizes?) {axis, keep}`: `x` cut along an axis into parts of the given sizes (or one size for all
    /// but the last). Without sizes every part is one slice, which keeps its dimension of 1 only with `keep`.
    pub struct SplitToSequence { axis: i64, keep: bool }
}

fn items<'a>(operands: &[&'a Datum]) -> Result<&'a [Datum], EvalError> {
    match operands.first() {
        Some(Datum::Sequence(items)) => Ok(items),
        Some(Datum::Optional(Some(inner))) => items(&[inner]),
        _ => Err(invalid("operand 0 is not a sequence")),
    }
}

fn item_type<'a>(operands: &Operands<'a>) -> Result<&'a ValueType, TypeError> {
    match operands.ty(0)? {
        ValueType::Sequence(of) => Ok(of),
        other => Err(operands.wrong(0, format!("{other} is not a sequence"))),
    }
}

/// A type for items of which nothing is known but their kind.
fn loose(ty: &ValueType, operands: &Operands<'_>) -> ValueType {
    ty.map_dims(&|d| if d.is_late() { operands.late_dim() } else { d.clone() })
}

fn position(operands: &[&Datum], i: usize, n: usize) -> Result<Option<usize>, EvalError> {
    let given = reading::optional(operands, i)?.map(reading::number).transpose()?;
    given.map(|at| reading::index(at, n)).transpose()
}

impl OpSpec for SequenceConstruct {
    const NAME: &'static str = "sequence_construct";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N], %y: f32[M]) { %s = sequence_construct(%x, %y) %n = sequence_length(%s) %p = const [-1] : i64[] %z = sequence_at(%s, %p) return %n, %z }",
        "graph @g(%x: f32[N, M]) { %e = sequence_construct() {of = f32[..]} %s = sequence_insert(%e, %x) %t = sequence_insert(%s, %x) %y = concat_from_sequence(%t) {axis = 0, new_axis = true} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        let mut of = self.of.clone();
        for i in 0..operands.len() {
            let ty = operands.ty(i)?;
            of = Some(match of {
                None => ty.clone(),
                Some(of) => bodies::merge_types(&of, ty, &mut |_| operands.late_dim())
                    .ok_or_else(|| operands.wrong(i, format!("{ty} in a list of {of}")))?,
            });
        }
        let of = of.ok_or_else(|| TypeError::Invalid("an empty list needs the type of its items".into()))?;
        Ok(vec![ValueType::Sequence(Box::new(of))])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        Ok(vec![Datum::Sequence(operands.iter().map(|d| (*d).clone()).collect())])
    }

    moves_data! {}
}

impl OpSpec for SequenceAt {
    const NAME: &'static str = "sequence_at";

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        reading::takes_indices(operands, 1)?;
        Ok(vec![loose(item_type(operands)?, operands)])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let list = items(operands)?;
        let at = position(operands, 1, list.len())?.ok_or_else(|| invalid("the position is missing"))?;
        Ok(vec![list[at].clone()])
    }

    moves_data! {}
}

impl OpSpec for SequenceInsert {
    const NAME: &'static str = "sequence_insert";

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 3)?;
        let (of, item) = (item_type(operands)?, operands.ty(1)?);
        let merged = bodies::merge_types(of, item, &mut |_| operands.late_dim());
        let merged = merged.ok_or_else(|| operands.wrong(1, format!("{item} in a list of {of}")))?;
        Ok(vec![ValueType::Sequence(Box::new(merged))])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let mut list = items(operands)?.to_vec();
        // One past the end is a place too.
        let given = reading::optional(operands, 2)?.map(reading::number).transpose()?;
        let at = match given {
            None => list.len(),
            Some(at) if at == list.len() as i64 => list.len(),
            Some(at) => reading::index(at, list.len())?,
        };
        list.insert(at, operands[1].clone());
        Ok(vec![Datum::Sequence(list)])
    }

    moves_data! {}
}

impl OpSpec for SequenceErase {
    const NAME: &'static str = "sequence_erase";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N], %y: f32[M]) { %s = sequence_construct(%x, %y) %t = sequence_erase(%s) %n = sequence_length(%t) return %n }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 2)?;
        item_type(operands)?;
        Ok(vec![operands.ty(0)?.clone()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let mut list = items(operands)?.to_vec();
        let last = list.len().checked_sub(1).ok_or_else(|| invalid("the sequence is empty"))?;
        list.remove(position(operands, 1, list.len())?.unwrap_or(last));
        Ok(vec![Datum::Sequence(list)])
    }

    moves_data! {}
}

impl OpSpec for SequenceLength {
    const NAME: &'static str = "sequence_length";

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        item_type(operands)?;
        Ok(vec![TensorType::new(DType::I64, [0i64; 0]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        Ok(vec![Tensor::scalar(items(operands)?.len() as i64).into()])
    }

    moves_data! {}
}

impl OpSpec for ConcatFromSequence {
    const NAME: &'static str = "concat_from_sequence";

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let of = item_type(operands)?;
        let of = of.as_tensor().ok_or_else(|| operands.wrong(0, format!("{of} cannot be joined")))?;
        let mut shape = of.shape.clone();
        if let Shape::Ranked(dims) = &mut shape {
            match self.new_axis {
                true => dims.insert(crate::ops::axis(self.axis, dims.len() + 1)?, operands.late_dim()),
                false => {
                    let at = crate::ops::axis(self.axis, dims.len())?;
                    dims[at] = operands.late_dim();
                }
            }
        }
        Ok(vec![loose(&TensorType { dtype: of.dtype, shape }.into(), operands)])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let tensors: Option<Vec<&Tensor>> = items(operands)?.iter().map(|d| d.as_tensor()).collect();
        let tensors = tensors.filter(|t| !t.is_empty()).ok_or_else(|| invalid("there are no tensors to join"))?;
        if !self.new_axis {
            return Ok(vec![join(&tensors, self.axis)?.into()]);
        }
        let tensors: Vec<Tensor> = tensors.into_iter().cloned().collect();
        let ty = TensorType::unranked(tensors[0].dtype());
        Ok(vec![super::loop_body::stack(&tensors, self.axis, &ty)?.into()])
    }

    moves_data! {}
}

impl OpSpec for SplitToSequence {
    const NAME: &'static str = "split_to_sequence";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[5, N]) { %n = const [2] : i64[] %s = split_to_sequence(%x, %n) {axis = 0} %t = split_to_sequence(%x) {axis = 1} %a = sequence_length(%s) %b = sequence_length(%t) return %a, %b }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 2)?;
        let x = operands.tensor(0)?;
        let mut shape = x.shape.clone();
        if let Shape::Ranked(dims) = &mut shape {
            let at = crate::ops::axis(self.axis, dims.len())?;
            match (operands.has(1), self.keep) {
                (false, false) => drop(dims.remove(at)),
                (false, true) => dims[at] = Dim::constant(1),
                (true, _) => dims[at] = operands.late_dim(),
            }
        }
        Ok(vec![ValueType::Sequence(Box::new(TensorType { dtype: x.dtype, shape }.into()))])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let at = reading::axis(self.axis, x.rank())?;
        let n = x.dims()[at] as i64;
        let given = reading::optional(operands, 1)?;
        let sizes: Vec<i64> = match given {
            None => vec![1; n as usize],
            Some(sizes) if sizes.rank() == 0 => {
                let size = reading::number(sizes)?;
                if size <= 0 {
                    return Err(invalid(format!("parts of {size} elements")));
                }
                (0..n).step_by(size as usize).map(|start| size.min(n - start)).collect()
            }
            Some(sizes) => sizes.to_i64()?,
        };
        if sizes.iter().any(|s| *s < 0) || sizes.iter().sum::<i64>() != n {
            return Err(invalid(format!("sizes {sizes:?} do not cut a dimension of {n}")));
        }
        let (mut parts, mut start) = (vec![], 0);
        for size in sizes {
            let (starts, ends) = (vec![Dim::constant(start)], vec![Dim::constant(start + size)]);
            let part = Slice { axes: vec![at as i64], starts, ends, steps: vec![1] }.eval(&operands[..1])?;
            let mut part = tensor(&[&part[0]], 0)?.clone();
            if given.is_none() && !self.keep {
                let mut dims = part.dims().to_vec();
                dims.remove(at);
                part = part.reshaped(&dims)?;
            }
            parts.push(part.into());
            start += size;
        }
        Ok(vec![Datum::Sequence(parts)])
    }

    moves_data! {}
}
