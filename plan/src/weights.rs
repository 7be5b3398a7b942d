//! The constants of a plan: where they come from, the file that holds them, and the tensors that backends read.
//!
//! weights.safetensors holds each weight once, as [`WeightInfo::layout`] says: row-major ones under their own type and
//! dimensions, panels as `[batch, panels, k, 16]`, types that the format lacks as bytes, text as length and UTF-8. Data
//! starts at a multiple of 64 bytes, and weights whose size is such a multiple come first, so mapped weights are aligned.

use crate::layout::{Layout, PANEL};
use crate::model::{Hash, Plan, Source, WeightInfo};
use crate::store::StoreError;
use ir::mmap::Mapped;
use ir::tensor::Memory;
use ir::{DType, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::{BTreeMap, HashMap};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

pub(crate) const FILE: &str = "weights.safetensors";
const ALIGN: usize = 64;
const CONTENT: &str = "content";

/// Gives a plan's weights one at a time, so that a model is never in memory twice.
pub trait WeightSource {
    /// The weight under this key: row-major, as the graph declares it.
    fn tensor(&self, key: &str) -> Option<Tensor>;

    /// Bytes in the layout of `info`; a backend may do it faster. `None` when the layout does not apply.
    fn pack(&self, tensor: &Tensor, info: &WeightInfo) -> Option<Vec<u8>> {
        info.layout.pack(info.dtype, &info.dims, tensor.bytes())
    }
}

/// The constants that the graphs of a plan hold.
#[derive(Clone, Debug, Default)]
pub struct GraphWeights(BTreeMap<Arc<str>, Tensor>);

impl GraphWeights {
    /// Collects them; no data is copied.
    pub fn new(plan: &Plan) -> GraphWeights {
        let mut found = BTreeMap::new();
        let mut entries: Vec<_> = plan.entries.iter().collect();
        while let Some(entry) = entries.pop() {
            entries.extend(entry.bodies.values());
            for id in entry.graph.order() {
                let Some(t) = entry.graph.constant_of(id.into()) else { continue };
                let name = entry.graph.name(id.into());
                let path: Arc<str> = crate::build::weight_path(&entry.name, name).into();
                // The longer key is only in the plan where the shorter one means something else.
                let key = if plan.weights.contains_key(&path) { path } else { name.clone() };
                if plan.weights.contains_key(&key) {
                    found.entry(key).or_insert_with(|| t.clone());
                }
            }
        }
        GraphWeights(found)
    }
}

impl WeightSource for GraphWeights {
    fn tensor(&self, key: &str) -> Option<Tensor> {
        self.0.get(key).cloned()
    }
}

/// A plan's weights, ready to be read. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Weights(Arc<BTreeMap<Arc<str>, Tensor>>);

impl Weights {
    /// The weight as it is stored: row-major ones have the dimensions of the graph, panels those of their layout.
    pub fn get(&self, key: &str) -> Option<&Tensor> {
        self.0.get(key)
    }

    /// All weights by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Tensor)> {
        self.0.iter()
    }

    /// The weights as a plain map; their data stays shared.
    pub fn to_map(&self) -> BTreeMap<Arc<str>, Tensor> {
        (*self.0).clone()
    }

    /// Weights for running a plan that was never written; row-major ones are shared, panels are made here.
    pub fn from_source(plan: &Plan, source: &dyn WeightSource) -> Result<Weights, StoreError> {
        let mut weights = BTreeMap::new();
        for (key, info) in &plan.weights {
            let tensor = source_tensor(source, key, info)?;
            let stored = match info.layout {
                Layout::RowMajor => tensor,
                _ => {
                    let packed = packed(source, key, info, &tensor)?;
                    stored_tensor(key, info, Arc::new(packed), None)?
                }
            };
            weights.insert(key.clone(), stored);
        }
        Ok(Weights(Arc::new(weights)))
    }

    /// Maps the weight file of a plan, and the model's files that it links; `content` is the hash plan.yaml knows.
    pub(crate) fn open(folder: &Path, plan: &Plan, content: Hash) -> Result<Weights, StoreError> {
        let path = folder.join(FILE);
        let map: Arc<Mapped> = Arc::new(Mapped::open(&path).map_err(|e| StoreError::io(&path, e))?);
        let wrong = |reason: String| StoreError::Field { file: FILE, field: "header".into(), reason };
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| wrong(e.to_string()))?;
        let found = metadata.metadata().as_ref().and_then(|m| Hash::from_hex(m.get(CONTENT)?));
        if found != Some(content) {
            return Err(wrong("these are not the weights that the plan was written with".into()));
        }
        let own = plan.weights.values().filter(|info| info.source == Source::Own).count();
        if metadata.tensors().len() != own {
            return Err(wrong(format!("{} weights, the plan has {own}", metadata.tensors().len())));
        }
        let mut linked: HashMap<&Path, Arc<Mapped>> = HashMap::new();
        let mut weights = BTreeMap::new();
        for (key, info) in &plan.weights {
            let bad = |reason: &str| StoreError::Weight { key: key.clone(), reason: reason.to_string() };
            let (memory, start, len) = match &info.source {
                Source::Own => {
                    let stored = metadata.info(key).ok_or_else(|| bad("it is not in weights.safetensors"))?;
                    let (first, last) = stored.data_offsets;
                    if info.dtype != DType::Str && stored_form(info) != Some((stored.dtype, stored.shape.clone())) {
                        return Err(bad("weights.safetensors has another type, shape or layout"));
                    }
                    (map.clone(), 8 + header + first, last - first)
                }
                Source::Linked { path, offset, len } => {
                    let memory = match linked.get(path.as_path()) {
                        Some(known) => known.clone(),
                        None => {
                            let at = folder.join(path);
                            let opened = Arc::new(Mapped::open(&at).map_err(|e| StoreError::io(&at, e))?);
                            linked.insert(path, opened.clone());
                            opened
                        }
                    };
                    let within = offset.checked_add(*len).is_some_and(|end| end <= memory.len() as u64);
                    if !within || info.layout.bytes(info.dtype, &info.dims) != usize::try_from(*len).ok() {
                        return Err(bad("the model's file no longer holds it"));
                    }
                    (memory, *offset as usize, *len as usize)
                }
            };
            weights.insert(key.clone(), stored_tensor(key, info, memory, Some((start, len)))?);
        }
        Ok(Weights(Arc::new(weights)))
    }

    /// Reads every weight and compares it with the hash that was recorded when the plan was written.
    pub fn verify(&self, plan: &Plan) -> Result<(), StoreError> {
        for (key, info) in &plan.weights {
            let bad = |reason: &str| StoreError::Weight { key: key.clone(), reason: reason.to_string() };
            let tensor = self.get(key).ok_or_else(|| bad("it is missing"))?;
            let expected = info.hash.ok_or_else(|| bad("the plan records no hash of it"))?;
            let found = match info.dtype {
                DType::Str => Hash::of(&text_bytes(tensor)),
                _ => Hash::of(tensor.bytes()),
            };
            if found != expected {
                return Err(bad("its bytes are not those that were written; compile the model again"));
            }
        }
        Ok(())
    }
}

