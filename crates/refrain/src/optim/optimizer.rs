//! The optimisers: each parameter updated in place by one fused pass.
//!
//! Parameters leave the model as host memory, are updated and go back; on a CPU backend no byte is copied. The formulas
//! are PyTorch's, so that published settings mean here what they mean there.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use refrain_kernels::{AdamStep, Engine, Nesterov, RmsPropStep, SgdStep, adam, rmsprop, sgd};

use super::config::{OptimizerConfig, OptimizerKind};
use super::gradients::GradientSet;
use crate::parameter_path::ParameterPath;

/// What an optimiser remembers of one parameter: no, one or two vectors of the parameter's length.
type Slots = Vec<Vec<f32>>;

/// An optimiser with its memory.
#[derive(Clone, Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    steps: u64,
    slots: BTreeMap<String, Slots>,
    /// The steps before the first whose weights count for the average.
    averaging_since: Option<u64>,
}

impl Optimizer {
    /// An optimiser that has taken no step.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, steps: 0, slots: BTreeMap::new(), averaging_since: None }
    }

    /// An optimiser that goes on from `steps` steps, its memory as [`Optimizer::slots`] gave it.
    pub fn resume(config: OptimizerConfig, steps: u64, slots: BTreeMap<String, Slots>) -> Self {
        Self { config, steps, slots, averaging_since: None }
    }

    /// The same, its weights averaged over the steps from this on; before any step after it, they are as they are.
    #[must_use]
    pub fn averaging_since(self, steps: Option<u64>) -> Self {
        Self { averaging_since: steps, ..self }
    }

    /// Averages the weights over the steps from here on.
    pub fn begin_averaging(&mut self) {
        self.averaging_since = Some(self.steps);
    }

    /// The model with its average weights, if there are any.
    ///
    /// # Panics
    /// If the averages are of another model.
    pub fn averaged<M: Module>(&self, model: M) -> Option<M> {
        let since = self.averaging_since.filter(|since| self.steps > *since);
        since.map(|_| model.map(&mut Averages { slots: &self.slots, path: ParameterPath::default() }))
    }

    /// What it remembers, by parameter.
    pub fn slots(&self) -> &BTreeMap<String, Slots> {
        &self.slots
    }

    /// One step: the model with its parameters moved against `gradients`.
    ///
    /// # Panics
    /// If the gradients are not of this model.
    pub fn step<M: Module>(&mut self, model: M, gradients: &GradientSet, learning_rate: f64) -> M {
        self.steps += 1;
        let mut update = Update {
            engine: Engine::current(),
            optimizer: self,
            gradients: gradients.parameters.iter(),
            learning_rate,
            path: ParameterPath::default(),
        };
        model.map(&mut update)
    }

    fn update(&mut self, engine: &Engine, name: &str, value: &mut [f32], gradient: &[f32], learning_rate: f64) {
        let config = &self.config;
        let slots = self.slots.entry(name.to_owned()).or_insert_with(|| {
            let count = match config.name {
                OptimizerKind::Adam | OptimizerKind::Adamw => 2,
                OptimizerKind::Rmsprop => 1,
                OptimizerKind::Sgd => usize::from(config.momentum > 0.0),
                OptimizerKind::Asgd => 0,
            };
            vec![vec![0.0; value.len()]; count]
        });
        let averaged = self.averaging_since.map(|since| self.steps - since);
        if averaged == Some(1) {
            *slots = vec![vec![0.0; value.len()]];
        }
        match (config.name, slots.as_mut_slice()) {
            (kind @ (OptimizerKind::Adam | OptimizerKind::Adamw), [first, second]) => {
                let decoupled = kind == OptimizerKind::Adamw;
                let [beta1, beta2] = config.betas;
                let step = AdamStep {
                    learning_rate,
                    beta1,
                    beta2,
                    epsilon: config.epsilon,
                    weight_decay: if decoupled { 0.0 } else { config.weight_decay },
                    decoupled_weight_decay: if decoupled { config.weight_decay } else { 0.0 },
                    step: self.steps,
                };
                adam(engine, &step, value, gradient, first, second);
            }
            (OptimizerKind::Rmsprop, [square_average]) => {
                let step = RmsPropStep {
                    learning_rate,
                    alpha: config.alpha,
                    epsilon: config.epsilon,
                    weight_decay: config.weight_decay,
                };
                rmsprop(engine, &step, value, gradient, square_average);
            }
            (OptimizerKind::Asgd, average) => {
                let step = SgdStep {
                    learning_rate,
                    momentum: 0.0,
                    dampening: 0.0,
                    nesterov: Nesterov::Off,
                    weight_decay: config.weight_decay,
                    first: self.steps == 1,
                };
                sgd(engine, &step, value, gradient, None);
                if let (Some(count), [average]) = (averaged, average) {
                    let share = 1.0 / count as f32;
                    for (mean, value) in average.iter_mut().zip(value.iter()) {
                        *mean += (*value - *mean) * share;
                    }
                }
            }
            (OptimizerKind::Sgd, velocity) => {
                let step = SgdStep {
                    learning_rate,
                    momentum: config.momentum,
                    dampening: 0.0,
                    nesterov: if config.nesterov { Nesterov::On } else { Nesterov::Off },
                    weight_decay: config.weight_decay,
                    first: self.steps == 1,
                };
                sgd(engine, &step, value, gradient, velocity.first_mut().map(Vec::as_mut_slice));
            }
            (kind, slots) => panic!("{kind:?} does not remember {} vectors", slots.len()),
        }
    }
}

