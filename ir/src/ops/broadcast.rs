//! Numpy broadcasting of concrete tensors, for reference evaluations.

use super::EvalError;
use crate::tensor::Dims;

/// The broadcast of all shapes.
pub fn shape(shapes: &[&[usize]]) -> Result<Dims, EvalError> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out: Dims = std::iter::repeat_n(1, rank).collect();
    for dims in shapes {
        for (at, d) in dims.iter().enumerate() {
            let r = &mut out[rank - dims.len() + at];
            match (*r, *d) {
                (_, 1) => {}
                (1, d) => *r = d,
                (r, d) if r == d => {}
                _ => return Err(EvalError::Invalid(format!("shapes {shapes:?} do not broadcast"))),
            }
        }
    }
    Ok(out)
}

/// For each element of `out`, the index of the element of a tensor of shape `dims` that it reads.
pub fn indices(dims: &[usize], out: &[usize]) -> Vec<usize> {
    let lead = out.len() - dims.len();
    let mut strides = vec![0usize; out.len()];
    let mut step = 1;
    for i in (0..dims.len()).rev() {
        strides[lead + i] = if dims[i] == 1 { 0 } else { step };
        step *= dims[i];
    }
    let mut indices = vec![0usize];
    for (n, stride) in out.iter().zip(&strides) {
        indices = indices.iter().flat_map(|base| (0..*n).map(move |i| base + i * stride)).collect();
    }
    indices
}
