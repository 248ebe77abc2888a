//! Packed products against plain ones in f64.

use super::pack::round;
use super::tile::Segment;
use super::*;
use crate::random::Stream;

fn numbers(name: &str, n: usize) -> Vec<f32> {
    let mut stream = Stream::new(5, name, 0, 0);
    (0..n).map(|_| stream.normal() as f32).collect()
}

fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
}

/// The product of the operands, rounded as the format has it, in f64.
fn expected(format: Format, a: &[f32], b: &[f32], (k, n): (usize, usize)) -> Vec<f64> {
    let value = |x: f32| match format {
        Format::F32 => f64::from(x),
        Format::Rounded | Format::Bf16 => f64::from(f32::from_bits(round(x) << 16)),
    };
    let rows = a.len() / k;
    (0..rows * n)
        .map(|i| (0..k).map(|p| value(a[i / n * k + p]) * value(b[p * n + i % n])).sum())
        .collect()
}

fn assert_near(got: &[f32], expected: &[f64], k: usize) {
    assert_eq!(got.len(), expected.len(), "lengths");
    for (got, expected) in got.iter().zip(expected) {
        let tolerance = 2e-6 * (k as f64).sqrt() * (1.0 + expected.abs());
        assert!((f64::from(*got) - expected).abs() < tolerance, "{got} {expected}");
    }
}

const FORMATS: [Format; 3] = [Format::F32, Format::Rounded, Format::Bf16];

const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (12, 2, 32), (13, 3, 33), (97, 65, 40), (5, 400, 70), (200, 7, 31), (30, 1001, 3)];

/// The product on machines without AVX-512.
fn by_tiles(left: &Left<'_>, right: &Panels<'_>, c: &mut [f32], accumulate: bool) {
    // SAFETY: nothing but numbers is written.
    let c = unsafe { threads::room(c) };
    match left.format {
        // SAFETY: `c` holds numbers.
        Format::Bf16 => unsafe { portable::block(left, 0, right, c, accumulate) },
        // SAFETY: as above.
        _ => unsafe { tile::block(left, 0, right, c, accumulate) },
    }
}

#[test]
fn a_product_without_a_summed_dimension_is_zero_whatever_its_room_held() {
    for format in FORMATS {
        let left = Left::from_rows(format, &[], 13, 0);
        let right = Panels::from_rows(format, &[], 0, 33);
        let mut room = vec![MaybeUninit::new(f32::NAN); 13 * 33];
        assert_eq!(multiply_into(&left, 0, &right, &mut room), [0.0; 13 * 33]);
        let mut c = [f32::NAN; 13 * 33];
        by_tiles(&left, &right, &mut c, false);
        assert_eq!(c, [0.0; 13 * 33]);
    }
}

#[test]
fn every_layout_and_format_gives_the_product() {
    for (rows, k, n) in SHAPES {
        let (a, b) = (numbers("a", rows * k), numbers("b", k * n));
        let (at, bt) = (transpose(&a, rows, k), transpose(&b, k, n));
        for format in FORMATS {
            let expected = expected(format, &a, &b, (k, n));
            let lefts =
                [Left::from_rows(format, &a, rows, k), Left::from_columns(format, &at, k, rows)];
            let rights =
                [Panels::from_rows(format, &b, k, n), Panels::from_columns(format, &bt, n, k)];
            for (left, right) in lefts.iter().flat_map(|l| rights.iter().map(move |r| (l, r))) {
                let mut c = vec![f32::NAN; rows * n];
                matmul(left, right, &mut c, false);
                assert_near(&c, &expected, k);
                let mut c = vec![f32::NAN; rows * n];
                by_tiles(left, right, &mut c, false);
                assert_near(&c, &expected, k);
            }
        }
    }
}

