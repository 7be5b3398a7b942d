//! Tensors that exist: element type, dimensions and data, cheap to clone and sliceable without copying.

use crate::dtype::{Class, DType};
use crate::minifloat;
use half::{bf16, f16};
use smallvec::SmallVec;
use std::fmt;
use std::sync::Arc;

/// Concrete dimensions.
pub type Dims = SmallVec<[usize; 6]>;

/// Why a tensor could not be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The data does not hold as many bytes as dimensions and element type ask for.
    #[error("{dtype}{dims:?} needs {needed} bytes, found {found}")]
    Size {
        /// Element type.
        dtype: DType,
        /// Dimensions.
        dims: Vec<usize>,
        /// Bytes the type asks for.
        needed: usize,
        /// Bytes given.
        found: usize,
    },
    /// The elements are of another type.
    #[error("expected elements of type {expected}, found {found}")]
    DType {
        /// What the reader wanted.
        expected: String,
        /// What the tensor holds.
        found: DType,
    },
    /// The dimensions multiply to more than memory holds.
    #[error("a tensor of dimensions {0:?} is too large for memory")]
    TooLarge(Vec<usize>),
}

/// Memory that outlives every tensor reading it: a vector or a mapped file.
pub trait Memory: Send + Sync {
    /// The bytes; the same on every call.
    fn bytes(&self) -> &[u8];
}

impl Memory for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Owned bytes aligned for every element type and for vector loads.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Line([u8; 64]);

/// A zero-initialised allocation aligned to 64 bytes.
pub struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Aligned {
        Aligned { lines: vec![Line([0; 64]); len.div_ceil(64)], len }
    }

    /// `len` zero bytes, or an error where memory for them is refused.
    pub fn try_zeroed(len: usize) -> Result<Aligned, TensorError> {
        ensure_room(&[len], 1)?;
        Ok(Aligned::zeroed(len))
    }

    /// The bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.lines.as_flattened_bytes_mut()[..self.len]
    }
}

trait Flatten {
    fn as_flattened_bytes(&self) -> &[u8];
    fn as_flattened_bytes_mut(&mut self) -> &mut [u8];
}

impl Flatten for [Line] {
    fn as_flattened_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
    fn as_flattened_bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self)
    }
}

impl Memory for Aligned {
    fn bytes(&self) -> &[u8] {
        &self.lines.as_flattened_bytes()[..self.len]
    }
}

#[derive(Clone)]
enum Data {
    Bytes { owner: Arc<dyn Memory>, start: usize, len: usize },
    Strings(Arc<[String]>),
}

/// A tensor. Cloning shares the data.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    dims: Dims,
    data: Data,
}

/// A Rust type that tensors hold natively.
pub trait Element: bytemuck::Pod + PartialEq + fmt::Debug + Send + Sync {
    /// The element type it stands for.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($T:ty = $D:ident),+) => { $(impl Element for $T { const DTYPE: DType = DType::$D; })+ };
}
elements! { f64 = F64, f32 = F32, f16 = F16, bf16 = BF16, i64 = I64, i32 = I32, i16 = I16, i8 = I8,
u64 = U64, u32 = U32, u16 = U16, u8 = U8 }

/// The number of elements, or an error when it does not fit memory.
pub fn count(dims: &[usize]) -> Result<usize, TensorError> {
    if dims.contains(&0) {
        return Ok(0);
    }
    let n = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    n.filter(|n| *n <= isize::MAX as usize / 8).ok_or_else(|| TensorError::TooLarge(dims.to_vec()))
}

/// Smaller requests are not worth asking about first.
const PROBED_BYTES: usize = 1 << 28;

/// Fails when memory for elements of `bytes` each is refused, so that hostile sizes are errors and not an abort.
pub fn ensure_room(dims: &[usize], bytes: usize) -> Result<(), TensorError> {
    let too_large = || TensorError::TooLarge(dims.to_vec());
    let needed = count(dims)?.checked_mul(bytes).ok_or_else(too_large)?;
    if needed >= PROBED_BYTES {
        Vec::<u8>::new().try_reserve_exact(needed).map_err(|_| too_large())?;
    }
    Ok(())
}

impl Tensor {
    /// A tensor over bytes that somebody keeps; copies only when they are not aligned for the element type.
    pub fn from_memory(
        dtype: DType,
        dims: &[usize],
        owner: Arc<dyn Memory>,
        start: usize,
        len: usize,
    ) -> Result<Tensor, TensorError> {
        let needed = dtype.bytes(count(dims)?);
        let wrong = |found| TensorError::Size { dtype, dims: dims.to_vec(), needed, found };
        let end = start.checked_add(len).ok_or_else(|| wrong(len))?;
        let bytes = owner.bytes().get(start..end).ok_or_else(|| wrong(owner.bytes().len()))?;
        if len != needed || dtype == DType::Str {
            return Err(wrong(len));
        }
        if !(bytes.as_ptr() as usize).is_multiple_of((dtype.bits() / 8).max(1)) {
            return Tensor::from_bytes(dtype, dims, bytes);
        }
        Ok(Tensor { dtype, dims: dims.into(), data: Data::Bytes { owner, start, len } })
    }

