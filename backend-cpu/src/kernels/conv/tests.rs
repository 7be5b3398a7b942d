use super::*;
use crate::kernels::gemm::Isa;
use proptest::prelude::*;

/// Deterministic values in -1..1 with few bits, so that sums are exact enough to compare closely.
fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 257) as f32 / 128.0 - 1.0).collect()
}

fn naive(conv: &Conv, x: &[f32], w: &[f32]) -> Vec<f64> {
    let mut y = vec![0f64; conv.output_elems()];
    let [od, oh, ow] = conv.output;
    let [id, ih, iw] = conv.input;
    let [kd, kh, kw] = conv.kernel;
    let (icg, ocg) = (conv.in_per_group(), conv.out_per_group());
    let mut at = 0;
    for n in 0..conv.batch {
        for oc in 0..conv.out_channels {
            for o in 0..od * oh * ow {
                let out = [o / (oh * ow), o / ow % oh, o % ow];
                for c in 0..icg {
                    for t in 0..kd * kh * kw {
                        let tap = [t / (kh * kw), t / kw % kh, t % kw];
                        let place: Vec<isize> = (0..3)
                            .map(|i| {
                                (out[i] * conv.stride[i] + tap[i] * conv.dilation[i]) as isize
                                    - conv.pads[0][i] as isize
                            })
                            .collect();
                        if (0..3).all(|i| (0..conv.input[i] as isize).contains(&place[i])) {
                            let pixel = (place[0] as usize * ih + place[1] as usize) * iw + place[2] as usize;
                            let channel = n * conv.in_channels + oc / ocg * icg + c;
                            y[at] +=
                                x[channel * id * ih * iw + pixel] as f64 * w[(oc * icg + c) * kd * kh * kw + t] as f64;
                        }
                    }
                }
                at += 1;
            }
        }
    }
    y
}

fn naive_transposed(t: &ConvTranspose, conv: &Conv, x: &[f32], w: &[f32]) -> Vec<f64> {
    let mut y = vec![0f64; t.output_elems()];
    let [od, oh, ow] = conv.output;
    let [id, ih, iw] = conv.input;
    let [kd, kh, kw] = conv.kernel;
    let (icg, ocg) = (conv.in_per_group(), conv.out_per_group());
    for n in 0..conv.batch {
        for c in 0..conv.in_channels {
            for p in 0..id * ih * iw {
                let from = [p / (ih * iw), p / iw % ih, p % iw];
                for f in 0..ocg {
                    for t in 0..kd * kh * kw {
                        let tap = [t / (kh * kw), t / kw % kh, t % kw];
                        let place: Vec<isize> = (0..3)
                            .map(|i| {
                                (from[i] * conv.stride[i] + tap[i] * conv.dilation[i]) as isize
                                    - conv.pads[0][i] as isize
                            })
                            .collect();
                        if (0..3).all(|i| (0..conv.output[i] as isize).contains(&place[i])) {
                            let pixel = (place[0] as usize * oh + place[1] as usize) * ow + place[2] as usize;
                            let channel = n * conv.out_channels + c / icg * ocg + f;
                            let share = x[(n * conv.in_channels + c) * id * ih * iw + p] as f64
                                * w[(c * ocg + f) * kd * kh * kw + t] as f64;
                            y[channel * od * oh * ow + pixel] += share;
                        }
                    }
                }
            }
        }
    }
    y
}

fn pools() -> Vec<Pool> {
    Isa::available().flat_map(|isa| [1, 3].map(|threads| Pool::with_isa(threads, isa))).collect()
}

/// Runs on every instruction set, with bias, residual and an activation, against the naive loop.
fn check(conv: &Conv, activation: Option<UnaryFn>) {
    let w_len = conv.out_channels * conv.in_per_group() * conv.taps();
    let (x, w) = (values(conv.batch * conv.in_channels * conv.input_pixels(), 1), values(w_len, 2));
    let (bias, residual) = (values(conv.out_channels, 3), values(conv.output_elems(), 4));
    let mut packed = vec![0f32; conv.packed_elems()];
    conv.pack(&w, &mut packed);
    let sums = naive(conv, &x, &w);
    for pool in pools() {
        for residual in [None, Some(&residual[..])] {
            let epilogue = ConvEpilogue { bias: Some(&bias), residual, activation };
            let mut y = vec![f32::NAN; conv.output_elems()];
            let mut scratch = vec![f32::NAN; conv.scratch_elems(&pool)];
            conv.run(&pool, &x, &packed, &epilogue, &mut y, &mut scratch);
            for (at, (&y, &sum)) in y.iter().zip(&sums).enumerate() {
                let channel = at / conv.pixels() % conv.out_channels;
                let mut expected = [(sum + bias[channel] as f64 + residual.map_or(0.0, |r| r[at] as f64)) as f32];
                if let Some(f) = activation {
                    map_in_place(f, &mut expected);
                }
                assert!(
                    (y - expected[0]).abs() <= 1e-4 * (1.0 + expected[0].abs()),
                    "{conv:?} {:?} at {at}: {y} {}",
                    pool.isa(),
                    expected[0]
                );
            }
        }
    }
}

