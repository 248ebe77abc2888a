//! Teachers: weights that follow the student's by average, updated after the optimiser's step.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::engine::portable::update;
use crate::engine::storage;
use crate::schedule::{Progress, Schedule};
use crate::state::{ParamId, State};

/// Elements that one thread handles at a time; fixed, so that results don't depend on threads.
const CHUNK: usize = 16 * 1024;

/// An exponential moving average of some of the student's parameters.
///
/// `teacher = decay teacher + (1 - decay) student`, parameters only: buffers are not averaged, as in
/// the authors' code.
#[derive(Clone, Debug)]
pub struct Average {
    /// Pairs of (student's, teacher's) parameter.
    pub pairs: Vec<(ParamId, ParamId)>,
    /// How slowly the teacher follows, by step.
    pub decay: Schedule,
}

impl Average {
    /// Makes the teacher equal to the student, as it is before the first step.
    pub fn reset(&self, state: &State) -> Result<()> {
        self.pairs.iter().try_for_each(|&(student, teacher)| {
            let (from, to) = (&state.get(student).value, &state.get(teacher).value);
            storage::assign(to, from)
        })
    }

    /// Moves the teacher towards the student; returns the decay that it used.
    pub fn update(&self, state: &State, progress: Progress) -> Result<f64> {
        self.update_where(state, progress, None)
    }

    /// The same, but where parameters live on a device, a closed `gate` there (u8 `[1]`, 0) keeps the teacher
    /// as it was.
    pub fn update_where(
        &self,
        state: &State,
        progress: Progress,
        gate: Option<&Tensor>,
    ) -> Result<f64> {
        let decay = self.decay.at(progress);
        if !state.device().is_cpu() {
            let pairs =
                self.pairs.iter().map(|(s, t)| (&state.get(*t).value, &state.get(*s).value));
            update::average(&pairs.collect::<Vec<_>>(), decay, gate)?;
            return Ok(decay);
        }
        let (keep, take) = (decay as f32, (1.0 - decay) as f32);
        for &(student, teacher) in &self.pairs {
            let (from, to) = (&state.get(student).value, &state.get(teacher).value);
            storage::update::<f32>(to, from, |to, from| {
                to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
                    to.iter_mut().zip(from).for_each(|(t, s)| *t = keep * *t + take * s);
                });
            })?;
        }
        Ok(decay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Frozen, Group, Init};

    #[test]
    fn the_teacher_starts_as_the_student_and_follows_by_its_decay() {
        let mut state = State::new(0);
        let frozen = Group { frozen: Frozen::Always, ..Group::default() };
        let student = state.parameter("s", &[1], Init::Constant(2.0), Group::default()).unwrap();
        let teacher = state.parameter("t", &[1], Init::Constant(0.0), frozen).unwrap();
        let average = Average { pairs: vec![(student, teacher)], decay: Schedule::constant(0.75) };
        let value = |state: &State| storage::scalar(&state.get(teacher).value).unwrap();
        average.reset(&state).unwrap();
        assert_eq!(value(&state), 2.0);
        state
            .assign(student, &Tensor::new(&[6.0_f32], &candle_core::Device::Cpu).unwrap())
            .unwrap();
        let progress = Progress { step: 0, steps_per_epoch: 1, total_steps: 1 };
        assert_eq!(average.update(&state, progress).unwrap(), 0.75);
        assert_eq!(value(&state), 3.0);
    }
}
