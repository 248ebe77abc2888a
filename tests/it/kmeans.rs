//! Mini-batch k-means beside scikit-learn's, by how near features lie to their centroids.

use pretext::cluster::KMeans;
use pretext_tests::reference::{Reference, elements};

/// How much farther than scikit-learn's middle result features may lie. Starts are drawn otherwise, so
/// results differ as those of its own seeds do, by up to 17 %; its middle one is what to expect.
const FARTHER: f64 = 1.05;

#[test]
fn features_lie_as_near_to_their_clusters_as_with_scikit_learn() {
    let file = Reference::open("kmeans/kmeans.safetensors");
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
        assert!(ours[2] <= FARTHER * theirs[5], "case {c}: {} and {}", ours[2], theirs[5]);
        assert!(ours[0] >= theirs[0] / FARTHER, "case {c}: too good to be true: {}", ours[0]);
    }
}
