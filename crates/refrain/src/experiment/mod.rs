//! Several runs, side by side.

mod comparison;
mod contender;
mod table;

pub use comparison::{Comparison, ComparisonError, Plan, Run, Trained};
pub use contender::{CONTENDERS, Contender};
pub use table::{Figures, Row, Spread};
