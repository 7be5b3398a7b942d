use super::*;
use crate::kernels::dims::{broadcast_strides, dense_strides};
use crate::kernels::element::Element;
use proptest::prelude::*;

fn run_f32(program: &Program, dims: &[usize], operands: &[(&[f32], Vec<usize>)]) -> Vec<f32> {
    let mut y = vec![0f32; dims.iter().product()];
    let operands: Vec<Operand> = operands.iter().map(|(x, s)| Operand::new(bytemuck::cast_slice(x), s)).collect();
    let mut scratch = vec![0; program.scratch_words()];
    program.run(dims, &operands, bytemuck::cast_slice_mut(&mut y), 0, &mut scratch);
    y
}

fn binary(f: BinaryFn, element: Element) -> Program {
    Program::new(&[element; 2], &[Instr::Binary(f, Slot(0), Slot(1))], Slot(2), element).unwrap()
}

/// Floats with every nasty one likely.
fn nasty() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -10f32..10.0,
        1 => any::<f32>(),
        1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40, f32::MAX]),
    ]
}

fn same(a: f32, b: f32) -> bool {
    a == b || a.is_nan() && b.is_nan()
}

/// A shape, and for each of two operands the shape with some dimensions set to 1 and some leading ones dropped.
fn shapes() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, Vec<usize>)> {
    prop::collection::vec(prop_oneof![Just(0usize), 1..5usize, 600..700usize], 0..4)
        .prop_filter("small", |d| d.iter().product::<usize>() < 20_000)
        .prop_flat_map(|dims| {
            let n = dims.len();
            let operand = |dims: Vec<usize>| {
                (prop::collection::vec(any::<bool>(), n), 0..=n).prop_map(move |(ones, drop)| {
                    let kept: Vec<usize> = dims.iter().zip(ones).map(|(&d, one)| if one { 1 } else { d }).collect();
                    if kept[..drop].iter().zip(&dims).all(|(k, d)| *k == 1 || *k == *d) {
                        kept[drop..].to_vec()
                    } else {
                        kept
                    }
                })
            };
            (Just(dims.clone()), operand(dims.clone()), operand(dims))
        })
}

proptest! {
    #[test]
    fn broadcast_binaries_agree_with_the_naive_loop((dims, a_dims, b_dims) in shapes(), seed in prop::collection::vec(nasty(), 64)) {
        let data = |n: usize, shift: usize| -> Vec<f32> { (0..n).map(|i| seed[(i * 7 + shift) % 64]).collect() };
        let (a, b) = (data(a_dims.iter().product(), 0), data(b_dims.iter().product(), 31));
        let (sa, sb) = (broadcast_strides(&a_dims, &dims), broadcast_strides(&b_dims, &dims));
        let out_strides = dense_strides(&dims);
        for (f, naive) in [
            (BinaryFn::Add, (|a, b| a + b) as fn(f32, f32) -> f32),
            (BinaryFn::Max, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }),
            (BinaryFn::Fmod, |a, b| a % b),
        ] {
            let y = run_f32(&binary(f, Element::F32), &dims, &[(&a, sa.to_vec()), (&b, sb.to_vec())]);
            for (at, &y) in y.iter().enumerate() {
                let (mut ia, mut ib) = (0, 0);
                for d in 0..dims.len() {
                    let i = at / out_strides[d] % dims[d];
                    ia += i * sa[d];
                    ib += i * sb[d];
                }
                prop_assert!(same(y, naive(a[ia], b[ib])), "{:?} at {}", f, at);
            }
        }
    }

    #[test]
    fn a_fused_chain_equals_its_steps(x in prop::collection::vec(nasty(), 0..1300)) {
        // gelu(x) * 2 + x, selected where x > 0, else -x.
        let program = Program::new(
            &[Element::F32],
            &[
                Instr::Unary(UnaryFn::Gelu, Slot(0)),
                Instr::Const(Constant::F32(2.0)),
                Instr::Binary(BinaryFn::Mul, Slot(1), Slot(2)),
                Instr::Binary(BinaryFn::Add, Slot(3), Slot(0)),
                Instr::Const(Constant::F32(0.0)),
                Instr::Compare(CompareFn::Greater, Slot(0), Slot(5)),
                Instr::Unary(UnaryFn::Neg, Slot(0)),
                Instr::Select { condition: Slot(6), yes: Slot(4), no: Slot(7) },
            ],
            Slot(8),
            Element::F32,
        ).unwrap();
        let y = run_f32(&program, &[x.len()], &[(&x, vec![1])]);
        for (x, y) in x.iter().zip(&y) {
            let gelu = crate::kernels::math::gelu::<true>(*x);
            let expected = if *x > 0.0 { gelu * 2.0 + x } else { -x };
            prop_assert!(same(*y, expected), "{} {} {}", x, y, expected);
        }
    }
}

