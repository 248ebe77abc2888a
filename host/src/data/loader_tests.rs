//! Tests of the loader.

use super::*;
use crate::data::{Content, OpenOptions, Sample, Split, ViewRequest, open};

fn plan() -> ViewPlan {
    let global = ViewRequest::new("global", "crop", 1, 2)
        .with("size", 16.0)
        .with("jitter", 0.8)
        .with("brightness", 0.4)
        .with("hue", 0.1)
        .with("blur", 0.5);
    let local = ViewRequest::new("local", "crop", 1, 1).with("size", 8.0).with("scale_max", 0.4);
    ViewPlan::of(vec![global, local, ViewRequest::new("index", "sample-index", 1, 1)])
}

fn options(workers: usize) -> LoaderOptions {
    LoaderOptions { batch: 8, seed: 3, workers, end: Some(9), ..Default::default() }
}

fn shapes(limit: usize) -> Arc<dyn Dataset> {
    open("shapes", &OpenOptions { limit: Some(limit), ..Default::default() }).unwrap()
}

/// Everything that a loader delivers, as plain values.
fn all(dataset: Arc<dyn Dataset>, options: LoaderOptions) -> Vec<(u64, Vec<usize>, Vec<f32>)> {
    let mut loader = Loader::new(dataset, &plan(), options).unwrap();
    let mut all = Vec::new();
    while let Some(batch) = loader.next_batch().unwrap() {
        let fields = batch.views.iter().flat_map(|view| &view.fields);
        let values = fields.flat_map(|field| field.values.f32().to_vec()).collect();
        all.push((batch.step, batch.indices.clone(), values));
    }
    all
}

/// Vectors of one element, some of which are broken or panic.
#[derive(Debug)]
struct Faulty {
    broken: Vec<usize>,
    panics: Option<usize>,
}

impl Faulty {
    fn panic_at(&self, index: usize) {
        assert_ne!(Some(index), self.panics, "a planned panic");
    }
}

impl Dataset for Faulty {
    fn len(&self) -> usize {
        1000
    }

    fn content(&self) -> Content {
        Content::Vectors { dim: 1 }
    }

    fn read(&self, index: usize, sample: &mut Sample) -> Result<()> {
        self.panic_at(index);
        if self.broken.contains(&index) {
            return Err(Error::failed("cut short"));
        }
        *sample.vector_mut() = vec![index as f32];
        Ok(())
    }

    fn label(&self, index: usize) -> Option<u32> {
        Some(index as u32 % 2)
    }

    fn class_names(&self) -> &[String] {
        &[]
    }

    fn name(&self, index: usize) -> String {
        format!("sample-{index}")
    }

    fn split(&self) -> Split {
        Split::Train
    }

    fn describe(&self) -> String {
        "faulty".to_owned()
    }
}

fn faulty(broken: Vec<usize>, panics: Option<usize>, options: LoaderOptions) -> Loader {
    let plan = ViewPlan::of(vec![ViewRequest::new("v", "vector", 1, 1)]);
    Loader::new(Arc::new(Faulty { broken, panics }), &plan, options).unwrap()
}

/// In order, ten batches of 100: one epoch of [`Faulty`].
fn in_order() -> LoaderOptions {
    LoaderOptions { batch: 100, shuffle: false, workers: 3, end: Some(10), ..Default::default() }
}

