//! Speed and waiting over the last steps, for the progress line and the timings.

use std::collections::VecDeque;
use std::time::Duration;

/// Steps over which speed and waiting are averaged.
const WINDOW: usize = 20;

/// Speed and waiting over the last steps.
#[derive(Debug)]
pub(super) struct Pace {
    steps: VecDeque<(Duration, Duration, u64)>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { steps: VecDeque::new() }
    }

    pub(super) fn add(&mut self, took: Duration, waited: Duration, samples: u64) {
        if self.steps.len() == WINDOW {
            self.steps.pop_front();
        }
        self.steps.push_back((took, waited, samples));
    }

    /// Seconds that the last step took, waiting included.
    pub(super) fn last_seconds(&self) -> f64 {
        self.steps.back().map_or(0.0, |step| step.0.as_secs_f64())
    }

    fn seconds(&self) -> f64 {
        self.steps.iter().map(|step| step.0.as_secs_f64()).sum::<f64>().max(1e-9)
    }

    pub(super) fn samples_per_second(&self) -> f64 {
        self.steps.iter().map(|step| step.2).sum::<u64>() as f64 / self.seconds()
    }

    pub(super) fn data_wait(&self) -> f64 {
        self.steps.iter().map(|step| step.1.as_secs_f64()).sum::<f64>() / self.seconds()
    }

    pub(super) fn time_left(&self, steps: u64) -> Duration {
        let each = self.seconds() / self.steps.len().max(1) as f64;
        Duration::from_secs_f64(each * steps as f64)
    }
}