#[test]
fn ranges_make_up_the_whole() {
    let dims = [37, 41];
    let x: Vec<f32> = (0..37 * 41).map(|i| i as f32).collect();
    let bias: Vec<f32> = (0..41).map(|i| i as f32 * 0.5).collect();
    let program = binary(BinaryFn::Sub, Element::F32);
    let whole = run_f32(&program, &dims, &[(&x, vec![41, 1]), (&bias, vec![0, 1])]);
    let mut parts = vec![0f32; x.len()];
    let operands =
        [Operand::new(bytemuck::cast_slice(&x), &[41, 1]), Operand::new(bytemuck::cast_slice(&bias), &[0, 1])];
    let mut scratch = vec![0; program.scratch_words()];
    let (first, second) = parts.split_at_mut(700);
    program.run(&dims, &operands, bytemuck::cast_slice_mut(second), 700, &mut scratch);
    program.run(&dims, &operands, bytemuck::cast_slice_mut(first), 0, &mut scratch);
    assert_eq!(whole, parts);
}

#[test]
fn integers_wrap_and_never_trap() {
    let cases: [(BinaryFn, i64, i64, i64); 9] = [
        (BinaryFn::Add, i64::MAX, 1, i64::MIN),
        (BinaryFn::Div, 7, 0, 0),
        (BinaryFn::Div, i64::MIN, -1, i64::MIN),
        (BinaryFn::Mod, -7, 3, 2),
        (BinaryFn::Fmod, -7, 3, -1),
        (BinaryFn::Pow, 3, 4, 81),
        (BinaryFn::ShiftLeft, 1, 64, 0),
        (BinaryFn::ShiftRight, -1, 63, 1),
        (BinaryFn::Xor, 6, 3, 5),
    ];
    for (f, a, b, expected) in cases {
        let mut y = [0i64];
        let program = binary(f, Element::I64);
        let operands = [Operand::new(bytemuck::bytes_of(&a), &[]), Operand::new(bytemuck::bytes_of(&b), &[])];
        program.run(&[], &operands, bytemuck::cast_slice_mut(&mut y), 0, &mut vec![0; program.scratch_words()]);
        assert_eq!(y[0], expected, "{f:?} {a} {b}");
    }
}

#[test]
fn narrow_types_are_computed_wide_and_stored_back() {
    let a: Vec<u8> = vec![250, 3, 9];
    let b: Vec<u8> = vec![10, 5, 2];
    let program = binary(BinaryFn::Add, Element::U8);
    let mut y = [0u8; 3];
    program.run(
        &[3],
        &[Operand::new(&a, &[1]), Operand::new(&b, &[1])],
        &mut y,
        0,
        &mut vec![0; program.scratch_words()],
    );
    assert_eq!(y, [4, 8, 11]);

    let x: Vec<half::f16> = [1.5f32, 2.5, -3.0].map(half::f16::from_f32).to_vec();
    let program =
        Program::new(&[Element::F16], &[Instr::Unary(UnaryFn::Square, Slot(0))], Slot(1), Element::F16).unwrap();
    let mut y = vec![half::f16::ZERO; 3];
    let operands = [Operand::new(bytemuck::cast_slice(&x), &[1])];
    program.run(&[3], &operands, bytemuck::cast_slice_mut(&mut y), 0, &mut vec![0; program.scratch_words()]);
    assert_eq!(y, [2.25f32, 6.25, 9.0].map(half::f16::from_f32));
}