#[test]
fn every_kernel_can_add_to_what_is_there() {
    for (rows, k, n) in SHAPES {
        for format in FORMATS {
            let (a, b) = (numbers("a", rows * k), numbers("b", k * n));
            let left = Left::from_rows(format, &a, rows, k);
            let right = Panels::from_rows(format, &b, k, n);
            let sums = expected(format, &a, &b, (k, n));
            let sums: Vec<f64> = sums.iter().map(|x| x + 1.0).collect();
            let mut c = vec![1.0; rows * n];
            matmul(&left, &right, &mut c, true);
            assert_near(&c, &sums, k);
            let mut c = vec![1.0; rows * n];
            by_tiles(&left, &right, &mut c, true);
            assert_near(&c, &sums, k);
        }
    }
}

#[test]
fn tiles_of_every_edge_size_sum_their_segments_by_any_instructions() {
    let (left, right) = (numbers("a", 200), numbers("b", 900));
    // One segment goes back in the right operand, one is empty.
    let segments = [(0, 8, 5), (30, 1, 0), (7, 0, 9)];
    let segments = segments.map(|(left, right, len)| Segment { left, right: right * 40, len });
    let operands = tile::Operands::new((&left, 3), (&right, 40), &segments);
    let column = 20;
    let sum = |from: usize, j: usize| -> f64 {
        let steps = segments.iter().flat_map(|s| (0..s.len).map(move |p| (s, p)));
        let right = |s: &Segment, p: usize| right[s.right + 40 * p + column + j];
        steps.map(|(s, p)| f64::from(left[from + s.left + 3 * p]) * f64::from(right(s, p))).sum()
    };
    for rows in 0..=2 * tile::ROWS + 1 {
        for columns in [1, 15, tile::COLUMNS] {
            for adds in [false, true] {
                let places: Vec<_> = (0..rows).map(|r| [r * 12, r * 17 + 2]).collect();
                let (mut made, mut plain) = (vec![1.0; 240], vec![1.0; 240]);
                let mut expected = vec![1.0; 240];
                for ([from, to], j) in places.iter().flat_map(|p| (0..columns).map(move |j| (p, j)))
                {
                    expected[to + j] = f64::from(u8::from(adds)) + sum(*from, j);
                }
                let mut target = tile::Target::numbers(&mut made, columns, adds);
                operands.make(&tile::Places::new(&places), column, &mut target);
                let mut target = tile::Target::numbers(&mut plain, columns, adds);
                operands.make_plain(&places, column, &mut target);
                assert_near(&made, &expected, 14);
                assert_near(&plain, &expected, 14);
            }
        }
    }
}

/// A tile of one row and `len` steps between slices of these sizes.
fn make_tile(left: usize, right: usize, len: usize, (to, c): (usize, usize)) {
    let segments = [Segment { left: 0, right: 0, len }];
    let (left, right, mut c) = (vec![1.0; left], vec![1.0; right], vec![0.0; c]);
    let operands = tile::Operands::new((&left, 1), (&right, 16), &segments);
    let rows = [[0, to]];
    operands.make(&tile::Places::new(&rows), 0, &mut tile::Target::numbers(&mut c, 16, false));
}

#[test]
fn a_tile_may_end_with_its_slices_and_without_steps_reads_none() {
    make_tile(3, 48, 3, (4, 20));
    make_tile(0, 0, 0, (0, 16));
}

#[test]
#[should_panic(expected = "its columns")]
fn a_tile_whose_columns_end_outside_is_refused() {
    make_tile(3, 47, 3, (0, 16));
}

#[test]
#[should_panic(expected = "its rows")]
fn a_tile_whose_rows_end_outside_is_refused() {
    make_tile(2, 48, 3, (0, 16));
}

#[test]
#[should_panic(expected = "its results")]
fn a_tile_whose_results_end_outside_is_refused() {
    make_tile(3, 48, 3, (5, 20));
}

/// A tile of two rows with one step.
fn make_rows(places: [tile::Place; 2], c: usize) -> Vec<f32> {
    let segments = [Segment { left: 0, right: 0, len: 1 }];
    let (left, right, mut c) = ([1.0, 2.0, 3.0], [1.0; 16], vec![0.0; c]);
    let operands = tile::Operands::new((&left, 1), (&right, 16), &segments);
    operands.make(&tile::Places::new(&places), 0, &mut tile::Target::numbers(&mut c, 16, false));
    c
}

