//! Whether clusters are healthy: how many are in use, how evenly, and what they have to do with labels.

/// Counts of units, and of units with labels, over the frames of a data set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Census {
    counts: Vec<u64>,
    /// By unit and class; empty without labels.
    joint: Vec<u64>,
    classes: usize,
    distance: f64,
}

/// What a [`Census`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Health {
    /// Clusters that hold at least one frame.
    pub used: usize,
    /// Exponential of the entropy of the units: how many clusters are in use, evenly counted.
    pub perplexity: f64,
    /// Mean squared distance of a frame to its centroid.
    pub distance: f64,
    /// Share of frames whose class is the most frequent one of their cluster; none without labels.
    pub purity: Option<f64>,
    /// Mutual information of units and classes over the mean of their entropies, 0 to 1; none without
    /// labels.
    pub mutual_information: Option<f64>,
}

impl Census {
    /// Counts for `clusters`, and for `classes` of labels, 0 where there are none.
    pub fn new(clusters: usize, classes: usize) -> Self {
        Self {
            counts: vec![0; clusters],
            joint: vec![0; clusters * classes],
            classes,
            distance: 0.0,
        }
    }

    /// Adds the frames of one sample: their units, the class that the sample has, and the sum of their
    /// squared distances. A frame of a sample without a class counts for the units alone.
    pub fn add(&mut self, units: &[u32], class: Option<u32>, distance: f64) {
        self.distance += distance;
        for unit in units {
            let unit = *unit as usize;
            self.counts[unit] += 1;
            if let Some(class) = class.filter(|class| (*class as usize) < self.classes) {
                self.joint[unit * self.classes + class as usize] += 1;
            }
        }
    }

    /// What the counts say.
    pub fn health(&self) -> Health {
        let frames: u64 = self.counts.iter().sum();
        let labelled: u64 = self.joint.iter().sum();
        let health = Health {
            used: self.counts.iter().filter(|count| **count > 0).count(),
            perplexity: entropy(&self.counts).exp(),
            distance: self.distance / frames.max(1) as f64,
            ..Health::default()
        };
        if labelled == 0 {
            return health;
        }
        let rows = || self.joint.chunks_exact(self.classes);
        let right: u64 = rows().map(|row| row.iter().copied().max().unwrap_or(0)).sum();
        let units: Vec<u64> = rows().map(|row| row.iter().sum()).collect();
        let class = |class: usize| self.joint[class..].iter().step_by(self.classes).sum();
        let classes: Vec<u64> = (0..self.classes).map(class).collect();
        let (units, classes) = (entropy(&units), entropy(&classes));
        let shared = (units + classes - entropy(&self.joint)).max(0.0);
        // One cluster and one class know all of each other.
        let mean = f64::midpoint(units, classes);
        Health {
            purity: Some(right as f64 / labelled as f64),
            mutual_information: Some(if mean > 0.0 { shared / mean } else { 1.0 }),
            ..health
        }
    }
}

impl Health {
    /// Named, in order, for records and lines.
    pub fn named(&self) -> Vec<(String, f64)> {
        let figures = [
            ("clusters_used", Some(self.used as f64)),
            ("perplexity", Some(self.perplexity)),
            ("distance", Some(self.distance)),
            ("purity", self.purity),
            ("mutual_information", self.mutual_information),
        ];
        figures.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// Entropy in nats of `counts` as shares of their sum.
fn entropy(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let shares = counts.iter().filter(|count| **count > 0).map(|count| *count as f64 / total);
    shares.map(|p| -p * p.ln()).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(frames: &[(u32, u32)]) -> Health {
        let mut census = Census::new(4, 3);
        for (unit, class) in frames {
            census.add(&[*unit], Some(*class), 0.5);
        }
        census.health()
    }

    #[test]
    fn clusters_that_are_the_classes_are_pure() {
        let health = census(&[(0, 0), (1, 1), (2, 2), (0, 0), (1, 1), (2, 2)]);
        assert_eq!((health.used, health.purity), (3, Some(1.0)));
        assert!((health.perplexity - 3.0).abs() < 1e-12 && health.distance == 0.5);
        assert!((health.mutual_information.unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn one_cluster_for_everything_says_nothing() {
        let health = census(&[(3, 0), (3, 1), (3, 2), (3, 2)]);
        assert_eq!((health.used, health.purity), (1, Some(0.5)));
        assert!((health.perplexity - 1.0).abs() < 1e-12);
        assert!(health.mutual_information.unwrap().abs() < 1e-12);
    }

    /// `sklearn.metrics.normalized_mutual_info_score([0, 0, 1, 1, 2], [0, 1, 1, 1, 2])`.
    #[test]
    fn mutual_information_is_scikit_learns() {
        let health = census(&[(0, 0), (0, 1), (1, 1), (1, 1), (2, 2)]);
        assert!((health.mutual_information.unwrap() - 0.671_269_485_327_437_4).abs() < 1e-9);
        assert_eq!(health.purity, Some(0.8));
    }

    #[test]
    fn without_labels_the_units_are_counted_alone() {
        let mut census = Census::new(2, 0);
        census.add(&[0, 1, 1], None, 3.0);
        let health = census.health();
        assert_eq!((health.used, health.purity, health.distance), (2, None, 1.0));
        let names: Vec<String> = health.named().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["clusters_used", "perplexity", "distance"]);
    }
}
