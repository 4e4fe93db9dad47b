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
}

impl Optimizer {
    /// An optimiser that has taken no step.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, steps: 0, slots: BTreeMap::new() }
    }

    /// An optimiser that goes on from `steps` steps, its memory as [`Optimizer::slots`] gave it.
    pub fn resume(config: OptimizerConfig, steps: u64, slots: BTreeMap<String, Slots>) -> Self {
        Self { config, steps, slots }
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
            };
            vec![vec![0.0; value.len()]; count]
        });
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
