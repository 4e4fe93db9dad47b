//! From gradients to new weights: clipping, the learning rate, the optimisers.

pub(crate) mod config;
mod gradients;
mod optimizer;
mod schedule;

pub use config::{OptimizerConfig, OptimizerKind, ScheduleConfig, ScheduleKind, StepUnit};
pub use gradients::{GradientSet, ParameterGradient, joint_norm};
pub use optimizer::Optimizer;
pub use schedule::{Schedule, ScheduleState};