fn source_tensor(source: &dyn WeightSource, key: &Arc<str>, info: &WeightInfo) -> Result<Tensor, StoreError> {
    let bad = |reason: String| StoreError::Weight { key: key.clone(), reason };
    let tensor = source.tensor(key).ok_or_else(|| bad("it has no data".into()))?;
    if tensor.dtype() != info.dtype || tensor.dims() != info.dims {
        return Err(bad(format!("the plan has {}{:?}, the data is {tensor:?}", info.dtype, info.dims)));
    }
    Ok(tensor)
}

fn packed(source: &dyn WeightSource, key: &Arc<str>, info: &WeightInfo, t: &Tensor) -> Result<Vec<u8>, StoreError> {
    let packed = source.pack(t, info).filter(|p| Some(p.len()) == info.layout.bytes(info.dtype, &info.dims));
    let reason = || format!("it cannot be stored as {}", info.layout.name());
    packed.ok_or_else(|| StoreError::Weight { key: key.clone(), reason: reason() })
}

/// The tensor that a span of memory holds; all of it without a span.
fn stored_tensor(
    key: &Arc<str>,
    info: &WeightInfo,
    memory: Arc<dyn Memory>,
    span: Option<(usize, usize)>,
) -> Result<Tensor, StoreError> {
    let (start, len) = span.unwrap_or((0, memory.bytes().len()));
    let bad = |reason: String| StoreError::Weight { key: key.clone(), reason };
    if info.dtype == DType::Str {
        let bytes = memory.bytes().get(start..start.saturating_add(len)).unwrap_or(&[]);
        let texts = texts(bytes).ok_or_else(|| bad("its text is damaged".into()))?;
        return Tensor::from_strings(&info.dims, texts).map_err(|e| bad(e.to_string()));
    }
    let dims = stored_dims(info).ok_or_else(|| bad("its layout does not apply to it".into()))?;
    Tensor::from_memory(info.dtype, &dims, memory, start, len).map_err(|e| bad(e.to_string()))
}

/// Dimensions of the stored elements.
fn stored_dims(info: &WeightInfo) -> Option<Vec<usize>> {
    let m = match info.layout {
        Layout::RowMajor => return Some(info.dims.clone()),
        _ => info.layout.matrix(info.dtype, &info.dims)?,
    };
    let panels = m.n.div_ceil(PANEL);
    Some(match info.layout {
        Layout::Transposed => vec![m.batch, m.n, m.k],
        Layout::PanelI8 | Layout::PanelI8Kn => vec![m.batch, panels, m.k.div_ceil(4), 4 * PANEL],
        Layout::Nibbles16 => vec![panels, m.k / 4, 4 * PANEL],
        _ => vec![m.batch, panels, m.k, PANEL],
    })
}

