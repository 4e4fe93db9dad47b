//! The optimisers against PyTorch's, step by step.

mod support;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use refrain::optim::{GradientSet, Optimizer, OptimizerConfig, OptimizerKind, ParameterGradient};
use support::{Golden, assert_close, values};

#[derive(Module, Debug)]
struct OneParameter {
    weight: Param<Tensor<1>>,
}

fn follow(name: &str, config: &OptimizerConfig) {
    let golden = Golden::read("optim");
    let mut model = OneParameter { weight: Param::from_tensor(golden.tensor("parameter", &Device::flex().autodiff())) };
    let mut optimizer = Optimizer::new(config.clone());
    let gradients = golden.values("gradients").chunks(7);
    let expected = golden.values(&format!("{name}.parameters")).chunks(7);
    for (step, (gradient, expected)) in gradients.zip(expected).enumerate() {
        if step == 2 {
            // What an optimiser remembers is all it needs to go on.
            optimizer = Optimizer::resume(config.clone(), 2, optimizer.slots().clone());
        }
        let gradient = ParameterGradient { name: "weight".to_owned(), values: gradient.to_vec() };
        model = optimizer.step(model, &GradientSet { parameters: vec![gradient] }, config.learning_rate);
        assert!(model.weight.val().is_require_grad(), "the parameter still learns");
        assert_close(&format!("{name} step {step}"), &values(model.weight.val().inner()), expected, 1e-6);
    }
}

#[test]
fn adam_is_pytorchs() {
    let config = OptimizerConfig { betas: [0.9, 0.99], weight_decay: 0.01, ..OptimizerConfig::of(OptimizerKind::Adam) };
    follow("adam", &OptimizerConfig { learning_rate: 0.002, ..config });
}

#[test]
fn adamw_is_pytorchs() {
    let config =
        OptimizerConfig { betas: [0.9, 0.99], weight_decay: 0.01, ..OptimizerConfig::of(OptimizerKind::Adamw) };
    follow("adamw", &OptimizerConfig { learning_rate: 0.002, ..config });
}

#[test]
fn rmsprop_is_pytorchs() {
    let config = OptimizerConfig { alpha: 0.95, ..OptimizerConfig::of(OptimizerKind::Rmsprop) };
    follow("rmsprop", &OptimizerConfig { learning_rate: 0.002, ..config });
}

#[test]
fn sgd_with_momentum_is_pytorchs() {
    let config = OptimizerConfig { momentum: 0.9, learning_rate: 0.1, ..OptimizerConfig::of(OptimizerKind::Sgd) };
    follow("sgd_momentum", &config);
    follow("sgd_nesterov", &OptimizerConfig { nesterov: true, ..config });
}
