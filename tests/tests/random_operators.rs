//! Operators that draw random numbers, by shape, element type and distribution. Their models are written by
//! `cases/make_cases.py`.

use fastinference::{CompileOptions, DType, Datum, Model, Tensor};
use std::path::Path;

/// The only result of a model, which is the same in a second session.
fn draw(name: &str, inputs: &[Datum]) -> Tensor {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases").join(name).join("model.onnx");
    let model = Model::open(&path, &CompileOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let run = || model.session(1).run(inputs).unwrap_or_else(|e| panic!("{name}: {e}"))[0].clone();
    let first = run();
    assert_eq!(first, run(), "{name}: two sessions draw different numbers");
    first.as_tensor().expect("a tensor").clone()
}

/// Mean, standard deviation, least and largest.
fn moments(t: &Tensor) -> [f64; 4] {
    let v = t.to_f64().unwrap();
    let n = v.len() as f64;
    let mean = v.iter().sum::<f64>() / n;
    let deviation = (v.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n).sqrt();
    let (least, largest) = v.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(*x), b.max(*x)));
    [mean, deviation, least, largest]
}

/// 10,000 numbers: the mean is within 5 standard errors.
fn near(found: f64, expected: f64, deviation: f64) -> bool {
    (found - expected).abs() < 5.0 * deviation / 100.0
}

#[test]
fn normal_numbers_have_the_mean_and_deviation_asked_for() {
    for (name, dtype) in [
        ("random_normal_float32", DType::F32),
        ("random_normal_float64", DType::F64),
        ("random_normal_float16", DType::F16),
        ("random_normal_like", DType::F32),
        ("random_normal_like_int64_float64", DType::F64),
    ] {
        let x: Datum = match name {
            "random_normal_like" => Tensor::zeros(DType::F32, &[200, 50]),
            _ => Tensor::zeros(DType::I64, &[200, 50]),
        }
        .unwrap()
        .into();
        let y = draw(name, if name.contains("like") { std::slice::from_ref(&x) } else { &[] });
        assert_eq!((y.dtype(), y.dims()), (dtype, &[200, 50][..]), "{name}");
        let [mean, deviation, least, largest] = moments(&y);
        assert!(near(mean, 2.0, 3.0) && near(deviation, 3.0, 3.0), "{name}: mean {mean}, deviation {deviation}");
        assert!(least < -5.5 && largest > 9.5, "{name}: from {least} to {largest}");
    }
}

#[test]
fn uniform_numbers_fill_the_range_asked_for() {
    for (name, dtype) in [
        ("random_uniform_float32", DType::F32),
        ("random_uniform_float64", DType::F64),
        ("random_uniform_like", DType::F32),
    ] {
        let x: Datum = Tensor::zeros(DType::F32, &[200, 50]).unwrap().into();
        let y = draw(name, if name.contains("like") { std::slice::from_ref(&x) } else { &[] });
        assert_eq!((y.dtype(), y.dims()), (dtype, &[200, 50][..]), "{name}");
        let [mean, deviation, least, largest] = moments(&y);
        let expected = 5.0 / 12f64.sqrt();
        assert!(near(mean, 1.5, expected) && near(deviation, expected, 1.0), "{name}: {mean}, {deviation}");
        assert!((-1.0..-0.98).contains(&least) && (3.98..=4.0).contains(&largest), "{name}: {least} to {largest}");
    }
}

#[test]
fn nodes_without_a_seed_draw_different_numbers() {
    assert_ne!(draw("random_normal_float32", &[]), draw("random_normal_other_name", &[]));
}

#[test]
fn multinomial_draws_by_the_exponentials_of_its_operand() {
    let odds = [0.5f32, 0.25, 0.125, 0.125];
    let logarithms: Vec<f32> = odds.iter().map(|p| p.ln() + 3.0).chain([0.0, f32::NEG_INFINITY, 0.0, 0.0]).collect();
    let x = Tensor::from_slice(&[2, 4], &logarithms).unwrap();
    for (name, dtype) in [("random_multinomial_int32", DType::I32), ("random_multinomial_int64", DType::I64)] {
        let y = draw(name, &[x.clone().into()]);
        assert_eq!((y.dtype(), y.dims()), (dtype, &[2, 10000][..]), "{name}");
        let drawn = y.to_i64().unwrap();
        let share =
            |row: usize, k: i64| drawn[row * 10000..][..10000].iter().filter(|d| **d == k).count() as f64 / 10000.0;
        for (k, p) in odds.iter().enumerate() {
            let found = share(0, k as i64);
            assert!((found - f64::from(*p)).abs() < 0.025, "{name}: column {k} has {found} of the draws");
        }
        assert_eq!(share(1, 1), 0.0, "{name}: an impossible column was drawn");
        assert!((share(1, 0) - 1.0 / 3.0).abs() < 0.025, "{name}: {}", share(1, 0));
    }
}
