use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::ops::reading::{self, invalid, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;
use crate::{attr_enum, op};

attr_enum! {
    /// How the weights of the leaves that a row reaches become one number per target.
    pub enum Aggregate { Sum = "sum", Average = "average", Min = "min", Max = "max" }
}

op! {
    /// `tree_ensemble(x, roots, feature, mode, split, yes, no, missing, leaf_end, leaf_target, leaf_weight, members?,
    /// member_end?) {targets, f, dtype}`: decision trees over the rows of `x`: [rows, targets].
    ///
    /// A node compares element `feature` of the row with `split` (f64) by `mode` (u8: 0 <=, 1 <, 2 >=, 3 >, 4 ==, 5 !=, 6 is
    /// one of `members` up to `member_end[split]`) and goes to `yes` or `no` (i64); NaN goes to `yes` where `missing` (u8) says
    /// so. Negative numbers are leaves: leaf `-1 - n` adds `leaf_weight` (f64) to `leaf_target` (i64) for all its entries, those
    /// before `leaf_end` of it and from that of the leaf before. Targets that no leaf names are 0.
    pub struct TreeEnsemble { targets: i64, f: Aggregate, dtype: DType }
}

impl OpSpec for TreeEnsemble {
    const NAME: &'static str = "tree_ensemble";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 2]) { %root = const [0, -3] : i64[2] %feature = const [0, 1] : i64[2] %mode = const [0, 1] : u8[2] %split = const [0.5, 0.5] : f64[2] %yes = const [1, -1] : i64[2] %no = const [-2, -2] : i64[2] %missing = const [0, 1] : u8[2] %end = const [1, 3, 4] : i64[3] %target = const [0, 0, 1, 1] : i64[4] %weight = const [1.5, 2.0, 3.0, 0.25] : f64[4] %y = tree_ensemble(%x, %root, %feature, %mode, %split, %yes, %no, %missing, %end, %target, %weight) {targets = 2, f = sum, dtype = f32} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(11, 13)?;
        let wanted = [
            DType::I64,
            DType::I64,
            DType::U8,
            DType::F64,
            DType::I64,
            DType::I64,
            DType::U8,
            DType::I64,
            DType::I64,
            DType::F64,
        ];
        for (i, dtype) in wanted.into_iter().enumerate() {
            if operands.dtype(1 + i)? != dtype {
                return Err(operands.wrong(1 + i, format!("expected {dtype}")));
            }
        }
        if !(1..1 << 31).contains(&self.targets) || operands.dtype(0)? == DType::Str {
            return Err(operands.wrong(0, format!("a tree ensemble of {} targets", self.targets)));
        }
        let rows = match operands.dims(0)? {
            Some([rows, _]) => rows.clone(),
            Some([_]) => Dim::constant(1),
            None => operands.late_dim(),
            Some(dims) => return Err(operands.wrong(0, format!("rows have 1 or 2 dimensions, not {}", dims.len()))),
        };
        Ok(vec![TensorType::new(self.dtype, [rows, Dim::constant(self.targets)]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let (rows, columns) = match *x.dims() {
            [rows, columns] => (rows, columns),
            [columns] => (1, columns),
            _ => return Err(invalid(format!("rows of shape {:?}", x.dims()))),
        };
        let trees = Trees::new(operands)?;
        let values = x.to_f64()?;
        let targets = self.targets as usize;
        let mut out = vec![0.0; rows * targets];
        let mut seen = vec![false; targets];
        for (r, scores) in out.chunks_exact_mut(targets).enumerate() {
            seen.fill(false);
            let row = &values[r * columns..(r + 1) * columns];
            for root in trees.roots {
                let leaf = trees.leaf(*root, row)?;
                for entry in trees.entries(leaf)? {
                    let target = usize::try_from(trees.leaf_target[entry]).ok().filter(|t| *t < targets);
                    let target =
                        target.ok_or_else(|| invalid(format!("a leaf names target {}", trees.leaf_target[entry])))?;
                    let weight = trees.leaf_weight[entry];
                    let first = !std::mem::replace(&mut seen[target], true);
                    let score = &mut scores[target];
                    *score = match self.f {
                        Aggregate::Sum | Aggregate::Average => *score + weight,
                        _ if first => weight,
                        Aggregate::Min => score.min(weight),
                        Aggregate::Max => score.max(weight),
                    };
                }
            }
            if self.f == Aggregate::Average {
                scores.iter_mut().for_each(|s| *s /= trees.roots.len().max(1) as f64);
            }
        }
        Ok(vec![Tensor::from_f64(self.dtype, &[rows, targets], &out)?.into()])
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        let elements = |i: usize| operands.get(i).and_then(|t| t.as_tensor()?.shape.elements());
        elements(1).unwrap_or(Dim::constant(1)) * 32
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 64.0)
    }
}

struct Trees<'a> {
    roots: &'a [i64],
    feature: &'a [i64],
    mode: &'a [u8],
    split: &'a [f64],
    yes: &'a [i64],
    no: &'a [i64],
    missing: &'a [u8],
    leaf_end: &'a [i64],
    leaf_target: &'a [i64],
    leaf_weight: &'a [f64],
    members: &'a [f64],
    member_end: &'a [i64],
}

impl<'a> Trees<'a> {
    fn new(operands: &[&'a Datum]) -> Result<Trees<'a>, EvalError> {
        let ints = |i| Ok::<&'a [i64], EvalError>(tensor(operands, i)?.as_slice()?);
        let floats = |i| Ok::<&'a [f64], EvalError>(tensor(operands, i)?.as_slice()?);
        let bytes = |i| Ok::<&'a [u8], EvalError>(tensor(operands, i)?.as_slice()?);
        let has = |i| Ok::<bool, EvalError>(reading::optional(operands, i)?.is_some());
        let trees = Trees {
            roots: ints(1)?,
            feature: ints(2)?,
            mode: bytes(3)?,
            split: floats(4)?,
            yes: ints(5)?,
            no: ints(6)?,
            missing: bytes(7)?,
            leaf_end: ints(8)?,
            leaf_target: ints(9)?,
            leaf_weight: floats(10)?,
            members: if has(11)? { floats(11)? } else { &[] },
            member_end: if has(12)? { ints(12)? } else { &[] },
        };
        let n = trees.feature.len();
        let lengths = [trees.mode.len(), trees.split.len(), trees.yes.len(), trees.no.len(), trees.missing.len()];
        if lengths.iter().any(|l| *l != n) || trees.leaf_target.len() != trees.leaf_weight.len() {
            return Err(invalid("the lists that describe the nodes differ in length"));
        }
        Ok(trees)
    }

    /// The leaf that a row reaches.
    fn leaf(&self, root: i64, row: &[f64]) -> Result<usize, EvalError> {
        let (mut at, mut steps) = (root, 0);
        while at >= 0 {
            let i = at as usize;
            if i >= self.feature.len() || steps > self.feature.len() {
                return Err(invalid("a tree refers to a node that is not there, or to itself"));
            }
            let value = usize::try_from(self.feature[i]).ok().and_then(|f| row.get(f));
            let value = *value.ok_or_else(|| invalid(format!("feature {} of {}", self.feature[i], row.len())))?;
            let holds = match self.mode[i] {
                _ if value.is_nan() && self.missing[i] != 0 => true,
                0 => value <= self.split[i],
                1 => value < self.split[i],
                2 => value >= self.split[i],
                3 => value > self.split[i],
                4 => value == self.split[i],
                5 => value != self.split[i],
                _ => self.members_of(self.split[i] as usize)?.contains(&value),
            };
            at = if holds { self.yes[i] } else { self.no[i] };
            steps += 1;
        }
        Ok((-1 - at) as usize)
    }

    fn entries(&self, leaf: usize) -> Result<std::ops::Range<usize>, EvalError> {
        range(self.leaf_end, leaf, self.leaf_target.len())
    }

    fn members_of(&self, set: usize) -> Result<&'a [f64], EvalError> {
        Ok(&self.members[range(self.member_end, set, self.members.len())?])
    }
}

/// List `i` of those that end at `ends`.
fn range(ends: &[i64], i: usize, limit: usize) -> Result<std::ops::Range<usize>, EvalError> {
    let end = ends.get(i).copied();
    let start = if i == 0 { Some(0) } else { ends.get(i - 1).copied() };
    match (start, end) {
        (Some(start), Some(end)) if 0 <= start && start <= end && end as usize <= limit => {
            Ok(start as usize..end as usize)
        }
        _ => Err(invalid(format!("a tree names list {i} of {}", ends.len()))),
    }
}
