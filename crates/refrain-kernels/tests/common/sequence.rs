//! Layers run into fresh buffers.

use super::sequence_reference::Problem;
use super::{PRECISIONS, engines};
use refrain_kernels::{
    Cell, Engine, OutputGradients, Precision, SequenceGradients, SequenceOutputs, SequenceTrace, sequence_backward,
    sequence_forward, sequence_forward_traced,
};

/// What a layer reads, in the order of [`SequenceGradients`].
pub const NAMES: [&str; 6] = ["input", "weight_ih", "weight_hh", "bias", "hidden", "cell_state"];

/// Every cell in both precisions on every instruction set.
pub fn everywhere(num_threads: usize, check: impl Fn(&Engine, Precision, Cell)) {
    for engine in engines(num_threads) {
        for precision in PRECISIONS {
            for cell in Cell::ALL {
                check(&engine, precision, cell);
            }
        }
    }
}

/// What a layer wrote.
#[derive(PartialEq)]
pub struct Written {
    pub output: Vec<f32>,
    pub last_cell_state: Vec<f32>,
}

impl Written {
    /// Buffers in which a forgotten element shows.
    fn new(problem: &Problem) -> Self {
        Self {
            output: vec![f32::NAN; problem.grad_output.len()],
            last_cell_state: vec![f32::NAN; problem.grad_cell.len()],
        }
    }

    fn outputs(&mut self) -> SequenceOutputs<'_> {
        SequenceOutputs { output: &mut self.output, last_cell_state: &mut self.last_cell_state }
    }
}

pub fn forward(engine: &Engine, precision: Precision, problem: &Problem) -> Written {
    let mut written = Written::new(problem);
    sequence_forward(engine, precision, problem.shape, problem.inputs(), written.outputs());
    written
}

pub fn forward_traced(engine: &Engine, precision: Precision, problem: &Problem) -> (Written, SequenceTrace) {
    let mut written = Written::new(problem);
    let trace = sequence_forward_traced(engine, precision, problem.shape, problem.inputs(), written.outputs());
    (written, trace)
}

/// All gradients that the cell has, after a forward pass of their own.
pub fn backward(engine: &Engine, precision: Precision, problem: &Problem, grad: OutputGradients) -> [Vec<f32>; 6] {
    let (written, trace) = forward_traced(engine, precision, problem);
    backward_after(engine, precision, problem, (&written, &trace), grad)
}

pub fn backward_after(
    engine: &Engine,
    precision: Precision,
    problem: &Problem,
    (written, trace): (&Written, &SequenceTrace),
    grad: OutputGradients,
) -> [Vec<f32>; 6] {
    let mut out = problem.wide().map(|values| vec![f32::NAN; values.len()]);
    let [input, weight_ih, weight_hh, bias, hidden, cell_state] = out.each_mut();
    let gradients = SequenceGradients {
        input: Some(input),
        weight_ih: Some(weight_ih),
        weight_hh: Some(weight_hh),
        bias: Some(bias),
        hidden: Some(hidden),
        cell_state: problem.shape.cell.has_cell_state().then_some(cell_state),
    };
    sequence_backward(engine, precision, problem.shape, problem.inputs(), &written.output, trace, grad, gradients);
    out
}

/// Every gradient that can come in.
pub fn full_gradient(problem: &Problem) -> OutputGradients<'_> {
    OutputGradients {
        output: Some(&problem.grad_output),
        last_cell_state: problem.shape.cell.has_cell_state().then_some(&problem.grad_cell),
    }
}
