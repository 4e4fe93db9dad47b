//! Watches each parameter's gradient, to say where a run that broke began to break.

/// A gradient this many times its running mean has surged.
const SURGE: f64 = 10.0;
/// Weight of the newest norm in the running mean: a memory of about a hundred steps.
const NEWEST: f64 = 0.01;

/// The running mean of every parameter's gradient norm, and since when it has been far above it.
#[derive(Clone, Debug, Default)]
pub(crate) struct GradientWatch {
    means: Vec<f64>,
    surges: Vec<Option<Surge>>,
}

/// A parameter whose gradient has left its usual size.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Surge {
    /// The parameter's place in the model.
    pub(crate) parameter: usize,
    /// The step at which it left.
    pub(crate) since: u64,
    /// How many times its running mean it was then.
    pub(crate) ratio: f64,
}

impl GradientWatch {
    /// Takes in the norms of one step, in the model's order.
    pub(crate) fn observe(&mut self, step: u64, norms: &[f64]) {
        if self.means.is_empty() {
            self.means = norms.to_vec();
            self.surges = vec![None; norms.len()];
            return;
        }
        for (parameter, &norm) in norms.iter().enumerate() {
            let mean = &mut self.means[parameter];
            if *mean == 0.0 {
                // Nothing to compare with yet: the recurrent weights of a first step from a zero state, for one.
                *mean = norm;
                continue;
            }
            let ratio = norm / *mean;
            // A norm that is not a number compares false: it has surged.
            if ratio <= SURGE {
                self.surges[parameter] = None;
            } else {
                self.surges[parameter].get_or_insert(Surge { parameter, since: step, ratio });
            }
            // The mean follows a surge too, slowly: a new usual size is forgotten as one.
            *mean += NEWEST * (norm.min(SURGE * *mean) - *mean);
        }
    }

    /// The parameter that surged first and has not come back; among those of one step the one that grew most.
    pub(crate) fn first(&self) -> Option<&Surge> {
        let surges = self.surges.iter().flatten();
        surges.min_by(|a, b| a.since.cmp(&b.since).then(b.ratio.total_cmp(&a.ratio)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_surge_is_named() {
        let mut watch = GradientWatch::default();
        for step in 0..10 {
            watch.observe(step, &[1.0, 1.0, 1.0]);
        }
        assert_eq!(watch.first(), None);
        watch.observe(10, &[1.0, 50.0, 12.0]);
        watch.observe(11, &[f64::INFINITY, 500.0, f64::NAN]);
        assert_eq!(watch.first(), Some(&Surge { parameter: 1, since: 10, ratio: 50.0 }));
    }

    #[test]
    fn a_new_usual_size_is_no_surge_for_long() {
        let mut watch = GradientWatch::default();
        watch.observe(0, &[1.0]);
        for step in 1..100 {
            watch.observe(step, &[20.0]);
        }
        assert_eq!(watch.first(), None);
    }

    #[test]
    fn the_first_gradient_after_none_is_no_surge() {
        let mut watch = GradientWatch::default();
        watch.observe(0, &[0.0]);
        watch.observe(1, &[1.0]);
        watch.observe(2, &[2.0]);
        assert_eq!(watch.first(), None);
        watch.observe(3, &[30.0]);
        assert_eq!(watch.first().map(|surge| surge.since), Some(3));
    }

    #[test]
    fn a_gradient_that_calms_down_is_forgotten() {
        let mut watch = GradientWatch::default();
        watch.observe(0, &[1.0]);
        watch.observe(1, &[20.0]);
        watch.observe(2, &[1.0]);
        assert_eq!(watch.first(), None);
    }
}
