use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, invalid, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;

op! {
    /// `non_max_suppression(boxes, scores, most?, overlap?, least_score?) {center_point_box}`: for every batch and class, the
    /// best boxes that do not overlap a better one by more than `overlap` (intersection over union): i64 [count, 3] of
    /// (batch, class, box) (ONNX NonMaxSuppression). At most `most` (0 by default) of each class.
    pub struct NonMaxSuppression { center_point_box: bool }
}

impl OpSpec for NonMaxSuppression {
    const NAME: &'static str = "non_max_suppression";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%b: f32[1, N, 4], %s: f32[1, 2, N]) { %m = const [3] : i64[1] %o = const [0.5] : f32[1] %y = non_max_suppression(%b, %s, %m, %o) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 5)?;
        for i in 0..2 {
            if operands.dtype(i)? != DType::F32 || operands.dims(i)?.is_some_and(|d| d.len() != 3) {
                return Err(operands.wrong(i, "expected f32 of rank 3"));
            }
        }
        Ok(vec![TensorType::new(DType::I64, [operands.late_dim(), Dim::constant(3)]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (boxes, scores) = (tensor(operands, 0)?, tensor(operands, 1)?);
        let ([batches, n, 4], [score_batches, classes, m]) = (boxes.dims(), scores.dims()) else {
            return Err(invalid(format!("boxes {:?} and scores {:?}", boxes.dims(), scores.dims())));
        };
        let (batches, classes, n) = (*batches, *classes, *n);
        if batches != *score_batches || n != *m {
            return Err(invalid(format!("boxes {:?} and scores {:?}", boxes.dims(), scores.dims())));
        }
        let most = reading::optional(operands, 2)?.map(reading::number).transpose()?.unwrap_or(0);
        let real = |i| Ok::<_, EvalError>(reading::optional(operands, i)?.map(|t| t.to_f64()).transpose()?);
        let overlap = real(3)?.and_then(|v| v.first().copied()).unwrap_or(0.0) as f32;
        let least = real(4)?.and_then(|v| v.first().copied()).map(|v| v as f32);
        let scores = scores.as_slice::<f32>()?;
        let boxes: Vec<[f32; 4]> = boxes.as_slice::<f32>()?.chunks_exact(4).map(|b| self.corners(b)).collect();
        let mut found: Vec<i64> = vec![];
        for lane in 0..batches * classes {
            let (batch, scores) = (lane / classes, &scores[lane * n..(lane + 1) * n]);
            let boxes = &boxes[batch * n..(batch + 1) * n];
            let mut order: Vec<usize> = (0..n).filter(|i| least.is_none_or(|l| scores[*i] > l)).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            let mut chosen: Vec<usize> = vec![];
            for i in order {
                if chosen.len() as i64 >= most {
                    break;
                }
                if chosen.iter().all(|c| !overlaps(&boxes[i], &boxes[*c], overlap)) {
                    chosen.push(i);
                }
            }
            chosen.iter().for_each(|i| found.extend([batch as i64, (lane % classes) as i64, *i as i64]));
        }
        Ok(vec![Tensor::from_slice(&[found.len() / 3, 3], &found)?.into()])
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}

impl NonMaxSuppression {
    /// Lower and upper ends of both axes.
    fn corners(&self, b: &[f32]) -> [f32; 4] {
        if self.center_point_box {
            let (x, y, w, h) = (b[0], b[1], b[2] / 2.0, b[3] / 2.0);
            return [y - h, x - w, y + h, x + w];
        }
        [b[0].min(b[2]), b[1].min(b[3]), b[0].max(b[2]), b[1].max(b[3])]
    }
}

fn overlaps(a: &[f32; 4], b: &[f32; 4], most: f32) -> bool {
    let side = |i: usize| a[i + 2].min(b[i + 2]) - a[i].max(b[i]);
    let area = |c: &[f32; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let (height, width) = (side(0), side(1));
    if height <= 0.0 || width <= 0.0 || area(a) <= 0.0 || area(b) <= 0.0 {
        return false;
    }
    let shared = height * width;
    shared / (area(a) + area(b) - shared) > most
}
