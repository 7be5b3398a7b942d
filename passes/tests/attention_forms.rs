//! Attention, rotary embeddings and masks in the forms that exporters write, put together at random: each becomes one
//! `attention` (and a `rope` for queries and keys) that computes what was there before.

use ir::Graph;
use passes::audit::Audit;
use passes::{Driver, Stage, canonicalize, fuse_attention, fuse_rope, merge_duplicates};
use proptest::prelude::*;

const HEADS: usize = 2;
const WIDTH: usize = 8;

#[derive(Clone, Copy, Debug)]
enum Turn {
    None,
    /// `x cos + rotate_half(x) sin`.
    Half,
    /// The same before heads and rows are swapped.
    HalfInside,
    /// Both products of both halves.
    Pairs,
}

#[derive(Clone, Copy, Debug)]
enum Factor {
    Scores,
    Quotient,
    /// The square root on both sides.
    Sides,
    Queries,
}

#[derive(Clone, Copy, Debug)]
enum Mask {
    None,
    /// optimum: ranges compared, the padding added and compared with 0.
    Sums,
    /// torch's scaled_dot_product_attention: truth values joined, then selected.
    Joined {
        infinite: bool,
    },
    /// Conditions that hide a key, joined by `or`.
    Hidden,
    /// A triangle cut out of a constant.
    Triangle,
    /// Truth values choose between a score and a low number.
    Chosen,
    /// The last three keys of each row.
    Window,
    /// Any numbers.
    Data,
}

#[derive(Clone, Copy, Debug)]
struct Form {
    group: usize,
    turn: Turn,
    factor: Factor,
    mask: Mask,
    /// Keys are transposed as matrices of all heads.
    flat: bool,
    /// Products have three dimensions, batch and heads in one.
    three: bool,
    /// Sums and products have their operands the other way around.
    swapped: bool,
    /// What is no number becomes 0 after the softmax.
    guard: bool,
}

fn form() -> impl Strategy<Value = Form> {
    let turn = prop_oneof![Just(Turn::None), Just(Turn::Half), Just(Turn::HalfInside), Just(Turn::Pairs)];
    let factor = prop_oneof![Just(Factor::Scores), Just(Factor::Quotient), Just(Factor::Sides), Just(Factor::Queries)];
    let mask = prop_oneof![
        Just(Mask::None),
        Just(Mask::Sums),
        any::<bool>().prop_map(|infinite| Mask::Joined { infinite }),
        Just(Mask::Hidden),
        Just(Mask::Triangle),
        Just(Mask::Chosen),
        Just(Mask::Window),
        Just(Mask::Data),
    ];
    (1..4usize, turn, factor, mask, any::<[bool; 4]>()).prop_map(
        |(group, turn, factor, mask, [flat, three, swapped, guard])| Form {
            group,
            turn,
            factor,
            mask,
            flat,
            three,
            swapped,
            guard,
        },
    )
}

impl Form {
    fn pair(&self, a: &str, b: &str) -> String {
        if self.swapped { format!("%{b}, %{a}") } else { format!("%{a}, %{b}") }
    }

    /// `[B, heads, S, 8]` from `[B, S, heads 8]`, turned.
    fn heads(&self, x: &str, heads: usize, turns: bool) -> String {
        let turn = if turns { self.turn } else { Turn::None };
        let split = format!("%{x}4 = reshape(%{x}) {{shape = [B, S, {heads}, 8]}} ");
        let swap = |from: &str, to: &str| format!("%{to} = transpose(%{from}) {{perm = [0, 2, 1, 3]}} ");
        let low = |of: &str| {
            format!(
                "%{x}a = slice(%{of}) {{axes = [3], ends = [4], starts = [0], steps = [1]}} \
                 %{x}b = slice(%{of}) {{axes = [3], ends = [9223372036854775807], starts = [4], steps = [1]}} "
            )
        };
        let half = |of: &str, to: &str, cos: &str, sin: &str| {
            let (c, s) = (self.pair(of, cos), self.pair(&format!("{x}r"), sin));
            let sum = self.pair(&format!("{x}c"), &format!("{x}s"));
            format!(
                "{}%{x}n = neg(%{x}b) %{x}r = concat(%{x}n, %{x}a) {{axis = -1}} %{x}c = mul({c}) %{x}s = mul({s}) %{to} = add({sum}) ",
                low(of)
            )
        };
        let (from, to) = (format!("{x}t"), format!("{x}h"));
        match turn {
            Turn::None => split + &swap(&format!("{x}4"), &to),
            Turn::Half => split + &swap(&format!("{x}4"), &from) + &half(&from, &to, "cos", "sin"),
            Turn::HalfInside => split + &half(&format!("{x}4"), &from, "cosin", "sinin") + &swap(&from, &to),
            Turn::Pairs => {
                let products = format!(
                    "%{x}ac = mul(%{x}a, %cos1) %{x}bs = mul(%{x}b, %sin1) %{x}l = sub(%{x}ac, %{x}bs) \
                     %{x}bc = mul(%{x}b, %cos1) %{x}as = mul(%{x}a, %sin1) %{x}u = add(%{x}bc, %{x}as) \
                     %{to} = concat(%{x}l, %{x}u) {{axis = -1}} "
                );
                split + &swap(&format!("{x}4"), &from) + &low(&from) + &products
            }
        }
    }