    /// A tensor holding a copy of `bytes` (little-endian, row-major, packed types low bits first).
    pub fn from_bytes(dtype: DType, dims: &[usize], bytes: &[u8]) -> Result<Tensor, TensorError> {
        let needed = dtype.bytes(count(dims)?);
        if bytes.len() != needed || dtype == DType::Str {
            let found = bytes.len();
            return Err(TensorError::Size { dtype, dims: dims.to_vec(), needed, found });
        }
        Tensor::build(dtype, dims, |out| out.copy_from_slice(bytes))
    }

    /// A tensor whose zeroed bytes are filled by `fill`.
    pub fn build(dtype: DType, dims: &[usize], fill: impl FnOnce(&mut [u8])) -> Result<Tensor, TensorError> {
        let len = dtype.bytes(count(dims)?);
        ensure_room(dims, dtype.bits().div_ceil(8))?;
        let mut owned = Aligned::zeroed(len);
        fill(owned.bytes_mut());
        let data = Data::Bytes { owner: Arc::new(owned), start: 0, len };
        Ok(Tensor { dtype, dims: dims.into(), data })
    }

    /// All zeros; empty texts for `Str`.
    pub fn zeros(dtype: DType, dims: &[usize]) -> Result<Tensor, TensorError> {
        if dtype == DType::Str {
            return Tensor::from_strings(dims, vec![String::new(); count(dims)?]);
        }
        Tensor::build(dtype, dims, |_| {})
    }

    /// A tensor of native elements.
    pub fn from_slice<T: Element>(dims: &[usize], values: &[T]) -> Result<Tensor, TensorError> {
        Tensor::from_bytes(T::DTYPE, dims, bytemuck::cast_slice(values))
    }

    /// A tensor of truth values.
    pub fn from_bools(dims: &[usize], values: &[bool]) -> Result<Tensor, TensorError> {
        let bytes: Vec<u8> = values.iter().map(|b| *b as u8).collect();
        Tensor::from_bytes(DType::Bool, dims, &bytes)
    }

    /// A tensor of text.
    pub fn from_strings(dims: &[usize], values: Vec<String>) -> Result<Tensor, TensorError> {
        let needed = count(dims)?;
        if values.len() != needed {
            let (dims, found) = (dims.to_vec(), values.len());
            return Err(TensorError::Size { dtype: DType::Str, dims, needed, found });
        }
        Ok(Tensor { dtype: DType::Str, dims: dims.into(), data: Data::Strings(values.into()) })
    }

