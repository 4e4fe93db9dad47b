//! How often a decoder reads the text itself in training, and how often what it wrote.

use serde::{Deserialize, Serialize};

use crate::setting::{Allowed, Range, Setting, names};

names! {
    /// How the probability of the text's own tokens changes; [`TeacherForcing::probability`] has the equations.
    pub enum ForcingKind {
        /// It does not: 1 is teacher forcing, 0 is free running.
        #[default]
        Constant = "constant",
        /// Falls evenly.
        Linear = "linear",
        /// Falls by the same share at every step.
        Exponential = "exponential",
        /// Stays high, falls, and stays low.
        InverseSigmoid = "inverse-sigmoid",
    }
}

names! {
    /// Which of the model's own tokens takes the place of one of the text; as when the model writes, never the unknown token.
    pub enum OwnToken {
        /// One drawn from the model's distribution, as it is drawn when the model writes.
        #[default]
        Sampled = "sampled",
        /// The likeliest.
        Best = "best",
    }
}

/// `[teacher-forcing]`: what a decoder reads in training; a recipe may set only what the chosen schedule has.
///
/// Each input but the first of a window is the text's own token with a probability that depends on the step, else the
/// model's own choice after what it has read so far: scheduled sampling (Bengio et al. 2015). No gradient flows through the
/// choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TeacherForcing {
    /// The schedule.
    pub name: ForcingKind,
    /// constant: the probability.
    pub probability: f64,
    /// linear: the probability at the first step.
    pub start: f64,
    /// linear: how much it falls a step.
    pub slope: f64,
    /// exponential: what it is multiplied by after each step.
    pub decay: f64,
    /// inverse-sigmoid: how long it stays high; it is a half after k · ln k steps.
    pub scale: f64,
    /// linear, exponential, inverse-sigmoid: it never falls below this.
    pub min_probability: f64,
    /// What takes the place of a token of the text.
    pub choice: OwnToken,
}

impl Default for TeacherForcing {
    fn default() -> Self {
        Self {
            name: ForcingKind::default(),
            probability: 1.0,
            start: 1.0,
            // The three that fall are at a half after some 700 steps, so that they differ by their shape alone.
            slope: 7e-4,
            decay: 0.999,
            scale: 140.0,
            min_probability: 0.0,
            // Bengio et al. 2015, section 2.4: a token drawn from the model
            choice: OwnToken::default(),
        }
    }
}

impl TeacherForcing {
    /// The keys of one schedule.
    pub(crate) const fn settings(name: ForcingKind) -> &'static [Setting] {
        const NAME: Setting = Setting::new("name", Allowed::OneOf(ForcingKind::NAMES));
        const PROBABILITY: Setting = Setting::new("probability", Allowed::Number(Range::Share));
        const START: Setting = Setting::new("start", Allowed::Number(Range::Share));
        const SLOPE: Setting = Setting::new("slope", Allowed::Number(Range::NotNegative));
        const DECAY: Setting = Setting::new("decay", Allowed::Number(Range::Factor));
        const SCALE: Setting = Setting::new("scale", Allowed::Number(Range::AtLeastOne));
        const LEAST: Setting = Setting::new("min-probability", Allowed::Number(Range::Share));
        const CHOICE: Setting = Setting::new("choice", Allowed::OneOf(OwnToken::NAMES));
        match name {
            ForcingKind::Constant => &[NAME, PROBABILITY, CHOICE],
            ForcingKind::Linear => &[NAME, START, SLOPE, LEAST, CHOICE],
            ForcingKind::Exponential => &[NAME, DECAY, LEAST, CHOICE],
            ForcingKind::InverseSigmoid => &[NAME, SCALE, LEAST, CHOICE],
        }
    }

    /// The probability that an input at step `step`, counted from 0, is the text's own token (Bengio et al. 2015, section 2.4).
    ///
    /// | schedule | ε(i), m being min-probability |
    /// |---|---|
    /// | constant | probability |
    /// | linear | max(m, start − slope · i) |
    /// | exponential | max(m, decay^i) |
    /// | inverse-sigmoid | max(m, k / (k + exp(i / k))), k being scale |
    pub fn probability(&self, step: u64) -> f64 {
        let step = step as f64;
        let falling = match self.name {
            ForcingKind::Constant => return self.probability,
            ForcingKind::Linear => self.start - self.slope * step,
            ForcingKind::Exponential => self.decay.powf(step),
            ForcingKind::InverseSigmoid => self.scale / (self.scale + (step / self.scale).exp()),
        };
        falling.max(self.min_probability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: ForcingKind) -> TeacherForcing {
        TeacherForcing { name, ..TeacherForcing::default() }
    }

    fn assert_probabilities(forcing: &TeacherForcing, expected: &[(u64, f64)]) {
        for &(step, expected) in expected {
            let found = forcing.probability(step);
            assert!((found - expected).abs() < 1e-12, "{}: {found} at step {step}, not {expected}", forcing.name);
        }
    }

    #[test]
    fn probabilities_are_those_of_the_formulas() {
        assert_probabilities(&of(ForcingKind::Constant), &[(0, 1.0), (u64::MAX, 1.0)]);
        let linear = TeacherForcing { start: 0.9, slope: 0.01, min_probability: 0.25, ..of(ForcingKind::Linear) };
        assert_probabilities(&linear, &[(0, 0.9), (10, 0.8), (64, 0.26), (65, 0.25), (u64::MAX, 0.25)]);
        let exponential = TeacherForcing { decay: 0.5, min_probability: 0.1, ..of(ForcingKind::Exponential) };
        assert_probabilities(&exponential, &[(0, 1.0), (1, 0.5), (3, 0.125), (4, 0.1), (u64::MAX, 0.1)]);
        let sigmoid = TeacherForcing { scale: 10.0, ..of(ForcingKind::InverseSigmoid) };
        let half = 10.0 / (10.0 + (2.3f64).exp());
        assert_probabilities(&sigmoid, &[(0, 10.0 / 11.0), (23, half), (u64::MAX, 0.0)]);
    }

    #[test]
    fn by_default_every_falling_one_is_at_a_half_after_seven_hundred_steps() {
        for name in [ForcingKind::Linear, ForcingKind::Exponential, ForcingKind::InverseSigmoid] {
            let probability = of(name).probability(700);
            assert!((probability - 0.5).abs() < 0.02, "{name}: {probability}");
        }
    }
}
