//! The order of a graph respects sizes that only exist once a value does.

use ir::dim::Dim;
use ir::ops::Expand;
use ir::ops::host::ReshapeTo;
use ir::{DType, Graph, Tensor, TensorType, Value};

#[test]
fn a_node_comes_after_the_one_that_binds_its_size() {
    let mut g = Graph::new("g");
    let x = g.input("x", TensorType::new(DType::F32, [Dim::sym("N")]));
    let n = g.input("n", TensorType::new(DType::I64, [1i64]));
    let one = g.constant("one", Tensor::scalar(1f32));
    let shape = vec![Dim::sym("?0")];
    let ones = g.apply(Expand { shape }, &[one], "ones", &Default::default()).unwrap();
    let y = g.apply(ReshapeTo { allow_zero: false }, &[x, n], "y", &Default::default()).unwrap();
    g.output("ones", ones);
    g.output("y", y);
    let place = |v: Value| g.order().iter().position(|n| *n == v.node).unwrap();
    assert!(place(y) < place(ones));
    ir::verify(&g).unwrap();
}