    /// A tensor without dimensions.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor::from_slice(&[], &[value]).expect("one element fits")
    }

    /// A one-dimensional tensor of i64.
    pub fn vector_i64(values: &[i64]) -> Tensor {
        Tensor::from_slice(&[values.len()], values).expect("the length is the slice's")
    }

    /// Rounds `values` to `dtype`. Integers are converted as `as` does; see [`Tensor::from_ints`] for wrapping.
    pub fn from_f64(dtype: DType, dims: &[usize], values: &[f64]) -> Result<Tensor, TensorError> {
        if values.len() != count(dims)? {
            let (needed, found) = (dtype.bytes(count(dims)?), dtype.bytes(values.len()));
            return Err(TensorError::Size { dtype, dims: dims.to_vec(), needed, found });
        }
        fn fill<T: Element>(out: &mut [u8], values: &[f64], f: impl Fn(f64) -> T) {
            let out: &mut [T] = bytemuck::cast_slice_mut(out);
            out.iter_mut().zip(values).for_each(|(o, v)| *o = f(*v));
        }
        Tensor::build(dtype, dims, |out| match dtype {
            DType::F64 => fill(out, values, |v| v),
            DType::F32 => fill(out, values, |v| v as f32),
            DType::F16 => fill(out, values, f16::from_f64),
            DType::BF16 => fill(out, values, bf16::from_f64),
            DType::Bool => fill(out, values, |v| u8::from(v != 0.0)),
            DType::Str => {}
            d if d.is_float() => values.iter().enumerate().for_each(|(i, v)| minifloat::store(d, out, i, *v, true)),
            d => values.iter().enumerate().for_each(|(i, v)| store_int(d, out, i, *v as i128)),
        })
    }

    /// Stores integers modulo the width of `dtype` (two's complement); floats are rounded, bool is `!= 0`.
    pub fn from_ints(dtype: DType, dims: &[usize], values: &[i128]) -> Result<Tensor, TensorError> {
        if dtype.is_float() {
            let floats: Vec<f64> = values.iter().map(|v| *v as f64).collect();
            return Tensor::from_f64(dtype, dims, &floats);
        }
        if values.len() != count(dims)? {
            let (needed, found) = (dtype.bytes(count(dims)?), dtype.bytes(values.len()));
            return Err(TensorError::Size { dtype, dims: dims.to_vec(), needed, found });
        }
        Tensor::build(dtype, dims, |out| values.iter().enumerate().for_each(|(i, v)| store_int(dtype, out, i, *v)))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }

    /// The bytes; empty for text.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Bytes { owner, start, len } => &owner.bytes()[*start..*start + *len],
            Data::Strings(_) => &[],
        }
    }

    /// The elements as a native type. Bool reads as `u8` too.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], TensorError> {
        let bool_as_u8 = self.dtype == DType::Bool && T::DTYPE == DType::U8;
        if self.dtype != T::DTYPE && !bool_as_u8 {
            return Err(self.wrong(T::DTYPE.name()));
        }
        Ok(bytemuck::cast_slice(self.bytes()))
    }

    /// The texts of a `Str` tensor.
    pub fn strings(&self) -> Result<&[String], TensorError> {
        match &self.data {
            Data::Strings(s) => Ok(s),
            Data::Bytes { .. } => Err(self.wrong("string")),
        }
    }

    fn wrong(&self, expected: &str) -> TensorError {
        TensorError::DType { expected: expected.to_string(), found: self.dtype }
    }

    /// Every number widened to f64 (integers above 2^53 are rounded); text is an error.
    pub fn to_f64(&self) -> Result<Vec<f64>, TensorError> {
        let b = self.bytes();
        fn all<T: Element>(b: &[u8], f: impl Fn(T) -> f64) -> Vec<f64> {
            bytemuck::cast_slice::<u8, T>(b).iter().map(|v| f(*v)).collect()
        }
        Ok(match self.dtype {
            DType::F64 => all(b, |v: f64| v),
            DType::F32 => all(b, |v: f32| v as f64),
            DType::F16 => all(b, |v: f16| v.to_f64()),
            DType::BF16 => all(b, |v: bf16| v.to_f64()),
            DType::I64 => all(b, |v: i64| v as f64),
            DType::I32 => all(b, |v: i32| v as f64),
            DType::Str => return Err(self.wrong("number")),
            d if d.is_float() => (0..self.len()).map(|i| minifloat::load(d, b, i)).collect(),
            d => (0..self.len()).map(|i| load_int(d, b, i) as f64).collect(),
        })
    }

    /// Every integer or truth value widened; floats and text are an error.
    pub fn to_ints(&self) -> Result<Vec<i128>, TensorError> {
        if self.dtype.is_float() || self.dtype == DType::Str {
            return Err(self.wrong("integer"));
        }
        Ok((0..self.len()).map(|i| load_int(self.dtype, self.bytes(), i)).collect())
    }

    /// Every integer or truth value as i64 (u64 above its range wraps); floats and text are an error.
    pub fn to_i64(&self) -> Result<Vec<i64>, TensorError> {
        match self.dtype {
            DType::I64 => Ok(self.as_slice::<i64>()?.to_vec()),
            DType::I32 => Ok(self.as_slice::<i32>()?.iter().map(|v| i64::from(*v)).collect()),
            _ => Ok(self.to_ints()?.into_iter().map(|v| v as i64).collect()),
        }
    }

    /// Truth values of a bool tensor.
    pub fn to_bools(&self) -> Result<Vec<bool>, TensorError> {
        if self.dtype != DType::Bool {
            return Err(self.wrong("bool"));
        }
        Ok(self.bytes().iter().map(|b| *b != 0).collect())
    }

    /// The same data under other dimensions of equal count.
    pub fn reshaped(&self, dims: &[usize]) -> Result<Tensor, TensorError> {
        if count(dims)? != self.len() {
            let (needed, found) = (self.dtype.bytes(count(dims)?), self.dtype.bytes(self.len()));
            return Err(TensorError::Size { dtype: self.dtype, dims: dims.to_vec(), needed, found });
        }
        Ok(Tensor { dtype: self.dtype, dims: dims.into(), data: self.data.clone() })
    }

    /// A tensor whose element `i` is this one's element `from[i]`; every index must be in range.
    pub fn pick(&self, dims: &[usize], from: &[usize]) -> Result<Tensor, TensorError> {
        if let Data::Strings(s) = &self.data {
            return Tensor::from_strings(dims, from.iter().map(|i| s[*i].clone()).collect());
        }
        let (b, bits) = (self.bytes(), self.dtype.bits());
        if bits < 8 {
            return Tensor::build(self.dtype, dims, |out| {
                let of = |i: usize| b[i * bits / 8] >> (i * bits % 8) & ((1u8 << bits) - 1);
                from.iter().enumerate().for_each(|(o, i)| out[o * bits / 8] |= of(*i) << (o * bits % 8))
            });
        }
        fn copy<T: bytemuck::Pod>(out: &mut [u8], b: &[u8], from: &[usize]) {
            let (out, b): (&mut [T], &[T]) = (bytemuck::cast_slice_mut(out), bytemuck::cast_slice(b));
            out.iter_mut().zip(from).for_each(|(o, i)| *o = b[*i]);
        }
        Tensor::build(self.dtype, dims, |out| match bits {
            8 => copy::<u8>(out, b, from),
            16 => copy::<u16>(out, b, from),
            32 => copy::<u32>(out, b, from),
            _ => copy::<u64>(out, b, from),
        })
    }
}

