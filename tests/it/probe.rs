//! The linear probe against scikit-learn's logistic regression (`tests/reference/probe`).

use candle_core::Tensor;
use pretext::metric::Features;
use pretext::probe::Labelled;
use pretext::probe::linear::{Fit, probe};
use pretext_tests::claims;
use pretext_tests::parity::Seen;
use pretext_tests::reference::{Reference, elements};

const SKLEARN: &str = "scikit-learn's `LogisticRegression`";

claims! {
    /// The least curvature is the strength: the gradient at which the search ends leaves this much.
    FIT = "probes", "linear probe: weights and biases, times the strength", SKLEARN, 1e-4;
    /// An answer or two on the edge.
    ACCURACY = "probes", "linear probe: accuracy, as a share", SKLEARN, 0.004;
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn classes(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec1().unwrap()
}

#[test]
fn a_fit_has_the_weights_and_the_answers_of_scikit_learn() {
    let (file, mut seen) = (Reference::open("probe/linear.safetensors"), Seen::new());
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let at = |what: &str| file.tensor(&format!("c{c}.{what}"));
        let width = at("bank").dims()[1];
        let (bank, queries) = (floats(at("bank")), floats(at("queries")));
        let (labels, answers) = (classes(at("labels")), classes(at("answers")));
        let bank = Labelled::new(Features::new(&bank, width).unwrap(), &labels).unwrap();
        let queries = Labelled::new(Features::new(&queries, width).unwrap(), &answers).unwrap();
        let fit = Fit::new(bank, case["strength"].as_f64().unwrap());
        let (weight, bias) = fit.weights();
        let strength = case["strength"].as_f64().unwrap();
        for (got, want) in weight.iter().zip(elements(at("weight"))) {
            seen.compare(&FIT, &format!("case {c}"), strength * (got - want).abs());
        }
        let mean = bias.iter().sum::<f64>() / bias.len() as f64;
        for (got, want) in bias.iter().zip(elements(at("bias"))) {
            seen.compare(&FIT, &format!("case {c}"), strength * (got - mean - want).abs());
        }
        let said = fit.classify(queries.features());
        let differ = said.iter().zip(classes(at("said"))).filter(|(a, b)| *a != b).count();
        assert!(differ <= 1, "case {c}: {differ} other answers");
        let accuracy = case["accuracy"].as_f64().unwrap();
        let far = (fit.accuracy(queries) - accuracy).abs();
        seen.compare(&ACCURACY, &format!("case {c}"), far);
        // The probe chooses a strength by itself, which does about as well as the better of those stored.
        let chosen = probe(bank, queries).unwrap();
        assert!(chosen.accuracy > accuracy - 0.02, "case {c}: {chosen:?}");
    }
    seen.finish();
}
