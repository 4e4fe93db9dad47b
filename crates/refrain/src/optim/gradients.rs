//! Gradients by parameter, on their way from the backward pass to the optimiser.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use refrain_kernels::{Engine, add_normal_noise, all_finite, sum_of_squares};

use crate::parameter_path::ParameterPath;
use crate::random::gradient_noise_key;

/// The gradient of one parameter.
#[derive(Clone, Debug)]
pub struct ParameterGradient {
    /// The parameter's path in the model, such as `recurrent.layers.0.weight_hh`.
    pub name: String,
    /// Row by row.
    pub values: Vec<f32>,
}

/// The gradients of every parameter of a model, in the model's order.
#[derive(Clone, Debug, Default)]
pub struct GradientSet {
    /// One entry a parameter.
    pub parameters: Vec<ParameterGradient>,
}

impl GradientSet {
    /// Takes the gradients of `model` out of a backward pass; a parameter that the loss does not read has zeros.
    pub fn collect<M: Module>(model: &M, gradients: Gradients) -> Self {
        let mut collector = Collector { path: ParameterPath::default(), gradients, set: Self::default() };
        model.visit(&mut collector);
        collector.set
    }

    /// Adds another pass's gradients, for accumulation over several windows.
    ///
    /// # Panics
    /// If `other` is of another model.
    pub fn add(&mut self, other: &Self) {
        assert!(self.parameters.len() == other.parameters.len(), "gradients of two models");
        for (into, from) in self.parameters.iter_mut().zip(&other.parameters) {
            assert!(into.name == from.name, "gradients of `{}` and `{}`", into.name, from.name);
            into.values.iter_mut().zip(&from.values).for_each(|(sum, value)| *sum += value);
        }
    }

    /// Multiplies every gradient.
    pub fn scale(&mut self, factor: f32) {
        for parameter in &mut self.parameters {
            parameter.values.iter_mut().for_each(|value| *value *= factor);
        }
    }

    /// The Euclidean norm of each parameter's gradient, in the model's order.
    pub fn norms(&self) -> Vec<f64> {
        let engine = Engine::current();
        self.parameters.iter().map(|parameter| sum_of_squares(&engine, &parameter.values).sqrt()).collect()
    }

    /// Bounds each element to `±limit`. A value that is not a number stays one.
    pub fn clip_value(&mut self, limit: f64) {
        let limit = limit as f32;
        for parameter in &mut self.parameters {
            parameter.values.iter_mut().for_each(|value| *value = value.clamp(-limit, limit));
        }
    }

    /// Scales all gradients together so that their joint norm, now `norm`, is at most `limit` (Pascanu et al. 2013).
    pub fn clip_norm(&mut self, norm: f64, limit: f64) {
        if norm > limit {
            self.scale((limit / norm) as f32);
        }
    }

    /// Adds normally distributed noise of this standard deviation to every element; which noise, is said by the seed and the step
    /// alone (Neelakantan et al. 2015).
    ///
    /// # Panics
    /// If the model has more than 65 536 parameters.
    pub fn add_noise(&mut self, deviation: f64, seed: u64, step: u64) {
        let engine = Engine::current();
        for (index, parameter) in self.parameters.iter_mut().enumerate() {
            let index = u16::try_from(index).expect("at most 65 536 parameters");
            add_normal_noise(&engine, gradient_noise_key(seed, step, index), deviation, &mut parameter.values);
        }
    }

    /// The first parameter whose gradient is infinite or not a number.
    pub fn first_not_finite(&self) -> Option<&str> {
        let mut broken = self.parameters.iter().filter(|parameter| !all_finite(&parameter.values));
        broken.next().map(|parameter| parameter.name.as_str())
    }
}

/// The norm of all gradients together, from each parameter's.
pub fn joint_norm(norms: &[f64]) -> f64 {
    norms.iter().map(|norm| norm * norm).sum::<f64>().sqrt()
}

struct Collector {
    path: ParameterPath,
    gradients: Gradients,
    set: GradientSet,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let values = match value.grad_remove(&mut self.gradients) {
            Some(gradient) => gradient.into_data().try_into_vec::<f32>().expect("gradients are f32"),
            None => vec![0.0; value.shape().num_elements()],
        };
        self.set.parameters.push(ParameterGradient { name: self.path.to_string(), values });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(values: &[&[f32]]) -> GradientSet {
        let parameters = values
            .iter()
            .enumerate()
            .map(|(index, values)| ParameterGradient { name: format!("p{index}"), values: values.to_vec() });
        GradientSet { parameters: parameters.collect() }
    }

    #[test]
    fn clipping_by_norm_scales_all_parameters_together() {
        let mut gradients = set(&[&[3.0, 0.0], &[0.0, -4.0]]);
        let norm = joint_norm(&gradients.norms());
        assert!((norm - 5.0).abs() < 1e-12);
        gradients.clip_norm(norm, 10.0);
        assert_eq!(gradients.parameters[0].values, [3.0, 0.0]);
        gradients.clip_norm(norm, 1.0);
        assert_eq!(gradients.parameters[0].values, [0.6, 0.0]);
        assert_eq!(gradients.parameters[1].values, [0.0, -0.8]);
    }

    #[test]
    fn clipping_by_value_bounds_each_element_and_keeps_not_a_number() {
        let mut gradients = set(&[&[3.0, -0.5, f32::NAN, -9.0]]);
        gradients.clip_value(1.0);
        let values = &gradients.parameters[0].values;
        assert_eq!((values[0], values[1], values[3]), (1.0, -0.5, -1.0));
        assert!(values[2].is_nan());
    }

    #[test]
    fn noise_differs_by_parameter_and_step_and_by_nothing_else() {
        let noisy = |step| {
            let mut gradients = set(&[&[1.0; 1000], &[1.0; 1000]]);
            gradients.add_noise(0.1, 3, step);
            gradients.parameters.into_iter().map(|parameter| parameter.values).collect::<Vec<_>>()
        };
        let first = noisy(0);
        assert_eq!(first, noisy(0));
        assert_ne!(first[0], first[1]);
        assert_ne!(first, noisy(1));
        let variance = first[0].iter().map(|value| (value - 1.0).powi(2)).sum::<f32>() / 1000.0;
        assert!((variance - 0.01).abs() < 0.002, "{variance}");
    }

    #[test]
    fn the_first_broken_parameter_is_named() {
        assert_eq!(set(&[&[1.0], &[f32::INFINITY], &[f32::NAN]]).first_not_finite(), Some("p1"));
        assert_eq!(set(&[&[1.0]]).first_not_finite(), None);
    }

    #[test]
    fn accumulated_gradients_add_up() {
        let mut sum = set(&[&[1.0, 2.0]]);
        sum.add(&set(&[&[0.5, -2.0]]));
        sum.scale(2.0);
        assert_eq!(sum.parameters[0].values, [3.0, 0.0]);
    }
}