struct Update<'a> {
    engine: std::sync::Arc<Engine>,
    optimizer: &'a mut Optimizer,
    gradients: std::slice::Iter<'a, super::gradients::ParameterGradient>,
    learning_rate: f64,
    path: ParameterPath,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.to_string();
        let gradient = self.gradients.next().expect("one gradient a parameter");
        assert!(gradient.name == name, "the gradient of `{}` for the parameter `{name}`", gradient.name);
        param.map(|tensor| {
            let (shape, device, tracked) = (tensor.dims(), tensor.device(), tensor.is_require_grad());
            let data = tensor.inner().into_data();
            let mut values = data.try_into_vec::<f32>().expect("parameters are f32");
            self.optimizer.update(&self.engine, &name, &mut values, &gradient.values, self.learning_rate);
            Tensor::from_data(TensorData::new(values, shape), &device).set_require_grad(tracked)
        })
    }
}

/// Puts averages in the place of the weights.
struct Averages<'a> {
    slots: &'a BTreeMap<String, Slots>,
    path: ParameterPath,
}

impl ModuleMapper for Averages<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.to_string();
        let average = self.slots.get(&name).and_then(|slots| slots.first());
        let average = average.unwrap_or_else(|| panic!("no average of `{name}`")).clone();
        param.map(|tensor| {
            let (shape, device, tracked) = (tensor.dims(), tensor.device(), tensor.is_require_grad());
            Tensor::from_data(TensorData::new(average, shape), &device).set_require_grad(tracked)
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::gradients::ParameterGradient;
    use super::*;

    #[derive(Module, Debug)]
    struct One {
        weight: Param<Tensor<1>>,
    }

    fn weight(model: &One) -> Vec<f32> {
        model.weight.val().into_data().try_into_vec().expect("f32")
    }

    #[test]
    fn averages_are_of_the_weights_after_each_step_from_where_they_begin() {
        let device = Device::flex();
        let start = Param::from_tensor(Tensor::<1>::from_floats([8.0], &device));
        let mut model = One { weight: start };
        let gradient = ParameterGradient { name: "weight".to_owned(), values: vec![1.0] };
        let gradients = GradientSet { parameters: vec![gradient] };
        let mut optimizer = Optimizer::new(OptimizerConfig::of(OptimizerKind::Asgd));
        model = optimizer.step(model, &gradients, 1.0);
        assert!(optimizer.averaged(model.clone()).is_none());
        optimizer.begin_averaging();
        assert!(optimizer.averaged(model.clone()).is_none(), "of no weights there is no average");
        for (step, expected) in [(0, 6.0), (1, 5.5), (2, 5.0)] {
            model = optimizer.step(model, &gradients, 1.0);
            let slots = optimizer.slots().clone();
            optimizer =
                Optimizer::resume(OptimizerConfig::of(OptimizerKind::Asgd), step + 2, slots).averaging_since(Some(1));
            assert_eq!(weight(&optimizer.averaged(model.clone()).expect("an average")), [expected]);
        }
        assert_eq!(weight(&model), [4.0], "the weights themselves go on as they were");
    }
}