#[test]
fn batches_are_the_same_bytes_with_one_worker_and_with_many() {
    let one = all(shapes(20), options(1));
    assert_eq!(one.iter().map(|(step, ..)| *step).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
    assert_eq!(one, all(shapes(20), options(7)));
    let eager = LoaderOptions { prefetch: 9, ..options(3) };
    assert_eq!(one, all(shapes(20), eager));
}

#[test]
fn a_resumed_loader_goes_on_with_the_same_bytes() {
    let whole = all(shapes(20), options(2));
    for start in [1, 2, 5, 8] {
        let resumed = all(shapes(20), LoaderOptions { start, ..options(2) });
        assert_eq!(resumed, whole[start as usize..]);
    }
    assert!(all(shapes(20), LoaderOptions { start: 9, ..options(2) }).is_empty());
}

#[test]
fn a_batch_has_shapes_boxes_and_labels_only_if_asked() {
    let labelled = LoaderOptions { labels: true, ..options(2) };
    let mut loader = Loader::new(shapes(20), &plan(), labelled).unwrap();
    let batch = loader.next_batch().unwrap().unwrap();
    let shapes_of: Vec<_> = batch.views.iter().map(|view| view.fields[0].shape.clone()).collect();
    let (global, local) = (vec![8, 3, 16, 16], vec![8, 3, 8, 8]);
    assert_eq!(shapes_of, [global.clone(), global, local, vec![8]]);
    let lens = [0, 3].map(|view: usize| batch.views[view].fields[0].values.len());
    assert_eq!(lens, [8 * 3 * 256, 8]);
    assert_eq!(batch.named("global").map(|view| view.copy).collect::<Vec<_>>(), [0, 1]);
    assert!(batch.views[2].traces.iter().all(|t| t.part[2] > 0.0 && t.part[0] + t.part[2] <= 1.0));
    assert_eq!((batch.views[0].traces.len(), batch.views[3].traces.len()), (8, 0));
    let expected = batch.indices.iter().map(|index| shapes(20).label(*index)).collect::<Vec<_>>();
    assert_eq!(batch.labels.as_ref().unwrap(), &expected);
    let mut plain = Loader::new(shapes(20), &plan(), options(2)).unwrap();
    assert!(plain.next_batch().unwrap().unwrap().labels.is_none());
}

#[test]
fn a_broken_sample_is_replaced_by_the_next_good_one_and_named_once() {
    let two_epochs = LoaderOptions { end: Some(20), ..in_order() };
    let mut loader = faulty(vec![5, 6], None, two_epochs);
    let batch = loader.next_batch().unwrap().unwrap();
    assert_eq!(batch.views[0].fields[0].values.f32()[4..8], [4.0, 7.0, 7.0, 7.0]);
    assert_eq!(batch.indices[5], 5);
    let names: Vec<_> = batch.broken.iter().map(|broken| broken.name.as_str()).collect();
    assert_eq!(names, ["sample-5", "sample-6"]);
    drop(batch);
    while let Some(batch) = loader.next_batch().unwrap() {
        assert!(batch.broken.is_empty());
    }
    // Sample 5 met 5 and 6, sample 6 met 6, in two epochs.
    let report = loader.report();
    assert_eq!((report.samples, report.broken, report.broken_names), (2000, 6, 2));
}

#[test]
fn too_many_broken_samples_stop_the_run_with_a_sentence() {
    let mut loader = faulty((0..1000).step_by(20).collect(), None, in_order());
    let steps = (0..10).take_while(|_| loader.next_batch().is_ok()).count();
    assert_eq!(steps, 2, "five broken a batch: allowed up to ten");
    let error = loader.next_batch().unwrap_err();
    assert!(error.message().starts_with("15 of 315 samples are broken"), "{error}");
    assert!(error.to_string().contains("`sample-280`, cut short"), "{error}");
    assert!(error.hint_text().unwrap().contains("max_broken_share=0.06"));
    let allowed = LoaderOptions { max_broken_share: 0.05, ..in_order() };
    let mut loader = faulty((0..1000).step_by(20).collect(), None, allowed);
    assert!((0..10).all(|_| loader.next_batch().unwrap().is_some()));
}

#[test]
fn nothing_readable_is_an_error_and_not_a_hang() {
    let mut loader = faulty((0..1000).collect(), None, in_order());
    let error = loader.next_batch().unwrap_err();
    assert!(error.message().contains("in a row can't be read, from `sample-0` on"), "{error}");
}

#[test]
fn a_panic_in_a_worker_is_an_error_that_names_the_sample() {
    let mut loader = faulty(Vec::new(), Some(250), in_order());
    assert!(loader.next_batch().is_ok() && loader.next_batch().is_ok());
    let error = loader.next_batch().unwrap_err();
    assert!(error.message().contains("`sample-250`"), "{error}");
    assert!(error.to_string().contains("a planned panic"), "{error}");
    assert!(loader.next_batch().is_err());
}

#[test]
fn an_unused_loader_can_be_dropped() {
    let endless = LoaderOptions { end: None, ..options(4) };
    drop(Loader::new(shapes(20), &plan(), endless.clone()).unwrap());
    let mut loader = Loader::new(shapes(20), &plan(), endless).unwrap();
    assert_eq!(loader.next_batch().unwrap().unwrap().len(), 8);
}

#[test]
fn options_and_plans_that_can_not_be_are_refused() {
    let refused = |plan: &ViewPlan, options| Loader::new(shapes(20), plan, options).is_err();
    assert!(refused(&plan(), LoaderOptions { workers: 0, ..options(1) }));
    assert!(refused(&plan(), LoaderOptions { batch: 21, ..options(1) }));
    let vectors = ViewPlan::of(vec![ViewRequest::new("v", "vector", 1, 1)]);
    assert!(refused(&vectors, options(1)));
}
