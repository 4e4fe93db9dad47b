//! Whole sequences of recurrent layers, forward and backward, with the gates fused into the product.

pub mod lstm;
