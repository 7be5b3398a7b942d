//! `moe_route`, `expert_index` and `moe_gemm`.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, View};
use crate::kernels::gemm::{self, ExpertPanels, Finish, Gate, Layer, Pairs, Products, Rows};
use crate::kernels::pool::{MatMut, Pool};
use crate::kernels::route::{Router, Score, sort_by_expert};
use half::{bf16, f16};
use ir::DType;
use ir::ops::{ActivationFn, EvalError, ExpertIndex, Gating, MoeGemm, MoeRoute, RouterScore};
use plan::Layout;

struct RouteKernel(Router);

pub(super) fn route(op: &MoeRoute, types: &Types<'_>) -> Chosen {
    let float = types.dtype(0)? == DType::F32 && types.dtype(1).is_none_or(|d| d == DType::F32);
    let score = match op.score {
        RouterScore::Softmax => Score::Softmax,
        RouterScore::Sigmoid => Score::Sigmoid,
        RouterScore::Chosen => Score::Chosen,
    };
    let MoeRoute { renormalise, eps, scale, .. } = *op;
    let router = Router { k: usize::try_from(op.k).ok()?, score, renormalise, eps, scale };
    (float && types.row_major()).then(|| Box::new(RouteKernel(router)) as Box<dyn Kernel>)
}

impl Kernel for RouteKernel {
    fn name(&self) -> &'static str {
        "moe_route"
    }

    fn scratch_words(&self, _: &Pool, dims: &CallDims<'_>) -> usize {
        dims.ins[0].map_or(0, |d| d[1])
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x = call.input(0);
        let (k, experts) = (self.0.k, x.dims[1]);
        if k > experts {
            return Err(EvalError::Invalid(format!("the {k} best of {experts} experts")));
        }
        let bias = call.ins.get(1).copied().flatten().map_or(&[][..], |b| b.as_slice::<f32>());
        let [ids, weights] = call.outs else { unreachable!("a router has two results") };
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        self.0.route(experts, x.as_slice(), bias, ids.as_slice_mut(), weights.as_slice_mut(), scratch);
        Ok(())
    }
}

struct IndexKernel {
    ids: DType,
}

pub(super) fn index(_: &ExpertIndex, types: &Types<'_>) -> Chosen {
    let ids = types.dtype(0)?;
    types.row_major().then(|| Box::new(IndexKernel { ids }) as Box<dyn Kernel>)
}

impl Kernel for IndexKernel {
    fn name(&self) -> &'static str {
        "expert_index"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let ids = call.input(0);
        let [rows, offsets] = call.outs else { unreachable!("an index has two results") };
        let (rows, offsets): (&mut [i32], &mut [i32]) = (rows.as_slice_mut(), offsets.as_slice_mut());
        let experts = offsets.len() - 1;
        let sorted = match self.ids {
            DType::I32 => sort_by_expert::<i32>(ids.as_slice(), rows, offsets),
            _ => sort_by_expert::<i64>(ids.as_slice(), rows, offsets),
        };
        sorted.map_err(|id| EvalError::Invalid(format!("index {id} is outside a dimension of {experts}")))
    }
}

struct GemmKernel {
    weight: DType,
    kn: bool,
    repeat: usize,
    gating: Gating,
    finish: Finish,
}

/// The activation, where the kernel has it; only then are the weights packed.
pub(crate) fn gate(op: &MoeGemm) -> Option<Gate> {
    match op.act {
        None => Some(Gate::Identity),
        Some(ActivationFn::Affine) if op.alpha.is_none_or(|a| a == 1.0) => Some(Gate::Identity),
        Some(ActivationFn::Silu) => Some(Gate::Silu(op.alpha.unwrap_or(1.0))),
        Some(ActivationFn::Gelu) => Some(Gate::Gelu),
        Some(ActivationFn::GeluTanh) => Some(Gate::GeluTanh),
        Some(ActivationFn::Relu) => Some(Gate::Relu),
        Some(_) => None,
    }
}

pub(super) fn gemm(op: &MoeGemm, types: &Types<'_>) -> Chosen {
    let weight = types.dtype(3)?;
    let float = matches!(weight, DType::F32 | DType::F16 | DType::BF16);
    let wide = [0, 4, 6, 7].iter().all(|i| types.dtype(*i).is_none_or(|d| d == DType::F32));
    let packed = |i: usize| types.dtype(i).is_none() || matches!(types.layouts[i], Layout::Panel16 | Layout::Panel16Kn);
    if !float || !wide || !packed(3) || !packed(5) {
        return None;
    }
    let gate = gate(op)?;
    let finish = Finish { gate, beta: op.beta.unwrap_or(0.0), limit: op.limit.unwrap_or(f32::INFINITY) };
    let repeat = usize::try_from(op.repeat).ok().filter(|r| *r > 0)?;
    Some(Box::new(GemmKernel { weight, kn: op.kn, repeat, gating: op.gating, finish }))
}

impl Kernel for GemmKernel {
    fn name(&self) -> &'static str {
        match self.weight {
            DType::F32 => "moe_gemm_f32",
            DType::F16 => "moe_gemm_f16",
            _ => "moe_gemm_bf16",
        }
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let Some([lead @ .., k]) = dims.ins[0] else { return 0 };
        let y = dims.outs[0];
        gemm::experts_scratch(pool, lead.iter().product(), y[0], y[1], *k).div_ceil(2)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        match self.weight {
            DType::F32 => self.run_as::<f32>(call),
            DType::F16 => self.run_as::<f16>(call),
            _ => self.run_as::<bf16>(call),
        }
    }
}

impl GemmKernel {
    fn layer<'a, E: bytemuck::AnyBitPattern>(&self, w: View<'a>, bias: Option<View<'a>>) -> Layer<'a, E> {
        let (n, k) = if self.kn { (w.dims[2], w.dims[1]) } else { (w.dims[1], w.dims[2]) };
        Layer { weights: ExpertPanels::new(w.as_slice(), w.dims[0], n, k), bias: bias.map(|b| b.as_slice()) }
    }

    fn run_as<E: gemm::Element + bytemuck::AnyBitPattern>(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x = call.input(0);
        let pairs = Pairs { rows: call.input(1).as_slice(), offsets: call.input(2).as_slice(), repeat: self.repeat };
        if !pairs.are_valid() {
            return Err(EvalError::Invalid("the pairs are not what expert_index gives".into()));
        }
        let optional = |i: usize| call.ins.get(i).copied().flatten();
        let first = self.layer::<E>(call.input(3), optional(4));
        let products = match (self.gating, optional(5)) {
            (Gating::Interleaved, _) => Products::Interleaved(first),
            (Gating::Halves, _) => Products::Halves(first),
            (Gating::None, Some(second)) => Products::Two(first, self.layer(second, optional(6))),
            (Gating::None, None) => Products::One(first),
        };
        let weights = optional(7).map(|w| w.as_slice::<f32>());
        let k = x.dims[x.dims.len() - 1];
        let x = Rows::new(x.as_slice(), x.dims[..x.dims.len() - 1].iter().product(), k, k);
        let [tokens, n] = *call.outs[0].dims else { unreachable!("a layer has rows and columns") };
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let y = MatMut::new(call.outs[0].as_slice_mut(), tokens, n, n);
        gemm::experts(call.pool, x, pairs, products, self.finish, weights, y, scratch);
        Ok(())
    }
}