fn load_int(dtype: DType, b: &[u8], i: usize) -> i128 {
    let bits = dtype.bits();
    if bits < 8 {
        let raw = b[i * bits / 8] >> (i * bits % 8) & ((1u8 << bits) - 1);
        let negative = dtype.class() == Class::Signed && raw >> (bits - 1) == 1;
        return raw as i128 - if negative { 1 << bits } else { 0 };
    }
    match dtype {
        DType::I64 => bytemuck::cast_slice::<u8, i64>(b)[i] as i128,
        DType::I32 => bytemuck::cast_slice::<u8, i32>(b)[i] as i128,
        DType::I16 => bytemuck::cast_slice::<u8, i16>(b)[i] as i128,
        DType::I8 => b[i] as i8 as i128,
        DType::U64 => bytemuck::cast_slice::<u8, u64>(b)[i] as i128,
        DType::U32 => bytemuck::cast_slice::<u8, u32>(b)[i] as i128,
        DType::U16 => bytemuck::cast_slice::<u8, u16>(b)[i] as i128,
        _ => b[i] as i128,
    }
}

fn store_int(dtype: DType, out: &mut [u8], i: usize, v: i128) {
    let bits = dtype.bits();
    if bits < 8 {
        let (byte, shift, mask) = (i * bits / 8, i * bits % 8, (1u8 << bits) - 1);
        out[byte] = out[byte] & !(mask << shift) | (v as u8 & mask) << shift;
        return;
    }
    match dtype {
        DType::I64 => bytemuck::cast_slice_mut::<u8, i64>(out)[i] = v as i64,
        DType::I32 => bytemuck::cast_slice_mut::<u8, i32>(out)[i] = v as i32,
        DType::I16 => bytemuck::cast_slice_mut::<u8, i16>(out)[i] = v as i16,
        DType::U64 => bytemuck::cast_slice_mut::<u8, u64>(out)[i] = v as u64,
        DType::U32 => bytemuck::cast_slice_mut::<u8, u32>(out)[i] = v as u32,
        DType::U16 => bytemuck::cast_slice_mut::<u8, u16>(out)[i] = v as u16,
        DType::Bool => out[i] = u8::from(v != 0),
        _ => out[i] = v as u8,
    }
}

/// Bit equality: NaN equals itself, 0 and -0 differ.
impl PartialEq for Tensor {
    fn eq(&self, o: &Tensor) -> bool {
        let strings = |t: &Tensor| t.strings().map(<[String]>::to_vec).ok();
        self.dtype == o.dtype && self.dims == o.dims && self.bytes() == o.bytes() && strings(self) == strings(o)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.dims.as_slice())?;
        if self.len() > 32 {
            return Ok(());
        }
        match self.to_f64() {
            Ok(v) => write!(f, " {v:?}"),
            Err(_) => write!(f, " {:?}", self.strings().unwrap_or_default()),
        }
    }
}

/// A value that exists: what flows along the edges of a graph when it is evaluated.
#[derive(Clone, PartialEq, Debug)]
pub enum Datum {
    /// A tensor.
    Tensor(Tensor),
    /// A list.
    Sequence(Vec<Datum>),
    /// A value or nothing.
    Optional(Option<Box<Datum>>),
    /// A map, in key order; keys are one-element tensors of `I64` or `Str`.
    Map(Vec<(Tensor, Datum)>),
    /// An operand that was left out.
    Absent,
}

impl Datum {
    /// The tensor, when this is one.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Datum::Tensor(t) => Some(t),
            _ => None,
        }
    }
}

impl From<Tensor> for Datum {
    fn from(t: Tensor) -> Datum {
        Datum::Tensor(t)
    }
}
