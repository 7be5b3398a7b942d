use super::operand::{ensure, tensor};
use super::reading::takes_indices;
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::ValueType;

op! {
    /// `kv_write(slots, lengths, counts, cache, rows, cache, rows, ...)`: the next version of each cache, in which the new
    /// rows of every sequence of a batch lie behind its old ones: one write per sequence and head, contiguous.
    ///
    /// Sequence b lives in slot `slots[b]`, has `lengths[b]` rows there and gets the first `counts[b]` of its `rows`. A cache is
    /// `[slots, H, capacity, D]`; rows are `[B, H, S, D]`, or `[B, S, H D]` with the heads inside. Slots differ from each other;
    /// a slot, or a row beyond the capacity, that is not there is an error.
    pub struct KvWrite {}
}

impl OpSpec for KvWrite {
    const NAME: &'static str = "kv_write";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%k: f32[2, 3, 4, 8], %v: f32[2, 4, 15], %kc: f32[4, 3, 9, 8], %vc: f32[4, 3, 9, 5]) { %s = const [2, 0] : i32[2] %l = const [5, 0] : i32[2] %n = const [4, 3] : i32[2] %k1, %v1 = kv_write(%s, %l, %n, %kc, %k, %vc, %v) return %k1, %v1 }",
        "graph @g(%k: f16[B, S, 8], %l: i32[B], %s: i32[B], %n: i32[B], %c: f16[9, 1, 30, 8]) { %c1 = kv_write(%s, %l, %n, %c, %k) return %c1 }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(5, usize::MAX)?;
        let batch = sequences(operands, 0)?;
        let pairs = operands.len() - 3;
        if !pairs.is_multiple_of(2) {
            return Err(TypeError::Invalid("caches and rows come in pairs".into()));
        }
        let mut types = vec![];
        for i in (3..operands.len()).step_by(2) {
            let (cache, rows) = (operands.tensor(i)?, operands.tensor(i + 1)?);
            if cache.dtype != rows.dtype || !cache.dtype.is_float() {
                return Err(operands.wrong(i + 1, format!("rows of {} do not go into {}", rows.dtype, cache.dtype)));
            }
            let Some([_, heads, _, width]) = cache.dims() else {
                return Err(operands.wrong(i, format!("a cache has rank 4, not {cache}")));
            };
            let pairs = match rows.dims() {
                Some([b, h, _, d]) => vec![(b.clone(), batch.clone()), (h.clone(), heads.clone()), (d.clone(), width.clone())],
                Some([b, _, w]) => vec![(b.clone(), batch.clone()), (w.clone(), heads * width)],
                _ => return Err(operands.wrong(i + 1, format!("rows have rank 3 or 4, not {rows}"))),
            };
            pairs.iter().try_for_each(|(x, y)| operands.assume_same(x, y))?;
            types.push(cache.clone().into());
        }
        Ok(types)
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let places = Places::read(Self::NAME, operands, 0)?;
        places.distinct()?;
        let mut results = vec![];
        for i in (3..operands.len()).step_by(2) {
            let (cache, rows) = (tensor(Self::NAME, operands, i)?, tensor(Self::NAME, operands, i + 1)?);
            let [slots, h, capacity, d] = cache.dims()[..] else {
                return Err(EvalError::Invalid(format!("a cache of {:?}", cache.dims())));
            };
            let inside = rows.rank() == 3;
            let steps = rows.dims()[rows.rank() - 2];
            ensure(rows.len() == places.len() * h * steps * d, || format!("rows of {:?} do not fit", rows.dims()))?;
            places.check(slots, capacity, steps)?;
            let bytes = cache.dtype().bytes(d);
            let next = Tensor::build(cache.dtype(), cache.dims(), |out| {
                out.copy_from_slice(cache.bytes());
                for (b, place) in places.iter().enumerate() {
                    for (head, row) in (0..h).flat_map(|head| (0..place.count).map(move |row| (head, row))) {
                        let from = if inside { (b * steps + row) * h + head } else { (b * h + head) * steps + row };
                        let to = (place.slot * h + head) * capacity + place.length + row;
                        out[to * bytes..][..bytes].copy_from_slice(&rows.bytes()[from * bytes..][..bytes]);
                    }
                }
            })?;
            results.push(next.into());
        }
        Ok(results)
    }

    fn flops(&self, _: &[&ValueType], _: &[ValueType]) -> Dim {
        Dim::constant(0)
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance { relative: 0.0, absolute: 0.0 }
    }
}

/// Types operands `first`, `first + 1` and `first + 2` as slots, lengths and counts; returns the batch.
pub(crate) fn sequences(operands: &Operands<'_>, first: usize) -> Result<Dim, TypeError> {
    let mut batch = None;
    for i in first..first + 3 {
        takes_indices(operands, i)?;
        let Some([n]) = operands.dims(i)? else {
            return Err(operands.wrong(i, "slots, lengths and counts are vectors"));
        };
        let batch = batch.get_or_insert_with(|| n.clone());
        operands.assume_same(n, batch)?;
    }
    batch.ok_or_else(|| TypeError::Invalid("there is no batch".into()))
}

/// Where one sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequencePlace {
    /// Its slot.
    pub slot: usize,
    /// Rows that it had before this step.
    pub length: usize,
    /// Rows that it gets.
    pub count: usize,
}

/// Where the sequences of a batch are.
pub(crate) struct Places(Vec<SequencePlace>);

impl Places {
    pub fn read(op: &str, operands: &[&Datum], first: usize) -> Result<Places, EvalError> {
        let numbers = |i: usize| tensor(op, operands, first + i)?.to_i64().map_err(EvalError::from);
        let (slots, lengths, counts) = (numbers(0)?, numbers(1)?, numbers(2)?);
        ensure(slots.len() == lengths.len() && slots.len() == counts.len(), || "batches differ in size".into())?;
        let number = |n: i64| usize::try_from(n).map_err(|_| EvalError::Invalid(format!("{n} is no slot, length or count")));
        let place = |i: usize| {
            Ok(SequencePlace { slot: number(slots[i])?, length: number(lengths[i])?, count: number(counts[i])? })
        };
        (0..slots.len()).map(place).collect::<Result<_, EvalError>>().map(Places)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &SequencePlace> {
        self.0.iter()
    }

    pub fn get(&self, b: usize) -> SequencePlace {
        self.0[b]
    }

    fn distinct(&self) -> Result<(), EvalError> {
        let twice = (0..self.0.len()).find(|i| self.0[..*i].iter().any(|p| p.slot == self.0[*i].slot));
        ensure(twice.is_none(), || format!("two sequences write to slot {}", self.0[twice.unwrap_or(0)].slot))
    }

    /// Every row to be written or read is there.
    pub fn check(&self, slots: usize, capacity: usize, steps: usize) -> Result<(), EvalError> {
        for (b, p) in self.0.iter().enumerate() {
            let end = p.length.checked_add(p.count).filter(|end| *end <= capacity);
            ensure(p.slot < slots && p.count <= steps && end.is_some(), || {
                let SequencePlace { slot, length, count } = p;
                format!("sequence {b} puts {count} of {steps} rows behind {length} in slot {slot}: there are {slots} slots of {capacity} rows")
            })?;
        }
        Ok(())
    }
}