    /// `[B, H, T, 8]` where query heads share `of[B, 2, T, 8]`.
    fn repeated(&self, of: &str, to: &str) -> String {
        let (group, heads) = (self.group, self.group * HEADS);
        format!(
            "%{of}5 = reshape(%{of}) {{shape = [B, 2, 1, P + S, 8]}} %{of}x = expand(%{of}5) {{shape = [B, 2, {group}, P + S, 8]}} \
             %{to} = reshape(%{of}x) {{shape = [B, {heads}, P + S, 8]}} "
        )
    }

    /// `%masked` from `%scaled`.
    fn masked(&self) -> String {
        let add = |mask: &str| format!("%masked = add({}) ", self.pair("scaled", mask));
        let earlier = "%keys = range() {length = P + S, start = 0, step = 1} %rows0 = range() {length = S, start = 0, step = 1} \
            %past = dims() {elements = [P], scalar = true} %rows1 = add(%rows0, %past) %rows = reshape(%rows1) {shape = [S, 1]} \
            %earlier = le(%keys, %rows) %later = gt(%keys, %rows) ";
        let set = "%set2 = cast(%am) {to = bool} %set = reshape(%set2) {shape = [B, 1, 1, P + S]} ";
        match self.mask {
            Mask::None => "%masked = reshape(%scaled) {shape = [B, H, S, P + S]} ".into(),
            Mask::Sums => format!(
                "{earlier} %c = select(%later, %low, %none) %c4 = reshape(%c) {{shape = [1, 1, S, P + S]}} \
                 %cx = expand(%c4) {{shape = [B, 1, S, P + S]}} %am4 = reshape(%am) {{shape = [B, 1, 1, P + S]}} \
                 %amf = cast(%am4) {{to = f32}} %sum = add(%cx, %amf) %gap = eq(%sum, %none) %mask = select(%gap, %low, %cx) {}",
                add("mask")
            ),
            Mask::Joined { infinite } => format!(
                "{earlier} {set} %kept = and(%earlier, %set) %mask = select(%kept, %none, %{}) {}",
                if infinite { "inf" } else { "low" },
                add("mask")
            ),
            Mask::Hidden => format!(
                "{earlier} %z = const [0] : i64[] %gap2 = eq(%am, %z) %gap = reshape(%gap2) {{shape = [B, 1, 1, P + S]}} \
                 %hidden = or(%later, %gap) %mask = select(%hidden, %low, %none) {}",
                add("mask")
            ),
            Mask::Triangle => format!(
                "%full = fill(%low1) {{shape = [S, P + S]}} %mask = trilu(%full) {{diagonal = P + 1, upper = true}} {}",
                add("mask")
            ),
            Mask::Chosen => {
                format!("{earlier} {set} %kept = and(%earlier, %set) %masked = select(%kept, %scaled, %low) ")
            }
            Mask::Window => format!(
                "{earlier} %three = const [3] : i64[] %edge = sub(%rows, %three) %near = gt(%keys, %edge) %kept = and(%earlier, %near) \
                 %mask = select(%kept, %none, %inf) {}",
                add("mask")
            ),
            Mask::Data => add("data"),
        }
    }

