//! `moe_join`: the last product of experts into scratch memory, and one launch for all that is added to its sum and the
//! normalisation behind.

use super::moe::{Counts, Product};
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, output, scratch};
use ir::Dim;
use ir::ops::MoeJoin;
use kernels::{Element, table};
use plan::Layout;

/// Bytes of a product.
const F32: i64 = 4;

struct Join {
    op: MoeJoin,
    kn: bool,
    x: Element,
    w: Element,
    has_bias: bool,
    /// Whether there are the shared expert, its gate, hidden states and a scale.
    has: [bool; 4],
    /// Bytes of the products.
    bytes: Dim,
}

pub(super) fn moe_join(op: &MoeJoin, types: &Types<'_>) -> Chosen {
    let (x, w) = (types.element(0)?, types.element(3)?);
    let float = |e: Element| matches!(e, Element::F32 | Element::F16 | Element::BF16);
    let sides = (4..=MoeJoin::SCALE).filter(|i| types.input(*i).is_some());
    let alike = sides.map(|i| types.element(i)).all(|e| e == Ok(x));
    let index = |i: usize| types.element(i) == Ok(Element::I32);
    if !float(x) || !float(w) || !alike || !index(1) || !index(2) {
        return Err("its element types differ, or are not f32, f16 or bf16");
    }
    let ([pairs], [_, a, b]) = (types.dims(1)?, types.dims(3)?) else { return Err("its operands are not matrices") };
    let bytes = pairs * if op.kn { b } else { a } * F32;
    let kn = op.kn && types.layout(3) != Layout::Transposed;
    let has = [MoeJoin::SHARED, MoeJoin::GATE, MoeJoin::RESIDUAL, MoeJoin::SCALE].map(|i| types.input(i).is_some());
    Ok(Box::new(Join { op: op.clone(), kn, x, w, has_bias: types.input(4).is_some(), has, bytes }))
}

impl Lowering for Join {
    fn name(&self) -> &'static str {
        "moe_join"
    }

    fn files(&self) -> &'static [&'static str] {
        &["moe"]
    }

    fn scratch(&self) -> Option<Dim> {
        Some(self.bytes.clone())
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let [experts, a, b] = sizes.ins[3][..] else { return Err("experts have one matrix each".into()) };
        let (outputs, k) = if self.op.kn { (b as i64, a as i64) } else { (a as i64, b as i64) };
        let (pairs, tokens) = (sizes.ins[1][0] as i64, sizes.ins[MoeJoin::WEIGHTS][0] as i64);
        if tokens * outputs == 0 {
            return Ok(vec![]);
        }
        let matrices = self.x != Element::F32 && self.w == self.x && !self.kn && k % 32 == 0;
        let product = Product { x: self.x, w_type: self.w, kn: self.kn, w: 3, bias: self.has_bias.then_some(4), to: 0 };
        let counts = Counts { pairs, tokens: pairs, repeat: 1, experts: experts as i64, outputs, k };
        let products = (pairs > 0).then(|| product.call(&counts, matrices));
        let side = |at: usize, i: usize| if self.has[at] { input(i) } else { input(0) };
        let has = self.has.iter().enumerate().map(|(i, has)| i64::from(*has) << i).sum();
        let joined = call(table::moe_join(
            self.x,
            scratch(0),
            input(MoeJoin::WEIGHTS),
            side(0, MoeJoin::SHARED),
            side(1, MoeJoin::GATE),
            side(2, MoeJoin::RESIDUAL),
            side(3, MoeJoin::SCALE),
            output(0),
            output(if self.has[3] { 1 } else { 0 }),
            tokens,
            pairs / tokens,
            outputs,
            has,
            self.op.eps,
        ));
        Ok(products.into_iter().chain([joined]).collect())
    }
}