/// Type and shape in the file; text has neither before it is encoded.
fn stored_form(info: &WeightInfo) -> Option<(Dtype, Vec<usize>)> {
    let dtype = match info.dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
        DType::F8E4M3FN => Dtype::F8_E4M3,
        DType::F8E4M3FNUZ => Dtype::F8_E4M3FNUZ,
        DType::F8E5M2 => Dtype::F8_E5M2,
        DType::F8E5M2FNUZ => Dtype::F8_E5M2FNUZ,
        DType::F8E8M0 => Dtype::F8_E8M0,
        DType::Str => return None,
        DType::F4E2M1 | DType::I4 | DType::U4 | DType::I2 | DType::U2 => {
            return Some((Dtype::U8, vec![info.layout.bytes(info.dtype, &info.dims)?]));
        }
    };
    Some((dtype, stored_dims(info)?))
}

/// Text as it is stored: for each element its length (four bytes, little-endian) and its UTF-8.
fn text_bytes(tensor: &Tensor) -> Vec<u8> {
    let mut out = vec![];
    for text in tensor.strings().unwrap_or_default() {
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    }
    out
}

fn texts(mut bytes: &[u8]) -> Option<Vec<String>> {
    let mut out = vec![];
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_at_checked(4)?;
        let len = u32::from_le_bytes(len.try_into().ok()?) as usize;
        let (text, rest) = rest.split_at_checked(len)?;
        out.push(String::from_utf8(text.to_vec()).ok()?);
        bytes = rest;
    }
    Some(out)
}

/// Writes the weights of a plan one after the other, and notes the hash of each in the plan; returns the hash over all.
pub(crate) fn write(
    path: &Path,
    plan: &mut Plan,
    source: &dyn WeightSource,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Hash, StoreError> {
    let mut order: Vec<(Arc<str>, usize, Dtype, Vec<usize>)> = vec![];
    for (key, info) in plan.weights.iter().filter(|(_, info)| info.source == Source::Own) {
        let (len, (dtype, dims)) = if info.dtype == DType::Str {
            let len = text_bytes(&source_tensor(source, key, info)?).len();
            (len, (Dtype::U8, vec![len]))
        } else {
            let bad = || StoreError::Weight { key: key.clone(), reason: "its layout does not apply to it".into() };
            (info.layout.bytes(info.dtype, &info.dims).ok_or_else(bad)?, stored_form(info).ok_or_else(bad)?)
        };
        order.push((key.clone(), len, dtype, dims));
    }
    // Whole lines first, then by falling element size: nothing needs padding, which the format does not have.
    order.sort_by_key(|(key, len, dtype, _)| (len % ALIGN != 0, std::cmp::Reverse(dtype.bitsize()), key.clone()));
    let total: usize = order.iter().map(|(_, len, _, _)| len).sum();

    let io = |e| StoreError::io(path, e);
    let file = std::fs::File::create(path).map_err(io)?;
    let mut out = std::io::BufWriter::with_capacity(1 << 20, file);
    out.write_all(&header(&order, Hash([0; 32]))?).map_err(io)?;
    let mut done = 0;
    for (key, len, _, _) in &order {
        let info = &plan.weights[key];
        let tensor = source_tensor(source, key, info)?;
        let made = match (info.dtype, info.layout) {
            (DType::Str, _) => Some(text_bytes(&tensor)),
            (_, Layout::RowMajor) => None,
            _ => Some(packed(source, key, info, &tensor)?),
        };
        let bytes = made.as_deref().unwrap_or_else(|| tensor.bytes());
        out.write_all(bytes).map_err(io)?;
        let hash = Hash::of(bytes);
        plan.weights.get_mut(key).expect("it was just read").hash = Some(hash);
        done += *len as u64;
        progress(done, total as u64);
    }
    for (key, info) in plan.weights.iter_mut().filter(|(_, info)| info.source != Source::Own) {
        let tensor = source_tensor(source, key, info)?;
        info.hash = Some(Hash::of(tensor.bytes()));
    }
    let hashes: Vec<u8> = plan.weights.values().flat_map(|info| info.hash.map(|h| h.0).unwrap_or_default()).collect();
    let content = Hash::of(&hashes);
    out.seek(SeekFrom::Start(0)).map_err(io)?;
    out.write_all(&header(&order, content)?).map_err(io)?;
    out.flush().map_err(io)?;
    Ok(content)
}

/// The length and the header, padded so that data is aligned; as long for every hash.
fn header(order: &[(Arc<str>, usize, Dtype, Vec<usize>)], content: Hash) -> Result<Vec<u8>, StoreError> {
    let mut at = 0;
    let mut infos = Vec::with_capacity(order.len());
    for (key, len, dtype, shape) in order {
        infos.push((key.to_string(), TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets: (at, at + len) }));
        at += len;
    }
    let wrong = |reason: String| StoreError::Field { file: FILE, field: "header".into(), reason };
    let noted = [(CONTENT.to_string(), content.to_string())].into_iter().collect();
    let metadata = Metadata::new(Some(noted), infos).map_err(|e| wrong(e.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| wrong(e.to_string()))?;
    json.resize((8 + json.len()).next_multiple_of(ALIGN) - 8, b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}