    fn text(&self) -> String {
        let heads = self.group * HEADS;
        let mut s = format!(
            "graph @g(%q: f32[B, S, {}], %k: f32[B, S, 16], %v: f32[B, S, 16], %pk: f32[B, 2, P, 8], %pv: f32[B, 2, P, 8], \
             %am: i64[B, P + S], %angles: f32[B, S, 4], %data: f32[B, 1, S, P + S]) {{ \
             %low = const [-3.4028234663852886e38] : f32[] %low1 = const [-3.4028234663852886e38] : f32[1] %inf = const [-inf] : f32[] \
             %none = const [0.0] : f32[] %scale = const [0.25] : f32[] %root = const [0.5] : f32[] %four = const [4.0] : f32[] \
             %c1 = cos(%angles) %s1 = sin(%angles) %cos1 = reshape(%c1) {{shape = [B, 1, S, 4]}} %sin1 = reshape(%s1) {{shape = [B, 1, S, 4]}} \
             %twice = concat(%angles, %angles) {{axis = -1}} %c2 = cos(%twice) %s2 = sin(%twice) \
             %cos = reshape(%c2) {{shape = [B, 1, S, 8]}} %sin = reshape(%s2) {{shape = [B, 1, S, 8]}} \
             %cosin = reshape(%c2) {{shape = [B, S, 1, 8]}} %sinin = reshape(%s2) {{shape = [B, S, 1, 8]}} ",
            heads * WIDTH
        );
        s += &(self.heads("q", heads, true) + &self.heads("k", HEADS, true) + &self.heads("v", HEADS, false));
        s += "%keys2 = concat(%pk, %kh) {axis = 2} %values2 = concat(%pv, %vh) {axis = -2} ";
        let (keys, values) = if self.group > 1 {
            s += &(self.repeated("keys2", "keys4") + &self.repeated("values2", "values4"));
            ("keys4", "values4")
        } else {
            ("keys2", "values2")
        };
        let (q, values, scaled) = if self.three {
            s += &format!(
                "%q3 = reshape(%qh) {{shape = [{heads}*B, S, 8]}} %values3 = reshape(%{values}) {{shape = [{heads}*B, P + S, 8]}} \
                 %k3 = reshape(%{keys}) {{shape = [{heads}*B, P + S, 8]}} %kmat = transpose(%k3) {{perm = [0, 2, 1]}} "
            );
            ("q3", "values3", "scaled3")
        } else if self.flat {
            s += &format!(
                "%kf = reshape(%{keys}) {{shape = [{heads}*B, P + S, 8]}} %kft = transpose(%kf) {{perm = [0, 2, 1]}} \
                 %kmat = reshape(%kft) {{shape = [B, {heads}, 8, P + S]}} "
            );
            ("qh", values, "scaled")
        } else {
            s += &format!("%kmat = transpose(%{keys}) {{perm = [0, 1, 3, 2]}} ");
            ("qh", values, "scaled")
        };
        s += &match self.factor {
            Factor::Scores => format!("%qk = matmul(%{q}, %kmat) %{scaled} = mul({}) ", self.pair("qk", "scale")),
            Factor::Quotient => format!("%qk = matmul(%{q}, %kmat) %{scaled} = div(%qk, %four) "),
            Factor::Sides => {
                format!(
                    "%qscaled = mul(%{q}, %root) %kscaled = mul(%root, %kmat) %{scaled} = matmul(%qscaled, %kscaled) "
                )
            }
            Factor::Queries => format!("%qscaled = mul(%{q}, %scale) %{scaled} = matmul(%qscaled, %kmat) "),
        };
        if self.three {
            s += &format!("%scaled = reshape(%scaled3) {{shape = [B, {heads}, S, P + S]}} ");
        }
        s += &self.masked().replace('H', &heads.to_string());
        let masked = if self.three {
            s += &format!("%masked3 = reshape(%masked) {{shape = [{heads}*B, S, P + S]}} ");
            "masked3"
        } else {
            "masked"
        };
        s += &format!("%weights = softmax(%{masked}) {{axis = -1}} ");
        if self.guard {
            s += "%nan = is_nan(%weights) %clean = select(%nan, %none, %weights) ";
        }
        s + &format!(
            "%y = matmul(%{}, %{values}) return %y, %keys2, %values2 }}",
            if self.guard { "clean" } else { "weights" }
        )
    }
}

fn count(g: &Graph, name: &str) -> usize {
    g.order().into_iter().filter(|id| g.op(*id).is_some_and(|op| op.name() == name)).count()
}

fn holds(form: Form) -> Result<(), TestCaseError> {
    let mut g = ir::text::parse(&form.text()).map_err(|e| TestCaseError::fail(format!("{e}\n{}", form.text())))?;
    g.remove_dead();
    let before = g.clone();
    let passes = [canonicalize::PASS, fuse_rope::PASS, fuse_attention::PASS, merge_duplicates::PASS];
    let mut driver = Driver::new(passes.map(Stage::Once).to_vec());
    driver.audit = Some(Audit::of(&before));
    driver.run(&mut g).map_err(|e| TestCaseError::fail(format!("{e}\n{before}\n{g}")))?;
    let ropes = if matches!(form.turn, Turn::None) { 0 } else { 2 };
    let left = ["attention", "rope", "softmax", "matmul", "expand"].map(|op| count(&g, op));
    prop_assert_eq!(left, [1, ropes, 0, 0, 0], "{}", g);
    // The mask of positions is an attribute, what is left of it does not grow with the queries.
    let attention = g.order().into_iter().find(|id| g.op(*id).is_some_and(|op| op.name() == "attention")).unwrap();
    let causal = g.op(attention).unwrap().attrs().contains_key("causal");
    prop_assert_eq!(causal, !matches!(form.mask, Mask::None | Mask::Data), "{}", g);
    if let Some(mask) = g.operands(attention).get(3).and_then(|m| g.tensor_ty(*m)?.dims())
        && !matches!(form.mask, Mask::Data)
    {
        prop_assert_eq!(mask[2].as_const(), Some(1), "{}", g);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_form_becomes_one_attention(form in form()) {
        holds(form)?;
    }
}
