//! Tests of block masks: the facts about the authors' sampling, exactly, and its corrected form.

use super::*;
use crate::data::dataset::Content;
use crate::data::view::{Grid, ViewPlan, ViewRequest};
use crate::data::{Batch, Loader, LoaderOptions, OpenOptions, open, rehearse};

fn request() -> ViewRequest {
    ViewRequest::new("blocks", "block-mask", 1, 4)
}

/// Every repair of the authors' sampling.
fn corrected() -> ViewRequest {
    request().with("shared_draw", 0.0).with("touch_edges", 1.0).with_text("cut", "random")
}

/// A picture of `side` x `side` patches of 2 pixels, with its masks.
fn plan(request: ViewRequest, side: usize) -> ViewPlan {
    let image = ViewRequest::new("image", "crop", 1, 1).with("size", 2.0 * side as f64);
    let grid = Grid::new(|shape| Ok(vec![shape[1] / 2, shape[2] / 2]));
    ViewPlan { views: vec![image, request], grid }
}

fn drawn(request: ViewRequest, side: usize, samples: usize, seed: u64) -> Batch {
    rehearse(&plan(request, side), Content::Images, samples, seed).unwrap()
}

/// Rows of a field of every copy.
fn rows(batch: &Batch, field: &str) -> Vec<Vec<Vec<usize>>> {
    let copies = batch.named("blocks").map(|view| {
        let field = view.field(field).unwrap();
        let width = field.shape[1];
        assert_eq!(field.values.len(), field.shape[0] * width);
        let rows = field.values.u32().chunks(width);
        rows.map(|row| row.iter().map(|patch| *patch as usize).collect()).collect()
    });
    copies.collect()
}

#[test]
fn a_context_starts_as_13_x_13_or_15_x_15_at_the_top_left_and_no_block_touches_the_last_row_or_column()
 {
    for (side, largest) in [(14, 13), (16, 15)] {
        for seed in 0..100 {
            let batch = drawn(request(), side, 8, seed);
            let (contexts, targets) = (rows(&batch, "context"), rows(&batch, "target"));
            assert!(contexts.iter().all(|copy| *copy == contexts[0]));
            for (place, context) in contexts[0].iter().enumerate() {
                let hidden: Vec<usize> = targets.iter().flat_map(|t| t[place].clone()).collect();
                let inside = |patch: &usize| patch / side < largest && patch % side < largest;
                assert!(context.iter().chain(&hidden).all(inside));
                assert!(context.iter().all(|patch| !hidden.contains(patch)));
                // Before its cut it was all of the block outside of the targets, in raster order.
                let all = (0..side * side).filter(inside).filter(|patch| !hidden.contains(patch));
                let uncut: Vec<usize> = all.take(context.len()).collect();
                assert_eq!(*context, uncut);
            }
        }
    }
}

/// Rows and columns of a whole block on a grid of 14 x 14.
fn size_of(block: &[usize]) -> Size {
    let (first, last) = (block[0], block[block.len() - 1]);
    [last / 14 - first / 14 + 1, last % 14 - first % 14 + 1]
}

#[test]
fn sizes_are_drawn_once_per_batch_and_one_draw_gives_scale_and_ratio() {
    let mask = BlockMask::new(&Settings::new(&request())).unwrap();
    let sizes = |draw: f64| mask.size([14, 14], mask.target, [draw, draw]);
    // int(196 0.15) = 29 patches at 3/4; int(196 0.2) = 39 at 3/2.
    assert_eq!((sizes(0.0), sizes(1.0)), ([5, 6], [8, 5]));
    assert_eq!(mask.size([14, 14], mask.context, [0.0, 0.0]), [13, 13]);
    assert_eq!(mask.size([16, 16], mask.context, [1.0, 1.0]), [15, 15]);
    for seed in 0..50 {
        let batch = drawn(request(), 14, 6, seed);
        let blocks: Vec<Vec<usize>> = rows(&batch, "target").concat();
        let first = size_of(&blocks[0]);
        assert!(
            blocks
                .iter()
                .all(|block| size_of(block) == first && block.len() == first[0] * first[1])
        );
        // With one draw, tall blocks are large ones: five sizes can come up.
        let known = (0..=1000).any(|draw| sizes(f64::from(draw) / 1000.0) == first);
        assert!(known, "{first:?}");
    }
}

