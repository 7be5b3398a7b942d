use super::{Datum, Dim, EvalError, Op, OpSpec, Operands, SmallVec, TypeError, ValueType};
use crate::op;
use crate::ops::Tile;
use crate::ops::reading::{self, moves_data, tensor};
use smallvec::smallvec;

op! {
    /// `tile_by(x, repeats)`: ONNX Tile with its repeats as an operand; shape folding turns it into `tile`.
    pub struct TileBy {}
}

impl OpSpec for TileBy {
    const NAME: &'static str = "tile_by";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3], %like: f32[N, M]) { %s = shape_of(%like) %y = tile_by(%x, %s) return %y }",
        "graph @g(%x: f32[N, 3], %s: i64[2]) { %y = tile_by(%x, %s) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        if let Some((op, kept)) = self.fold_shape(operands) {
            return operands.infer_with(&op, &kept);
        }
        let rank = operands.dims(0)?.map(<[Dim]>::len).or(reading::known_length(operands, 1));
        Ok(vec![reading::late_tensor(operands, operands.dtype(0)?, rank)])
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        Some((Tile { repeats: operands.elements(1)?.to_vec() }.into(), smallvec![0]))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let repeats = reading::dims_of(tensor(operands, 1)?)?;
        if repeats.len() != tensor(operands, 0)?.rank() {
            return Err(reading::invalid(format!("{} repeats for {:?}", repeats.len(), tensor(operands, 0)?.dims())));
        }
        Tile { repeats }.eval(&operands[..1])
    }

    moves_data! {}
}