#[test]
fn narrow_wraps_inside_a_chain() {
    // u8: (250 + 10) / 2 is 2, not 130.
    let program = Program::new(
        &[Element::U8; 2],
        &[
            Instr::Binary(BinaryFn::Add, Slot(0), Slot(1)),
            Instr::Narrow(Element::U8, Slot(2)),
            Instr::Const(Constant::I32(2)),
            Instr::Binary(BinaryFn::Div, Slot(3), Slot(4)),
        ],
        Slot(5),
        Element::U8,
    )
    .unwrap();
    let mut y = [0u8];
    program.run(
        &[1],
        &[Operand::new(&[250], &[0]), Operand::new(&[10], &[0])],
        &mut y,
        0,
        &mut vec![0; program.scratch_words()],
    );
    assert_eq!(y, [2]);
}

#[test]
fn logic_on_booleans() {
    let program = Program::new(
        &[Element::Bool; 2],
        &[Instr::Unary(UnaryFn::Not, Slot(1)), Instr::Binary(BinaryFn::And, Slot(0), Slot(2))],
        Slot(3),
        Element::Bool,
    )
    .unwrap();
    let mut y = [9u8; 4];
    let operands = [Operand::new(&[0, 0, 1, 1], &[1]), Operand::new(&[0, 1, 0, 1], &[1])];
    program.run(&[4], &operands, &mut y, 0, &mut vec![0; program.scratch_words()]);
    assert_eq!(y, [0, 0, 1, 0]);
}

#[test]
fn an_input_can_be_the_output() {
    let program = Program::new(&[Element::I64], &[], Slot(0), Element::F32).unwrap();
    let mut y = [0f32; 2];
    let x = [3i64, -4];
    program.run(
        &[2],
        &[Operand::new(bytemuck::cast_slice(&x), &[1])],
        bytemuck::cast_slice_mut(&mut y),
        0,
        &mut vec![0; program.scratch_words()],
    );
    assert_eq!(y, [3.0, -4.0]);
}

#[test]
fn ill_typed_programs_are_refused() {
    let exp_of_integers = Program::new(&[Element::I64], &[Instr::Unary(UnaryFn::Exp, Slot(0))], Slot(1), Element::I64);
    assert!(matches!(exp_of_integers, Err(ProgramError::Untyped { instr: 0, .. })));
    let mixed = Program::new(
        &[Element::I64, Element::F32],
        &[Instr::Binary(BinaryFn::Add, Slot(0), Slot(1))],
        Slot(2),
        Element::F32,
    );
    assert!(matches!(mixed, Err(ProgramError::Untyped { .. })));
    let undefined = Program::new(&[Element::F32], &[Instr::Unary(UnaryFn::Neg, Slot(1))], Slot(1), Element::F32);
    assert_eq!(undefined.unwrap_err(), ProgramError::Undefined { instr: 0, slot: 1 });
    assert!(matches!(
        Program::new(&[Element::F32; 17], &[], Slot(0), Element::F32),
        Err(ProgramError::TooManyInputs(17))
    ));
}

#[test]
fn large_angles_fall_back_to_the_standard_library() {
    let program = Program::new(&[Element::F32], &[Instr::Unary(UnaryFn::Sin, Slot(0))], Slot(1), Element::F32).unwrap();
    let x = [1e30f32, 1.0, f32::INFINITY, -3e9];
    let y = run_f32(&program, &[4], &[(&x, vec![1])]);
    for (x, y) in x.iter().zip(y) {
        assert!(same(y, x.sin()) || (y - x.sin()).abs() < 1e-6);
    }
}
