//! Schedules: a number as a function of the step.

/// Where in the run a step lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps done before this one.
    pub step: u64,
    /// Steps of one epoch.
    pub steps_per_epoch: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
}

impl Progress {
    /// Epochs done before this step, as a fraction.
    pub fn epoch(self) -> f64 {
        self.step as f64 / self.steps_per_epoch.max(1) as f64
    }
}

/// How a schedule goes from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Stays at the end value.
    Constant,
    /// A straight line.
    Linear,
    /// Half a cosine: slow, fast, slow.
    Cosine,
}

/// A number as a function of the step.
///
/// During the warm-up it goes in a straight line from `warmup_start` to `start`; after it, over the
/// rest of its span, from `start` to `end` by `shape`; past its span it stays at `end`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The way from `start` to `end`.
    pub shape: Shape,
    /// Value at the end of the warm-up.
    pub start: f64,
    /// Value at the end of the span.
    pub end: f64,
    /// Value at step 0 of a warm-up.
    pub warmup_start: f64,
    /// Length of the warm-up in epochs.
    pub warmup_epochs: f64,
    /// Length of everything in epochs; 0 means the whole run.
    pub span_epochs: f64,
    /// Whether the value changes only at the start of an epoch, as DINO's teacher temperature does.
    pub per_epoch: bool,
}

impl Schedule {
    /// The same value at every step.
    pub fn constant(value: f64) -> Self {
        Self { shape: Shape::Constant, ..Self::cosine(value, value) }
    }

    /// Half a cosine from `start` to `end` over the whole run, without warm-up.
    pub fn cosine(start: f64, end: f64) -> Self {
        Self {
            shape: Shape::Cosine,
            start,
            end,
            warmup_start: start,
            warmup_epochs: 0.0,
            span_epochs: 0.0,
            per_epoch: false,
        }
    }

    /// A straight line from `start` to `end` over the whole run, without warm-up.
    pub fn linear(start: f64, end: f64) -> Self {
        Self { shape: Shape::Linear, ..Self::cosine(start, end) }
    }

    /// Puts a warm-up of `epochs` from `from` in front.
    #[must_use]
    pub fn warmup(mut self, from: f64, epochs: f64) -> Self {
        self.warmup_start = from;
        self.warmup_epochs = epochs;
        self
    }

    /// The value at `progress`.
    ///
    /// The points are those of the authors' code (`cosine_scheduler` of DINO): a warm-up of `w` steps
    /// is `w` values from start to end inclusive; the cosine is `start` at its first step and would
    /// reach `end` one step after the last.
    pub fn at(&self, progress: Progress) -> f64 {
        if self.shape == Shape::Constant && self.warmup_epochs <= 0.0 {
            return self.end;
        }
        // One point per epoch, or one per step.
        let (step, per_epoch, total) = if self.per_epoch {
            let epochs = progress.total_steps / progress.steps_per_epoch.max(1);
            (progress.epoch().floor(), 1.0, epochs as f64)
        } else {
            let per_epoch = progress.steps_per_epoch.max(1) as f64;
            (progress.step as f64, per_epoch, progress.total_steps as f64)
        };
        let warmup = (self.warmup_epochs * per_epoch).floor();
        if step < warmup {
            let share = if warmup > 1.0 { step / (warmup - 1.0) } else { 0.0 };
            return self.warmup_start + (self.start - self.warmup_start) * share;
        }
        let span = if self.span_epochs > 0.0 { self.span_epochs * per_epoch } else { total };
        let share = ((step - warmup) / (span - warmup).max(1.0)).min(1.0);
        match self.shape {
            Shape::Constant => self.end,
            Shape::Linear => self.start + (self.end - self.start) * share,
            Shape::Cosine => {
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
                self.end + (self.start - self.end) * cosine
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: u64) -> Progress {
        Progress { step, steps_per_epoch: 10, total_steps: 100 }
    }

    #[test]
    fn a_cosine_starts_at_its_start_and_passes_the_middle_halfway() {
        let schedule = Schedule::cosine(0.996, 1.0);
        assert!((schedule.at(at(0)) - 0.996).abs() < 1e-12);
        assert!((schedule.at(at(50)) - 0.998).abs() < 1e-12);
        assert!(schedule.at(at(99)) < 1.0 && (schedule.at(at(100)) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_warm_up_reaches_its_end_at_its_last_step_as_linspace_does() {
        let schedule = Schedule::cosine(1.0, 0.0).warmup(0.0, 1.0);
        assert_eq!(schedule.at(at(0)), 0.0);
        assert!((schedule.at(at(3)) - 3.0 / 9.0).abs() < 1e-12);
        assert_eq!(schedule.at(at(9)), 1.0);
        assert_eq!(schedule.at(at(10)), 1.0);
    }

    #[test]
    fn a_schedule_per_epoch_moves_only_between_epochs() {
        let mut schedule = Schedule::linear(0.04, 0.07);
        schedule.per_epoch = true;
        assert_eq!(schedule.at(at(10)), schedule.at(at(19)));
        assert!(schedule.at(at(20)) > schedule.at(at(19)));
    }

    #[test]
    fn past_its_span_a_schedule_stays_at_its_end() {
        let mut schedule = Schedule::linear(0.0, 1.0);
        schedule.span_epochs = 2.0;
        assert_eq!(schedule.at(at(20)), 1.0);
        assert_eq!(schedule.at(at(90)), 1.0);
    }
}
