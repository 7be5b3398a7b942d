//! Attention on the device whose past is a buffer that each sequence has filled to a length of its own.

mod common;

use common::{Random, compare, load, on_host, simulator, tensor};
use ir::{DType, Datum, Tensor, eval, text};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Operands besides the lengths, types of elements and lengths, attributes.
fn graph(element: &str, lengths: &str, heads_inside: bool, mask: bool, attributes: &str) -> String {
    let (q, kv) = if heads_inside { ("[B, S, 64]", "[B, S, 32]") } else { ("[B, 4, S, 16]", "[B, 2, S, 16]") };
    let (declared, used) = if mask { (format!(", %m: {element}[B, 1, S, 1]"), "%m") } else { (String::new(), "_") };
    let (heads, present) =
        (if heads_inside { ", q_heads = 4, kv_heads = 2" } else { "" }, attributes.contains("present"));
    let (results, returned) = if present { ("%y, %nk, %nv", "%y, %nk, %nv") } else { ("%y", "%y") };
    format!(
        "graph @g(%q: {element}{q}, %k: {element}{kv}, %v: {element}{kv}, %pk: {element}[B, 2, P, 16], %pv: {element}[B, 2, P, 16], %n: {lengths}[B], %t: u8[T]{declared}) {{ {results} = attention(%q, %k, %v, {used}, %pk, %pv, %n) {{causal = true, total = T{heads}{attributes}}} return {returned} }}"
    )
}

#[test]
fn hip_attention_over_buffers_agrees() {
    let Some(hip) = simulator("hip_attention_over_buffers_agrees") else { return };
    let mut random = Random(21);
    for t in [
        graph("f32", "i64", true, false, ", present = true"),
        graph("f16", "i32", false, false, ", present = true, left = 3"),
        graph("bf16", "i64", false, true, ", softcap = 4.0"),
        graph("f32", "i32", true, true, ", unseen = nan"),
    ] {
        let g = text::parse(&t).unwrap_or_else(|e| panic!("{e}\n{t}"));
        let loaded = load(hip, &g);
        assert_eq!(on_host(loaded.plan()), [""; 0], "{t}");
        let mut session = loaded.session(1);
        // Rows of the buffer, new rows, the longest sequence, lengths; the last three do not fit.
        for (past, new, total, lengths) in [
            (9, 2, 9, [2i64, 9, 5]),
            (4, 1, 5, [5, 1, 3]),
            (40, 3, 40, [40, 3, 33]),
            (0, 7, 7, [7, 3, 5]),
            (9, 5, 5, [5, 2, 0]),
            (6, 6, 6, [1, 1, 1]),
            (9, 2, 9, [1, 9, 5]),
            (4, 2, 9, [6, 7, 2]),
            (9, 2, 9, [2, i64::from(i32::MIN), 5]),
        ] {
            let symbols = [("B", 3i64), ("S", new), ("P", past), ("T", total)];
            let symbols: BTreeMap<Arc<str>, i64> = symbols.into_iter().map(|(s, n)| (s.into(), n)).collect();
            let mut input = |v: &ir::graph::Value| -> Datum {
                match (&**g.name(*v), g.tensor_ty(*v).unwrap().dtype) {
                    ("n", DType::I64) => Tensor::from_slice(&[3], &lengths).unwrap().into(),
                    ("n", _) => Tensor::from_slice(&[3], &lengths.map(|n| n as i32)).unwrap().into(),
                    _ => tensor(&g, *v, &symbols, &mut random, past == 40).into(),
                }
            };
            let inputs: Vec<Datum> = g.inputs.iter().map(|n| input(&(*n).into())).collect();
            let at = format!("{past} + {new} rows, {lengths:?}: {t}");
            let want = match eval::run(&g, &inputs) {
                Ok(want) => want,
                Err(e) => {
                    assert!(session.run(&inputs).is_err(), "{at}: the reference fails ({e}), the device does not");
                    continue;
                }
            };
            let got = session.run(&inputs).unwrap_or_else(|e| panic!("{at}: {e}")).to_vec();
            for (got, want) in got.iter().zip(&want) {
                compare(&at, &g, got, want);
            }
        }
    }
}
