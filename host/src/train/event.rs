//! What the loop tells whoever watches: the CLI draws it, tests collect it.

use std::time::Duration;

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The run is planned and about to start, or to go on.
    Started {
        /// The run folder.
        run: String,
        /// One line each about method, data, backbone and schedule.
        plan: Vec<String>,
        /// The step that the run goes on from; 0 for a new one.
        from_step: u64,
        /// Steps in all.
        total_steps: u64,
    },
    /// A step was done.
    Step(StepReport),
    /// Something that may be wrong but stops nothing.
    Warning(String),
    /// Something worth knowing, with nothing wrong about it.
    Note(String),
    /// A stretch of work beside training began, such as a probe.
    Phase(String),
    /// A stage is done.
    Stage {
        /// Its name.
        stage: String,
        /// The step before which it is needed.
        step: u64,
        /// Named figures of its clusters in order, such as (`perplexity`, 71.5).
        figures: Vec<(String, f64)>,
    },
    /// A probe was done.
    Probe {
        /// The step after which it ran.
        step: u64,
        /// Named figures in order, such as (`knn`, 0.61).
        figures: Vec<(String, f64)>,
    },
    /// A checkpoint lies at this path.
    Checkpoint(String),
    /// The run ended well.
    Finished {
        /// Named figures of the last probe in order, then those of its baselines, such as (`knn_untrained`, 0.27).
        figures: Vec<(String, f64)>,
        /// Closing lines: figures, their baselines, where the report is.
        summary: Vec<String>,
        /// The report's path.
        report: String,
    },
}

/// One step, in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Counted from 1.
    pub step: u64,
    /// Steps in all.
    pub total_steps: u64,
    /// Epochs done, as a fraction.
    pub epoch: f64,
    /// The loss.
    pub loss: f64,
    /// The learning rate of this step.
    pub lr: f64,
    /// Further figures: the method's metrics, gradient norm, schedules.
    pub figures: Vec<(String, f64)>,
    /// Images (samples) per second over the last steps.
    pub samples_per_second: f64,
    /// The share of the time, over the last steps, in which the step waited for data: 0 to 1.
    pub data_wait: f64,
    /// Time left at the present speed.
    pub time_left: Duration,
}

/// Whoever watches a run.
pub trait Observer {
    /// Takes note of `event`.
    fn event(&mut self, event: Event);
}