#[test]
fn corrected_masks_reach_the_last_row_and_column_and_lose_no_rows_to_the_cut() {
    let mut times = [0_u32; 14 * 14];
    let mut sizes = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let batch = drawn(corrected(), 14, 4, seed);
        for block in rows(&batch, "target").concat() {
            sizes.insert(size_of(&block));
        }
        for context in &rows(&batch, "context")[0] {
            assert!(context.windows(2).all(|pair| pair[0] < pair[1]));
            context.iter().for_each(|patch| times[*patch] += 1);
        }
    }
    let row = |row: usize| times[14 * row..][..14].iter().sum::<u32>();
    assert!(row(13) > 0 && times[13 * 14 + 13] > 0);
    assert!(row(0).abs_diff(row(13)) < row(0) / 10, "{} {}", row(0), row(13));
    // Separate draws give sizes that the authors' one draw for both can't.
    let mask = BlockMask::new(&Settings::new(&request())).unwrap();
    let shared = |draw: u32| mask.size([14, 14], mask.target, [f64::from(draw) / 1000.0; 2]);
    let official: std::collections::BTreeSet<Size> = (0..=1000).map(shared).collect();
    assert!(official.len() == 5 && sizes.len() > 5, "{sizes:?}");
}

#[test]
fn a_context_that_finds_too_little_room_overlaps_the_last_targets_first() {
    // Four targets that nearly cover a grid whose context is one block in the middle.
    let crowded = request()
        .with("target_scale_min", 0.8)
        .with("target_scale_max", 0.8)
        .with("target_ratio_min", 1.0)
        .with("target_ratio_max", 1.0)
        .with("context_scale_min", 0.1)
        .with("context_scale_max", 0.1);
    let mask = BlockMask::new(&Settings::new(&crowded)).unwrap();
    let mut stream = Stream::new(0, "crowded", 0, 0);
    let target = |at: Size| Block { at, size: [13, 13] };
    let targets = [target([1, 1]), target([0, 0])];
    // Outside of both only corners are left, so the second has to be overlapped, then the first.
    let context = mask.draw_context([14, 14], [4, 4], &targets, &mut stream);
    assert!(context.len() > 10, "{context:?}");
    let apart = BlockMask { min_keep: 0, ..mask };
    let context = apart.draw_context([14, 14], [4, 4], &targets[..1], &mut stream);
    assert!(context.iter().all(|patch| *patch < 14 || *patch % 14 == 0), "{context:?}");
}

#[test]
fn masks_are_the_same_with_one_worker_and_with_four() {
    let all = |workers: usize, start: u64| {
        let data = open("shapes", &OpenOptions { limit: Some(24), ..Default::default() }).unwrap();
        let options =
            LoaderOptions { batch: 6, workers, start, end: Some(9), seed: 2, ..Default::default() };
        let mut loader = Loader::new(data, &plan(request(), 14), options).unwrap();
        let mut all = Vec::new();
        while let Some(batch) = loader.next_batch().unwrap() {
            all.push((rows(&batch, "target"), rows(&batch, "context")));
        }
        all
    };
    let one = all(1, 0);
    assert_eq!(one.len(), 9);
    assert_eq!(one, all(4, 0));
    assert_eq!(one[3..], all(2, 3), "and after resume");
    assert_ne!(one[0], one[4], "an epoch later they differ");
}

#[test]
fn grids_that_can_not_hold_the_blocks_are_refused_with_what_would_fit() {
    let refused =
        |request, side| rehearse(&plan(request, side), Content::Images, 2, 0).unwrap_err();
    let error = refused(request(), 8);
    assert!(error.to_string().contains("on a grid of 8 x 8 patches a block can have 9"), "{error}");
    assert_eq!(error.hint_text(), Some("set `min_keep=8`, or cut the image into more patches"));
    assert!(rehearse(&plan(request().with("min_keep", 8.0), 8), Content::Images, 2, 0).is_ok());
    assert!(refused(request(), 1).to_string().contains("1 x 1"));
    let error = refused(request().with_text("of", "blocks"), 14);
    assert_eq!(error.message(), "the view `blocks` masks `blocks`, which there is not");
    assert_eq!(error.hint_text(), Some("set its `of` to one of `image`"));
    let error = refused(request().with_text("cut", "bottom"), 14);
    assert_eq!(error.hint_text(), Some("give one of `raster`, `random`"));
}
