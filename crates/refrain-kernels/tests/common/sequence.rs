//! Layers run into fresh buffers.

use super::sequence_reference::{Kept, Options, Problem};
use super::{PRECISIONS, bits, engines};
use refrain_kernels::{
    Cell, Engine, Memory, OutputGradients, Precision, Rows, SequenceGradients, SequenceOutputs, SequenceTrace,
    sequence_backward, sequence_forward, sequence_forward_traced, sequence_gates,
};

/// What a layer reads, in the order of [`SequenceGradients`].
pub const NAMES: [&str; 7] = ["input", "weight_ih", "weight_hh", "bias", "hidden", "cell_state", "peepholes"];

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

/// The problem with each option that its cell has, and with all of them.
pub fn with_options(problem: &Problem) -> Vec<Problem> {
    let shape = problem.shape;
    let rows = shape.seq_len * shape.batch_size;
    let all = Options {
        candidate_dropout: shape.cell.has_candidate().then(|| problem.events(1, rows)),
        hidden_dropout: Some(problem.events(2, shape.batch_size)),
        zoneout_hidden: Some(Kept::Sampled(problem.events(3, rows))),
        zoneout_cell: shape.cell.has_cell_state().then(|| Kept::Sampled(problem.events(4, rows))),
        peepholes: shape.cell.has_cell_state().then(|| problem.bias[..3 * shape.hidden_size].to_vec()),
    };
    let none = Options::default;
    let expected = |part: Option<&Kept>| part.map(|_| Kept::Expected(0.25));
    let options = [
        Options { candidate_dropout: all.candidate_dropout.clone(), ..none() },
        Options { hidden_dropout: all.hidden_dropout.clone(), ..none() },
        Options { zoneout_hidden: all.zoneout_hidden.clone(), ..none() },
        Options { zoneout_cell: all.zoneout_cell.clone(), ..none() },
        Options { peepholes: all.peepholes.clone(), ..none() },
        // Without zoneout of the hidden state, which would load what these leave alone.
        Options { hidden_dropout: all.hidden_dropout.clone(), peepholes: all.peepholes.clone(), ..none() },
        Options {
            zoneout_hidden: expected(all.zoneout_hidden.as_ref()),
            zoneout_cell: expected(all.zoneout_cell.as_ref()),
            ..none()
        },
        all,
    ];
    options.into_iter().map(|options| Problem { options, ..problem.clone() }).collect()
}

/// What a layer wrote.
#[derive(PartialEq)]
pub struct Written {
    pub output: Vec<f32>,
    pub last_hidden: Vec<f32>,
    pub last_cell_state: Vec<f32>,
}

impl Written {
    /// Buffers in which a forgotten element shows.
    fn new(problem: &Problem) -> Self {
        Self {
            output: vec![f32::NAN; problem.grad_output.len()],
            last_hidden: vec![f32::NAN; problem.hidden.len()],
            last_cell_state: vec![f32::NAN; problem.grad_cell.len()],
        }
    }

    pub fn bits(&self) -> [Vec<u32>; 3] {
        [&self.output, &self.last_hidden, &self.last_cell_state].map(|values| bits(values))
    }

    fn outputs(&mut self) -> SequenceOutputs<'_> {
        SequenceOutputs {
            output: &mut self.output,
            last_hidden: &mut self.last_hidden,
            last_cell_state: &mut self.last_cell_state,
        }
    }
}

pub fn forward(engine: &Engine, precision: Precision, problem: &Problem) -> Written {
    let mut written = Written::new(problem);
    sequence_forward(engine, precision, problem.shape, problem.inputs(), written.outputs());
    written
}

pub fn forward_traced(engine: &Engine, precision: Precision, problem: &Problem) -> (Written, SequenceTrace) {
    forward_keeping(engine, precision, problem, Memory::All)
}

pub fn forward_keeping(
    engine: &Engine,
    precision: Precision,
    problem: &Problem,
    memory: Memory,
) -> (Written, SequenceTrace) {
    let mut written = Written::new(problem);
    let (inputs, outputs) = (problem.inputs(), written.outputs());
    let trace = sequence_forward_traced(engine, precision, problem.shape, memory, inputs, outputs);
    (written, trace)
}

/// The hidden state, the cell state where there is one, and the gates, by name.
pub fn gates(engine: &Engine, precision: Precision, problem: &Problem) -> Vec<(&'static str, Vec<f32>)> {
    let found = sequence_gates(engine, precision, problem.shape, problem.inputs());
    let cell_state = found.cell_state.map(|cell_state| ("cell_state", cell_state));
    [("hidden", found.hidden)].into_iter().chain(cell_state).chain(found.gates).collect()
}

/// All gradients that the cell has, after a forward pass of their own.
pub fn backward(engine: &Engine, precision: Precision, problem: &Problem, grad: OutputGradients) -> [Vec<f32>; 7] {
    let (written, trace) = forward_traced(engine, precision, problem);
    backward_after(engine, precision, problem, (&written, &trace), grad)
}

pub fn backward_after(
    engine: &Engine,
    precision: Precision,
    problem: &Problem,
    (written, trace): (&Written, &SequenceTrace),
    grad: OutputGradients,
) -> [Vec<f32>; 7] {
    let mut out = problem.wide().map(|values| vec![f32::NAN; values.len()]);
    let [input, weight_ih, weight_hh, bias, hidden, cell_state, peepholes] = out.each_mut();
    let gradients = SequenceGradients {
        input: Some(input),
        weight_ih: Some(weight_ih),
        weight_hh: Some(weight_hh),
        bias: Some(bias),
        hidden: Some(hidden),
        cell_state: problem.shape.cell.has_cell_state().then_some(cell_state),
        peepholes: problem.options.peepholes.is_some().then_some(peepholes),
        ..SequenceGradients::default()
    };
    sequence_backward(engine, precision, problem.shape, problem.inputs(), &written.output, trace, grad, gradients);
    out
}

/// Every gradient that can come in.
pub fn full_gradient(problem: &Problem) -> OutputGradients<'_> {
    OutputGradients {
        output: Some(Rows::dense(&problem.grad_output, problem.shape.hidden_size)),
        last_hidden: Some(&problem.grad_hidden),
        last_cell_state: problem.shape.cell.has_cell_state().then_some(&problem.grad_cell),
    }
}
