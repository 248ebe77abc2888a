//! Mini-batch k-means beside scikit-learn's, by how near features lie to their centroids.

use pretext::cluster::KMeans;
use pretext_tests::claims;
use pretext_tests::parity::Seen;
use pretext_tests::reference::{Reference, elements};

claims! {
    /// Starts are drawn otherwise, so results differ as those of its own seeds do, by up to 17 %; its middle one is
    /// what to expect.
    FARTHER = "k-means", "mean distance to the nearest centroid, beyond the other's middle result", "scikit-learn's `MiniBatchKMeans`", 0.05;
}

#[test]
fn features_lie_as_near_to_their_clusters_as_with_scikit_learn() {
    let (file, mut seen) = (Reference::open("kmeans/kmeans.safetensors"), Seen::new());
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let count = |key: &str| case[key].as_u64().expect(key) as usize;
        let features: Vec<f32> = elements(file.tensor(&format!("c{c}.features")))
            .into_iter()
            .map(|x| x as f32)
            .collect();
        let list = case["inertias"].as_array().expect("a list").iter();
        let mut theirs: Vec<f64> = list.filter_map(serde_json::Value::as_f64).collect();
        theirs.sort_by(f64::total_cmp);
        let mut ours: Vec<f64> = (0..5)
            .map(|seed| {
                let search = KMeans {
                    clusters: count("clusters"),
                    batch: count("batch"),
                    tries: 5,
                    seed,
                    ..KMeans::default()
                };
                let points = (features.as_slice(), count("width"));
                let found = search.fit(&points, |_, _| Ok(())).expect("clusters");
                found.codebook.nearest(&features).mean_distance()
            })
            .collect();
        ours.sort_by(f64::total_cmp);
        println!("case {c}: ours {ours:?}, scikit-learn's {theirs:?}");
        seen.compare(&FARTHER, &format!("case {c}"), (ours[2] / theirs[5] - 1.0).max(0.0));
        let best = theirs[0] / (1.0 + FARTHER.tolerance);
        assert!(ours[0] >= best, "case {c}: too good to be true: {}", ours[0]);
    }
    seen.finish();
}