#[test]
fn rows_of_a_tile_may_lie_in_any_order() {
    assert_eq!(make_rows([[2, 16], [0, 0]], 32), [[1.0; 16], [3.0; 16]].concat());
}

#[test]
#[should_panic(expected = "its rows")]
fn a_first_row_that_ends_outside_is_refused() {
    make_rows([[3, 0], [0, 16]], 32);
}

#[test]
#[should_panic(expected = "its results")]
fn a_first_row_whose_results_end_outside_is_refused() {
    make_rows([[0, 17], [2, 0]], 32);
}

#[test]
fn finish_sees_every_row_once_after_it_is_done() {
    let (rows, k, n) = (200, 4, 5);
    let (a, b) = (numbers("a", rows * k), numbers("b", k * n));
    for format in FORMATS {
        let right = Panels::from_rows(format, &b, k, n);
        let c = rows_by_panels((&Plain { x: &a, width: k }, rows), &right, |first, piece| {
            for (i, row) in piece.chunks_mut(n).enumerate() {
                row.iter_mut().for_each(|x| *x += (first + i) as f32);
            }
        });
        let sums = expected(format, &a, &b, (k, n));
        let sums: Vec<f64> = sums.iter().enumerate().map(|(i, x)| x + (i / n) as f64).collect();
        assert_near(&c, &sums, k);
    }
}

#[test]
fn a_transposed_product_sums_over_every_row_in_groups_or_at_once() {
    let shapes = [(1, 1, 1), (5, 3, 2), (193, 33, 40), (1000, 200, 33), (3001, 13, 500)];
    for (k, m, n) in shapes {
        let (a, b) = (numbers("a", k * m), numbers("b", k * n));
        let across = transpose(&a, k, m);
        for format in FORMATS {
            let sums = expected(format, &across, &b, (k, n));
            let shape = transposed::Shape { k, m, n };
            let (product, columns) =
                transposed::product_and_sums(format, &a, &Plain { x: &b, width: n }, shape);
            assert_near(&product, &sums, k);
            let sums: Vec<f64> =
                across.chunks(k).map(|row| row.iter().map(|x| f64::from(*x)).sum()).collect();
            assert_near(&columns, &sums, k);
            let (a, b) = (words(format, &a, m), words(format, &b, n));
            assert_eq!(transposed::product(format, &a, &b, shape), product);
        }
    }
}

/// Rows of `width` numbers as words.
fn words(format: Format, x: &[f32], width: usize) -> rows::Words {
    let height = format.words(width);
    let mut words = vec![0; x.len() / width * height];
    for (words, row) in words.chunks_mut(height).zip(x.chunks(width)) {
        pack::write_row(format, words, row);
    }
    rows::Words { format, words, width }
}

#[test]
fn rows_come_back_from_their_words_as_they_were_rounded() {
    for (format, width) in
        [(Format::F32, 5), (Format::Rounded, 19), (Format::Bf16, 1), (Format::Bf16, 37)]
    {
        let x = numbers("a", 3 * width);
        let mut read = vec![f32::NAN; 2 * width];
        words(format, &x, width).write(1, &mut read);
        let rounded = |x: &f32| match format {
            Format::F32 => *x,
            Format::Rounded | Format::Bf16 => f32::from_bits(round(*x) << 16),
        };
        assert_eq!(read, x[width..].iter().map(rounded).collect::<Vec<_>>());
    }
}

#[test]
fn rounding_goes_to_nearest_even_and_keeps_nan() {
    assert_eq!(round(1.0), 0x3F80);
    assert_eq!(round(f32::from_bits(0x3F80_8000)), 0x3F80);
    assert_eq!(round(f32::from_bits(0x3F81_8000)), 0x3F82);
    assert_eq!(round(f32::INFINITY), 0x7F80);
    assert!(f32::from_bits(round(f32::NAN) << 16).is_nan());
}