fn check_transposed(t: &ConvTranspose) {
    let conv = &t.conv;
    let w_len = conv.in_channels * conv.out_per_group() * conv.taps();
    let (x, w) = (values(conv.batch * conv.in_channels * conv.input_pixels(), 1), values(w_len, 2));
    let bias = values(conv.out_channels, 3);
    let mut packed = vec![0f32; t.packed_elems()];
    t.pack(&w, &mut packed);
    let sums = naive_transposed(t, conv, &x, &w);
    for pool in pools() {
        let epilogue = ConvEpilogue { bias: Some(&bias), ..Default::default() };
        let mut y = vec![f32::NAN; t.output_elems()];
        let mut scratch = vec![f32::NAN; t.scratch_elems(&pool)];
        t.run(&pool, &x, &packed, &epilogue, &mut y, &mut scratch);
        for (at, (&y, &sum)) in y.iter().zip(&sums).enumerate() {
            let expected = sum + bias[at / conv.pixels() % conv.out_channels] as f64;
            assert!((y as f64 - expected).abs() <= 1e-4 * (1.0 + expected.abs()), "{conv:?} at {at}: {y} {expected}");
        }
    }
}

#[derive(Clone, Debug)]
struct Axis {
    input: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    before: usize,
    after: usize,
}

fn axis() -> impl Strategy<Value = Axis> {
    (0usize..20, 1usize..5, 1usize..4, 1usize..3, 0usize..3, 0usize..3).prop_map(
        |(input, kernel, stride, dilation, before, after)| Axis { input, kernel, stride, dilation, before, after },
    )
}

fn builder(axes: &[Axis], batch: usize, groups: usize, icg: usize, ocg: usize) -> ConvBuilder {
    let list = |f: fn(&Axis) -> usize| -> Vec<usize> { axes.iter().map(f).collect() };
    Conv::new(batch, groups, [groups * icg, groups * ocg], &list(|a| a.input), &list(|a| a.kernel))
        .strides(&list(|a| a.stride))
        .dilations(&list(|a| a.dilation))
        .pads(&list(|a| a.before), &list(|a| a.after))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_geometry_agrees_with_the_naive_loop(
        axes in prop::collection::vec(axis(), 1..4), batch in 0usize..3, groups in 1usize..4, icg in 0usize..4, ocg in 1usize..20,
    ) {
        let axes = if axes.len() == 3 { axes.into_iter().map(|a| Axis { input: a.input % 7, ..a }).collect() } else { axes };
        check(&builder(&axes, batch, groups, icg, ocg).build().unwrap(), Some(UnaryFn::Relu));
    }

    #[test]
    fn any_depthwise_geometry_agrees(axes in prop::collection::vec(axis(), 2..3), kernel in 1usize..8, channels in 2usize..5, filters in 1usize..3) {
        let axes: Vec<Axis> = axes.into_iter().map(|a| Axis { kernel, ..a }).collect();
        check(&builder(&axes, 2, channels, 1, filters).build().unwrap(), Some(UnaryFn::Silu));
    }

    #[test]
    fn any_transposed_geometry_agrees(
        axes in prop::collection::vec(axis(), 1..4), groups in 1usize..3, icg in 1usize..5, ocg in 1usize..6, padding in 0usize..2,
    ) {
        let axes: Vec<Axis> = axes.into_iter().map(|a| Axis { input: a.input % 7, ..a }).collect();
        check_transposed(&builder(&axes, 2, groups, icg, ocg).build_transposed(&vec![padding; axes.len()]).unwrap());
    }
}

#[test]
fn large_inputs_are_cut_into_tiles_and_blocks() {
    let square = |side: usize, kernel: usize, stride: usize, pad: usize| {
        [
            Axis { input: side, kernel, stride, dilation: 1, before: pad, after: pad },
            Axis { input: side, kernel, stride, dilation: 1, before: pad, after: pad },
        ]
    };
    check(&builder(&square(28, 1, 1, 0), 1, 1, 40, 70).build().unwrap(), None);
    check(&builder(&square(25, 3, 1, 1), 1, 1, 64, 33).build().unwrap(), Some(UnaryFn::HardSwish));
    check(&builder(&square(7, 3, 1, 1), 2, 1, 120, 48).build().unwrap(), Some(UnaryFn::Clip { min: 0.0, max: 6.0 }));
    check(&builder(&square(50, 7, 2, 3), 1, 1, 3, 16).build().unwrap(), Some(UnaryFn::LeakyRelu { alpha: 0.1 }));
}

#[test]
fn wrong_geometries_are_refused() {
    assert_eq!(Conv::new(1, 1, [1, 1], &[1; 4], &[1; 4]).build(), Err(ConvError::Rank(4)));
    assert_eq!(Conv::new(1, 2, [4, 3], &[1], &[1]).build(), Err(ConvError::Groups { channels: 3, groups: 2 }));
    assert_eq!(Conv::new(1, 1, [1, 1], &[1], &[1]).strides(&[0]).build(), Err(ConvError::Zero("a stride")));
    assert_eq!(Conv::new(1, 1, [1, 1], &[1, 1], &[1, 0]).build(), Err(ConvError::Zero("a kernel")));
    assert!(matches!(Conv::new(1, 1, [1, 1], &[1, 1], &[1]).build(), Err(ConvError::Length { name: "kernel", .. })));
}
