//! Recurrent layers on the device, at sizes and with operands that samples do not have.

mod common;

use common::{Random, load, on_host, run_both, simulator};
use ir::text;

/// Runs graphs that nothing of is left to the host.
fn on_device(test: &str, graphs: &[String]) {
    let Some(hip) = simulator(test) else { return };
    let mut random = Random(5);
    for t in graphs {
        let g = text::parse(t).unwrap_or_else(|e| panic!("{e}\n{t}"));
        assert_eq!(on_host(load(hip, &g).plan()), [""; 0], "{t}");
        run_both(hip, t, &g, &mut random);
    }
}

#[test]
fn hip_lstms_agree_for_every_operand() {
    let mut graphs = vec![];
    for dtype in ["f32", "f16", "bf16"] {
        // Lengths, initial states and peepholes; more elements than a wave has; functions with parameters of their own.
        graphs.push(format!(
            "graph @g(%x: {dtype}[S, 3, 7], %w: {dtype}[2, 160, 7], %wr: {dtype}[2, 160, 40], %wb: {dtype}[2, 320], %n: i32[3], %h0: {dtype}[2, 3, 40], %c0: {dtype}[2, 3, 40], %wp: {dtype}[2, 120]) {{ %y, %h, %c = lstm(%x, %w, %wr, %wb, %n, %h0, %c0, %wp) {{direction = bidirectional, activations = [sigmoid, tanh, tanh, hard_sigmoid, scaled_tanh, softsign], alphas = [0.0, 0.0, 0.0, 0.3, 1.5], betas = [0.0, 0.0, 0.0, 0.4, 0.7], clip = 1.5}} return %y, %h, %c }}"
        ));
    }
    graphs.push("graph @g(%x: f32[B, S, 3], %w: f32[1, 20, 3], %wr: f32[1, 20, 5], %n: i32[B], %h0: f32[B, 1, 5]) { %y, %h, %c = lstm(%x, %w, %wr, _, %n, %h0) {direction = reverse, activations = [sigmoid, tanh, tanh], alphas = [], betas = [], batch_first = true, input_forget = true} return %y, %h, %c }".into());
    on_device("hip_lstms_agree_for_every_operand", &graphs);
}

#[test]
fn hip_grus_agree_for_every_operand() {
    let mut graphs = vec![];
    for dtype in ["f32", "f16", "bf16"] {
        for linear in ["true", "false"] {
            graphs.push(format!(
                "graph @g(%x: {dtype}[2, S, 9], %w: {dtype}[2, 111, 9], %wr: {dtype}[2, 111, 37], %wb: {dtype}[2, 222], %n: i32[2], %h0: {dtype}[2, 2, 37]) {{ %y, %h = gru(%x, %w, %wr, %wb, %n, %h0) {{direction = bidirectional, activations = [sigmoid, tanh, hard_sigmoid, elu], alphas = [], betas = [], clip = 2.0, linear_before_reset = {linear}, batch_first = true}} return %y, %h }}"
            ));
        }
    }
    on_device("hip_grus_agree_for_every_operand", &graphs);
}
