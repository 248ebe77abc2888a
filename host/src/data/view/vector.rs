//! `vector@1`: a vector, maybe noisy.

use std::sync::Arc;

use super::kind::{SampleView, Tools, View, ViewDef};
use super::settings::Settings;
use crate::data::batch::Trace;
use crate::data::dataset::{Content, Sample};
use crate::data::field::{Form, Values};
use crate::random::Stream;
use crate::{Error, Result};

/// Parameters of `vector@1`; field `values` f32 `[D]`.
#[derive(Clone, Debug, PartialEq)]
struct Vector {
    /// Standard deviation of noise added to each element.
    noise: f64,
    /// Probability that an element becomes 0 (the others keep their size).
    dropout: f64,
}

impl Vector {
    fn new(settings: &Settings<'_>) -> Result<Self> {
        Ok(Self {
            noise: settings.number("noise", 0.0, (0.0, 1e6))?,
            dropout: settings.chance("dropout", 0.0)?,
        })
    }

    fn noisy(&self, stream: &mut Stream, vector: &[f32], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(vector) {
            let noise = if self.noise > 0.0 { self.noise * stream.normal() } else { 0.0 };
            let dropped = self.dropout > 0.0 && stream.chance(self.dropout);
            *o = if dropped { 0.0 } else { x + noise as f32 };
        }
    }
}

impl SampleView for Vector {
    fn forms(&self, content: Content, name: &str) -> Result<Vec<Form>> {
        match content {
            Content::Vectors { dim } => Ok(vec![Form::f32("values", &[dim])]),
            other => Err(Error::asked_wrongly(format!(
                "the view `{name}` needs vectors and the data are {}",
                other.noun()
            ))
            .hint("ask for `crop@1` views, or give a .npy file as data")),
        }
    }

    fn make(
        &self,
        sample: &Sample,
        stream: &mut Stream,
        _: &mut Tools,
        fields: &mut [Values],
    ) -> Result<Trace> {
        match (sample, fields) {
            (Sample::Vector(vector), [values]) => self.noisy(stream, vector, values.f32_mut()),
            _ => return Err(Error::failed("a sample is no vector, though the data are")),
        }
        Ok(Trace::default())
    }
}

inventory::submit! {
    ViewDef {
        name: "vector",
        revision: 1,
        settings: &["noise", "dropout"],
        resolve: |settings| Ok(View::Sample(Arc::new(Vector::new(settings)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_get_noise_and_holes() {
        let mut stream = Stream::new(0, "v", 0, 0);
        let vector = vec![1.0; 4000];
        let mut out = vec![0.0; 4000];
        Vector { noise: 0.1, dropout: 0.25 }.noisy(&mut stream, &vector, &mut out);
        let holes = out.iter().filter(|x| **x == 0.0).count();
        let mean = out.iter().sum::<f32>() / (4000 - holes) as f32;
        assert!((900..1100).contains(&holes) && (mean - 1.0).abs() < 0.01);
        Vector { noise: 0.0, dropout: 0.0 }.noisy(&mut stream, &vector, &mut out);
        assert_eq!(out, vector);
    }
}
