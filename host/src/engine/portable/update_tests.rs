//! Updates of many tensors at once, wherever they run, against the CPU's kernels.

use candle_core::{DType, Device, Tensor};

use super::tests::{Place, places};
use super::update::{Adam, Allowed, Momentum, adamw, average, gate, sgd, squares};
use crate::engine::kernel::optimizer as own;
use crate::engine::{Precision, storage};
use crate::random::Stream;

/// More tensors than one launch takes, one of them of more than one block.
fn sizes() -> Vec<usize> {
    (0..40).map(|i| if i == 38 { 4100 } else { 1 + i }).collect()
}

/// A tensor of each size where `place` is, from a stream.
fn lists(place: &Place, stream: &mut Stream) -> Vec<Tensor> {
    let list = |n: &usize| {
        let numbers: Vec<f32> = (0..*n).map(|_| stream.normal() as f32).collect();
        Tensor::from_vec(numbers, *n, &Device::Cpu).unwrap().to_device(&place.device).unwrap()
    };
    sizes().iter().map(list).collect()
}

fn numbers(x: &Tensor) -> Vec<f32> {
    storage::to_f32(x).unwrap()
}

fn assert_near(place: &Place, now: &[f32], want: &[f32], tolerance: f32) {
    let far = |(a, b): (&f32, &f32)| (a - b).abs() / b.abs().max(1.0);
    // A difference that is not a number is the largest.
    let most = |most: f32, x: f32| if x.is_nan() { f32::INFINITY } else { x.max(most) };
    let far = now.iter().zip(want).map(far).fold(0.0, most);
    assert!(now.len() == want.len() && far <= tolerance, "{}: {far}", place.name);
}

/// A gate that is open, and one that NaN has shut.
fn gates(place: &Place) -> [Tensor; 2] {
    [1.0_f32, f32::NAN].map(|x| gate(&Tensor::full(x, 1, &place.device).unwrap()).unwrap())
}

#[test]
fn squares_are_summed_by_tensor() {
    for place in places() {
        place.run(Precision::F32, |_| {
            let lists = lists(&place, &mut Stream::new(13, "squares", 0, 0));
            let sums = squares(&lists.iter().collect::<Vec<_>>()).unwrap();
            for (sum, list) in storage::to_f64(&sums).unwrap().iter().zip(&lists) {
                assert!((sum / own::squared_norm(&numbers(list)) - 1.0).abs() < 1e-5);
            }
        });
    }
}

#[test]
fn adamw_steps_as_on_the_cpu_and_a_shut_gate_keeps_everything() {
    let constants = own::AdamW::new(0.1, 0.2, (0.9, 0.99), 1e-8, 3);
    for place in places() {
        place.run(Precision::F32, |_| {
            let stream = &mut Stream::new(13, "adamw", 0, 0);
            let [p, g, m] = [(); 3].map(|()| lists(&place, stream));
            let v: Vec<Tensor> = lists(&place, stream).iter().map(|v| v.sqr().unwrap()).collect();
            let factors = Tensor::full(0.5_f32, p.len(), &place.device).unwrap();
            let before: Vec<_> = (0..p.len()).map(|i| [&p[i], &m[i], &v[i]].map(numbers)).collect();
            let step = |i: usize| {
                let moments = [&m[i], &v[i]];
                Adam { value: &p[i], gradient: &g[i], moments, constants }
            };
            let steps: Vec<_> = (0..p.len()).map(step).collect();
            let [open, shut] = gates(&place);
            adamw(&steps, Allowed { factors: &factors, gate: &shut }).unwrap();
            for (i, before) in before.iter().enumerate() {
                assert_eq!(&[&p[i], &m[i], &v[i]].map(numbers), before, "{}", place.name);
            }
            adamw(&steps, Allowed { factors: &factors, gate: &open }).unwrap();
            for (i, [mut values, mut first, mut second]) in before.into_iter().enumerate() {
                let moments =
                    own::Moments { values: &mut values, first: &mut first, second: &mut second };
                own::adamw(moments, &numbers(&g[i]), 0.5, constants);
                // The products are rounded one by one there, fused here.
                assert_near(&place, &numbers(&p[i]), &values, 2e-6);
                assert_near(&place, &numbers(&m[i]), &first, 1e-6);
                assert_near(&place, &numbers(&v[i]), &second, 1e-6);
            }
        });
    }
}

#[test]
fn sgd_steps_as_on_the_cpu() {
    let constants = own::Sgd { lr: 0.1, decay: 0.2, momentum: 0.9, gradient_scale: 1.0 };
    for place in places() {
        place.run(Precision::F32, |_| {
            let stream = &mut Stream::new(13, "sgd", 0, 0);
            let [p, g, m] = [(); 3].map(|()| lists(&place, stream));
            let factors = Tensor::full(0.5_f32, p.len(), &place.device).unwrap();
            let before: Vec<_> = (0..p.len()).map(|i| [&p[i], &m[i]].map(numbers)).collect();
            let step =
                |i: usize| Momentum { value: &p[i], gradient: &g[i], velocity: &m[i], constants };
            let [open, _] = gates(&place);
            let steps: Vec<_> = (0..p.len()).map(step).collect();
            sgd(&steps, None, Allowed { factors: &factors, gate: &open }).unwrap();
            for (i, [mut values, mut velocity]) in before.into_iter().enumerate() {
                let halves: Vec<f32> = numbers(&g[i]).iter().map(|g| 0.5 * g).collect();
                own::sgd(&mut values, &mut velocity, &halves, constants);
                assert_near(&place, &numbers(&p[i]), &values, 2e-6);
            }
        });
    }
}

#[test]
fn a_teacher_follows_unless_the_gate_is_shut() {
    for place in places() {
        place.run(Precision::F32, |_| {
            let stream = &mut Stream::new(13, "average", 0, 0);
            let [teachers, students] = [(); 2].map(|()| lists(&place, stream));
            let pairs: Vec<_> = teachers.iter().zip(&students).collect();
            let before: Vec<_> = teachers.iter().map(numbers).collect();
            let [_, shut] = gates(&place);
            average(&pairs, 0.75, Some(&shut)).unwrap();
            assert_eq!(teachers.iter().map(numbers).collect::<Vec<_>>(), before);
            average(&pairs, 0.75, None).unwrap();
            for ((teacher, student), before) in pairs.iter().zip(&before) {
                let both = before.iter().zip(numbers(student));
                let want: Vec<f32> = both.map(|(t, s)| 0.75 * t + 0.25 * s).collect();
                assert_near(&place, &numbers(teacher), &want, 1e-6);
            }
        });
    }
}

#[test]
fn a_gate_is_shut_by_what_is_not_finite_alone() {
    let device = Device::Cpu;
    for (x, open) in [(0.0_f32, 1), (-3e38, 1), (f32::INFINITY, 0), (f32::NAN, 0)] {
        let gate = gate(&Tensor::full(x, 1, &device).unwrap()).unwrap();
        assert_eq!((gate.dtype(), gate.to_vec1::<u8>().unwrap()), (DType::U8, vec![open]));
    }
}
